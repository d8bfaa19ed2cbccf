"""The choice of the pictures that a report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from results.report.sample_picture import is_usable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from results.report.sample_picture import SamplePicture

MOST_PICTURES = 120
"""Largest number of pictures."""

MOST_BYTES = 2 << 20
"""Largest size of all pictures together in bytes, before they are encoded in base64."""

Item = TypeVar("Item")


def choose_pictures(pictures: Sequence[SamplePicture]) -> list[SamplePicture]:
    """Return some of the pictures in the order of the chunks, from as many chunks as possible, spread evenly."""
    rounds: list[list[SamplePicture]] = []
    of_chunk: dict[int, int] = {}
    for picture in filter(is_usable, pictures):
        position = of_chunk.get(picture.chunk, 0)
        of_chunk[picture.chunk] = position + 1
        if position == len(rounds):
            rounds.append([])
        rounds[position].append(picture)
    chosen: list[SamplePicture] = []
    size = 0
    for each in rounds:
        for picture in _spread(sorted(each, key=lambda picture: picture.chunk), MOST_PICTURES - len(chosen)):
            if size + len(picture.jpeg) <= MOST_BYTES:
                size += len(picture.jpeg)
                chosen.append(picture)
    return sorted(chosen, key=lambda picture: picture.chunk)


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return `count` of the items at equal distances, or all of them if there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[position * len(items) // count] for position in range(count)]
