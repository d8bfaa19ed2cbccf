"""The memory that this process may still take."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_FILES = ("memory.max", "memory.current", "inactive_file")
_FILES_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""The limit, what is used, and the field of memory.stat that counts the files which the kernel may drop."""


def available_bytes() -> int | None:
    """Return the memory in bytes that is free on this machine and within its cgroup's limit, None where unknown."""
    known = [each for each in (_free_on_machine(), *_free_in_groups()) if each is not None]
    return max(0, min(known)) if known else None


def _free_on_machine() -> int | None:
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        return int(found[1]) << 10 if found else None
    return None


def _free_in_groups() -> list[int]:
    """Return what is free within the limits of this process's cgroup and of the groups above it."""
    free = []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, own = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            base, files = (_GROUPS / "memory", _FILES_V1) if controllers else (_GROUPS, _FILES)
            group = Path(own.strip("/"))
            # In a container the path may be that of the host, and the container's own group lies at the root.
            for each in (group, *group.parents):
                found = _free_in(base / each, *files)
                free += [] if found is None else [found]
    return free


def _free_in(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    with suppress(OSError, ValueError):
        # A group without a limit has the text "max", which is no number.
        free = int((folder / limit).read_text()) - int((folder / usage).read_text())
        cached = re.search(rf"^{reclaimable} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
        return free + (int(cached[1]) if cached else 0)
    return None
