"""Which of Pillow's formats may read a file, by its first bytes. A plugin for one is loaded when such a file comes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from PIL import AvifImagePlugin, Image

from worker.decode.boxes import JP2_SIGNATURE, JXL_SIGNATURE, brands

if TYPE_CHECKING:
    from worker.decode.boxes import Buffer

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", AvifImagePlugin.AvifImageFile.format, "JPEG2000")
"""Pillow's names of the formats that are decoded. Hostile bytes reach the decoder of each, so the list is short."""

SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"),
    *(b"II*\0", b"MM\0*", b"II+\0"),
    *(b"\xff\x4f\xff\x51", JP2_SIGNATURE),
)
"""First bytes of files that count as damaged images when Pillow cannot read their header."""

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_VIDEO_BRANDS = {
    b"isom",
    b"iso2",
    b"iso4",
    b"iso5",
    b"iso6",
    b"mp41",
    b"mp42",
    b"avc1",
    b"M4V ",
    b"qt  ",
    b"3gp4",
    b"3gp5",
}

# One thread for each image: the decoders themselves are as many processes as there are cores.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class Plugin(NamedTuple):
    """A package that teaches Pillow a format."""

    name: str
    """The format's usual name."""
    format_names: tuple[str, ...]
    """Pillow's names of the format."""
    modules: tuple[str, ...]
    """The modules of which one registers the format, the most common first."""
    package: str
    """The package to install if there is none."""


HEIC = Plugin("HEIC", ("HEIF",), ("pillow_heif", "pi_heif"), "pillow-heif")
JPEG_XL = Plugin("JPEG XL", ("JXL", "JPEGXL"), ("pillow_jxl", "jxlpy.JXLImagePlugin"), "pillow-jxl-plugin")


def formats_of(data: Buffer) -> tuple[str, ...]:
    """Return Pillow's names of the formats that may read the file; none if Pillow or its plugin for it cannot."""
    if bytes(data[:4]) == b"MM\0+":
        return ()  # Pillow takes it for a TIFF, but reads offsets of 32 bits
    plugin = plugin_of(data)
    return FORMATS if plugin is None else registered(plugin)


def plugin_of(data: Buffer) -> Plugin | None:
    """Return the plugin that the file needs, or None."""
    start = bytes(data[:12])
    if start.startswith(b"\xff\x0a") or start == JXL_SIGNATURE:
        return JPEG_XL
    if start[4:8] == b"ftyp":
        found = brands(data)
        if found & _HEIC_BRANDS and not found & _AVIF_BRANDS:
            return HEIC
    return None


def is_image(data: Buffer) -> bool:
    """Tell whether the file begins as an image that Pillow reads, whatever follows."""
    return bytes(data[:12]).startswith(SIGNATURES) or bool(brands(data) & (_AVIF_BRANDS | {b"mif1", b"msf1"}))


def registered(plugin: Plugin) -> tuple[str, ...]:
    """Return Pillow's names of the plugin's format, after loading the plugin; none if it is not installed."""
    if names := tuple(name for name in plugin.format_names if name in Image.OPEN):
        return names
    for name in plugin.modules:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, "register_heif_opener"):
            module.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
        if hasattr(module, "JpegXLImagePlugin"):
            module.JpegXLImagePlugin.DECODE_THREADS = 0  # none beside the one that decodes
        return tuple(name for name in plugin.format_names if name in Image.OPEN)
    return ()
