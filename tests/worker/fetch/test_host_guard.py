"""The hosts that a list from the internet may reach, and those that it may not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.format.reasons import Reason
from common.store.s3.client import clear_clients
from tests.image_server import ImageServer, answer, image_server, redirect
from tests.worker.fetch.fetching import PICTURE, failure, fetch, get, image_fetcher, worker_settings
from worker.fetch.failures import NotAsked
from worker.fetch.public_address import is_public_address
from worker.fetch.resolvers import KEPT_SECONDS, Addresses, ThreadedResolver

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        running.on("/a.jpg", answer(PICTURE))
        yield running


class Names:
    """Answers each question with the next list of addresses, and repeats the last list."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "address",
    [
        *(
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
        ),
        *(
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "168.63.129.16",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
        ),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "fc00::1", "fd00::1", "fd00:ec2::254"),
        *("fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "3fff::1", "5f00::1", "2000::1%eth0"),
        *("", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", " 8.8.8.8", "8.8.8.8 "),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1", "172.15.255.255"),
        *("172.32.0.0", "169.253.255.255", "192.167.255.255", "223.255.255.255", "2606:4700::1111", "2a00:1450::1"),
        "64:ff9b::808:808",
    ],
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public_address(address)


@settings(deadline=None, max_examples=200)
@given(st.ip_addresses())
def test_no_address_is_public_that_the_standard_library_calls_private(address: object) -> None:
    if getattr(address, "is_private", False) or getattr(address, "is_multicast", False):
        assert not is_public_address(str(address)) or str(address).startswith("64:ff9b::")


FORBIDDEN = [
    *("http://127.0.0.1/a", "http://[::1]/a", "https://169.254.169.254/latest/meta-data", "http://[fd00:ec2::254]/a"),
    *("http://2130706433/a", "http://127.1/a", "http://0x7f.1/a", "http://0177.0.0.1/a", "http://0x7f000001/a"),
    *("http://127.0.0.1./a", "http://0/a", "http://①②⑦.⓪.⓪.①/a", "http://127。0。0。1/a", "http://[::ffff:7f00:1]/a"),
    *("http://[::ffff:169.254.169.254]/a", "http://[64:ff9b::127.0.0.1]/a", "http://10.0.0.1:80/a"),
    *("http://user:password@127.0.0.1/a", "http://images.example@127.0.0.1/a", "HTTP://127.0.0.1/a"),
    *("http://8.8.8.8@127.0.0.1:80/a", "http://@127.0.0.1/a", "http://08.8.8.8/a", "http://0x/a", "http://127.1./a"),
    *(
        "http://localhost/a",
        "http://\u217cocalhost/a",
        "http://localhost\u3002/a",
        "http://minio/a",
        "http://minio.storage.svc/a",
    ),
    *(
        "http://%31%32%37.0.0.1/a",
        "http://127%2E0.0.1/a",
        "http://%6cocalhost/a",
        "http://metadata%2Egoogle.internal/a",
    ),
    *("http://metadata.google.internal/a", "http://kubernetes.default.svc.cluster.local/a", "http://printer.lan/a"),
    *("http://8.8.8.8:22/a", "https://images.example:8443/a", "http://images.example:6379/a"),
]


@pytest.mark.parametrize("url", FORBIDDEN)
def test_an_internal_address_or_an_unusual_port_is_refused_in_every_notation(url: str) -> None:
    assert fetch(url, allow_private_hosts=False) == [Reason.FORBIDDEN_HOST]


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///a", "http:a", "http:/a", "http://:80/a", "http://a..b/", "http://.a/", "http://a b/"),
        *(
            "http://a.example:\uff18\uff10/",
            "http://a.example:+80/",
            "http://a.example:80:81/",
            "http://127.0.0.1%00.example/",
        ),
        *(
            "http:\\\\127.0.0.1/",
            "http:///127.0.0.1/",
            "http://ex\u00adample.com/",
            "http://xn--/",
        ),
        *(
            "http://a%2fb/",
            "http://a%40b/",
            "http://a%/",
            "http://%ff/",
            "http://a\\@127.0.0.1/",
            "http://a:port/",
            "http://a:99999/",
        ),
        *(
            "http://a:0/",
            "http://[::1/",
            "http://[1]/",
            "http://[fe80::1%25eth0]/",
            "http://-a-/",
            f"http://{'a' * 64}.b/",
        ),
        *("ftp://a.example/b", "file:///etc/passwd", "gopher://a/", "javascript:alert(1)", "data:image/png;base64,AA"),
        *("//a.example/b", "/etc/passwd", "a.jpg", "http://a.example/\n", "http://a.example/\x00", "\ud800"),
        *(
            "http://a.example/\ud800",
            "http://\ud800/",
            "http://a.example/\x7f",
            "http://a.example/\r\nHost: b",
            "s3://",
        ),
    ],
)
def test_a_text_that_is_not_the_url_of_an_image_is_invalid(url: str) -> None:
    assert fetch(url, allow_private_hosts=False) == [Reason.INVALID_URL]


def test_a_url_of_a_megabyte_is_a_failed_image_like_any_other() -> None:
    assert fetch(f"http://{'a' * 1_000_000}/", allow_private_hosts=False) == [Reason.INVALID_URL]
    assert fetch(f"http://images.example/{'a' * 1_000_000}", allow_private_hosts=False) == [Reason.INVALID_URL]


def test_the_detail_of_a_hostile_url_is_short_and_printable() -> None:
    for url in (f"http://127.0.0.1/{'a' * 10_000}", f"{'x' * 10_000}://a", "http://a/\x1b[31m", "\ud800"):
        detail = failure(url, allow_private_hosts=False).detail
        assert len(detail) < 200
        assert detail.isprintable()
        assert detail.isascii()


def test_a_name_that_resolves_to_an_internal_address_is_refused(server: ImageServer) -> None:
    async def run(*addresses: str) -> bytes | Reason:
        names = Names(list(addresses))
        limits = worker_settings(allow_private_hosts=False, fetch_attempts=3)
        async with image_fetcher(limits, resolver=names) as fetcher:
            outcome = await get(fetcher, "http://images.example/a.jpg")
            assert names.asked == ["images.example"]
            return outcome

    for addresses in (["127.0.0.1"], ["10.0.0.1"], ["fd00::1"], ["::ffff:127.0.0.1"], ["8.8.8.8", "127.0.0.1"]):
        assert asyncio.run(run(*addresses)) == Reason.FORBIDDEN_HOST
    assert server.requests == []


def test_localhost_is_refused_with_the_systems_own_resolver() -> None:
    urls = ["http://localhost/a", "http://LOCALHOST/a", "https://localhost/a"]
    assert fetch(*urls, allow_private_hosts=False) == [Reason.FORBIDDEN_HOST] * 3


def test_a_redirect_to_an_internal_address_is_refused(server: ImageServer) -> None:
    # The mirror is trusted, so that the first request is allowed and only the redirect is checked.
    targets = [
        *FORBIDDEN[:4],
        "//127.0.0.1/a",
        "http://localhost/a",
        "http://metadata.google.internal./a",
        FORBIDDEN[-1],
    ]
    with image_server() as inside:
        targets.append(inside.on("/a", answer(PICTURE)))
        for number, target in enumerate(targets):
            url = server.on(f"/{number}", redirect(target))
            outcome = fetch(url, allow_private_hosts=False, mirror_url=server.origin)
            assert outcome[0] in {Reason.FORBIDDEN_HOST, Reason.CONNECTION_FAILED}, target
        assert inside.requests == []


def test_a_redirect_from_the_mirror_to_itself_is_followed(server: ImageServer) -> None:
    url = server.on("/b.jpg", redirect("/a.jpg"))
    assert fetch(url, allow_private_hosts=False, mirror_url=f"{server.origin}/copy") == [PICTURE]


def test_the_connection_goes_to_the_address_that_was_checked(server: ImageServer) -> None:
    # A name that changes between the check and the connection does no harm, because it is resolved once for both.
    names = Names(["127.0.0.1"], ["192.0.2.1"])

    async def run() -> bytes | Reason:
        async with image_fetcher(worker_settings(), resolver=names) as fetcher:
            return await get(fetcher, f"http://images.example:{server.port}/a.jpg")

    assert asyncio.run(run()) == PICTURE
    assert names.asked == ["images.example"]
    assert server.requests[0].headers["Host"] == f"images.example:{server.port}"


def test_each_answer_of_the_name_server_is_checked() -> None:
    now = [0.0]

    async def run() -> None:
        names = Names(["8.8.8.8"], ["127.0.0.1"])
        addresses = Addresses(names, timeout_seconds=10, clock=lambda: now[0])
        for _ in range(3):
            assert await addresses.of("rebinding.example", is_guarded=True) == ("8.8.8.8",)
        assert names.asked == ["rebinding.example"]
        now[0] += KEPT_SECONDS
        with pytest.raises(NotAsked, match=r"rebinding\.example resolves to 127\.0\.0\.1"):
            await addresses.of("rebinding.example", is_guarded=True)

    asyncio.run(run())


def test_the_systems_resolver_finds_this_machine() -> None:
    async def run() -> list[str]:
        resolver = ThreadedResolver()
        found = await resolver.resolve("localhost")
        await resolver.close()
        return found

    assert set(asyncio.run(run())) <= {"127.0.0.1", "::1"}


def test_internal_hosts_are_reached_if_the_operator_allows_or_names_them(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url("/a.jpg")
    assert fetch(url, allow_private_hosts=True) == [PICTURE]
    assert fetch(url, allow_private_hosts=False) == [Reason.FORBIDDEN_HOST]
    assert fetch(url, allow_private_hosts=False, mirror_url=server.origin) == [PICTURE]
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.origin)
    assert fetch(url, allow_private_hosts=False) == [PICTURE]
    assert fetch(url.replace("127.0.0.1", "localhost"), allow_private_hosts=False) == [Reason.FORBIDDEN_HOST]


def test_international_names_are_resolved_in_their_ascii_form(server: ImageServer) -> None:
    names = Names(["127.0.0.1"])

    async def run() -> bytes | Reason:
        async with image_fetcher(worker_settings(), resolver=names) as fetcher:
            return await get(fetcher, f"http://Bücher.example:{server.port}/a.jpg")

    assert asyncio.run(run()) == PICTURE
    assert names.asked == ["xn--bcher-kva.example"]


@pytest.mark.parametrize(
    "written",
    [
        "http://127.0.0.1:80@images.example/a.jpg",
        "http://images.example/a.jpg?@127.0.0.1/",
        "http://images.example/a.jpg#@127.0.0.1/",
    ],
)
def test_a_host_in_another_part_of_the_url_is_not_asked(written: str) -> None:
    names = Names(["10.0.0.1"])

    async def run() -> bytes | Reason:
        limits = worker_settings(allow_private_hosts=False)
        async with image_fetcher(limits, resolver=names) as fetcher:
            return await get(fetcher, written)

    assert asyncio.run(run()) == Reason.FORBIDDEN_HOST
    assert names.asked == ["images.example"]


@pytest.mark.parametrize(
    "written",
    [
        *(
            "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/name/a.jpg",
            "s3://bucket@127.0.0.1/a",
            "s3://127.0.0.1:80/a",
        ),
        *(
            "s3://../a",
            "s3://a/",
            "s3://\u24d0bucket/a",
            "s3://-bucket/a",
            "s3:bucket/a",
            "s3://bucket%2f/a",
            "s3:///a",
        ),
    ],
)
def test_an_object_needs_a_plain_bucket_name_and_a_key(written: str, s3_environment: dict[str, str]) -> None:
    assert s3_environment
    assert fetch(written, allow_private_hosts=False) == [Reason.INVALID_URL]


@pytest.mark.parametrize(
    "bucket", ["169.254.169.254", "evil.example", "a..b", "xn--bucket", "name--x-s3", "BUCKET", "a_b"]
)
def test_no_bucket_name_leads_to_another_host_than_the_endpoint(
    server: ImageServer, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.origin)
    clear_clients()
    try:
        (outcome,) = fetch(f"s3://{bucket}/a.jpg", allow_private_hosts=False)
    finally:
        clear_clients()
    assert outcome in {Reason.NOT_FOUND, Reason.INVALID_URL}
    assert all(request.headers["Host"] == server.origin.removeprefix("http://") for request in server.requests)
