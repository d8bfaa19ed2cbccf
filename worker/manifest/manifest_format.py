"""The format of a manifest: from its name, checked against its first bytes."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from common.errors import ManifestError

if TYPE_CHECKING:
    from worker.manifest.byte_source import ByteSource

Format = Literal["csv", "tsv", "parquet", "jsonl", "txt", "json"]

FORMATS: dict[str, Format] = {
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
"""The formats by the ending of the manifest's name."""

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
_UTF_32_STARTS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF_16_STARTS = (b"\xff\xfe", b"\xfe\xff")


def find_format(uri: str, wanted: Format | Literal["auto"], *, name: str) -> Format:
    """Return the format of the manifest at `uri`: the one that is `wanted`, or for `auto` that of the name's ending.

    Raises ManifestError for the ending of a compressed file, and for an unknown ending.
    """
    path = unquote(urlsplit(uri).path) if uri.lower().startswith(("http://", "https://")) else uri
    ending = PurePosixPath(path).suffix.lower()
    if ending in _COMPRESSED_ENDINGS:
        raise _compressed(name, ending)
    if wanted != "auto":
        return wanted
    if ending not in FORMATS:
        raise ManifestError(
            f"{name} does not end in {', '.join(FORMATS)}, so its format is unknown; name it in "
            "EMBEDDER_MANIFEST_FORMAT (csv, tsv, parquet, jsonl, txt or json)"
        )
    return FORMATS[ending]


def check_content(source: ByteSource, expected: Format) -> None:
    """Raise ManifestError when the first bytes show that the content does not have the expected format."""
    start = source.read(0, min(8, source.size))
    if not start:
        raise ManifestError(f"{source.name} is empty")
    for magic, compression in _COMPRESSED_STARTS.items():
        if start.startswith(magic):
            raise _compressed(source.name, compression)
    if expected == "parquet":
        return
    if start.startswith(_PARQUET_START):
        raise ManifestError(f"{source.name} is a Parquet file, not {expected}; set EMBEDDER_MANIFEST_FORMAT to parquet")
    if start.startswith(_UTF_32_STARTS) or (expected == "json" and start.startswith(_UTF_16_STARTS)):
        encoding = "UTF-32" if start.startswith(_UTF_32_STARTS) else "UTF-16"
        raise ManifestError(f"{source.name} is text in {encoding}; store it as UTF-8")


def _compressed(name: str, how: str) -> ManifestError:
    return ManifestError(
        f"{name} is compressed ({how}), so a pod cannot read its own rows without reading all rows before them; store "
        "it uncompressed, or as Parquet, which is compressed inside: `embedder list LIST list.parquet` writes the "
        "decompressed list so"
    )
