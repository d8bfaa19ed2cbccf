"""Images that lie within larger files are fetched by their ranges, and nothing else is taken for them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import SourceUnavailable
from common.format.reasons import Reason
from tests.image_server import answer, first, image_server, raw, redirect
from tests.manifest_server import ManifestServer, manifest_server
from tests.worker.fetch.fetching import failure, fetch, fetcher_among_others, get, image_fetcher, worker_settings
from worker.rows import ByteRange, Row, file_tag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

    from tests.image_server import Behaviour

CONTENT = os.urandom(3_000_000)
RANGES = [(0, 1), (512, 200_000), (1_000_000, 1_500_000), (2_999_999, 1)]
PICTURES = [CONTENT[start : start + length] for start, length in RANGES]


@pytest.fixture
def server() -> Iterator[ManifestServer]:
    with manifest_server() as running:
        yield running


def rows(uri: str | Path, *, tag: str = "") -> list[Row]:
    return [
        Row(number, f"a.tar#{number}.jpg", held=ByteRange(str(uri), *each, tag)) for number, each in enumerate(RANGES)
    ]


def row(uri: str | Path, start: int = 512, length: int = 1000, *, tag: str = "") -> Row:
    return Row(0, "a.tar#a.jpg", held=ByteRange(str(uri), start, length, tag))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_range_is_fetched_from_a_private_server_that_the_operator_named(
    server: ManifestServer, chunked: bool
) -> None:
    uri = server.publish("a.tar", CONTENT)
    tag = server.etag_of("a.tar")
    server.chunked = chunked
    assert fetch(*rows(uri, tag=tag), allow_private_hosts=False, sources=("bytes",)) == PICTURES
    assert server.bytes_sent == sum(map(len, PICTURES))


def test_a_range_is_fetched_behind_a_redirect_of_its_own_server(server: ManifestServer) -> None:
    with manifest_server() as other:
        other.redirect_to = server.publish("a.tar", CONTENT)
        assert fetch(*rows(other.publish("a.tar", b"")), allow_private_hosts=False) == PICTURES


def test_a_redirect_is_followed_once_for_many_images_and_again_when_its_end_is_no_longer_good() -> None:
    def part(start: int) -> Behaviour:
        headers = {"Content-Range": f"bytes {start}-{start + 999}/3000000"}
        return answer(CONTENT[start : start + 1000], status=206, headers=headers)

    with image_server() as hub, image_server() as store:
        uri = hub.on("/a.tar", redirect(store.on("/signed-1", part(512))))
        places = [row(uri, 512), row(uri, 512), row(uri, 512)]

        async def run() -> None:
            async with fetcher_among_others(allow_private_hosts=False) as fetcher:
                for each in places:
                    assert await get(fetcher, each) == CONTENT[512:1512]
                assert (hub.count("/a.tar"), store.count("/signed-1")) == (1, 3)
                store.on("/signed-1", answer(status=403))
                hub.on("/a.tar", redirect(store.on("/signed-2", part(2000))))
                assert await get(fetcher, row(uri, 2000)) == CONTENT[2000:3000]
                assert await get(fetcher, row(uri, 2000)) == CONTENT[2000:3000]
                assert (hub.count("/a.tar"), store.count("/signed-1"), store.count("/signed-2")) == (2, 4, 2)

        asyncio.run(run())


def test_a_range_of_a_local_file_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "a.tar").write_bytes(CONTENT)

    async def run(folder: Path | None) -> list[bytes | Reason]:
        async with image_fetcher(worker_settings(), sources=("bytes",), folder=folder) as fetcher:
            found = [await get(fetcher, each) for each in rows(path, tag=file_tag(path.stat()))]
            assert fetcher.bytes_received == sum(map(len, PICTURES))
            return found

    # The operator named the file, so it is read beside a manifest from the network too.
    assert asyncio.run(run(None)) == asyncio.run(run(tmp_path)) == PICTURES


def test_a_range_of_an_object_is_fetched_with_the_programs_own_credentials(bucket: str, s3_api: S3Client) -> None:
    stored = s3_api.put_object(Bucket=bucket, Key="shards/a b.tar", Body=CONTENT)
    found = rows(f"s3://{bucket}/shards/a b.tar", tag=stored["ETag"].strip('"'))
    missing = row(f"s3://{bucket}/shards/missing.tar")
    assert fetch(*found, missing, allow_private_hosts=False) == [*PICTURES, Reason.NOT_FOUND]


def test_a_server_that_sends_the_whole_file_is_refused_without_reading_it(server: ManifestServer) -> None:
    uri = server.publish("a.tar", CONTENT * 4)
    server.ranges = False
    failed = failure(row(uri))
    assert failed.reason is Reason.HTTP_ERROR
    assert failed.detail == "bytes: http_error 127.0.0.1 sent the whole file instead of bytes 512 to 1511"
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Range: bytes 513-1512/3000000\r\nContent-Length: 1000",
        "Content-Range: bytes 512-1510/3000000\r\nContent-Length: 999",
        "Content-Range: bytes 512-1511/3000000\r\nContent-Length: 1001",
        "Content-Range: bytes 512-15110/3000000\r\nContent-Length: 1000",
        "Content-Length: 1000",
        "Content-Type: multipart/byteranges; boundary=x\r\nContent-Length: 1000",
        "Content-Range: items 512-1511/3000000\r\nContent-Length: 1000",
    ],
)
def test_another_range_is_never_taken_for_the_image(headers: str) -> None:
    with image_server() as server:
        uri = server.on("/a.tar", raw(f"HTTP/1.1 206 Partial Content\r\n{headers}\r\n\r\n".encode() + bytes(1001)))
        failed = failure(row(uri))
    assert failed.reason is Reason.HTTP_ERROR
    assert "of another range instead of bytes 512 to 1511" in failed.detail


def test_a_compressed_range_is_not_inflated() -> None:
    headers = {"Content-Range": "bytes 512-1511/3000000", "Content-Encoding": "gzip"}
    with image_server() as server:
        failed = failure(row(server.on("/a.tar", answer(bytes(1000), status=206, headers=headers))))
    assert "sent a compressed range instead of bytes 512 to 1511" in failed.detail


def test_a_range_that_breaks_off_is_asked_for_again(server: ManifestServer) -> None:
    uri = server.publish("a.tar", CONTENT)
    server.breaks, server.chunked = [10, 20, -1], True
    assert fetch(row(uri), fetch_attempts=3) == [CONTENT[512:1512]]


def test_a_chunked_answer_with_too_few_or_too_many_bytes_is_no_image() -> None:
    head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 512-1511/3000000\r\nTransfer-Encoding: chunked\r\n\r\n"
    for size in (999, 1001):
        with image_server() as server:
            uri = server.on("/a.tar", raw(head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))))
            assert f"the answer has {size} bytes, and 1000 were asked for" in failure(row(uri)).detail


def test_a_server_that_is_busy_is_asked_again() -> None:
    partial = answer(b"x" * 1000, status=206, headers={"Content-Range": "bytes 512-1511/3000000"})
    with image_server() as server:
        uri = server.on("/a.tar", first(2, answer(status=503), then=partial))
        assert fetch(row(uri), fetch_attempts=3) == [b"x" * 1000]
        assert server.count("/a.tar") == 3


def test_a_file_that_changed_at_its_server_ends_the_chunk(server: ManifestServer) -> None:
    uri = server.publish("a.tar", CONTENT)
    tag = server.etag_of("a.tar")

    async def run() -> None:
        async with fetcher_among_others() as fetcher:
            assert await get(fetcher, row(uri, tag=tag)) == CONTENT[512:1512]
            server.publish("a.tar", bytes(3_000_000))
            with pytest.raises(SourceUnavailable, match="the file that holds the images changed"):
                await fetcher.fetch(row(uri, tag=tag))
            server.publish("a.tar", b"short")
            with pytest.raises(SourceUnavailable, match="the file that holds the images changed"):
                await fetcher.fetch(row(uri))

    asyncio.run(run())


def test_a_local_file_that_changed_ends_the_chunk(tmp_path: Path) -> None:
    (path := tmp_path / "a.tar").write_bytes(CONTENT)
    tag = file_tag(path.stat())

    async def run() -> None:
        async with image_fetcher(worker_settings()) as fetcher:
            path.write_bytes(CONTENT[::-1])
            os.utime(path, ns=(1, 1))
            with pytest.raises(SourceUnavailable, match="changed while the run read it"):
                await fetcher.fetch(row(path, tag=tag))
            path.write_bytes(CONTENT[:1000])
            with pytest.raises(SourceUnavailable, match="changed while the run read it"):
                await fetcher.fetch(row(path))

    asyncio.run(run())


def test_an_empty_range_and_one_above_the_limit_cost_no_request(server: ManifestServer) -> None:
    uri = server.publish("a.tar", CONTENT)
    empty, large = row(uri, 512, 0), row(uri, 0, 2_000_000)
    found: list[Any] = fetch(empty, large, max_image_bytes=1_000_000)
    assert found == [Reason.NOT_AN_IMAGE, Reason.TOO_LARGE]
    assert not server.requests


def test_a_range_may_be_larger_than_the_bytes_that_a_request_is_granted_at_first(server: ManifestServer) -> None:
    uri = server.publish("a.tar", CONTENT)
    assert fetch(row(uri, 0, len(CONTENT)), max_inflight_bytes=1 << 20) == [CONTENT]
