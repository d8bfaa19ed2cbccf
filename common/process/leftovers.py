"""Temporary files that killed programs left, and how another program tells them from files in use.

The program that uses a file holds a lock on it. The system frees the lock when the process ends, also when it is
killed. On a network file system other machines see the lock. On a file system without locks no file counts as left
over.
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
    """Give a file or folder that `new` makes, each time with another name. It is in use until the block ends."""
    path, descriptor = _make_and_lock(new)
    try:
        yield path
    finally:
        os.close(descriptor)


def _make_and_lock(new: Callable[[], Path]) -> tuple[Path, int]:
    while True:
        path = new()
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Between `new` and the lock, another program may have removed the file as left over.
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def remove_if_left_over(path: Path) -> bool:
    """Remove a file or folder that a process made with `held` and no longer uses. Return whether it was removed."""
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
