"""The manifest: the list of images, and the rows of each chunk."""

from __future__ import annotations

from array import array
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from common.errors import ManifestError
from common.format.chunk_file import Failure
from common.logs import log
from worker.manifest.held_ranges import read_ranges
from worker.manifest.image_ids import log_repeated_ids, public_url
from worker.manifest.json.layout import json_format
from worker.manifest.left_out import LeftOut
from worker.manifest.manifest_files import find_files
from worker.manifest.manifest_format import check_content
from worker.manifest.places.http_source import RETRY
from worker.manifest.places.open_source import open_source
from worker.manifest.raw_rows import ImageReader, RawRow
from worker.manifest.reader import open_reader, rows_are_ids, sources_of
from worker.manifest.row_check import RowCheck
from worker.manifest.tar.rows import more_chunks_than_shards
from worker.settings import PUBLIC_MIRROR_URL

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from common.retry import RetryPolicy
    from worker.manifest.columns import Columns
    from worker.manifest.manifest_files import ManifestFiles
    from worker.manifest.manifest_format import Format
    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.raw_rows import RowCount, RowReader, UnreadableRow
    from worker.rows import ByteRange, HeldContents, ImageContent, ImageFailed, Row
    from worker.settings import HttpSettings, ManifestSettings


@dataclass(frozen=True)
class ManifestChunk:
    """The rows of a chunk: those to embed, and those that cannot be used.

    The positions of both together number the chunk's rows from 0 in the manifest's order.
    """

    rows: list[Row]
    failures: list[Failure]
    """The rows that cannot be used, for the ledger."""
    held: HeldContents | None = None
    """Reads the images that the manifest holds and no decoder reads by itself; None if there are none."""


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
    """Size of all files in bytes, without that of a second file with ids."""
    file_count: int
    """Number of files, without a second file with ids."""
    skipped: str
    """Which files of the listed places are no part of the manifest, in words; empty if there are none."""
    columns: Columns | None
    """The columns that are used; None for a format without columns."""
    has_ids: bool
    """Whether the rows have ids."""
    sources: tuple[str, ...]
    """The names of the sources of an image, in the order in which they are tried: `mirror`, `thumbnail`, `original`,
    `url`, `bytes`. `original` and `url` both mean the row's URL, `bytes` an image that the manifest itself holds."""
    folder: Path | None
    """The folder that relative paths in the rows start from; None for a manifest of which any file is remote, whose
    rows have no paths."""
    shard_count: int | None
    """Number of files that are not divided among chunks; None where chunks divide the content."""
    _reader: RowReader = field(repr=False)
    _check: RowCheck = field(repr=False)
    _indirect: Mapping[str, ByteSource] = field(repr=False, default_factory=dict)
    """The files that hold images and that no decoder may read by itself, by their URI."""

    def read_chunk(self, index: int, count: int) -> ManifestChunk:
        """Return chunk `index` of `count`.

        Raises ManifestError when the manifest is damaged, and SourceUnavailable when it cannot be read or has changed
        since it was opened.
        """
        if not 0 <= index < count:
            raise ValueError(f"chunk {index} of {count}")
        if self.shard_count is not None and self.shard_count < count:
            log.warning("more_chunks_than_shards", message=more_chunks_than_shards(self.shard_count, count))
        left_out = LeftOut()
        chunk = self._checked(self._reader.read(index, count), left_out)
        left_out.log(self.name)
        if self._check.mirror_url:
            log_repeated_ids(row.id for row in chunk.rows)
        return chunk

    def every_row(self) -> Iterator[tuple[RawRow | UnreadableRow, Row | Failure]]:
        """Yield every row of the manifest, as it is written and as it is checked. Raises as `read_chunk`."""
        left_out = LeftOut()
        for position, raw in enumerate(self._reader.read(0, 1)):
            yield raw, self._check.check(raw, position, left_out)
        left_out.log(self.name)

    def count_rows(self) -> RowCount:
        """Return how many rows there are: exactly where that is quick, else an estimate. Raises as `read_chunk`."""
        return self._reader.count_rows()

    def first_rows(self, count: int, *, of: int) -> ManifestChunk:
        """Return the first `count` rows. `of` is about the number of all rows. Raises as `read_chunk`."""
        found = list(islice(self._reader.read(0, max(1, of // (4 * count))), count))
        return self._checked(found or islice(self._reader.read(0, 1), count))

    def sample(self, count: int) -> ManifestChunk:
        """Return about `count` rows from all over the manifest, as if they were a chunk. Raises as `read_chunk`."""
        return self._checked(self._reader.spread(count))

    def _checked(self, found: Iterable[RawRow | UnreadableRow], left_out: LeftOut | None = None) -> ManifestChunk:
        left_out = left_out or LeftOut()
        rows: list[Row] = []
        failures: list[Failure] = []
        positions, cells = array("q"), array("q")
        ranges: list[ByteRange] = []
        for position, raw in enumerate(found):
            checked = self._check.check(raw, position, left_out)
            if isinstance(checked, Failure):
                failures.append(checked)
                continue
            if checked.held is not None and checked.held.uri in self._indirect:
                positions.append(position)
                ranges.append(checked.held)
                checked = checked._replace(held=None)
            elif isinstance(raw, RawRow) and raw.cell is not None and "bytes" in self.sources:
                positions.append(position)
                cells.append(raw.cell)
            rows.append(checked)
        held = partial(self._held, positions, cells, ranges) if positions else None
        return ManifestChunk(rows, failures, held)

    def _held(
        self, positions: Sequence[int], cells: Sequence[int], ranges: Sequence[ByteRange], max_bytes: int
    ) -> Generator[tuple[int, ImageContent | ImageFailed]]:
        """Yield the position and the image of each row whose image lies in a cell, or in a range of a file."""
        if isinstance(self._reader, ImageReader):
            images = self._reader.images(cells, max_bytes=max_bytes)
        else:
            images = read_ranges(self._indirect, ranges, max_bytes=max_bytes)
        with closing(images):
            yield from zip(positions, images, strict=True)


def open_manifest(
    settings: ManifestSettings,
    *,
    http: HttpSettings,
    mirror_url: str = PUBLIC_MIRROR_URL,
    http_retry: RetryPolicy = RETRY,
    run_uri: str = "",
) -> Manifest:
    """Return the manifest that the settings name. Only its head is read, except of JSON that is no array.

    `mirror_url` is the mirror of Open Images, whose URLs the rows of a list of ids have. Files of the run `run_uri` are
    no part of the manifest.

    Raises ManifestError when there is no such manifest or it cannot be used, StoreAccessDenied when it may not be
    read, and SourceUnavailable when its server does not answer.
    """
    files = find_files(settings, http=http, http_retry=http_retry, run_uri=run_uri)
    first = next((source for source in files.sources if source.size), None)
    if first is not None:
        files = replace(files, format=json_format(first, files.format))
    ids = _open_ids(settings, files, http=http, http_retry=http_retry) if settings.ids_uri else None
    reader = open_reader(files, ids, settings)
    readers = [*files.sources, *(picture.source for picture in files.pictures if picture.source is not None)]
    are_ids = rows_are_ids(reader, files, settings)
    sources = sources_of(files, reader, settings, are_ids=are_ids, are_read_here=bool(readers))
    mirror_url = public_url(mirror_url) if are_ids else ""
    # Settings may choose other columns and other rows of the same content, so the identity names them.
    columns = reader.columns.present if reader.columns else []
    chosen = {"columns": settings.manifest_columns, "subset": settings.subset, "mirror": mirror_url}
    settled = [f"{name}={value}" for name, value in chosen.items() if value]
    return Manifest(
        name=files.name,
        identity=" ".join([files.format, *columns, *settled, files.identity, *([ids.identity] if ids else [])]),
        format=files.format,
        size=files.size,
        file_count=files.count,
        skipped=files.skipped,
        columns=reader.columns,
        has_ids=reader.has_ids or are_ids,
        sources=sources,
        folder=files.folder,
        shard_count=files.count if files.format == "tar" else None,
        _reader=reader,
        _check=RowCheck(
            is_remote=files.folder is None,
            max_url_bytes=settings.max_url_bytes,
            subset=settings.subset,
            mirror_url=mirror_url,
        ),
        _indirect={each.uri: each for each in readers if not each.is_direct},
    )


def _open_ids(
    settings: ManifestSettings, files: ManifestFiles, *, http: HttpSettings, http_retry: RetryPolicy
) -> ByteSource:
    if files.format != "json" or files.count > 1:
        found = f"{files.count} files" if files.count > 1 else files.format
        raise ManifestError(
            f"EMBEDDER_IDS_URI goes with a JSON array of URLs in one file, but the manifest is {found}; unset it"
        )
    is_same_server = urlsplit(settings.ids_uri)[:2] == urlsplit(files.sources[0].uri)[:2]
    token = settings.manifest_token.get_secret_value() if is_same_server else ""
    ids = open_source(settings.ids_uri, http, http_retry=http_retry, token=token, setting="EMBEDDER_IDS_URI")
    check_content(ids, files.format)
    return ids
