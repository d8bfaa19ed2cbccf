"""A source whose first bytes are checked for the manifest's format when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.manifest.manifest_format import check_content

if TYPE_CHECKING:
    from worker.manifest.manifest_format import Format
    from worker.manifest.places.byte_source import ByteSource


class CheckedSource:
    """One of many files. Those that a pod reads nothing of are not asked for their first bytes."""

    def __init__(self, source: ByteSource, expected: Format) -> None:
        self.name, self.uri, self.size, self.is_direct = source.name, source.uri, source.size, source.is_direct
        self._source, self._expected = source, expected
        self._is_checked = False

    @property
    def tag(self) -> str:
        return self._source.tag

    @property
    def identity(self) -> str:
        return self._source.identity

    def read(self, start: int, length: int) -> bytes:
        data = self._source.read(start, length)
        if start == 0 and not self._is_checked:
            # The source has its head in memory now.
            check_content(self._source, self._expected)
            self._is_checked = True
        return data
