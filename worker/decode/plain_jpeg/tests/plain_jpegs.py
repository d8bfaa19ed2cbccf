"""Plain JPEGs, and their squares by the compiled code and by the libraries.

python -m worker.decode.plain_jpeg.tests.plain_jpegs LIBRARY decodes thousands of damaged files with the
library compiled at this path.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import simplejpeg

from tests.worker.images import encoded, every_kind, mutations, photo
from worker.decode.geometry import square_geometry
from worker.decode.plain_jpeg import square as plain_jpeg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

PLAIN_KINDS = {"JPEG", "JPEG 4:4:4", "JPEG grey", "JPEG with restart markers", "JPEG of two pictures"}


def plain_files() -> dict[str, bytes]:
    """Return small plain JPEGs of every kind, 216 x 144 pixels, by kind."""
    kinds = every_kind(photo())
    files = {kind: kinds[kind] for kind in PLAIN_KINDS - {"JPEG of two pictures"}}
    return files | {"JPEG 4:2:2": plain_jpeg_of(photo(), "4:2:2", quality=97)}


def plain_jpeg_of(picture: Image.Image, subsampling: str, **options: int | bool) -> bytes:
    """Return an RGB picture as a plain JPEG; `subsampling` may be `grey`."""
    if subsampling == "grey":
        return encoded(picture.convert("L"), "JPEG", **options)
    return encoded(picture, "JPEG", subsampling=subsampling, **options)


def compiled_square(data: bytes, *, height: int = 0, width: int = 0, size: int = 224) -> NDArray[np.uint8] | None:
    """Return the square by the compiled code; the image's height and width as the header says, unless given."""
    if not height:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    geometry = square_geometry(height=height, width=width, size=size)
    return plain_jpeg.plain_square(data, height=height, width=width, geometry=geometry, buffer=bytearray)


def library_square(data: bytes, *, size: int = 224) -> NDArray[np.uint8]:
    """Return the square by libjpeg-turbo and torch. Raises ValueError where anything about the file is amiss."""
    import torch  # noqa: PLC0415 - which does not load beside the sanitizers

    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if colorspace == "Gray" else "RGB")
    geometry = square_geometry(height=height, width=width, size=size)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None],
        size=(geometry.height, geometry.width),
        mode="bicubic",
        antialias=True,
    )
    square = resized[0, :, geometry.top : geometry.top + size, geometry.left : geometry.left + size]
    square_of_three: NDArray[np.uint8] = square.permute(1, 2, 0).expand(size, size, 3).numpy()
    return square_of_three


def main(library: str) -> None:
    plain_jpeg._library = plain_jpeg.load(Path(library))
    files = 0
    for number, (_, data) in enumerate(sorted(plain_files().items())):
        for damaged in mutations(data, count=1000, seed=number):
            files += 1
            compiled_square(damaged, height=144, width=216)
    sys.stdout.write(f"{files} files\n")


if __name__ == "__main__":
    main(sys.argv[1])
