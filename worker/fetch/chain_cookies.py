"""Cookies of one chain of redirects. Some sites send a photo only to those who bring back a cookie."""

from __future__ import annotations

from email.message import Message
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, cast
from urllib.request import Request as UrllibRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from http.client import HTTPResponse

    from worker.fetch.image_url import HttpUrl

MAX_COOKIE_CHARS = 4096
"""Largest number of characters of cookies, in one answer and in one request: as many as browsers keep of one cookie."""

COOKIE_OVERHEAD = 16
"""Number of characters that a cookie of an answer counts in addition, so that there are not thousands of short ones."""


class ChainCookies:
    """The cookies that the answers of one chain have set. The library decides which of them a URL gets."""

    def __init__(self) -> None:
        self._jar = CookieJar(DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrict))

    def note(self, url: HttpUrl, lines: Sequence[str]) -> None:
        """Take over what the answer of `url` sets. `lines` are the values of its headers Set-Cookie."""
        self._jar.extract_cookies(cast("HTTPResponse", _Answer(lines)), UrllibRequest(url.text))  # noqa: S310 - http, https

    def header(self, url: HttpUrl) -> str:
        """Return the header Cookie of a request for `url`, an empty text for none."""
        request = UrllibRequest(url.text)  # noqa: S310 - as above
        self._jar.add_cookie_header(request)
        header = request.get_header("Cookie", "")
        return header if len(header) <= MAX_COOKIE_CHARS and header.isprintable() else ""


class _Answer:
    """An answer as the library wants to see it."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._headers = Message()
        for line in lines:
            self._headers["Set-Cookie"] = line

    def info(self) -> Message:
        return self._headers
