"""The client that asks an HTTP server for ranges of one URL."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, ResponseError

from common.certificates import client_context, refusal
from common.errors import ManifestError, StoreAccessDenied
from common.logs import redact_url
from common.proxies import EnvironmentProxies
from common.retry import retry_after_seconds
from worker.manifest.places.http_answer import HttpAnswer, HttpFault

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from worker.settings import HttpSettings

MAX_REDIRECTS = 5
"""Number of redirects that are followed for one request."""

_MAY_PASS = {408, 425, 429}
_DENIED = {401, 403, 407, 451}
_NOT_ENCODED = {"", "identity", "aws-chunked"}
"""Values of Content-Encoding that mean plain content. S3 keeps `aws-chunked`, a property of an upload, in the headers
of some objects."""

# urllib3 follows the redirects and does nothing else: its retries do not cover the body.
_REDIRECTS_ONLY = urllib3.Retry(
    total=None,
    connect=0,
    read=0,
    status=0,
    other=0,
    redirect=MAX_REDIRECTS,
    raise_on_status=False,
    respect_retry_after_header=False,
)


class RangeClient:
    """Sends requests for ranges of one URL, each once. User and password in the URL are sent as a header.

    `token` is sent as a bearer token in their place. A redirect to another server goes there without it.
    """

    def __init__(self, uri: str, settings: HttpSettings, *, token: str = "") -> None:
        self.name = redact_url(uri)
        self._retry_after_limit_seconds = settings.retry_after_limit_seconds
        self._url, headers = _split_credentials(uri)
        self.has_credentials = bool(headers or token)
        """Whether requests need a secret that is not in the URL itself."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        headers["User-Agent"] = settings.user_agent_header
        # A range of a compressed transfer would not be a range of the content.
        headers["Accept-Encoding"] = "identity"
        timeout = urllib3.Timeout(connect=settings.connect_timeout_seconds, read=settings.read_timeout_seconds)
        self._pool = _pool(self._url, headers, timeout)

    def get(self, start: int, length: int) -> HttpAnswer:
        """Return the answer to a request for `length` bytes from `start` on, its body not yet read.

        Raises HttpFault when a later request may succeed, StoreAccessDenied when the server denies access,
        CertificateRefused when the server cannot be trusted, and ManifestError when the URL cannot be fetched.
        """
        response = self._request(start, length)
        if response.status in {200, 206, 416}:
            encoding = response.headers.get("Content-Encoding", "")
            if encoding.strip().lower() not in _NOT_ENCODED:
                response.close()
                raise ManifestError(f"{self.name} is sent compressed ({encoding}); store it there uncompressed")
            return HttpAnswer(response, start=start)
        response.close()
        raise self._refusal(response)

    def close(self) -> None:
        """Close the connections that wait for the next request, which opens another one."""
        self._pool.clear()

    def _request(self, start: int, length: int) -> BaseHTTPResponse:
        try:
            return self._pool.request(
                "GET",
                self._url,
                headers={**self._pool.headers, "Range": f"bytes={start}-{start + length - 1}"},
                preload_content=False,
                retries=_REDIRECTS_ONLY,
            )
        except LocationValueError as error:
            raise ManifestError(
                f"{self.name} is not a URL that can be fetched, or redirects to one that cannot; give an http:// or "
                "https:// URL"
            ) from error
        except MaxRetryError as error:
            if isinstance(error.reason, ResponseError):
                raise ManifestError(f"{self.name} redirects more than {MAX_REDIRECTS} times") from error
            # The error's own text shows the URL's path and query. The reason does not.
            raise refusal(error, self.name) or HttpFault(str(error.reason)) from error
        except HTTPError as error:
            raise refusal(error, self.name) or HttpFault(type(error).__name__) from error

    def _refusal(self, response: BaseHTTPResponse) -> Exception:
        status = response.status
        if status in {404, 410}:
            return ManifestError(f"{self.name} does not exist (HTTP {status}); is its URL right?")
        if status in _DENIED:
            return StoreAccessDenied(
                f"{self.name} may not be read (HTTP {status}); are its credentials right and valid?"
            )
        if status in _MAY_PASS or status >= 500:
            return HttpFault(f"HTTP {status}", asked_seconds=self._asked_seconds(response))
        return ManifestError(f"{self.name} cannot be fetched: HTTP {status}")

    def _asked_seconds(self, response: BaseHTTPResponse) -> float:
        asked = retry_after_seconds(response.headers.get("Retry-After", ""))
        return min(asked, self._retry_after_limit_seconds)


def _pool(url: str, headers: dict[str, str], timeout: urllib3.Timeout) -> urllib3.PoolManager:
    """Return the connections to the URL's host, through the environment's proxy if it has one for the URL."""
    try:
        proxy = EnvironmentProxies().proxy_for_url(url)
    except ValueError as error:
        raise _unusable_url(url) from error
    context = client_context()
    if proxy is None:
        return urllib3.PoolManager(maxsize=1, headers=headers, timeout=timeout, ssl_context=context)
    return urllib3.ProxyManager(
        proxy.address,
        maxsize=1,
        headers=headers,
        timeout=timeout,
        ssl_context=context,
        proxy_ssl_context=context,
        proxy_headers={"Proxy-Authorization": proxy.authorization} if proxy.authorization else None,
    )


def _split_credentials(uri: str) -> tuple[str, dict[str, str]]:
    """Return the URL without user and password, and the header that carries them."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise _unusable_url(uri) from error
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return uri, {}
    return parts._replace(netloc=host).geturl(), urllib3.make_headers(basic_auth=unquote(user))


def _unusable_url(uri: str) -> ManifestError:
    return ManifestError(f"{redact_url(uri)} is not a URL that can be fetched; give an http:// or https:// URL")
