"""Single requests, as a decoder makes them: connections, addresses, certificates, and odd answers."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from common.format.reasons import Reason
from tests.certificates import Certificates
from tests.image_server import answer, endless, image_server
from tests.scripted_server import ScriptedServer, Then, deaf_address, scripted_server
from tests.worker.fetch.fetching import failure, fetch, worker_settings
from tests.worker.fetch.thread_transport import Image, ThreadTransport
from worker.fetch.byte_budget import ByteBudget, Reservation
from worker.fetch.transfer import DRAIN_SECONDS, TransferLimits
from worker.fetch.transfers import SPARE_CONNECTIONS, Transfers
from worker.fetch.transport import Answered, Broken, Get, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\n"
FOUR = OK + b"Content-Length: 4\r\n\r\nfour"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

PHOTOS_EXAMPLE = "photos.example"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


def request(url: str, **changed: Any) -> Get:  # noqa: ANN401 - the fields' own types
    parts = urlsplit(url)
    order = Get(
        url=url,
        host=parts.hostname or "",
        port=parts.port or {"http": 80, "https": 443}[parts.scheme],
        addresses=(),
        is_guarded=False,
        proxy="",
        is_probe=False,
        rotation=0,
        granted_bytes=1 << 20,
    )
    return order._replace(**changed)


def ask(*orders: Get, **changed: Any) -> list[bytes | Answered | Broken]:  # noqa: ANN401 - any setting
    """Make the requests one after the other, and return their bodies or how they ended."""

    async def run() -> list[bytes | Answered | Broken]:
        async with ThreadTransport(worker_settings(**changed)) as transport:
            return [await _outcome(transport, order) for order in orders]

    return asyncio.run(asyncio.wait_for(run(), 30))


async def _outcome(transport: ThreadTransport, order: Get) -> bytes | Answered | Broken:
    reservation = None
    if not order.is_probe:
        reservation = Reservation(ByteBudget(1 << 40), most_bytes=1 << 30)
        await reservation.take(order.granted_bytes)
    found = await transport.get(order, reservation)
    return found.data if isinstance(found, Image) else found


def seconds_of(order: Get, **changed: Any) -> tuple[float, bytes | Answered | Broken]:  # noqa: ANN401 - any setting
    """Return how long a request takes, and how it ends."""
    began = time.monotonic()
    (outcome,) = ask(order, **changed)
    return time.monotonic() - began, outcome


def kind(outcome: bytes | Answered | Broken) -> tuple[Verdict, Reason]:
    assert isinstance(outcome, Broken)
    return outcome.verdict, outcome.reason


FORBIDDEN = Verdict.NOT_ASKED, Reason.FORBIDDEN_HOST
FAILED = Verdict.MAY_PASS, Reason.CONNECTION_FAILED
TOO_LATE = Verdict.MAY_PASS, Reason.TIMEOUT


# Connections and addresses


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_a_guarded_request_opens_no_socket_to_an_internal_address_even_if_the_address_was_given(
    server: ScriptedServer, address: str
) -> None:
    server.on("/a.jpg", FOUR)
    order = request(f"http://{PHOTOS_EXAMPLE}:{server.port}/a.jpg", addresses=(address,), is_guarded=True)
    assert kind(*ask(order)) == FORBIDDEN
    assert kind(*ask(request(server.url("/a.jpg"), is_guarded=True))) == FORBIDDEN
    assert server.connection_count == 0


def test_a_guarded_request_without_addresses_does_not_look_its_host_up(server: ScriptedServer) -> None:
    (outcome,) = ask(request(f"http://localhost:{server.port}/a.jpg", is_guarded=True))
    assert isinstance(outcome, Broken)
    assert server.connection_count == 0


def test_a_guarded_request_shares_no_connection_with_a_trusted_one_to_the_same_server(server: ScriptedServer) -> None:
    server.on("/a.jpg", FOUR)
    trusted = request(f"http://{PHOTOS_EXAMPLE}:{server.port}/a.jpg", addresses=("127.0.0.1",))
    outcomes = ask(trusted, trusted, trusted._replace(is_guarded=True), trusted)
    assert outcomes[:2] == [b"four", b"four"]
    assert kind(outcomes[2]) == FORBIDDEN
    assert outcomes[3] == b"four"
    assert server.connection_count == 1


def test_no_request_goes_to_the_server_of_the_request_before_it(server: ScriptedServer) -> None:
    server.on("/a.jpg", OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nfour", then=Then.CLOSE)
    with scripted_server() as other:
        other.on("/a.jpg", OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nother", then=Then.CLOSE)
        other.on("http://third.example/a.jpg", FOUR)
        here = request(f"http://{PHOTOS_EXAMPLE}:{server.port}/a.jpg", addresses=("127.0.0.1",))
        there = request(f"http://other.example:{other.port}/a.jpg", addresses=("127.0.0.1",))
        guarded = there._replace(is_guarded=True)
        through_a_proxy = request("http://third.example/a.jpg", proxy=other.origin)
        outcomes = ask(here, there, here, guarded, here, through_a_proxy, here, guarded, there)
    assert [each for each in outcomes if isinstance(each, bytes)] == [
        *(b"four", b"other", b"four", b"four", b"four", b"four", b"other")
    ]
    assert [kind(each) for each in outcomes if isinstance(each, Broken)] == [FORBIDDEN] * 2


@pytest.mark.parametrize("dead", ["127.0.0.3", "::1"])
def test_a_hosts_other_addresses_are_tried_if_the_first_refuses(server: ScriptedServer, dead: str) -> None:
    server.on("/a.jpg", FOUR)
    url = f"http://{PHOTOS_EXAMPLE}:{server.port}/a.jpg"
    assert ask(request(url, addresses=(dead, "127.0.0.1"))) == [b"four"]
    assert kind(*ask(request(url, addresses=(dead, "127.0.0.4")))) == FAILED


def test_a_hosts_other_addresses_are_tried_if_the_first_does_not_answer(server: ScriptedServer) -> None:
    server.on("/a.jpg", FOUR)
    with deaf_address(server.port) as (deaf, port):
        url = f"http://{PHOTOS_EXAMPLE}:{port}/a.jpg"
        assert ask(request(url, addresses=(deaf, "127.0.0.1")), connect_timeout_seconds=5) == [b"four"]
        took, outcome = seconds_of(request(url, addresses=(deaf,)), connect_timeout_seconds=1)
    assert kind(outcome) == TOO_LATE
    assert isinstance(outcome, Broken)
    assert outcome.detail == f"{PHOTOS_EXAMPLE} was not connected in time"
    assert 0.9 < took < 5


def test_the_addresses_of_an_earlier_request_to_the_same_name_are_not_used(server: ScriptedServer) -> None:
    server.on("/a.jpg", OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nfour", then=Then.CLOSE)
    order = request(f"http://{PHOTOS_EXAMPLE}:{server.port}/a.jpg", addresses=("127.0.0.1",))
    outcomes = ask(order, order._replace(addresses=("127.0.0.3",)), order)
    assert (outcomes[0], kind(outcomes[1]), outcomes[2]) == (b"four", FAILED, b"four")


def test_a_connection_that_the_server_has_closed_meanwhile_costs_no_request(server: ScriptedServer) -> None:
    url = server.on("/a.jpg", FOUR, then=Then.CLOSE)
    assert ask(*[request(url)] * 5) == [b"four"] * 5
    assert server.connection_count == 5


def test_idle_connections_do_not_pile_up_where_a_list_has_many_hosts(server: ScriptedServer) -> None:
    server.on("/a.jpg", FOUR)

    async def run() -> tuple[int, int]:
        async with ThreadTransport(worker_settings()) as transport:
            found = []
            for number in range(3 * SPARE_CONNECTIONS):
                url = f"http://host{number}.example:{server.port}/a.jpg"
                assert await _outcome(transport, request(url, addresses=("127.0.0.1",))) == b"four"
                found.append(_connections_to(server.port))
            return max(found), found[-1]

    most, last = asyncio.run(run())
    assert SPARE_CONNECTIONS // 2 < last <= most <= SPARE_CONNECTIONS + 2


def _connections_to(port: int) -> int:
    """Return the number of established connections whose server has this port, by the kernel's table."""
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123 - no file
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(remote.endswith(f":{port:04X}") and state == "01" for _, _, remote, state, *_ in rows)


def test_waiting_for_an_answer_takes_no_cpu_time(server: ScriptedServer) -> None:
    # A descriptor that is closed while it is watched would be reported again and again.
    url = server.on("/slow.jpg", b"", FOUR, pause_seconds=1.5)
    name = f"http://{PHOTOS_EXAMPLE}:{server.port}/slow.jpg"
    before = time.process_time()
    assert ask(request(name, addresses=("127.0.0.3", "::1", "127.0.0.1")), request(url)) == [b"four"] * 2
    assert time.process_time() - before < 0.5


# Odd answers


HINTS = b"HTTP/1.1 103 Early Hints\r\nContent-Length: 99999999999\r\nLocation: /b\r\n\r\n"
TRAILERS = b"0\r\nHTTP/1.1 404: x\r\nContent-Length: 99999999999\r\n\r\n"
COMPRESSED = b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\0"
UNDERSTOOD: dict[str, tuple[list[bytes], Then]] = {
    "100": ([b"HTTP/1.1 100 Continue\r\n\r\n" + FOUR], Then.KEEP),
    "103 with the headers of another answer": ([HINTS * 3, FOUR], Then.KEEP),
    "trailers": ([OK + CHUNKED + b"4\r\nfour\r\n" + TRAILERS], Then.KEEP),
    "only trailers": ([OK + CHUNKED + TRAILERS], Then.KEEP),
    "a header like a status line": ([OK + b"HTTP/1.1: 100\r\nContent-Length: 4\r\n\r\nfour"], Then.KEEP),
    "no length and a close": ([OK + b"\r\nfo", b"ur"], Then.CLOSE),
    "Connection: close": ([OK + b"Connection: close\r\nContent-Length: 4\r\n\r\nfour"], Then.CLOSE),
    "HTTP/1.0": ([b"HTTP/1.0 200 OK\r\n\r\nfour"], Then.CLOSE),
    "compressed with gzip": ([OK + COMPRESSED], Then.KEEP),
    "compressed with br": ([OK + b"Content-Encoding: br\r\nContent-Length: 4\r\n\r\nfour"], Then.KEEP),
    "a length of 5,000 zeros": ([OK + b"Content-Length: " + b"0" * 5000 + b"4\r\n\r\nfour"], Then.CLOSE),
    "byte by byte": ([bytes([byte]) for byte in FOUR], Then.KEEP),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_an_odd_answer_is_understood(server: ScriptedServer, name: str) -> None:
    pieces, then = UNDERSTOOD[name]
    body = {"only trailers": b"", "compressed with gzip": b"\x1f\x8b\x08\0"}.get(name, b"four")
    url = server.on("/a.jpg", *pieces, then=then, pause_seconds=0.01)
    probe = request(url, is_probe=True, granted_bytes=0)
    assert ask(request(url), request(url), probe) == [body, body, Answered(200, "", "", 0)]
    assert server.connection_count == (3 if then is Then.CLOSE else 1)


NOT_HTTP: dict[str, bytes] = {
    "HTTP/0.9": b"four",
    "HTML without headers": b"<html>" + b"x" * 100_000,
    "no final answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a line without a colon": OK + b"HTTP/1.1 404 no\r\nContent-Length: 4\r\n\r\nfour",
    "two lengths": OK + b"Content-Length: 4\r\nContent-Length: 6\r\n\r\nfour66",
    "compressed for the transfer": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
    "a broken chunk": OK + CHUNKED + b"zz\r\nfour",
    "a zero byte in a header": b"HTTP/1.1 302 No\r\nLocation: /a\0b\r\nContent-Length: 0\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 4\r\n\r\nfour",
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_may_pass(server: ScriptedServer, name: str) -> None:
    assert kind(*ask(request(server.on("/a.jpg", NOT_HTTP[name], then=Then.CLOSE)))) == FAILED


def test_an_answer_that_leaves_http_is_no_image_and_no_probe_asks_for_its_bytes(server: ScriptedServer) -> None:
    url = server.on("/a.jpg", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + bytes(9000), then=Then.CLOSE)
    found, probed = ask(request(url, granted_bytes=10), request(url, is_probe=True, granted_bytes=0))
    assert isinstance(found, Answered)
    assert found.status == 101
    assert probed == Answered(101, "", "", 0)
    assert fetch(url) == [Reason.HTTP_ERROR]


def test_a_body_in_chunks_of_a_few_bytes_takes_little_more_memory_than_its_size(server: ScriptedServer) -> None:
    bodies: list[list[bytes]] = []

    class Bodies:
        def need(self, job: int, size: int, *, is_first: bool) -> None:  # noqa: ARG002 - as a Sink
            transfers.grant(job, size)

        def fetched(self, job: int, pieces: list[bytes]) -> None:  # noqa: ARG002 - as above
            bodies.append(pieces)

        def ended(self, job: int, outcome: Answered | Broken) -> None:
            raise AssertionError((job, outcome))

    limits = TransferLimits(
        connect_seconds=5, read_seconds=20, request_seconds=50, max_bytes=1 << 20, user_agent="test"
    )
    transfers = Transfers(limits, Bodies())
    transfers.start(0, request(server.on("/a.jpg", OK + CHUNKED, b"2\r\nab\r\n" * 20_000, b"0\r\n\r\n")))
    while not bodies:
        transfers.run_once(longest_pause_seconds=1)
    transfers.close()
    assert b"".join(bodies[0]) == b"ab" * 20_000
    assert sum(map(sys.getsizeof, bodies[0])) < 1.1 * 40_000


def test_a_chunked_body_is_limited_whatever_length_its_headers_claim(server: ScriptedServer) -> None:
    piece = b"1000\r\n" + bytes(4096) + b"\r\n"
    url = server.on("/a.jpg", OK + b"Content-Length: 4\r\n" + CHUNKED, piece, then=Then.REPEAT)
    (outcome,) = ask(request(url, granted_bytes=100), max_image_bytes=100_000)
    assert kind(outcome) == (Verdict.FINAL, Reason.TOO_LARGE)
    assert isinstance(outcome, Broken)
    assert outcome.received_bytes <= 100_000


def test_an_absurd_length_is_too_large(server: ScriptedServer) -> None:
    url = server.on("/a.jpg", OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nfour", then=Then.CLOSE)
    assert kind(*ask(request(url))) == (Verdict.FINAL, Reason.TOO_LARGE)


def test_a_refusals_trailers_and_body_are_not_taken_for_an_image(server: ScriptedServer) -> None:
    chunk, trailers = b"4\r\nfour\r\n", b"0\r\nHTTP/1.1 200: x\r\nLocation: /b\r\nRetry-After: 9\r\n\r\n"
    url = server.on("/a.jpg", b"HTTP/1.1 404 Not Found\r\n" + CHUNKED + chunk + trailers)
    assert ask(request(url), request(url)) == [Answered(404, "", "", 4)] * 2
    assert server.connection_count == 1


# Answers without an image


def test_the_body_of_a_refusal_is_read_if_it_is_short_so_that_its_connection_is_kept() -> None:
    with image_server() as server:
        url = server.on("/gone.jpg", answer(b"<html>" * 2000, status=404))
        outcomes = ask(*[request(url)] * 5)
        assert outcomes == [Answered(404, "", "", 12_000)] * 5
        assert server.connection_count == 1


def test_a_refusal_whose_body_does_not_end_is_an_answer_within_a_second(server: ScriptedServer) -> None:
    refusal = b"HTTP/1.1 404 Not Found\r\n"
    endings = {
        "endless": server.on("/endless", refusal + b"\r\n", bytes(5000), then=Then.REPEAT),
        "stalled": server.on("/stalled", refusal + b"Content-Length: 9\r\n\r\nfour", then=Then.STALL),
        "nothing": server.on("/nothing", refusal + b"Content-Length: 9\r\n\r\n", then=Then.STALL),
        "dripping": server.on("/dripping", refusal + b"\r\n", *[b"x"] * 40, then=Then.STALL, pause_seconds=0.1),
        "long": server.on("/long", refusal + b"Content-Length: 9999999\r\n\r\n" + bytes(999_999), then=Then.STALL),
    }
    for url in endings.values():
        took, outcome = seconds_of(request(url))
        assert isinstance(outcome, Answered), url
        assert outcome.status == 404
        assert took < DRAIN_SECONDS + 0.5
    with image_server() as other:
        url = other.on("/chunked", endless())  # for an answer of 200 it is too large
        assert kind(*ask(request(url))) == (Verdict.FINAL, Reason.TOO_LARGE)


def test_location_and_retry_after_are_reported_unchanged(server: ScriptedServer) -> None:
    headers = b"location: /%c3%A4?b=\xc3\xa4\xff \r\nRETRY-AFTER:  17\r\nContent-Length: 0\r\n\r\n"
    url = server.on("/a.jpg", b"HTTP/1.1 302 Found\r\n" + headers)
    assert ask(request(url)) == [Answered(302, "/%c3%A4?b=\u00e4\udcff", "17", 0)]


# The request line


@pytest.mark.parametrize("target", ["/a%2fb%2Fc%c3%A4?x=%7e%7E", "/%41?%41=%zz", "/a/../b/./c//", "/?a=b?c&d", "/%"])
def test_percent_encoded_letters_stay_as_they_are_written_directly_and_through_a_proxy(
    server: ScriptedServer, target: str
) -> None:
    server.on(target, FOUR)
    assert ask(request(server.url(target))) == [b"four"]
    assert server.lines == [f"GET {target} HTTP/1.1"]
    url = f"http://{PHOTOS_EXAMPLE}{target}"
    server.on(url, FOUR)
    assert ask(request(url, proxy=server.origin)) == [b"four"]
    assert server.lines[1:] == [f"GET {url} HTTP/1.1"]


def test_a_url_that_libcurl_does_not_take_is_a_failed_image() -> None:
    for url in ("http://", "gopher://photos.example/", "http://a b/", "http://[::1/", "http://a:99999/"):
        assert kind(*ask(request("http://127.0.0.1:9/")._replace(url=url)))[0] is not Verdict.MACHINE, url


# Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def test_an_authority_that_the_operator_names_is_trusted(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_server(tls=certificates.server()) as server:
        server.on("/a.jpg", FOUR)
        url = f"https://localhost:{server.port}/a.jpg"
        assert "unable to get local issuer certificate" in failure(url, fetch_attempts=4).detail
        assert server.connection_count == 1
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        assert fetch(url, url, url) == [b"four"] * 3
        assert server.connection_count == 2


@pytest.mark.parametrize(
    ("host", "days", "why"),
    [
        ("other.example", 9, "it is for another host"),
        ("localhost", -1, "certificate has expired"),
        ("", 9, "self-signed certificate; EMBEDDER_CA_BUNDLE can name its authority"),
    ],
)
def test_a_certificate_that_is_not_valid_is_named_and_its_host_is_not_asked_again(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, host: str, days: int, why: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    tls = certificates.server(host=host, days=days) if host else certificates.self_signed_server()
    with scripted_server(tls=tls) as server:
        failed = failure(f"https://localhost:{server.port}/a.jpg", fetch_attempts=4)
        assert failed.reason == Reason.CONNECTION_FAILED
        assert f"the certificate of localhost: {why}" in failed.detail
        assert failed.detail.endswith("; EMBEDDER_VERIFY_IMAGE_CERTIFICATES=false fetches images without this check")
        assert server.connection_count == 1
        assert server.requests == []


def test_trusted_certificates_that_cannot_be_read_are_this_machines_fault(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "broken.pem"))
    with scripted_server(tls=certificates.server()) as server:
        (outcome,) = ask(request(f"https://localhost:{server.port}/a.jpg"))
    assert isinstance(outcome, Broken)
    assert outcome.verdict is Verdict.MACHINE
    assert "SSL_CERT_FILE" in outcome.detail


def test_a_host_may_be_written_with_a_dot_at_its_end(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    with scripted_server(tls=certificates.server()) as server:
        server.on("/a.jpg", FOUR)
        order = request(f"https://localhost.:{server.port}/a.jpg", addresses=("127.0.0.1",))
        assert ask(order, order) == [b"four"] * 2


def test_a_certificate_that_is_not_valid_is_accepted_only_by_requests_that_do_not_check_it(
    certificates: Certificates,
) -> None:
    with scripted_server(tls=certificates.server(host="other.example", days=-1)) as server:
        server.on("/a.jpg", FOUR)
        checked = request(f"https://localhost:{server.port}/a.jpg", addresses=("127.0.0.1",))
        unchecked = checked._replace(checks_certificate=False)
        outcomes = ask(unchecked, unchecked, checked, unchecked, checked)
        assert outcomes[:2] == [b"four"] * 2
        assert outcomes[3] == b"four"
        for outcome in (outcomes[2], outcomes[4]):  # although a connection to the server is open
            assert kind(outcome) == (Verdict.WILL_NOT_PASS, Reason.CONNECTION_FAILED)
        assert len(server.requests) == 3


def test_the_setting_leaves_out_the_check_for_images_and_not_for_objects_of_the_store(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_server(tls=certificates.server()) as server:
        server.on("/a.jpg", FOUR)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"https://localhost:{server.port}")
        url, other = f"https://localhost:{server.port}/a.jpg", "s3://bucket/a.jpg"
        found = fetch(url, other, url, verify_image_certificates=False)
        assert found == [b"four", Reason.CONNECTION_FAILED, b"four"]
        assert fetch(url) == [Reason.CONNECTION_FAILED]


# Time limits


def test_the_time_to_connect_includes_the_handshake_of_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/a.jpg"
        took, outcome = seconds_of(request(url), connect_timeout_seconds=0.5, read_timeout_seconds=20)
    assert kind(outcome) == TOO_LATE
    assert 0.4 < took < 3


@pytest.mark.parametrize("pieces", [[], [OK], [OK + b"Content-Length: 4\r\n\r\n"], [OK + b"\r\n", b"f"]])
def test_a_gap_in_an_answer_is_as_long_as_the_read_timeout_at_most(server: ScriptedServer, pieces: list[bytes]) -> None:
    url = server.on("/a.jpg", *pieces, then=Then.STALL, pause_seconds=0.3)
    took, outcome = seconds_of(request(url), read_timeout_seconds=0.5)
    assert kind(outcome) == TOO_LATE
    assert isinstance(outcome, Broken)
    assert outcome.detail == "127.0.0.1 sent nothing for too long"
    assert 0.4 < took < 3


def test_pieces_that_come_in_time_are_waited_for_up_to_the_time_of_the_whole_request(server: ScriptedServer) -> None:
    announced, unknown = OK + b"Content-Length: 20\r\n\r\n", OK + b"Connection: close\r\n\r\n"
    for head in (announced, unknown):
        check_pieces(server.on("/a.jpg", head, *[b"x"] * 20, then=Then.CLOSE, pause_seconds=0.1), whole=2)


def check_pieces(url: str, *, whole: float) -> None:
    assert ask(request(url), read_timeout_seconds=0.5, fetch_timeout_seconds=whole + 5) == [b"x" * 20]
    took, outcome = seconds_of(request(url), read_timeout_seconds=0.5, fetch_timeout_seconds=whole / 3)
    assert isinstance(outcome, Broken)
    assert outcome.detail == "127.0.0.1 took too long"
    assert whole / 3 < took < whole


@pytest.mark.parametrize("is_chunked", [False, True])
def test_the_time_in_which_a_body_waits_for_memory_counts_for_no_limit(is_chunked: bool) -> None:
    head = OK + (CHUNKED if is_chunked else b"Content-Length: 1000000\r\n\r\n")
    body = [b"7A120\r\n" + bytes(500_000) + b"\r\n"] * 2 + [b"0\r\n\r\n"] if is_chunked else [bytes(500_000)] * 2

    async def run(server: ScriptedServer) -> None:
        url = server.on("/a.jpg", head, *body)
        budget = ByteBudget(2_000_000)
        limits = {"read_timeout_seconds": 0.4, "fetch_timeout_seconds": 0.8}
        async with ThreadTransport(worker_settings(max_image_bytes=1_500_000, **limits)) as transport:
            await budget.reserve(1_900_000)
            reservation = Reservation(budget, most_bytes=1_500_000)
            await reservation.take(100_000)
            waiting = asyncio.create_task(transport.get(request(url, granted_bytes=100_000), reservation))
            await asyncio.sleep(2)
            assert not waiting.done()
            budget.release(1_900_000)
            found = await waiting
            assert isinstance(found, Image)
            assert found.data == bytes(1_000_000)

    with scripted_server() as server:
        asyncio.run(asyncio.wait_for(run(server), 30))
