"""The proxies that the environment names. The image server plays the proxy: it answers for any absolute URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from yarl import URL

from common.errors import SettingsError
from common.format.reasons import Reason
from tests.image_server import ImageServer, answer, image_server
from tests.worker.fetch.fetching import PICTURE, fetch
from worker.proxy import EnvironmentProxies

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    with image_server() as running:
        running.on("/a.jpg", answer(PICTURE))
        for name in ("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "REQUEST_METHOD"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", running.origin.replace("://", "://ann:s3cret@"))
        yield running


def test_images_come_through_the_proxy_which_resolves_the_names_itself(proxy: ImageServer) -> None:
    assert fetch("http://does-not-exist.invalid/a.jpg", allow_private_hosts=False) == [PICTURE]
    request = proxy.requests[0]
    assert request.headers["Host"] == "does-not-exist.invalid"
    assert request.headers["Proxy-Authorization"].startswith("Basic ")


def test_a_direct_request_does_not_change_where_the_next_one_goes(
    proxy: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with image_server() as direct:
        url = direct.on("/a.jpg", answer(b"direct"))
        assert fetch(url, "http://images.example/a.jpg", url) == [b"direct", PICTURE, b"direct"]
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "[::1]", "169.254.169.254", "2130706433", "localhost", "minio", "minio.storage.svc"),
        *("minio.storage.svc.cluster.local.", "metadata.google.internal", "printer.local", "images.example:8080"),
    ],
)
def test_a_proxy_is_not_asked_for_an_internal_address(proxy: ImageServer, host: str) -> None:
    assert fetch(f"http://{host}/a.jpg", allow_private_hosts=False) == [Reason.FORBIDDEN_HOST]
    assert proxy.requests == []


def test_a_host_that_needs_no_proxy_is_checked_like_any_direct_connection(
    proxy: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert fetch("http://localhost/a.jpg", allow_private_hosts=False) == [Reason.FORBIDDEN_HOST]
    with image_server() as direct:
        assert fetch(direct.on("/b.jpg", answer(b"direct"))) == [b"direct"]
    assert proxy.requests == []


def test_a_proxy_without_an_http_url_is_a_settings_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("socks5://ann:s3cret@proxy.example:1080", "http://", "http://[::1"):
        monkeypatch.setenv("HTTPS_PROXY", wrong)
        with pytest.raises(SettingsError, match="HTTPS_PROXY") as caught:
            EnvironmentProxies()
        assert "s3cret" not in str(caught.value)


def test_a_proxy_may_be_given_without_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    proxies = EnvironmentProxies()
    assert proxies.proxy_for(scheme="https", host="images.example", port=443) == URL("http://proxy.example:3128")
