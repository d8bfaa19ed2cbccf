"""The processes of a worker, as /proc shows them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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


def stop(process: int) -> None:
    """Stop a process, and return once all its threads stand still, which the kernel does one after the other."""
    os.kill(process, signal.SIGSTOP)
    threads = Path(f"/proc/{process}/task")
    wait_until(lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads.glob("*/stat")))


def command_line(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def environment_of(process: int) -> bytes:
    return Path(f"/proc/{process}/environ").read_bytes()


def memory(process: int) -> bytes:
    """Return the content of all private memory of a process. Skips the test if it may not be read."""
    found = []
    try:
        with Path(f"/proc/{process}/mem").open("rb", buffering=0) as content:
            for line in Path(f"/proc/{process}/maps").read_text().splitlines():
                place, access, *_ = line.split()
                if not access.startswith("rw-p"):
                    continue
                start, end = (int(each, 16) for each in place.split("-"))
                content.seek(start)
                with suppress(OSError):  # the kernel's own pages
                    found.append(content.read(end - start))
    except PermissionError:
        pytest.skip("this user may not read the memory of its processes")
    return b"\0".join(found)
