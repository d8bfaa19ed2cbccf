"""Where the model's square lies in an image: OpenAI's Resize and CenterCrop as numbers."""

from __future__ import annotations

from typing import NamedTuple

PREPROCESSING_VERSION = "openai-square-2"
"""Version of the preprocessing in the fingerprint. Increase it with every change that may alter a pixel of a square."""


class Geometry(NamedTuple):
    """The size (height, width) of the resized image, and the corner (top, left) of its square of `size` pixels."""

    height: int
    width: int
    top: int
    left: int
    size: int

    def is_vertical_first(self, *, height: int, width: int) -> bool:
        """Tell whether Pillow resizes a (height, width) image vertically before horizontally.

        Pixels are rounded between the two passes, so the order of the passes makes a difference: up to 25 of 255 in
        noise. The condition is that of Pillow 13. Every version of Pillow begins horizontally for an image that is less
        than twice as high as wide.
        """
        return height - self.height > max(0, 2 * (width - self.width))

    def source_box(self, *, height: int, width: int) -> tuple[float, float, float, float]:
        """Return (left, top, right, bottom) of the square, in pixels of the original (height, width) image."""
        across, down = width / self.width, height / self.height
        return (
            self.left * across,
            self.top * down,
            (self.left + self.size) * across,
            (self.top + self.size) * down,
        )


def square_geometry(*, height: int, width: int, size: int) -> Geometry:
    """Return how CLIP takes its square of `size` pixels from a (height, width) image.

    This is the transform that OpenAI published with CLIP. The short side becomes `size`, and the long side is
    truncated, not rounded (torchvision's Resize). The offset of the crop is rounded half to even (torchvision's
    CenterCrop), not floored as in the processor of transformers. An image of 1024 x 683 pixels becomes 335 x 224,
    because 224 * 1024 / 683 is 335.8, and its square starts at 56, because the offset is 55.5.

    Raises ValueError for an image without pixels.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {width} x {height} pixels has no pixels")
    if width <= height:
        resized_height, resized_width = int(size * height / width), size
    else:
        resized_height, resized_width = size, int(size * width / height)
    top = round((resized_height - size) / 2)
    left = round((resized_width - size) / 2)
    return Geometry(resized_height, resized_width, top, left, size)
