"""Each row of a manifest becomes a Row, or a failure in the ledger with its reason."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.format.reasons import Reason
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.manifest.manifests import everything, failures_of, opened, rows_of, written
from worker.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

OPEN_IMAGES = Path(__file__).parents[2] / "data" / "openimages_rows.csv"


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def parquet_file(path: Path, table: pa.Table) -> Path:
    file = io.BytesIO()
    parquet.write_table(table, file)
    return written(path, file.getvalue())


def test_open_images_files_are_read_as_published() -> None:
    manifest = opened(OPEN_IMAGES)
    assert manifest.has_ids
    assert manifest.sources == ("mirror", "thumbnail", "original")
    # The Author and the Title of the second and third row have commas and quotation marks in quoted fields.
    first, second, third = rows_of(manifest)
    assert first == Row(
        position=0,
        url="https://farm3.staticflickr.com/5310/5898076654_51085e157c_o.jpg",
        id="4fa8054781a4c382",
        subset="train",
        thumbnail="https://c1.staticflickr.com/6/5310/5898076654_00643a940c_z.jpg",
        rotation=0,
    )
    assert second.thumbnail.endswith("_z.jpg?zz=1")
    assert (third.subset, third.rotation) == ("validation", 0)


def test_open_images_rows_without_a_thumbnail_and_with_quotes_and_rotation_are_read(tmp_path: Path) -> None:
    header, row, *_ = OPEN_IMAGES.read_text().splitlines()
    fields = row.split(",")
    fields[header.split(",").index("Author")] = '"Doe, ""J"" Müller"'
    fields[header.split(",").index("Thumbnail300KURL")] = ""
    fields[header.split(",").index("Rotation")] = "270.0"
    (found,) = rows_of(opened(written(tmp_path / "list.csv", f"{header}\n{','.join(fields)}\n".encode())))
    assert (found.id, found.thumbnail, found.rotation) == ("4fa8054781a4c382", "", 270)


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    values = [
        {
            "ImageID": "1",
            "OriginalURL": "https://h/a,b.jpg",
            "Subset": "train",
            "Thumbnail300KURL": "",
            "Rotation": "90",
        },
        {
            "ImageID": "ü",
            "OriginalURL": "https://h/ü.jpg",
            "Subset": "test",
            "Thumbnail300KURL": "https://t/",
            "Rotation": "",
        },
    ]
    table = {name: [value[name] for value in values] for name in values[0]}
    csv_text = 'ImageID,OriginalURL,Subset,Thumbnail300KURL,Rotation\n1,"https://h/a,b.jpg",train,,90\n' + ",".join(
        values[1].values()
    )
    paths = [
        written(tmp_path / "list.csv", csv_text.encode()),
        written(
            tmp_path / "list.tsv",
            "\n".join("\t".join(row) for row in [values[0], *(v.values() for v in values)]).encode(),
        ),
        written(tmp_path / "list.jsonl", "\n".join(json.dumps(value) for value in values).encode()),
        parquet_file(tmp_path / "list.parquet", pa.table(table)),
    ]
    contents = [everything(opened(path), chunks=1) for path in paths]
    assert contents[0] == [
        ("https://h/a,b.jpg", "1", "train", "", 90),
        ("https://h/ü.jpg", "ü", "test", "https://t/", 0),
    ]
    assert all(content == contents[0] for content in contents)
    assert {opened(path).sources for path in paths} == {("mirror", "thumbnail", "original")}


def test_a_list_of_urls_and_a_pair_of_json_arrays_are_read(tmp_path: Path) -> None:
    urls = ["https://h/1.jpg", "https://h/2.jpg"]
    text = opened(written(tmp_path / "list.txt", "\n".join(urls).encode()))
    strings = opened(written(tmp_path / "list.jsonl", "\n".join(map(json.dumps, urls)).encode()))
    array = written(tmp_path / "image_urls.json", json.dumps(urls).encode())
    ids = written(tmp_path / "image_ids.json", b'["a", 7]')
    for manifest in (text, strings, opened(array)):
        assert [row.url for row in rows_of(manifest)] == urls
        assert not manifest.has_ids
        assert manifest.sources == ("url",)
    pair = opened(array, ids_uri=str(ids))
    assert pair.has_ids
    assert [(row.url, row.id) for row in rows_of(pair)] == [(urls[0], "a"), (urls[1], "7")]
    assert pair.identity != opened(array).identity


@pytest.mark.parametrize("name", ["OriginalURL", "url", "URL", "image_url", "ImageUrl", "uri", "Link"])
def test_columns_are_found_by_name_in_upper_and_lower_case(tmp_path: Path, name: str) -> None:
    manifest = opened(written(tmp_path / "list.csv", f"KEY , {name} ,ROTATION\nk, https://h/1.jpg ,180\n".encode()))
    assert rows_of(manifest) == [Row(0, "https://h/1.jpg", "k", rotation=180)]


def test_settings_can_name_other_columns(tmp_path: Path) -> None:
    content = b"id,url,Photo,Serial\n1,https://h/1.jpg,https://h/2.jpg,s\n"
    path = written(tmp_path / "list.csv", content)
    manifest = opened(path, url_column="Photo", id_column="serial")
    assert rows_of(manifest) == [Row(0, "https://h/2.jpg", "s")]
    assert manifest.identity != opened(path).identity
    lines = written(tmp_path / "list.jsonl", b'{"url": "https://h/1.jpg", "Photo": "https://h/2.jpg"}')
    assert rows_of(opened(lines, url_column="Photo"))[0].url == "https://h/2.jpg"


def test_jsonl_objects_may_leave_out_keys(tmp_path: Path) -> None:
    content = b'{"id": 1, "url": "https://h/1.jpg"}\n{"url": "https://h/2.jpg", "id": null, "Rotation": 90, "x": {}}\n'
    manifest = opened(written(tmp_path / "list.jsonl", content))
    assert rows_of(manifest) == [Row(0, "https://h/1.jpg", "1"), Row(1, "https://h/2.jpg", rotation=90)]


@pytest.mark.parametrize(
    ("written_as", "degrees"),
    [
        *[("", 0), ("nan", 0), ("None", 0), ("0", 0), ("0.0", 0), ("360", 0)],
        *[("90.0", 90), ("9e1", 90), ("450", 90), (" 180 ", 180), ("-90", 270)],
    ],
)
def test_rotations_are_normalised(tmp_path: Path, written_as: str, degrees: int) -> None:
    path = written(tmp_path / "list.csv", f"url,Rotation\nhttps://h/1.jpg,{written_as}\n".encode())
    assert rows_of(opened(path))[0].rotation == degrees


@pytest.mark.parametrize("written_as", ["45", "north", "inf", "1e400", "90.5", "0x5a"])
def test_a_rotation_that_is_not_a_multiple_of_90_is_malformed_unless_rotation_is_off(
    tmp_path: Path, written_as: str
) -> None:
    path = written(tmp_path / "list.csv", f"id,url,Rotation\ni,https://h/1.jpg,{written_as}\n".encode())
    (failure,) = failures_of(opened(path))
    assert (failure.reason, failure.url, failure.id) == (Reason.MALFORMED_ROW, "https://h/1.jpg", "i")
    assert failure.detail.startswith(f"line at byte 16: the rotation is {written_as}, expected a multiple of 90, in i,")
    assert rows_of(opened(path, rotate=False)) == [Row(0, "https://h/1.jpg", "i")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"only-one", "expected 2 columns, found 1"),
        (b"1,https://h/1.jpg,more", "expected 2 columns, found 3"),
        (b'1,"https://h/1.jpg', "unexpected end of data"),
        (b'"1"2,https://h/1.jpg', "',' expected after '\"'"),
        (b"1,https://h/\0.jpg", "a NUL character"),
        (b"1,", "the row has no URL"),
        (b"1,   ", "the row has no URL"),
        (b"1,https://h/\xff.jpg", "the URL is not Unicode text"),
        (b"1,a\rb", "new-line character seen in unquoted field"),
    ],
)
def test_a_csv_line_that_cannot_be_read_is_in_the_ledger_with_its_place_and_text(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    path = written(tmp_path / "list.csv", b"id,url\r\n0,https://h/0.jpg\r\n" + line + b"\r\n2,https://h/2.jpg")
    chunk = opened(path).read_chunk(0, 1)
    assert [row.position for row in chunk.rows] == [0, 2]
    (failure,) = chunk.failures
    assert (failure.row, failure.reason, failure.url) == (1, Reason.MALFORMED_ROW, "")
    assert failure.detail.startswith(f"line at byte 27: {problem}")
    assert failure.detail.isprintable()
    assert f", in {line[:2].decode()}" in failure.detail


def test_a_line_that_is_not_utf8_keeps_its_url(tmp_path: Path) -> None:
    (failure,) = failures_of(opened(written(tmp_path / "list.csv", b"url,author\nhttps://h/1.jpg,M\xfcller\n")))
    assert (failure.url, failure.reason) == ("https://h/1.jpg", Reason.MALFORMED_ROW)
    assert failure.detail == r"line at byte 11: the line is not UTF-8, in https://h/1.jpg,M\udcfcller"


def test_the_detail_shows_200_characters_of_a_long_line(tmp_path: Path) -> None:
    (failure,) = failures_of(opened(written(tmp_path / "list.csv", b"id,url\n" + b"\x07" + b"x" * 5000 + b"\n")))
    assert failure.detail == r"line at byte 7: expected 2 columns, found 1, in \x07" + "x" * 196 + "…"


@pytest.mark.parametrize("scheme", ["https://h/", "relative/"])
def test_a_url_that_is_too_long_is_in_the_ledger_and_not_cut(tmp_path: Path, scheme: str) -> None:
    long = scheme + "ü" * 1030
    (failure,) = failures_of(opened(written(tmp_path / "list.txt", long.encode())))
    assert (failure.reason, failure.url) == (Reason.URL_TOO_LONG, "")
    expected = f"the URL has {len(long.encode())} bytes, EMBEDDER_MAX_URL_BYTES is 2048: {long[:200]}…"
    assert failure.detail == f"line at byte 0: {expected}"
    assert rows_of(opened(tmp_path / "list.txt", max_url_bytes=5000))[0].url == long


@pytest.mark.parametrize(("ending", "reason"), [("csv", Reason.MALFORMED_ROW), ("txt", Reason.URL_TOO_LONG)])
def test_a_line_of_megabytes_is_in_the_ledger(tmp_path: Path, ending: str, reason: Reason) -> None:
    path = written(
        tmp_path / f"list.{ending}", b"url\n" * (ending == "csv") + b"h" * (5 << 20) + b"\nhttps://h/2.jpg\n"
    )
    chunk = opened(path).read_chunk(0, 1)
    assert [(row.position, row.url) for row in chunk.rows] == [(1, "https://h/2.jpg")]
    (failure,) = chunk.failures
    assert failure.reason is reason
    assert "the line has more than 1048576 bytes" in failure.detail


@pytest.mark.parametrize("url", ["https://h/a\tb.jpg", "https://h/\x1b[2J.jpg", "a\x85b.jpg"])
def test_control_characters_in_a_url_make_it_invalid(tmp_path: Path, url: str) -> None:
    (failure,) = failures_of(opened(written(tmp_path / "list.txt", url.encode())))
    assert (failure.reason, failure.url) == (Reason.INVALID_URL, url)
    assert failure.detail.isprintable()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "expected a JSON object or string"),
        ("[1]", "expected a JSON object or string"),
        ("[" * 100_000, "expected a JSON object or string"),
        ("{'url': 'https://h/1.jpg'}", "expected a JSON object or string, not Python's notation"),
        ('{"id": 5}', "the row has no URL"),
        ('{"url": 5}', "the URL is a number, expected text"),
        ('{"url": "https://h/", "rotation": true}', "the rotation is True, expected a multiple of 90"),
        (r'{"url": "https://h/\ud800"}', r"the URL is not Unicode text: https://h/\ud800"),
        (r'"https://h/\u0000"', r"the URL has a NUL character: https://h/\x00"),
    ],
)
def test_a_jsonl_line_that_cannot_be_read_is_in_the_ledger(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path / "list.jsonl", f'{{"url": "https://h/0.jpg"}}\n{line}\n'.encode())
    (failure,) = opened(path).read_chunk(0, 1).failures
    assert (failure.row, failure.reason) == (1, Reason.MALFORMED_ROW)
    assert failure.detail.startswith(f"line at byte 27: {problem}")


def test_parquet_values_of_any_text_type_are_read(tmp_path: Path) -> None:
    types = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view()]
    for kind in [*types, pa.dictionary(pa.int32(), pa.string())]:
        column = pa.array(["https://h/ü.jpg", None], pa.string()).cast(kind)
        path = parquet_file(tmp_path / "list.parquet", pa.table({"url": column, "id": [7, 8]}))
        chunk = opened(path).read_chunk(0, 1)
        assert chunk.rows == [Row(0, "https://h/ü.jpg", "7")]
        (failure,) = chunk.failures
        assert failure.detail == "row 1 (the first is 0): the row has no URL"
        assert failure.id == ""


def test_a_parquet_value_that_is_not_utf8_fails_only_its_own_row(tmp_path: Path) -> None:
    urls = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\x0a\0\0\0\x0b\0\0\0"), pa.py_buffer(b"https://h/\xff")]
    )
    chunk = opened(parquet_file(tmp_path / "list.parquet", pa.table({"url": urls}))).read_chunk(0, 1)
    assert [row.url for row in chunk.rows] == ["https://h/"]
    assert [failure.reason for failure in chunk.failures] == [Reason.MALFORMED_ROW]


@pytest.mark.parametrize("url", ["file:///data/1.jpg", "FILE:/data/1.jpg"])
def test_only_local_manifests_may_name_files(tmp_path: Path, server: ManifestServer, url: str) -> None:
    content = f"https://h/0.jpg\n{url}\n".encode()
    local = opened(written(tmp_path / "list.txt", content))
    assert [row.url for row in rows_of(local)] == ["https://h/0.jpg", url]
    assert local.folder == tmp_path
    remote = opened(server.publish("list.txt", content))
    assert remote.folder is None
    chunk = remote.read_chunk(0, 1)
    assert [row.url for row in chunk.rows] == ["https://h/0.jpg"]
    (failure,) = chunk.failures
    assert (failure.reason, failure.url) == (Reason.INVALID_URL, url)
    assert "files can be named only in a manifest that is itself a file" in failure.detail


def test_a_thumbnail_in_a_remote_manifest_must_not_be_a_file(server: ManifestServer) -> None:
    manifest = opened(server.publish("list.csv", b"url,Thumbnail300KURL\nhttps://h/,file:///etc/passwd\n"))
    (failure,) = failures_of(manifest)
    assert (failure.reason, failure.url) == (Reason.INVALID_URL, "https://h/")


@pytest.mark.parametrize("url", ["N/A", "-", "//h/1.jpg", "/data/1.jpg", "../1.jpg", "1.png"])
def test_a_value_that_is_not_a_url_in_a_remote_manifest_is_in_the_ledger(server: ManifestServer, url: str) -> None:
    (failure,) = failures_of(opened(server.publish("list.txt", url.encode())))
    assert (failure.reason, failure.url) == (Reason.INVALID_URL, url)


def test_an_unknown_chunk_is_refused(tmp_path: Path) -> None:
    manifest = opened(written(tmp_path / "list.txt", b"https://h/"))
    for index, count in ((-1, 1), (1, 1), (0, 0)):
        with pytest.raises(ValueError, match="chunk"):
            manifest.read_chunk(index, count)


def test_commas_behind_the_objects_of_jsonl_do_not_count(tmp_path: Path) -> None:
    lines = [f'{{"url": "https://h/{number}.jpg", "id": {number}}},\r\n' for number in range(9)]
    manifest = opened(written(tmp_path / "list.jsonl", "".join(lines).encode()))
    assert [(row.url, row.id) for row in rows_of(manifest)] == [(f"https://h/{n}.jpg", str(n)) for n in range(9)]
    assert everything(manifest, chunks=7) == everything(manifest, chunks=1)


@pytest.mark.parametrize("start", ["/9j/4AAQSkZJRg", "iVBORw0KGgoAAAAN", "R0lGODlhAQAB", "UklGRiQAAABXRUJQ"])
@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_an_image_in_place_of_its_url_is_named_and_no_limit_is_blamed(tmp_path: Path, prefix: str, start: str) -> None:
    content = f"url,id\n{prefix and chr(34)}{prefix}{start}{'A' * 4000}{prefix and chr(34)},7\n"
    (failure,) = failures_of(opened(written(tmp_path / "list.csv", content.encode())))
    assert failure.reason == Reason.INVALID_URL
    assert ("data: URLs are not fetched" if prefix else "an image in base64, not a URL") in failure.detail
