"""Whether a file is shorter than its header says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.decode.boxes import boxes, is_in_boxes

if TYPE_CHECKING:
    from worker.decode.boxes import Buffer


def is_cut(data: Buffer) -> bool:
    """Tell whether a WebP, TIFF, AVIF, HEIC or JPEG 2000 is cut. Their decoders report a cut file as damaged."""
    start = bytes(data[:16])
    if len(start) >= 8 and start.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(start[4:8], "little")
    if len(start) >= 8 and start.startswith((b"II*\0", b"MM\0*")):
        # The header says where the directory starts, which may be after the pixels.
        return len(data) < int.from_bytes(start[4:8], "little" if start.startswith(b"I") else "big") + 2
    if len(start) == 16 and start.startswith(b"II+\0"):  # BigTIFF
        return len(data) < int.from_bytes(start[8:16], "little") + 8
    if start.startswith(b"\xff\x4f\xff\x51"):  # a code stream of JPEG 2000, which has an end marker
        return bytes(data[-2:]) != b"\xff\xd9"
    if is_in_boxes(data):
        # The last box is cut, or its header is, or what the first boxes announce is not there.
        ends = [box.end for box in boxes(data)]
        return len(ends) < 2 or ends[-1] != len(data)
    return False
