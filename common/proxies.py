"""The proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), read once.

Every connection of a program asks here. The libraries read these variables too, but each reads NO_PROXY in its own way:
some know no networks, some look names up, and some send passwords from ~/.netrc to the hosts in the list of images.
"""

from __future__ import annotations

import base64
import ipaddress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies_environment

from common.errors import SettingsError
from common.logs import redact_url

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REMEMBERED = 4096
"""Number of servers whose proxy is remembered. The decision takes several microseconds, and a list asks the same few
hosts for millions of images."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


class Proxy(NamedTuple):
    """One proxy."""

    scheme: str
    """How the proxy itself is reached: `http` or `https`."""
    host: str
    """The name or the IP address, without brackets."""
    port: int
    user: str = ""
    password: str = ""

    @property
    def url(self) -> str:
        """The URL with user and password, which is a secret."""
        if not self.authorization:
            return self.address
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return self.address.replace("://", f"://{login}@", 1)

    @property
    def address(self) -> str:
        """The URL without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def authorization(self) -> str:
        """The value of the header Proxy-Authorization, an empty text if the proxy wants none."""
        return basic_authorization(self.user, self.password) if self.user or self.password else ""


class NoProxy:
    """The servers that are reached without a proxy, as the text of NO_PROXY names them.

    The entries are separated by commas or blanks. The letter case does not matter.

        *                       every server
        example.com             this name and all names below it; .example.com and *.example.com mean the same
        10.1.2.3, [fd00::1]     this address; IPv6 may be written with or without brackets
        10.0.0.0/8, fd00::/8    the addresses of this network
        example.com:8080        only this port; an address may have a port too

    Addresses and networks match URLs whose host is written as an address. No name is looked up, as in curl and Go.
    """

    def __init__(self, text: str) -> None:
        self._is_everything = False
        self._names: dict[str, set[int | None]] = {}
        self._addresses: dict[Address, set[int | None]] = {}
        self._networks: list[Network] = []
        for entry in text.lower().replace(",", " ").split():
            self._add(entry)

    def _add(self, entry: str) -> None:
        if entry == "*":
            self._is_everything = True
            return
        if "/" in entry:
            network = _network(entry)
            if network is not None:
                self._networks.append(network)
            return
        host, port = _host_and_port(entry)
        address = _address(host)
        if address is not None:
            self._addresses.setdefault(address, set()).add(port)
        elif name := host.removeprefix("*").strip("."):
            self._names.setdefault(name, set()).add(port)

    def matches(self, host: str, port: int) -> bool:
        """Return whether the server is reached without a proxy. The host may have brackets."""
        if self._is_everything:
            return True
        host = host.lower().strip("[]").rstrip(".")
        address = _address(host)
        if address is not None:
            ports = self._addresses.get(address, set())
            return bool(ports & {None, port}) or any(address in network for network in self._networks)
        while host:
            if self._names.get(host, set()) & {None, port}:
                return True
            host = host.partition(".")[2]
        return False


class EnvironmentProxies:
    """The proxies as the environment names them now. A variable in lower case goes before the same one in upper case.

    ALL_PROXY counts for each scheme that has no proxy of its own. Raises SettingsError if the environment names a proxy
    that is not an http or https URL.
    """

    def __init__(self) -> None:
        environment = getproxies_environment()
        self._proxies = {scheme: _proxy_of(scheme, environment) for scheme in ("http", "https")}
        self._no_proxy = NoProxy(environment.get("no", ""))
        self.is_direct = not any(self._proxies.values())
        """Whether the environment names no proxy at all."""
        self._remembered = lru_cache(REMEMBERED)(self._decide)

    def proxy_for(self, *, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy for a request to a server, None for a direct connection."""
        return None if self.is_direct else self._remembered(scheme, host, port)

    def proxy_for_url(self, url: str) -> Proxy | None:
        """Return the proxy for a request to an http or https URL, None for a direct connection."""
        if self.is_direct:
            return None
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        return self.proxy_for(scheme=parts.scheme, host=parts.hostname or "", port=port)

    def with_password(self) -> list[Proxy]:
        """Return the proxies that want a user or a password, each once."""
        return [proxy for proxy in dict.fromkeys(self._proxies.values()) if proxy and proxy.authorization]

    def _decide(self, scheme: str, host: str, port: int) -> Proxy | None:
        return None if self._no_proxy.matches(host, port) else self._proxies[scheme]


def basic_authorization(user: str, password: str) -> str:
    """Return the header value that carries a user and a password (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _proxy_of(scheme: str, environment: dict[str, str]) -> Proxy | None:
    for name in (scheme, "all"):
        if value := environment.get(name, "").strip():
            return parse_proxy(value, variable=f"{name.upper()}_PROXY")
    return None


def parse_proxy(value: str, *, variable: str) -> Proxy:
    """Return the proxy that a variable names. Without a scheme it is reached over http. Raises SettingsError."""
    text = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(text)
        if parts.scheme in _DEFAULT_PORTS and parts.hostname:
            port = parts.port or _DEFAULT_PORTS[parts.scheme]
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            return Proxy(parts.scheme, parts.hostname, port, user, password)
    except ValueError:
        pass
    raise SettingsError(f"{variable} is {redact_url(text)!r}; give an http:// or https:// URL")


def _host_and_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        host, port = entry, ""
    return host, int(port) if port.isdecimal() else None


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(entry: str) -> Network | None:
    """Return the network, None for a text that is none, which other programs may understand."""
    try:
        return ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None
