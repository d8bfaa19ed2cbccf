"""The geometry is that of the published formulas, which the tests compute independently."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.worker.images import noise
from worker.decode.geometry import square_geometry

SIDES = st.integers(min_value=1, max_value=65_535)
SQUARES = st.sampled_from([224, 336])


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (224, 224, (224, 224, 0, 0)),
        (1024, 768, (224, 298, 0, 37)),
        (768, 1024, (298, 224, 37, 0)),
        (1024, 683, (224, 335, 0, 56)),  # 335.8 is truncated; an offset of 55.5 goes to the even 56
        (1024, 681, (224, 336, 0, 56)),
        (683, 1024, (335, 224, 56, 0)),
        (500, 333, (224, 336, 0, 56)),
        (225, 224, (224, 225, 0, 0)),  # an offset of 0.5 goes to the even 0
        (227, 224, (224, 227, 0, 2)),  # 1.5 to the even 2
        (1, 1, (224, 224, 0, 0)),
        (65_535, 1, (224, 14_679_840, 0, 7_339_808)),
    ],
)
def test_known_images_have_the_published_geometry(width: int, height: int, expected: tuple[int, int, int, int]) -> None:
    assert square_geometry(height=height, width=width, size=224) == (*expected, 224)


@given(width=SIDES, height=SIDES, size=SQUARES)
@settings(deadline=None)
def test_the_square_lies_within_the_resized_image(width: int, height: int, size: int) -> None:
    geometry = square_geometry(height=height, width=width, size=size)
    assert min(geometry.height, geometry.width) == size == geometry.size
    assert 0 <= geometry.top <= geometry.height - size
    assert 0 <= geometry.left <= geometry.width - size


@given(width=SIDES, height=SIDES, size=SQUARES)
@settings(deadline=None)
def test_the_long_side_is_truncated_and_the_offset_rounded_half_to_even(width: int, height: int, size: int) -> None:
    geometry = square_geometry(height=height, width=width, size=size)
    long, short = max(width, height), min(width, height)
    # For integers this small, a float quotient is a whole number only if the exact quotient is.
    exact_long = Fraction(size * long, short).__floor__()
    exact_offset = round(Fraction(exact_long - size, 2))
    landscape = width > height
    assert (geometry.width if landscape else geometry.height) == exact_long
    assert (geometry.left if landscape else geometry.top) == exact_offset
    assert (geometry.top if landscape else geometry.left) == 0


@given(width=SIDES, height=SIDES, size=SQUARES)
@settings(deadline=None)
def test_a_rotated_image_has_the_rotated_geometry(width: int, height: int, size: int) -> None:
    geometry = square_geometry(height=height, width=width, size=size)
    turned = square_geometry(height=width, width=height, size=size)
    assert turned == (geometry.width, geometry.height, geometry.left, geometry.top, size)


@given(width=SIDES, height=SIDES, size=SQUARES)
@settings(deadline=None)
def test_the_source_box_is_centred_and_shows_a_square_of_the_image(width: int, height: int, size: int) -> None:
    geometry = square_geometry(height=height, width=width, size=size)
    left, top, right, bottom = geometry.source_box(height=height, width=width)
    assert left >= 0
    assert top >= 0
    assert right <= width * (1 + 1e-12)
    assert bottom <= height * (1 + 1e-12)
    # Rounding the offset moves the square by half a pixel of the resized image. That pixel has `across` x `down` pixels
    # of the original image.
    across, down = width / geometry.width, height / geometry.height
    assert abs((left + right) / 2 - width / 2) <= across / 2 * (1 + 1e-9) + 1e-9
    assert abs((top + bottom) / 2 - height / 2) <= down / 2 * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (-1, 5), (5, -1)])
def test_an_image_without_pixels_has_no_geometry(width: int, height: int) -> None:
    with pytest.raises(ValueError, match=f"{width} x {height}"):
        square_geometry(height=height, width=width, size=224)


@pytest.mark.parametrize(
    ("width", "height"),
    [
        (300, 300),
        (300, 600),
        (300, 900),
        (500, 1100),
        (230, 700),
        (900, 300),
        (224, 900),
        (100, 900),
        (400, 2000),
        (9, 80),
    ],
)
def test_the_order_of_the_passes_is_pillows(width: int, height: int) -> None:
    geometry = square_geometry(height=height, width=width, size=224)
    image = noise("L", width, height)
    across, down = (geometry.width, height), (width, geometry.height)
    first = down if geometry.is_vertical_first(height=height, width=width) else across
    both = (geometry.width, geometry.height)
    in_passes = image.resize(first, Image.Resampling.BICUBIC).resize(both, Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(in_passes), np.asarray(image.resize(both, Image.Resampling.BICUBIC)))
