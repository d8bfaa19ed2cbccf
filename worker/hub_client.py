"""The connections of the Hugging Face hub's client, which go as all connections of this program do."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from huggingface_hub import constants, get_session, set_client_factory

from common.certificates import client_context, is_configured
from common.proxies import EnvironmentProxies


class _Transport:
    """Sends each request of the hub's client directly or through a proxy, as all connections of this program go.

    The hub redirects to other hosts, so the decision is made for each request. `http` is the HTTP library of the hub's
    client, whose transports have these methods.
    """

    def __init__(self, http: Any) -> None:  # noqa: ANN401 - a module that changes with the client's major releases
        self._http = http
        self._context = client_context()
        self._proxies = EnvironmentProxies()
        self._transports: dict[object, Any] = {}

    def handle_request(self, request: Any) -> Any:  # noqa: ANN401 - as above
        proxy = self._proxies.proxy_for_url(str(request.url))
        if proxy not in self._transports:
            through = None
            if proxy is not None:
                login = (proxy.user, proxy.password) if proxy.authorization else None
                context = self._context if proxy.scheme == "https" else None
                through = self._http.Proxy(proxy.address, auth=login, ssl_context=context)
            self._transports[proxy] = self._http.HTTPTransport(verify=self._context, trust_env=False, proxy=through)
        return self._transports[proxy].handle_request(request)

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()

    def __enter__(self) -> _Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def hub_http_library() -> Any:  # noqa: ANN401 - as above
    """Return the HTTP library of the hub's client, which makes its connections as this program does from then on."""
    client = get_session()
    http = import_module(type(client).__module__.partition(".")[0])
    if is_configured() or not EnvironmentProxies().is_direct:
        hooks, timeout = client.event_hooks, client.timeout
        set_client_factory(
            lambda: http.Client(
                transport=_Transport(http), trust_env=False, follow_redirects=True, event_hooks=hooks, timeout=timeout
            )
        )
        # The other protocol of the hub has a client of its own, which cannot be given certificates.
        constants.HF_HUB_DISABLE_XET = True
    return http
