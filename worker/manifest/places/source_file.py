"""A byte source as a file, for libraries that read files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.seekable_file import SeekableFile

if TYPE_CHECKING:
    from worker.manifest.places.byte_source import ByteSource


class SourceFile(SeekableFile):
    def __init__(self, source: ByteSource) -> None:
        super().__init__(source.size)
        self._source = source

    def read_at(self, start: int, length: int) -> bytes:
        return self._source.read(start, length)
