"""Plans with limits far below those of S3, carried out with real chunk files."""

from __future__ import annotations

import tempfile

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from common.run.keys import RESULT_KEY
from common.store import open_store
from common.store.contract import PartLimits
from merger.assemble import assemble
from merger.chunks import read_inputs
from merger.layout import compute_layout, result_attributes
from merger.plan import CopyPart, Part, PartSizes, plan_equal_parts, plan_parts
from merger.progress import Progress
from merger.sample import KeptRows
from merger.sources import Sources
from merger.totals import count_totals
from tests.merger.runs import assert_merged, make_chunk, put_chunk
from tests.merger.test_plan import check


@pytest.mark.slow
@given(
    shapes=st.lists(st.tuples(st.integers(0, 3) | st.integers(0, 300), st.integers(0, 120)), min_size=1, max_size=7),
    dimensions=st.integers(1, 40),
    with_ids=st.booleans(),
    limits=st.builds(PartLimits, st.integers(1, 12_000), st.integers(24_000, 60_000), st.integers(4, 60)),
    sizes=st.builds(PartSizes, st.integers(1, 24_000), st.integers(1, 60_000)),
    equal=st.sampled_from([None, True, False]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_limits_the_parts_make_the_datasets_of_a_naive_merge(
    *,
    shapes: list[tuple[int, int]],
    dimensions: int,
    with_ids: bool,
    limits: PartLimits,
    sizes: PartSizes,
    equal: bool | None,
) -> None:
    sizes = sizes._replace(copy_bytes=min(sizes.copy_bytes, limits.max_bytes))
    count = len(shapes)
    chunks = [
        make_chunk(index, rows, chunk_count=count, with_ids=with_ids, dimensions=dimensions, url_bytes=width)
        for index, (rows, width) in enumerate(shapes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for chunk in chunks:
            put_chunk(store, chunk)
        progress = Progress(interval_seconds=60)
        traffic = progress.traffic
        inputs = read_inputs(store, chunk_count=count, allow_missing=False, concurrency=2, traffic=traffic)
        layout = compute_layout(inputs.headers, result_attributes(inputs.headers, count_totals(inputs.headers, [])))
        assume(layout.size < limits.max_bytes * limits.max_count / 2)
        parts: list[Part] = list(
            plan_parts(layout, limits, sizes=sizes)
            if equal is None
            else plan_equal_parts(layout, limits, copying=equal, part_bytes=sizes.upload_bytes)
        )
        check(layout, parts, limits)
        event(f"copies: {any(isinstance(part, CopyPart) for part in parts)}")
        progress.begin(parts)
        sources = Sources(store, inputs.chunks, layout, traffic)
        with store.assemble(RESULT_KEY, size=layout.size, replacing=None) as assembly:
            assemble(parts, sources, assembly, kept=KeptRows(), concurrency=2, progress=progress)
            assembly.publish()
        assert_merged(store, chunks)
        assert traffic.copied_by_store + traffic.uploaded == layout.size
