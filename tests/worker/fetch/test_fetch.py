"""Fetching from a server that works, and from sources that do not have the image."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from common.errors import SettingsError
from common.format.provenance import program_version
from common.format.reasons import Reason
from tests.image_server import ImageServer, answer, chunked, endless, image_server, redirect
from tests.worker.fetch.fetching import PICTURE, failure, fetch, get, image_fetcher, worker_settings
from worker.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mypy_boto3_s3 import S3Client


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


def test_an_image_arrives_unchanged_whether_its_length_is_announced_or_not(server: ImageServer) -> None:
    for size in (0, 1, 1000, 200_000, 3_000_000):
        picture = os.urandom(size)
        whole, pieces = server.on(f"/{size}", answer(picture)), server.on(f"/{size}c", chunked(picture, piece=70_000))
        assert fetch(whole, pieces) == [picture, picture]


def test_connections_are_kept(server: ImageServer) -> None:
    url = server.on("/a.jpg", answer(PICTURE))
    missing = server.url("/missing.jpg")
    assert fetch(*[url, missing] * 10) == [PICTURE, Reason.NOT_FOUND] * 10
    assert server.connection_count == 1


def test_the_headers_say_who_asks_and_that_only_uncompressed_images_are_wanted(server: ImageServer) -> None:
    fetch(server.on("/a.jpg", answer(PICTURE, headers={"Set-Cookie": "a=b"})), server.url("/a.jpg"))
    for request in server.requests:
        assert request.headers["User-Agent"].startswith(f"embedder/{program_version()} ")
        assert request.headers["Accept"].startswith("image/")
        assert request.headers["Accept-Encoding"] == "identity"
        assert "Cookie" not in request.headers
    with pytest.raises(SettingsError, match="EMBEDDER_USER_AGENT"):
        fetch(user_agent="two\r\nlines: yes")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, Reason.NOT_FOUND),
        (410, Reason.NOT_FOUND),
        (401, Reason.ACCESS_DENIED),
        (403, Reason.ACCESS_DENIED),
        (451, Reason.ACCESS_DENIED),
        (400, Reason.HTTP_ERROR),
        (204, Reason.HTTP_ERROR),
        (205, Reason.HTTP_ERROR),
        (300, Reason.HTTP_ERROR),
        (501, Reason.SERVER_ERROR),
    ],
)
def test_a_failure_that_will_not_pass_is_not_retried(server: ImageServer, status: int, reason: Reason) -> None:
    url = server.on("/a.jpg", answer(b"" if status in {204, 205} else b"no", status=status))
    assert fetch(url, fetch_attempts=4) == [reason]
    assert server.count("/a.jpg") == 1


def test_an_image_above_the_limit_is_refused_by_its_announced_or_its_real_length(server: ImageServer) -> None:
    urls = [
        server.on("/exactly", answer(bytes(2048))),
        server.on("/above", answer(bytes(2049))),
        server.on("/exactly-chunked", chunked(bytes(2048))),
        server.on("/above-chunked", chunked(bytes(2049))),
        server.on("/endless", endless()),
    ]
    too_large = Reason.TOO_LARGE
    assert fetch(*urls, max_image_bytes=2048) == [bytes(2048), too_large, bytes(2048), too_large, too_large]


def test_an_abandoned_body_ends_its_connection(server: ImageServer) -> None:
    huge = server.on("/huge", answer(bytes(5_000_000)))
    small = server.on("/small", answer(b"small"))
    assert fetch(small, huge, small, max_image_bytes=2048) == [b"small", Reason.TOO_LARGE, b"small"]
    assert server.connection_count == 2


def test_redirects_are_followed_up_to_five(server: ImageServer) -> None:
    server.on("/5", answer(PICTURE))
    for hop, status in enumerate((301, 302, 303, 307, 308)):
        server.on(f"/{hop}", redirect(f"/{hop + 1}", status=status))
    server.on("/a/before", redirect("../0"))
    assert fetch(server.url("/0"), server.url("/a/before")) == [PICTURE, Reason.TOO_MANY_REDIRECTS]


def test_a_redirect_in_a_circle_or_to_no_usable_url_fails(server: ImageServer) -> None:
    urls = [
        server.on("/circle", redirect("/circle")),
        server.on("/nowhere", answer(status=302)),
        *(
            server.on(f"/to{number}", redirect(location))
            for number, location in enumerate(
                ("", "file:///etc/passwd", "s3://bucket/key", "ftp://a.example/b", "http://", "http://[", "gopher:x")
            )
        ),
    ]
    assert fetch(*urls) == [Reason.TOO_MANY_REDIRECTS] * len(urls)
    assert server.count("/circle") == 6


def test_a_redirect_to_another_host_is_followed_with_its_odd_characters(server: ImageServer) -> None:
    with image_server() as other:
        other.on("/b%C3%A4%20%2F.jpg", answer(PICTURE))
        assert fetch(server.on("/a.jpg", redirect(other.url("/bä %2F.jpg")))) == [PICTURE]


def test_the_picture_that_says_that_a_photo_is_gone_is_not_fetched(server: ImageServer) -> None:
    server.on("/photo_unavailable.png", answer(PICTURE))
    gone = server.on("/gone.jpg", redirect("/photo_unavailable.png"))
    assert fetch(gone, server.url("/photo_unavailable_l.png"), fetch_attempts=4) == [Reason.UNAVAILABLE_PLACEHOLDER] * 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("written", "requested"),
    [
        ("/a%2Fb%20c%7e.jpg?x=%2F+y", "/a%2Fb%20c%7e.jpg?x=%2F+y"),
        ("/a b.jpg?q=a b", "/a%20b.jpg?q=a%20b"),
        ("/für+2.jpg", "/f%C3%BCr+2.jpg"),
        ("/100%.jpg", "/100%.jpg"),
        ("/a;b=(c),'d'!*$&@:~[e].jpg", "/a;b=(c),'d'!*$&@:~[e].jpg"),
        ('/"<>\\^`{|}', "/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("/a/../b//c/.", "/a/../b//c/."),
        ("?only=query", "/?only=query"),
        ("/a.jpg#fragment", "/a.jpg"),
    ],
)
def test_a_url_is_requested_as_it_is_written(server: ImageServer, written: str, requested: str) -> None:
    fetch(server.url(written))
    assert [request.raw_path for request in server.requests] == [requested]


def test_urls_with_and_without_percent_signs_are_requested_one_after_the_other(server: ImageServer) -> None:
    paths = ["/a%20b.jpg", "/c.jpg", "/d.jpg?e=f", "/g%2Fh.jpg?%C3%A4", "/c.jpg", "/i/../j.jpg"]
    urls = [
        server.on(path.partition("?")[0], answer(b"good")) + path.partition("?")[1] + path.partition("?")[2]
        for path in paths
    ]
    assert fetch(*urls) == [b"good"] * len(paths)
    assert [request.raw_path for request in server.requests] == paths


def test_user_and_password_of_a_url_are_sent_to_its_host_and_never_shown(server: ImageServer) -> None:
    with image_server() as other:
        server.on("/a.jpg", redirect(other.url("/b.jpg")))
        url = server.url("/a.jpg").replace("://", "://ann:s3cret@")
        failed = failure(url)
        assert server.requests[0].headers["Authorization"].startswith("Basic ")
        assert "Authorization" not in other.requests[0].headers
    assert failed.reason == Reason.NOT_FOUND
    assert "s3cret" not in str(failed)


OPEN_IMAGES = ("mirror", "thumbnail", "original")


def test_sources_are_tried_in_their_order_until_one_has_the_image(server: ImageServer) -> None:
    row = Row(
        position=0, url=server.url("/original.jpg"), id="0a", subset="train", thumbnail=server.url("/thumbnail.jpg")
    )
    mirror = server.url("/copy/")
    server.on("/original.jpg", answer(b"original"))
    assert fetch(row, sources=OPEN_IMAGES, mirror_url=mirror) == [b"original"]
    assert [request.path for request in server.requests] == ["/copy/train/0a.jpg", "/thumbnail.jpg", "/original.jpg"]
    server.on("/copy/train/0a.jpg", answer(b"mirror"))
    assert fetch(row, sources=OPEN_IMAGES, mirror_url=mirror) == [b"mirror"]


def test_the_last_source_gives_the_reason_and_the_detail_names_all(server: ImageServer) -> None:
    server.on("/original.jpg", answer(status=403))
    row = Row(position=0, url=server.url("/original.jpg"), id="0a", subset="train")
    failed = failure(row, sources=OPEN_IMAGES, mirror_url=server.origin)
    assert failed.reason == Reason.ACCESS_DENIED
    assert failed.detail == "mirror: not_found 404; thumbnail: no URL; original: access_denied 403"


def test_a_row_without_a_url_for_any_source_has_no_source() -> None:
    failed = failure(Row(position=0, url=""), sources=OPEN_IMAGES)
    assert failed.reason == Reason.NO_SOURCE
    assert failed.detail == "mirror: no URL; thumbnail: no URL; original: no URL"


@pytest.mark.parametrize("key", ["plain.jpg", "a b/ü+c&d=e.jpg", "~tilde/(x)'%2F.jpg"])
def test_an_object_of_s3_is_fetched_with_the_programs_own_credentials(bucket: str, s3_api: S3Client, key: str) -> None:
    s3_api.put_object(Bucket=bucket, Key=key, Body=PICTURE)
    urls = [f"s3://{bucket}/{key}", f"s3://{bucket}/missing.jpg", f"s3://{bucket}/", "s3://no bucket/a", "s3:///a"]
    invalid = Reason.INVALID_URL
    assert fetch(*urls, allow_private_hosts=False) == [PICTURE, Reason.NOT_FOUND, invalid, invalid, invalid]


def test_images_of_a_bucket_and_of_a_server_are_fetched_in_turn(
    bucket: str, s3_api: S3Client, server: ImageServer
) -> None:
    s3_api.put_object(Bucket=bucket, Key="a.jpg", Body=PICTURE)
    urls = [f"s3://{bucket}/a.jpg", server.on("/b.jpg", answer(b"good"))]
    assert fetch(*urls, *urls) == [PICTURE, b"good"] * 2


def test_the_mirror_may_be_a_bucket(bucket: str, s3_api: S3Client) -> None:
    s3_api.put_object(Bucket=bucket, Key="copy/train/0a b.jpg", Body=PICTURE)
    row = Row(position=0, url="http://unused.example/", id="0a b", subset="train")
    mirror = f"s3://{bucket}/copy"
    assert fetch(row, allow_private_hosts=False, sources=("mirror",), mirror_url=mirror) == [PICTURE]


def test_files_are_read_only_for_a_local_manifest(tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").write_bytes(PICTURE)
    (tmp_path / "large.jpg").write_bytes(bytes(300_000))
    os.mkfifo(tmp_path / "fifo")
    expected = {
        "a b.jpg": PICTURE,
        "./a b.jpg": PICTURE,
        str(tmp_path / "a b.jpg"): PICTURE,
        f"file://{tmp_path}/a%20b.jpg": PICTURE,
        f"FILE://localhost{tmp_path}/a%20b.jpg": PICTURE,
        "missing.jpg": Reason.NOT_FOUND,
        "a b.jpg/c": Reason.NOT_FOUND,
        "fifo": Reason.NOT_FOUND,
        "/dev/zero": Reason.NOT_FOUND,
        ".": Reason.NOT_FOUND,
        "large.jpg": Reason.TOO_LARGE,
        "x" * 300: Reason.INVALID_URL,
        "file://elsewhere/a.jpg": Reason.INVALID_URL,
        "file:///a%00b": Reason.INVALID_URL,
        "a\0b": Reason.INVALID_URL,
        "": Reason.NO_SOURCE,
    }

    async def run(folder: Path | None) -> list[bytes | Reason]:
        limited = worker_settings(max_image_bytes=250_000)
        async with image_fetcher(limited, sources=("url",), folder=folder) as fetcher:
            return [await get(fetcher, url) for url in expected]

    assert dict(zip(expected, asyncio.run(run(tmp_path)), strict=True)) == expected
    assert set(asyncio.run(run(None))) == {Reason.INVALID_URL, Reason.NO_SOURCE}


def test_local_files_of_nearly_all_bytes_in_flight_are_read_one_after_the_other(tmp_path: Path) -> None:
    """More of them wait for bytes than a decoder has threads, and those behind them have bytes and wait for threads."""
    (path := tmp_path / "large.jpg").write_bytes(picture := os.urandom(1_000_000))

    async def run() -> list[bytes | Reason]:
        settings = worker_settings(max_inflight_bytes=1 << 20)
        async with image_fetcher(settings, folder=tmp_path) as fetcher:
            return await asyncio.wait_for(asyncio.gather(*(get(fetcher, str(path)) for _ in range(40))), 20)

    assert asyncio.run(run()) == [picture] * 40


def test_requests_and_bytes_are_counted(server: ImageServer) -> None:
    url = server.on("/a.jpg", answer(PICTURE))

    async def run() -> None:
        async with image_fetcher(worker_settings()) as fetcher:
            for _ in range(3):
                await get(fetcher, url)
            assert (fetcher.requests, fetcher.bytes_received, fetcher.retries) == (3, 3 * len(PICTURE), 0)
            assert fetcher.in_flight == 0

    asyncio.run(run())
