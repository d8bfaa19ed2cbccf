"""Small pictures for people: of every kind of image, upright, on white, without metadata."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.worker.images import encoded, every_kind, photo
from worker.decode.picture import picture_as_array, picture_of_slot, small_picture
from worker.rows import ImageFailed, LargeImage


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.load()
    return image


@pytest.mark.parametrize("kind", every_kind(photo()))
def test_every_kind_of_image_becomes_a_small_jpeg(kind: str) -> None:
    picture = opened(small_picture(every_kind(photo())[kind], side=90, max_pixels=10**6))
    assert (picture.size, picture.mode) == ((90, 60), "RGB")


def test_a_small_image_is_not_enlarged() -> None:
    assert opened(small_picture(encoded(photo(), "PNG"), side=1000, max_pixels=10**6)).size == (216, 144)


def test_a_picture_is_upright_and_has_no_metadata() -> None:
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned
    exif[270] = "a secret place"
    picture = opened(small_picture(encoded(photo(), "JPEG", exif=exif), side=90, max_pixels=10**6))
    assert picture.size == (60, 90)
    assert not picture.getexif()
    expected = photo().transpose(Image.Transpose.ROTATE_270).resize((60, 90))
    assert np.abs(np.asarray(picture, np.int16) - np.asarray(expected, np.int16)).mean() < 8


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 20, 40))
    picture = np.asarray(opened(small_picture(encoded(clear, "PNG"), side=40, max_pixels=10**6)))
    assert picture[20, 35].min() > 245
    assert picture[20, 5, 2] > 200


def test_limits_are_those_of_a_square() -> None:
    with pytest.raises(ImageFailed, match="too_many_pixels"):
        small_picture(encoded(photo(), "PNG"), side=90, max_pixels=1000)
    with pytest.raises(LargeImage):
        small_picture(encoded(Image.new("1", (8000, 5000)), "PNG"), side=90, max_pixels=10**9, may_be_large=False)
    with pytest.raises(ImageFailed, match="not_an_image"):
        small_picture(b"hello", side=90, max_pixels=1000)


def test_a_slot_gives_the_picture_that_was_put_into_it() -> None:
    slot = np.full((8, 8, 3), 7, np.uint8)
    array = picture_as_array(b"picture")
    slot.reshape(-1)[: len(array)] = array
    assert picture_of_slot(slot) == b"picture"
