"""An S3 object as a file that reads ranges on demand."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.store.contract import Store

READ_AHEAD_BYTES = 16_384
"""What one read of an opened object takes at least: a chunk file's whole metadata (see chunk_file)."""


class ObjectReader(io.RawIOBase):
    """An object of a store as a seekable raw file; wrap it in `io.BufferedReader`."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._position = store, key, size, 0
        self._block_start, self._block = 0, b""
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        # BufferedReader forgets what it has read whenever it is moved far, and HDF5 begins by looking for the end.
        start = self._position - self._block_start
        if not 0 <= start < len(self._block):
            length = min(max(len(buffer), READ_AHEAD_BYTES), max(0, self._size - self._position))
            self._block_start, start = self._position, 0
            self._block = self._store.read(self._key, self._position, length)
            self.bytes_read += length
        found = self._block[start : start + len(buffer)]
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)
