"""GPU hours and what they cost, in the words that every program uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.run.summary import Summary


def describe_gpu_hours(hours: float, *, price: float, images: int) -> str:
    """Return GPU hours in words, with their cost and that of a million images where the price of an hour is known.

    `price` is in any currency, 0 where it is unknown. `images` is the number of embedded images.
    """
    parts = [f"{hours:,.2f} GPU hours"]
    if price and hours:
        parts.append(f"cost {hours * price:,.2f} at {price:,g} an hour")
        if images:
            parts.append(f"{hours * price / images * 1e6:,.2f} for a million images")
    return ", ".join(parts)


def describe_pace(images_per_second: float) -> str:
    """Return a rate in words: whole images, or three digits if it is low."""
    return f"{images_per_second:{',.0f' if images_per_second >= 100 else '.3g'}} images/s"


def describe_spent(summary: Summary) -> str:
    """Return the pace of a finished run, and with GPUs their hours and cost. Empty where nothing is known of it."""
    parts = []
    if summary.images_per_second:
        parts.append(describe_pace(summary.images_per_second))
    if summary.gpu_hours:
        hours = describe_gpu_hours(summary.gpu_hours, price=summary.gpu_hour_price, images=summary.rows_embedded)
        parts.append(hours)
    return ", ".join(parts)
