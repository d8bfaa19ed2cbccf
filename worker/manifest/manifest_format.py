"""The format of a manifest: from the names of its files, checked against their first bytes."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from common.errors import ManifestError
from worker.manifest.tar_header import BLOCK, is_tar_header

if TYPE_CHECKING:
    from worker.manifest.places.byte_source import ByteSource

Format = Literal["csv", "tsv", "parquet", "jsonl", "txt", "json", "tar", "images"]

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
    ".tar": "tar",
}
"""The formats by the ending of the manifest's name."""

PICTURE_ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
        *(".jp2", ".j2k", ".jpx", ".heic", ".heif", ".jxl"),
    }
)
"""The endings of files that are pictures."""

COMPRESSED_ENDINGS = frozenset(
    {".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4", ".7z", ".rar", ".br", ".lzma", ".tgz", ".z", ".snappy"}
)
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
_COMPRESSED_TAR = re.compile(r"\.tar\.[a-z0-9]+\Z|\.t(?:gz|bz2?|xz|zst)\Z")
_UNPACKED_BY = {
    **dict.fromkeys((".gz", ".tgz", "gzip"), "gunzip unpacks it"),
    **dict.fromkeys((".bz2", "bzip2"), "bunzip2 unpacks it"),
    **dict.fromkeys((".xz", "xz"), "unxz unpacks it"),
    **dict.fromkeys((".zst", "Zstandard"), "unzstd unpacks it"),
}
_SPREADSHEETS = {".xlsx", ".xls", ".xlsm", ".ods", ".numbers"}
_ARCHIVES = {".zip", ".7z", ".rar", "zip", "7-Zip"}
_OTHER_TABLES = {
    *(".arrow", ".feather", ".orc", ".avro", ".pkl", ".pickle", ".h5", ".hdf5", ".npy", ".npz", ".tfrecord"),
    *(".sqlite", ".db", ".xml", ".yaml", ".yml"),
}
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|\?xml)", re.IGNORECASE)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_UTF_32_STARTS = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF_16_STARTS = (b"\xff\xfe", b"\xfe\xff")
_NUMBERED = re.compile(r"\.[a-z]+(?=[0-9]+\Z)")


def ending_of(name: str) -> str:
    """Return the ending of a file's path or URL in lower case, with its dot; an empty text if it has none.

    The number of a part is left out of an ending that is a format's: Unsplash calls its lists `photos.tsv000`.
    """
    path = unquote(urlsplit(name).path) if name.lower().startswith(("http://", "https://")) else name
    ending = PurePosixPath(path).suffix.lower()
    numbered = _NUMBERED.match(ending)
    return numbered[0] if numbered and numbered[0] in FORMATS else ending


def format_of(name: str) -> Format | None:
    """Return the format of a file by its ending, None for an unknown one."""
    ending = ending_of(name)
    return "images" if ending in PICTURE_ENDINGS else FORMATS.get(ending)


def find_format(uri: str, wanted: Format | Literal["auto"], *, name: str) -> Format:
    """Return the format of the file at `uri`: the one that is `wanted`, or for `auto` that of the name's ending.

    Raises ManifestError for the ending of a compressed file, and for an unknown ending.
    """
    ending = ending_of(uri)
    if ending in COMPRESSED_ENDINGS:
        raise compressed(name, ending)
    found = format_of(uri) if wanted == "auto" else wanted
    if found is None and name.endswith("/"):
        raise ManifestError(
            f"{name} is a folder of a server, which cannot be listed; name its files, as in "
            f"{name}{{00000..00099}}.tar, or give a list of them"
        )
    if found is None and ending in _SPREADSHEETS:
        raise ManifestError(f"{name} is a spreadsheet; save it as CSV, and give that file")
    if found is None and ending in _OTHER_TABLES:
        raise ManifestError(f"{name} is {ending}, which is not read; write the list as Parquet, CSV or JSONL")
    if found is None:
        raise ManifestError(
            f"{name} does not end in {', '.join(FORMATS)} or as a picture does, so its format is unknown; name it in "
            "EMBEDDER_MANIFEST_FORMAT (csv, tsv, parquet, jsonl, txt, json, tar or images)"
        )
    return found


def check_content(source: ByteSource, expected: Format) -> None:
    """Raise ManifestError when the first bytes show that the content does not have the expected format."""
    start = source.read(0, min(BLOCK, source.size))
    if not start:
        raise ManifestError(f"{source.name} is empty")
    is_tar = is_tar_header(start)
    if expected == "tar" and (is_tar or start == bytes(BLOCK)):
        return
    _check_is_file_itself(start, expected, name=source.name)
    if compression := compression_of(start):
        raise compressed(source.name, compression, is_tar=expected == "tar")
    if expected == "parquet":
        return
    if expected == "tar":
        raise ManifestError(
            f"{source.name} is not a tar: its first {BLOCK} bytes are no header; name its format in "
            "EMBEDDER_MANIFEST_FORMAT if it is another one"
        )
    if is_tar:
        raise ManifestError(f"{source.name} is a tar, not {expected}; set EMBEDDER_MANIFEST_FORMAT to tar")
    if start.startswith(_PARQUET_START):
        raise ManifestError(f"{source.name} is a Parquet file, not {expected}; set EMBEDDER_MANIFEST_FORMAT to parquet")
    if start.startswith(_UTF_32_STARTS) or (expected == "json" and start.startswith(_UTF_16_STARTS)):
        encoding = "UTF-32" if start.startswith(_UTF_32_STARTS) else "UTF-16"
        raise ManifestError(f"{source.name} is text in {encoding}; store it as UTF-8")


def _check_is_file_itself(start: bytes, expected: Format, *, name: str) -> None:
    """Raise ManifestError where the content is what servers and Git have in place of a file."""
    if start.startswith(_LFS_POINTER):
        raise ManifestError(
            f"{name} is a pointer of Git LFS and not the file itself; fetch the file with `git lfs pull`"
        )
    if _PAGE.match(start):
        what = "a tar" if expected == "tar" else expected
        raise ManifestError(
            f"{name} is not {what} but a web page or XML, as servers send it in place of a file that is absent "
            "or needs a login; give the address at which the file itself is downloaded"
        )


def compression_of(start: bytes) -> str:
    """Return how content with these first bytes is compressed, an empty text if it is not."""
    return next((how for magic, how in _COMPRESSED_STARTS.items() if start.startswith(magic)), "")


def compressed(name: str, how: str, *, is_tar: bool = False) -> ManifestError:
    """Return the error for a file that is compressed as a whole."""
    if is_tar or _COMPRESSED_TAR.search(name.lower()):
        return ManifestError(
            f"{name} is compressed ({how}), so a picture in it cannot be read without all bytes before it; store the "
            f"plain tar: {_UNPACKED_BY.get(how, 'unpack it first')}"
        )
    if how in _ARCHIVES:
        return ManifestError(
            f"{name} is compressed ({how}), and files in an archive are not read; unpack it and give the folder of its "
            "pictures, or if it holds a list, store it uncompressed, or as Parquet"
        )
    return ManifestError(
        f"{name} is compressed ({how}), so a pod cannot read its own rows without reading all rows before them; store "
        "it uncompressed, or as Parquet, which is compressed inside: `embedder list LIST list.parquet` writes the "
        "decompressed list so"
    )
