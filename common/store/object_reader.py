"""An object of a store as a file that reads ranges on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.seekable_file import SeekableFile

if TYPE_CHECKING:
    from common.store.contract import Store

READ_AHEAD_BYTES = 16_384
"""The smallest number of bytes in one request, except at the object's end: the whole metadata of most chunk files."""


class ObjectReader(SeekableFile):
    """An object of a store as a seekable raw file; wrap it in `io.BufferedReader`."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        super().__init__(size)
        self._store, self._key = store, key
        self._block_start, self._block = 0, b""
        self.bytes_read = 0

    def read_at(self, start: int, length: int) -> bytes:
        # The last block is kept: a BufferedReader forgets its own when it is moved far, and HDF5 begins with a look
        # at the end of the file.
        offset = start - self._block_start
        if not 0 <= offset < len(self._block):
            wanted = min(max(length, READ_AHEAD_BYTES), self.size - start)
            self._block = self._store.read(self._key, start, wanted)
            self._block_start, offset = start, 0
            self.bytes_read += wanted
        return self._block[offset : offset + length]
