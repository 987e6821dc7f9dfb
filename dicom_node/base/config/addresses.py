"""IP addresses that lead to this machine, its link or a cloud's metadata service."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

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
    """A host name leads to this machine, to a link-local address, or to the metadata service of a cloud."""

    def __init__(self, host: str) -> None:
        """Build the error for this host name or address."""
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
