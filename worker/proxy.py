"""The proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), read once.

aiohttp can read them too, but it reads them for each request, in a thread, and it sends passwords from ~/.netrc to the
hosts in the list of images.
"""

from __future__ import annotations

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
