"""What the system lets this process have: memory and cores. A container's limits are those of its cgroup."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path("/")
_NO_LIMIT = 1 << 60
"""A limit in bytes from which on version 1 of cgroups means that there is none."""

MEMORY_LEFT_BYTES = 32 << 20
"""Memory in bytes without which memory is short: many times what HDF5 takes for the metadata of a file, or a library
for an ordinary call."""

_MAP_NORESERVE = 0x4000
"""Linux's flag for memory that is not set aside. Python 3.11 has no name for it."""


class Memory(NamedTuple):
    available_bytes: int
    """What this process can still get without swapping. The system gives up cached files for it."""
    limit_bytes: int
    """What the container, or the machine, has in all."""


def find_memory(root: Path = _ROOT) -> Memory | None:
    """Return the memory of this container or machine, None where the system does not say. `root` is for tests."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        fields = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
        available, limit = fields["MemAvailable"], fields["MemTotal"]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    for folder in _groups(root, "memory"):
        is_second = (folder / "memory.max").exists()
        group_limit = _number(folder / ("memory.max" if is_second else "memory.limit_in_bytes"))
        used = _number(folder / ("memory.current" if is_second else "memory.usage_in_bytes"))
        if group_limit is None or group_limit >= _NO_LIMIT or used is None:
            continue
        limit = min(limit, group_limit)
        available = min(available, max(0, group_limit - max(0, used - _cached_bytes(folder / "memory.stat"))))
    return Memory(available, limit)


def require_memory(byte_count: int) -> None:
    """Raise MemoryError when this process cannot have so many more bytes at once.

    For native code that says something else where memory is refused, or crashes. Takes some microseconds.
    """
    keep_memory(byte_count).close()


def keep_memory(byte_count: int) -> mmap.mmap:
    """Take so many bytes out of what this process may have, until they are closed. Raises MemoryError.

    They take no room on the machine: it is not asked whether the machine has them just now.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    try:
        return mmap.mmap(-1, byte_count, flags=flags)
    except OSError as error:
        raise MemoryError from error


def count_cores(root: Path = _ROOT) -> int:
    """Return how many threads of this process can run at the same time. `root` is for tests."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups(root, "cpu"):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            quota, period = str(_number(folder / "cpu.cfs_quota_us")), str(_number(folder / "cpu.cfs_period_us"))
        if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    return cores


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of those above it. Each of them may have a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if number == "0" else controllers)
        # In a container the path may be that of the node, where this process sees no such folder.
        below = PurePosixPath(path.lstrip("/"))
        for each in (below, *below.parents):
            if (top / each).is_dir():
                yield top / each


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cached_bytes(path: Path) -> int:
    """Return how many bytes of files the group holds in memory only because nothing else needs it."""
    try:
        fields = dict(line.split() for line in path.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    prefix = "total_" if "total_inactive_file" in fields else ""
    return sum(int(fields.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
