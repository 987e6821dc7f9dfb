"""Validation of hosts and base URLs in settings; a login in a URL is separated from it."""

import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import unquote, urlsplit

_VIEWER_SCHEMES = ("https", "http", "weasis", "radiant", "osirix", "horos")  # none that runs script
# Besides loopback, link-local, unspecified, multicast and broadcast: "this network" (RFC 1122), and where
# clouds give out the machine's identity (Amazon and Google by IPv6, Alibaba, Azure, Oracle).
_OF_THE_MACHINE = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
_IPV4_WITHIN = ip_network("64:ff9b::/96")  # NAT64 (RFC 6052)


class LocalAddress(OSError):
    """The name leads to this machine, to a link-local address, or to the metadata service of a cloud."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} leads to this machine, its link or a metadata service: an entered peer may have such an "
            "address only where a configuration file says console.local_peers = true"
        )
        self.strerror = str(self)


def is_local(address: str) -> bool:
    """Whether an IP address is this machine's, link-local, or the metadata service of a cloud."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    # An IPv6 address may stand for one of IPv4: mapped, 6to4, NAT64, or the old compatible form.
    if ip in _IPV4_WITHIN or (ip.version == 6 and int(ip) >> 32 == 0 and int(ip) > 1):
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    elif isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    kinds = ip.is_loopback, ip.is_link_local, ip.is_unspecified, ip.is_multicast
    return any(kinds) or ip == IPv4Address("255.255.255.255") or any(ip in one for one in _OF_THE_MACHINE)


def remote_address(host: str) -> str:
    """The present IP address of a host name or number.

    Connect to this address: a second look-up may give another one. Numbers are read as the system reads them:
    127.1, 2130706433 and 0x7f000001 are 127.0.0.1. Raises LocalAddress if one of the host's addresses is
    local, OSError if the host has none.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    if any(is_local(str(place[0])) for *_, place in found):
        raise LocalAddress(host)
    # IPv4 first, as pynetdicom takes it.
    return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])


def checked_host(host: str) -> str:
    """Return the host. Raises ValueError for a malformed IPv4 address, or when the text contains a port."""
    parts = host.split(".")
    is_ipv4 = len(parts) == 4 and all(part.isdigit() and int(part) <= 255 for part in parts)
    if re.fullmatch(r"[0-9.]+", host) and not is_ipv4:
        raise ValueError("is not an IP address: four numbers from 0 to 255, such as 192.168.1.20")
    if host.count(":") == 1:
        raise ValueError("must be the name or address alone: the port is a key of its own")
    return host


def checked_url(url: str) -> str:
    """Return ``url``, a base URL or "", if it is valid. Raises ValueError that says what is wrong with it."""
    if not url:
        return url
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://, such as http://host:8042")
    if "@" in url:
        raise ValueError("user and password are in it and beside it: leave them out of url")
    if "?" in url or "#" in url:
        raise ValueError("must end with the path: leave out ? or # and what follows")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the port in it is no number from 1 to 65535") from None
    if not parts.hostname or port == 0:
        raise ValueError("write it as http://host:8042 or https://host/dicom-web")
    return url


def checked_viewer(address: str) -> str:
    """Return the address of a viewer, with ``{study}`` in it, if it is valid. Raises ValueError with the
    mistake.
    """
    if address.partition("://")[0] not in _VIEWER_SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{one}://' for one in _VIEWER_SCHEMES)}")
    if not {*re.findall(r"{([^{}]*)}", address)} <= {"study", "accession"}:
        raise ValueError("only {study} and {accession} can be in it")
    if "{study}" not in address and "{accession}" not in address:
        raise ValueError("must have {study}, the Study Instance UID, or {accession} where it belongs")
    return address


def with_login_apart(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a peer, with user and password moved from ``url`` to ``username`` and ``password``.

    The URL can then be shown without a secret. If one of the two keys is given as well, nothing is moved.
    """
    url = given.get("url")
    found = re.fullmatch(r"(https?://)(.*)@(.*)", url, re.DOTALL) if isinstance(url, str) else None
    if found is None or {"username", "password"} & given.keys():
        return dict(given)
    scheme, login, place = found.groups()
    name, _, password = login.partition(":")
    return {**given, "url": scheme + place, "username": unquote(name), "password": unquote(password)}
