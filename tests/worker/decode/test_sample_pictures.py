"""The choice of a chunk's sample pictures, and their size."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from common.format.chunk_times import MAX_PICTURE_BYTES
from worker.decode.sample_pictures import SIDE, SamplePictures, picture_count, small_jpeg


def square(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((224, 224, 3), value, np.uint8)


@pytest.mark.parametrize("count", [1, 3, 24])
def test_the_choice_does_not_depend_on_the_order_in_which_images_arrive(count: int) -> None:
    embedded = [position for position in range(200) if position % 7]
    chosen = set()
    for seed in range(5):
        arriving = random.Random(seed).sample(embedded, len(embedded))
        pictures = SamplePictures(200, count)
        for start in range(0, len(arriving), 16):
            for position in pictures.wanted(arriving[start : start + 16]):
                pictures.keep(position, square(position))
        chosen.add(tuple(sorted(pictures.jpegs())))
    assert len(chosen) == 1
    (positions,) = chosen
    assert len(positions) == count
    assert positions[0] == 1


def test_a_square_that_is_overwritten_afterwards_stays_as_it_was() -> None:
    pictures, pool = SamplePictures(10, 1), square(200)
    pictures.keep(0, pool)
    pool[:] = 0
    with Image.open(io.BytesIO(pictures.jpegs()[0])) as picture:
        assert np.asarray(picture).min() > 190


def test_no_picture_is_large_not_even_of_noise() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    blocks = np.random.default_rng(2).integers(0, 256, (112, 112, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    for pixels in (noise, blocks):
        data = small_jpeg(pixels)
        assert len(data) <= MAX_PICTURE_BYTES
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (SIDE, SIDE)


def test_a_small_run_has_several_pictures_of_each_chunk_and_a_large_one_has_one() -> None:
    assert [picture_count(count) for count in (1, 5, 24, 900)] == [24, 5, 1, 1]


def test_a_chunk_without_rows_has_no_picture() -> None:
    assert SamplePictures(0, 1).jpegs() == {}
