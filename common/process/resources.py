"""The resources of this machine: disk, open files, memory. What to raise and advise when one of them runs out."""

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
from common.process.limits import MEMORY_LEFT_BYTES, require_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN_FILES = (
    "raise the limit of open files (ulimit -n), or lower EMBEDDER_FETCH_CONCURRENCY of a worker or "
    "EMBEDDER_MERGE_CONCURRENCY of a merge"
)
_MEMORY = (
    "raise the memory limit, or lower EMBEDDER_BATCH_SIZE, EMBEDDER_DECODE_THREADS or EMBEDDER_MAX_INFLIGHT_BYTES of a "
    "worker"
)
_NO_THREAD = "start new thread"
"""Words of the interpreter's error where the system refuses a thread. They do not say whether memory is short, or the
number of threads has reached a limit."""

_REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or raise this user's quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose another file system",
    errno.EROFS: "mount it with the permission to write",
    errno.EIO: "the disk is faulty, replace it",
    errno.ESTALE: "mount it again",
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: "this machine has reached its limit of open files, close other programs",
    errno.ENOMEM: _MEMORY,
}
"""The system's errors that end a program with exit code 75, and what helps."""

_TEXTS = {
    errno.ENOSPC: ("no space left on device",),
    errno.EMFILE: ("too many open files",),
    errno.ENOMEM: (
        "cannot allocate memory",
        "out of memory",
        "failed to map segment",
        "bad_alloc",
    ),
}
"""The texts by which libraries, the dynamic loader and the interpreter report such an error without its number."""


def describe_error(error: OSError, path: Path | str) -> str:
    """Return the file, the system's message and what helps. The file is `path` unless the error names one."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error.filename or path}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")


def exhausted(error: BaseException) -> ResourceExhausted | None:
    """Return the error to raise when an error of any library says that a resource ran out, None for other errors.

    While memory is short, any error counts as one of memory, unless the system gave another reason. Many libraries hide
    that an allocation failed: an import ends with a name that is missing, or a file is called damaged.
    """
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return ResourceExhausted(describe_error(error, "a file of this program"))
    if is_lack_of_memory(error):
        return ResourceExhausted(f"out of memory; {_MEMORY}")
    if isinstance(error, RuntimeError | ImportError | OSError):
        text = str(error).lower()
        if _NO_THREAD in text:
            return ResourceExhausted(
                f"{error}: memory is short, or the limit of processes and threads is reached; {_MEMORY}, or raise the "
                "limit of processes (ulimit -u, or the limit of process ids of a pod)"
            )
        for number, words in _TEXTS.items():
            if any(word in text for word in words):
                said = str(error).strip().splitlines()[-1][:300]
                return ResourceExhausted(f"{os.strerror(number)} ({said}); {_REMEDIES[number]}")
    is_explained = isinstance(error, OSError) and error.errno is not None
    return None if is_explained else _shortage_behind(error)


def _shortage_behind(error: BaseException) -> ResourceExhausted | None:
    """Return the error to raise in place of `error` while memory is short, None while memory is left."""
    try:
        require_memory(MEMORY_LEFT_BYTES)
    except MemoryError:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return ResourceExhausted(f"memory is short, which may have caused this error ({said}); {_MEMORY}")
    return None


def is_lack_of_memory(error: BaseException) -> bool:
    """Tell whether the interpreter was refused memory."""
    # CPython 3.11 loses a MemoryError where the memory for it is refused too, for example within an import.
    return isinstance(error, MemoryError) or (
        isinstance(error, SystemError)
        and str(error).endswith(("without exception set", "without setting an exception"))
    )


def exhausted_beneath(error: BaseException) -> ResourceExhausted | None:
    """Return the error to raise when a cause of `error` says that a resource ran out, None for other errors.

    Network clients raise an error of their own, and the system's error is its cause.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            return ResourceExhausted(describe_error(cause, "a new connection"))
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def written_file(path: Path) -> Iterator[None]:
    """Raise ResourceExhausted with `path` when a write in the block fails because a resource ran out.

    The system's own error names the file only if opening it fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise ResourceExhausted(describe_error(error, path)) from error


@contextmanager
def temporary_folder(purpose: str, place: Path | None = None) -> Iterator[Path]:
    """Give a new folder in `place`, by default TMPDIR, which is /tmp by default. It is removed after the block.

    The folders that killed programs left for the same purpose are removed too. Raises ResourceExhausted when the disk
    is full or cannot be written, and SettingsError when TMPDIR is not a folder or this user may not write to it.
    """
    place, prefix = place or _temporary_place(), f"embedder-{purpose}-"
    for other in place.glob(f"{prefix}*"):
        remove_if_left_over(other)
    with held(lambda: Path(tempfile.mkdtemp(prefix=prefix, dir=place))) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def temporary_file() -> tuple[BinaryIO, Path]:
    """Return a new file without a name, and its folder TMPDIR. The system removes the file when this program ends.

    Raises the errors of `temporary_folder`.
    """
    place = _temporary_place()
    with written_file(place):
        return tempfile.TemporaryFile(dir=place, buffering=0), place


def new_temporary_folder(prefix: str) -> Path:
    """Return a new folder in TMPDIR that stays. Raises the errors of `temporary_folder`."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_temporary_place()))


def _temporary_place() -> Path:
    # When this folder is full, tempfile would choose another one, even the working folder.
    place = Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    try:
        with written_file(place), tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"x")
    except OSError as error:
        raise SettingsError(f"TMPDIR is {place}: {error.strerror}; choose a folder that can be written") from error
    return place
