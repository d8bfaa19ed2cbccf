"""Why an object of the cluster is in its state: the reason and the message that the API gives."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    reason: str
    """One word, as in `Unschedulable`."""
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
