"""What a host sends and nobody can read is its own fault: never the network's, and no reason to try the chunk again."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from common.errors import SourceUnavailable
from common.format.reasons import Reason
from tests.certificates import Certificates
from tests.image_server import answer, image_server
from tests.scripted_server import Then, scripted_server
from tests.worker.fetch.fetching import get, image_fetcher, worker_settings
from tests.worker.images import encoded, photo
from tests.worker.pipelines import run_pipeline
from worker.failure_report import ImagesFailed
from worker.fetch.admission import Admission, Admit, HostGivenUp
from worker.fetch.circuit import FAILURES_TO_OPEN
from worker.fetch.failures import Unanswered
from worker.rows import ImageFailed, Row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\n"

NONSENSE: dict[str, tuple[bytes, str]] = {
    "another protocol": (b"SSH-2.0-server\r\n", "the answer is not HTTP"),
    "a page without headers": (b"<html>" + b"x" * 9000, "the answer is not HTTP"),
    "HTTP/2 that nobody asked for": (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x80", "the answer is not HTTP"),
    "an alert of TLS": (b"\x15\3\3\0\2\2\x28", "the answer is not HTTP"),
    "another version": (b"HTTP/7 200 OK\r\n\r\n", "the answer is not HTTP"),
    "garbage before the first line": (b"xx\r\n" + OK + b"Content-Length: 4\r\n\r\nfour", "the answer is not HTTP"),
    "a length that is no number": (OK + b"Content-Length: four\r\n\r\nfour", "the answer is not HTTP"),
    "a line without a colon": (OK + b"nonsense\r\nContent-Length: 4\r\n\r\nfour", "the answer is not HTTP"),
    "a coding for the transfer": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "the answer is not HTTP"),
    "a chunk without a size": (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nfour", "the answer is not HTTP"),
    "large headers": (OK + b"X: " + b"x" * 200_000 + b"\r\n\r\n", "its headers are too large"),
    "no answer after an interim one": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2", "the answer broke off"),
    "half the headers": (OK + b"Content-Le", "the answer broke off"),
    "half a picture": (OK + b"Content-Length: 9\r\n\r\nfour", "the answer broke off"),
    "half the chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nfour", "the answer broke off"),
}


def only_image(url: str) -> ImageFailed:
    """Fetch the only image of a run, and return its failure. Raises SourceUnavailable if the network is blamed."""

    async def run() -> ImageFailed:
        async with image_fetcher(worker_settings(fetch_attempts=2, source_patience_seconds=1)) as fetcher:
            with pytest.raises(ImageFailed) as caught:
                await fetcher.fetch(Row(position=0, url=url))
            return caught.value

    return asyncio.run(asyncio.wait_for(run(), 20))


@contextmanager
def tls_server(sent: bytes) -> Iterator[str]:
    """Yield an https URL whose server answers the first message of TLS with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, suppress(OSError):
                        connection.recv(65_536)
                        connection.sendall(sent)

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}/a.jpg"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("name", NONSENSE)
def test_a_host_that_answers_nonsense_is_no_sign_of_a_dead_network(name: str) -> None:
    sent, what = NONSENSE[name]
    with scripted_server() as server:
        failed = only_image(server.on("/a.jpg", sent, then=Then.CLOSE))
        assert failed.reason == Reason.CONNECTION_FAILED
        assert failed.detail.endswith(f"127.0.0.1: {what} after 2 attempts")
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the answer is not TLS"),
        (b"SSH-2.0-server\r\n", "the answer is not TLS"),
        (bytes(50), "the answer is not TLS"),
        (b"\x15\3\3\0\2\2\x28", "TLS failed"),
    ],
)
def test_a_host_that_does_not_speak_tls_is_no_sign_of_a_dead_network(sent: bytes, what: str) -> None:
    with tls_server(sent) as url:
        assert only_image(url).detail.endswith(f"127.0.0.1: {what} after 2 attempts")


@pytest.mark.slow
def test_a_host_that_sends_nothing_may_be_unreachable() -> None:
    with scripted_server() as server, pytest.raises(SourceUnavailable):
        only_image(server.on("/a.jpg", b"", then=Then.CLOSE))


def test_a_host_with_an_invalid_certificate_is_no_sign_of_a_dead_network(tmp_path: Path) -> None:
    with scripted_server(tls=Certificates(tmp_path).server()) as server:
        failed = only_image(server.url("/a.jpg"))
    assert "EMBEDDER_VERIFY_IMAGE_CERTIFICATES=false" in failed.detail


@pytest.mark.slow
def test_when_the_network_dies_after_nonsense_no_image_of_another_host_is_blamed() -> None:
    async def run() -> None:
        with scripted_server() as odd, image_server() as good:
            bad, picture = odd.on("/a.jpg", NONSENSE["another protocol"][0]), good.on("/a.jpg", answer(b"x"))
            settings = worker_settings(fetch_attempts=1, source_patience_seconds=1)
            async with image_fetcher(settings) as fetcher:
                assert [await get(fetcher, bad), await get(fetcher, picture)] == [Reason.CONNECTION_FAILED, b"x"]
                await asyncio.to_thread(good.stop)
                with pytest.raises(SourceUnavailable):
                    await get(fetcher, picture)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_host_that_answers_nonsense_is_given_up_and_the_network_is_not() -> None:
    now = 0.0
    admission = Admission(patience_seconds=5, clock=lambda: now)
    nonsense = Unanswered(Reason.CONNECTION_FAILED, "no HTTP", may_pass=True, is_hosts_fault=True)
    for _ in range(3 * FAILURES_TO_OPEN):
        admission.decide("odd.example")
        admission.note_failure("odd.example", nonsense)
        admission.note_end("odd.example")
        now += 1
        admission.check_network()
        assert isinstance(admission.decide("other.example"), Admit)
        admission.note_end("other.example")
    now -= 1
    assert isinstance(admission.decide("odd.example"), HostGivenUp)
    assert admission.network.has_answered_since(now)


@pytest.mark.parametrize("name", ["another protocol", "half a picture", "large headers", "a certificate"])
def test_a_chunk_of_a_host_that_answers_nonsense_ends_with_65_and_says_so(name: str, tmp_path: Path) -> None:
    tls = Certificates(tmp_path).server() if name == "a certificate" else None
    sent, what = NONSENSE.get(name, (b"", "EMBEDDER_VERIFY_IMAGE_CERTIFICATES=false"))
    with scripted_server(tls=tls) as server:
        urls = [server.on(f"/{number}.jpg", sent, then=Then.CLOSE) for number in range(2 * FAILURES_TO_OPEN)]
        with pytest.raises(ImagesFailed) as caught:
            run_pipeline(urls, decoders=1, fetch_attempts=1, source_patience_seconds=1, max_failure_ratio=0.9)
    assert not caught.value.is_unanswered  # so the chunk ends with 65 and not with 75
    sentence = caught.value.report.sentence()
    assert "connection_failed" in sentence
    assert what in sentence


@pytest.mark.slow
def test_a_chunk_whose_hosts_are_all_gone_ends_with_75() -> None:
    with image_server() as gone:
        urls = [gone.url(f"/{number}.jpg") for number in range(2 * FAILURES_TO_OPEN)]
    with pytest.raises(SourceUnavailable):
        run_pipeline(urls, decoders=1, fetch_attempts=1, source_patience_seconds=1, max_failure_ratio=0.9)


def test_a_compressed_picture_and_one_behind_a_cookie_are_embedded_by_real_decoders() -> None:
    with scripted_server() as server:
        body = gzip.compress(encoded(photo(), "JPEG"))
        head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
        server.on("/wall", b"HTTP/1.1 302 No\r\nSet-Cookie: a=\xe4\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n")
        outcome = run_pipeline([server.on("/a", head + body), server.url("/wall")], decoders=2)
        assert outcome.failures == {}
        assert b"Cookie: a=\xe4" in b"".join(server.requests)
