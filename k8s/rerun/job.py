"""What a rerun is called, and what memory it may need."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k8s.derived_job import taken_numbers

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from k8s.api.cluster import Object


def next_name(prefix: str, names: Collection[str]) -> str:
    """Return `<prefix>-rerun-<n>`, where n is one more than the highest number among the names."""
    return f"{prefix}-rerun-{max(taken_numbers(prefix, 'rerun', names), default=0) + 1}"


def doubled(quantity: str) -> str:
    """Return twice a quantity of memory, as in 16Gi for 8Gi. Empty where the quantity is not a whole number."""
    match = re.fullmatch(r"([0-9]+)(\D*)", quantity)
    return f"{2 * int(match[1])}{match[2]}" if match else ""


def memory_of(worker: Object) -> str:
    """Return the memory limit of the worker's container. Empty where it has none."""
    containers: Sequence[Object] = worker["spec"]["template"]["spec"]["containers"]
    resources = containers[0].get("resources") or {}
    return str((resources.get("limits") or {}).get("memory") or "")
