"""Pictures in tar and Parquet files of a folder, by the names that a run gives their rows."""

from __future__ import annotations

import asyncio
import os
import tarfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from common.errors import QueryRefused
from tests.worker.held_pictures import jpeg, struct_table, write_parquet
from tests.worker.manifest.manifests import opened, rows_of
from tests.worker.manifest.tars import END, header, tar_of
from worker.query import opened_files, picture_files
from worker.query.picture_files import PictureFiles
from worker.query.picture_places import find_place
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from worker.rows import ByteRange

MAX_IMAGE_BYTES = 1_000_000


@pytest.fixture
def files() -> Iterator[PictureFiles]:
    with closing(PictureFiles(max_image_bytes=MAX_IMAGE_BYTES)) as files:
        yield files


def find(files: PictureFiles, url: str, folder: Path) -> ByteRange | bytes | None:
    place = find_place(url)
    assert place is not None, url
    return asyncio.run(files.find(place, folder))


def content(files: PictureFiles, url: str, folder: Path) -> bytes:
    """Return the bytes of a picture, as a decoder reads them where they lie in a file."""
    found = find(files, url, folder)
    assert found is not None
    if isinstance(found, bytes):
        return found
    with Path(found.uri).open("rb") as file:
        assert found.tag == f"{os.fstat(file.fileno()).st_size} {os.fstat(file.fileno()).st_mtime_ns}"
        return os.pread(file.fileno(), found.length, found.offset)


def refusal(files: PictureFiles, url: str, folder: Path) -> str:
    with pytest.raises(QueryRefused) as refused:
        find(files, url, folder)
    return str(refused.value)


def urls_of(uri: object) -> Sequence[str]:
    return [row.url for row in rows_of(opened(str(uri)))]


# Tars


@pytest.mark.parametrize("place", ["00000.tar", "", "{00000,00001}.tar"])
def test_every_picture_of_a_shard_is_found_by_the_url_of_its_row(
    files: PictureFiles, tmp_path: Path, place: str
) -> None:
    names = ["0.jpg", "a/b c#d.tar#e.JPG", "\u00e4\nx.png", "%0A.jpg", "../../x.jpg", "/etc/x.jpg", "x" * 300 + ".jpg"]
    for shard in range(2):
        members = [(name, jpeg(100 * shard + number)) for number, name in enumerate(names)]
        (tmp_path / f"0000{shard}.tar").write_bytes(tar_of([*members, ("0.txt", b"a text")]))
    urls = urls_of(f"{tmp_path}/{place}")
    assert len(urls) == (len(names) if place == "00000.tar" else 2 * len(names))
    shades = [100 * shard + number for shard in range(2) for number in range(len(names))]
    for url, shade in zip(urls, shades, strict=False):
        assert content(files, url, tmp_path) == jpeg(shade), url


def test_shards_in_folders_of_a_manifest_are_told_apart(files: PictureFiles, tmp_path: Path) -> None:
    for number, name in enumerate(("train", "test")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.tar").write_bytes(tar_of([("0.jpg", jpeg(number))]))
    assert urls_of(f"{tmp_path}/**/*.tar") == ["test/0.tar#0.jpg", "train/0.tar#0.jpg"]
    assert content(files, "train/0.tar#0.jpg", tmp_path) == jpeg(0)
    assert content(files, "test/0.tar#0.jpg", tmp_path) == jpeg(1)


@pytest.mark.parametrize(
    "file",
    [
        *("s3://bucket/00%200.tar", "s3://bucket/a/00%200.tar", "gs://bucket/00%200.tar"),
        *("https://host/00%2520.tar?X-Amz-Signature=***", "hf://datasets/me/set/00%200.tar"),
    ],
)
def test_a_remote_shard_is_found_as_its_copy(files: PictureFiles, tmp_path: Path, file: str) -> None:
    (tmp_path / "00%200.tar").write_bytes(tar_of([("0.jpg", jpeg(5))]))
    (tmp_path / "00%20.tar").write_bytes(tar_of([("0.jpg", jpeg(5))]))
    assert content(files, f"{file}#0.jpg", tmp_path) == jpeg(5)


def test_copies_with_the_folders_of_a_bucket_are_told_apart(files: PictureFiles, tmp_path: Path) -> None:
    for number, name in enumerate(("", "train", "test")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "0.tar").write_bytes(tar_of([("0.jpg", jpeg(number))]))
    assert content(files, "s3://bucket/data/train/0.tar#0.jpg", tmp_path) == jpeg(1)
    assert content(files, "s3://bucket/data/test/0.tar#0.jpg", tmp_path) == jpeg(2)
    assert content(files, "s3://bucket/data/0.tar#0.jpg", tmp_path) == jpeg(0)


@pytest.mark.parametrize(
    "file", ["../0.tar", "a/../../0.tar", "{outside}/0.tar", "s3://bucket/../0.tar", "https://host/a/%2e%2e%2f0.tar"]
)
def test_no_name_leads_out_of_the_folder(files: PictureFiles, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "0.tar").write_bytes(tar_of([("0.jpg", jpeg(0))]))
    url = f"{file.replace('{outside}', str(tmp_path))}#0.jpg"
    assert f"{folder} has no such file; give --images FOLDER" in refusal(files, url, folder)
    (folder / "0.tar").write_bytes(tar_of([("0.jpg", jpeg(1))]))
    if "%" not in file:
        assert content(files, url, folder) == jpeg(1)


def test_a_file_of_exactly_this_name_is_the_picture(files: PictureFiles, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_of([("0.jpg", jpeg(0))]))
    (tmp_path / "0.tar#0.jpg").write_bytes(jpeg(1))
    assert find(files, "0.tar#0.jpg", tmp_path) is None


def test_a_changed_shard_is_read_again(files: PictureFiles, tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    for number in range(3):
        members = [(f"{each}.jpg", jpeg(each)) for each in range(number, 5)]
        shard.write_bytes(tar_of(members))
        os.utime(shard, ns=(number, number))
        assert content(files, "0.tar#4.jpg", tmp_path) == jpeg(4)


def test_the_headers_of_a_shard_are_read_once(files: PictureFiles, tmp_path: Path) -> None:
    shard = tmp_path / "0.tar"
    shard.write_bytes(tar_of([("0.jpg", jpeg(0)), ("1.jpg", jpeg(1))]))
    found = find(files, "0.tar#1.jpg", tmp_path)
    status = shard.stat()
    shard.write_bytes(bytes(status.st_size))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert find(files, "0.tar#1.jpg", tmp_path) == found
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert refusal(files, "0.tar#1.jpg", tmp_path) == "0.tar has no picture 1.jpg"


def test_only_the_last_shards_are_remembered(
    files: PictureFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "KEPT_BYTES", 20_000)
    for number in range(10):
        (tmp_path / f"{number}.tar").write_bytes(tar_of([("0.jpg", jpeg(number))]))
    for number in [*range(10), *range(10)]:
        assert content(files, f"{number}.tar#0.jpg", tmp_path) == jpeg(number)
    assert len(files._opened) == 4


@pytest.mark.parametrize(
    ("tar", "sentence"),
    [
        (b"", "the tar is damaged: it is empty"),
        (b"\x1f\x8b" + bytes(2000), r"the file is compressed \(gzip\)"),
        (b"hello" * 1000, "the tar is damaged: .*; no member from here on can be read"),
        (tar_of([("0.jpg", jpeg(0)), ("1.jpg", jpeg(1))])[:2100], "the tar is damaged: it has .* bytes"),
        (header("1.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd") + END, "it is a symbolic link, which has no"),
        (header("1.jpg", 1 << 40) + END, "the tar is damaged: it has 1099511627776 bytes"),
    ],
)
def test_a_picture_that_a_damaged_shard_does_not_give_is_a_sentence(
    files: PictureFiles, tmp_path: Path, tar: bytes, sentence: str
) -> None:
    (tmp_path / "0.tar").write_bytes(tar)
    with pytest.raises(QueryRefused, match=rf"0\.tar has no picture 1\.jpg that can be read: {sentence}"):
        find(files, "0.tar#1.jpg", tmp_path)


def test_members_with_the_same_name_are_not_guessed_at(files: PictureFiles, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar_of([("0.jpg", jpeg(0)), ("0.jpg", jpeg(1)), ("1.jpg", jpeg(2))]))
    assert refusal(files, "0.tar#0.jpg", tmp_path).startswith("0.tar has several members 0.jpg")
    assert content(files, "0.tar#1.jpg", tmp_path) == jpeg(2)


def test_a_member_that_is_absent_is_a_sentence(files: PictureFiles, tmp_path: Path) -> None:
    link = header("l.jpg", kind=tarfile.SYMTYPE, link="0.jpg")
    (tmp_path / "0.tar").write_bytes(tar_of([("0.txt", b"a text")])[:1024] + link + END)
    assert refusal(files, "0.tar#1.jpg", tmp_path) == "0.tar has no picture 1.jpg"
    assert refusal(files, "0.tar#0.txt", tmp_path) == "0.tar has no picture 0.txt"


def test_a_name_that_is_no_regular_file_is_a_sentence(files: PictureFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.tar")
    (tmp_path / "1.tar").mkdir()
    for file in ("0.tar", "1.tar", "\0.tar", "x" * 5000 + ".tar", "\ud800.tar"):
        assert "has no such file" in refusal(files, f"{file}#0.jpg", tmp_path)


# Parquet


def test_every_picture_of_parquet_files_is_found_by_the_name_of_its_row(files: PictureFiles, tmp_path: Path) -> None:
    for file in range(2):
        shades = range(10 * file, 10 * file + 10)
        table = struct_table([jpeg(shade) for shade in shades], [None] * 10)
        write_parquet(tmp_path / f"{file}.parquet", table, row_group_size=3)
    urls = urls_of(tmp_path)
    assert urls == [f"{file}.parquet#{row}" for file in range(2) for row in range(10)]
    for shade, url in enumerate(urls):
        assert content(files, url, tmp_path) == jpeg(shade)
        assert content(files, f"s3://bucket/data/{url}", tmp_path) == jpeg(shade)


def test_a_row_of_a_parquet_file_without_a_picture_is_a_sentence(files: PictureFiles, tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", struct_table([jpeg(1), None, bytes(MAX_IMAGE_BYTES + 1)], [None] * 3))
    with pytest.raises(ImageFailed, match="no_source: the row has no bytes"):
        find(files, "0.parquet#1", tmp_path)
    with pytest.raises(ImageFailed, match="too_large: 1000001 bytes, the limit is 1000000"):
        find(files, "0.parquet#2", tmp_path)
    assert refusal(files, "0.parquet#3", tmp_path) == "0.parquet has 3 rows, and no row 3 (the first is 0)"
    assert "has no such file" in refusal(files, "1.parquet#3", tmp_path)


def test_the_column_of_the_images_may_be_named(
    files: PictureFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"url": ["a"], "picture": pa.array([jpeg(1)]), "thing": pa.array([jpeg(2)])})
    write_parquet(tmp_path / "0.parquet", table)
    monkeypatch.setenv("EMBEDDER_IMAGE_COLUMN", "thing")
    assert content(files, "0.parquet#0", tmp_path) == jpeg(2)
    monkeypatch.setenv("EMBEDDER_IMAGE_COLUMN", "absent")
    os.utime(tmp_path / "0.parquet", ns=(0, 0))
    assert "0.parquet has no column 'absent'" in refusal(files, "0.parquet#0", tmp_path)


def test_a_parquet_file_of_urls_holds_no_picture(files: PictureFiles, tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", pa.table({"url": ["https://host/a.jpg"]}))
    assert "0.parquet has no column that clearly holds images" in refusal(files, "0.parquet#0", tmp_path)


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "pages"])
def test_a_damaged_parquet_file_is_a_sentence(files: PictureFiles, tmp_path: Path, damage: str) -> None:
    path = write_parquet(tmp_path / "0.parquet", struct_table([jpeg(1)] * 50, [None] * 50))
    whole = path.read_bytes()
    pages = whole[:4] + b"\xff" * (len(whole) // 2) + whole[4 + len(whole) // 2 :]
    path.write_bytes({"empty": b"", "cut": whole[:-100], "noise": os.urandom(5000), "pages": pages}[damage])
    assert "0.parquet is not a Parquet file, or is damaged" in refusal(files, "0.parquet#40", tmp_path)


def test_no_more_than_a_bound_of_a_row_group_is_read_for_one_picture(
    files: PictureFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_files, "MAX_READ_BYTES", 2 << 20)
    pictures = [os.urandom(500_000) for _ in range(20)]
    write_parquet(tmp_path / "0.parquet", struct_table(pictures, [None] * 20), row_group_size=10)
    for row in (0, 3, 10, 13):
        assert content(files, f"0.parquet#{row}", tmp_path) == pictures[row]
    assert "row 9 of 0.parquet lies behind about 4 MiB of its row group" in refusal(files, "0.parquet#9", tmp_path)


def test_a_picture_of_parquet_files_is_found_by_its_own_path(files: PictureFiles, tmp_path: Path) -> None:
    names = ["a.jpg", "b/c.jpg", None, "\u00e4 #1.jpg", "twice.jpg", "twice.jpg"]
    write_parquet(tmp_path / "0.parquet", struct_table([jpeg(shade) for shade in range(6)], names), row_group_size=2)
    write_parquet(tmp_path / "1.parquet", struct_table([jpeg(9)], ["d.jpg"]))
    write_parquet(tmp_path / "urls.parquet", pa.table({"url": ["e.jpg"]}))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "folder.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.parquet")

    def named(name: str) -> bytes | None:
        return asyncio.run(files.find_named(name, tmp_path))

    assert urls_of(tmp_path / "0.parquet")[:4] == ["a.jpg", "b/c.jpg", "0.parquet#2", "\u00e4 #1.jpg"]
    for name, shade in [("a.jpg", 0), ("b/c.jpg", 1), ("\u00e4 #1.jpg", 3), ("d.jpg", 9)]:
        assert named(name) == jpeg(shade)
    assert named("e.jpg") is named("absent.jpg") is None
    with pytest.raises(QueryRefused, match=r"several rows of the Parquet files are called twice\.jpg"):
        named("twice.jpg")
    write_parquet(tmp_path / "2.parquet", struct_table([jpeg(7)], ["absent.jpg"]))
    assert named("absent.jpg") == jpeg(7)


def test_a_folder_without_parquet_files_has_no_names(files: PictureFiles, tmp_path: Path) -> None:
    assert asyncio.run(files.find_named("a.jpg", tmp_path)) is None
    with pytest.raises(QueryRefused, match="cannot be read: No such file or directory"):
        asyncio.run(files.find_named("a.jpg", tmp_path / "absent"))


# URLs


@pytest.mark.parametrize(
    "url",
    [
        *("a.jpg", "https://host/a.jpg#x", "https://host/a.jpg?file=0.tar#x.jpg", "00000.tar", "00000.tar#", "#", ""),
        *(
            "a.parquet#x",
            "a.parquet#-1",
            "a.parquet#1\n",
            "a.parquet#\u0664",
            "a.tar.gz#x.jpg",
            "http://[#x",
            "a.csv#1",
        ),
        *("https://host/0.tar/a.jpg", "#" * 60_000 + ".tar#x.jpg"),
    ],
)
def test_other_urls_name_no_place_in_a_file(url: str) -> None:
    assert find_place(url) is None


@pytest.mark.parametrize(
    ("url", "file", "entry"),
    [
        ("set#1/0.tar#x#y.jpg", "set#1/0.tar", "x#y.jpg"),
        ("http://[/0.TAR?a=b.jpg#x.jpg", "http://[/0.TAR?a=b.jpg", "x.jpg"),
        ("a/b.pq#007", "a/b.pq", "007"),
    ],
)
def test_a_place_in_a_file_is_told_from_its_url(url: str, file: str, entry: str) -> None:
    place = find_place(url)
    assert place is not None
    assert (place.file, place.entry, place.url) == (file, entry, url)
