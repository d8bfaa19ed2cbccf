"""Manifests that cannot be used: the error is one sentence, and the exit code is 78 unless the fault may pass."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from pyarrow import parquet

from common.errors import ExitCode, ManifestError, SourceUnavailable, StoreAccessDenied
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.manifest.manifests import opened, rows_of, written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CSV = b"id,url\n1,https://h/1.jpg\n"
OPEN_IMAGES_HEADER = b"ImageID,Subset,OriginalURL,Thumbnail300KURL,Rotation\n"


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def parquet_bytes(columns: dict[str, list[object]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("list.csv", CSV)
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["list.csv.gz", "list.CSV.GZ", "list.csv.zst", "list.zip", "list.jsonl.lz4", "list.csv.7z"]
)
def test_a_compressed_manifest_is_refused_by_its_ending(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=r"is compressed \(\.\w+\).* store it uncompressed, or as Parquet"):
        opened(written(tmp_path / name, CSV))


@pytest.mark.parametrize(
    "content",
    [gzip.compress(CSV), bz2.compress(CSV), lzma.compress(CSV), zipped(), b"\x28\xb5\x2f\xfd0"],
    ids=["gzip", "bzip2", "xz", "zip", "zstd"],
)
@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.parquet", "list.txt"])
def test_a_compressed_manifest_is_refused_by_its_content(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(ManifestError, match="is compressed"):
        opened(written(tmp_path / name, content))


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.jsonl", "list.parquet", "list.txt", "list.tar"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html>\n<html><body>log in</body></html>\n", "is not .* but a web page or XML.*needs a login"),
        (b"\xef\xbb\xbf<HTML lang='de'>\n", "but a web page or XML"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "but a web page or XML"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "pointer of Git LFS.*git lfs pull",
        ),
    ],
    ids=["page", "page with a mark", "error of a store", "pointer"],
)
def test_what_came_in_place_of_the_list_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        opened(written(tmp_path / name, content))
    (tmp_path / "parts").mkdir()
    written(tmp_path / "parts" / name, content)
    with pytest.raises(ManifestError, match=message):
        opened(tmp_path / "parts")


@pytest.mark.parametrize("name", ["photos.zip", "photos.7z", "photos.rar", "folder"])
def test_of_an_archive_it_is_said_that_it_must_be_unpacked(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "photos.zip", zipped())
    if name != "folder":
        written(tmp_path / name, zipped())
    with pytest.raises(ManifestError, match="unpack it and give the folder of its pictures"):
        opened(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("list.xlsx", "is a spreadsheet; save it as CSV"), ("list.feather", "write the list as Parquet, CSV or JSONL")],
)
def test_of_tables_of_other_programs_it_is_said_what_to_write(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        opened(written(tmp_path / name, zipped()))


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("list.csv", "utf-32"), ("list.txt", "utf-32"), ("list.csv", "utf-32-be"), ("list.json", "utf-16")],
)
def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path, name: str, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    with pytest.raises(ManifestError, match="store it as UTF-8"):
        opened(written(tmp_path / name, (mark + CSV.decode()).encode(encoding)))


def test_an_unknown_ending_names_the_setting(tmp_path: Path, server: ManifestServer) -> None:
    path = written(tmp_path / "list", CSV)
    with pytest.raises(ManifestError, match=r"list does not end in \.csv, .* EMBEDDER_MANIFEST_FORMAT"):
        opened(path)
    assert len(rows_of(opened(path, manifest_format="csv"))) == 1
    assert len(rows_of(opened(server.publish("get.csv", CSV) + "?list=all.txt"))) == 1
    with pytest.raises(ManifestError, match="EMBEDDER_MANIFEST_FORMAT"):
        opened(server.publish("get", CSV) + "?list=all.csv")


@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.jsonl", "list.txt", "list.json", "list.parquet"])
def test_an_empty_manifest_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match="is empty"):
        opened(written(tmp_path / name, b""))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b"id,url"),
        ("list.csv", b"id,url\r\n"),
        ("list.csv", b"id,url\n \n\r\n"),
        ("list.csv", b"\xef\xbb\xbf\n"),
        ("list.tsv", b"id\turl\n"),
        ("list.txt", b"\n\n  \n"),
        ("list.txt", b"\xef\xbb\xbf"),
        ("list.jsonl", b"\n"),
        ("list.parquet", parquet_bytes({"url": []})),
        ("list.parquet", parquet_bytes({"url": [], "id": []})),
    ],
)
def test_a_manifest_without_rows_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"has no rows|column url is null"):
        opened(written(tmp_path / name, content))


def test_a_header_that_is_long_is_read_and_one_without_end_is_refused(tmp_path: Path) -> None:
    many = ",".join(f"column{number}" for number in range(20_000))
    values = "," * 20_000
    path = written(tmp_path / "list.csv", f"{many},url\n{values}https://h/1.jpg\n".encode())
    assert rows_of(opened(path))[0].url == "https://h/1.jpg"
    with pytest.raises(ManifestError, match="no line break in its first 1048576 bytes"):
        opened(written(path, b"x" * (3 << 20)))
    with pytest.raises(
        ManifestError, match=r"has no column with URLs, its columns are column0, .* and 19980 more; name"
    ):
        opened(written(path, f"{many}\n{many}\n".encode()))


@pytest.mark.parametrize("header", [b'id,"url', b"\xffid,url", b"\0id,url", b"id,url\rx"])
def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(ManifestError, match="no header that can be read"):
        opened(written(tmp_path / "list.csv", header + b"\n1,https://h/1.jpg\n"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b"ImageID,photo\n1,https://h/1.jpg\n"),
        ("list.tsv", b"ImageID\tphoto\n1\thttps://h/1.jpg\n"),
        ("list.jsonl", b'{"ImageID": 1, "photo": "https://h/1.jpg"}\n'),
        ("list.parquet", parquet_bytes({"ImageID": ["1"], "photo": ["https://h/1.jpg"]})),
    ],
)
def test_a_manifest_without_a_url_column_names_its_columns_and_the_setting(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(
        ManifestError, match=r"no column with URLs, its columns are ImageID, photo; .*EMBEDDER_URL_COLUMN"
    ):
        opened(path)
    assert rows_of(opened(path, url_column="Photo"))[0].url == "https://h/1.jpg"
    with pytest.raises(ManifestError, match=r"has no column 'picture', .*EMBEDDER_URL_COLUMN"):
        opened(path, url_column="picture")
    with pytest.raises(ManifestError, match=r"has no column 'serial', .*EMBEDDER_ID_COLUMN"):
        opened(path, url_column="photo", id_column="serial")


def test_a_list_without_a_header_does_not_show_its_signatures(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as refused:
        opened(written(tmp_path / "list.csv", b"https://h/1.jpg?X-Amz-Signature=verysecret\n"))
    assert "verysecret" not in str(refused.value)


@pytest.mark.parametrize(
    ("sources", "header", "message"),
    [
        ("mirror,url", b"ImageID,OriginalURL\n", "no column Subset, which the source mirror needs"),
        ("mirror", b"Subset,OriginalURL\n", "no column ImageID, which the source mirror needs"),
        ("url,thumbnail", b"ImageID,OriginalURL\n", "no column Thumbnail300KURL, which the source thumbnail needs"),
    ],
)
def test_a_source_that_the_manifest_cannot_serve_is_refused(
    tmp_path: Path, sources: str, header: bytes, message: str
) -> None:
    path = written(tmp_path / "list.csv", header + b"https://h/1.jpg,https://h/2.jpg\n")
    with pytest.raises(ManifestError, match=f"{message}; leave .* out of EMBEDDER_SOURCES"):
        opened(path, sources=sources)


def test_the_columns_decide_the_sources_unless_a_setting_names_them(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    for header, sources in {
        b"ImageID,Subset,OriginalURL,Thumbnail300KURL": ("mirror", "thumbnail", "original"),
        b"imageid,subset,originalurl,Rotation": ("mirror", "original"),
        b"ImageID,OriginalURL,x,y": ("url",),
        b"id,Subset,url,y": ("url",),
    }.items():
        written(path, header + b"\na,b,c,\n")
        assert opened(path).sources == sources
    assert opened(path, sources="original,mirror").sources == ("original", "mirror")
    with pytest.raises(ManifestError, match="mirror"):
        opened(written(tmp_path / "list.txt", b"https://h/1.jpg"), sources="mirror")


@pytest.mark.parametrize(
    "content", [b"{}", b'"https://h/"', b"[1", b'["https://h/1.jpg"]\n["https://h/2.jpg"]', b"[" * 99_999, b"\xff[]"]
)
def test_json_that_is_not_an_array_is_refused(tmp_path: Path, content: bytes) -> None:
    manifest = opened(written(tmp_path / "list.json", content))
    with pytest.raises(ManifestError, match="array"):
        manifest.read_chunk(0, 1)


def test_json_arrays_must_have_rows_and_the_same_length(tmp_path: Path) -> None:
    urls = written(tmp_path / "image_urls.json", json.dumps(["https://h/1.jpg"] * 3).encode())
    ids = written(tmp_path / "image_ids.json", b'["a", "b"]')
    with pytest.raises(ManifestError, match=r"image_ids\.json has 2 ids and .*image_urls\.json 3 URLs"):
        opened(urls, ids_uri=str(ids)).read_chunk(0, 1)
    with pytest.raises(ManifestError, match="has no rows"):
        opened(written(urls, b"[]")).read_chunk(0, 1)
    with pytest.raises(ManifestError, match="EMBEDDER_IDS_URI goes with a JSON array"):
        opened(written(tmp_path / "list.csv", CSV), ids_uri=str(ids))
    with pytest.raises(ManifestError, match=r"no_ids\.json does not exist"):
        opened(urls, ids_uri=str(tmp_path / "no_ids.json"))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    content = parquet_bytes({"url": [f"https://h/{number}.jpg" for number in range(1000)]})
    for damaged in (
        content[:-100],
        content[:8],
        b"url\nhttps://h/1.jpg\n" * 9,
        content[:-50] + bytes(42) + content[-8:],
    ):
        with pytest.raises(ManifestError, match=r"list\.parquet is not a Parquet file, or is damaged: "):
            opened(written(tmp_path / "list.parquet", damaged))
    manifest = opened(written(tmp_path / "list.parquet", content[:4] + bytes(1000) + content[1004:]))
    with pytest.raises(ManifestError, match="damaged"):
        manifest.read_chunk(0, 1)


def test_parquet_columns_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="the column url is int64, expected text"):
        opened(written(tmp_path / "list.parquet", parquet_bytes({"url": [1, 2]})))
    with pytest.raises(ManifestError, match=r"the column url is struct.*, expected text"):
        opened(written(tmp_path / "list.parquet", parquet_bytes({"url": [{"a": "https://h/1.jpg"}]})))
    table = pa.table([["https://h/1.jpg"], ["https://h/2.jpg"]], names=["url", "url"])
    parquet.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(ManifestError, match="2 columns url; rename all but one"):
        opened(tmp_path / "list.parquet")


def test_a_parquet_file_under_another_name_is_recognised_by_its_content(tmp_path: Path) -> None:
    content = parquet_bytes({"url": ["https://h/1.jpg"]})
    with pytest.raises(ManifestError, match="is a Parquet file, not csv; set EMBEDDER_MANIFEST_FORMAT to parquet"):
        opened(written(tmp_path / "list.csv", content))
    assert len(rows_of(opened(tmp_path / "list.csv", manifest_format="parquet"))) == 1


@pytest.mark.parametrize(
    "content", [CSV * 30_000, parquet_bytes({"url": [f"https://h/{n * 7919}.jpg" for n in range(99_999)]})]
)
def test_a_server_that_fails_while_the_rows_are_read_makes_the_source_unavailable(
    server: ManifestServer, content: bytes
) -> None:
    uri = server.publish("list.parquet" if content.startswith(b"PAR1") else "list.csv", content)
    manifest = opened(uri)
    server.always, server.retry_after = 503, "0"
    with pytest.raises(SourceUnavailable, match="HTTP 503") as failed:
        manifest.read_chunk(3, 5)
    assert failed.value.exit_code == ExitCode.TEMPORARY_FAILURE


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, ManifestError), (403, StoreAccessDenied), (401, StoreAccessDenied), (503, SourceUnavailable)],
)
def test_the_status_of_the_server_decides_the_error(
    server: ManifestServer, status: int, error: type[Exception]
) -> None:
    server.always, server.retry_after = status, "0"
    with pytest.raises(error, match=r"/list\.csv"):
        opened(f"{server.url}/list.csv")


def test_a_missing_file_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"list\.csv does not exist") as missing:
        opened(tmp_path / "list.csv")
    assert missing.value.exit_code == ExitCode.CONFIG_ERROR


def test_a_local_csv_loads_neither_pyarrow_nor_boto3(tmp_path: Path) -> None:
    path = written(tmp_path / "list.csv", CSV)
    program = (
        "import sys; from tests.worker.manifest.manifests import opened, rows_of; "
        f"rows_of(opened({str(path)!r})); print(sorted({{'pyarrow', 'boto3'}} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
