"""Plans: the properties use small limits, and the examples use those of S3."""

from __future__ import annotations

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from common.store.contract import PartLimits
from common.store.s3.assembly import S3_PART_LIMITS
from merger.layout import EMBEDDINGS, Column, Layout, compute_layout, result_attributes
from merger.plan import CopyPart, Part, PartSizes, UploadPart, plan_equal_parts, plan_parts
from merger.totals import count_totals
from tests.merger.test_layout import header

MIB = 1 << 20


def layout_of(sizes: list[int], *, row_bytes: int = 2048, text_bytes: int = 100, metadata: int = 65_536) -> Layout:
    """Return a layout with one text column, without asking HDF5."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    rows = starts[-1]
    columns = [Column("urls", metadata, text_bytes), Column(EMBEDDINGS, metadata + rows * text_bytes, row_bytes)]
    return Layout(metadata + rows * (text_bytes + row_bytes), {0: bytes(metadata)}, columns, starts)


def check(layout: Layout, parts: list[Part], limits: PartLimits) -> None:
    """Check that the parts are the bytes of the result in order, and keep the limits."""
    assert len(parts) <= limits.max_count
    offset = 0
    flat: list[tuple[str, int, int, int]] = []
    for part in parts:
        assert part.offset == offset
        assert 0 < part.size <= limits.max_bytes
        assert part is parts[-1] or part.size >= limits.min_bytes
        pieces = [part.piece] if isinstance(part, CopyPart) else part.pieces
        for piece in pieces:
            column = next((each for each in layout.columns if each.name == piece.column), None)
            start = (
                column.offset + (layout.starts[piece.chunk] + piece.first) * column.row_bytes if column else piece.first
            )
            assert part.offset <= start < part.offset + part.size
        assert isinstance(part, UploadPart) or part.piece.column == EMBEDDINGS
        for piece in pieces:
            if flat and flat[-1][:2] == (piece.column, piece.chunk) and sum(flat[-1][2:]) == piece.first:
                flat[-1] = (*flat[-1][:3], flat[-1][3] + piece.rows)
            else:
                flat.append((piece.column, piece.chunk, piece.first, piece.rows))
        offset += part.size
    assert offset == layout.size
    assert flat == [(piece.column, piece.chunk, piece.first, piece.rows) for piece in layout.pieces()]


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_neighbours_in_an_earlier_result_are_copied_as_one_range(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any))
    layout = layout_of(sizes, row_bytes=64, text_bytes=10, metadata=300)._replace(
        from_earlier=data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))),
        copied_texts=frozenset(data.draw(st.sets(st.just("urls")))),
    )
    limits = PartLimits(min_bytes=data.draw(st.integers(1, 700)), max_bytes=100_000, max_count=10_000)
    plans = [
        plan_parts(layout, limits, sizes=PartSizes(2_000, 5_000)),
        plan_equal_parts(layout, limits, copying=True, part_bytes=640),
    ]
    for parts in plans:
        offset = 0
        covered: list[tuple[str, int, int]] = []
        for part in parts:
            assert part.offset == offset
            offset += part.size
            for piece in [part.piece] if isinstance(part, CopyPart) else part.pieces:
                split = list(layout.split(piece))
                if isinstance(part, CopyPart):
                    assert len(split) == 1 or all(layout.from_earlier[split[0].chunk : split[-1].chunk + 1])
                    assert all(layout.can_copy(each) for each in split)
                else:
                    assert split == [piece]
                covered += [
                    (each.column, each.chunk, row)
                    for each in split
                    if each.column
                    for row in range(each.first, each.first + each.rows)
                ]
        assert offset == layout.size
        assert covered == [
            (piece.column, piece.chunk, row) for piece in layout.pieces() if piece.column for row in range(piece.rows)
        ]


def test_a_chunk_without_rows_between_two_of_an_earlier_result_keeps_them_apart() -> None:
    layout = layout_of([50, 0, 50])
    joined = layout._replace(from_earlier=[True, True, True])
    apart = layout._replace(from_earlier=[True, False, True])
    for each, count in ((joined, 1), (apart, 2)):
        assert sum(piece.column == EMBEDDINGS for piece in each.joined_pieces()) == count


def uploaded(parts: list[Part]) -> int:
    return sum(part.size for part in parts if isinstance(part, UploadPart))


@given(
    sizes=st.lists(st.integers(0, 30) | st.integers(0, 400), max_size=40),
    row_bytes=st.integers(1, 12),
    text_bytes=st.integers(1, 12),
    limits=st.builds(PartLimits, st.integers(1, 120), st.just(5000), st.integers(3, 60)),
    wanted=st.builds(PartSizes, st.integers(1, 200), st.integers(1, 900)),
)
@settings(max_examples=300, deadline=None)
def test_every_plan_covers_the_result_within_the_limits(
    sizes: list[int], row_bytes: int, text_bytes: int, limits: PartLimits, wanted: PartSizes
) -> None:
    layout = layout_of(sizes, row_bytes=row_bytes, text_bytes=text_bytes, metadata=50)
    assume(layout.size < limits.max_bytes * limits.max_count / 2)
    parts = list(plan_parts(layout, limits, sizes=wanted))
    check(layout, parts, limits)
    event(f"parts are {'scarce' if len(parts) > 0.9 * limits.max_count else 'plenty'}")
    event(f"copies: {any(isinstance(part, CopyPart) for part in parts)}")
    for copying in (False, True):
        equal = list(plan_equal_parts(layout, limits, copying=copying, part_bytes=wanted.upload_bytes))
        check(layout, equal, limits)
        assert copying or uploaded(equal) == layout.size
        assert len({part.size for part in equal[:-1]}) <= 1
        assert equal[-1].size <= equal[0].size
        event(f"copies equal parts: {any(isinstance(part, CopyPart) for part in equal)}")


def test_most_of_large_chunks_is_copied_in_equal_parts() -> None:
    layout = layout_of([50_000] * 20, text_bytes=64)
    parts = list(plan_equal_parts(layout, S3_PART_LIMITS, copying=True))
    check(layout, parts, S3_PART_LIMITS)
    assert {part.size for part in parts[:-1]} == {8 * MIB}
    assert uploaded(parts) < 0.15 * layout.size


@given(sizes=st.lists(st.integers(0, 100), max_size=60), minimum=st.integers(1, 120))
@settings(max_examples=200, deadline=None)
def test_with_enough_parts_only_pieces_too_small_for_a_part_are_uploaded(sizes: list[int], minimum: int) -> None:
    layout = layout_of(sizes, row_bytes=7, text_bytes=3, metadata=50)
    limits = PartLimits(minimum, 10_000, 10_000)
    parts = list(plan_parts(layout, limits, sizes=PartSizes(upload_bytes=200, copy_bytes=10_000)))
    check(layout, parts, limits)
    large = [7 * size for size in sizes if 7 * size >= 2 * minimum + 7]
    # Each large chunk gives at most the rows that the part before it needs.
    assert uploaded(parts) <= layout.size - sum(large) + len(large) * (minimum + 6)
    assert all(part.size <= max(200, minimum) + minimum + 7 for part in parts if isinstance(part, UploadPart))


def test_the_example_in_the_docstring_of_the_module_is_true() -> None:
    rows = [10_000, 2_000, 10_000, 100]
    headers = [
        header(index, size, url_bytes=54, id_bytes=0, dimensions=512, chunk_count=4) for index, size in enumerate(rows)
    ]
    layout = compute_layout(headers, result_attributes(headers, count_totals(headers, [])))
    assert layout.column(EMBEDDINGS).offset == 1_204_224
    found = []
    for part in plan_parts(layout, S3_PART_LIMITS):
        pieces = [part.piece] if isinstance(part, CopyPart) else part.pieces
        vectors = [(piece.chunk, piece.first, piece.rows) for piece in pieces if piece.column == EMBEDDINGS]
        found.append(("copy" if isinstance(part, CopyPart) else "upload", vectors, part.size))
    assert found == [
        ("upload", [(0, 0, 1972)], 5_242_880),
        ("copy", [(0, 1972, 8028)], 16_441_344),
        ("upload", [(1, 0, 2000), (2, 0, 560)], 5_242_880),
        ("copy", [(2, 560, 9440)], 19_333_120),
        ("upload", [(3, 0, 100)], 204_800),
    ]


@pytest.mark.parametrize(
    "sizes",
    [[1], [2560], [2559], [2561], [2560, 2560, 1], [1, 2560, 2559, 2560], [0, 0, 3000, 0], [9] * 2500, [], [0]],
    ids=lambda sizes: f"{len(sizes)} chunks of {sizes[:4]}",
)
def test_plans_around_the_smallest_part_of_s3_keep_its_limits(sizes: list[int]) -> None:
    layout = layout_of(sizes)
    check(layout, list(plan_parts(layout, S3_PART_LIMITS)), S3_PART_LIMITS)


def test_a_plan_for_nine_million_rows_uploads_only_texts_and_metadata() -> None:
    layout = layout_of([10_000] * 900)
    parts = list(plan_parts(layout, S3_PART_LIMITS))
    check(layout, parts, S3_PART_LIMITS)
    assert sum(isinstance(part, CopyPart) for part in parts) == 900
    assert uploaded(parts) < 0.06 * layout.size


def test_a_chunk_larger_than_the_largest_part_is_copied_in_several() -> None:
    layout = layout_of([10_000_000])
    parts = list(plan_parts(layout, S3_PART_LIMITS, sizes=PartSizes(copy_bytes=5 << 30)))
    check(layout, parts, S3_PART_LIMITS)
    assert sum(isinstance(part, CopyPart) for part in parts) == 4


def test_a_chunk_as_large_as_two_parts_is_copied_in_three_when_it_has_an_odd_number_of_rows() -> None:
    # Of two parts, the one with a row more would be larger than the limit.
    layout = layout_of([5_000_000, 2 * (5 << 30) // 3072], row_bytes=3072)
    parts = list(plan_parts(layout, S3_PART_LIMITS, sizes=PartSizes(copy_bytes=5 << 30)))
    check(layout, parts, S3_PART_LIMITS)
    assert sum(isinstance(part, CopyPart) and part.piece.chunk == 1 for part in parts) == 3


@pytest.mark.parametrize("rows", [2600, 3000, 10_000])
def test_if_there_are_more_chunks_than_parts_no_more_of_them_than_necessary_share_parts(rows: int) -> None:
    layout = layout_of([rows] * 2000, text_bytes=20)
    limits = S3_PART_LIMITS._replace(max_count=1000)
    parts = list(plan_parts(layout, limits))
    check(layout, parts, limits)
    assert len(parts) > 990
    assert uploaded(parts) < layout.size
    assert max(part.size for part in parts if isinstance(part, UploadPart)) <= 64 * MIB


def test_a_terabyte_is_copied_in_parts_as_large_as_the_count_demands() -> None:
    layout = layout_of([50_000_000] * 20, text_bytes=1)
    parts = list(plan_parts(layout, S3_PART_LIMITS))
    check(layout, parts, S3_PART_LIMITS)
    assert uploaded(parts) < 0.001 * layout.size


def test_a_result_beyond_all_limits_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="10000 parts"):
        plan_parts(layout_of([30_000_000_000]), S3_PART_LIMITS)
