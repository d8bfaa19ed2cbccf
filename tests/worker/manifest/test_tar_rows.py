"""Every picture in the shards is a row, once, whatever the number of chunks. Little is read, and damage is told."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ManifestError, SourceUnavailable
from common.format.reasons import Reason
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.manifest.manifests import QUICK_RETRY, everything, opened, rows_of, settings_for, written
from tests.worker.manifest.tars import END, CountingSource, header, held_bytes, tar_of
from worker.manifest.places.http_source import HttpSource
from worker.manifest.places.local_source import LocalSource
from worker.manifest.raw_rows import RawRow, UnreadableRow
from worker.manifest.tar.rows import TarRows
from worker.manifest.tar.shard import READERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mypy_boto3_s3 import S3Client

PICTURE = b"picture" * 100


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def sample(number: int, size: int = 700) -> list[tuple[str, bytes]]:
    """Return the members of a sample: a picture, a text and JSON, as img2dataset writes them."""
    key = f"{number:09}"
    return [
        (f"{key}.jpg", (b"%d " % number * size)[:size]),
        (f"{key}.txt", b"a caption"),
        (f"{key}.json", b'{"url": "https://example.com/a.jpg"}'),
    ]


def shard(numbers: Sequence[int], size: int = 700) -> bytes:
    return tar_of([member for number in numbers for member in sample(number, size)])


def shards_in(folder: Path, count: int, *, of: int = 3, size: int = 700) -> Path:
    for number in range(count):
        written(folder / f"{number:05}.tar", shard(range(number * of, (number + 1) * of), size))
    return folder


def found_in(*contents: bytes, folder: Path, index: int = 0, count: int = 1) -> list[RawRow | UnreadableRow]:
    sources = [LocalSource(written(folder / f"{number}.tar", content)) for number, content in enumerate(contents)]
    return list(TarRows(sources).read(index, count))


def problem_of(row: RawRow | UnreadableRow) -> str:
    assert isinstance(row, UnreadableRow)
    return row.problem


@pytest.mark.parametrize("how", ["folder", "glob", "braces", "comma"])
def test_the_pictures_of_shards_are_rows_in_the_order_of_the_shards(tmp_path: Path, how: str) -> None:
    shards_in(tmp_path, 2, of=2)
    (tmp_path / "00000_stats.json").write_text("{}")
    uri = {
        "folder": f"{tmp_path}/",
        "glob": f"{tmp_path}/*.tar",
        "braces": f"{tmp_path}/{{00000..00001}}.tar",
        "comma": f"{tmp_path}/00001.tar,{tmp_path}/00000.tar",
    }[how]
    manifest = opened(uri)
    assert (manifest.format, manifest.sources, manifest.has_ids) == ("tar", ("bytes",), True)
    rows = rows_of(manifest)
    assert [(row.url, row.id) for row in rows] == [
        (f"{tar:05}.tar#{number:09}.jpg", f"{number:09}") for tar, number in [(0, 0), (0, 1), (1, 2), (1, 3)]
    ]
    for number, row in enumerate(rows):
        assert row.held is not None
        assert Path(row.held.uri).read_bytes()[row.held.offset :][: row.held.length] == sample(number)[0][1]


def test_one_shard_gives_its_name_without_its_folder(tmp_path: Path) -> None:
    shards_in(tmp_path, 1)
    assert rows_of(opened(tmp_path / "00000.tar"))[0].url == "00000.tar#000000000.jpg"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 30))
def test_all_chunks_together_are_all_rows_once(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], chunks: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    first = 0
    for number, size in enumerate([*sizes, 1]):
        written(folder / f"{number:05}.tar", shard(range(first, first + size)))
        first += size
    manifest = opened(f"{folder}/")
    whole = everything(manifest, chunks=1)
    assert everything(manifest, chunks=chunks) == whole
    assert [row[1] for row in whole] == [f"{number:09}" for number in range(first)]
    shutil.rmtree(folder)


def test_the_shards_of_a_bucket_and_of_a_server_are_found(
    bucket: str, s3_api: S3Client, server: ManifestServer
) -> None:
    names = ["00000.tar", "00001.tar"]
    for number, name in enumerate(names):
        content = shard([2 * number, 2 * number + 1])
        s3_api.put_object(Bucket=bucket, Key=f"shards/{name}", Body=content)
        server.publish(name, content)
    stored = s3_api.head_object(Bucket=bucket, Key="shards/00001.tar")["ETag"].strip('"')
    for place, tag in ((f"s3://{bucket}/shards", stored), (server.url, server.etag_of("00001.tar"))):
        rows = rows_of(opened(f"{place}/{{00000..00001}}.tar"))
        assert [row.url for row in rows] == [f"{place}/0000{number // 2}.tar#{number:09}.jpg" for number in range(4)]
        assert rows[3].held == (f"{place}/00001.tar", 4096, 700, tag)


def test_of_a_local_shard_little_more_than_the_headers_is_read(tmp_path: Path) -> None:
    source = CountingSource(written(tmp_path / "a.tar", shard(range(100), size=60_000)))
    assert len(list(TarRows([source]).read(0, 1))) == 100
    # One read of 4 KiB for a picture's header and the two small members before it.
    assert source.bytes_read < 110 * 4096 < source.size / 12


def test_of_a_local_shard_of_small_members_blocks_are_read(tmp_path: Path) -> None:
    source = CountingSource(written(tmp_path / "a.tar", shard(range(2000), size=100)))
    assert len(list(TarRows([source]).read(0, 1))) == 2000
    assert len(source.reads) < 40


def test_large_pictures_behind_a_server_are_jumped_over(server: ManifestServer, tmp_path: Path) -> None:
    content = shard(range(20), size=3 << 20)
    manifest = opened(server.publish("a.tar", written(tmp_path / "a.tar", content)))
    assert len(rows_of(manifest)) == 20
    assert server.bytes_sent < 22 * (64 << 10) < len(content) / 40
    assert len(server.requests) <= 22


def test_small_pictures_behind_a_server_are_read_through_in_few_requests(server: ManifestServer) -> None:
    content = shard(range(300), size=100_000)
    manifest = opened(server.publish("a.tar", content))
    assert len(rows_of(manifest)) == 300
    assert server.bytes_sent < len(content) * 1.1
    assert len(server.requests) < 20


def test_a_chunk_reads_nothing_of_the_shards_of_other_chunks(tmp_path: Path) -> None:
    sources = [CountingSource(path) for path in sorted(shards_in(tmp_path, 7).iterdir())]
    rows = list(TarRows(sources).read(2, 3))
    assert len(rows) == 9
    assert [bool(source.reads) for source in sources] == [False] * 4 + [True] * 3


def test_the_order_holds_however_long_a_shard_takes(tmp_path: Path) -> None:
    class Slow(CountingSource):
        def read(self, start: int, length: int) -> bytes:
            time.sleep(0.05 * (20 - int(self.name[:5])) / 20)
            return super().read(start, length)

    sources = [Slow(path) for path in sorted(shards_in(tmp_path, 20).iterdir())]
    before = set(threading.enumerate())
    rows = TarRows(sources).read(0, 1)
    first = next(rows)
    assert len(set(threading.enumerate()) - before) <= READERS
    assert [held_bytes(sources[0], row)[:2] for row in [first]] == [b"0 "]
    ids = [row.fields.id for row in rows if isinstance(row, RawRow)]
    assert ids == [f"{number:09}" for number in range(1, 60)]


def test_whoever_stops_early_leaves_no_reader_behind(tmp_path: Path) -> None:
    sources = [CountingSource(path) for path in sorted(shards_in(tmp_path, 8, of=500, size=9000).iterdir())]
    before = set(threading.enumerate())
    rows = TarRows(sources).read(0, 1)
    next(rows)
    rows.close()  # type: ignore[attr-defined]  # it is a generator
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert sum(source.bytes_read for source in sources) < sum(source.size for source in sources) / 4


def test_an_error_of_a_source_ends_the_reading(server: ManifestServer) -> None:
    uri = server.publish("a.tar", shard(range(40), size=90_000))
    manifest = opened(uri)
    server.publish("a.tar", shard(range(40), size=80_000))
    with pytest.raises(SourceUnavailable, match="changed while it was read"):
        manifest.read_chunk(0, 1)


def test_members_that_are_no_pictures_are_no_rows(tmp_path: Path) -> None:
    names = {
        "a/b.c/d.e.JPG": "a/b.c/d",
        "./1.jpeg": "./1",
        "x.seg.png": "x",
        "x.webp": "x",
        "deep/y.TIFF": "deep/y",
        **dict.fromkeys(["x.txt", "x.jpg.txt", "jpg", ".jpg", "._x.jpg", "a/.hidden.png", "x.cls", "x.npy", "x.tar"]),
    }
    rows = found_in(tar_of([(name, PICTURE) for name in names]), folder=tmp_path)
    assert [(row.fields.url, row.fields.id) for row in rows if isinstance(row, RawRow)] == [
        (f"0.tar#{name}", key) for name, key in names.items() if key is not None
    ]


def test_names_that_lead_elsewhere_or_cannot_be_shown_are_only_names(tmp_path: Path) -> None:
    names = ["../../etc/passwd.jpg", "/etc/passwd.jpg", "a\nb.jpg", "\x1b[31m.jpg", "a\udcffb.jpg", "ü \u3000.jpg"]
    content = b"".join(header(name, len(PICTURE)) + PICTURE.ljust(1024, b"\0") for name in names) + END
    manifest = opened(written(tmp_path / "a.tar", content))
    rows = rows_of(manifest)
    assert [row.url for row in rows] == [
        "a.tar#../../etc/passwd.jpg",
        "a.tar#/etc/passwd.jpg",
        "a.tar#a%0Ab.jpg",
        "a.tar#%1B[31m.jpg",
        "a.tar#a%FFb.jpg",
        "a.tar#ü \u3000.jpg",
    ]
    assert [row.id for row in rows][2:5] == ["a%0Ab", "%1B[31m", "a%FFb"]


def test_two_members_with_one_name_are_two_rows(tmp_path: Path) -> None:
    rows = found_in(tar_of([("a.jpg", b"one"), ("a.jpg", b"two")]), folder=tmp_path)
    source = LocalSource(tmp_path / "0.tar")
    assert [held_bytes(source, row) for row in rows] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("kind", "what"), [(b"1", "a hard link"), (b"2", "a symbolic link"), (b"3", "a character device"), (b"6", "a pipe")]
)
def test_a_picture_that_is_no_file_is_a_row_of_the_ledger(tmp_path: Path, kind: bytes, what: str) -> None:
    content = header("a.jpg", kind=kind, link="/etc/passwd") + header("a.txt", kind=kind) + shard([7])
    chunk = opened(written(tmp_path / "a.tar", content)).read_chunk(0, 1)
    assert [row.id for row in chunk.rows] == ["000000007"]
    (failure,) = chunk.failures
    assert (failure.row, failure.url, failure.id, failure.reason) == (0, "a.tar#a.jpg", "a", Reason.MALFORMED_ROW)
    assert failure.detail == f"member at byte 0: it is {what}, which has no picture of its own"


def test_what_lies_behind_damage_is_one_row_that_says_so(tmp_path: Path) -> None:
    good, bad = shard(range(4)), bytearray(shard(range(4, 8)))
    bad[3584 * 2 + 10] ^= 1
    huge = shard([8])[:3584] + header("huge.jpg", 1 << 40) + bytes(9000)
    for number, content in enumerate([good, bytes(bad), huge, good[:4600], b"<html>" * 200, b""]):
        written(tmp_path / f"{number}.tar", content)
    chunk = opened(f"{tmp_path}/").read_chunk(0, 1)
    assert [row.id for row in chunk.rows] == [f"{number:09}" for number in (0, 1, 2, 3, 4, 5, 8, 0)]
    assert [(failure.row, failure.url, failure.detail.partition("; ")[0]) for failure in chunk.failures] == [
        (6, "1.tar#", "member at byte 7168 of 20480: the tar is damaged: its header has a wrong check sum"),
        (
            8,
            "2.tar#huge.jpg",
            f"member at byte 3584 of 13096: the tar is damaged: it has {1 << 40} bytes, and the tar has 9000 more",
        ),
        (
            10,
            "3.tar#000000001.jpg",
            "member at byte 3584 of 4600: the tar is damaged: it has 700 bytes, and the tar has 504 more",
        ),
        (11, "4.tar#", "member at byte 0 of 1200: the tar is damaged: the check sum in its header is no number"),
        (12, "5.tar#", "member at byte 0 of 0: the tar is damaged: it is empty"),
    ]


def test_a_compressed_shard_among_others_is_a_row_that_names_the_compression(tmp_path: Path) -> None:
    rows = found_in(shard([0]), b"\x1f\x8b" + bytes(5000), folder=tmp_path)
    assert "the file is compressed (gzip)" in problem_of(rows[1])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.tar", b"\x1f\x8b" + bytes(1000), r"a.tar is compressed \(gzip\).*store the plain tar: gunzip unpacks it"),
        ("a.tar.gz", b"\x1f\x8b" + bytes(1000), r"a.tar.gz is compressed \(.gz\).*gunzip unpacks it"),
        ("a.tgz", b"\x1f\x8b" + bytes(1000), r"a.tgz is compressed \(.tgz\).*gunzip unpacks it"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(9), r"a.tar.zst is compressed \(.zst\).*unzstd unpacks it"),
        ("a.tar", b"<html>" * 1000, r"a.tar is not a tar"),
        ("a.tar", b"", "a.tar is empty"),
        ("a.csv", shard([0]), r"a.csv is a tar, not csv; set EMBEDDER_MANIFEST_FORMAT to tar"),
    ],
)
def test_a_shard_that_cannot_be_read_ends_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    with pytest.raises(ManifestError, match=sentence):
        opened(written(tmp_path / name, content))


def test_all_shards_compressed_end_in_a_sentence(tmp_path: Path) -> None:
    for number in range(3):
        written(tmp_path / f"{number}.tar", b"\x1f\x8b" + bytes(1000))
    with pytest.raises(ManifestError, match="gunzip"):
        opened(f"{tmp_path}/")


def test_shards_without_pictures_end_in_a_sentence(tmp_path: Path) -> None:
    for content, there in [
        (tar_of([("a.txt", b"x"), ("b.TXT", b"y"), ("c", b"z")]), "2 .txt, 1 without"),
        (bytes(10_240), "no files"),
    ]:
        manifest = opened(written(tmp_path / "a.tar", content))
        with pytest.raises(ManifestError, match=f"no member is a picture by its ending .*{there}.*.jpg"):
            manifest.read_chunk(0, 1)


def test_a_chunk_of_shards_without_pictures_is_said_and_has_no_rows(tmp_path: Path) -> None:
    sources = [
        LocalSource(written(tmp_path / "0.tar", tar_of([("a.txt", b"x")]))),
        LocalSource(shards_in(tmp_path, 1) / "00000.tar"),
    ]
    with structlog.testing.capture_logs() as logs:
        assert list(TarRows(sources).read(0, 2)) == []
        assert len(list(TarRows(sources).read(1, 2))) == 3
    assert [line["event"] for line in logs] == ["shards_without_pictures"]


def test_more_chunks_than_shards_are_said(tmp_path: Path) -> None:
    manifest = opened(f"{shards_in(tmp_path, 3)}/")
    with structlog.testing.capture_logs() as logs:
        assert [len(manifest.read_chunk(index, 7).rows) for index in range(7)] == [0, 0, 3, 0, 3, 0, 3]
    said = [line["message"] for line in logs if line["event"] == "more_chunks_than_shards"]
    assert said[0] == ("shards are not divided, so 4 of 7 chunks have no image; set EMBEDDER_CHUNK_COUNT to 3 at most")


def test_tars_one_after_the_other_are_all_rows_and_said_once(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        rows = found_in(shard([0]) + shard([1]) + shard([2]), folder=tmp_path)
    assert [row.fields.id for row in rows if isinstance(row, RawRow)] == [f"{number:09}" for number in range(3)]
    assert [line["event"] for line in logs] == ["shards_of_several_tars"]


def test_millions_of_members_end_in_a_sentence_early(tmp_path: Path) -> None:
    source = CountingSource(written(tmp_path / "a.tar", header("a.jpg") * 100_000))
    with pytest.raises(ManifestError, match=r"more than 1,000 images .* write more and smaller shards"):
        list(TarRows([source], most_rows=1000).read(0, 1))
    assert source.bytes_read < source.size / 10
    other = CountingSource(written(tmp_path / "b.tar", header("a.txt") * 100_000))
    with pytest.raises(ManifestError, match=r"or 4,000 members.* write more and smaller shards"):
        list(TarRows([other], most_rows=1000).read(0, 1))
    assert other.bytes_read < other.size / 10


def test_too_many_images_in_several_shards_name_the_number_of_chunks(tmp_path: Path) -> None:
    sources = [LocalSource(path) for path in sorted(shards_in(tmp_path, 4, of=300).iterdir())]
    with pytest.raises(ManifestError, match=r"00000.tar and the 3 shards after it .* raise EMBEDDER_CHUNK_COUNT"):
        list(TarRows(sources, most_rows=1000).read(0, 1))


def test_a_server_without_ranges_ends_in_a_sentence(server: ManifestServer) -> None:
    server.ranges = False
    uri = server.publish("a.tar", shard(range(100)))
    with pytest.raises(ManifestError, match=r"ignores Range, .*download the shards to a volume first"):
        opened(uri).read_chunk(0, 1)
    with pytest.raises(ManifestError, match="ignores Range"):
        opened(f"{uri},{server.publish('b.tar', shard([1000]))}")


def test_a_shard_behind_a_password_is_not_for_the_decoders(server: ManifestServer) -> None:
    server.publish("a.tar", shard([0]))
    uri = server.url.replace("://", "://ann:secret@") + "/a.tar"
    source = HttpSource(uri, settings_for(uri).http, retry=QUICK_RETRY)
    assert not source.is_direct
    assert "secret" not in rows_of(opened(uri))[0].url


def test_rows_are_counted_sampled_and_shown_without_reading_all_of_them(server: ManifestServer, tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", shard(range(400), size=100_000))
    manifest = opened(",".join(server.publish(f"{number}.tar", path) for number in range(6)))
    count = manifest.count_rows()
    assert not count.is_exact
    assert count.rows == pytest.approx(2400, rel=0.05)
    assert len(manifest.sample(20).rows) == 20
    assert len({row.url.partition("#")[0] for row in manifest.sample(20).rows}) > 3
    before = server.bytes_sent
    assert [row.id for row in manifest.first_rows(3, of=count.rows).rows] == ["000000000", "000000001", "000000002"]
    assert server.bytes_sent - before < 8 << 20


def test_a_few_small_shards_are_counted_exactly(tmp_path: Path) -> None:
    manifest = opened(f"{shards_in(tmp_path, 4)}/")
    assert manifest.count_rows() == (12, True)
    assert len(manifest.sample(64).rows) == 12
    assert [row.id for row in manifest.first_rows(3, of=12).rows] == [f"{number:09}" for number in range(3)]
    assert [row.id for row in manifest.first_rows(3, of=100_000).rows] == [f"{number:09}" for number in range(3)]


@pytest.mark.parametrize("sources", ["url", "bytes,url", "mirror,original"])
def test_other_sources_than_the_shards_are_refused(tmp_path: Path, sources: str) -> None:
    path = shards_in(tmp_path, 1) / "00000.tar"
    assert opened(path, sources="bytes").sources == ("bytes",)
    with pytest.raises(ManifestError, match=f"EMBEDDER_SOURCES={sources} cannot be used"):
        opened(path, sources=sources)
