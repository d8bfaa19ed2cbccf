"""The base of read-only files whose bytes come from elsewhere: from a store, over a network, or from memory."""

from __future__ import annotations

import io
import os


class SeekableFile(io.RawIOBase):
    """A raw file of `size` bytes; wrap it in `io.BufferedReader`. The bytes come from the subclass's `read_at`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._position = 0

    def read_at(self, start: int, length: int) -> bytes | memoryview:
        """Return 1 to `length` bytes from `start`. The range lies within the file, and `length` is at least 1."""
        raise NotImplementedError

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

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self.size - self._position)
        if wanted <= 0:
            return 0
        data = self.read_at(self._position, wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
