"""An id never costs a row: it becomes text where only one text can be meant, and is left out and logged otherwise."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tests.worker.manifest.manifests import failures_of, opened, rows_of, written
from worker.manifest.ids import id_text

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 2048
LONG = "the id has 3000 bytes, EMBEDDER_MAX_URL_BYTES is 2048"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (Decimal("NaN"), ""),
        ("", ""),
        ("\\N", ""),
        ("  a ", "a"),
        ("1.0", "1.0"),
        (0, "0"),
        (-7, "-7"),
        (10**30, "1" + "0" * 30),
        (1.0, "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (float(2**53), "9007199254740992"),
        (Decimal(12345678901234567890), "12345678901234567890"),
        (Decimal("1E+3"), "1000"),
        (Decimal("2.50"), "2.50"),
        ({"$oid": "65a0f0"}, "65a0f0"),
        ({"$numberLong": "7"}, "7"),
        ({"_id": {"$oid": "65a0f0"}}, "65a0f0"),
        ({"$binary": {"base64": "AAECAwQFBgcICQoLDA0ODw==", "subType": "04"}}, "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (b"4fa8054781a4c382", "4fa8054781a4c382"),
        ("ü".encode(), "ü"),
        (b"", ""),
        (bytes(16), "00000000-0000-0000-0000-000000000000"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"\xff" * 32, "ff" * 32),
        (dt.date(2020, 1, 31), "2020-01-31"),
    ],
)
def test_an_id_that_only_one_text_can_mean_becomes_this_text(value: object, text: str) -> None:
    assert id_text(value, max_bytes=MAX_BYTES) == text


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (True, "is true or false"),
        (float(2**53 + 2), "which several integers become"),
        (float("inf"), "is infinite"),
        (["a"], "is a list"),
        ({"a": 1, "b": 2}, "is an object"),
        ({}, "is an object"),
        ({"a": {"a": {"a": {"a": {"a": 1}}}}}, "is an object"),
        (b"\xff\xfe\xfd", "is not UTF-8"),
        ("a\0b", "has a NUL character"),
        ("\ud800", "is not Unicode text"),
        ("x" * 3000, "has 3000 bytes"),
    ],
)
def test_an_id_that_has_no_text_is_refused_with_its_reason(value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        id_text(value, max_bytes=MAX_BYTES)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(ids=st.lists(JSON_VALUES | st.sampled_from(["x" * 3000, "a\0b"]), min_size=1, max_size=6))
def test_no_id_of_json_costs_a_row(tmp_path_factory: pytest.TempPathFactory, ids: list[object]) -> None:
    rows = [{"url": f"https://h/{number}.jpg", "id": each} for number, each in enumerate(ids)]
    path = tmp_path_factory.getbasetemp() / "ids.jsonl"
    manifest = opened(written(path, "\n".join(map(json.dumps, rows)).encode()))
    assert [row.url for row in rows_of(manifest)] == [row["url"] for row in rows]


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([1001.0, None, float("nan")]), ["1001", "", ""]),
        (
            pa.array([bytes(16), b"\1" * 16], pa.binary(16)),
            [str(uuid.UUID(int=0)), "01010101-" + "0101-" * 3 + "01" * 6],
        ),
        (pa.array([{"oid": "a"}, None]), ["a", ""]),
        (pa.array([Decimal(7), Decimal(8)], pa.decimal128(38, 0)), ["7", "8"]),
        (pa.array([True, False]), ["", ""]),
        (pa.array([["a"], []]), ["", ""]),
        (pa.array([b"\xff", b"ok"]), ["", "ok"]),
        (pa.array([0, 1], pa.timestamp("ns")), ["", ""]),
        (pa.array([float(2**24), float(2**24 + 2)], pa.float32()), ["16777216", ""]),
        (pa.array([1.0, 2.0]).cast(pa.float16()), ["1", "2"]),
        (pa.array([2**63, 1], pa.uint64()), [str(2**63), "1"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_ids_of_any_type_of_parquet_leave_the_rows(tmp_path: Path, column: pa.Array, ids: list[str]) -> None:
    urls = [f"p{number}.jpg" for number in range(len(column))]
    parquet.write_table(pa.table({"url": urls, "id": column}), tmp_path / "list.parquet")
    assert [(row.url, row.id) for row in rows_of(opened(tmp_path / "list.parquet"))] == list(
        zip(urls, ids, strict=True)
    )


def test_ids_that_cannot_be_used_are_said_once_in_a_chunk_with_an_example(tmp_path: Path) -> None:
    rows = [{"url": f"https://h/{n}.jpg", "id": [n], "Subset": n, "Thumbnail300KURL": n} for n in range(5)]
    manifest = opened(written(tmp_path / "list.jsonl", "\n".join(map(json.dumps, rows)).encode()))
    with structlog.testing.capture_logs() as logs:
        assert len(rows_of(manifest)) == 5
    assert [(each["event"], each["value"], each["rows"]) for each in logs] == [
        ("values_left_out", "id", 5),
        ("values_left_out", "thumbnail URL", 5),
        ("values_left_out", "subset", 5),
    ]
    assert logs[0]["example"] == "line at byte 0: the id is a list, expected text"


def test_an_id_that_is_not_utf8_leaves_its_row_and_other_foreign_bytes_do_not(tmp_path: Path) -> None:
    for name, good, bad in (
        ("list.csv", b"id,url,by\nM\xfc,https://h/1.jpg,a\n", b"id,url,by\nM\xfc,https://h/1.jpg,\xfc\n"),
        (
            "list.jsonl",
            b'{"id": "\xfc", "url": "https://h/1.jpg"}',
            b'{"id": "a", "by": "\xfc", "url": "https://h/1.jpg"}',
        ),
    ):
        (row,) = rows_of(opened(written(tmp_path / name, good)))
        assert (row.url, row.id) == ("https://h/1.jpg", "")
        (failure,) = failures_of(opened(written(tmp_path / name, bad)))
        assert "the line is not UTF-8" in failure.detail


def test_a_number_of_thousands_of_digits_costs_neither_a_row_nor_the_list(tmp_path: Path) -> None:
    digits = "1" * 5000
    text = f'{{"url": "https://h/1.jpg", "id": {digits}}}'
    for name, content in {"list.jsonl": text, "list.json": f"[{text}]"}.items():
        (row,) = rows_of(opened(written(tmp_path / name, content.encode())))
        assert (row.url, row.id) == ("https://h/1.jpg", "")


def test_a_key_with_two_values_costs_the_row_only_where_it_is_the_url(tmp_path: Path) -> None:
    content = (
        b'{"url": "https://h/0.jpg", "url": "https://h/0.jpg"}\n{"url": "https://h/1.jpg", "id": 1, "id": 2}\n'
        b'{"url": "https://h/2.jpg", "url": "https://h/3.jpg"}\n'
    )
    chunk = opened(written(tmp_path / "list.jsonl", content)).read_chunk(0, 1)
    assert [(row.url, row.id) for row in chunk.rows] == [("https://h/0.jpg", ""), ("https://h/1.jpg", "")]
    assert ["the URL is given more than once" in failure.detail for failure in chunk.failures] == [True]


@pytest.mark.parametrize("value", ["null", "NaN", "0.0", '""', '"nan"', '"None"', "360"])
def test_a_row_whose_rotation_says_nothing_is_not_turned(tmp_path: Path, value: str) -> None:
    content = f'{{"url": "https://h/1.jpg", "rotation": {value}}}'.encode()
    assert rows_of(opened(written(tmp_path / "list.jsonl", content)))[0].rotation == 0
