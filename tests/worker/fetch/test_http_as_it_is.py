"""What browsers accept is accepted: statuses, headers, compression, and redirects that set cookies."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.format.reasons import Reason
from tests.image_server import ImageServer, answer, image_server, raw
from tests.scripted_server import ScriptedServer, Then, scripted_server
from tests.worker.fetch.fetching import PICTURE, failure, fetch, fetch_together, image_fetcher, worker_settings
from worker.fetch.inflation import MAX_MEMBERS, STEP_BYTES, Inflation, codings_of
from worker.rows import ImageFailed, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\n"
FOUR = b"Content-Length: 4\r\n\r\nfour"


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


# Statuses and headers


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 226, 299])
def test_every_success_with_a_picture_is_a_picture(server: ImageServer, status: int) -> None:
    assert fetch(server.on("/a.jpg", answer(PICTURE, status=status))) == [PICTURE]
    assert fetch(server.url("/a.jpg"), max_image_bytes=2048) == [Reason.TOO_LARGE]


def test_a_part_is_a_picture_only_if_it_is_the_whole(server: ImageServer) -> None:
    size = len(PICTURE)
    urls = [
        server.on(f"/{number}", answer(PICTURE, status=206, headers={"Content-Range": span}))
        for number, span in enumerate((f"bytes 0-{size - 1}/{size}", f"bytes 0-{size - 1}/{size + 1}", "bytes 1-9/*"))
    ]
    assert fetch(*urls) == [PICTURE, Reason.HTTP_ERROR, Reason.HTTP_ERROR]
    assert "206, a part of the image" in failure(urls[1]).detail


TAKEN: dict[str, bytes] = {
    "a header of 90 KB": OK + b"X: " + b"x" * 90_000 + b"\r\n" + FOUR,
    "headers of 290 KB": OK + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 2900) for n in range(100)) + FOUR,
    "4,900 headers": OK + b"".join(b"X-%d: x\r\n" % n for n in range(4900)) + FOUR,
    "a long cookie": OK + b"Set-Cookie: a=" + b"x" * 50_000 + b"\r\n" + FOUR,
    "the same length twice": OK + b"Content-Length: 4\r\n" + FOUR,
    "a list of equal lengths": OK + b"Content-Length: 4, 4\r\n\r\nfour",
    "lines that end in LF": OK.replace(b"\r", b"") + FOUR.replace(b"\r", b""),
    "no reason phrase": b"HTTP/1.1 200\r\n" + FOUR,
    "a status without a space after it": b"HTTP/1.1 200OK\r\n" + FOUR,
    "spaces before a colon": OK + b"X-A : b\r\n" + FOUR,
    "a folded header": OK + b"X-A: b\r\n c\r\n" + FOUR,
    "headers that are not ASCII": OK + b"X-\xc3\xa4: \xff\r\n" + FOUR,
    "lower case": b"http/1.1 200 ok\r\ncontent-length: 4\r\n\r\nfour",
    "many interim answers": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 30 + OK + FOUR,
    "a wish for another protocol": OK + b"Connection: Upgrade\r\nUpgrade: h2,h2c\r\n" + FOUR,
    "chunks with extensions": OK + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nfour\r\n0\r\nX: y\r\n\r\n",
    "an encoding that does not exist": OK + b"Content-Encoding: image/jpeg\r\n" + FOUR,
    "an upload's encoding": OK + b"Content-Encoding: aws-chunked\r\n" + FOUR,
}


@pytest.mark.parametrize("name", TAKEN)
def test_an_unusual_answer_is_taken(scripted: ScriptedServer, name: str) -> None:
    url = scripted.on("/a.jpg", TAKEN[name])
    assert fetch(url, url) == [b"four", b"four"]


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (OK + b"X: " + b"x" * 110_000, "its headers are too large"),
        (OK + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 3000) for n in range(110)), "its headers are too large"),
        (OK + b"".join(b"X-%d: x\r\n" % n for n in range(5100)), "its headers are too large"),
        (b"\r\n", "the answer is not HTTP"),
        (b"\n", "the answer is not HTTP"),
        (OK + b"Content-Le", "the answer broke off"),
        (OK, "the answer broke off"),
    ],
)
def test_an_answer_beyond_the_limits_is_told_and_asked_for_again(
    scripted: ScriptedServer, head: bytes, what: str
) -> None:
    end = b"\r\n" + FOUR if what == "its headers are too large" else b""
    url = scripted.on("/a.jpg", head + end, then=Then.CLOSE)
    assert what in failure(url, fetch_attempts=2).detail
    assert len(scripted.requests) == 2


def test_a_body_is_limited_although_its_status_is_written_oddly(scripted: ScriptedServer) -> None:
    url = scripted.on("/a.jpg", b"HTTP/1.1 200OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
    assert fetch(url, max_image_bytes=2048) == [Reason.TOO_LARGE]


# Compression


def _sent(body: bytes, coding: str, *, chunked: bool = False) -> bytes:
    head = OK + b"Content-Encoding: %b\r\n" % coding.encode()
    if chunked:
        pieces = [body[start : start + 900] for start in range(0, len(body), 900)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _raw_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


COMPRESSED = {
    "gzip": gzip.compress(PICTURE),
    "x-gzip": gzip.compress(PICTURE),
    "GZIP, identity": gzip.compress(PICTURE),
    "gzip, gzip": gzip.compress(gzip.compress(PICTURE)),
    "deflate": zlib.compress(PICTURE),
    "deflate ": _raw_deflate(PICTURE),
    "deflate, gzip": gzip.compress(zlib.compress(PICTURE)),
    "gzip ": gzip.compress(PICTURE[:999]) + gzip.compress(PICTURE[999:]) + b"\0\0\0",
    # The header is wrong.
    " gzip": PICTURE,
    " deflate": b"\xff\xd8\xff\xe0" + PICTURE,
    "gzip,gzip": gzip.compress(PICTURE),
    "br": PICTURE,
    "utf-8": PICTURE,
}


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("coding", COMPRESSED)
def test_a_body_that_is_compressed_against_the_request_is_inflated(
    scripted: ScriptedServer, coding: str, is_chunked: bool
) -> None:
    body = COMPRESSED[coding]
    expected = body if coding == " deflate" else PICTURE
    url = scripted.on("/a.jpg", _sent(body, coding, chunked=is_chunked))
    assert fetch(url, url) == [expected] * 2
    assert all(b"Accept-Encoding: identity" in head for head in scripted.requests)


def test_damaged_compressed_data_is_corrupt_and_its_first_part_is_what_a_truncated_body_has(
    scripted: ScriptedServer,
) -> None:
    packed = bytearray(gzip.compress(PICTURE, compresslevel=0))
    packed[-6] ^= 1  # in the check sum
    damaged = scripted.on("/damaged", _sent(bytes(packed), "gzip"))
    cut = scripted.on("/cut", _sent(gzip.compress(PICTURE)[:100_000], "gzip"))
    reason, start = fetch(damaged, cut)
    assert reason == Reason.CORRUPT
    assert isinstance(start, bytes)
    assert 50_000 < len(start) < len(PICTURE)
    assert PICTURE.startswith(start)


def test_a_bomb_is_too_large_without_the_memory(scripted: ScriptedServer) -> None:
    bomb = gzip.compress(bytes(200 << 20), compresslevel=1)
    urls = [
        scripted.on("/bomb", _sent(bomb, "gzip")),
        scripted.on("/twice", _sent(gzip.compress(bomb), "gzip, gzip")),
        scripted.on("/exactly", _sent(gzip.compress(bytes(8 << 20)), "gzip")),
        scripted.on("/above", _sent(gzip.compress(bytes((8 << 20) + 1)), "gzip")),
    ]
    tracemalloc.start()
    try:
        outcomes = fetch(*urls, max_image_bytes=8 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outcomes == [Reason.TOO_LARGE, Reason.TOO_LARGE, bytes(8 << 20), Reason.TOO_LARGE]
    assert peak < 64 << 20
    assert "once its gzip data is inflated" in failure(urls[0], max_image_bytes=8 << 20).detail


def test_inflated_bytes_count_against_the_byte_budget(scripted: ScriptedServer) -> None:
    urls = [scripted.on(f"/{number}", _sent(gzip.compress(bytes(3 << 20)), "gzip")) for number in range(6)]
    assert fetch_together(*urls, max_inflight_bytes=4 << 20) == [bytes(3 << 20)] * 6

    async def run() -> None:
        async with image_fetcher(worker_settings(max_inflight_bytes=4 << 20)) as fetcher:
            first = await fetcher.fetch(Row(0, urls[0]))
            second = asyncio.create_task(fetcher.fetch(Row(1, urls[1])))
            await asyncio.sleep(0.3)
            assert fetcher._budget.reserved >= 3 << 20
            first.release()
            (await second).release()
            assert fetcher._budget.reserved == 0

    asyncio.run(run())


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=5000), st.integers(1, 3), st.lists(st.integers(1, 300), min_size=1, max_size=9), st.data())
def test_a_body_is_inflated_the_same_whatever_its_pieces_and_its_grants(
    body: bytes, layers: int, sizes: list[int], data: st.DataObject
) -> None:
    packed = body
    for _ in range(layers):
        packed = gzip.compress(packed)
    pieces: list[bytes] = []
    start = 0
    while start < len(packed):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(packed[start : start + size])
        start += size
    inflation = Inflation(pieces, ["gzip"] * layers, max_bytes=5000)
    granted = 1
    while needed := inflation.advance(granted):
        assert granted < needed <= 5000
        granted = data.draw(st.integers(needed, 5000))
    assert b"".join(inflation.pieces) == body


def test_more_bytes_than_an_image_may_have_are_too_large_at_any_size() -> None:
    for size in (1, 100, 5000):
        inflation = Inflation([gzip.compress(bytes(size + 1))], ["gzip"], max_bytes=size)
        with pytest.raises(ImageFailed, match="too_large"):
            inflation.advance(size)


def test_a_body_of_many_small_pieces_of_gzip_does_not_hold_up_the_other_requests() -> None:
    pieces = [gzip.compress(b"four") * 50_000]
    began = time.thread_time()
    with pytest.raises(ImageFailed, match=f"more than {MAX_MEMBERS} pieces"):
        Inflation(pieces, ["gzip"], max_bytes=8 << 20).advance(8 << 20)
    assert time.thread_time() - began < 3
    few = Inflation([gzip.compress(b"four") * 2000], ["gzip"], max_bytes=8 << 20)
    assert few.advance(8 << 20) == 0
    assert b"".join(few.pieces) == b"four" * 2000


def test_a_body_is_not_inflated_a_few_bytes_at_a_time() -> None:
    packed = gzip.compress(os.urandom(1 << 20))
    inflation = Inflation([packed], ["gzip"], max_bytes=8 << 20)
    needed = inflation.advance(len(packed) + 10)
    assert needed >= len(packed) + STEP_BYTES
    assert inflation.advance(needed) == 0
    assert len(b"".join(inflation.pieces)) == 1 << 20


def test_data_of_deflate_is_recognised_in_pieces_of_a_byte() -> None:
    for packed in (zlib.compress(PICTURE[:5000]), zlib.compress(PICTURE[:5000])[2:-4]):
        inflation = Inflation([packed[at : at + 1] for at in range(len(packed))], ["deflate"], max_bytes=1 << 20)
        assert inflation.advance(1 << 20) == 0
        assert b"".join(inflation.pieces) == PICTURE[:5000]


def test_only_known_codings_are_undone_and_only_some_of_them() -> None:
    assert codings_of(" GZip , identity,deflate") == ("deflate", "gzip")
    assert codings_of("br, zstd, aws-chunked, none") == ()
    assert codings_of("gzip, " * 50) == ()


# Redirects and cookies


def redirect_with_cookie(location: str, *cookies: str, status: str = "302 Found") -> bytes:
    lines = "".join(f"Set-Cookie: {cookie}\r\n" for cookie in cookies)
    return f"HTTP/1.1 {status}\r\nLocation: {location}\r\n{lines}Content-Length: 0\r\n\r\n".encode("latin-1")


def cookies_of(scripted: ScriptedServer) -> list[str]:
    """Return the header Cookie of each request, an empty text for none."""
    found = []
    for head in scripted.requests:
        lines = [line for line in head.decode("latin-1").split("\r\n") if line.lower().startswith("cookie:")]
        found.append(lines[0].partition(":")[2].strip() if lines else "")
    return found


def test_a_cookie_is_brought_back_within_its_chain_only(scripted: ScriptedServer) -> None:
    scripted.on("/a.jpg", redirect_with_cookie("/b.jpg", "seen=1; Path=/; HttpOnly", "other=x y", "gone=1; Max-Age=0"))
    scripted.on("/b.jpg", redirect_with_cookie("/c.jpg", "third=\xe4"))
    scripted.on("/c.jpg", OK + b"Set-Cookie: final=1\r\n" + FOUR)
    assert fetch(scripted.url("/a.jpg"), scripted.url("/a.jpg"), scripted.url("/c.jpg")) == [b"four"] * 3
    chain = ["", "seen=1; other=x y", "seen=1; other=x y; third=\xe4"]
    assert cookies_of(scripted) == [*chain, *chain, ""]


def test_a_site_that_sends_a_photo_only_with_its_cookie_gives_it(server: ImageServer) -> None:
    wall = raw(redirect_with_cookie("/a.jpg", "consent=yes"))
    picture = answer(PICTURE)

    async def behave(request: object) -> object:
        return await (picture if request.headers.get("Cookie") == "consent=yes" else wall)(request)  # type: ignore[attr-defined, arg-type]

    assert fetch(server.on("/a.jpg", behave)) == [PICTURE]  # type: ignore[arg-type]


def test_a_cookie_goes_to_the_hosts_and_paths_that_it_is_for(scripted: ScriptedServer) -> None:
    port = scripted.port
    elsewhere = f"http://localhost:{port}"
    scripted.on(
        "/a.jpg",
        redirect_with_cookie(
            "/deep/b.jpg",
            *("all=1; Path=/", "deep=1; Path=/deep", "no=1; Path=/other", "secure=1; Secure; Path=/"),
            *("foreign=1; Domain=example.com; Path=/", "wide=1; Domain=.1; Path=/"),
        ),
    )
    scripted.on("/deep/b.jpg", redirect_with_cookie(f"{elsewhere}/c.jpg"))
    scripted.on("/c.jpg", redirect_with_cookie(f"http://127.0.0.1:{port}/d.jpg", "there=1"))
    scripted.on("/d.jpg", OK + FOUR)
    assert fetch(scripted.url("/a.jpg")) == [b"four"]
    assert [set(each.split("; ")) for each in cookies_of(scripted)] == [{""}, {"deep=1", "all=1"}, {""}, {"all=1"}]


def test_cookies_are_limited_in_size(scripted: ScriptedServer) -> None:
    scripted.on("/a.jpg", redirect_with_cookie("/b.jpg", f"a={'x' * 3000}", f"b={'x' * 3000}", "c=1"))
    scripted.on("/b.jpg", redirect_with_cookie("/c.jpg", f"d={'x' * 2000}"))
    scripted.on("/c.jpg", OK + FOUR)
    assert fetch(scripted.url("/a.jpg")) == [b"four"]
    assert [len(each) for each in cookies_of(scripted)] == [0, 3000 + len("a=; c=1"), 0]


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("b.jpg", "/deep/b.jpg"),
        ("?b=c", "/deep/a.jpg?b=c"),
        ("//{place}/b.jpg", "/b.jpg"),
        ("HTTP://{place}/b.jpg#part", "/b.jpg"),
        ("/\xc3\xa4 b.jpg", "/%C3%A4%20b.jpg"),
        ("/\xe4.jpg", "/%E4.jpg"),
        ("  /b.jpg  ", "/b.jpg"),
    ],
)
def test_a_location_is_read_as_browsers_read_it(scripted: ScriptedServer, location: str, path: str) -> None:
    place = f"127.0.0.1:{scripted.port}"
    scripted.on("/deep/a.jpg", redirect_with_cookie(location.format(place=place)))
    scripted.on(path, OK + FOUR)
    assert fetch(scripted.url("/deep/a.jpg")) == [b"four"]


def test_a_photo_is_fetched_however_its_host_is_written(scripted: ScriptedServer) -> None:
    scripted.on("/a.jpg", OK + FOUR)
    hosts = ("LOCALHOST", "loc%61lhost", "127.0.0.%31", "ann:word@localhost")
    assert fetch(*(f"http://{host}:{scripted.port}/a.jpg" for host in hosts)) == [b"four"] * len(hosts)
