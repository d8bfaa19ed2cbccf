"""What bytes are that are no readable image, for people: an HTML page, a video, a JPEG XL image without its plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.decode.boxes import brands
from worker.decode.file_kinds import plugin_of, registered

if TYPE_CHECKING:
    from worker.decode.boxes import Buffer

_TEXT_BYTES = 2048
"""Number of bytes of a text that are looked at."""

_VIDEO_BRANDS = {
    *(b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42"),
    *(b"avc1", b"M4V ", b"qt  ", b"3gp4", b"3gp5"),
}

_BINARY_KINDS = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (0, b"MM\0+", "a BigTIFF with the high byte first, which Pillow does not read"),
    (0, b"8BPS", "a Photoshop image"),
    (0, b"gimp xcf", "a GIMP image"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?R", "a Radiance HDR image"),
    (0, b"DDS ", "a DDS image"),
    (0, b"II\xbc\x01", "a JPEG XR image"),
    (0, b"BPG\xfb", "a BPG image"),
    (0, b"FLIF", "a FLIF image"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw image"),
    (0, b"IIRO", "a camera's raw image"),
    (0, b"IIU\0", "a camera's raw image"),
    (0, b"P1\n", "a PNM image"),
    (0, b"P2\n", "a PNM image"),
    (0, b"P3\n", "a PNM image"),
    (0, b"P4\n", "a PNM image"),
    (0, b"P5", "a PNM image"),
    (0, b"P6", "a PNM image"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"\0\0\x01\xba", "a video (MPEG)"),
    (0, b"\0\0\x01\xb3", "a video (MPEG)"),
    (0, b"FLV\x01", "a video (Flash)"),
    (0, b"OggS", "an Ogg file"),
    (0, b"ID3", "an MP3 file"),
    (0, b"PK\3\4", "a ZIP archive or an Office document"),
    (0, b"\xd0\xcf\x11\xe0", "an Office document"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data"),
    (0, b"BZh", "bzip2 data"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (4, b"moov", "a video (QuickTime)"),
    (8, b"AVI LIST", "a video (AVI)"),
    (8, b"WAVEfmt ", "a sound (WAVE)"),
    (128, b"DICM", "a DICOM image"),
    (257, b"ustar", "a tar archive"),
)
"""Offsets, the bytes that lie there in files of a kind, and the name of the kind."""

_TEXT_KINDS = (
    (("<svg", "<!doctype svg"), "an SVG drawing"),
    (("<!doctype html", "<html", "<head", "<body", "<script"), "an HTML page"),
    (("<?xml",), "an XML document"),
    (("version https://git-lfs",), "a pointer of Git LFS, not the file itself"),
    (("data:image/", "/9j/", "ivborw0kggo", "r0lgod", "uklgr"), "the text of an image in base64"),
    (("{", "["), "a JSON document"),
)
"""First letters of texts in lower case, and the name of the kind."""


def description(data: Buffer) -> str:
    """Return what bytes that are no readable image are, with their number and the first ones."""
    if not len(data):
        return "no bytes"
    kind = _image_kind(data) or _binary_kind(data) or _text_kind(bytes(data[:_TEXT_BYTES]))
    seen = f"{len(data)} bytes that start with {bytes(data[:16])!r}"
    return f"{kind}: {seen}" if kind else seen


def _image_kind(data: Buffer) -> str:
    plugin = plugin_of(data)
    if plugin is None:
        return ""
    name = f"a {plugin.name} image"
    return f"{name} that cannot be read" if registered(plugin) else f"{name}; install {plugin.package} to read it"


def _binary_kind(data: Buffer) -> str:
    start = bytes(data[:512])
    for at, signature, kind in _BINARY_KINDS:
        if start[at : at + len(signature)] == signature:
            return kind
    found = brands(data)
    if b"crx " in found:
        return "a camera's raw image"
    if found & _VIDEO_BRANDS:
        return "a video"
    return "" if any(start) else "zeros"


def _text_kind(start: bytes) -> str:
    """Return the name of a text by its first bytes, or "" if they are not a text."""
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = start.decode(encoding, "ignore").strip().lower()
    if not text or any(not letter.isprintable() and letter not in "\r\n\t" for letter in text):
        return ""
    if text.startswith(("<?xml", "<!--")):
        for tag, kind in (("<svg", "an SVG drawing"), ("<html", "an HTML page")):
            if tag in text:
                return kind
    return next((kind for starts, kind in _TEXT_KINDS if text.startswith(starts)), "a text")
