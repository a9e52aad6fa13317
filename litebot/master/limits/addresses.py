"""Addresses of visitors, as far as they tell visitors apart."""

from __future__ import annotations

import ipaddress
from typing import Any


def address_of(peer: Any) -> str:
    """The address of a peer, as far as it tells visitors apart.

    Of IPv6 this is the first half, as whoever has one address there has all of its network.
    """
    host = getattr(peer, "host", "")
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return str(host)  # a socket of the file system has none
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
