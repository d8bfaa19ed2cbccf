"""Which IP addresses belong to the public internet."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
"""IANA's special-purpose registry (RFC 6890), multicast, the reserved block, and the address at which Azure's internal
services answer every machine in Azure."""

_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""All addresses that IANA has assigned as global unicast. Loopback, fc00::/7, fe80::/10, ff00::/8 and ::ffff:0:0/96 lie
outside."""

_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments; one of them, Teredo, embeds an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 embeds an IPv4 address too; neither is in use any more
        "3fff::/20",
    )
)

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""The prefix by which a cluster that has only IPv6 reaches the IPv4 internet (RFC 6052). The last four bytes are the
IPv4 address."""


@lru_cache(maxsize=4096)  # every image of a list asks for the addresses of its host
def is_public_address(address: str) -> bool:
    """Return whether `address` is global unicast: not private, loopback, link-local, shared, reserved or multicast."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _REFUSED_V4)
    if ip.scope_id:
        return False
    if ip in _NAT64:
        return is_public_address(str(ipaddress.IPv4Address(ip.packed[-4:])))
    return ip in _GLOBAL_V6 and not any(ip in network for network in _REFUSED_V6)
