"""A disk of a few kilobytes that programs may fill.

It is a tmpfs in a mount namespace of its own, so only processes that are started with `prefix` see it.
"""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES = 4096
"""Size of a page in bytes. A tmpfs allocates whole pages."""

ROOMY = "size=2m"


class SmallDisk:
    def __init__(self, path: Path, holder: subprocess.Popen[str]) -> None:
        self.path = path
        """Path of the disk for a process that is started with `prefix`."""
        self.prefix = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt"]
        self.outside = Path(f"/proc/{holder.pid}/root{path}")
        """Path of the disk for all other processes."""

    def remount(self, options: str) -> None:
        """Change the disk as `mount -o remount` does: `ro`, `rw`, `size=400k`."""
        subprocess.run([*self.prefix, "mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def fill(self, *, leaving_pages: int) -> None:
        """Fill the disk until this number of pages is free."""
        ballast = self.outside / "ballast"
        ballast.unlink(missing_ok=True)
        found = subprocess.run(
            ["stat", "--file-system", "--format=%a", str(self.outside)], check=True, capture_output=True, text=True
        )
        ballast.write_bytes(bytes(max(0, int(found.stdout) - leaving_pages) * PAGE_BYTES))

    def make_room(self) -> None:
        (self.outside / "ballast").unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, options: str = ROOMY) -> Iterator[SmallDisk]:
    """Yield a disk at `path`. Skips the test where no disk can be mounted."""
    path.mkdir()
    mount = f"mount -t tmpfs -o {options} tmpfs '{path}' && echo mounted && exec cat"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mount],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != "mounted\n":
            _, said = holder.communicate()
            pytest.skip(f"no disk can be mounted here; it takes root, and a container that allows it: {said.strip()}")
        try:
            yield SmallDisk(path, holder)
        finally:
            holder.communicate()
