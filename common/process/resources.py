"""What this machine gives a program: disk, descriptors, memory. Which errors mean that it ran out, and what helps."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from common.errors import ResourceExhausted, SettingsError
from common.process.leftovers import held, remove_if_left_over

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN_FILES = (
    "raise the limit of open files (ulimit -n), or lower EMBEDDER_FETCH_CONCURRENCY of a worker, "
    "EMBEDDER_MERGE_CONCURRENCY of a merge"
)
_MEMORY = (
    "raise the memory limit, or lower EMBEDDER_BATCH_SIZE, EMBEDDER_DECODE_THREADS or EMBEDDER_MAX_INFLIGHT_BYTES of a "
    "worker"
)

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or raise this user's quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose another file system",
    errno.EROFS: "mount it so that it can be written",
    errno.EIO: "the disk is not sound",
    errno.ESTALE: "mount it again",
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: "this machine has no more open files to give; close other programs",
    errno.ENOMEM: _MEMORY,
}
"""What ends a program with 75, and what helps."""

_SAID = {
    errno.ENOSPC: ("no space left on device",),
    errno.EMFILE: ("too many open files",),
    errno.ENOMEM: (
        "cannot allocate memory",
        "out of memory",
        "start new thread",
        "failed to map segment",
        "bad_alloc",
        "without exception set",
        "without setting an exception",
    ),
}
"""Libraries, the dynamic loader and the interpreter itself leave the reason in a text alone, or (the last two) in
none."""


def sentence(error: OSError, path: Path | str) -> str:
    """Return which file it was, what the system says, and what helps; `path` where the error names none."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.filename or path}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")


def exhausted(error: BaseException) -> ResourceExhausted | None:
    """Return what to end with where an error of any library means that this machine ran out of something, else None."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return ResourceExhausted(sentence(error, "a file of this program"))
    if isinstance(error, MemoryError):
        return ResourceExhausted(f"out of memory; {_MEMORY}")
    if isinstance(error, RuntimeError | ImportError | OSError | SystemError):
        text = str(error).lower()
        for number, words in _SAID.items():
            if any(word in text for word in words):
                said = str(error).strip().splitlines()[-1][:300]
                return ResourceExhausted(f"{os.strerror(number)} ({said}); {_REMEDIES[number]}")
    return None


def exhausted_beneath(error: BaseException) -> ResourceExhausted | None:
    """Return the same where not the error itself but what it was raised for says so, as in clients of the network."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            return ResourceExhausted(sentence(cause, "no connection could be opened"))
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def written_file(path: Path) -> Iterator[None]:
    """Raise ResourceExhausted that names `path` where writing it fails for want of something.

    The system names a file only when it is opened.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise ResourceExhausted(sentence(error, path)) from error


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Give a new folder in TMPDIR, by default /tmp, that is gone with the block, and so are those that killed programs
    have left for the same purpose.

    Raises ResourceExhausted where there is no room or nothing can be written, and SettingsError where TMPDIR is no
    folder, or none that this user may write to.
    """
    place, prefix = _temporary_place(), f"embedder-{purpose}-"
    for other in place.glob(f"{prefix}*"):
        remove_if_left_over(other)
    with held(lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=place))) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def temporary_file() -> tuple[BinaryIO, Path]:
    """Return a new file in TMPDIR without a name, which is gone with this program however that ends, and its folder.

    Raises what `temporary_folder` does.
    """
    place = _temporary_place()
    with written_file(place):
        return tempfile.TemporaryFile(dir=place, buffering=0), place


def new_temporary_folder(prefix: str) -> Path:
    """Make such a folder that stays."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_temporary_place()))


def _temporary_place() -> Path:
    # Python's own choice goes on to other folders, the working folder at last, where the first is full.
    place = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    try:
        with written_file(place), tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"x")
    except OSError as error:
        raise SettingsError(f"TMPDIR is {place}: {error.strerror}; choose a folder to be written to") from error
    return place
