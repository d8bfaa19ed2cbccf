"""JSON as programs write it: arrays of objects, objects around arrays, and one value a line under either ending."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ManifestError
from tests.worker.manifest.manifests import everything, opened, rows_of, settings_for, written
from worker.manifest.json.rows import JsonRows
from worker.manifest.places.local_source import LocalSource
from worker.manifest.raw_rows import RawRow
from worker.rows import Row

if TYPE_CHECKING:
    from pathlib import Path

CLIP_FRONT = [
    {"caption": f"a picture {n}", "url": f"photos/p{n}.jpg", "id": 1000 + n, "similarity": 0.3} for n in range(3)
]
RECORDS = [{"image_id": str(n), "url": f"https://h/{n}.jpg", "title": "x"} for n in range(3)]
URLS = [record["url"] for record in RECORDS]
ROWS = [(record["url"], record["image_id"]) for record in RECORDS]
BY_COLUMN = {name: [record[name] for record in RECORDS] for name in RECORDS[0]}


def pairs(path: Path) -> list[tuple[str, str]]:
    return [(row.url, row.id) for row in rows_of(opened(path))]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_objects_is_read_as_the_same_objects_in_lines(tmp_path: Path, indent: int | None) -> None:
    array = opened(written(tmp_path / "a.json", json.dumps(CLIP_FRONT, indent=indent).encode()))
    lines = opened(written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, CLIP_FRONT)).encode()))
    assert rows_of(array) == rows_of(lines) == [Row(n, f"photos/p{n}.jpg", str(1000 + n)) for n in range(3)]
    assert array.columns == lines.columns
    assert array.has_ids
    for chunks in (2, 7):
        assert everything(array, chunks=chunks) == everything(array, chunks=1)


SIZES = {"thumb": "https://h/t", "small": "https://h/s", "raw": "https://h/raw", "full": "https://h/full"}


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ([{"id": "a", "urls": SIZES, "links": {"html": "https://h/a"}}], [("https://h/full", "a")]),
        ({"total": 1, "results": [{"id": "a", "urls": SIZES}]}, [("https://h/full", "a")]),
        (
            {
                "photos": [
                    {
                        "id": 7,
                        "url": "https://h/photo/7/",
                        "src": {"tiny": "https://h/t", "original": "https://h/7.jpeg"},
                    }
                ]
            },
            [("https://h/7.jpeg", "7")],
        ),
        (
            {
                "photos": {
                    "page": 1,
                    "photo": [{"id": "8", "owner": "o", "url_sq": "https://h/s", "url_l": "https://h/l"}],
                }
            },
            [("https://h/l", "8")],
        ),
    ],
    ids=["Unsplash", "Unsplash's search", "Pexels", "Flickr"],
)
def test_of_the_sizes_of_a_picture_the_largest_is_taken(
    tmp_path: Path, value: object, rows: list[tuple[str, str]]
) -> None:
    assert pairs(written(tmp_path / "a.json", json.dumps(value).encode())) == rows


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        (RECORDS, ROWS),
        (BY_COLUMN, ROWS),
        ({"urls": URLS}, [(url, "") for url in URLS]),
        ({"image_urls": URLS, "ids": [1, 2, 3], "captions": ["a", "b", "c"]}, list(zip(URLS, "123", strict=True))),
        ({name: dict(enumerate(column)) for name, column in BY_COLUMN.items()}, ROWS),
        ({"columns": list(BY_COLUMN), "index": [0, 1, 2], "data": [list(each.values()) for each in RECORDS]}, ROWS),
        ({"schema": {"fields": [{"name": "url"}]}, "data": RECORDS}, ROWS),
        (dict(enumerate(RECORDS)), ROWS),
        ({"a7": {"url": URLS[0]}, "b8": {"url": URLS[1]}}, [(URLS[0], "a7"), (URLS[1], "b8")]),
        ({"0": {"url": URLS[0]}, "1": {"url": URLS[1]}}, [(URLS[0], ""), (URLS[1], "")]),
        ({"a7": URLS[0], "b8": URLS[1]}, [(URLS[0], "a7"), (URLS[1], "b8")]),
        ({"0001.jpg": "a caption", "0002.jpg": ["a", "b"]}, [("0001.jpg", ""), ("0002.jpg", "")]),
        (RECORDS[0], ROWS[:1]),
        ({"info": {"year": 2017}, "count": 3, "items": RECORDS}, ROWS),
        (
            {
                "info": {"url": "http://cocodataset.org"},
                "licenses": [{"url": "http://creativecommons.org/", "id": 1, "name": "CC"}],
                "images": [
                    {"file_name": "0.jpg", "coco_url": URLS[0], "id": 9, "flickr_url": "http://f/", "license": 1}
                ],
                "annotations": [{"image_id": 9, "id": 1, "caption": "a"}],
            },
            [(URLS[0], "9")],
        ),
        ([{"image": {"src": URLS[0], "height": 9}}, {"image": [{"src": URLS[1]}]}], [(URLS[0], ""), (URLS[1], "")]),
    ],
)
def test_layouts_with_one_meaning_are_read(tmp_path: Path, value: object, rows: list[tuple[str, str]]) -> None:
    assert pairs(written(tmp_path / "list.json", json.dumps(value).encode())) == rows
    assert pairs(written(tmp_path / "list.json", b"\xef\xbb\xbf " + json.dumps(value, indent=2).encode())) == rows


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": 1},
        {"train": RECORDS, "validation": RECORDS},
        {"images": []},
        {"message": "rate limit", "documentation": {}},
        {"captions": ["a"], "titles": ["b"]},
        {"urls": {}},
        7,
        None,
    ],
)
def test_other_layouts_are_refused_with_what_is_expected(tmp_path: Path, value: object) -> None:
    with pytest.raises(ManifestError, match=r'expected an array: \["https://…", …\] or \[\{"url": "https://…", "id"'):
        opened(written(tmp_path / "list.json", json.dumps(value).encode())).read_chunk(0, 1)


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "list.json", json.dumps({"url": URLS, "id": [1]}).encode())
    with pytest.raises(ManifestError, match="columns that do not fit together: url has 3 values and id 1"):
        opened(path).read_chunk(0, 1)


def test_objects_without_a_url_are_refused_with_their_keys(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no column with URLs, its columns are caption; .*EMBEDDER_URL_COLUMN"):
        opened(written(tmp_path / "list.json", b'[{"caption": "a"}]'))
    path = written(tmp_path / "list.json", b'[{"where": "https://h/1.jpg"}]')
    assert rows_of(opened(path, url_column="where"))[0].url == "https://h/1.jpg"


def test_what_is_no_row_in_an_array_is_in_the_ledger(tmp_path: Path) -> None:
    values = ['{"url": "https://h/1.jpg"}', "7", "null", '["https://h/2.jpg", 2]', '"https://h/3.jpg"', '{"id": 4}']
    values += ['{"url": "https://h/5.jpg", "url": "https://h/6.jpg"}']
    path = tmp_path / "list.json"
    path.write_bytes(f"[{', '.join(values)}, ".encode() + b'{"url": "https://h/7.jpg", "by": "\xfc"}, {"url": "\xfc"}]')
    chunk = opened(path).read_chunk(0, 1)
    assert [(row.position, row.url) for row in chunk.rows] == [
        (0, "https://h/1.jpg"),
        (4, "https://h/3.jpg"),
        (7, "https://h/7.jpg"),
    ]
    assert [failure.detail.partition(": ")[2] for failure in chunk.failures] == [
        "the URL is a number, expected text",
        "the row has no URL",
        "the URL is a list, expected text",
        "the row has no URL",
        "the URL is given more than once, expected text",
        r"the URL is not Unicode text: \udcfc",
    ]


LINES = "\n".join(map(json.dumps, RECORDS)).encode()


@pytest.mark.parametrize("content", [LINES, LINES.replace(b"\n", b"\r\n") + b"\r\n", b"\xef\xbb\xbf\n\n" + LINES])
def test_one_object_a_line_under_the_ending_json_is_read_in_parts(tmp_path: Path, content: bytes) -> None:
    manifest = opened(written(tmp_path / "part-00000.json", content))
    assert manifest.format == "jsonl"
    assert [(row.url, row.id) for row in rows_of(manifest)] == ROWS
    assert everything(manifest, chunks=7) == everything(manifest, chunks=1)


def test_an_array_under_the_ending_jsonl_is_read(tmp_path: Path) -> None:
    for text in (
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=1),
        "[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]",
    ):
        manifest = opened(written(tmp_path / "list.jsonl", text.encode()))
        assert manifest.format == "json"
        assert [(row.url, row.id) for row in rows_of(manifest)] == ROWS


@pytest.mark.parametrize("first", ["[1", "[", "[]", '["https://h/0.jpg"]'])
def test_a_bad_first_line_does_not_make_an_array_of_jsonl(tmp_path: Path, first: str) -> None:
    for times in (1, 1000):
        content = b"\n".join([first.encode(), *[LINES] * times])
        chunk = opened(written(tmp_path / "list.jsonl", content)).read_chunk(0, 1)
        assert [row.url for row in chunk.rows] == URLS * times
        assert len(chunk.failures) == 1


def test_an_array_whose_first_object_is_larger_than_the_head_is_read(tmp_path: Path) -> None:
    large = [{"caption": "x" * 100_000, **RECORDS[0]}, RECORDS[1]]
    for name in ("list.json", "list.jsonl"):
        assert pairs(written(tmp_path / name, json.dumps(large).encode())) == ROWS[:2]


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_several_arrays_are_one_in_the_order_of_their_names(tmp_path: Path, chunks: int) -> None:
    records = [{"url": f"https://h/{n}.jpg", "id": n} for n in range(20)]
    parts = [records[:3], [], records[3:4], records[4:]]
    sources = [
        LocalSource(written(tmp_path / f"part-{number}.json", json.dumps(part).encode()))
        for number, part in enumerate(parts)
    ]
    sources.insert(1, LocalSource(written(tmp_path / "part-0a.json", b"")))
    reader = JsonRows(sources, None, settings_for(tmp_path).manifest)
    found = [row for index in range(chunks) for row in reader.read(index, chunks)]
    assert [row.fields[:2] for row in found if isinstance(row, RawRow)] == [
        (each["url"], each["id"]) for each in records
    ]
    assert reader.count_rows().rows == 20
    assert found[3].where == f"row 0 (the first is 0) of {tmp_path}/part-2.json"


def test_ids_in_a_second_file_go_with_objects_too(tmp_path: Path) -> None:
    array = written(tmp_path / "list.json", json.dumps(RECORDS).encode())
    ids = written(tmp_path / "ids.json", b'["a", 1.0, {"$oid": "c"}]')
    assert [row.id for row in rows_of(opened(array, ids_uri=str(ids)))] == ["a", "1", "c"]
    with pytest.raises(ManifestError, match=r"ids\.json holds an object, expected an array of ids"):
        opened(array, ids_uri=str(written(ids, b"{}"))).read_chunk(0, 1)


KEYS = st.sampled_from(["url", "image_url", "images", "file_name", "id", "data", "columns", "rotation", "x", "0", "1"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(URLS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(document=DOCUMENTS, ending=st.sampled_from(["json", "jsonl"]), chunks=st.integers(2, 8))
def test_any_json_gives_the_same_rows_for_any_number_of_chunks_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, document: object, ending: str, chunks: int
) -> None:
    path = written(tmp_path_factory.getbasetemp() / f"any.{ending}", json.dumps(document).encode())
    try:
        manifest = opened(path)
        expected = everything(manifest, chunks=1)
    except ManifestError:
        return
    assert everything(manifest, chunks=chunks) == expected
