"""Plain JPEGs, and their squares by the compiled code and by the libraries.

`python -m worker.decode.plain_jpeg.tests.plain_jpegs LIBRARY` decodes thousands of damaged files with the compiled code
at the path LIBRARY.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import simplejpeg

from tests.worker.images import encoded, every_kind, mutations, photo
from worker.decode.geometry import square_geometry
from worker.decode.plain_jpeg import plain_square
from worker.decode.plain_jpeg import square as square_module

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from worker.decode.geometry import Geometry

PLAIN_KINDS = {"JPEG", "JPEG 4:4:4", "JPEG grey", "JPEG with restart markers", "JPEG of two pictures"}


def plain_files() -> dict[str, bytes]:
    """Return small plain JPEGs of every kind, 216 x 144 pixels, by kind."""
    kinds = every_kind(photo())
    files = {kind: kinds[kind] for kind in PLAIN_KINDS - {"JPEG of two pictures"}}
    return files | {"JPEG 4:2:2": plain_jpeg_of(photo(), "4:2:2", quality=97)}


def plain_jpeg_of(picture: Image.Image, subsampling: str, **options: int | bool) -> bytes:
    """Return an RGB picture as a plain JPEG. `subsampling` may also be `grey`."""
    if subsampling == "grey":
        return encoded(picture.convert("L"), "JPEG", **options)
    return encoded(picture, "JPEG", subsampling=subsampling, **options)


def grey_file(*, dc: bytes, ac: bytes) -> bytes:
    """Return a grey JPEG of 32 x 32 pixels with these Huffman tables. Each of its 16 blocks is two bits 0."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes(1) + b"\1" * 64),
            segment(0xC0, bytes([8, 0, 32, 0, 32, 1, 1, 0x11, 0])),
            segment(0xC4, b"\x00" + dc),
            segment(0xC4, b"\x10" + ac),
            segment(0xDA, bytes([1, 1, 0, 0, 63, 0])),
            bytes(4),
            b"\xff\xd9",
        ]
    )


def huffman_table(counts: list[int]) -> bytes:
    """Return a Huffman table with `counts` codes of 1, 2, ... bits, for the symbols 0, 1, ..."""
    return bytes(counts + [0] * (16 - len(counts))) + bytes(range(sum(counts)))


def compiled_square(
    data: bytes, *, height: int = 0, width: int = 0, size: int = 224, geometry: Geometry | None = None
) -> NDArray[np.uint8] | None:
    """Return the square by the compiled code. Height and width are the header's, unless they are given.

    The square is CLIP's of `size` pixels, unless another geometry is given.
    """
    if not height:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    geometry = geometry or square_geometry(height=height, width=width, size=size)
    return plain_square(data, height=height, width=width, geometry=geometry, buffer=bytearray)


def library_square(data: bytes, *, size: int = 224, geometry: Geometry | None = None) -> NDArray[np.uint8]:
    """Return the square by libjpeg-turbo and torch. Raises ValueError if anything is wrong with the file.

    The square is CLIP's of `size` pixels, unless another geometry is given.
    """
    import torch  # noqa: PLC0415 - torch cannot be loaded together with the sanitizers

    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if colorspace == "Gray" else "RGB")
    at = geometry or square_geometry(height=height, width=width, size=size)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None],  # (1, channels, height, width)
        size=(at.height, at.width),
        mode="bicubic",
        antialias=True,
    )
    square = resized[0, :, at.top : at.top + at.size, at.left : at.left + at.size]
    result: NDArray[np.uint8] = square.permute(1, 2, 0).expand(at.size, at.size, 3).numpy()  # (size, size, 3)
    return result


def main(library: str) -> None:
    square_module._library = square_module.load(Path(library))
    files = 0
    for number, (_, data) in enumerate(sorted(plain_files().items())):
        for damaged in mutations(data, count=1000, seed=number):
            files += 1
            compiled_square(damaged, height=144, width=216)
    sys.stdout.write(f"{files} files\n")


if __name__ == "__main__":
    main(sys.argv[1])
