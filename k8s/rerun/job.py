"""The Job of a rerun. It is made from the worker Job in the cluster: the same pods, for some of its chunks only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k8s.derived_job import derive_worker_job, taken_numbers
from k8s.release.labels import Component

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from k8s.api.cluster import Object


def make_rerun(
    worker: Object,
    *,
    name: str,
    chunks: Collection[int],
    owners: Iterable[Object],
    environment: Mapping[str, str],
    memory: str = "",
    cpu: str = "",
    parallelism: int | None = None,
) -> Object:
    """Return the Job `name` that computes the chunks as the Job `worker` does, with the given changes."""
    return derive_worker_job(
        worker,
        name=name,
        component=Component.RERUN,
        chunks=chunks,
        owners=owners,
        environment=environment,
        memory=memory,
        cpu=cpu,
        parallelism=parallelism,
    )


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
