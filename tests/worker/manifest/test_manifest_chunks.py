"""Every row of a manifest is in exactly one chunk, for any rows, format, source and number of chunks."""

from __future__ import annotations

import csv
import io
import itertools
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.manifest.manifests import everything, opened, written
from worker.manifest.places.byte_source import BLOCK_BYTES
from worker.manifest.raw_rows import chunk_range
from worker.manifest.text.lines import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

fixtures_once = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

words = st.text(st.sampled_from("abc,\"'äß漢😀/&=%"), max_size=12)
urls = words.map(lambda word: f"https://photos.example/{word}")
tsv_words = words.map(lambda word: word.replace('"', ""))
blank_lines = st.sampled_from([b"", b"", b"  ", b"\t \t"])
broken_lines = st.sampled_from(
    [
        b'"',
        b'a,"b',
        b'"a"b,c',
        b"one",
        b"a,b,c,d,e\td\te\tf\tg",
        b"caf\xe9",
        b"nul \0",
        b'{"url": 3}',
        b"{",
        b"[]",
        b"\x85",
    ]
)
line_ends = st.sampled_from([b"\n", b"\r\n"])


def fields_line(fields: list[str], delimiter: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="").writerow(fields)
    return text.getvalue().encode()


@st.composite
def texts(draw: st.DrawFn, rows: st.SearchStrategy[bytes], header: bytes = b"") -> tuple[bytes, int]:
    """Return a file of the given rows among blank, broken and very long lines, and its number of rows."""
    long_lines = st.integers(4000, 5000).map(lambda length: b"https://photos.example/" + b"x" * length)
    lines = draw(st.lists(rows | rows | blank_lines | broken_lines | long_lines, max_size=30))
    lines = [*lines, draw(rows)]
    ends = [draw(line_ends) for _ in lines]
    ends[-1] = draw(st.sampled_from([b"", b"\n"]))
    body = b"".join(itertools.chain.from_iterable(zip(lines, ends, strict=True)))
    start = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    if header:
        start += header + draw(line_ends)
    return start + body, sum(bool(line.strip()) for line in body.split(b"\n"))


def delimited(delimiter: str, values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[bytes, int]]:
    row = st.tuples(values, urls if delimiter == "," else values.map(lambda word: f"https://photos.example/{word}"))
    rotated = st.tuples(row, st.sampled_from(["", "0", "90.0", "-90", "45", "north"]))
    header = fields_line(["id", "url", "Rotation"], delimiter)
    return texts(rotated.map(lambda each: fields_line([*each[0], each[1]], delimiter)), header)


json_lines = st.one_of(
    urls,
    st.fixed_dictionaries({"url": urls}, optional={"id": st.integers(0, 99) | words, "rotation": st.integers(-4, 4)}),
).map(lambda value: json.dumps(value, ensure_ascii=False).encode())

FILES = {
    "csv": delimited(",", words),
    "tsv": delimited("\t", tsv_words),
    "jsonl": texts(json_lines),
    "txt": texts(urls.map(str.encode)),
}


@pytest.mark.parametrize("kind", FILES)
@fixtures_once
@given(data=st.data())
def test_the_chunks_of_a_text_hold_each_of_its_lines_once_and_in_order(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    content, row_count = data.draw(FILES[kind])
    manifest = opened(written(tmp_path / f"list.{kind}", content))
    whole = everything(manifest, chunks=1)
    assert len(whole) == row_count
    assert everything(manifest, chunks=data.draw(st.integers(2, 2 * row_count + 3))) == whole


@st.composite
def parquet_files(draw: st.DrawFn) -> tuple[bytes, int]:
    rows = st.tuples(
        st.integers(0, 9), urls | st.none(), words | st.none(), st.sampled_from([None, 0.0, 90.0, -90.0, 45.0])
    )
    columns = zip(*(found := draw(st.lists(rows, min_size=1, max_size=40))), strict=True)
    schema = pa.schema([("other", pa.int64()), ("URL", pa.string()), ("key", pa.string()), ("Rotation", pa.float64())])
    table = pa.table([list(column) for column in columns], schema=schema)
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=draw(st.integers(1, 15)))
    return file.getvalue(), len(found)


@settings(fixtures_once, max_examples=40)
@given(file=parquet_files(), count=st.integers(2, 60))
def test_the_chunks_of_a_parquet_file_hold_each_of_its_rows_once_and_in_order(
    file: tuple[bytes, int], count: int, tmp_path: Path
) -> None:
    content, row_count = file
    manifest = opened(written(tmp_path / "list.parquet", content))
    whole = everything(manifest, chunks=1)
    assert len(whole) == row_count
    assert everything(manifest, chunks=count) == whole


@settings(fixtures_once, max_examples=40)
@given(
    pairs=st.lists(st.tuples(urls | st.none() | st.integers(0, 3), words), min_size=1, max_size=30),
    count=st.integers(2, 40),
)
def test_the_chunks_of_two_json_arrays_hold_each_pair_once_and_in_order(
    pairs: list[tuple[object, str]], count: int, tmp_path: Path
) -> None:
    values, ids = zip(*pairs, strict=True)
    path = written(tmp_path / "image_urls.json", json.dumps(values).encode())
    ids_path = written(tmp_path / "image_ids.json", json.dumps(ids).encode())
    manifest = opened(path, ids_uri=str(ids_path))
    whole = everything(manifest, chunks=1)
    assert [found[:2] for found in whole] == [
        (value if isinstance(value, str) else "", identifier.strip() if isinstance(value, str) else "")
        for value, identifier in pairs
    ]
    assert everything(manifest, chunks=count) == whole


@pytest.fixture(scope="module")
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@settings(fixtures_once, max_examples=10)
@given(data=st.data(), count=st.integers(1, 9))
def test_the_chunks_are_the_same_from_a_path_from_http_and_from_s3(
    kind: str, data: st.DataObject, count: int, *, tmp_path: Path, server: ManifestServer, s3_api: S3Client, bucket: str
) -> None:
    content, _ = data.draw(parquet_files() if kind == "parquet" else FILES[kind])
    path = written(tmp_path / f"list.{kind}", content)
    s3_api.put_object(Bucket=bucket, Key=f"lists/list.{kind}", Body=content)
    uris = [str(path), server.publish(f"list.{kind}", content), f"s3://{bucket}/lists/list.{kind}"]
    contents = [everything(opened(uri), chunks=count) for uri in uris]
    assert contents[0] == contents[1] == contents[2]


def test_lines_are_found_across_blocks_and_after_lines_that_are_too_long(tmp_path: Path) -> None:
    lengths = [50, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 0, 3 * MAX_LINE_BYTES, 70, BLOCK_BYTES, 90]
    lines = [b"https://photos.example/" + b"x" * length for length in lengths]
    lines.insert(4, b" " * (2 * MAX_LINE_BYTES))
    path = written(tmp_path / "list.txt", b"\n".join(lines))
    manifest = opened(path)
    whole = everything(manifest, chunks=1)
    assert len(whole) == len(lines)
    assert [found[0] for found in whole if found[0]] == [line.decode() for line in lines if len(line) < 1000]
    offsets = [sum(len(line) + 1 for line in lines[:place]) for place in range(len(lines))]
    for found, offset in zip(whole, offsets, strict=True):
        assert found[0] or f"line at byte {offset}:" in str(found[3])
    for count in (2, 3, 7, 20):
        assert everything(manifest, chunks=count) == whole


@given(total=st.integers(0, 10**13), count=st.integers(1, 10**5), data=st.data())
@settings(deadline=None)
def test_the_chunks_ranges_have_no_gaps_and_their_sizes_differ_by_one_at_most(
    total: int, count: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, count - 1))
    share = chunk_range(total, index=index, count=count)
    assert share.start == (0 if index == 0 else chunk_range(total, index=index - 1, count=count).stop)
    assert share.stop == total if index == count - 1 else share.stop <= total
    assert len(share) in {total // count, total // count + 1}
