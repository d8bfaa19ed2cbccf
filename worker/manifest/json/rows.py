"""Rows of JSON: arrays of URLs or of objects, with or without an array of ids beside them.

No file can be read in part. Several files are one array in the order of their names.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.logs import log
from worker.manifest.columns import find_columns
from worker.manifest.excerpts import kind_in_words
from worker.manifest.json.layout import EXPECTED, first_elements, rows_in
from worker.manifest.json.values import ObjectFields, first_objects, first_texts, keys_of, parse_json
from worker.manifest.places.byte_source import HEAD_BYTES
from worker.manifest.raw_rows import RawRow, RowCount, UnreadableRow, chunk_range, spread_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from worker.manifest.columns import Columns
    from worker.manifest.places.byte_source import ByteSource
    from worker.settings import ManifestSettings

LARGE_BYTES = 256 << 20
"""Size in bytes above which the log advises to convert the file, because every pod reads all of it."""


class JsonRows:
    def __init__(self, sources: Sequence[ByteSource], ids: ByteSource | None, settings: ManifestSettings) -> None:
        self._sources = [source for source in sources if source.size]  # a program's empty part has no rows
        self._ids = ids
        self._settings = settings
        self._read: tuple[ByteSource, list[object]] | None = None  # the file that was read last
        self.first_texts: list[str] = []
        self._first_rows: list[int] = []  # the number of the first row of each file, and the number of all rows
        self.columns = self._find_columns(self._sources[0])
        self._fields = ObjectFields(settings, self.columns)
        self.has_ids = ids is not None or (self.columns is not None and self.columns.id is not None)

    def read(self, index: int, count: int) -> Iterator[RawRow | UnreadableRow]:
        return self._rows(chunk_range(self._count(), index=index, count=count))

    def count_rows(self) -> RowCount:
        return RowCount(self._count(), is_exact=True)

    def spread(self, count: int) -> Iterator[RawRow | UnreadableRow]:
        return self._rows(spread_range(self._count(), count))

    def _find_columns(self, source: ByteSource) -> Columns | None:
        head = source.read(0, min(HEAD_BYTES, source.size)).decode("utf-8-sig", errors="replace").lstrip()
        values = first_elements(head) if head[:1] == "[" else []
        if not values:
            # An object shows its layout only as a whole. What cannot be read is said when the rows are read.
            try:
                values = self._values(source)
            except ManifestError:
                return None
        self.first_texts = first_texts(values)
        keys = keys_of(values)
        if not keys or self.first_texts:
            return None
        return find_columns(keys, self._settings, name=source.name, examples=first_objects(values))

    def _count(self) -> int:
        """Return the number of all rows. Every file is read for it, the first time."""
        if not self._first_rows:
            self._first_rows = [0, *accumulate(len(self._values(source)) for source in self._sources)]
            if not self._first_rows[-1]:
                raise ManifestError(f"{self._sources[0].name} has no rows")
        return self._first_rows[-1]

    def _rows(self, numbers: Iterable[int]) -> Iterator[RawRow | UnreadableRow]:
        total = self._count()
        ids = None if self._ids is None else self._ids_of(self._ids, total)
        wanted = list(numbers)
        for source, (first, end) in zip(self._sources, pairwise(self._first_rows), strict=True):
            own = [number for number in wanted if first <= number < end]
            values = self._values(source) if own else []
            for number in own:
                where = f"row {number} (the first is 0)"
                if len(self._sources) > 1:
                    where = f"row {number - first} (the first is 0) of {source.name}"
                row = self._fields.row(values[number - first], where)
                if ids is not None and isinstance(row, RawRow):
                    row = row._replace(fields=row.fields._replace(id=ids[number]))
                yield row
        self._read = None

    def _values(self, source: ByteSource) -> list[object]:
        if self._read is None or self._read[0] is not source:
            self._read = None  # before another file takes memory
            self._read = source, _read_rows(source, self._settings)
        return self._read[1]

    def _ids_of(self, source: ByteSource, total: int) -> list[object]:
        ids = _read_json(source)
        if not isinstance(ids, list):
            raise ManifestError(f'{source.name} holds {kind_in_words(ids)}, expected an array of ids: ["1", …]')
        if len(ids) != total:
            raise ManifestError(
                f"{source.name} has {len(ids)} ids and {self._sources[0].name} {total} URLs; the two arrays must have "
                "the same length"
            )
        return ids


def _read_rows(source: ByteSource, settings: ManifestSettings) -> list[object]:
    value = _read_json(source)
    try:
        rows = rows_in(value, settings)
    except ValueError as error:
        raise ManifestError(f"{source.name} holds columns that do not fit together: {error}; {EXPECTED}") from error
    if rows is None:
        raise ManifestError(f"{source.name} holds {kind_in_words(value)} without a list of images; {EXPECTED}")
    return rows


def _read_json(source: ByteSource) -> object:
    if source.size > LARGE_BYTES:
        log.warning(
            "manifest_read_whole",
            manifest=source.name,
            bytes=source.size,
            message="every pod reads the whole JSON array; convert it to Parquet, CSV or JSONL, which are read in "
            "parts",
        )
    # A text that is not UTF-8 fails its own row, and no other one: lone surrogates stand for its bytes.
    text = source.read(0, source.size).removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    try:
        return parse_json(text)
    except ValueError as error:
        raise ManifestError(
            f"{source.name} is not a JSON array ({error}); if each line is a value, set EMBEDDER_MANIFEST_FORMAT=jsonl"
        ) from error
