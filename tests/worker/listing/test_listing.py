"""`embedder list`: a worker reads what it writes as it would read the manifest itself."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.errors import ConfigError, ManifestError
from common.store.s3.store import S3Store
from tests.worker.manifest.manifests import everything, opened, written
from worker.listing import command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from worker.manifest.manifest import Manifest

EMBEDDER = [sys.executable, "-c", "from embedder.cli import main; main()", "list"]

OPEN_IMAGES = (
    "ImageID,Subset,OriginalURL,Thumbnail300KURL,Rotation\n"
    "00000000000000a0,train,https://h/a.jpg,https://h/a_z.jpg,0.0\n"
    "00000000000000a1,train,https://h/b.jpg,,270.0\n"
    "00000000000000a2,train,https://h/c.jpg,,\n"
    "00000000000000a3,train,https://h/d.jpg,,45\n"
)


def write_list(uri: object, *arguments: object, **environment: str) -> str:
    """Write the list in this process and return the program's last word. Raises the program's errors."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"EMBEDDER_MANIFEST_URI": str(uri), **environment}.items():
            patch.setenv(name, value)
        return command.write_list([str(each) for each in arguments]).message


def read_back(path: Path) -> list[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = parquet.read_table(path).to_pylist()
    return rows


def rows_and_failures(manifest: Manifest) -> list[tuple[object, ...]]:
    """Return what the manifest holds, without the places that failures name."""
    chunk = manifest.read_chunk(0, 1)
    failures = [(each.row, each.url, each.id, each.reason) for each in chunk.failures]
    return [*map(tuple, chunk.rows), *failures]


def test_a_folder_of_pictures_becomes_a_list_that_names_the_same_files(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.png", "a/ü #1.JPG"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    assert write_list(tmp_path / "photos", tmp_path / "lists.parquet") == f"{tmp_path}/lists.parquet lists 3 images"
    assert read_back(tmp_path / "lists.parquet") == [
        {"url": "photos/a/1.png", "id": "1"},
        {"url": "photos/a/ü #1.JPG", "id": "ü #1"},
        {"url": "photos/b/2.jpg", "id": "2"},
    ]
    (tmp_path / "elsewhere").mkdir()
    write_list(tmp_path / "photos", tmp_path / "elsewhere" / "list.parquet")
    assert [row["url"] for row in read_back(tmp_path / "elsewhere" / "list.parquet")] == [
        f"{tmp_path}/photos/a/1.png",
        f"{tmp_path}/photos/a/ü #1.JPG",
        f"{tmp_path}/photos/b/2.jpg",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("openimages.csv", OPEN_IMAGES),
        ("multi-line.csv", 'id,url,caption\n1,https://h/1.jpg,"two\nlines"\n2,,none\n3,https://h/3.jpg,c\n'),
        ("semicolons.csv", "sep=;\nurl;id\nhttps://h/1.jpg;1\n"),
        ("plain.txt", "https://h/1.jpg\nhttps://h/2.jpg\n"),
        ("ids.txt", "train/00000000000000a0\nvalidation/00000000000000a1\n"),
        ("list.jsonl", '{"image_url": "https://h/1.jpg", "id": {"$oid": "x"}}\n{"image_url": "no url", "id": 2}\n'),
        ("list.json", '[{"url": "https://h/1.jpg", "id": 1}]'),
    ],
)
def test_a_worker_reads_the_list_as_it_would_read_the_manifest(tmp_path: Path, name: str, content: str) -> None:
    manifest = opened(written(tmp_path / name, content.encode()))
    write_list(tmp_path / name, tmp_path / "list.parquet")
    copy = opened(tmp_path / "list.parquet")
    assert copy.has_ids == manifest.has_ids
    expected = [row for row in rows_and_failures(manifest) if row[1]]
    found = rows_and_failures(copy)
    are_ids = "mirror" in manifest.sources and "mirror" not in copy.sources  # the list has the mirror's URLs instead
    assert [row[1:3] for row in found] == [row[1:3] for row in expected]
    assert are_ids or [row[3:] for row in found] == [row[3:] for row in expected]
    if name == "openimages.csv":
        assert copy.sources == manifest.sources == ("mirror", "thumbnail", "original")
    assert sorted(map(str, everything(copy, chunks=3))) == sorted(map(str, everything(copy, chunks=1)))


def test_rows_without_a_url_are_left_out_and_counted(tmp_path: Path) -> None:
    written(tmp_path / "list.csv", b"url,id\nhttps://h/1.jpg,1\n,2\nonly one column\n")
    word = write_list(tmp_path / "list.csv", tmp_path / "list.parquet")
    assert word.endswith("lists 1 images; 2 rows that cannot be read are left out")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_list_is_unpacked_once(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    ending = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}[compress]
    written(tmp_path / f"list.csv{ending}", compress(b"url\nphotos/1.jpg\n"))
    (tmp_path / "lists").mkdir()
    write_list(tmp_path / f"list.csv{ending}", tmp_path / "lists" / "list.parquet")
    assert read_back(tmp_path / "lists" / "list.parquet") == [{"url": f"{tmp_path}/photos/1.jpg"}]


def test_a_damaged_compressed_list_ends_in_a_sentence(tmp_path: Path) -> None:
    cut = gzip.compress(b"url\n" + os.urandom(5000))[:3000]
    for ending, content in ((".gz", cut), (".gz", b"no gzip"), (".xz", b"no xz"), (".bz2", b"no bzip2")):
        written(tmp_path / f"list.csv{ending}", content)
        with pytest.raises(ManifestError, match="cannot be unpacked"):
            write_list(tmp_path / f"list.csv{ending}", tmp_path / "list.parquet")
        assert not (tmp_path / "list.parquet").exists()


def test_a_list_is_not_replaced_unless_it_is_asked_for(tmp_path: Path) -> None:
    written(tmp_path / "list.txt", b"https://h/1.jpg\n")
    written(tmp_path / "list.parquet", b"mine")
    with pytest.raises(ConfigError, match=r"list\.parquet exists; choose another name, or replace it with --overwrite"):
        write_list(tmp_path / "list.txt", tmp_path / "list.parquet")
    assert (tmp_path / "list.parquet").read_bytes() == b"mine"
    write_list(tmp_path / "list.txt", tmp_path / "list.parquet", "--overwrite")
    assert read_back(tmp_path / "list.parquet") == [{"url": "https://h/1.jpg"}]


def test_what_cannot_be_a_list_ends_in_a_sentence(tmp_path: Path) -> None:
    written(tmp_path / "list.txt", b"https://h/1.jpg\n")
    with pytest.raises(ConfigError, match=r"does not end in \.parquet"):
        write_list(tmp_path / "list.txt", tmp_path / "list.csv")
    with pytest.raises(ManifestError, match="does not exist"):
        write_list(tmp_path / "none.txt", tmp_path / "list.parquet")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(written(tmp_path / "1.jpg", b"x"), "1.jpg")
    with pytest.raises(ManifestError, match="holds the images themselves"):
        write_list(tmp_path / "shard.tar", tmp_path / "list.parquet")
    written(tmp_path / "empty.csv", b"url\n,\n")
    with pytest.raises(ManifestError, match="no row"):
        write_list(tmp_path / "empty.csv", tmp_path / "list.parquet")
    assert not (tmp_path / "list.parquet").exists()


def test_the_command_lists_more_files_than_a_pod_may(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(30):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(b"x")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*EMBEDDER, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    listed = run("photos", "a.parquet")
    assert (listed.returncode, "a.parquet lists 30 images" in listed.stderr) == (0, True), listed.stdout + listed.stderr
    refused = run("photos", "b.parquet", "--set", "max_listed_files=10")
    assert (refused.returncode, "embedder list" in refused.stderr) == (78, True)


def test_a_prefix_is_listed_into_a_bucket(bucket: str, tmp_path: Path) -> None:
    store = S3Store(f"s3://{bucket}")
    for name in ("photos/b.jpg", "photos/a.jpg", "photos/sub/c.png"):
        store.put_bytes(name, b"x")
    word = write_list(f"s3://{bucket}/photos/", f"s3://{bucket}/lists/list.parquet")
    assert word == f"s3://{bucket}/lists/list.parquet lists 3 images"
    written(tmp_path / "list.parquet", store.read("lists/list.parquet"))
    urls = [f"s3://{bucket}/photos/{name}" for name in ("a.jpg", "b.jpg", "sub/c.png")]
    assert [row["url"] for row in read_back(tmp_path / "list.parquet")] == urls
    written(tmp_path / "list.txt", b"photos/1.jpg\n")
    with pytest.raises(ManifestError, match="a list in a bucket cannot name it"):
        write_list(tmp_path / "list.txt", f"s3://{bucket}/lists/other.parquet")


def test_a_list_of_many_rows_is_read_in_parts(tmp_path: Path) -> None:
    written(tmp_path / "list.txt", b"".join(b"https://h/%d.jpg\n" % number for number in range(50_000)))
    write_list(tmp_path / "list.txt", tmp_path / "list.parquet")
    file = parquet.ParquetFile(tmp_path / "list.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [20_000, 20_000, 10_000]
    assert file.schema_arrow == pa.schema([("url", pa.string())])
