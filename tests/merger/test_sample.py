"""The sample: which rows of a result are compared with its chunks, and with how many requests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.run.keys import RESULT_KEY
from common.store import open_store
from common.store.s3.client import clear_clients
from merger.assemble import read_parts
from merger.chunks import read_inputs
from merger.layout import EMBEDDINGS, Column, Layout, compute_layout
from merger.merge import merge
from merger.plan import UploadPart, plan_equal_parts
from merger.progress import Traffic
from merger.sample import STRETCH_BYTES, KeptRows, Sample, choose_rows, stretches
from merger.sources import Sources
from merger.verify import Result, ResultDiffers, verify_sample
from tests.merger.runs import put_run, settings_for
from tests.s3_proxy import s3_proxy

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store
    from tests.s3_server import S3Server

SIZES = [3, 0, 400, 1, 250]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_stretches_cover_every_row_of_the_sample_in_every_column_and_none_is_too_long(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 3000), min_size=1, max_size=8).filter(any))
    starts = [sum(sizes[:end]) for end in range(len(sizes) + 1)]
    widths = data.draw(st.lists(st.integers(1, 4000), min_size=1, max_size=3))
    columns = [Column(name, 0, width) for name, width in zip((EMBEDDINGS, "urls", "ids"), widths, strict=False)]
    layout = Layout(0, {}, columns, starts)
    rows = sorted(data.draw(st.sets(st.integers(0, starts[-1] - 1), max_size=40)))
    seen: dict[str, set[int]] = {column.name: set() for column in layout.columns}
    for stretch in stretches(layout, Sample(vectors=rows, texts=rows)):
        position = starts[stretch[0].chunk] + stretch[0].first
        for piece in stretch:
            assert starts[piece.chunk] + piece.first == position
            assert piece.first + piece.rows <= sizes[piece.chunk]
            seen[piece.column].update(range(position, position + piece.rows))
            position += piece.rows
        assert sum(piece.size for piece in stretch) <= max(STRETCH_BYTES, stretch[0].row_bytes)
    assert all(set(rows) <= found for found in seen.values())


def open_run(store: Store, count: int) -> Sources:
    traffic = Traffic()
    inputs = read_inputs(store, chunk_count=count, allow_missing=False, concurrency=2, traffic=traffic)
    return Sources(store, inputs.chunks, compute_layout(inputs.headers, {}), traffic)


def test_a_wrong_byte_in_the_first_or_last_row_of_any_chunk_is_noticed_in_every_column(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    put_run(store, SIZES)
    sources = open_run(store, len(SIZES))
    layout = sources.layout
    parts = plan_equal_parts(layout, store.part_limits, copying=False)
    uploads = [part for part in parts if isinstance(part, UploadPart)]
    sample = choose_rows(layout, parts, random_rows=0, seed="")
    kept = KeptRows(stretches(layout, sample))
    content = b"".join(read_parts(uploads, sources, kept=kept, concurrency=2))

    def verify(content: bytes) -> int:
        result = Result(len(content), lambda start, length: content[start : start + length], sources)
        compared = {
            verify_sample(result, sample, kept=each, concurrency=2).rows_compared for each in (kept, KeptRows())
        }
        assert len(compared) == 1
        return compared.pop()

    assert verify(content) >= 2 * 3 + 1
    ends = {row for start, size in zip(layout.starts, SIZES, strict=False) if size for row in (start, start + size - 1)}
    for column in layout.columns:
        for row in ends:
            spoilt = bytearray(content)
            spoilt[column.offset + row * column.row_bytes] ^= 1
            with pytest.raises(ResultDiffers, match=f"its {column.name} for rows"):
                verify(bytes(spoilt))


def test_kept_texts_are_not_read_again_and_one_request_reads_neighbouring_rows_of_the_result(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 12
    put_run(open_store(f"s3://{bucket}/run"), [420] * count)
    with s3_proxy(s3, lambda _: None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.environment["AWS_ENDPOINT_URL"])
        clear_clients()
        store = open_store(f"s3://{bucket}/run")
        merge(store, settings_for(store, count, verify_rows=0, assembly="streaming"))
        paths = [each.path for each in proxy.requests if each.method == "GET" and "?" not in each.path]
    gets = Counter("result" if path.endswith(RESULT_KEY) else "chunks" for path in paths)
    # From each chunk: its header, three columns that pass (one of them in two parts), its first and its last vector.
    assert gets["chunks"] == (1 + 3 + 2) * count + 1
    # From the result: its metadata, and for each of three columns the seams between chunks, the start and the end.
    assert gets["result"] <= 4 + 3 * (count + 1)
