"""HDF5 over files of this program's own, so that an error of the disk or the store stays that error.

HDF5 makes of such an error one of its own, in which the cause is lost; and where it happens while a file is opened or
closed, what is left of the file takes the process down when Python ends. So HDF5 never sees one while it reads: it is
kept, further reading gives zeros, and it is raised once HDF5 is done.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py

from common.errors import StoreUnavailable
from common.resources import sentence, written_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def open_hdf5(file: BinaryIO, *, name: str) -> Iterator[h5py.File]:
    """Give an open file to read as HDF5.

    Raises what h5py raises for what is no HDF5, and whatever `file` raises as it is read; an OSError of it, which says
    nothing about the content, as StoreUnavailable with `name`.
    """
    carrier = _Carrier(file)
    try:
        with carrier.opened("r") as opened:
            yield opened
    except OSError as error:
        if error is carrier.error:
            raise StoreUnavailable(sentence(error, name)) from error
        raise


@contextmanager
def new_hdf5(path: Path, **options: Any) -> Iterator[h5py.File]:  # noqa: ANN401 - of h5py.File
    """Give a new HDF5 file, which is on the disk after the block. Raises ResourceExhausted, with its path.

    HDF5 writes it by itself: over a file of ours it would scatter its metadata, whatever `meta_block_size` says.
    """
    with written_file(path):
        try:
            with h5py.File(path, "w", **options) as opened:
                yield opened
        except (OSError, RuntimeError) as error:
            # Closing, too, may fail then, with an error that has lost the cause.
            said = re.search(r"errno = (\d+)", f"{error} {error.__context__}")
            if said is None:
                raise
            raise OSError(int(said[1]), os.strerror(int(said[1]))) from error
        # A disk at the other end of a network may find out only now that it has no room.
        with path.open("rb") as file:
            os.fsync(file.fileno())


class _Carrier(io.RawIOBase):
    """Carries out what HDF5 asks for, until something goes wrong."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 - raw or buffered
        self._file = file
        self.error: BaseException | None = None

    @contextmanager
    def opened(self, mode: str, **options: Any) -> Iterator[h5py.File]:  # noqa: ANN401 - of h5py.File
        try:
            with h5py.File(self, mode, **options) as file:
                yield file
        except Exception:
            if self.error is None:
                raise
        if self.error is not None:
            raise self.error

    def _keep(self, error: BaseException) -> None:
        # Its traceback would keep HDF5's objects alive, and those must not outlive the interpreter.
        self.error = error.with_traceback(None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position: int = self._file.seek(offset, whence)
        return position

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.error is None:
            try:
                return self._file.readinto(buffer) or 0
            except BaseException as error:  # noqa: BLE001 - raised by `opened`
                self._keep(error)
        buffer[:] = bytes(len(buffer))
        return len(buffer)
