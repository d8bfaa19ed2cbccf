"""Runs with hostile URLs, and exports of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merger.merge import merge
from results.export.destination import open_destination
from results.export.export import Exported, Order, export, is_file_name
from results.export.number_type import NumberType
from results.result import open_result
from tests.merger.runs import make_chunk, put_chunk, settings_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from common.store.contract import Store
    from results.export.formats import Format
    from results.export.progress import Step

HOSTILE = (
    "https://photos.example/a,b;c\t'\"/1.jpg",
    "https://photos.example/line\nbreak\r\n/2.jpg",
    "https://photos.example/ünï/漢字/🐕.jpg",
    "https://photos.example/<script>alert(1)</script>?a=1&b=%00",
    "=HYPERLINK(1)",
    "https://photos.example/" + "x" * 500,
)
"""URLs that a text file without care would cut or join. They stand for the first rows of a run."""


class Rows(NamedTuple):
    urls: list[str]
    ids: list[str] | None
    vectors: NDArray[np.float32]


class Steps:
    """Keeps what an export says of its progress."""

    def __init__(self) -> None:
        self.totals: dict[Step, int] = {}
        self.done: dict[Step, int] = {}
        self._step: Step | None = None

    def begin(self, step: Step, total: int) -> None:
        self._step = step
        self.totals[step], self.done[step] = total, 0

    def advance(self, units: int) -> None:
        assert self._step is not None
        self.done[self._step] += units


def hostile_run(
    store: Store, sizes: tuple[int, ...] = (40, 0, 30), *, with_ids: bool = True, pictures: int = 0
) -> Rows:
    """Make a finished run in the store, and return its rows. Its images repeat so many pictures; 0: none twice."""
    chunks = [make_chunk(index, rows, chunk_count=len(sizes), with_ids=with_ids) for index, rows in enumerate(sizes)]
    count = min(len(HOSTILE), sizes[0])
    chunks[0] = replace(chunks[0], urls=[*HOSTILE[:count], *chunks[0].urls[count:]])
    if chunks[0].ids is not None and count > 1:
        chunks[0] = replace(chunks[0], ids=["a\nb,c", *chunks[0].ids[1:]])
    if pictures:
        chunks = [
            replace(chunk, embeddings=np.resize(chunk.embeddings[:pictures], (len(chunk.urls), 512)))
            for chunk in chunks
        ]
    for chunk in chunks:
        put_chunk(store, chunk)
    merge(store, settings_for(store, len(sizes)))
    return Rows(
        [url for chunk in chunks for url in chunk.urls],
        [each for chunk in chunks for each in chunk.ids or ()] if with_ids else None,
        np.concatenate([chunk.embeddings[:] for chunk in chunks]),
    )


def export_run(
    store: Store,
    destination: object,
    target: Format,
    number_type: NumberType = NumberType.FLOAT32,
    *,
    rows_per_file: int = 0,
    overwrite: bool = False,
    progress: Steps | None = None,
) -> Exported:
    """Export the run as the command does."""
    is_file = is_file_name(str(destination), target) and not rows_per_file
    order = Order(target=target, number_type=number_type, is_file=is_file, rows_per_file=rows_per_file)
    place = open_destination(str(destination), is_file=is_file, may_replace=overwrite)
    return export(open_result(store), order, place, progress or Steps())
