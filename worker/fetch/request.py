"""What is asked of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from worker.fetch.image_url import HttpUrl
    from worker.rows import ByteRange


class Request(NamedTuple):
    """A GET of one URL, or of a range of its content."""

    url: HttpUrl
    is_trusted: bool
    """Whether the URL's addresses need no check."""
    host: str
    """The host, with its port unless it is the scheme's default: another port is another server."""
    cookie: str = ""
    """The header Cookie, an empty text for none."""
    checks_certificate: bool = True
    """Whether the host must show a valid certificate."""
    range: ByteRange | None = None
    """The bytes that are wanted, None for the whole content."""
