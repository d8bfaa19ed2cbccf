"""Sizes that headers announce, where a decoder allocates memory before Pillow says how large the image is.

WebP        the decoder allocates as soon as it opens the file, for an animation two canvases
JPEG 2000   Pillow believes the container's header, the decoder the code stream's
AVIF, HEIC  the decoder refuses very large images as damaged ones, and believes AV1's own headers
JPEG XL     Pillow's plugin decodes the whole image as soon as it opens the file
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from worker.decode.av1 import coded_sizes
from worker.decode.boxes import JXL_SIGNATURE, boxes, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.decode.boxes import Buffer

_J2K_START = b"\xff\x4f\xff\x51"
"""The first bytes of a code stream of JPEG 2000: its start, and the marker SIZ that holds the size."""

_JXL_START = b"\xff\x0a"
"""The first bytes of a code stream of JPEG XL."""

_JXL_SIDE_BITS = (9, 13, 18, 30)
"""The numbers of bits in which JPEG XL writes the length of a side."""

_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""The ratios of width to height that JPEG XL writes as a number from 1 to 7, instead of the width."""


def announced_size(data: Buffer) -> tuple[int, int] | None:
    """Return (height, width) as the decoder will take it, or None where Pillow tells it in time."""
    start = bytes(data[:30])
    if len(start) == 30 and start[:4] == b"RIFF" and start[8:15] == b"WEBPVP8":
        return _webp_size(start)
    for stream in _code_streams(data, start):
        if stream.startswith(_J2K_START) and len(stream) >= 24:
            right, bottom, left, top = (int.from_bytes(stream[at : at + 4]) for at in (8, 12, 16, 20))
            return max(0, bottom - top), max(0, right - left)
        if stream.startswith(_JXL_START):
            return _jxl_size(int.from_bytes(stream[2:14], "little"))
    if start[4:8] == b"ftyp":
        sizes = chain(_item_sizes(data), coded_sizes(data))
        return max(sizes, key=lambda size: size[0] * size[1], default=None)
    return None


def _webp_size(start: bytes) -> tuple[int, int] | None:
    kind = start[12:16]
    if kind == b"VP8X":  # the canvas of an extended file
        return 1 + int.from_bytes(start[27:30], "little"), 1 + int.from_bytes(start[24:27], "little")
    if kind == b"VP8L":  # without loss: 14 bits for each side
        sides = int.from_bytes(start[21:25], "little")
        return 1 + (sides >> 14 & 0x3FFF), 1 + (sides & 0x3FFF)
    width, height = int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF
    return (height, width) if kind == b"VP8 " else None


def _item_sizes(data: Buffer) -> Iterator[tuple[int, int]]:
    """Yield (height, width) of each image in an AVIF or HEIC: the image, its transparency, its tiles, a thumbnail."""
    for meta in named(boxes(data), b"meta"):
        for properties in named(boxes(data, meta.start + 4, meta.end), b"iprp"):
            for container in named(boxes(data, properties.start, properties.end), b"ipco"):
                for box in boxes(data, container.start, container.end):
                    if box.kind == b"ispe" and box.end <= len(data):
                        width, height = data[box.start + 4 : box.start + 8], data[box.start + 8 : box.start + 12]
                        yield int.from_bytes(height), int.from_bytes(width)


def _code_streams(data: Buffer, start: bytes) -> Iterator[bytes]:
    """Yield the first bytes of each code stream of JPEG 2000 or JPEG XL."""
    if start.startswith((_J2K_START, _JXL_START)):
        yield start
    elif start.startswith((b"\0\0\0\x0cjP  ", JXL_SIGNATURE)):
        for box in boxes(data):
            if box.kind in {b"jp2c", b"jxlc"}:
                yield bytes(data[box.start : box.start + 30])
            elif box.kind == b"jxlp":  # a part of the code stream, after its number
                yield bytes(data[box.start + 4 : box.start + 34])


def _jxl_size(bits: int) -> tuple[int, int]:
    """Return (height, width) from the first bits of JPEG XL's size header, the lowest bit first."""

    def read(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    def side(*, is_small: int) -> int:
        return 8 * (1 + read(5)) if is_small else 1 + read(_JXL_SIDE_BITS[read(2)])

    is_small = read(1)
    height = side(is_small=is_small)
    if ratio := read(3):
        across, down = _JXL_RATIOS[ratio - 1]
        return height, height * across // down
    return height, side(is_small=is_small)
