"""The name of the site to which a host belongs: its registered domain, as the Public Suffix List has it.

Everybody who registers a domain may limit all requests to it together, so `farm1.staticflickr.com` and
`live.staticflickr.com` are one site. The list also knows the domains under which others get a name of their own
("private suffixes"), so each bucket of S3 and each page of github.io is a site.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


def site_name(host: str, port: int) -> str:
    """Return the registered domain of a host, or the host with its port if it is an address or has none.

    `host` is in lower case and without brackets.
    """
    host = host.rstrip(".")
    if "." in host and not is_address(host):
        name = _list().privatesuffix(host)
        if name is not None:
            return str(name)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_address(host: str) -> bool:
    """Return whether the host of a URL is an IP address, in any notation, and no name."""
    return ":" in host or _ends_in_a_number(host)


@lru_cache(maxsize=1024)
def _ends_in_a_number(host: str) -> bool:
    # The URL standard's test for an IPv4 address. It includes 127.1, 2130706433 and 0x7f.1, which the system's resolver
    # reads as addresses too. No name in the DNS ends in a number.
    last = host.rstrip(".").rpartition(".")[2]
    return re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last) is not None


@cache
def _list() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 - reads the list, which takes 40 ms

    return PublicSuffixList()
