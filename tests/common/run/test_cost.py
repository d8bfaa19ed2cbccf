"""GPU hours, cost and pace in words."""

from __future__ import annotations

import pytest

from common.run.cost import describe_gpu_hours, describe_pace


@pytest.mark.parametrize(
    ("price", "images", "words"),
    [
        (0, 1_000_000, "1,234.50 GPU hours"),
        (2.5, 0, "1,234.50 GPU hours, cost 3,086.25 at 2.5 an hour"),
        (2.5, 9_000_000, "1,234.50 GPU hours, cost 3,086.25 at 2.5 an hour, 342.92 for a million images"),
    ],
)
def test_cost_is_named_where_the_price_is_known(price: float, images: int, words: str) -> None:
    assert describe_gpu_hours(1234.5, price=price, images=images) == words


@pytest.mark.parametrize(("rate", "words"), [(0.0139, "0.0139"), (9.876, "9.88"), (100, "100"), (12_345.6, "12,346")])
def test_a_pace_has_three_digits_or_whole_images(rate: float, words: str) -> None:
    assert describe_pace(rate) == f"{words} images/s"
