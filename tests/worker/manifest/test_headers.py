"""A list without a header line is recognised: one sentence says it, and a setting names the columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from common.errors import ManifestError
from tests.worker.manifest.manifests import everything, opened, rows_of, written

if TYPE_CHECKING:
    from pathlib import Path


def lines(*rows: str) -> bytes:
    return ("\n".join(rows) + "\n").encode()


URLS = [f"http://127.0.0.1:9/{number}.jpg" for number in range(3)]


@pytest.mark.parametrize(
    ("name", "content", "columns", "ids"),
    [
        ("urls.csv", lines(*URLS), "url", ["", "", ""]),
        ("urls_2.csv", lines(*(f"{n},{url}" for n, url in enumerate(URLS))), "id,url", ["0", "1", "2"]),
        ("gcc.tsv", lines(*(f"a small picture\t{url}" for url in URLS)), "caption,url", ["", "", ""]),
        ("word.tsv", lines(*(f"image\t{url}" for url in URLS)), "id,url", ["image"] * 3),
        (
            "net.tsv",
            lines(*(f"n0000_{n}\t{url}\t{url}" for n, url in enumerate(URLS))),
            "id,url,column3",
            ["n0000_0", "n0000_1", "n0000_2"],
        ),
        (
            "hive.csv",
            lines(*(f"{n}\x01{url}\x01a, b" for n, url in enumerate(URLS))),
            "id,url,caption",
            ["0", "1", "2"],
        ),
    ],
)
def test_a_list_without_a_header_is_recognised_and_the_setting_makes_it_readable(
    tmp_path: Path, name: str, content: bytes, columns: str, ids: list[str]
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(ManifestError) as refused:
        opened(path)
    assert f"{name} looks as if it had no header line: its first line is " in str(refused.value)
    assert str(refused.value).endswith(f"EMBEDDER_MANIFEST_COLUMNS={columns}")
    manifest = opened(path, manifest_columns=columns)
    assert [(row.url, row.id) for row in rows_of(manifest)] == list(zip(URLS, ids, strict=True))
    for chunks in (1, 2, 7):
        assert everything(manifest, chunks=chunks) == everything(manifest, chunks=1)


@pytest.mark.parametrize(
    "first", ["photos/p0.jpg,a photo", "p0.JPEG", "www.example.com/1", "//h/1,x", "0001eeaf4aed83f9,train"]
)
def test_paths_hosts_and_ids_in_the_first_line_are_recognised_too(tmp_path: Path, first: str) -> None:
    with pytest.raises(ManifestError, match="looks as if it had no header line"):
        opened(written(tmp_path / "list.csv", lines(first, first)))


def test_the_columns_of_a_list_of_ids_without_a_header_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", lines("0001eeaf4aed83f9,train"))
    with pytest.raises(ManifestError, match=r"EMBEDDER_MANIFEST_COLUMNS=ImageID,Subset$"):
        opened(path)
    (row,) = rows_of(opened(path, manifest_columns="ImageID,Subset"))
    assert row.url.endswith("/train/0001eeaf4aed83f9.jpg")


def test_a_wrong_number_of_names_is_refused_with_the_first_line(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", lines(*(f"{n},{url}" for n, url in enumerate(URLS))))
    with pytest.raises(ManifestError) as refused:
        opened(path, manifest_columns="id,caption,url")
    assert "has 2 columns and EMBEDDER_MANIFEST_COLUMNS names 3: its first line is 0, http" in str(refused.value)
    with pytest.raises(ManifestError, match="has no column with URLs, its columns are id, what"):
        opened(path, manifest_columns="id,what")


def test_names_that_the_first_line_has_too_leave_it_the_header(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", lines("ID,Url", f"1,{URLS[0]}"))
    assert [(row.url, row.id) for row in rows_of(opened(path, manifest_columns="id,url"))] == [(URLS[0], "1")]


def test_naming_the_columns_changes_the_identity(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", lines("url,id", f"{URLS[0]},1"))
    assert opened(path).identity != opened(path, manifest_columns="url,id").identity
