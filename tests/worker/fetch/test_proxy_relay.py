"""The relay that puts a proxy's password into the decoders' requests. The image server plays the proxy."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from benchmarks.photo_server import make_certificates
from common.errors import ResourceExhausted
from common.format.reasons import Reason
from common.proxies import basic_authorization
from tests.connect_proxy import connect_proxy
from tests.image_server import ImageServer, answer, endless, image_server
from tests.worker.fetch.fetching import PICTURE, failure, fetch, fetch_together, get, image_fetcher, worker_settings
from tests.worker.processes import descendants
from worker.fetch import proxy_relay
from worker.fetch.relayed_proxies import RelayedProxies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp import web

HOST = "http://images.example"


@pytest.fixture(autouse=True)
def _no_proxies_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    with image_server() as running:
        running.on("/a.jpg", answer(PICTURE))
        monkeypatch.setenv("HTTP_PROXY", running.origin.replace("://", "://ann:s3%40cret@"))
        yield running


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The side of a server that this process and its children trust."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make certificates")
    authority, certificate, key = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    return context


class Client(socket.socket):
    """A connection to the relay, which does not have the proxy's password."""

    def __init__(self, address: str, *, user: str = "", password: str = "") -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        url = urlsplit(address)
        self.authorization = basic_authorization(user or url.username or "", password or url.password or "")
        self.settimeout(10)
        self.connect((url.hostname, url.port))

    def ask(self, path: str = "/a.jpg", *, start: str = "", headers: str = "") -> None:
        head = f"{start or f'GET {HOST}{path} HTTP/1.1'}\r\nHost: images.example\r\n{headers}"
        self.sendall(f"{head}Proxy-Authorization: {self.authorization}\r\n\r\n".encode())

    def answer_until(self, end: bytes) -> bytes:
        """Return what arrives until it ends with these bytes."""
        answer = b""
        while not answer.endswith(end):
            piece = self.recv(65_536)
            assert piece, "the connection has ended"
            answer += piece
        return answer

    def rest(self) -> bytes:
        """Return everything that still arrives."""
        return b"".join(iter(lambda: self.recv(65_536), b""))


@contextmanager
def relay() -> Iterator[str]:
    """Give the address of the relay to the proxy of the environment."""
    with closing(RelayedProxies(connect_timeout_seconds=5)) as proxies:
        yield proxies.address_for(scheme="http", host="images.example", port=80)


def relay_process() -> int:
    """Return the only relay of this process."""
    (process,) = (
        each for each in descendants(os.getpid()) if b"proxy_relay" in Path(f"/proc/{each}/cmdline").read_bytes()
    )
    return process


@contextmanager
def bare_server(behave: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run a server for one connection, and give its place."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            with listening.accept()[0] as connection:
                behave(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


# Requests that pass


def test_each_request_of_a_connection_reaches_the_proxy_with_the_password(proxy: ImageServer) -> None:
    assert fetch(*[f"{HOST}/a.jpg", f"{HOST}/missing.jpg"] * 5) == [PICTURE, Reason.NOT_FOUND] * 5
    assert len(proxy.requests) == 11
    assert {each.headers["Proxy-Authorization"] for each in proxy.requests} == {basic_authorization("ann", "s3@cret")}
    assert proxy.connection_count == 1


def test_user_and_password_of_the_images_url_pass_unchanged(proxy: ImageServer) -> None:
    assert fetch("http://bob:own@images.example/a.jpg") == [PICTURE]
    assert proxy.requests[-1].headers["Authorization"] == basic_authorization("bob", "own")


def test_an_image_comes_over_tls_through_the_relay_and_a_tunnel_of_the_proxy(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with image_server(tls=tls) as server, connect_proxy("ann", "s3cret") as tunnels:
        monkeypatch.setenv("HTTPS_PROXY", tunnels.url)
        url = server.on("/a.jpg", answer(PICTURE))
        assert fetch(url, url) == [PICTURE, PICTURE]
        assert tunnels.asked_for == [f"127.0.0.1:{server.port}"]
        assert "Proxy-Authorization" not in server.requests[0].headers


def test_the_proxy_itself_may_be_asked_over_tls(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with image_server(tls=tls) as server, connect_proxy("ann", "s3cret", tls=tls) as tunnels:
        monkeypatch.setenv("HTTPS_PROXY", tunnels.url)
        assert fetch(server.on("/a.jpg", answer(PICTURE))) == [PICTURE]
        assert tunnels.asked_for


def test_two_proxies_get_their_own_passwords(
    proxy: ImageServer, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with image_server(tls=tls) as server, connect_proxy("bob", "other") as tunnels:
        monkeypatch.setenv("HTTPS_PROXY", tunnels.url)
        assert fetch(server.on("/a.jpg", answer(PICTURE)), f"{HOST}/a.jpg") == [PICTURE, PICTURE]
        assert tunnels.asked_for
        assert proxy.requests[-1].headers["Proxy-Authorization"] == basic_authorization("ann", "s3@cret")


def test_hundreds_of_connections_are_served_at_once(proxy: ImageServer) -> None:
    release = threading.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        while not release.is_set():
            await asyncio.sleep(0.01)
        return await answer(PICTURE)(request)

    proxy.on("/wait.jpg", wait)
    with relay() as address, ExitStack() as opened:
        clients = [opened.enter_context(Client(address)) for _ in range(400)]
        for client in clients:
            client.ask("/wait.jpg")
        until = time.monotonic() + 20
        while proxy.most_at_once["/wait.jpg"] < 400 and time.monotonic() < until:
            time.sleep(0.02)
        assert proxy.most_at_once["/wait.jpg"] == 400
        release.set()
        for client in clients:
            assert client.answer_until(PICTURE)


def test_a_client_that_has_closed_its_sending_side_still_gets_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer_at_the_end(connection: socket.socket) -> None:
        while connection.recv(65_536):
            pass
        connection.sendall(PICTURE)

    with bare_server(answer_at_the_end) as place:
        monkeypatch.setenv("HTTP_PROXY", f"http://ann:s3cret@{place}")
        with relay() as address, Client(address) as client:
            client.ask()
            client.shutdown(socket.SHUT_WR)
            assert client.rest() == PICTURE


def test_clients_that_do_not_read_cost_little_memory(proxy: ImageServer) -> None:
    proxy.on("/endless", endless())
    with relay() as address, ExitStack() as opened:
        with Client(address) as client:
            client.ask()
            assert client.recv(1)
        before = _resident_bytes(relay_process())
        for _ in range(20):
            opened.enter_context(Client(address)).ask("/endless")
        time.sleep(2)
        assert _resident_bytes(relay_process()) - before < 20 << 20


def _resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Requests that fail


def test_a_proxy_that_refuses_the_password_is_named_for_tunnels_and_for_plain_requests(
    proxy: ImageServer, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.on("/locked.jpg", answer(status=407))
    assert failure(f"{HOST}/locked.jpg").detail.startswith("url: http_error 407")
    with image_server(tls=tls) as server, connect_proxy("ann", "s3cret") as tunnels:
        monkeypatch.setenv("HTTPS_PROXY", tunnels.url.replace("s3cret", "wrong"))
        failed = failure(server.on("/a.jpg", answer(PICTURE)))
        assert tunnels.asked_for == server.requests == []
    assert failed.reason == Reason.CONNECTION_FAILED
    assert "the proxy answered 407" in failed.detail


def test_an_unreachable_proxy_is_no_answer_of_the_images_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        for scheme in ("HTTP", "HTTPS"):
            monkeypatch.setenv(f"{scheme}_PROXY", f"http://ann:s3cret@{place}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        plain, tunnel = failure(f"{HOST}/a.jpg"), failure("https://images.example/a.jpg")
    assert plain.reason == tunnel.reason == Reason.CONNECTION_FAILED
    assert "images.example through the proxy: ECONNRESET" in plain.detail
    assert "the proxy answered 502" in tunnel.detail


def test_a_proxy_that_does_not_accept_in_time_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(2):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        monkeypatch.setenv("HTTP_PROXY", f"http://ann:s3cret@127.0.0.1:{full.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert failure(f"{HOST}/a.jpg", connect_timeout_seconds=1).reason == Reason.CONNECTION_FAILED


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
        time.sleep(0.2)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def end(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for behave, expected in ((end, b"half"), (break_off, Reason.CONNECTION_FAILED)):
        with bare_server(behave) as place:
            monkeypatch.setenv("HTTP_PROXY", f"http://ann:s3cret@{place}")
            assert fetch(f"{HOST}/a.jpg") == [expected]


# What the relay does not pass on


def test_who_does_not_know_the_relays_own_password_cannot_use_it(proxy: ImageServer) -> None:
    with relay() as address:
        for password in ("guessed", "s3@cret"):
            with Client(address, password=password) as client:
                client.ask()
                assert client.rest().startswith(b"HTTP/1.1 407 ")
        assert proxy.requests == []
        with Client(address) as client:
            client.ask()
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "request_line",
    [
        *(f"{method} {HOST}/a.jpg HTTP/1.1" for method in ("TRACE", "POST", "OPTIONS", "get")),
        *("GET /a.jpg HTTP/1.1", "GET https://images.example/ HTTP/1.1", f"GET {HOST}/a.jpg HTTP/1.0"),
        *(f"GET {HOST}/a.jpg", f"GET {HOST}/a b HTTP/1.1", f"GET {HOST}/\n HTTP/1.1", ""),
    ],
)
def test_only_plain_gets_and_tunnels_are_passed_on(proxy: ImageServer, request_line: str) -> None:
    with relay() as address, Client(address) as client:
        client.ask(start=request_line or "\r\n")
        assert client.rest().startswith(b"HTTP/1.1 400 ")
    assert proxy.requests == []


@pytest.mark.parametrize(
    "header",
    [
        *("Content-Length: 90", "content-length:90", "Transfer-Encoding: chunked", "Upgrade: websocket"),
        *("Connection: upgrade", "Expect: 100-continue", "Content-Length : 90", " folded: line", "no colon"),
        *("X: 1\nContent-Length: 90", "Accept: 1\rContent-Length: 90", "Accept: \x00"),
    ],
)
def test_no_request_has_a_body_in_which_the_password_could_reach_a_server(proxy: ImageServer, header: str) -> None:
    with relay() as address, Client(address) as client:
        client.ask(headers=f"{header}\r\n")
        client.ask()
        assert client.rest().startswith(b"HTTP/1.1 400 ")
    assert proxy.requests == []


def test_a_head_without_an_end_is_refused(proxy: ImageServer) -> None:
    with relay() as address, Client(address) as client:
        client.sendall(b"GET http://images.example/" + b"a" * (proxy_relay.MAX_HEAD_BYTES + 1))
        assert client.rest().startswith(b"HTTP/1.1 431 ")
    assert proxy.requests == []


# The process


def test_there_is_no_relay_to_a_proxy_that_needs_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    with relay() as address:
        assert address.rstrip("/") == "http://proxy.example:3128"
        with pytest.raises(ValueError, match="unpack"):
            relay_process()


def test_neither_command_line_nor_environment_of_the_relay_has_the_password(
    proxy: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3%40cret")
    monkeypatch.setenv("TMPDIR", "/tmp/kept")
    with relay() as address, Client(address) as client:
        client.ask()
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        place = Path(f"/proc/{relay_process()}")
        public = place.joinpath("cmdline").read_bytes() + place.joinpath("environ").read_bytes()
    assert b"/tmp/kept" in public
    assert b"cret" not in public
    assert proxy.requests


def test_an_image_is_not_blamed_for_a_relay_that_has_ended(proxy: ImageServer) -> None:
    async def run() -> None:
        async with image_fetcher(worker_settings()) as fetcher:
            assert await get(fetcher, f"{HOST}/a.jpg") == PICTURE
            os.kill(process := relay_process(), signal.SIGKILL)
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
            with pytest.raises(ResourceExhausted, match="relay to the proxy has ended"):
                await get(fetcher, f"{HOST}/a.jpg")

    asyncio.run(run())
    assert proxy.requests


def test_the_relay_ends_when_it_is_closed_even_if_it_is_at_work(proxy: ImageServer) -> None:
    proxy.on("/endless", endless())
    with relay() as address, Client(address) as client:
        client.ask("/endless")
        assert client.recv(1)
        process = relay_process()
    assert not Path(f"/proc/{process}").exists()


def test_the_relay_ignores_ctrl_c(proxy: ImageServer) -> None:
    with relay() as address:
        for _ in range(2):
            with Client(address) as client:
                client.ask()
                assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
            os.kill(relay_process(), signal.SIGINT)
    assert len(proxy.requests) == 2


def test_fetches_at_the_same_time_share_the_relay(proxy: ImageServer) -> None:
    assert fetch_together(*[f"{HOST}/a.jpg"] * 40) == [PICTURE] * 40
    assert proxy.requests
