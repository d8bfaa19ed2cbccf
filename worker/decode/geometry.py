"""Where the pixels of the model's square lie in an image: OpenAI's Resize and CenterCrop, as numbers."""

from __future__ import annotations

from typing import NamedTuple

PREPROCESSING_VERSION = "openai-square-1"
"""Part of the fingerprint: changes whenever a pixel that the model sees may."""


class Geometry(NamedTuple):
    """The image resized to (height, width), of which the square of `size` pixels starts at (top, left)."""

    height: int
    width: int
    top: int
    left: int
    size: int

    def is_vertical_first(self, *, height: int, width: int) -> bool:
        """Tell whether Pillow resizes a (height, width) image down its columns before along its rows.

        Between the two passes pixels are rounded, so their order shows: by up to 25 of 255 in noise. The condition is
        that of Pillow 13; images less than twice as high as wide are resized along their rows first by every version.
        """
        return height - self.height > max(0, 2 * (width - self.width))

    def source_box(self, *, height: int, width: int) -> tuple[float, float, float, float]:
        """Return (left, top, right, bottom) of the square in the pixels of the unresized (height, width) image."""
        across, down = width / self.width, height / self.height
        return (
            self.left * across,
            self.top * down,
            (self.left + self.size) * across,
            (self.top + self.size) * down,
        )


def square_geometry(*, height: int, width: int, size: int) -> Geometry:
    """Return how CLIP takes its square of `size` pixels from a (height, width) image.

    As in the transform OpenAI published with CLIP: the short side becomes `size`, the long one is truncated, not
    rounded (torchvision's Resize), and the crop's offset is rounded half to even (torchvision's CenterCrop), not
    floored as in transformers' processor. Raises ValueError for an image without pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {width} x {height} pixels has none")
    if width <= height:
        resized_height, resized_width = int(size * height / width), size
    else:
        resized_height, resized_width = size, int(size * width / height)
    top = round((resized_height - size) / 2)
    left = round((resized_width - size) / 2)
    return Geometry(resized_height, resized_width, top, left, size)
