"""HDF5 over files of this program's own, so that an error of the disk or the store stays that error.

HDF5 makes of such an error one of its own, in which the cause is lost; and where it happens while a file is opened or
closed, what is left of the file takes the process down when Python ends. So HDF5 never sees one while it reads: it is
kept, further reading gives zeros, and it is raised once HDF5 is done. And it writes to no disk: it says in memory what
a file consists of, and this program writes that.
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
from common.process.resources import sentence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VERSIONS = ("v108", "v110")
"""Of HDF5, the oldest and the newest that must be able to read what is written."""


@contextmanager
def open_hdf5(file: BinaryIO, *, name: str) -> Iterator[h5py.File]:
    """Give an open file to read as HDF5.

    Raises what h5py raises for what is no HDF5, and whatever `file` raises as it is read; an OSError of it, which says
    nothing about the content, as StoreUnavailable with `name`.
    """
    carrier = _Carrier(file)
    try:
        with carrier.opened() as opened:
            yield opened
    except OSError as error:
        if error is carrier.error:
            raise StoreUnavailable(sentence(error, name)) from error
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
        """Bytes of all rows."""
        return self.shape[0] * self.row_bytes


class Skeleton(NamedTuple):
    """An HDF5 file without its rows."""

    size: int
    """Bytes of the file."""
    offsets: dict[str, int]
    """Where the rows of each dataset begin; 0 where there are none."""
    metadata: dict[int, bytes]
    """By offset: everything that is no row. The first holds all that HDF5 has to say, the others are zeros."""


def lay_out(
    attributes: Mapping[str, Any],
    datasets: Mapping[str, Dataset],
    *,
    user_block_bytes: int = 0,
    alignment_threshold: int = 1,
    alignment_interval: int = 1,
) -> Skeleton:
    """Return what HDF5 makes of a file with these attributes and contiguous datasets, whose rows follow all else.

    It leaves `user_block_bytes` of zeros at the start to others. Rows of `alignment_threshold` bytes and more begin
    at a multiple of `alignment_interval`.
    """
    metadata = io.BytesIO()
    with h5py.File(metadata, "w", libver=_VERSIONS, userblock_size=user_block_bytes) as file:
        file.attrs.update(attributes)
        for name, dataset in datasets.items():
            file.create_dataset(name, dataset.shape, dataset.dtype).attrs.update(dataset.attributes)
    # In one go HDF5 would place some metadata only after the rows, and rows where metadata has moved away. A file that
    # it finds closed is only added to.
    head = Head(bytearray(metadata.getbuffer()))
    alignment = {"alignment_threshold": alignment_threshold, "alignment_interval": alignment_interval}
    with h5py.File(head, "r+", libver=_VERSIONS, **alignment) as file:
        offsets = {name: _allocate(file[name]) for name in datasets}
    spans = sorted((offsets[name], offsets[name] + dataset.size) for name, dataset in datasets.items() if dataset.size)
    starts = [0, *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), head.size]
    between = {start: head.bytes_at(start, end) for start, end in zip(starts, ends, strict=True) if end > start}
    return Skeleton(head.size, offsets, between)


def _allocate(dataset: h5py.Dataset) -> int:
    if not dataset.size:
        return 0
    # For a single number HDF5 gives all rows their place.
    dataset[(0,) * dataset.ndim] = np.zeros((), dataset.dtype)
    offset: int = dataset.id.get_offset()
    return offset


class Head(io.RawIOBase):
    """The first bytes of a file as a file of the whole size, for HDF5: its metadata without the rows.

    What is behind them is read as zeros, as in a hole, and what is written there is let go.
    """

    def __init__(self, head: bytearray, size: int = 0) -> None:
        self._head, self.size, self._position = head, max(size, len(head)), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def bytes_at(self, start: int, end: int) -> bytes:
        return bytes(self._head[start:end]).ljust(end - start, b"\0")

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(0, self.size - self._position))
        buffer[:wanted] = self.bytes_at(self._position, self._position + wanted)
        self._position += wanted
        return wanted

    def write(self, data: bytearray | memoryview) -> int:  # type: ignore[override]
        start, end = self._position, self._position + len(data)
        self._head[start:end] = data[: max(0, len(self._head) - start)]
        self._position, self.size = end, max(self.size, end)
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size


class _Carrier(io.RawIOBase):
    """Carries out what HDF5 asks for, until something goes wrong."""

    def __init__(self, file: Any) -> None:  # noqa: ANN401 - raw or buffered
        self._file = file
        self.error: BaseException | None = None

    @contextmanager
    def opened(self) -> Iterator[h5py.File]:
        try:
            with h5py.File(self, "r") as file:
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
