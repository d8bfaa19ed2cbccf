"""Turns an error of libcurl into what it means for an image. Only this module reads libcurl's codes."""

from __future__ import annotations

import errno
import re
from typing import Any

import pycurl

from common.format.reasons import Reason
from worker.fetch.transport import Broken, Verdict

_LIMITS_OF_THIS_MACHINE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_NOT_HTTP = {
    pycurl.E_UNSUPPORTED_PROTOCOL,
    pycurl.E_FTP_WEIRD_SERVER_REPLY,
    pycurl.E_HTTP2,
    pycurl.E_BAD_CONTENT_ENCODING,
    pycurl.E_TOO_MANY_REDIRECTS,
}
"""8 is CURLE_WEIRD_SERVER_REPLY, which pycurl calls after FTP."""

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

_CURLE_PROXY = 97
_CURLE_TOO_LARGE = 100


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
            remedy = "" if curl.getinfo(pycurl.SSL_VERIFYRESULT) in _NOT_A_MATTER_OF_TRUST else _TRUST_REMEDY
            detail = f"the certificate of {host}: {_why_refused(message)}{remedy}"
            return Broken(Verdict.WILL_NOT_PASS, Reason.CONNECTION_FAILED, detail, 0)
        case pycurl.E_SSL_CACERT_BADFILE:
            detail = "the trusted certificates cannot be read; check SSL_CERT_FILE"
            return Broken(Verdict.MACHINE, Reason.CONNECTION_FAILED, detail, 0)
    number = curl.getinfo(pycurl.OS_ERRNO)
    if number in _LIMITS_OF_THIS_MACHINE and code == pycurl.E_COULDNT_CONNECT:
        detail = f"no connection could be opened: {errno.errorcode[number]}; lower EMBEDDER_FETCH_CONCURRENCY"
        return Broken(Verdict.MACHINE, Reason.CONNECTION_FAILED, detail, 0)
    return Broken(Verdict.MAY_PASS, Reason.CONNECTION_FAILED, f"{host}: {_what_broke(curl, code, number)}", 0)


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
    if code in _NOT_HTTP or code == _CURLE_TOO_LARGE:
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
