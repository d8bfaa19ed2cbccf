"""The processes of a worker, as /proc shows them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def descendants(process: int) -> list[int]:
    """Return the descendants of `process`, parents before their children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # the process has just ended
            continue
        if parent == process:
            found.append(int(stat.parent.name))
    return [*found, *(each for child in found for each in descendants(child))]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until the condition holds. Fails when it does not hold in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
