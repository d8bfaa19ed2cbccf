"""NO_PROXY, ALL_PROXY and the letter cases, as all connections read them."""

from __future__ import annotations

import pytest

from common.errors import SettingsError
from common.proxies import EnvironmentProxies, NoProxy, Proxy

PROXY = Proxy("http", "proxy.example", 3128)


@pytest.fixture(autouse=True)
def _no_proxies_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)


@pytest.mark.parametrize(
    ("entry", "direct", "through_proxy"),
    [
        ("*", ["a.example", "10.0.0.1", "::1"], []),
        ("example.com", ["example.com", "EXAMPLE.com.", "a.b.example.com"], ["badexample.com", "example.com.evil.org"]),
        (".example.com", ["example.com", "a.example.com"], ["badexample.com"]),
        ("*.example.com", ["example.com", "a.example.com"], ["badexample.com"]),
        ("Example.COM.", ["example.com"], ["com"]),
        ("minio", ["minio"], ["minio.storage"]),
        ("10.0.0.0/8", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.1", "10.example", "localhost"]),
        ("10.96.0.0/255.240.0.0", ["10.96.0.1"], ["10.128.0.1"]),
        ("10.1.2.3/8", ["10.200.0.1"], ["11.0.0.1"]),
        ("fd00::/8", ["fd12::1", "[fd12::1]"], ["fe80::1", "::1"]),
        ("[fd00::]/8", ["fd12::1"], ["fe80::1"]),
        ("::1", ["::1", "[::1]", "0:0:0:0:0:0:0:1"], ["::2"]),
        ("[::1]", ["::1"], ["::2"]),
        ("fe80::1", ["fe80::1%eth0"], []),
        ("127.0.0.1", ["127.0.0.1"], ["localhost", "127.0.0.2", "a.127.0.0.1"]),
        ("no such/thing,,  ,:", [], ["a.example", "10.0.0.1"]),
    ],
)
def test_an_entry_of_no_proxy_names_servers(entry: str, direct: list[str], through_proxy: list[str]) -> None:
    rules = NoProxy(entry)
    assert [host for host in direct if not rules.matches(host, 443)] == []
    assert [host for host in through_proxy if rules.matches(host, 443)] == []


@pytest.mark.parametrize("host", ["store.example", "10.0.0.1", "[::1]"])
def test_an_entry_with_a_port_names_one_server(host: str) -> None:
    rules = NoProxy(f"other.example, {host}:9000")
    assert rules.matches(host, 9000)
    assert not rules.matches(host, 443)
    assert NoProxy(f"{host}:9000 {host}").matches(host, 443)


def test_entries_may_be_separated_by_commas_and_blanks() -> None:
    rules = NoProxy("a.example b.example,c.example , 10.0.0.0/8")
    assert all(rules.matches(host, 443) for host in ("a.example", "b.example", "c.example", "10.0.0.1"))


def decision(host: str, *, scheme: str = "https") -> Proxy | None:
    return EnvironmentProxies().proxy_for(scheme=scheme, host=host, port=443)


def test_the_variables_count_in_both_letter_cases_and_lower_case_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://upper.example:1")
    monkeypatch.setenv("NO_PROXY", "a.example")
    assert decision("b.example") == Proxy("http", "upper.example", 1)
    assert decision("a.example") is None
    monkeypatch.setenv("https_proxy", PROXY.address)
    monkeypatch.setenv("no_proxy", "b.example")
    assert decision("a.example") == PROXY
    assert decision("b.example") is None


def test_all_proxy_is_for_schemes_without_a_proxy_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "https://ann:s%40cret@[fd00::1]")
    monkeypatch.setenv("HTTP_PROXY", PROXY.address)
    assert decision("a.example", scheme="http") == PROXY
    found = decision("a.example")
    assert found == Proxy("https", "fd00::1", 443, "ann", "s@cret")
    assert (found.address, found.url) == ("https://[fd00::1]:443", "https://ann:s%40cret@[fd00::1]:443")
    monkeypatch.setenv("ALL_PROXY", "socks5://ann:secret@proxy.example:1080")
    with pytest.raises(SettingsError, match="ALL_PROXY") as caught:
        EnvironmentProxies()
    assert "secret" not in str(caught.value)


def test_a_url_is_asked_for_by_its_host_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY.address)
    monkeypatch.setenv("NO_PROXY", "10.96.0.0/12,[fd00::1]:6443,store.example:443")
    proxies = EnvironmentProxies()
    for url in ("https://10.96.0.1:443", "https://[fd00::1]:6443/", "https://store.example/a?b"):
        assert proxies.proxy_for_url(url) is None, url
    for url in ("https://10.112.0.1:443", "https://[fd00::1]", "https://store.example:9000"):
        assert proxies.proxy_for_url(url) == PROXY, url
    assert proxies.proxy_for_url("http://10.112.0.1/") is None  # HTTP_PROXY is not set
