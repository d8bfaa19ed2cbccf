"""The text files of a manifest as one text: the files one after another, in the order of their names.

Chunks divide the bytes of all files together. No line goes from one file into the next: the end of a file ends its last
line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from itertools import accumulate, islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from common.errors import ManifestError
from worker.manifest.places.byte_source import HEAD_BYTES
from worker.manifest.raw_rows import RowCount, chunk_range
from worker.manifest.text.encoding import TextFile
from worker.manifest.text.lines import OVERLAP_BYTES, head_lines, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.raw_rows import RawRow, UnreadableRow
    from worker.manifest.text.lines import Line

COUNTED_BYTES = 1 << 20
"""Size in bytes of the largest text whose rows are counted one by one. A larger text is sampled."""

COUNT_SAMPLES = 16
"""Number of evenly spread samples from which the number of lines of a larger text is estimated."""

COUNT_SAMPLE_BYTES = 32_768
"""Size of such a sample in bytes."""

Found = TypeVar("Found")


class Part(NamedTuple):
    """A range of bytes of one file."""

    source: ByteSource
    start: int
    end: int


class TextFiles:
    """The files, and what any format of text does with them."""

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        self.sources = sources
        self.size = sum(source.size for source in sources)
        """Size of all files together in bytes."""
        others = len(sources) - 1
        self.name = f"{sources[0].name} with {others} more file{'s' * (others > 1)}" if others else sources[0].name
        """What errors call the manifest."""
        self._ends = list(accumulate(source.size for source in sources))

    def open(self, source: ByteSource) -> TextFile:
        return TextFile(source, is_alone=len(self.sources) == 1)

    def parts(self, start: int, end: int) -> Iterator[Part]:
        """Yield the parts of the files that lie in the bytes [start, end) of all files together."""
        if start >= end:
            return
        for number in range(bisect_right(self._ends, start), len(self.sources)):
            source = self.sources[number]
            base = self._ends[number] - source.size
            if base >= end:
                return
            if source.size:
                yield Part(source, max(0, start - base), min(source.size, end - base))

    def read(self, index: int, count: int, read: Callable[[Part], Iterator[Found]]) -> Iterator[Found]:
        """Yield what `read` finds in the parts of chunk `index` of `count`."""
        share = chunk_range(self.size, index=index, count=count)
        for part in self.parts(share.start, share.stop):
            yield from read(part)

    def count(self, read: Callable[[Part], Iterator[Found]], *, rows_per_line: float = 1.0) -> RowCount:
        """Return how many rows `read` finds: counted in small files, estimated from samples of the lines else."""
        if self.size <= COUNTED_BYTES:
            return RowCount(sum(1 for _ in self.read(0, 1, read)), is_exact=True)
        lines = sampled = 0
        for index in range(COUNT_SAMPLES):
            start = index * (self.size - COUNT_SAMPLE_BYTES) // (COUNT_SAMPLES - 1)
            for part in self.parts(start, start + COUNT_SAMPLE_BYTES):
                file = self.open(part.source)
                lines += part.source.read(part.start, part.end - part.start).count(file.line_break)
                sampled += part.end - part.start
        return RowCount(round(self.size * lines * rows_per_line / sampled), is_exact=False)

    def spread(
        self, count: int, read: Callable[[Part], Iterator[Found]], *, found: RowCount | None = None
    ) -> Iterator[Found]:
        """Yield about `count` rows from all over the files, or all rows where there are fewer."""
        found = found or self.count(read)
        if found.is_exact and found.rows <= count:
            yield from self.read(0, 1, read)
            return
        for index in range(count):
            share = chunk_range(self.size, index=index, count=count)
            # The limit keeps the request small. Only a line that is longer has no chance to be found.
            stop = min(share.stop, share.start + HEAD_BYTES - OVERLAP_BYTES)
            rows = (row for part in self.parts(share.start, stop) for row in read(part))
            yield from islice(rows, 1)

    def check_has_rows(self, read: Callable[[Part], Iterator[Found]]) -> None:
        """Raise ManifestError when `read` finds no row in any file."""
        first, *others = self.sources
        for source in [first, *sorted(others, key=lambda each: -each.size)]:
            # A text that is larger than its head counts as having rows, because the search could read all of it.
            if source.size > HEAD_BYTES or (source.size and any(True for _ in read(Part(source, 0, source.size)))):
                return
        raise ManifestError(f"{self.name} has no rows")


class TextLines:
    """The lines of a manifest without header lines."""

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        self._files = TextFiles(sources)

    def head(self) -> Iterator[Line]:
        """Yield the lines at the beginning of the first file that has any."""
        for source in self._files.sources:
            if source.size and (lines := [line for line in head_lines(self._files.open(source)) if not line.is_blank]):
                yield from lines
                return

    def read(self, index: int, count: int) -> Iterator[Line]:
        """Yield the lines of chunk `index` of `count`. The chunks divide all bytes of the manifest."""
        return self._files.read(index, count, self._lines)

    def count(self) -> RowCount:
        """Return how many lines there are: counted in a small manifest, estimated else."""
        return self._files.count(self._lines)

    def spread(self, count: int) -> Iterator[Line]:
        """Yield about `count` lines from all over the manifest, or all lines where there are fewer."""
        return self._files.spread(count, self._lines)

    def check_has_rows(self) -> None:
        """Raise ManifestError when the manifest has no lines."""
        self._files.check_has_rows(self._lines)

    def _lines(self, part: Part) -> Iterator[Line]:
        return read_lines(self._files.open(part.source), part.start, part.end)


class LineRows(ABC):
    """Reads the rows of a format in which each line is a row."""

    def __init__(self, sources: Sequence[ByteSource]) -> None:
        self._lines = TextLines(sources)

    @abstractmethod
    def _parse(self, line: Line) -> RawRow | UnreadableRow:
        """Return the row of a line."""

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, self._lines.read(index, count))

    def count_rows(self) -> RowCount:
        return self._lines.count()

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return map(self._parse, self._lines.spread(count))
