"""Rows of a JSON array of URLs, with or without an array of ids beside it. Neither file can be read in part."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.logs import log
from worker.manifest.excerpts import kind_in_words
from worker.manifest.raw_rows import Fields, RawRow, RowCount, chunk_range, spread_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from worker.manifest.byte_source import ByteSource

LARGE_BYTES = 256 << 20
"""Size in bytes above which the log advises to convert the file, because every pod reads all of it."""


class JsonRows:
    columns = None

    def __init__(self, urls: ByteSource, ids: ByteSource | None) -> None:
        self._urls = urls
        self._ids = ids
        self.has_ids = ids is not None

    def read(self, index: int, count: int) -> Iterator[RawRow]:
        urls, ids = self._read_arrays()
        return self._rows(urls, ids, chunk_range(len(urls), index=index, count=count))

    def count_rows(self) -> RowCount:
        return RowCount(len(_read_array(self._urls)), is_exact=True)

    def spread(self, count: int) -> Iterator[RawRow]:
        urls, ids = self._read_arrays()
        return self._rows(urls, ids, spread_range(len(urls), count))

    def _read_arrays(self) -> tuple[list[object], list[object] | None]:
        urls = _read_array(self._urls)
        ids = None if self._ids is None else _read_array(self._ids)
        if ids is not None and self._ids is not None and len(ids) != len(urls):
            raise ManifestError(
                f"{self._ids.name} has {len(ids)} ids and {self._urls.name} {len(urls)} URLs; the two arrays must have "
                "the same length"
            )
        if not urls:
            raise ManifestError(f"{self._urls.name} has no rows")
        return urls, ids

    def _rows(self, urls: list[object], ids: list[object] | None, numbers: Iterable[int]) -> Iterator[RawRow]:
        for row in numbers:
            yield RawRow(f"row {row} (the first is 0)", Fields(urls[row], None if ids is None else ids[row]))


def _read_array(source: ByteSource) -> list[object]:
    if source.size > LARGE_BYTES:
        log.warning(
            "manifest_read_whole",
            manifest=source.name,
            bytes=source.size,
            message="every pod reads the whole JSON array; convert it to Parquet, CSV or JSONL, which are read in "
            "parts",
        )
    try:
        value = json.loads(source.read(0, source.size).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(
            f"{source.name} is not a JSON array ({error}); if each line is a value, set EMBEDDER_MANIFEST_FORMAT=jsonl"
        ) from error
    if not isinstance(value, list):
        raise ManifestError(f'{source.name} holds {kind_in_words(value)}, expected an array of texts: ["https://…", …]')
    return value
