"""A top-up: the failed rows alone are requested, and the chunk is that of a run in which nothing failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.run.keys import chunk_key
from common.store import open_store
from tests.image_server import answer
from tests.worker.top_up.runs import FAILING, GONE, ROWS, datasets, header

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store
    from tests.worker.top_up.runs import RunWithFailures

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("store", "is_merged"),
    [("folder", True), ("s3", False)],
    ids=["folder, merged", "s3, unmerged"],
    indirect=["store"],
)
def test_a_top_up_requests_the_failed_rows_alone_and_completes_the_chunk_to_the_byte(
    store: Store, run: RunWithFailures, *, is_merged: bool
) -> None:
    run.put(store, is_merged=is_merged)
    run.serve()
    ended = run.top_up(store)
    assert ended.exit_code == 0, ended.log
    assert run.requested == run.failing_paths
    assert len(run.requested) == 0.05 * ROWS
    assert datasets(store) == datasets(run.whole)
    assert ended.last_word.startswith(
        "5 images were computed again, 5 of them are embedded now, 0 failed once more; chunk 1 is in the store: "
    )
    assert {name: ended.lines[-1].count(name) for name in ("images", "failed", "computed", "gained")} == {
        "images": ROWS,
        "failed": 2,
        "computed": 5,
        "gained": 5,
    }
    times, earlier = header(store).times, header(run.failed).times
    assert times is not None
    assert earlier is not None
    assert times.images == len(FAILING)
    # The attempts at a merged chunk are in the summary, from where the merge takes them.
    assert [attempt.started_at for attempt in times.earlier] == ([] if is_merged else [earlier.started_at])
    again = run.top_up(store)
    assert again.exit_code == 0, again.log
    assert again.last_word.startswith("nothing to compute again in chunk 1: ")
    assert not again.events("started")
    assert len(run.requested) == len(FAILING)


def test_images_that_their_site_cannot_serve_stay_failed_and_the_top_up_ends_well(
    run: RunWithFailures, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "run"))
    run.put(store)
    run.serve(answer(status=500))
    ended = run.top_up(store, fetch_attempts=2, source_patience_seconds=3)
    assert ended.exit_code == 0, ended.log
    assert ended.last_word.startswith("5 images were computed again, 0 of them are embedded now, 5 failed once more, ")
    assert set(run.requested) == set(run.failing_paths)
    run.serve()
    assert run.top_up(store).exit_code == 0
    assert datasets(store) == datasets(run.whole)


def test_a_top_up_with_too_many_failures_leaves_the_earlier_chunk(run: RunWithFailures, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    run.put(store)
    before = store.stat(chunk_key(1))
    run.serve(answer(status=404))
    ended = run.top_up(store, max_failure_ratio=0.05)
    assert ended.exit_code == 65, ended.log
    assert "images failed" in ended.last_word
    assert store.stat(chunk_key(1)) == before
    assert set(run.requested) <= set(run.failing_paths)


def test_images_that_fail_once_more_are_counted_by_reason_and_are_not_asked_for_again(
    run: RunWithFailures, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "run"))
    run.put(store)
    run.serve(answer(status=404))
    ended = run.top_up(store)
    assert ended.exit_code == 0, ended.log
    assert ended.last_word.startswith(
        "5 images were computed again, 0 of them are embedded now, 5 failed once more, not_found 5; chunk 1 is in the "
    )
    assert run.requested == run.failing_paths
    run.serve()
    assert "nothing to compute again" in run.top_up(store).last_word
    assert run.requested == []
    ended = run.top_up(store, top_up_reasons="not_found")
    assert ended.exit_code == 0, ended.log
    assert run.requested == sorted([*run.failing_paths, *(f"/1/{row:03}.jpg" for row in GONE)])
    assert datasets(store) == datasets(run.whole)
