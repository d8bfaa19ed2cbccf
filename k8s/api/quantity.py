"""Amounts of resources as the API writes them: `6`, `100m`, `6Gi`."""

from __future__ import annotations

from kubernetes.utils import parse_quantity


def amount_of(text: object) -> float:
    """Return the amount that a text such as `100m` or `6Gi` means. Raises ValueError for any other text."""
    return float(parse_quantity(str(text)))
