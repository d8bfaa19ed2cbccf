"""Turns an error of libcurl into what it means for an image. Only this module reads libcurl's codes."""

from __future__ import annotations

import errno
import re
from typing import Any

import pycurl

from common.format.reasons import Reason
from worker.fetch.transport import Broken, Verdict

_LIMITS_OF_THIS_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_CURLE_PROXY = 97
_CURLE_TOO_LARGE = 100

_NOT_HTTP = {
    pycurl.E_UNSUPPORTED_PROTOCOL,
    pycurl.E_FTP_WEIRD_SERVER_REPLY,
    pycurl.E_HTTP2,
    pycurl.E_BAD_CONTENT_ENCODING,
    pycurl.E_TOO_MANY_REDIRECTS,
    pycurl.E_BAD_FUNCTION_ARGUMENT,
    _CURLE_TOO_LARGE,
}
"""8 is CURLE_WEIRD_SERVER_REPLY, which pycurl calls after FTP. 43 is what libcurl says of a body that cannot be read
when a paused request goes on, as of chunks without a size. 100 says that headers are beyond libcurl's limits: 100 KB
for one, 5,000 in number. For more than 300 KB of headers together it has the code of a connection that broke."""

_BREAKS = {pycurl.E_GOT_NOTHING, pycurl.E_RECV_ERROR}

_TLS = {
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_CERTPROBLEM,
    pycurl.E_SSL_INVALIDCERTSTATUS,
    pycurl.E_SSL_ISSUER_ERROR,
}

_REFUSAL = re.compile(r".*(?:certificate problem|verify result): | \(\d+\)$")
"""What surrounds OpenSSL's sentence about a certificate."""

_NOT_A_MATTER_OF_TRUST = {0, 1, 9, 10, 62, 64}
"""OpenSSL's verdicts on certificates that are out of date or for another host (X509_V_ERR_..., x509_vfy.h). 0 and 1: it
has no verdict, because libcurl compares the host itself."""

_TRUST_REMEDY = "; EMBEDDER_CA_BUNDLE can name its authority"
_CHECK_REMEDY = "; EMBEDDER_VERIFY_IMAGE_CERTIFICATES=false fetches images without this check"

_TLS_SPOKEN = re.compile(r"error:0A00(?!0126)")
"""OpenSSL's errors about what a server has sent, other than that it has sent nothing more."""

_NOT_TLS = re.compile(r"error:0A00(?:010B|00C6|009C|009B|00F4)")
"""OpenSSL's errors about data that is no TLS: a wrong version or length, HTTP, or an unexpected message."""


def broken_by(curl: Any, code: int, message: str, *, host: str) -> Broken:  # noqa: ANN401 - a pycurl.Curl; one return for each kind
    """Return what the error `code` of a request to `host` means. Raises MemoryError for a lack of memory."""
    match code:
        case pycurl.E_OUT_OF_MEMORY:
            raise MemoryError
        case pycurl.E_URL_MALFORMAT:
            return Broken(Verdict.NOT_ASKED, Reason.INVALID_URL, "its host cannot be asked", 0)
        case pycurl.E_OPERATION_TIMEDOUT:
            return Broken(Verdict.MAY_PASS, Reason.TIMEOUT, f"{host} was not connected in time", 0)
        case pycurl.E_PEER_FAILED_VERIFICATION:
            return _untrusted(curl, message, host=host)
        case pycurl.E_SSL_CACERT_BADFILE:
            detail = "the trusted certificates cannot be read; check SSL_CERT_FILE"
            return Broken(Verdict.MACHINE, Reason.CONNECTION_FAILED, detail, 0)
    number = curl.getinfo(pycurl.OS_ERRNO)
    if number in _LIMITS_OF_THIS_MACHINE and code == pycurl.E_COULDNT_CONNECT:
        detail = f"no connection could be opened: {errno.errorcode[number]}; lower EMBEDDER_FETCH_CONCURRENCY"
        return Broken(Verdict.MACHINE, Reason.CONNECTION_FAILED, detail, 0)
    fault = _fault_of_host(curl, code, message, number)
    detail = f"{host}: {fault or _what_broke(curl, code, number)}"
    return Broken(Verdict.MAY_PASS, Reason.CONNECTION_FAILED, detail, 0, is_hosts_fault=bool(fault))


def _untrusted(curl: Any, message: str, *, host: str) -> Broken:  # noqa: ANN401 - as above
    remedy = "" if curl.getinfo(pycurl.SSL_VERIFYRESULT) in _NOT_A_MATTER_OF_TRUST else _TRUST_REMEDY
    detail = f"the certificate of {host}: {_why_refused(message)}{remedy}"
    if curl.getinfo(pycurl.PROXY_SSL_VERIFYRESULT):  # the proxy's own certificate, which is always checked
        return Broken(Verdict.WILL_NOT_PASS, Reason.CONNECTION_FAILED, detail, 0)
    return Broken(Verdict.WILL_NOT_PASS, Reason.CONNECTION_FAILED, f"{detail}{_CHECK_REMEDY}", 0, is_hosts_fault=True)


def _fault_of_host(curl: Any, code: int, message: str, number: int) -> str:  # noqa: ANN401 - as above
    """Return what is wrong with what the host has sent, an empty text if the network may be at fault."""
    has_spoken = curl.getinfo(pycurl.STARTTRANSFER_TIME) > 0
    if not _has_reached_host(curl):
        return ""
    if code == _CURLE_TOO_LARGE or (code == pycurl.E_RECV_ERROR and message.startswith("Too large response headers")):
        return "its headers are too large"
    if code in _NOT_HTTP:
        return "the answer is not HTTP"
    if code in _TLS and not number and _TLS_SPOKEN.search(message):
        return "the answer is not TLS" if _NOT_TLS.search(message) else "TLS failed"
    is_cut = code in _BREAKS and has_spoken and not number
    return "the answer broke off" if is_cut or code == pycurl.E_PARTIAL_FILE else ""


def _has_reached_host(curl: Any) -> bool:  # noqa: ANN401 - as above
    """Return whether the answer is the host's, and not that of a proxy which was asked for a tunnel to it."""
    proxy_status = curl.getinfo(pycurl.HTTP_CONNECTCODE)
    return not proxy_status or bool(200 <= proxy_status < 300)


def _why_refused(message: str) -> str:
    # What libcurl says ends as in "verify result: certificate has expired (10)" with a sentence of OpenSSL. If the
    # certificate is for another host, it names that host, so its sentence is replaced.
    if "does not match" in message or "subject name" in message:
        return "it is for another host"
    return _REFUSAL.sub("", message)[:100]


def _what_broke(curl: Any, code: int, number: int) -> str:  # noqa: ANN401, PLR0911 - as above
    # libcurl's own text is not used: it may contain the whole URL, or bytes of a hostile server.
    proxy_status = curl.getinfo(pycurl.HTTP_CONNECTCODE)
    if proxy_status and not 200 <= proxy_status < 300:
        return f"the proxy answered {proxy_status}"
    if code in _NOT_HTTP:
        return "the answer is not HTTP"
    if code in _TLS:
        return "TLS failed"
    match code:
        case pycurl.E_PARTIAL_FILE:
            return "the answer broke off"
        case pycurl.E_GOT_NOTHING:
            return "closed the connection without an answer"
        case pycurl.E_COULDNT_RESOLVE_PROXY:
            return "the proxy's name cannot be resolved"
        case pycurl.E_COULDNT_RESOLVE_HOST:
            return "it cannot be resolved now"
        case _ if code == _CURLE_PROXY:
            return "the proxy failed"
        case pycurl.E_RECV_ERROR if not number:
            return "the answer broke off"
        case _:
            return errno.errorcode.get(number, "the connection failed")
