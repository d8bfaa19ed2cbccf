"""Temporary files of programs that were killed, and how the next one tells them from those in use.

A lock on a file ends with the process that holds it, however that ends; on a network file system other machines see it.
Where a file system knows no locks nothing counts as left over.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def held(new: Callable[[], Path]) -> Iterator[Path]:
    """Give a file or folder that `new` makes, under another name each time; it is in use until the block ends."""
    path, descriptor = _made_and_locked(new)
    try:
        yield path
    finally:
        os.close(descriptor)


def _made_and_locked(new: Callable[[], Path]) -> tuple[Path, int]:
    while True:
        path = new()
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Between its making and the lock it may have been taken for left over.
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def remove_if_left_over(path: Path) -> bool:
    """Remove a file or folder that was made with `held` by a process that is gone; return whether it was."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
