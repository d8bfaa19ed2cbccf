"""A source of bytes in the tests' memory, which counts what is read."""

from __future__ import annotations


class MemorySource:
    is_direct = True

    def __init__(self, content: bytes, name: str = "list.csv") -> None:
        self.name = self.uri = name
        self.size = len(content)
        self.identity = name
        self.tag = ""
        self.content = content
        self.read_bytes = 0
        """Number of bytes that were read behind the head."""

    def read(self, start: int, length: int) -> bytes:
        assert 0 <= start <= start + length <= self.size
        self.read_bytes += max(0, start + length - max(start, 65_536))
        return self.content[start : start + length]


class LongLine(MemorySource):
    """A header, a line of `size` bytes, and a row behind it; nothing of it is held in memory."""

    def __init__(self, header: bytes, row: bytes, *, size: int) -> None:
        super().__init__(b"")
        self._header, self._row = header, row
        self.size = len(header) + size + 1 + len(row)

    def read(self, start: int, length: int) -> bytes:
        end = start + length
        data = bytearray(b"x" * length)
        for offset, piece in ((0, self._header), (self.size - len(self._row) - 1, b"\n" + self._row)):
            for place, byte in enumerate(piece, offset):
                if start <= place < end:
                    data[place - start] = byte
        return bytes(data)
