"""The size of the pictures in an AVIF as AV1's own headers have it, which the decoder believes.

The boxes of a file say how large the image is to become, and the decoder scales what it decodes to that size. So a file
of 64 x 64 pixels may hold a picture of 16,384 x 16,384.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from worker.decode.boxes import boxes, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.decode.boxes import Buffer

_HEADER_BYTES = 64
"""The number of bytes in which the first sequence header of a picture lies: few follow the marker of a time unit."""

_MAX_PICTURES = 4096
"""Number of pictures of a file that are looked at: the tiles of a large image, its transparency, a thumbnail."""

_SEQUENCE_HEADER, _TEMPORAL_DELIMITER = 1, 2
"""AV1's types of units."""


def coded_sizes(data: Buffer) -> Iterator[tuple[int, int]]:
    """Yield (height, width) of the pictures in an AVIF whose headers can be found. Nothing is raised for any bytes."""
    for meta in named(boxes(data), b"meta"):
        inside = list(boxes(data, meta.start + 4, meta.end))
        stored_here = next((box.start for box in named(inside, b"idat")), 0)
        for places in named(inside, b"iloc"):
            try:
                for number, start in enumerate(_item_starts(bytes(data[places.start : places.end]), stored_here)):
                    if number < _MAX_PICTURES and (size := _size(bytes(data[start : start + _HEADER_BYTES]))):
                        yield size
            except (struct.error, IndexError):
                return  # a cut box


def _item_starts(places: bytes, stored_here: int) -> Iterator[int]:
    """Yield the offset of the first byte of each item, from the content of the box iloc."""
    version = places[0]
    offset_bytes, length_bytes, base_bytes, index_bytes = (
        *divmod(places[4], 16),
        *divmod(places[5], 16),
    )
    if version == 0:
        index_bytes = 0
    at = 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(places):
            raise struct.error
        return int.from_bytes(places[at - size : at])

    for _ in range(number(4 if version == 2 else 2)):
        number(4 if version == 2 else 2)  # the item's name
        is_here = version > 0 and number(2) & 15 == 1
        number(2)  # the file, which is this one
        base = number(base_bytes)
        for extent in range(number(2)):
            number(index_bytes)
            offset = number(offset_bytes)
            number(length_bytes)
            if extent == 0:
                yield base + offset + (stored_here if is_here else 0)


class _Bits:
    """Reads numbers from the highest bit on. Bits behind the end are zeros."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        shifted = self._bits >> self._left if self._left >= 0 else self._bits << -self._left
        return shifted & ((1 << count) - 1)


def _size(data: bytes) -> tuple[int, int] | None:
    """Return (height, width) from the first sequence header, or None if the bytes do not begin as AV1 does."""
    at = 0
    while at < len(data):
        kind, has_extension, has_size = data[at] >> 3, data[at] & 4, data[at] & 2
        if kind not in {_SEQUENCE_HEADER, _TEMPORAL_DELIMITER} or not has_size:
            return None
        at += 2 if has_extension else 1
        size, shift = 0, 0
        while at < len(data):
            size |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                break
        if kind == _SEQUENCE_HEADER:
            return _sequence_size(_Bits(data[at : at + size]))
        at += size
    return None


def _sequence_size(bits: _Bits) -> tuple[int, int] | None:
    """Return (height, width) from a sequence header (AV1 specification, 5.5.1)."""
    bits.read(4)  # profile, still picture
    if bits.read(1):  # the short header of a still picture
        bits.read(5)
    else:
        if bits.read(1):
            return None  # times, as in a film
        has_delay = bits.read(1)
        for _ in range(1 + bits.read(5)):
            bits.read(12)
            if bits.read(5) > 7:
                bits.read(1)
            if has_delay and bits.read(1):
                bits.read(4)
    width_bits, height_bits = 1 + bits.read(4), 1 + bits.read(4)
    width = 1 + bits.read(width_bits)
    return 1 + bits.read(height_bits), width
