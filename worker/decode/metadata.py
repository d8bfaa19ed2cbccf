"""Takes out of a file what is not needed for its pixels, so that damage there does not cost the image.

Texts, colour profiles, EXIF and XMP do not change a pixel of the square. But Pillow reads them: it refuses a PNG with a
text of more than 1 MiB or with a wrong check sum in a comment, a JPEG or AVIF with broken EXIF. Where a file is cut or
not built as its format says, the rest is left as it is, and the decoder finds the damage.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from worker.decode.boxes import boxes, is_in_boxes

if TYPE_CHECKING:
    from worker.decode.boxes import Buffer

_PNG = b"\x89PNG\r\n\x1a\n"

_MAX_PIECES = 100_000
"""Number of chunks or segments that are looked at. A PNG of 100 MB in the usual chunks of 8 KiB has 13,000."""

_TIFF_TAGS = {
    *(700, 33_723, 34_377, 34_675, 34_665, 34_853, 40_965),  # XMP, IPTC, Photoshop, ICC, EXIF, GPS, interoperability
    *(270, 271, 272, 285, 305, 306, 315, 316, 33_432, 37_724),  # texts
}
"""The tags of a TIFF that hold no pixels: other directories, profiles and texts."""


def without_metadata(data: Buffer) -> Buffer:
    """Return the file without its metadata, or the same file if it has none."""
    start = bytes(data[:8])
    if start == _PNG:
        return _png(data)
    if start.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if start.startswith((b"II", b"MM")):
        return _tiff(data)
    if is_in_boxes(data):
        return _without_exif_item(data)
    return data


def _png(data: Buffer) -> Buffer:
    """Leave out all chunks that a decoder may ignore. Their names begin with a small letter.

    Among them are those of an animation: what is left is the picture that programs show which know no animations.
    """
    view, at, kept = memoryview(data), len(_PNG), [memoryview(_PNG)]
    for _ in range(_MAX_PIECES):
        kind, end = bytes(view[at + 4 : at + 8]), at + 12 + int.from_bytes(view[at : at + 4])
        if end > len(view) or not kind.isalpha():
            break
        if kind[:1].isupper() or (kind == b"tRNS" and _is_good_transparency(view, at, end)):
            kept.append(view[at:end])
        at = end
        if kind == b"IEND":
            return b"".join(kept)
    return b"".join([*kept, view[at:]])


def _is_good_transparency(view: memoryview, start: int, end: int) -> bool:
    """Tell whether a chunk tRNS has its check sum, and as many bytes as the colours of the PNG need."""
    needed = {0: 2, 2: 6, 3: 0}.get(view[25])  # IHDR's colour type: grey, RGB, palette
    crc = zlib.crc32(view[start + 4 : end - 4])
    return needed is not None and end - start - 12 >= needed and crc == int.from_bytes(view[end - 4 : end])


def _jpeg(data: Buffer) -> Buffer:
    """Leave out comments and application segments before the first scan, but JFIF's and Adobe's, which name colours."""
    view, at, kept = memoryview(data), 2, [memoryview(b"\xff\xd8")]
    for _ in range(_MAX_PIECES):
        if at + 4 > len(view) or view[at] != 0xFF:
            break
        marker, end = view[at + 1], at + 2 + int.from_bytes(view[at + 2 : at + 4])
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA or end > len(view) or end < at + 4:
            break  # the first scan, or no segment
        if not (0xE1 <= marker <= 0xED or marker in {0xEF, 0xFE}):
            kept.append(view[at:end])
        at = end
    return b"".join([*kept, view[at:]])


def _tiff(data: Buffer) -> Buffer:
    """Give the entries of metadata in the first directory a type that does not exist, so that readers skip them."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    is_big = bytes(data[2:4]) in {b"+\0", b"\0+"}
    entry_bytes = 20 if is_big else 12
    changed: bytearray | None = None
    try:
        directory = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0]
        count = struct.unpack_from(order + ("Q" if is_big else "H"), data, directory)[0]
        first = directory + (8 if is_big else 2)
        for at in range(first, first + entry_bytes * min(count, 4096), entry_bytes):
            if struct.unpack_from(order + "H", data, at)[0] in _TIFF_TAGS:
                changed = changed or bytearray(data)
                changed[at + 2 : at + 4] = b"\0\0"
    except struct.error:
        pass  # a cut directory, which the decoder finds
    return data if changed is None else changed


def _without_exif_item(data: Buffer) -> Buffer:
    """Give the items of EXIF in an AVIF or HEIC another type, which readers do not know."""
    for box in boxes(data):
        if box.kind == b"meta":
            head = bytes(data[box.start : box.end])
            if b"Exif" not in head:
                return data
            changed = bytearray(data)
            changed[box.start : box.end] = head.replace(b"Exif", b"skip")
            return changed
    return data
