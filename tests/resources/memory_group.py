"""A cgroup (version 1 or 2) with a memory limit, as a pod's container has."""

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
        """Command that starts another command in the group, with all its children."""

    @property
    def peak_bytes(self) -> int | None:
        """Largest amount of memory that the group has held, page cache included; None where the kernel does not say."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with suppress(FileNotFoundError):
                return int((self._folder / name).read_text())
        return None


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Yield a new group. Skips the test where no group can be made."""
    folder = _make_group()
    try:
        _limit(folder, limit_bytes)
        yield MemoryGroup(folder)
    finally:
        while True:
            try:
                folder.rmdir()
            except OSError:  # killed processes have not ended yet
                time.sleep(0.1)
                continue
            break


def _make_group() -> Path:
    problems = ["no hierarchy of /proc/self/cgroup counts memory"]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        bases = [ROOT / controllers] if controllers else [ROOT, ROOT / "unified"]
        # In version 2, a group with processes of its own cannot contain groups with limits. A group above it can.
        groups = [Path(own.strip("/")), *Path(own.strip("/")).parents]
        parents = [base / group for base in bases for group in groups]
        for parent in parents:
            folder = parent / f"embedder-test-{time.monotonic_ns()}"
            try:
                folder.mkdir()
            except OSError as error:
                problems.append(str(error))
                continue
            if any((folder / name).exists() for name in ("memory.limit_in_bytes", "memory.max")):
                return folder
            folder.rmdir()
            problems.append(f"{parent} has no memory controller for its groups")
    pytest.skip(f"no cgroup with a memory limit can be made here: {problems[-1]}")


def _limit(folder: Path, limit_bytes: int) -> None:
    # Kubernetes uses no swap.
    limits = {
        "memory.limit_in_bytes": limit_bytes,
        "memory.memsw.limit_in_bytes": limit_bytes,
        "memory.max": limit_bytes,
        "memory.swap.max": 0,
    }
    for name, value in limits.items():
        if (folder / name).exists():
            (folder / name).write_text(str(value))
