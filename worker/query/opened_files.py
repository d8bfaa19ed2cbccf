"""Tar and Parquet files of this machine, opened for the pictures in them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from common.errors import ManifestError, QueryRefused, SourceUnavailable
from common.settings import read_settings
from worker.manifest.excerpts import excerpt
from worker.manifest.left_out import LeftOut
from worker.manifest.raw_rows import RawRow, UnreadableRow
from worker.manifest.row_check import RowCheck
from worker.manifest.tar.rows import MAX_ROWS
from worker.manifest.tar.shard import ChunkLimit, Shard
from worker.query.named_places import NamedPlaces
from worker.rows import ByteRange, ImageFailed, Row
from worker.settings import ManifestSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from threading import Event

    from worker.manifest.places.local_source import LocalSource
    from worker.query.picture_places import PicturePlace

PARQUET_BYTES = 4 << 20
"""Number of bytes that the footer of a Parquet file counts in memory. Most take much less."""

KEPT_PROBLEMS = 1000
"""Number of members without a picture, such as links, whose problem is remembered for each tar."""

MAX_READ_BYTES = 512 << 20
"""Number of bytes of a column that are read for one picture. A row is found only behind the rows before it in its row
group."""


class OpenedTar:
    """The pictures of a tar by the URLs of their rows."""

    def __init__(self, source: LocalSource, stop: Event) -> None:
        self._source, self._stop = source, stop
        self._problems: dict[str, str] = {}
        self._damage = ""
        """Why no member behind the last one can be read, an empty text for a tar without damage."""
        self._places = NamedPlaces(self._pictures())

    @property
    def kept_bytes(self) -> int:
        return self._places.kept_bytes + 4096

    def find(self, place: PicturePlace) -> ByteRange:
        """Return where a member's bytes lie. Raises QueryRefused."""
        found = self._places.find(place.url)
        if len(found) > 1:
            raise QueryRefused(f"{place.name} has several members {excerpt(place.entry)}, so it is not known which")
        if found:
            ((first, length),) = found
            return ByteRange(self._source.uri, first, length, self._source.tag)
        problem = self._problems.get(place.url, self._damage)
        raise QueryRefused(
            f"{place.name} has no picture {excerpt(place.entry)}{f' that can be read: {problem}' if problem else ''}"
        )

    def _pictures(self) -> Iterator[tuple[str, int, int]]:
        """Yield the URL, the first byte and the number of bytes of each picture, and note the problems of others."""
        limit = ChunkLimit(MAX_ROWS, [self._source])
        limit.stop = self._stop
        for row in Shard(self._source, limit).rows():
            if isinstance(row, RawRow) and row.held is not None:
                yield str(row.fields.url), row.held.offset, row.held.length
            elif isinstance(row, UnreadableRow):
                if not row.id:  # only damage has no name of a row
                    self._damage = row.problem
                if len(self._problems) < KEPT_PROBLEMS:
                    self._problems[row.url] = row.problem


class OpenedParquet:
    """The images of a Parquet file by the numbers of their rows."""

    kept_bytes = PARQUET_BYTES

    def __init__(self, source: LocalSource, *, max_image_bytes: int) -> None:
        # Imported here: pyarrow takes 30 MB of memory.
        from worker.manifest.parquet.rows import ParquetRows  # noqa: PLC0415

        self.rows = ParquetRows([source], read_settings(ManifestSettings, manifest_uri=source.uri, sources="bytes"))
        self._name, self._max_image_bytes = excerpt(source.name.rpartition("/")[2]), max_image_bytes

    def find(self, place: PicturePlace) -> bytes:
        """Return the image of a row. Raises QueryRefused and ImageFailed."""
        return self.image(int(place.entry))

    def image(self, number: int) -> bytes:
        """Return the image of a row. Raises QueryRefused and ImageFailed."""
        rows = self.rows
        if rows.columns.image is None:
            raise QueryRefused(
                f"{self._name} has no column that clearly holds images; name the column in EMBEDDER_IMAGE_COLUMN"
            )
        if number >= (total := rows.count_rows().rows):
            raise QueryRefused(f"{self._name} has {total:,} rows, and no row {number:,} (the first is 0)")
        if (needed := rows.bytes_to(number)) > MAX_READ_BYTES:
            raise QueryRefused(
                f"row {number:,} of {self._name} lies behind about {needed >> 20:,} MiB of its row group, and "
                f"{MAX_READ_BYTES >> 20} MiB are read for a picture; write the file with smaller row groups"
            )
        with closing(rows.images(range(number, number + 1), max_bytes=self._max_image_bytes)) as images:
            found = next(images)
        if isinstance(found, ImageFailed):
            raise found
        return bytes(found)


class OpenedNames:
    """The images of Parquet files by the paths or names that their rows give them."""

    def __init__(self, sources: Sequence[LocalSource], *, max_image_bytes: int, stop: Event) -> None:
        self._files: list[OpenedParquet] = []
        self._max_image_bytes, self._stop = max_image_bytes, stop
        self._count = 0
        self._places = NamedPlaces(self._images(sources))

    @property
    def kept_bytes(self) -> int:
        return self._places.kept_bytes + PARQUET_BYTES * (1 + len(self._files) // 16)

    def find(self, name: str) -> bytes | None:
        """Return the image of the only row with this name, None if no row has it. Raises QueryRefused, ImageFailed."""
        found = self._places.find(name)
        if len(found) > 1:
            raise QueryRefused(
                f"several rows of the Parquet files are called {excerpt(name)}, so it is not known which"
            )
        if found:
            ((file, number),) = found
            return self._files[file].image(number)
        if self._count >= MAX_ROWS:
            raise QueryRefused(
                f"no such file, and none of the first {MAX_ROWS:,} rows of the Parquet files in the folder is called so"
            )
        return None

    def _images(self, sources: Sequence[LocalSource]) -> Iterator[tuple[str, int, int]]:
        """Yield the name of each row with an image of its own, the number of its file, and the row's number there."""
        check, left_out = RowCheck(is_remote=False, max_url_bytes=1 << 16), LeftOut()
        for source in sources:
            try:
                opened = OpenedParquet(source, max_image_bytes=self._max_image_bytes)
                if opened.rows.columns.image is None:
                    continue
                self._files.append(opened)
                for number, raw in enumerate(opened.rows.read(0, 1)):
                    row = check.check(raw, number, left_out)
                    self._count += 1
                    if self._stop.is_set() or self._count > MAX_ROWS:
                        return
                    if isinstance(row, Row):
                        yield row.url, len(self._files) - 1, number
            except (ManifestError, SourceUnavailable):
                continue  # a damaged file, or one of another kind, beside those of the run
