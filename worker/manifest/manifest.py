"""The manifest: the list of images, and the rows of each chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from common.errors import ManifestError
from common.format.chunk_file import Failure
from worker.manifest.columns import resolve_sources
from worker.manifest.delimited_rows import DelimitedRows
from worker.manifest.http_source import RETRY
from worker.manifest.image_ids import log_repeated_ids, public_url
from worker.manifest.json_layout import json_format
from worker.manifest.json_rows import JsonRows
from worker.manifest.jsonl_rows import JsonLinesRows
from worker.manifest.left_out import LeftOut
from worker.manifest.local_source import local_path
from worker.manifest.manifest_format import check_content, find_format
from worker.manifest.open_source import is_remote, open_source
from worker.manifest.openimages import published_list
from worker.manifest.row_check import RowCheck
from worker.manifest.text_rows import TextRows
from worker.manifest.txt_layout import open_txt
from worker.settings import PUBLIC_MIRROR_URL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from common.retry import RetryPolicy
    from worker.manifest.byte_source import ByteSource
    from worker.manifest.columns import Columns
    from worker.manifest.manifest_format import Format
    from worker.manifest.raw_rows import RawRow, RowCount, RowReader, UnreadableRow
    from worker.rows import Row
    from worker.settings import HttpSettings, ManifestSettings


@dataclass(frozen=True)
class ManifestChunk:
    """The rows of a chunk: those to embed, and those that cannot be used.

    The positions of both together number the chunk's rows from 0 in the manifest's order.
    """

    rows: list[Row]
    failures: list[Failure]
    """The rows that cannot be used, for the ledger."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An open manifest. Its rows are read chunk by chunk."""

    name: str
    """The path or URL for logs and errors, without passwords and signatures."""
    identity: str
    """A text that changes when the rows change: the format, the columns that are used, and each file's size in bytes
    with its ETag, date or hash. It is part of the run's fingerprint."""
    format: Format
    size: int
    """Size in bytes, without that of a second file with ids."""
    columns: Columns | None
    """The columns that are used; None for a format without columns."""
    has_ids: bool
    """Whether the rows have ids."""
    sources: tuple[str, ...]
    """The names of the sources of an image, in the order in which they are tried: `mirror`, `thumbnail`, `original`,
    `url`. `original` and `url` both mean the row's URL."""
    folder: Path | None
    """The folder that relative paths in the rows start from; None for a remote manifest, whose rows have no paths."""
    _reader: RowReader = field(repr=False)
    _check: RowCheck = field(repr=False)

    def read_chunk(self, index: int, count: int) -> ManifestChunk:
        """Return chunk `index` of `count`.

        Raises ManifestError when the manifest is damaged, and SourceUnavailable when it cannot be read or has changed
        since it was opened.
        """
        if not 0 <= index < count:
            raise ValueError(f"chunk {index} of {count}")
        left_out = LeftOut()
        chunk = self._checked(self._reader.read(index, count), left_out)
        left_out.log(self.name)
        if self._check.mirror_url:
            log_repeated_ids(row.id for row in chunk.rows)
        return chunk

    def count_rows(self) -> RowCount:
        """Return how many rows there are: exactly where that is quick, else an estimate. Raises as `read_chunk`."""
        return self._reader.count_rows()

    def first_rows(self, count: int, *, of: int) -> ManifestChunk:
        """Return the first `count` rows. `of` is about the number of all rows. Raises as `read_chunk`."""
        return self._checked(islice(self._reader.read(0, max(1, of // (4 * count))), count))

    def sample(self, count: int) -> ManifestChunk:
        """Return about `count` rows from all over the manifest, as if they were a chunk. Raises as `read_chunk`."""
        return self._checked(self._reader.spread(count))

    def _checked(self, found: Iterable[RawRow | UnreadableRow], left_out: LeftOut | None = None) -> ManifestChunk:
        left_out = left_out or LeftOut()
        rows: list[Row] = []
        failures: list[Failure] = []
        for position, raw in enumerate(found):
            checked = self._check.check(raw, position, left_out)
            if isinstance(checked, Failure):
                failures.append(checked)
            else:
                rows.append(checked)
        return ManifestChunk(rows, failures)


def open_manifest(
    settings: ManifestSettings,
    *,
    http: HttpSettings,
    mirror_url: str = PUBLIC_MIRROR_URL,
    http_retry: RetryPolicy = RETRY,
) -> Manifest:
    """Return the manifest that the settings name. Only its head is read, except of JSON that is no array.

    `mirror_url` is the mirror of Open Images, whose URLs the rows of a list of ids have.

    Raises ManifestError when there is no such manifest or it cannot be used, StoreAccessDenied when it may not be
    read, and SourceUnavailable when its server does not answer.
    """
    uri = published_list(settings.manifest_uri, settings.openimages_url)
    source = open_source(uri, http, http_retry=http_retry)
    kind = find_format(uri, settings.manifest_format, name=source.name)
    check_content(source, kind)
    kind = json_format(source, kind)
    ids = None
    if settings.ids_uri:
        if kind != "json":
            raise ManifestError(
                f"EMBEDDER_IDS_URI goes with a JSON array of URLs, but the manifest is {kind}; unset it"
            )
        ids = open_source(settings.ids_uri, http, http_retry=http_retry, setting="EMBEDDER_IDS_URI")
        check_content(ids, kind)
    reader = _open_reader([source], ids, kind, settings)
    are_ids = _are_image_ids(reader)
    sources = resolve_sources(
        settings.sources, reader.columns, name=source.name, are_ids=are_ids, subset=settings.subset
    )
    # Settings may choose other columns and other rows of the same content, so the identity names them.
    chosen = reader.columns.present if reader.columns else []
    if settings.manifest_columns:
        chosen = [*chosen, f"columns={settings.manifest_columns}"]
    if settings.subset:
        chosen = [*chosen, f"subset={settings.subset}"]
    mirror_url = public_url(mirror_url) if are_ids else ""
    if mirror_url:
        chosen = [*chosen, f"mirror={mirror_url}"]
    return Manifest(
        name=source.name,
        identity=" ".join([kind, *chosen, *(each.identity for each in (source, ids) if each)]),
        format=kind,
        size=source.size,
        columns=reader.columns,
        has_ids=reader.has_ids,
        sources=sources,
        folder=None if is_remote(uri) else local_path(uri).parent,
        _reader=reader,
        _check=RowCheck(
            is_remote=is_remote(uri),
            max_url_bytes=settings.max_url_bytes,
            subset=settings.subset,
            mirror_url=mirror_url,
        ),
    )


def _are_image_ids(reader: RowReader) -> bool:
    """Return whether the rows are ids of Open Images, without URLs."""
    if isinstance(reader, TextRows):
        return reader.are_image_ids
    return reader.columns is not None and reader.columns.are_ids


def _open_reader(
    sources: Sequence[ByteSource], ids: ByteSource | None, kind: Format, settings: ManifestSettings
) -> RowReader:
    if kind == "parquet":
        # pyarrow takes 30 MB of memory, which no other format needs.
        from worker.manifest.parquet_rows import ParquetRows  # noqa: PLC0415

        return ParquetRows(sources, settings)
    if kind == "json":
        return JsonRows(sources, ids, settings)
    if kind == "jsonl":
        return JsonLinesRows(sources, settings)
    if kind == "txt":
        return open_txt(sources, settings)
    return DelimitedRows(sources, settings, delimiter="\t" if kind == "tsv" else ",")
