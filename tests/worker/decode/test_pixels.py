"""Every kind of sample becomes the picture that it holds, or a failure: never a black or white square in silence."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common.format.reasons import Reason
from tests.worker.decode.reference import published_square, published_square_of, widest_difference
from tests.worker.images import encoded, photo, png
from tests.worker.tiffs import RGB, SEPARATED, WHITE_IS_ZERO, tiff, twelve_bits
from worker.decode.preprocess import image_square
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

GREY: NDArray[np.uint8] = np.asarray(photo().convert("L")).clip(1, 255)
"""(144, 216) values from 1 to 255, so that no sixteenth of a range is left empty."""

COLOURS: NDArray[np.uint8] = np.asarray(photo())

EXACT, ROUNDED, CUT_OFF = 0, 1, 2
"""Largest difference (0 to 255) from the square of the same picture in 8 bits. Pillow rounds integers of 32 bits once
instead of twice, and does not round floats but cuts them off."""


def square(data: bytes) -> NDArray[np.uint8]:
    return image_square(data, max_pixels=10**7).numpy()


def reason(data: bytes) -> Reason:
    with pytest.raises(ImageFailed) as caught:
        square(data)
    return caught.value.reason


def grey_square(values: NDArray[Any] = GREY) -> NDArray[np.uint8]:
    return published_square_of(Image.fromarray(values.astype(np.uint8)))


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(
    ("kind", "scale", "bound"),
    [
        ("uint16", 1, EXACT),
        ("uint16", 4, EXACT),
        ("uint16", 16, EXACT),
        ("uint16", 257, EXACT),
        ("int16", 1, ROUNDED),
        ("int16", 16, EXACT),
        ("int32", 1, ROUNDED),
        ("int32", 257, EXACT),
        ("float32", 1 / 255, ROUNDED),
        ("float32", 1, CUT_OFF),
        ("float32", 16, EXACT),
        ("float32", 257, EXACT),
    ],
)
def test_grey_of_a_plain_range_is_the_picture(
    kind: str, scale: float, bound: int, *, big_endian: bool, deflate: bool
) -> None:
    data = tiff((GREY * np.float64(scale)).astype(kind), big_endian=big_endian, deflate=deflate)
    assert widest_difference(square(data), grey_square()) <= bound


@pytest.mark.parametrize(("kind", "mode"), [("int32", "I"), ("int16", "I"), ("float32", "F")])
def test_values_up_to_255_have_the_published_square(kind: str, mode: str) -> None:
    data = tiff(GREY.astype(kind))
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
    assert widest_difference(square(data), published_square(data)) == EXACT


def test_uint32_up_to_255_is_the_picture() -> None:
    assert widest_difference(square(tiff(GREY.astype(np.uint32))), grey_square()) <= ROUNDED


@pytest.mark.parametrize("brightest", [255, 100])
def test_grey_of_12_bits_is_never_made_darker_or_lighter(brightest: int) -> None:
    values = GREY.astype(np.uint16) * brightest // 255
    data = twelve_bits((values << 4).astype(np.uint16))
    assert widest_difference(square(data), grey_square(values)) == EXACT


@pytest.mark.parametrize(("kind", "scale"), [("uint16", 257), ("float32", 1 / 255)])
def test_where_white_is_zero_the_picture_is_no_negative(kind: str, scale: float) -> None:
    data = tiff(((255 - GREY) * np.float64(scale)).astype(kind), photometric=WHITE_IS_ZERO)
    assert widest_difference(square(data), grey_square()) <= ROUNDED


def with_a_corner(value: float, scale: float = 1 / 255) -> NDArray[np.float32]:
    values = GREY.astype(np.float32) * np.float32(scale)
    values[:9, :9] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        with_a_corner(np.nan),
        with_a_corner(np.inf),
        with_a_corner(-np.inf),
        with_a_corner(-3.4e38),
        with_a_corner(1e6),
        (GREY / 127.5 - 1).astype(np.float32),
        (GREY / 50).astype(np.float32),
        (GREY / 5000).astype(np.float32),
        GREY.astype(np.int32) * 2**16,
        GREY.astype(np.int32) * 2**23,
        GREY.astype(np.uint32) * 2**24,
        GREY.astype(np.int32) - 128,
        (GREY.astype(np.int32) - 128).astype(np.int16) * 100,
        GREY.astype(np.int32) // 100,
        (GREY > 100).astype(np.uint16),
    ],
    ids=lambda values: f"{values.dtype} {values.min():g} to {values.max():g}",
)
def test_grey_of_an_unknown_range_is_a_failure(values: NDArray[Any]) -> None:
    assert reason(tiff(values)) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize(
    ("corner", "nodata"), [(np.nan, "nan"), (-9999.0, "-9999"), (np.float32(-3.4028235e38), "-3.4028234663852886e+38")]
)
def test_what_was_not_measured_is_black(corner: float, nodata: str) -> None:
    expected = GREY.copy()
    expected[:9, :9] = 0
    found = square(tiff(with_a_corner(corner), nodata=nodata))
    assert widest_difference(found, grey_square(expected)) <= ROUNDED


def test_values_a_little_beyond_their_range_are_cut_off() -> None:
    expected = GREY.copy()
    expected[:9, :9] = 255
    assert widest_difference(square(tiff(with_a_corner(1.05))), grey_square(expected)) <= ROUNDED


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "uint32", "float32"])
def test_a_picture_that_is_black_stays_black(kind: str) -> None:
    assert not square(tiff(np.zeros((20, 30), kind))).any()


@pytest.mark.parametrize(("kind", "white"), [("uint16", 65_535), ("uint16", 255), ("int32", 65_535), ("float32", 1)])
def test_a_picture_that_is_white_stays_white(kind: str, white: int) -> None:
    assert (square(tiff(np.full((20, 30), white, kind))) == 255).all()


@given(
    low=st.floats(allow_nan=True, allow_infinity=True, width=32),
    high=st.floats(allow_nan=True, allow_infinity=True, width=32),
)
@settings(deadline=None, max_examples=200)
def test_no_two_values_that_differ_make_a_square_of_one_dark_or_light_colour(low: float, high: float) -> None:
    values = np.full((16, 16), low, np.float32)
    values[:, 8:] = high
    try:
        brightest = int(square(tiff(values)).max())
    except ImageFailed:
        return
    assert low == high == 0 or brightest >= 15


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("scale", [1, 4, 16, 257])
def test_colours_of_16_bits_show_the_bits_that_they_use(scale: int, *, big_endian: bool) -> None:
    expected = published_square_of(Image.fromarray(COLOURS))
    values = COLOURS.astype(np.uint16) * scale
    opaque = np.full((*values.shape[:2], 1), 65_535, np.uint16)
    for deflate in (False, True):
        options: dict[str, Any] = {"photometric": RGB, "big_endian": big_endian, "deflate": deflate}
        assert widest_difference(square(tiff(values, **options)), expected) == EXACT
        with_alpha = tiff(np.concatenate([values, opaque], axis=-1), extra_samples=(2,), **options)
        assert widest_difference(square(with_alpha), expected) == EXACT
    inks = np.asarray(Image.fromarray(COLOURS).convert("CMYK"))
    found = square(tiff(inks.astype(np.uint16) * scale, photometric=SEPARATED, big_endian=big_endian))
    assert widest_difference(found, published_square_of(Image.fromarray(inks, "CMYK"))) == EXACT


def deep_png(colour_type: int, values: NDArray[np.uint16]) -> bytes:
    height, width = values.shape[:2]
    rows = values.reshape(height, -1).astype(">u2").tobytes()
    length = len(rows) // height
    data = zlib.compress(b"".join(b"\0" + rows[at : at + length] for at in range(0, len(rows), length)))
    return png(struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0), data=data)


@pytest.mark.parametrize("scale", [1, 16, 257])
def test_a_png_of_16_bits_shows_the_bits_that_it_uses(scale: int) -> None:
    grey, colours = GREY.astype(np.uint16) * scale, COLOURS.astype(np.uint16) * scale
    opaque = np.full((*grey.shape, 1), 65_535, np.uint16)
    in_colours = published_square_of(Image.fromarray(COLOURS))
    assert widest_difference(square(deep_png(0, grey)), grey_square()) == EXACT
    assert widest_difference(square(deep_png(2, colours)), in_colours) == EXACT
    assert widest_difference(square(deep_png(6, np.concatenate([colours, opaque], -1))), in_colours) == EXACT
    assert widest_difference(square(deep_png(4, np.concatenate([grey[..., None], opaque], -1))), grey_square()) == EXACT


def test_sixteen_bits_in_separate_planes_are_read_where_pillow_can() -> None:
    values = COLOURS.astype(np.uint16) * 257
    expected = published_square_of(Image.fromarray(COLOURS))
    assert widest_difference(square(tiff(values, photometric=RGB, planar=True, deflate=True)), expected) == EXACT
    assert widest_difference(square(tiff(COLOURS, photometric=RGB, planar=True)), expected) == EXACT
    # Pillow would take the two bytes of a value for two pixels.
    assert reason(tiff(values, photometric=RGB, planar=True)) is Reason.UNSUPPORTED_PIXELS


@pytest.mark.parametrize(
    "data",
    [
        tiff(GREY.astype(np.float16)),
        tiff(GREY.astype(np.float64)),
        tiff(GREY.astype(np.uint64)),
        tiff(GREY.astype(np.int16), photometric=WHITE_IS_ZERO),
        tiff(COLOURS.astype(np.float32) / 255, photometric=RGB),
        tiff(np.stack([GREY] * 5, axis=-1), extra_samples=(0, 0, 0, 0)),
    ],
)
def test_pixels_that_pillow_cannot_read_are_named(data: bytes) -> None:
    with pytest.raises(ImageFailed, match=r"BitsPerSample \((8|16|32|64),") as caught:
        square(data)
    assert caught.value.reason is Reason.UNSUPPORTED_PIXELS


def test_grey_that_is_multiplied_by_its_transparency_is_read() -> None:
    values = np.stack([GREY, np.full_like(GREY, 255)], axis=-1)
    assert widest_difference(square(tiff(values, extra_samples=(1,))), grey_square()) == EXACT


@pytest.mark.parametrize("mode", ["1", "LA", "LAB", "YCbCr", "P", "PA", "CMYK", "RGBX"])
def test_a_tiff_of_any_mode_has_the_published_square(mode: str) -> None:
    if mode == "LAB":
        image = Image.frombytes("LAB", photo().size, photo().convert("YCbCr").tobytes())
    else:
        image = photo().convert("P").convert("PA") if mode == "PA" else photo().convert(mode)
    data = encoded(image, "TIFF")
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == {"RGBX": "RGB"}.get(mode, mode)
    assert widest_difference(square(data), published_square(data)) == EXACT


def test_a_jpeg_of_12_bits_is_named() -> None:
    data = bytearray(encoded(photo(), "JPEG", progressive=True))
    data[data.index(b"\xff\xc2") + 4] = 12
    with pytest.raises(ImageFailed, match="cannot handle 12-bit layers") as caught:
        square(bytes(data))
    assert caught.value.reason is Reason.UNSUPPORTED_PIXELS


def transparent(colours: NDArray[np.uint8], alpha: NDArray[np.uint8] | int) -> Image.Image:
    image = Image.fromarray(colours)
    image.putalpha(Image.fromarray(alpha) if isinstance(alpha, np.ndarray) else alpha)
    return image


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_a_picture_all_of_which_is_transparent_is_shown_without_its_transparency(format_name: str) -> None:
    data = encoded(transparent(COLOURS, 0), format_name)
    assert widest_difference(square(data), published_square_of(Image.fromarray(COLOURS))) == EXACT


@pytest.mark.parametrize("under_the_ink", [0, 255])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "WEBP", "AVIF"])
def test_a_picture_that_is_in_its_transparency_alone_is_a_failure(format_name: str, under_the_ink: int) -> None:
    ink = np.zeros_like(COLOURS)
    ink[GREY < 40] = under_the_ink  # where the picture is transparent, its colour is not seen
    drawn = np.where(GREY < 40, 0, 255).astype(np.uint8)
    assert reason(encoded(transparent(ink, drawn), format_name)) is Reason.UNSUPPORTED_PIXELS


def test_a_palette_whose_picture_is_in_its_transparency_alone_is_a_failure() -> None:
    image = Image.fromarray((GREY > 100).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 0])
    assert reason(encoded(image, "PNG", transparency=0)) is Reason.UNSUPPORTED_PIXELS


def test_what_is_black_and_transparent_everywhere_stays_black() -> None:
    assert not square(encoded(transparent(np.zeros_like(COLOURS), 0), "PNG")).any()
    assert not square(encoded(transparent(np.zeros_like(COLOURS), 255), "PNG")).any()


def test_a_bitmap_of_32_bits_without_any_transparency_in_it_is_the_picture() -> None:
    data = encoded(transparent(COLOURS, 0), "BMP")
    assert widest_difference(square(data), published_square_of(Image.fromarray(COLOURS))) == EXACT
