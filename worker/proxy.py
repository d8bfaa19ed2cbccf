"""The proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), read once.

HTTP libraries can read them too. But some read them for each request, or send passwords from ~/.netrc to the hosts in
the list of images.
"""

from __future__ import annotations

import base64
from urllib.request import getproxies_environment, proxy_bypass

from yarl import URL

from common.errors import SettingsError
from common.logs import redact_url


class EnvironmentProxies:
    """Raises SettingsError if the environment names a proxy that is not an http or https URL."""

    def __init__(self) -> None:
        environment = getproxies_environment()
        self._proxies = {scheme: _proxy(scheme, environment.get(scheme, "")) for scheme in ("http", "https")}
        self._is_direct = not any(self._proxies.values())

    def proxy_for(self, *, scheme: str, host: str, port: int) -> URL | None:
        """Return the proxy for a request to a server, None for a direct connection."""
        if self._is_direct or proxy_bypass(f"{host}:{port}"):
            return None
        return self._proxies[scheme]

    def with_password(self) -> list[URL]:
        """Return the proxies that want a user or a password, each once."""
        return [proxy for proxy in dict.fromkeys(self._proxies.values()) if proxy and (proxy.user or proxy.password)]


def basic_authorization(user: str, password: str) -> str:
    """Return the header value that carries a user and a password (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _proxy(scheme: str, value: str) -> URL | None:
    if not value:
        return None
    try:
        url = URL(value if "://" in value else f"http://{value}")
        if url.scheme in {"http", "https"} and url.host:
            return url
    except ValueError:
        pass
    shown = redact_url(value if "://" in value else f"http://{value}")
    raise SettingsError(f"{scheme.upper()}_PROXY is {shown!r}; give an http:// or https:// URL")
