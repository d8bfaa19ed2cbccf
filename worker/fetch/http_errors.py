"""Turns an HTTP status, or an error of aiohttp, into the failure of an image."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING

import aiohttp

from common.errors import ResourceExhausted
from common.format.reasons import Reason
from common.retry import retry_after_seconds
from worker.fetch.failures import NotAsked, Unanswered
from worker.fetch.resolvers import ForbiddenAddress
from worker.rows import ImageFailed

if TYPE_CHECKING:
    from yarl import URL

REDIRECTS = {301, 302, 303, 307, 308}
MAY_PASS = {407, 408, 425, 429, 500, 502, 503, 504, 511}
"""The statuses after which the same request may succeed later."""

REQUEST_ERRORS = (aiohttp.ClientError, OSError, ForbiddenAddress)
"""The errors that a request raises. TimeoutError is an OSError, and aiohttp.InvalidURL is a ClientError."""

_REASONS = {
    404: Reason.NOT_FOUND,
    410: Reason.NOT_FOUND,
    401: Reason.ACCESS_DENIED,
    403: Reason.ACCESS_DENIED,
    451: Reason.ACCESS_DENIED,
    429: Reason.RATE_LIMITED,
}

_NO_SUCH_HOST = {socket.EAI_NONAME, socket.EAI_NODATA}
_LIMITS_OF_THIS_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def check_status(response: aiohttp.ClientResponse) -> None:
    """Raise ImageFailed, or Unanswered if the status may pass, unless the answer's status is 200."""
    status = response.status
    if status == 200:
        return
    reason = _REASONS.get(status) or (Reason.SERVER_ERROR if status >= 500 else Reason.HTTP_ERROR)
    if status not in MAY_PASS:
        raise ImageFailed(reason, str(status))
    wait = retry_after_seconds(response.headers.get("Retry-After", ""))
    raise Unanswered(reason, str(status), may_pass=True, retry_after_seconds=wait)


def failure_of(error: Exception, url: URL) -> ImageFailed | ResourceExhausted:
    """Return what one of REQUEST_ERRORS means: for the image, or for the chunk if this machine is at its limits."""
    host = url.raw_host
    match error:
        case aiohttp.InvalidURL():
            return NotAsked(Reason.INVALID_URL, "its host cannot be asked")
        case ForbiddenAddress():
            return NotAsked(Reason.FORBIDDEN_HOST, str(error))
        case TimeoutError():
            return Unanswered(Reason.TIMEOUT, f"{host} {_which_timeout(error)}", may_pass=True)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorDNSError():
            return _no_connection(error, host)
        case _ if getattr(error, "errno", None) in _LIMITS_OF_THIS_MACHINE:
            return ResourceExhausted(f"no connection could be opened: {error}; lower EMBEDDER_FETCH_CONCURRENCY")
        case _:
            return Unanswered(Reason.CONNECTION_FAILED, f"{host}: {_what_broke(error)}", may_pass=True)


def _no_connection(
    error: aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorDNSError, host: str | None
) -> Unanswered:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or "not valid"
        return Unanswered(Reason.CONNECTION_FAILED, f"the certificate of {host}: {why}", may_pass=False)
    if error.os_error.errno in _NO_SUCH_HOST:
        return Unanswered(Reason.CONNECTION_FAILED, f"no such host: {host}", may_pass=False)
    return Unanswered(Reason.CONNECTION_FAILED, f"{host} cannot be resolved now", may_pass=True)


def _which_timeout(error: TimeoutError) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "was not connected in time"
    return "sent nothing for too long" if isinstance(error, aiohttp.SocketTimeoutError) else "took too long"


def _what_broke(error: Exception) -> str:
    # The error's own text is not used: it may contain the whole URL, or bytes of a hostile server.
    match error:
        case aiohttp.ClientPayloadError():
            return "the answer broke off"
        case aiohttp.ServerDisconnectedError():
            return "closed the connection without an answer"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case aiohttp.ClientResponseError():
            return "the answer is not HTTP"
        case ssl.SSLError() | aiohttp.ClientSSLError():
            return "TLS failed"
        case _:
            return errno.errorcode.get(getattr(error, "errno", None) or 0, "the connection failed")
