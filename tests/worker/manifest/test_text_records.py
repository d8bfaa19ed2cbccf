"""Rows of CSV and TSV over several lines are the same for any number of chunks, and those that the csv module reads."""

from __future__ import annotations

import csv
import io
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import ManifestError
from tests.worker.manifest.memory_source import MemorySource
from worker.manifest.raw_rows import RawRow
from worker.manifest.text.delimited_file import open_delimited
from worker.manifest.text.delimited_rows import DelimitedRows
from worker.manifest.text.encoding import TextFile
from worker.manifest.text.records import read_records
from worker.settings import ManifestSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.manifest.raw_rows import UnreadableRow
    from worker.manifest.text.records import Record

SETTINGS = ManifestSettings(manifest_uri="list.csv")
CHUNKS = range(1, 10)


def rows_of(contents: Sequence[bytes], *, chunks: int, delimiter: str = ",") -> list[RawRow | UnreadableRow]:
    reader = DelimitedRows(
        [MemorySource(content, f"part-{number}.csv") for number, content in enumerate(contents)],
        SETTINGS,
        delimiter=delimiter,
    )
    return [row for index in range(chunks) for row in reader.read(index, chunks)]


def records_of(content: bytes, *, chunks: int, max_record_bytes: int, delimiter: str = ",") -> list[Record]:
    file = open_delimited(TextFile(MemorySource(content)), SETTINGS, preferred=delimiter)
    assert file is not None
    size = len(content)
    return [
        record
        for index in range(chunks)
        for record in read_records(
            file.text,
            file.dialect,
            first=file.first,
            start=index * size // chunks,
            end=(index + 1) * size // chunks,
            max_record_bytes=max_record_bytes,
        )
    ]


pieces = st.sampled_from(
    ['"', '"', '""', ",", ",", "\n", "\n", "\r\n", "\r", "a", " ", "\\", '\\"', ";", "\t", '","', '"\n', '\n"', ',"']
)
tangles = st.lists(pieces, max_size=60).map("".join)


@given(text=tangles, delimiter=st.sampled_from(",\t;|"))
@example(text='"abc,x\n1,y\n2,z\n', delimiter=",")
@example(text='a,"b\n","\n",c\n"\n,"\n', delimiter=",")
@settings(deadline=None, max_examples=100)
def test_any_quotes_give_the_same_rows_for_any_number_of_chunks(text: str, delimiter: str) -> None:
    content = f"id{delimiter}url\n{text.replace(',', delimiter)}\n1{delimiter}x".encode()
    whole = rows_of([content], chunks=1, delimiter=delimiter)
    assert whole
    for chunks in CHUNKS:
        assert rows_of([content], chunks=chunks, delimiter=delimiter) == whole


@given(texts=st.lists(tangles, min_size=2, max_size=4), end=st.sampled_from(["", "\n"]))
@settings(deadline=None, max_examples=30)
def test_a_quote_that_one_file_leaves_open_does_not_reach_into_the_next(texts: list[str], end: str) -> None:
    contents = [f"id,url\n{text}\n1,x{end}".encode() for text in texts]
    apart = [row.text for content in contents for row in rows_of([content], chunks=1)]
    for chunks in CHUNKS:
        assert [row.text for row in rows_of(contents, chunks=chunks)] == apart


@given(text=tangles, limit=st.integers(2, 60))
@settings(deadline=None, max_examples=100)
def test_a_record_longer_than_a_chunk_looks_ahead_ends_the_run_or_is_read_right(text: str, limit: int) -> None:
    content = f"id,url\n{text}\n1,x".encode()
    whole = records_of(content, chunks=1, max_record_bytes=limit)
    has_long = any(record.line_count > 1 and record.end - record.first.offset > limit for record in whole)
    for chunks in CHUNKS[1:]:
        with pytest.raises(ManifestError, match="embedder list") if has_long else nullcontext():
            assert records_of(content, chunks=chunks, max_record_bytes=limit) == whole


@pytest.mark.parametrize("line", ['"', '",', ',"', '"a', '"""', '""', '\\"', '"\\', '","x', '"a\tb'])
def test_a_list_of_nothing_but_quotes_is_read_in_little_time(line: str) -> None:
    content = ("id,url\n" + f"{line}\n" * 3000 + "1,x\n").encode()
    whole = rows_of([content], chunks=1)
    assert rows_of([content], chunks=7) == whole
    assert whole[-1].text == "1,x"


values = st.lists(st.sampled_from([*'ab, ";|\t\n\\é漢😀', "\r\n", '\\"', '",', '"\n']), max_size=8).map("".join)


@given(
    rows=st.lists(st.tuples(st.integers(0, 99).map(str), values, values), min_size=1, max_size=20),
    delimiter=st.sampled_from(",\t;|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(deadline=None, max_examples=120)
def test_what_the_csv_module_writes_is_read_as_the_csv_module_reads_it(
    rows: list[tuple[str, str, str]], delimiter: str, quoting: int, line_end: str, encoding: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end)  # type: ignore[arg-type]
    writer.writerows([("id", "url", "title"), *rows])
    content = text.getvalue().encode(encoding)
    expected = [
        (row[0], row[1].strip())
        for row in csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=delimiter)
        if row
    ][1:]
    for chunks in (1, 2, 7):
        found = rows_of([content], chunks=chunks, delimiter=delimiter)
        assert all(isinstance(row, RawRow) for row in found)
        fields = [(row.fields.id, str(row.fields.url).strip()) for row in found if isinstance(row, RawRow)]
        assert [(key, url.replace("\r\n", "\n")) for key, url in fields] == [
            (key, url.replace("\r\n", "\n")) for key, url in expected
        ]
