"""Several text files are one manifest: their bytes are divided, and each file keeps its own header, mark and end."""

from __future__ import annotations

import json
import tracemalloc
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ManifestError
from tests.manifest_server import manifest_server
from tests.worker.manifest.manifests import QUICK_RETRY
from tests.worker.manifest.memory_source import LongLine, MemorySource
from worker.manifest.json.line_rows import JsonLinesRows
from worker.manifest.places.http_source import HttpSource
from worker.manifest.raw_rows import RawRow, UnreadableRow, chunk_range
from worker.manifest.text.delimited_rows import DelimitedRows
from worker.manifest.text.lines import OVERLAP_BYTES
from worker.manifest.text.records import MAX_RECORD_BYTES
from worker.manifest.text.txt_layout import open_txt
from worker.settings import HttpSettings, ManifestSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.manifest.places.byte_source import ByteSource
    from worker.manifest.raw_rows import RowReader

Found = list[RawRow | UnreadableRow]


def reader_of(sources: Sequence[ByteSource], kind: str, **changes: Any) -> RowReader:  # noqa: ANN401 - any setting
    chosen = ManifestSettings(manifest_uri="lists/", **changes)
    match kind:
        case "txt":
            return open_txt(sources, chosen)
        case "jsonl":
            return JsonLinesRows(sources, chosen)
        case _:
            return DelimitedRows(sources, chosen, delimiter="\t" if kind == "tsv" else ",")


def files(*contents: bytes, kind: str = "csv") -> list[MemorySource]:
    return [MemorySource(content, f"part-{number:05}.{kind}") for number, content in enumerate(contents)]


def all_of(reader: RowReader, *, chunks: int) -> Found:
    return [row for index in range(chunks) for row in reader.read(index, chunks)]


def urls_of(rows: Found) -> list[object]:
    return [row.fields.url for row in rows if isinstance(row, RawRow)]


HEADERS = {"csv": "id,url,title", "tsv": "id\turl\ttitle", "txt": "", "jsonl": ""}


def row_text(kind: str, number: int, title: str) -> str:
    match kind:
        case "csv":
            return f'{number},p{number}.jpg,"{title}"'
        case "tsv":
            return f"{number}\tp{number}.jpg\t{title}"
        case "txt":
            return f"p{number}.jpg"
        case _:
            return json.dumps({"id": number, "url": f"p{number}.jpg", "title": title})


@pytest.mark.parametrize("kind", HEADERS)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_the_chunks_of_several_files_hold_each_row_once_and_in_order(kind: str, data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=6).filter(any))
    titles = ["a", "two\nlines", "x\n\ny, p9.jpg, z"] if kind == "csv" else ["a", "b c"]
    contents = []
    for last, count in zip(accumulate(counts), counts, strict=True):
        rows = [row_text(kind, number, data.draw(st.sampled_from(titles))) for number in range(last - count, last)]
        text = data.draw(st.sampled_from(["\n", "\r\n"])).join([HEADERS[kind]] * bool(HEADERS[kind]) + rows)
        end = data.draw(st.sampled_from(["", "\n", "\n\n"]))
        encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
        is_empty = count == 0 and data.draw(st.booleans())
        contents.append(b"" if is_empty else (text + end).encode(encoding))
    reader = reader_of(files(*contents, kind=kind), kind)
    whole = all_of(reader, chunks=1)
    assert urls_of(whole) == [f"p{number}.jpg" for number in range(sum(counts))]
    assert reader.count_rows() == (sum(counts), True)
    assert list(reader.spread(1000)) == whole
    for chunks in (2, 3, 7, 40):
        assert all_of(reader, chunks=chunks) == whole


def test_a_row_says_in_which_file_it_is() -> None:
    reader = reader_of(files(b"id,url\n1,a.jpg\n", b"id,url\n2\n"), "csv")
    assert [row.where for row in all_of(reader, chunks=1)] == [
        "line at byte 7 of part-00000.csv",
        "line at byte 7 of part-00001.csv",
    ]
    alone = reader_of(files(b"id,url\n1,a.jpg\n"), "csv")
    assert [row.where for row in all_of(alone, chunks=1)] == ["line at byte 7"]


def test_the_columns_of_each_file_are_found_by_name() -> None:
    reader = reader_of(
        files(b"id,url\n1,a.jpg\n", b"title;URL;id\nx, y;b.jpg;2\n", "url\tid\nc.jpg\t3\n".encode("utf-16")), "csv"
    )
    for chunks in (1, 7):
        fields = [row.fields[:2] for row in all_of(reader, chunks=chunks) if isinstance(row, RawRow)]
        assert fields == [("a.jpg", "1"), ("b.jpg", "2"), ("c.jpg", "3")]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (b"url,title\nb.jpg,x\n", "part-00001.csv has the column url, and part-00000.csv has the columns url, id"),
        (b"id,title\n2,x\n", r"part-00001.csv has no column with URLs.*part-00000.csv has the columns url, id"),
        (b"2,http://h/b.jpg\n", r"part-00001.csv looks as if it had no header.*part-00000.csv has the columns url, id"),
    ],
)
def test_a_file_of_other_columns_ends_in_a_sentence_that_names_both(second: bytes, said: str) -> None:
    reader = reader_of(files(b"id,url\n1,a.jpg\n", second), "csv")
    with pytest.raises(ManifestError, match=rf"{said}.*all files of a manifest need the same columns"):
        all_of(reader, chunks=1)


def test_the_column_of_urls_is_the_same_in_each_file() -> None:
    pages = b"image_id,url,link\n1,http://h/a.jpg,http://h/page\n"
    turned = b"image_id,url,link\n2,http://h/page,http://h/b.jpg\n"
    reader = reader_of(files(pages, turned, b"image_id,url,link\n3,http://h/c.jpg,x,,,\n"), "csv")
    assert urls_of(all_of(reader, chunks=3)) == ["http://h/a.jpg", "http://h/page", "http://h/c.jpg"]


def test_parts_without_headers_are_read_with_the_setting() -> None:
    sources = files(b"1,http://h/a.jpg\n2,http://h/b.jpg", b"", b"3,http://h/c.jpg\n")
    with pytest.raises(ManifestError, match="looks as if it had no header line"):
        reader_of(sources, "csv")
    reader = reader_of(sources, "csv", manifest_columns="id,url")
    for chunks in (1, 7):
        assert urls_of(all_of(reader, chunks=chunks)) == ["http://h/a.jpg", "http://h/b.jpg", "http://h/c.jpg"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "jsonl"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"id,url\n"])
def test_files_without_any_row_are_refused(kind: str, content: bytes) -> None:
    if content.startswith(b"id") and kind in {"txt", "jsonl"}:
        return
    with pytest.raises(ManifestError, match=f"part-00000.{kind} with 2 more files has no rows"):
        reader_of(files(*[content] * 3, kind=kind), kind)


def many_files(*, file_count: int, rows: int, title: str) -> list[bytes]:
    header = b"id,url,title\n"
    row = b'%08d,https://h/%d.jpg,"' + title.encode() + b'"\n'
    firsts = range(0, file_count * rows, rows)
    return [header + b"".join(row % (number, number) for number in range(first, first + rows)) for first in firsts]


@pytest.mark.parametrize("title", ["a title, of words", "a title\nof lines, p.jpg,x\nand more"])
def test_a_chunk_reads_its_own_part_of_many_files_and_the_heads_of_those(title: str) -> None:
    contents = many_files(file_count=10, rows=1500, title=title)
    total = sum(map(len, contents))
    count, index = 10, 3
    with manifest_server() as server:
        uris = [server.publish(f"part-{number}.csv", content) for number, content in enumerate(contents)]
        sources = [HttpSource(uri, HttpSettings(), retry=QUICK_RETRY) for uri in uris]
        reader = reader_of(sources, "csv")
        server.bytes_sent = 0
        rows = list(reader.read(index, count))
        assert len(rows) == pytest.approx(15_000 / count, abs=20)
        assert server.bytes_sent <= len(chunk_range(total, index=index, count=count)) + 3 * OVERLAP_BYTES
        everything = [row for number in range(count) for row in reader.read(number, count)]
    assert urls_of(everything) == [f"https://h/{row}.jpg" for row in range(15_000)]


def test_a_field_too_long_for_dividing_ends_each_run_of_several_chunks_with_the_remedy() -> None:
    row = b"%d,p%d.jpg,title\n"
    before = b"".join(row % (number, number) for number in range(8000))
    long = b'x,long.jpg,"' + b"2,phantom.jpg,y\n" * (MAX_RECORD_BYTES // 16 + 1) + b'"\n'
    reader = reader_of(files(b"id,url,title\n" + before + long + before), "csv")
    whole = all_of(reader, chunks=1)
    assert len(urls_of(whole)) == 16_001
    assert "phantom.jpg" not in urls_of(whole)
    for chunks in (2, 3, 7, 20):
        said = rf"begins at byte {13 + len(before)}; write the list once as Parquet with `embedder list"
        with pytest.raises(ManifestError, match=said):
            all_of(reader, chunks=chunks)


def test_a_small_file_may_have_fields_of_any_length() -> None:
    long = b'x,long.jpg,"' + b"2,phantom.jpg,y\n" * 8000 + b'"\n'
    reader = reader_of(files(b"id,url,title\n1,a.jpg,t\n" + long + b"2,b.jpg,t\n"), "csv")
    for chunks in (1, 2, 7):
        assert urls_of(all_of(reader, chunks=chunks)) == ["a.jpg", "long.jpg", "b.jpg"]


@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl"])
def test_a_line_of_a_gigabyte_is_a_row_of_the_ledger_and_takes_little_memory(kind: str) -> None:
    header, row = {
        "csv": (b"id,url\n1,a.jpg\n", b"2,b.jpg\n"),
        "txt": (b"a.jpg\n", b"b.jpg\n"),
        "jsonl": (b'{"url": "a.jpg"}\n', b'{"url": "b.jpg"}\n'),
    }[kind]
    source = LongLine(header, row, size=256 << 20)
    reader = reader_of([source], kind)
    tracemalloc.start()
    try:
        found = all_of(reader, chunks=7)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert urls_of(found) == ["a.jpg", "b.jpg"]
    assert [row.problem for row in found if isinstance(row, UnreadableRow)] == ["the line has more than 1048576 bytes"]


def spread_rows(contents: Sequence[bytes], count: int) -> Iterator[object]:
    return iter(urls_of(list(reader_of(files(*contents), "csv").spread(count))))


def test_rows_of_many_files_are_counted_by_a_sample_and_shown_from_all_over() -> None:
    contents = many_files(file_count=30, rows=1000, title="a title\nof two lines")
    found = reader_of(files(*contents), "csv").count_rows()
    assert not found.is_exact
    assert found.rows == pytest.approx(30_000, rel=0.03)
    numbers = [int(str(url).removeprefix("https://h/").removesuffix(".jpg")) for url in spread_rows(contents, 20)]
    assert len(numbers) == 20
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 27_000
