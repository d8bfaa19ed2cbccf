"""A cgroup with a limit of memory, of either version, as a pod's container has one."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.prefix = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(folder / "cgroup.procs")]
        """What a process is started with to be in the group, with all its children."""

    @property
    def peak_bytes(self) -> int | None:
        """The most that the group has held, page cache too; None where the kernel does not say."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with suppress(FileNotFoundError):
                return int((self._folder / name).read_text())
        return None


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Give a new group; skips the test where none can be made."""
    folder = _make_group()
    try:
        _limit(folder, limit_bytes)
        yield MemoryGroup(folder)
    finally:
        while True:
            try:
                folder.rmdir()
            except OSError:  # those that were killed are on their way out
                time.sleep(0.1)
                continue
            break


def _make_group() -> Path:
    tried = ["no hierarchy of /proc/self/cgroup counts memory"]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        bases = [ROOT / controllers] if controllers else [ROOT, ROOT / "unified"]
        # In version 2 a group that has processes of its own cannot have groups with limits; one above it may.
        groups = [Path(own.strip("/")), *Path(own.strip("/")).parents]
        parents = [base / group for base in bases for group in groups]
        for parent in parents:
            folder = parent / f"embedder-test-{time.monotonic_ns()}"
            try:
                folder.mkdir()
            except OSError as error:
                tried.append(str(error))
                continue
            if any((folder / name).exists() for name in ("memory.limit_in_bytes", "memory.max")):
                return folder
            folder.rmdir()
            tried.append(f"{parent} has no memory controller for its groups")
    pytest.skip(f"no cgroup with a limit of memory can be made here: {tried[-1]}")


def _limit(folder: Path, limit_bytes: int) -> None:
    # Without swap, as Kubernetes has it.
    limits = {
        "memory.limit_in_bytes": limit_bytes,
        "memory.memsw.limit_in_bytes": limit_bytes,
        "memory.max": limit_bytes,
        "memory.swap.max": 0,
    }
    for name, value in limits.items():
        if (folder / name).exists():
            (folder / name).write_text(str(value))
