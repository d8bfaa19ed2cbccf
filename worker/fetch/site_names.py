"""The name of the site to which a host belongs: its registered domain, as the Public Suffix List has it.

Everybody who registers a domain may limit all requests to it together, so `farm1.staticflickr.com` and
`live.staticflickr.com` are one site. The list also knows the domains under which others get a name of their own
("private suffixes"), so each bucket of S3 and each page of github.io is a site.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from worker.fetch.host_guard import is_address

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


@cache
def _list() -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 - reads the list, which takes 40 ms

    return PublicSuffixList()
