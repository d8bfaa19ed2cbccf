"""A top-up: the failed rows alone are requested, and the chunk is that of a run in which nothing failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.worker.top_up.runs import FAILING, ROWS, datasets

if TYPE_CHECKING:
    from common.store.contract import Store
    from tests.worker.top_up.runs import RunWithFailures


@pytest.mark.parametrize("is_merged", [False, True], ids=["unmerged", "merged"])
@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
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
    again = run.top_up(store)
    assert again.exit_code == 0, again.log
    assert again.last_word.startswith("nothing to compute again in chunk 1: ")
    assert len(run.requested) == len(FAILING)
