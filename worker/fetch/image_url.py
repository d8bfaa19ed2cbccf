"""URLs of images: which are taken, and what exactly is requested."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urljoin, urlsplit

from yarl import URL

from common.format.reasons import Reason
from worker.rows import ImageFailed

PRINTED_CHARACTERS = 40
"""Of a piece of a hostile URL in a message."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HOST = re.compile(
    r"(?=.{1,253}\.?\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_AS_WRITTEN = re.compile(r"[A-Za-z0-9%/:?@!$&'()*+,;=\-._~\[\]]*")
_AS_WRITTEN_SAFE = "%/:?@!$&'()*+,;=-._~[]"
_USER_SAFE = "%!$&'()*+,;=:-._~"


def scheme_of(url: str) -> str:
    """Return the URL's scheme in lower case, empty where it has none."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def check_characters(url: str) -> str:
    """Return `url` without spaces around it. Raises ImageFailed when it is empty or has control characters."""
    url = url.strip(" ")
    if not url:
        raise ImageFailed(Reason.INVALID_URL, "it is empty")
    if _CONTROL.search(url):
        raise ImageFailed(Reason.INVALID_URL, "it has control characters")
    return url


def parse_http_url(text: str) -> URL:
    """Return an http or https URL that is requested as it is written.

    What is percent-encoded stays so and nothing more is decoded; only what no request line can hold is encoded, as
    UTF-8. A host that is not ASCII becomes its IDNA form. Raises ImageFailed (invalid_url).
    """
    text = check_characters(text)
    try:
        parts = urlsplit(text)
        port = parts.port
        user, _, place = parts.netloc.rpartition("@")
        host = _host(parts.hostname or "", is_literal=place.startswith("["))
        netloc = f"{_user(user)}@{host}" if user else host
        netloc = netloc if port is None else f"{netloc}:{port}"
        target = _as_written(parts.path or "/") + (f"?{_as_written(parts.query)}" if parts.query else "")
        scheme = parts.scheme.lower()
        url = URL(f"{scheme}://{netloc}{target}", encoded=True)
        is_read_alike = url.raw_host == host.strip("[]") and url.port == (port or _DEFAULT_PORTS.get(scheme))
    except ValueError as error:
        raise ImageFailed(Reason.INVALID_URL, "its host or port cannot be read") from error
    if scheme not in _DEFAULT_PORTS:
        raise ImageFailed(Reason.INVALID_URL, f"its scheme {scheme[:PRINTED_CHARACTERS]!r} is neither http nor https")
    if not is_read_alike or port == 0:
        raise ImageFailed(Reason.INVALID_URL, "its host or port cannot be read")
    return url


def join_redirect(base: URL, location: str) -> URL:
    """Return where an answer at `base` redirects to. Raises ImageFailed (too_many_redirects) when it is nowhere."""
    try:
        return parse_http_url(urljoin(str(base), check_characters(location)))
    except (ImageFailed, ValueError) as error:
        detail = error.detail if isinstance(error, ImageFailed) else "it cannot be read"
        raise ImageFailed(Reason.TOO_MANY_REDIRECTS, f"redirected to no usable URL: {detail}") from error


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _host(host: str, *, is_literal: bool) -> str:
    if is_literal:
        if "%" in host:
            raise ValueError("a scoped address")
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    if not host.isascii():
        host = URL.build(scheme="http", host=host).raw_host or ""
    if not _HOST.fullmatch(host):
        raise ValueError("no host name")
    return host


def _user(user: str) -> str:
    if "\\" in user:
        raise ValueError("browsers take a backslash for a slash, so it is in doubt what the host is")
    return quote(user, safe=_USER_SAFE)


def _as_written(text: str) -> str:
    # A redirect's header may hold bytes that are not UTF-8; they stand in it as surrogates and are sent as they came.
    return (
        text if _AS_WRITTEN.fullmatch(text) else quote(text.encode("utf-8", "surrogateescape"), safe=_AS_WRITTEN_SAFE)
    )
