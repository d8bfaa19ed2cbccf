"""URLs of images: which of them are accepted, and what exactly is requested."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from yarl import URL

from common.format.reasons import Reason
from worker.rows import ImageFailed
from worker.url_forms import SCHEME

MAX_URL_CHARS = 200_000
"""The length of the longest URL that is requested: one of 65,536 bytes, EMBEDDER_MAX_URL_BYTES at its largest, that are
all percent-encoded. Redirects may lead to longer ones, and not all columns of a list have a limit."""

MAX_SERVER_CHARS = 300
"""More than the length of the longest part of a URL before its path that is written the plain way."""

PRINTED_CHARACTERS = 40
"""The number of characters of a hostile URL that a message shows."""

_PLAIN_SERVER = re.compile(
    r"(https?)://(?=[^/:]{1,253}(?:\Z|:))(?!xn--)((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.(?!xn--))*"
    r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?::(?!80\Z|443\Z)([1-9][0-9]{0,3}|[1-5][0-9]{4}))?"
)
_PLAIN_TARGET = re.compile(r"/[A-Za-z0-9%/:@!$&'()*+,;=\-._~]*(?:\?[A-Za-z0-9%/:?@!$&'()*+,;=\-._~]+)?")
"""The two match URLs that are requested exactly as they are written, which are nearly all. To read such a URL takes a
third of the time, because each server is read once."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HOST = re.compile(
    r"(?=.{1,253}\.?\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_AS_WRITTEN = re.compile(r"[A-Za-z0-9%/:?@!$&'()*+,;=\-._~\[\]]*")
_AS_WRITTEN_SAFE = "%/:?@!$&'()*+,;=-._~[]"
_USER_SAFE = "%!$&'()*+,;=:-._~"


class HttpUrl(NamedTuple):
    """An http or https URL."""

    text: str
    """What is requested: the whole URL in ASCII, without a fragment. It may hold a user and a password."""
    scheme: str
    host: str
    """The host in lower case and without brackets."""
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        return self.scheme, self.host, self.port

    @property
    def server(self) -> str:
        """The host, with its port unless it is the scheme's default: another port is another server."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.text.partition("?")[0].rpartition("/")[2]


def scheme_of(url: str) -> str:
    """Return the URL's scheme in lower case, an empty text if it has none."""
    if url.startswith("https://"):
        return "https"
    if url.startswith("http://"):
        return "http"
    if url.startswith("s3://"):
        return "s3"
    match = SCHEME.match(url)
    return match[1].lower() if match else ""


def check_characters(url: str) -> str:
    """Return `url` without the spaces around it. Raises ImageFailed if it is empty or has control characters."""
    url = url.strip(" ")
    if not url:
        raise ImageFailed(Reason.INVALID_URL, "it is empty")
    if not url.isprintable() and _CONTROL.search(url):
        raise ImageFailed(Reason.INVALID_URL, "it has control characters")
    return url


def parse_http_url(text: str) -> HttpUrl:
    """Return an http or https URL that is requested exactly as it is written.

    Nothing is decoded. Only characters that a request line cannot contain are percent-encoded, as UTF-8. A host that is
    not ASCII is replaced by its IDNA form, a host that is percent-encoded is decoded. Raises ImageFailed (invalid_url).
    """
    return _checked(parse_plain_url(text) or _parse_any(check_characters(text)))


def _checked(url: HttpUrl) -> HttpUrl:
    if len(url.text) > MAX_URL_CHARS:
        raise ImageFailed(Reason.INVALID_URL, f"it has more than {MAX_URL_CHARS} characters")
    return url


def parse_plain_url(text: str) -> HttpUrl | None:
    """Return an http or https URL if it is written the plain way, as nearly all are, else None.

    None too if it is longer than MAX_URL_CHARS.
    """
    path = text.find("/", len("https://"), MAX_SERVER_CHARS)
    if path < 0 or len(text) > MAX_URL_CHARS or not _PLAIN_TARGET.fullmatch(text, path):
        return None
    server = _plain_server(text[:path])
    return None if server is None else HttpUrl(text, *server)


@lru_cache(maxsize=4096)
def _plain_server(text: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of the part of a URL before its path, None unless that is written the plain way."""
    plain = _PLAIN_SERVER.fullmatch(text)
    if plain is None:
        return None
    scheme, host, port = plain.groups()
    return scheme, host, int(port) if port else _DEFAULT_PORTS[scheme]


def _parse_any(text: str) -> HttpUrl:
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
        do_both_readings_agree = url.raw_host == host.strip("[]") and url.port == (port or _DEFAULT_PORTS.get(scheme))
    except ValueError as error:
        raise ImageFailed(Reason.INVALID_URL, "its host or port cannot be read") from error
    if scheme not in _DEFAULT_PORTS:
        raise ImageFailed(Reason.INVALID_URL, f"its scheme {scheme[:PRINTED_CHARACTERS]!r} is neither http nor https")
    if not do_both_readings_agree or port == 0:
        raise ImageFailed(Reason.INVALID_URL, "its host or port cannot be read")
    return HttpUrl(str(url), scheme, url.raw_host or "", url.port or 0)


def same_server(known: HttpUrl, text: str) -> HttpUrl:
    """Return the URL `text`, which differs from `known` only behind the server's name. Raises like `parse_http_url`.

    It has no character that would be percent-encoded.
    """
    return _checked(HttpUrl(text, known.scheme, known.host, known.port))


def join_redirect(base: HttpUrl, location: str) -> HttpUrl:
    """Return the URL to which `base` redirects. Raises ImageFailed (too_many_redirects) if it is not usable."""
    try:
        return parse_http_url(urljoin(base.text, check_characters(location)))
    except (ImageFailed, ValueError) as error:
        detail = error.detail if isinstance(error, ImageFailed) else "it cannot be read"
        raise ImageFailed(Reason.TOO_MANY_REDIRECTS, f"the redirect leads to no usable URL: {detail}") from error


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _host(host: str, *, is_literal: bool) -> str:
    if is_literal:
        if "%" in host:
            raise ValueError("a scoped address")
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    if "%" in host:  # browsers decode it; what it then holds is checked like any other host
        host = unquote(host, errors="strict").lower()
    if not host.isascii():
        host = URL.build(scheme="http", host=host).raw_host or ""
    if not _HOST.fullmatch(host):
        raise ValueError("not a host name")
    return host


def _user(user: str) -> str:
    if "\\" in user:
        raise ValueError("browsers read a backslash as a slash, so the host is ambiguous")
    return quote(user, safe=_USER_SAFE)


def _as_written(text: str) -> str:
    # A redirect's header may contain bytes that are not UTF-8. They arrive as surrogates and are sent unchanged.
    return (
        text if _AS_WRITTEN.fullmatch(text) else quote(text.encode("utf-8", "surrogateescape"), safe=_AS_WRITTEN_SAFE)
    )
