"""What passes through the process when a result is merged again after a top-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from merger.merge import merge
from merger.outcome import Merged
from tests.merger.runs import read_summary, settings_for
from tests.merger.top_ups import content, manifest, merged_at_once, put

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store

CHUNKS, ROWS = 8, 6500
"""106 MB of vectors, and 13 MB in each chunk."""


@pytest.mark.slow
def test_a_tenth_of_the_bytes_of_a_result_pass_through_at_most(store: Store, tmp_path: Path) -> None:
    rows = manifest([ROWS] * CHUNKS, url_bytes=70)
    failed = {3: set(range(0, ROWS, 5)), 6: {0, 17}}
    put(store, [each.chunk(failed.get(each.index, ())) for each in rows])
    merge(store, settings_for(store, CHUNKS))
    put(store, [rows[index].chunk() for index in failed])
    assert isinstance(merge(store, settings_for(store, CHUNKS)), Merged)
    summary = read_summary(store)
    # A bucket takes no part below 5 MiB: the metadata passes through together with as many rows.
    assert summary["bytes_uploaded"] <= 0.1 * summary["result_bytes"]
    assert summary["bytes_read"] <= 0.1 * summary["result_bytes"]
    assert summary["assembly"] == "server-side"
    assert content(store) == merged_at_once([each.chunk() for each in rows], tmp_path)
