"""HDF5 files that this program reads and writes itself, so that an error of a disk or a store stays that error.

When a read fails, HDF5 raises an error of its own and the cause is lost. When that happens while a file is opened or
closed, objects of HDF5 stay behind that crash the process when Python ends. So HDF5 never sees a failed read: the error
is kept, further reads return zeros, and the error is raised when HDF5 has finished.

HDF5 must not lack memory either. Where an allocation fails, it names any other error ("can't find property in skip
list"), its lists of open objects are broken from then on, and a later call crashes. So it is called only where memory
is left, and an error of a call while memory is short says nothing about the file.

HDF5 does not write to the disk either. `lay_out` returns what HDF5 would write around the rows, and this program writes
the file.
"""

from __future__ import annotations

import io
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from common.errors import StoreUnavailable
from common.parallel import thread_starts
from common.process.limits import MEMORY_LEFT_BYTES, require_memory
from common.process.resources import describe_error
from common.seekable_file import SeekableFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VERSIONS = ("v108", "v110")
"""The oldest and the newest version of HDF5 that must be able to read the files."""


READ_ERRORS = (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""The errors of h5py and NumPy for files that this program did not write, or that are damaged."""


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Raise MemoryError when less than MEMORY_LEFT_BYTES are left, before the block or where HDF5 fails in it."""
    require_memory(MEMORY_LEFT_BYTES)
    try:
        yield
    except READ_ERRORS:
        require_memory(MEMORY_LEFT_BYTES)
        raise


@contextmanager
def open_hdf5(file: BinaryIO, *, name: str) -> Iterator[h5py.File]:
    """Give the content of an open file as HDF5.

    Raises the errors of h5py when the content is not HDF5, and the errors of `file` when a read fails. An OSError of a
    read says nothing about the content, so it is raised as StoreUnavailable with `name`. Raises MemoryError when memory
    is short.
    """
    guarded = _GuardedFile(file)
    try:
        with _enough_memory(), guarded.opened() as opened:
            yield opened
    except OSError as error:
        if error is guarded.error:
            raise StoreUnavailable(describe_error(error, name)) from error
        raise


class Dataset(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attributes: Mapping[str, str]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def size(self) -> int:
        """The size of all rows in bytes."""
        return self.shape[0] * self.row_bytes


class Skeleton(NamedTuple):
    """An HDF5 file without its rows."""

    size: int
    """The size of the whole file in bytes."""
    offsets: dict[str, int]
    """The offset of the first row of each dataset; 0 for a dataset without rows."""
    metadata: dict[int, bytes]
    """All bytes that are not rows, by their offset: HDF5's metadata at 0, and zeros in the gaps between the rows."""


def lay_out(
    attributes: Mapping[str, Any],
    datasets: Mapping[str, Dataset],
    *,
    user_block_bytes: int = 0,
    alignment_threshold: int = 1,
    alignment_interval: int = 1,
) -> Skeleton:
    """Return the skeleton of a file with these attributes and contiguous datasets. All metadata lies before all rows.

    The first `user_block_bytes` of the file are zeros, for a use outside HDF5. A dataset of `alignment_threshold`
    bytes or more begins at a multiple of `alignment_interval`.

    HDF5 makes the file in two passes, without any rows in memory:

        pass 1   | user block | metadata |
        pass 2   | user block | metadata | urls ... | gap | embeddings ........................ |
                                   ^           ^
                                   |           HDF5 reserves the rows' space; what it writes there is dropped
                                   HDF5 notes the offsets of the rows

    Pass 1 writes all names, shapes and attributes, and closes the file. Pass 2 opens it again and reserves space for
    each dataset, which HDF5 does at the end of the file. In a single pass HDF5 would put some metadata behind the
    rows, and some rows into space that the metadata has left.

    Raises MemoryError when memory is short.
    """
    with thread_starts, _enough_memory():
        return _lay_out(
            attributes,
            datasets,
            user_block_bytes=user_block_bytes,
            alignment={"alignment_threshold": alignment_threshold, "alignment_interval": alignment_interval},
        )


def _lay_out(
    attributes: Mapping[str, Any],
    datasets: Mapping[str, Dataset],
    *,
    user_block_bytes: int,
    alignment: Mapping[str, int],
) -> Skeleton:
    pass_1 = io.BytesIO()
    with h5py.File(pass_1, "w", libver=_VERSIONS, userblock_size=user_block_bytes) as file:
        file.attrs.update(attributes)
        for name, dataset in datasets.items():
            file.create_dataset(name, dataset.shape, _stored_type(dataset.dtype)).attrs.update(dataset.attributes)
    pass_2 = FileWithoutRows(bytearray(pass_1.getbuffer()))
    with h5py.File(pass_2, "r+", libver=_VERSIONS, **alignment) as file:
        offsets = {name: _reserve(file[name]) for name in datasets}
    rows = sorted((offsets[name], offsets[name] + dataset.size) for name, dataset in datasets.items() if dataset.size)
    starts = [0, *(end for _, end in rows)]
    ends = [*(start for start, _ in rows), pass_2.size]
    metadata = {
        start: pass_2.read_at(start, end - start) for start, end in zip(starts, ends, strict=True) if end > start
    }
    return Skeleton(pass_2.size, offsets, metadata)


def _stored_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type that HDF5 stores: texts are marked as UTF-8, so that h5py's `asstr` can decode them."""
    if dtype.kind != "S":
        return dtype
    text: np.dtype[Any] = h5py.string_dtype("utf-8", dtype.itemsize)
    return text


def _reserve(dataset: h5py.Dataset) -> int:
    """Make HDF5 reserve space for all rows of the dataset, and return its offset."""
    if not dataset.size:
        return 0
    # HDF5 reserves the space for all rows when the first number is written.
    dataset[(0,) * dataset.ndim] = np.zeros((), dataset.dtype)
    offset: int = dataset.id.get_offset()
    return offset


class FileWithoutRows(SeekableFile):
    """A file of which only the first bytes are kept: its metadata.

    The bytes behind them are read as zeros, and dropped when they are written.
    """

    def __init__(self, kept: bytearray, size: int = 0) -> None:
        super().__init__(max(size, len(kept)))
        self._kept = kept

    def read_at(self, start: int, length: int) -> bytes:
        return bytes(self._kept[start : start + length]).ljust(length, b"\0")

    def write(self, data: bytearray | memoryview) -> int:  # type: ignore[override]
        start, end = self._position, self._position + len(data)
        self._kept[start:end] = data[: max(0, len(self._kept) - start)]
        self._position, self.size = end, max(self.size, end)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size


class _GuardedFile(io.RawIOBase):
    """A file that HDF5 reads, and that keeps the first error of a read instead of raising it."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 - raw or buffered
        self._file = file
        self.error: BaseException | None = None

    @contextmanager
    def opened(self) -> Iterator[h5py.File]:
        """Give the file as HDF5. Raises the error that was kept, if any, in place of HDF5's own."""
        try:
            with h5py.File(self, "r") as file:
                yield file
        except Exception:
            if self.error is None:
                raise
        if self.error is not None:
            raise self.error

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
            except BaseException as error:  # noqa: BLE001 - `opened` raises it
                # A traceback would keep HDF5's objects alive, and they must not outlive the interpreter.
                self.error = error.with_traceback(None)
        buffer[:] = bytes(len(buffer))
        return len(buffer)
