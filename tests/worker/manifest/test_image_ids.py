"""Open Images by ids: the image is on the mirror, and the list needs no URL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import structlog

from common.errors import ManifestError
from common.format.reasons import Reason
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.manifest.manifests import everything, opened, rows_of, written
from worker.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIRROR = "https://open-images-dataset.s3.amazonaws.com"
ANNOTATIONS = (
    b"ImageID,Source,LabelName,Confidence\n00000000000000a0,verification,/m/0abcd,1\n"
    b"00000000000000a0,verification,/m/0abce,0\n00000000000000a1,verification,/m/0abce,0\n"
)
LISTS = {
    "train": "2018_04/train/train-images-boxable-with-rotation.csv",
    "validation": "2018_04/validation/validation-images-with-rotation.csv",
    "test": "2018_04/test/test-images-with-rotation.csv",
    "all": "2018_04/image_ids_and_rotation.csv",
}


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def on_mirror(position: int, subset: str, image_id: str, *, mirror: str = MIRROR) -> Row:
    return Row(position, f"{mirror}/{subset}/{image_id}.jpg", image_id, subset)


def test_lines_of_subset_and_id_are_images_on_the_mirror(tmp_path: Path, server: ManifestServer) -> None:
    content = b"train/004b7fd099df209b\r\ntrain/005522936fa176ac\nValidation/00716F2D542635B5\n"
    for uri in (written(tmp_path / "ids.txt", content), server.publish("ids.txt", content)):
        manifest = opened(uri)
        assert (manifest.sources, manifest.has_ids) == (("mirror",), True)
        assert rows_of(manifest) == [
            on_mirror(0, "train", "004b7fd099df209b"),
            on_mirror(1, "train", "005522936fa176ac"),
            on_mirror(2, "validation", "00716f2d542635b5"),
        ]
        for chunks in (3, 7):
            assert everything(manifest, chunks=chunks) == everything(manifest, chunks=1)


def test_the_rows_name_the_mirror_of_the_settings_without_its_password(tmp_path: Path) -> None:
    path = written(tmp_path / "ids.txt", b"train/004b7fd099df209b\n")
    manifest = opened(path, mirror_url="https://ann:hunter2@mirror.example/copy/")
    assert rows_of(manifest) == [on_mirror(0, "train", "004b7fd099df209b", mirror="https://mirror.example/copy")]
    assert "hunter2" not in manifest.identity
    assert manifest.identity != opened(path).identity
    bucket = opened(path, mirror_url="s3://mirror/copy")
    assert rows_of(bucket) == [on_mirror(0, "train", "004b7fd099df209b", mirror="s3://mirror/copy")]


def test_what_is_no_id_in_a_list_of_ids_is_in_the_ledger(tmp_path: Path) -> None:
    good, bad = ["train/004b7fd099df209b"] * 4, ["train/../../etc/passwd", "other/004b7fd099df209b", "004b7fd099df209b"]
    content = "\n".join([*good, *bad, "test/005522936fa176ac"]).encode()
    chunk = opened(written(tmp_path / "ids.txt", content)).read_chunk(0, 1)
    assert [row.position for row in chunk.rows] == [0, 1, 2, 3, 7]
    assert {failure.reason for failure in chunk.failures} == {Reason.MALFORMED_ROW}
    assert [failure.url for failure in chunk.failures] == ["", "", ""]
    assert "expected an id of Open Images" in chunk.failures[0].detail
    assert "has no subset (EMBEDDER_SUBSET)" in chunk.failures[2].detail


def test_lines_of_ids_alone_need_the_setting_of_their_subset(tmp_path: Path) -> None:
    ids = ["004b7fd099df209b", "005522936fa176ac"]
    contents = {"ids.txt": "\n".join(ids), "ids.json": json.dumps(ids), "ids.jsonl": "\n".join(map(json.dumps, ids))}
    for name, content in contents.items():
        path = written(tmp_path / name, content.encode())
        with pytest.raises(ManifestError, match=r"without a subset, such as 004b7fd099df209b; .* in EMBEDDER_SUBSET"):
            opened(path)
        manifest = opened(path, subset="validation")
        assert (manifest.sources, manifest.has_ids) == (("mirror",), True)
        assert rows_of(manifest) == [on_mirror(number, "validation", each) for number, each in enumerate(ids)]


def test_an_id_may_end_in_jpg_unless_it_is_the_path_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "ids.txt", b"train/004b7fd099df209b.jpg\ntrain/005522936fa176ac.JPG\n")
    assert rows_of(opened(path)) == [
        on_mirror(0, "train", "004b7fd099df209b"),
        on_mirror(1, "train", "005522936fa176ac"),
    ]
    (tmp_path / "train").mkdir()
    written(tmp_path / "train" / "004b7fd099df209b.jpg", b"")
    assert [row.url for row in rows_of(opened(path))] == ["train/004b7fd099df209b.jpg", "train/005522936fa176ac.JPG"]


def test_paths_that_look_a_little_like_ids_stay_paths(tmp_path: Path) -> None:
    path = written(tmp_path / "list.txt", b"train/0.jpg\ntrain/1.jpg\ntrain/004b7fd099df209b\n")
    manifest = opened(path)
    assert (manifest.sources, manifest.has_ids) == (("url",), False)
    assert [row.url for row in rows_of(manifest)] == ["train/0.jpg", "train/1.jpg", "train/004b7fd099df209b"]


def test_ids_and_subsets_in_columns_are_enough(tmp_path: Path) -> None:
    path = written(tmp_path / "ids.csv", b"ImageID,Subset\n00000000000000a0,train\n00000000000000a1,test\n")
    manifest = opened(path)
    assert manifest.sources == ("mirror",)
    assert rows_of(manifest) == [on_mirror(0, "train", "00000000000000a0"), on_mirror(1, "test", "00000000000000a1")]
    lines = written(tmp_path / "ids.jsonl", b'{"image_id": "00000000000000a0", "subset": "train"}')
    assert rows_of(opened(lines)) == [on_mirror(0, "train", "00000000000000a0")]


def test_the_subset_of_a_list_of_annotations_is_a_setting(tmp_path: Path) -> None:
    path = written(tmp_path / "annotations.csv", ANNOTATIONS)
    with pytest.raises(ManifestError, match=r"has no column with URLs, .* EMBEDDER_URL_COLUMN, or, .* EMBEDDER_SUBSET"):
        opened(path)
    manifest = opened(path, subset="train")
    with structlog.testing.capture_logs() as logs:
        rows = rows_of(manifest)
    assert [row.id for row in rows] == ["00000000000000a0", "00000000000000a0", "00000000000000a1"]
    assert {row.subset for row in rows} == {"train"}
    (event,) = logs
    assert (event["event"], event["rows"], event["images"]) == ("repeated_ids", 3, 2)
    assert event["example"] == "00000000000000a0 on 2 rows"
    assert manifest.identity != opened(path, subset="test").identity


def test_a_row_with_a_strange_subset_is_in_the_ledger(tmp_path: Path) -> None:
    content = b"ImageID,Subset\n00000000000000a0,secret\n00000000000000a1,\n00000000000000a2,TRAIN\n"
    path = written(tmp_path / "ids.csv", content)
    chunk = opened(path).read_chunk(0, 1)
    assert chunk.rows == [on_mirror(2, "train", "00000000000000a2")]
    assert "has the subset secret, expected train" in chunk.failures[0].detail
    assert "has no subset (EMBEDDER_SUBSET)" in chunk.failures[1].detail
    assert [row.id for row in opened(path, subset="test").read_chunk(0, 1).rows] == [
        "00000000000000a1",
        "00000000000000a2",
    ]


def test_other_sources_than_the_mirror_alone_are_refused_for_ids(tmp_path: Path) -> None:
    path = written(tmp_path / "ids.txt", b"train/004b7fd099df209b\n")
    assert opened(path, sources="mirror,original").sources == ("mirror", "original")
    with pytest.raises(ManifestError, match=r"holds ids of Open Images and no URLs, .* add mirror"):
        opened(path, sources="url")


def test_the_setting_serves_a_list_with_urls_and_ids_and_no_subset(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", b"ImageID,OriginalURL\n00000000000000a0,https://h/1.jpg\n")
    assert opened(path).sources == ("url",)
    manifest = opened(path, subset="train")
    assert manifest.sources == ("mirror", "original")
    assert rows_of(manifest) == [Row(0, "https://h/1.jpg", "00000000000000a0", "train")]


@pytest.mark.parametrize("name", LISTS)
def test_the_published_lists_have_names(server: ManifestServer, name: str) -> None:
    content = b"ImageID,Subset,OriginalURL,Thumbnail300KURL,Rotation\n00000000000000a0,train,https://h/1.jpg,,90.0\n"
    server.publish(LISTS[name], content)
    manifest = opened(f"openimages:{name}", openimages_url=f"{server.url}/")
    assert manifest.sources == ("mirror", "thumbnail", "original")
    assert manifest.folder is None
    assert rows_of(manifest) == [Row(0, "https://h/1.jpg", "00000000000000a0", "train", rotation=90)]
    assert manifest.identity.endswith(f"{len(content)} bytes etag {server.etag_of(LISTS[name])}")


def test_a_list_that_is_not_published_is_refused_with_the_names_of_those_that_are() -> None:
    with pytest.raises(
        ManifestError, match="openimages:training names no list of Open Images; choose from openimages:train, "
    ):
        opened("openimages:training")
