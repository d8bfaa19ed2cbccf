"""Which way of searching is used: the index where it can be, exact search else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.logs import LogLine, configure_logs, parse_line
from common.run.keys import INDEX_KEY, SUMMARY_KEY
from common.run.summary import read_summary, write_summary
from results.nearest import ExactSearch, IndexSearch, open_nearest
from results.result import open_result
from tests.results.index.indexed import described, index
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from common.store.contract import Store


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cached indexes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embedder" / "indexes"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[LogLine]]:
    """Return a function that gives the warnings since it was called last. Call it first before something is logged."""

    def read() -> list[LogLine]:
        lines = [line for text in capsys.readouterr().err.splitlines() if (line := parse_line(text)) is not None]
        configure_logs("warning")
        return lines

    return read


def test_the_index_finds_the_nearest_rows_with_their_scores(store: Store) -> None:
    merge_run(store, (300, 200))
    index(store)
    result = open_result(store)
    found, exact = open_nearest(result), open_nearest(result, exact=True)
    assert isinstance(found, IndexSearch)
    assert isinstance(exact, ExactSearch)
    query = result.vectors(123, 124)[0]
    one, other = found.nearest(query, 10), exact.nearest(query, 10)
    assert one[0].row == 123
    assert len({each.row for each in one} & {each.row for each in other}) >= 9
    scores = {each.row: each.score for each in other}
    assert all(each.score == pytest.approx(scores[each.row], abs=1e-5) for each in one if each.row in scores)
    assert [each.score for each in one] == sorted((each.score for each in one), reverse=True)


def test_a_run_without_an_index_is_searched_exactly_and_nothing_is_noted(
    store: Store, said: Callable[[], list[LogLine]]
) -> None:
    merge_run(store, (30, 20))
    said()
    assert isinstance(open_nearest(open_result(store)), ExactSearch)
    assert said() == []


def test_more_rows_than_there_are_give_all_rows(store: Store) -> None:
    merge_run(store, (300,))
    index(store)
    result = open_result(store)
    found = open_nearest(result)
    assert isinstance(found, IndexSearch)
    assert len({each.row for each in found.nearest(result.vectors(0, 1)[0], 1000)}) == 300
    assert found.nearest(result.vectors(0, 1)[0], 0) == []


def truncate(store: Store) -> None:
    store.put_bytes(INDEX_KEY, store.read(INDEX_KEY)[:-100])


def flip_a_byte(store: Store) -> None:
    data = bytearray(store.read(INDEX_KEY))
    data[len(data) // 2] ^= 255
    store.put_bytes(INDEX_KEY, bytes(data))


def replace_by_zeros(store: Store) -> None:
    store.put_bytes(INDEX_KEY, bytes(len(store.read(INDEX_KEY))))


def delete(store: Store) -> None:
    store.delete([INDEX_KEY])


def claim_another_result(store: Store) -> None:
    summary = read_summary(store)
    assert summary is not None
    assert summary.index is not None
    stale = summary.index.model_copy(update={"of_table_digest": "another"})
    write_summary(store, summary.model_copy(update={"index": stale}), replacing=store.stat(SUMMARY_KEY))


@pytest.mark.parametrize(
    ("damage", "because"),
    [
        (truncate, "bytes, and the index that was published has"),
        (flip_a_byte, "has other bytes than were published"),
        (replace_by_zeros, "has other bytes than were published"),
        (delete, "Images_Embedded.bin is absent"),
        (claim_another_result, "its index is of an earlier result"),
    ],
)
def test_a_damaged_or_stale_index_is_noted_in_one_line_and_not_used(
    store: Store, said: Callable[[], list[LogLine]], damage: Callable[[Store], None], because: str
) -> None:
    merge_run(store, (30, 20))
    index(store)
    damage(store)
    said()
    result = open_result(store)
    found = open_nearest(result)
    assert isinstance(found, ExactSearch)
    (line,) = said()
    assert line.event == "index_not_used"
    assert because in line.values["because"]
    assert found.nearest(result.vectors(7, 8)[0], 1)[0].row == 7


def test_queries_of_many_threads_have_the_answers_of_one(store: Store) -> None:
    merge_run(store, (300, 200))
    index(store)
    result = open_result(store)
    found = open_nearest(result)
    vectors = result.vectors(0, 500)
    expected = [found.nearest(vector, 5 + row % 80) for row, vector in enumerate(vectors)]
    wrong: list[int] = []

    def ask(first: int) -> None:
        wrong.extend(row for row in range(first, 500, 4) if found.nearest(vectors[row], 5 + row % 80) != expected[row])

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_index_of_a_run_in_a_bucket_is_kept_on_this_machine(bucket: str, cache: Path) -> None:
    from common.store import open_store  # noqa: PLC0415 - after the bucket's environment

    store = open_store(f"s3://{bucket}/run")
    merge_run(store, (300,))
    index(store)
    result = open_result(store)
    assert isinstance(open_nearest(result), IndexSearch)
    (kept,) = cache.iterdir()
    assert kept.read_bytes() == store.read(INDEX_KEY)
    written = kept.stat().st_mtime_ns
    assert isinstance(open_nearest(result), IndexSearch)
    assert kept.stat().st_mtime_ns == written
    index(store, index_m=8)
    assert isinstance(open_nearest(open_result(store)), IndexSearch)
    (other,) = cache.iterdir()
    assert other != kept
    assert described(store).bytes == other.stat().st_size  # type: ignore[union-attr]


def test_a_cached_index_that_is_damaged_is_removed(bucket: str, cache: Path, said: Callable[[], list[LogLine]]) -> None:
    from common.store import open_store  # noqa: PLC0415 - after the bucket's environment

    store = open_store(f"s3://{bucket}/run")
    merge_run(store, (300,))
    index(store)
    result = open_result(store)
    open_nearest(result)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])
    said()
    assert isinstance(open_nearest(result), ExactSearch)
    assert len(said()) == 1
    assert isinstance(open_nearest(result), IndexSearch)


def test_a_cache_that_cannot_be_written_leaves_exact_search(
    bucket: str, tmp_path: Path, said: Callable[[], list[LogLine]]
) -> None:
    from common.store import open_store  # noqa: PLC0415 - after the bucket's environment

    store = open_store(f"s3://{bucket}/run")
    merge_run(store, (30,))
    index(store)
    (tmp_path / "cache").write_text("a file where the folder would be")
    said()
    assert isinstance(open_nearest(open_result(store)), ExactSearch)
    (line,) = said()
    assert "Not a directory" in line.values["because"] or "File exists" in line.values["because"]


def test_a_result_without_rows_has_no_neighbours(store: Store) -> None:
    merge_run(store, (0,))
    found = open_nearest(open_result(store))
    assert list(found.nearest(np.ones(512, np.float32), 10)) == []
