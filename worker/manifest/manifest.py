"""The manifest: the list of images, and which of its rows are a chunk's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from common.errors import ManifestError
from common.format.chunk_file import Failure
from worker.manifest.columns import resolve_sources
from worker.manifest.json_rows import JsonRows
from worker.manifest.local_source import local_path
from worker.manifest.open_source import is_remote, open_source
from worker.manifest.row_check import RowCheck
from worker.manifest.text_rows import DelimitedRows, JsonLinesRows, TextRows

if TYPE_CHECKING:
    from pathlib import Path

    from worker.manifest.byte_source import ByteSource
    from worker.manifest.raw_rows import RowReader
    from worker.rows import Row
    from worker.settings import HttpSettings, ManifestSettings

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "txt",
    ".json": "json",
}
"""By the ending of the manifest's name."""

_COMPRESSED_ENDINGS = {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".7z", ".br", ".lzma", ".tgz", ".tar", ".z"}
_COMPRESSED_STARTS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "LZ4",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}
_PARQUET_START = b"PAR1"
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16 or UTF-32", b"\xfe\xff": "UTF-16", b"\0\0\xfe\xff": "UTF-32"}


@dataclass(frozen=True)
class ManifestChunk:
    """Rows and failures together are the chunk's rows, numbered from 0 in the manifest's order."""

    rows: list[Row]
    failures: list[Failure]
    """The rows that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    name: str
    """Of the manifest, for people: without passwords and signatures."""
    identity: str
    """What changes when the rows do: format, columns, and size and hash (or ETag) of the content."""
    has_ids: bool
    sources: tuple[str, ...]
    """Where an image is looked for, in order; `url` and `original` both mean the row's URL."""
    folder: Path | None
    """Against which relative paths resolve; None for a remote manifest, which has none."""
    _reader: RowReader = field(repr=False)
    _check: RowCheck = field(repr=False)

    def read_chunk(self, index: int, count: int) -> ManifestChunk:
        """Return chunk `index` of `count`.

        Raises ManifestError when the manifest is damaged, and SourceUnavailable when it cannot be read or changed since
        it was opened.
        """
        if not 0 <= index < count:
            raise ValueError(f"chunk {index} of {count}")
        rows: list[Row] = []
        failures: list[Failure] = []
        for position, raw in enumerate(self._reader.read(index, count)):
            checked = self._check.check(raw, position)
            if isinstance(checked, Failure):
                failures.append(checked)
            else:
                rows.append(checked)
        return ManifestChunk(rows, failures)


def open_manifest(settings: ManifestSettings, *, http: HttpSettings) -> Manifest:
    """Return the manifest that the settings name; of its rows none is read yet.

    Raises ManifestError when there is none or it is none that can be used, StoreAccessDenied when it may not be read,
    and SourceUnavailable when nobody can say.
    """
    uri = settings.manifest_uri
    source = open_source(uri, http)
    kind = _format(uri, settings, name=source.name)
    _check_content(source, kind)
    ids = _open_ids(settings, kind, http)
    reader = _open_reader(source, ids, kind, settings)
    columns = reader.columns
    sources = resolve_sources(settings.sources, columns, name=source.name)
    return Manifest(
        name=source.name,
        # The columns are part of it, since a setting may choose others from the same content.
        identity=" ".join(
            [kind, *(columns.present if columns else []), *(each.identity for each in (source, ids) if each)]
        ),
        has_ids=reader.has_ids,
        sources=sources,
        folder=None if is_remote(uri) else local_path(uri).parent,
        _reader=reader,
        _check=RowCheck(is_remote=is_remote(uri), max_url_bytes=settings.max_url_bytes),
    )


def _open_reader(source: ByteSource, ids: ByteSource | None, kind: str, settings: ManifestSettings) -> RowReader:
    if kind == "parquet":
        # pyarrow takes 30 MB and 0.1 s, which the other formats need not spend.
        from worker.manifest.parquet_rows import ParquetRows  # noqa: PLC0415

        return ParquetRows(source, settings)
    if kind == "json":
        return JsonRows(source, ids)
    if kind == "jsonl":
        return JsonLinesRows(source, settings)
    if kind == "txt":
        return TextRows(source)
    return DelimitedRows(source, settings, delimiter="\t" if kind == "tsv" else ",")


def _open_ids(settings: ManifestSettings, kind: str, http: HttpSettings) -> ByteSource | None:
    if not settings.ids_uri:
        return None
    if kind != "json":
        raise ManifestError(f"EMBEDDER_IDS_URI goes with a JSON array of URLs, but the manifest is {kind}; unset it")
    ids = open_source(settings.ids_uri, http)
    _check_content(ids, kind)
    return ids


def _format(uri: str, settings: ManifestSettings, *, name: str) -> str:
    path = unquote(urlsplit(uri).path) if is_remote(uri) and not uri.startswith("s3://") else uri
    ending = PurePosixPath(path).suffix.lower()
    if ending in _COMPRESSED_ENDINGS:
        raise _compressed(name, ending)
    if settings.manifest_format != "auto":
        return settings.manifest_format
    if ending not in FORMATS:
        raise ManifestError(
            f"{name} does not end in {', '.join(FORMATS)}, so its format is unknown; name it in "
            "EMBEDDER_MANIFEST_FORMAT (csv, tsv, parquet, jsonl, txt or json)"
        )
    return FORMATS[ending]


def _check_content(source: ByteSource, kind: str) -> None:
    """Raise ManifestError when the first bytes show that the content is not what it is taken for."""
    start = source.read(0, min(8, source.size))
    if not start:
        raise ManifestError(f"{source.name} is empty")
    for magic, compression in _COMPRESSED_STARTS.items():
        if start.startswith(magic):
            raise _compressed(source.name, compression)
    if kind == "parquet":
        return
    if start.startswith(_PARQUET_START):
        raise ManifestError(f"{source.name} is a Parquet file, not {kind}; set EMBEDDER_MANIFEST_FORMAT to parquet")
    for mark, encoding in _OTHER_ENCODINGS.items():
        if start.startswith(mark):
            raise ManifestError(f"{source.name} is text in {encoding}; store it as UTF-8")


def _compressed(name: str, how: str) -> ManifestError:
    return ManifestError(
        f"{name} is compressed ({how}), so no pod could find its own rows without reading all others; store it "
        "uncompressed, or as Parquet, which is compressed within"
    )
