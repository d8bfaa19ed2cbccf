"""Writes TIFFs of every kind of sample, which Pillow reads and does not write."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, SEPARATED = 0, 1, 2, 5
"""Values of PhotometricInterpretation."""

_SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}
_TYPES = {"ascii": 2, "short": 3, "long": 4}


def tiff(
    values: NDArray[Any],
    *,
    big_endian: bool = False,
    photometric: int = BLACK_IS_ZERO,
    planar: bool = False,
    extra_samples: tuple[int, ...] = (),
    nodata: str | None = None,
    deflate: bool = False,
) -> bytes:
    """Return a TIFF of (height, width) or (height, width, samples) values in one strip, or one for each plane."""
    order: Literal["<", ">"] = ">" if big_endian else "<"
    samples = values[..., None] if values.ndim == 2 else values
    height, width, count = samples.shape
    ordered = samples.astype(samples.dtype.newbyteorder(order))
    planes = [ordered[..., each] for each in range(count)] if planar else [ordered]
    strips = [zlib.compress(plane.tobytes()) if deflate else plane.tobytes() for plane in planes]
    offsets = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    tags: dict[int, tuple[str, tuple[int, ...] | bytes]] = {
        256: ("long", (width,)),
        257: ("long", (height,)),
        258: ("short", (8 * values.dtype.itemsize,) * count),
        259: ("short", (8 if deflate else 1,)),
        262: ("short", (photometric,)),
        273: ("long", tuple(offsets)),
        277: ("short", (count,)),
        278: ("long", (height,)),
        279: ("long", tuple(map(len, strips))),
        284: ("short", (2 if planar else 1,)),
        339: ("short", (_SAMPLE_FORMATS[values.dtype.kind],) * count),
    }
    if extra_samples:
        tags[338] = ("short", extra_samples)
    if nodata is not None:
        tags[42113] = ("ascii", nodata.encode() + b"\0")
    return _file(order, b"".join(strips), tags)


def _file(order: str, pixels: bytes, tags: dict[int, tuple[str, Any]]) -> bytes:
    pixels += bytes(len(pixels) % 2)
    directory = 8 + len(pixels)
    behind, entries = b"", []
    for tag in sorted(tags):
        kind, values = tags[tag]
        packed = (
            values
            if kind == "ascii"
            else struct.pack(f"{order}{len(values)}{'H' if kind == 'short' else 'I'}", *values)
        )
        if len(packed) > 4:
            place = directory + 2 + 12 * len(tags) + 4 + len(behind)
            behind += packed + bytes(len(packed) % 2)
            packed = struct.pack(f"{order}I", place)
        entries.append(struct.pack(f"{order}HHI", tag, _TYPES[kind], len(values)) + packed.ljust(4, b"\0"))
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", directory)
    return head + pixels + struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4) + behind


def twelve_bits(values: NDArray[np.uint16]) -> bytes:
    """Return a TIFF of grey of 12 bits: two values in three bytes. The width must be even."""
    first, second = values[:, ::2].astype(np.uint16), values[:, 1::2].astype(np.uint16)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8)
    height, width = values.shape
    return _file(
        "<",
        packed.tobytes(),
        {
            256: ("long", (width,)),
            257: ("long", (height,)),
            258: ("short", (12,)),
            259: ("short", (1,)),
            262: ("short", (BLACK_IS_ZERO,)),
            273: ("long", (8,)),
            277: ("short", (1,)),
            278: ("long", (height,)),
            279: ("long", (packed.size,)),
        },
    )
