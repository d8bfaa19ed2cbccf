"""Squares equal those of the published preprocessing, for every photo, format and mode, and for extreme sizes."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.worker.decode.reference import published_square, published_square_of, widest_difference
from tests.worker.images import PHOTOS, SIXTEEN_BIT, encoded, every_kind, mutations, noise, photo
from worker.decode.pillow_square import MAX_WHOLE_ASPECT
from worker.decode.preprocess import LARGE_PIXELS, MAX_FAST_ASPECT, image_square
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Pillow warns of palettes whose transparency is lost. The program drops it on purpose, like the published transform.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

JPEG_BOUND = 2
"""Largest difference (0 to 255) for images that torch resizes instead of Pillow: JPEGs of 8 bits in YCbCr or grey."""

LONG_BOUND = 2
"""Largest difference (0 to 255) for images above MAX_WHOLE_ASPECT, of which only the crop is resized."""

EXACT = 0
"""Largest difference for all other images: PNG, GIF, WebP, BMP, TIFF, and progressive, CMYK and RGB JPEGs."""

NO_LIMIT = 10**9

FAST_KINDS = {"JPEG", "JPEG 4:4:4", "JPEG grey", "JPEG with restart markers", "JPEG of two pictures"}
KINDS = every_kind(photo())


def square(data: bytes, *, rotation: int = 0, size: int = 224) -> NDArray[np.uint8]:
    pixels = image_square(data, rotation=rotation, size=size, max_pixels=NO_LIMIT)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (size, size, 3)
    return pixels.numpy()


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_every_photo_in_every_rotation_has_the_published_square(path: Path) -> None:
    data = path.read_bytes()
    for rotation in (0, 90, 180, 270):
        expected = published_square(data, rotation=rotation)
        assert widest_difference(square(data, rotation=rotation), expected) <= JPEG_BOUND, rotation


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_every_photo_has_the_published_square_of_336_pixels(path: Path) -> None:
    data = path.read_bytes()
    assert widest_difference(square(data, size=336), published_square(data, size=336)) <= JPEG_BOUND


def test_over_all_photos_the_mean_difference_is_less_than_a_hundredth() -> None:
    differences = [
        np.abs(square(data).astype(np.int16) - published_square(data)).mean()
        for data in (path.read_bytes() for path in PHOTOS)
    ]
    assert np.mean(differences) < 0.01


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - SIXTEEN_BIT))
def test_every_format_and_mode_has_the_published_square(kind: str, rotation: int) -> None:
    expected = published_square(KINDS[kind], rotation=rotation)
    bound = JPEG_BOUND if kind in FAST_KINDS else EXACT
    assert widest_difference(square(KINDS[kind], rotation=rotation), expected) <= bound


@pytest.mark.parametrize(("kind", "bound"), [("JPEG", JPEG_BOUND), ("JPEG progressive", EXACT)])
def test_a_damaged_jpeg_is_refused_if_pillow_refuses_it_and_else_has_pillows_pixels(kind: str, bound: int) -> None:
    refused, variants = 0, mutations(KINDS[kind], count=400, seed=5)
    for variant in variants:
        try:
            expected = published_square(variant)
        except (OSError, ValueError, SyntaxError):
            refused += 1
            with pytest.raises(ImageFailed):
                square(variant)
        else:
            assert widest_difference(square(variant), expected) <= bound
    assert 0 < refused < len(variants)


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_to_eight_and_not_clipped(format_name: str, byte_order: str) -> None:
    values = np.asarray(noise("I;16", 320, 240))
    data = encoded(Image.fromarray(values.astype(byte_order)), format_name)
    expected = published_square_of(Image.fromarray((values >> 8).astype(np.uint8)))
    assert widest_difference(square(data), expected) == EXACT


SHAPES = [
    (1, 1),
    (1, 2),
    (3, 2),
    (223, 225),
    (224, 224),
    (224, 500),
    (225, 224),
    (336, 336),
    (333, 500),
    (640, 448),
    (900, 224),
    (896, 224),
    (224, 897),
    (50, 199),
    (100, 900),
    (1600, 7),
    (6, 1592),
    (27, 1700),
    (64, 1),
    (1, 64),
]
"""Shapes on both sides of every limit, upscaled and downscaled, resized vertically first and horizontally first."""


@pytest.mark.parametrize("size", [224, 336])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_noise_of_every_shape_as_jpeg_is_within_the_bound(mode: str, size: int) -> None:
    for width, height in SHAPES:
        data = encoded(noise(mode, width, height), "JPEG", quality=95)
        expected = published_square(data, size=size)
        bound = JPEG_BOUND if max(width, height) <= MAX_WHOLE_ASPECT * min(width, height) else LONG_BOUND
        assert widest_difference(square(data, size=size), expected) <= bound, (width, height)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_noise_of_every_shape_as_png_has_the_published_pixels(mode: str) -> None:
    for width, height in SHAPES:
        data = encoded(noise(mode, width, height), "PNG", compress_level=1)
        bound = EXACT if max(width, height) <= MAX_WHOLE_ASPECT * min(width, height) else LONG_BOUND
        if bound == EXACT or mode in {"L", "RGB"}:
            assert widest_difference(square(data), published_square(data)) <= bound, (width, height)


@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    mode=st.sampled_from(["L", "RGB"]),
    rotation=st.sampled_from([0, 90, 180, 270]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=40)
def test_any_jpeg_of_noise_in_any_rotation_is_within_the_bound(
    width: int, height: int, mode: str, rotation: int, seed: int
) -> None:
    data = encoded(noise(mode, width, height, seed=seed), "JPEG", quality=90)
    expected = published_square(data, rotation=rotation)
    assert widest_difference(square(data, rotation=rotation), expected) <= JPEG_BOUND


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize(("width", "height"), [(650, 10), (10, 650), (3000, 30), (700, 1), (1, 700)])
def test_images_too_long_to_resize_whole_are_within_the_bound(mode: str, width: int, height: int) -> None:
    assert max(width, height) > MAX_WHOLE_ASPECT * min(width, height)
    data = encoded(noise(mode, width, height), "PNG")
    expected, found = published_square(data), square(data)
    if mode in {"L", "RGB"}:
        assert widest_difference(found, expected) <= LONG_BOUND
    else:
        # In a nearly transparent pixel, a difference of one becomes a large difference of its colour. So a few pixels
        # may differ more.
        assert np.mean(np.abs(found.astype(np.int16) - expected) > LONG_BOUND) < 0.01


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(("format_name", "longest"), [("PNG", 65_535), ("JPEG", 65_500)])
def test_the_longest_panorama_shows_its_centre(format_name: str, longest: int, rotation: int) -> None:
    data = encoded(noise("L", longest, 1), format_name)
    with Image.open(io.BytesIO(data)) as image:
        row = np.asarray(image)[0].astype(np.float64)
    found = square(data, rotation=rotation)
    if rotation:
        found = np.rot90(found, -1)
    expected = bicubic_centre(row, size=224)
    assert np.abs(found[..., 0] - expected).max() <= LONG_BOUND
    assert (found == found[0, :, :1]).all()


def bicubic_centre(row: NDArray[np.float64], *, size: int) -> NDArray[np.float64]:
    """Return the middle `size` values of a grey row that is enlarged `size` times by Keys' kernel with a = -1/2."""
    offset = round((size * len(row) - size) / 2)
    values = []
    for place in range(offset, offset + size):
        centre = (place + 0.5) / size
        taps = range(math.floor(centre - 0.5) - 1, math.floor(centre - 0.5) + 3)
        values.append(sum(row[tap] * _keys(abs(tap + 0.5 - centre)) for tap in taps))
    return np.asarray(values, dtype=np.float64).clip(0, 255)


def _keys(distance: float) -> float:
    if distance < 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2 if distance < 2 else 0.0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF CMYK"])
def test_a_rotation_is_counter_clockwise_and_comes_before_the_crop(kind: str) -> None:
    with Image.open(io.BytesIO(KINDS[kind])) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    assert widest_difference(square(KINDS[kind], rotation=90), published_square_of(turned)) <= JPEG_BOUND


@pytest.mark.parametrize(
    "kind", ["GIF animated", "WebP animated", "PNG animated", "TIFF of two pages", "AVIF animated"]
)
def test_of_many_pictures_the_first_is_taken(kind: str) -> None:
    with Image.open(io.BytesIO(KINDS[kind])) as image:
        assert getattr(image, "n_frames", 1) == 2
    of_one = {
        "GIF animated": "GIF",
        "WebP animated": "WebP",
        "PNG animated": "PNG",
        "TIFF of two pages": "TIFF",
        "AVIF animated": "AVIF",
    }
    # The frames of an animation are compressed against each other, without loss except in WebP and AVIF.
    assert widest_difference(square(KINDS[kind]), square(KINDS[of_one[kind]])) <= (40 if kind[0] in "WA" else 1)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_of_exif_is_not_applied(format_name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn 90 degrees clockwise
    turned, plain = encoded(photo(), format_name, exif=exif), encoded(photo(), format_name)
    assert np.array_equal(square(turned), square(plain))


def test_pillow_applies_the_orientation_of_a_tiff() -> None:
    data = encoded(photo(), "TIFF", tiffinfo={0x0112: 6})
    upright = published_square_of(photo().transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(square(data), upright)
    assert np.array_equal(published_square(data), upright)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_and_icc_profiles_change_no_pixel(format_name: str) -> None:
    plain = encoded(photo(), format_name)
    for junk in (b"", b"\xff" * 40, b"II*\0\xff\xff\xff\xff"):
        broken = encoded(photo(), format_name, exif=b"Exif\0\0" + junk, icc_profile=b"no profile" + junk)
        assert np.array_equal(square(broken), square(plain))


def test_bytes_after_a_jpeg_change_nothing() -> None:
    data = KINDS["JPEG"]
    for tail in (b"\0" * 100, b"<html><script>alert(1)</script></html>", b"PK\x03\x04" + bytes(50), data):
        assert np.array_equal(square(data + tail), square(data))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG grey", "PNG", "WebP"])
def test_bytes_may_be_in_any_kind_of_buffer(kind: str) -> None:
    expected = square(KINDS[kind])
    for data in (bytearray(KINDS[kind]), memoryview(KINDS[kind])):
        assert np.array_equal(image_square(data, max_pixels=NO_LIMIT).numpy(), expected)


@pytest.mark.parametrize("format_name", ["JPEG", "BMP"])
def test_a_large_image_has_the_published_square(format_name: str) -> None:
    image = photo().resize((6600, 4900), Image.Resampling.BILINEAR)
    assert image.width * image.height > LARGE_PIXELS
    assert image.width < MAX_FAST_ASPECT * image.height
    data = encoded(image, format_name)
    assert widest_difference(square(data), published_square(data)) <= (JPEG_BOUND if format_name == "JPEG" else EXACT)
