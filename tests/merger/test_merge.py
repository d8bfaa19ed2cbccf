"""Whole merges, on both stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from common.keys import FAILURES_KEY, RESULT_KEY, SUMMARY_KEY
from merger.merge import merge
from tests.merger.runs import assert_merged, put_run, settings_for

if TYPE_CHECKING:
    from common.store import Store


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([1], {}),
        ([3000], {}),
        ([5, 7, 3], {"failed": 2}),
        ([0, 40, 0, 0, 30, 0], {"failed": 1}),
        ([3000, 3000, 1], {}),
        ([2600, 10, 2600, 2559, 2561, 9], {"failed": 1}),
        ([0, 0], {"failed": 3}),
        ([0, 0], {}),
        ([3, 2, 0, 900], {"dimensions": 768, "with_ids": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize("assembly", ["server-side", "streaming"])
def test_the_result_has_the_datasets_of_a_naive_merge(
    store: Store, sizes: list[int], options: dict[str, Any], assembly: str
) -> None:
    chunks = put_run(store, sizes, **options)
    merge(store, settings_for(store, len(sizes), assembly=assembly, verify="full"))
    assert_merged(store, chunks)
    assert sorted(found.key for found in store.list("")) == [RESULT_KEY, FAILURES_KEY, SUMMARY_KEY]
