"""What is asked of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.fetch.image_url import HttpUrl


class Request(NamedTuple):
    """A GET of one URL."""

    url: HttpUrl
    is_trusted: bool
    """Whether the URL's addresses need no check."""
    host: str
    """The host, with its port unless it is the scheme's default: another port is another server."""
    cookie: str = ""
    """The header Cookie, an empty text for none."""
    checks_certificate: bool = True
    """Whether the host must show a valid certificate."""
