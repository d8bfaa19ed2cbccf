"""The columns of lists as people publish them are found, and the URL of an image wins over that of a page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from common.errors import ManifestError
from tests.worker.manifest.manifests import opened, rows_of, settings_for, written
from worker.manifest.columns import find_columns

if TYPE_CHECKING:
    from pathlib import Path

    from worker.manifest.columns import Columns

UNSPLASH = (
    b"photo_id\tphoto_url\tphoto_image_url\tphoto_submitted_at\n"
    b"AAA\thttps://site.invalid/photos/AAA\thttp://127.0.0.1:9/a.jpg\t2020-01-01\n"
)


def columns_of(*names: str) -> Columns:
    return find_columns(names, settings_for("list.csv").manifest, name="list.csv")


@pytest.mark.parametrize(
    ("names", "url", "id_name"),
    [
        (["URL", "TEXT", "SAMPLE_ID", "similarity"], "URL", "SAMPLE_ID"),
        (["key", "url", "caption", "hash", "sha256"], "url", "key"),
        (["uid", "url", "text", "sha256"], "url", "uid"),
        (["__key__", "__url__", "url"], "url", "__key__"),
        (["id", "url", "text", "thumbnail_url"], "url", "id"),
        (["caption", "url"], "url", None),
        (["photo_id", "photo_url", "photo_image_url", "photographer_username"], "photo_image_url", "photo_id"),
        (["photo_id", "photo_url"], "photo_url", "photo_id"),
        (["language", "page_url", "image_url", "page_title"], "image_url", None),
        (["image_id", "author", "url", "raw_caption", "permalink"], "url", "image_id"),
        (["photoid", "uid", "pageurl", "downloadurl", "licenseurl"], "downloadurl", "photoid"),
        (["license", "file_name", "coco_url", "flickr_url", "id"], "coco_url", "id"),
        (["file_name", "text"], "file_name", None),
        (["filepath", "split", "imgid"], "filepath", "imgid"),
        (["_id", "img_url", "url"], "img_url", "_id"),
        (["id", "_id", "jpg_url"], "jpg_url", "id"),
        (["Object ID", "Primary-Image", "Link Resource"], "Primary-Image", "Object ID"),
        (["Photo URL", "Page URL"], "Photo URL", None),
        (["pageUrl", "mainImageUrl", "url"], "mainImageUrl", None),
        (["listing_url", "host_picture_url", "picture_url", "id"], "picture_url", "id"),
        (["url", "photographer_url", "license_url"], "url", None),
        (["link", "image"], "image", None),
        (["href", "src", "alt"], "src", None),
        (["@type", "contentUrl", "url"], "contentUrl", None),
        (["thumbnail_url", "page"], "thumbnail_url", None),
        (["thumbnail_url", "path"], "path", None),
        (["image", "label"], "image", None),
        (["OriginalURL", "OriginalLandingURL", "ImageID", "Thumbnail300KURL"], "OriginalURL", "ImageID"),
    ],
)
def test_the_columns_of_published_lists_are_found(names: list[str], url: str, id_name: str | None) -> None:
    for order in (names, names[::-1]):
        columns = columns_of(*order)
        assert (columns.url, columns.id) == (url, id_name)


def test_a_list_of_unsplash_takes_the_image_and_not_its_page(tmp_path: Path) -> None:
    manifest = opened(written(tmp_path / "photos.tsv", UNSPLASH))
    assert [(row.url, row.id) for row in rows_of(manifest)] == [("http://127.0.0.1:9/a.jpg", "AAA")]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_metadata_of_a_folder_of_images_names_its_files(tmp_path: Path, ending: str) -> None:
    rows = [{"file_name": "0001.jpg", "text": "one"}, {"file_name": "0002.jpg", "text": "two"}]
    lines = "file_name,text\n0001.jpg,one\n0002.jpg,two\n" if ending == "csv" else "\n".join(map(json.dumps, rows))
    manifest = opened(written(tmp_path / f"metadata.{ending}", lines.encode()))
    assert [row.url for row in rows_of(manifest)] == ["0001.jpg", "0002.jpg"]
    assert manifest.folder == tmp_path


def test_values_decide_between_a_page_and_an_image_where_names_cannot(tmp_path: Path) -> None:
    pages = [{"url": f"https://shop.example/p/{n}", "image": f"https://cdn.example/{n}.JPG?w=1"} for n in range(3)]
    table = "\n".join(["url,image", *(",".join(page.values()) for page in pages)])
    lines = "\n".join(map(json.dumps, pages))
    for name, content in {"a.jsonl": lines, "a.json": json.dumps(pages), "a.csv": table}.items():
        found = rows_of(opened(written(tmp_path / name, content.encode())))
        assert [row.url for row in found] == [page["image"] for page in pages]
    files = [{"url": f"https://cdn.example/{n}", "image": f"{n}.jpg"} for n in range(3)]
    found = rows_of(opened(written(tmp_path / "a.json", json.dumps(files).encode())))
    assert [row.url for row in found] == [each["url"] for each in files]


def test_settings_name_columns_without_regard_to_case_and_punctuation(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", b"url,My Photo,Serial-No\nhttps://h/1.jpg,https://h/2.jpg,s\n")
    assert [(row.url, row.id) for row in rows_of(opened(path, url_column="my_photo", id_column="serialNo"))] == [
        ("https://h/2.jpg", "s")
    ]


def test_rows_of_jsonl_may_write_a_key_in_different_ways(tmp_path: Path) -> None:
    content = b'{"imageUrl": "https://h/1.jpg"}\n{"image_url": "https://h/2.jpg", "ID": 7}\n{"url": [{"src": "https://h/3.jpg"}]}\n'
    found = rows_of(opened(written(tmp_path / "list.jsonl", content)))
    assert [(row.url, row.id) for row in found] == [
        ("https://h/1.jpg", ""),
        ("https://h/2.jpg", "7"),
        ("https://h/3.jpg", ""),
    ]


@pytest.mark.parametrize(
    ("text", "likely"),
    [
        ("image_id,Smiling\n000001.jpg,-1\n000002.jpg,1\n", "=image_id"),
        (
            "gbifID\tidentifier\treferences\n7\thttps://h/7.jpg\thttps://h/7\n8\t\t\n9\thttps://h/9.JPG?x\t\n",
            "=identifier",
        ),
        ("id;Poster;avatar\n1;https://h/1.jpg;https://h/small.jpg\n", "=Poster"),
        ("poster,id\nmovies/Up.png,u\n", "=poster"),
        ("a,b\nhttps://h/1.jpg,https://h/2.png\n", ""),
        ("a,b\n1.jpg,2.jpg\n", ""),
        ("name,avatar\nx,https://h/1.jpg\n", ""),
        ("a,b\nx.jpg,1\ny.txt,2\n", ""),
    ],
)
def test_of_columns_without_a_known_name_the_one_with_pictures_is_proposed(
    tmp_path: Path, text: str, likely: str
) -> None:
    proposal = f", as in EMBEDDER_URL_COLUMN{likely}" if likely else ""
    with pytest.raises(ManifestError, match=rf"has no column with URLs, .* in EMBEDDER_URL_COLUMN{proposal}(?:, or|$)"):
        opened(written(tmp_path / "list.csv", text.encode()))


def test_the_column_of_ids_may_be_named_as_that_of_the_paths(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", b"image_id,Smiling,key\n000001.jpg,-1,a\n")
    manifest = opened(path, url_column="image_id")
    assert manifest.sources == ("url",)
    assert [(row.url, row.id) for row in rows_of(manifest)] == [("000001.jpg", "a")]
