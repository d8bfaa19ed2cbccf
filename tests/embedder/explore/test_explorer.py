"""The explorer without a server."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.errors import StoreUnavailable
from common.store import open_store
from embedder.explore.explorer import Explorer, ResultReplaced
from results.nearest import ExactSearch, NearestRows
from results.result import open_result
from tests.embedder.explore.pages import KnownAnswers
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store


def explorer_of(store: Store, *, look_seconds: float = 60) -> Explorer:
    result = open_result(store)
    nearest: Future[NearestRows] = Future()
    nearest.set_result(ExactSearch(result))
    answers = KnownAnswers(result.vectors(0, result.row_count))
    return Explorer(result, answers, nearest, look_seconds=look_seconds)


def test_what_is_near_a_row_is_paged_without_the_row_itself(store: Store) -> None:
    chunks = merge_run(store, (30, 20))
    vectors = np.concatenate([chunk.embeddings[:] for chunk in chunks])
    expected = [int(row) for row in np.argsort(-(vectors @ vectors[33]), kind="stable") if row != 33]

    async def read() -> list[int]:
        explorer = explorer_of(store)
        pages = [await explorer.near_row(33, start=start, count=20) for start in (0, 20, 40)]
        assert {page.total for page in pages} == {49}
        return [row.row for page in pages for row in page.rows]

    assert asyncio.run(read()) == expected


def test_a_result_that_a_merge_replaces_is_noticed(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (30,))
    explorer = explorer_of(store, look_seconds=0)

    async def look() -> None:
        assert len((await explorer.rows(start=0, count=10)).rows) == 10
        for path in (tmp_path / "run").glob("*.*"):
            path.unlink()
        merge_run(store, (20, 5))
        for question in (
            explorer.rows(start=0, count=10),
            explorer.near_row(3, start=0, count=10),
            explorer.failures(offset=0, reason="", count=10),
            explorer.pictures.picture(3),
        ):
            with pytest.raises(ResultReplaced, match="is another result than this page has begun with"):
                await question

    asyncio.run(look())


def test_a_store_that_fails_is_an_error_of_ours(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (30,))
    explorer = explorer_of(store)
    (tmp_path / "run" / "Images_Embedded.h5").unlink()
    with pytest.raises(StoreUnavailable):
        asyncio.run(explorer.near_row(3, start=0, count=10))
    with pytest.raises(StoreUnavailable):
        asyncio.run(explorer.rows(start=0, count=10))


def test_a_picture_that_several_ask_for_is_fetched_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (30,))
    result = open_result(store)
    answers = KnownAnswers(result.vectors(0, 30))
    nearest: Future[NearestRows] = Future()

    async def ask() -> None:
        explorer = Explorer(result, answers, nearest)
        found = await asyncio.gather(*(explorer.pictures.picture(row) for row in [4, 4, 5, 4, 5]))
        assert len({id(each) for each in found}) == 2
        await explorer.pictures.picture(4)

    asyncio.run(ask())
    assert sorted(answers.asked) == result.urls(4, 6)
