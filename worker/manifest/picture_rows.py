"""Rows of a manifest of pictures: each file is a row, in the order of the paths."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from worker.manifest.places.uri_list import scheme_of
from worker.manifest.raw_rows import Fields, RawRow, RowCount, chunk_range, spread_range
from worker.rows import ByteRange, listed_file_tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from worker.manifest.manifest_files import Picture


class PictureRows:
    columns = None
    has_ids = True

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures = pictures

    def read(self, index: int, count: int) -> Iterator[RawRow]:
        return self._rows(chunk_range(len(self._pictures), index=index, count=count))

    def count_rows(self) -> RowCount:
        return RowCount(len(self._pictures), is_exact=True)

    def spread(self, count: int) -> Iterator[RawRow]:
        return self._rows(spread_range(len(self._pictures), count))

    def _rows(self, numbers: Iterable[int]) -> Iterator[RawRow]:
        for number in numbers:
            picture = self._pictures[number]
            file = picture.file
            # A path may look like a URL or have spaces at its ends, so a decoder is given the file itself.
            held = None
            if scheme_of(file.uri) == "file" and file.size is not None:
                held = ByteRange(file.uri, 0, file.size, listed_file_tag(file.size, file.modified_ns))
            elif picture.source is not None or scheme_of(file.uri) in {"http", "https"}:
                # The operator named the URL, so its host may be a private one.
                held = ByteRange(file.uri, 0, file.size or 0)
            yield RawRow(
                f"file {number} (the first is 0)", Fields(picture.url, PurePosixPath(picture.url).stem), held=held
            )
