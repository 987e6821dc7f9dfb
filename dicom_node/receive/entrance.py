"""Connections that have no association yet: limits on their number, and counts of failed ones.

No unknown caller can use up the places of others, by silence or by number, or fill the journal.
"""

import ipaddress
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum

from dicom_node.receive import limits

_MINUTE = 60.0
OTHERS = "others"


class Failure(StrEnum):
    """The reason why a connection ended without an association."""

    NO_PLACE = "no_place"  # closed at once: too many wait already
    TOO_LATE = "too_late"  # no complete association request in the time allowed
    MALFORMED = "malformed"  # something else than an association request
    REJECTED = "rejected"  # beyond those that are journalled one by one
    NO_TLS = "no_tls"  # the same


class Entrance:
    """Counts waiting connections, and failures, by address.

    The first failure of an address is due for the journal at once, further ones once a minute. Thread-safe;
    no method blocks or uses the name service.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._peers: OrderedDict[str, None] = OrderedDict()
        self._failures: defaultdict[str, Counter[Failure]] = defaultdict(Counter)
        self._reported: set[str] = set()  # in this minute
        self._listed: Counter[str] = Counter()
        self._minute = clock()

    def know(self, addresses: Iterable[str]) -> None:
        """Remember addresses of peers from now on; beyond ``ADDRESSES_KEPT`` the oldest are forgotten."""
        with self._lock:
            for address in addresses:
                self._peers[network(address)] = None
                self._peers.move_to_end(network(address))
            while len(self._peers) > limits.ADDRESSES_KEPT:
                self._peers.popitem(last=False)

    def enter(self, address: str) -> bool:
        """Take a place for a new connection; returns False if it must be closed: no place is free for it."""
        one = network(address)
        with self._lock:
            places, mine = limits.WAITING, limits.WAITING_OF_ONE_ADDRESS
            if one in self._peers:
                places, mine = places + limits.WAITING_OF_PEERS, 2 * mine
            if self._waiting.total() < places and self._waiting[one] < mine:
                self._waiting[one] += 1
                return True
        self.fail(address, Failure.NO_PLACE)
        return False

    def leave(self, address: str, failure: Failure | None = None) -> None:
        """Free the place: the connection has its association, or is closed, by this failure."""
        with self._lock:
            self._waiting -= Counter([network(address)])  # keeps only what is above 0
        if failure:
            self.fail(address, failure)

    def fail(self, address: str, failure: Failure) -> None:
        """Count one failure of this address."""
        with self._lock:
            self._failures[self._kept(address, self._failures)][failure] += 1

    def may_list(self, address: str) -> bool:
        """Whether a failure of this address may still get its own event in this minute."""
        with self._lock:
            self._turn_minute()
            one = self._kept(address, self._listed)
            self._listed[one] += 1
            return self._listed[one] <= limits.LISTED_A_MINUTE

    def due(self) -> list[tuple[str, Mapping[Failure, int]]]:
        """Addresses and counts that are due for the journal; this call resets the counts."""
        with self._lock:
            self._turn_minute()
            due: dict[str, Counter[Failure]] = {}
            for one in sorted(self._failures, key=lambda one: -self._failures[one].total()):
                full = len(self._reported) + len(due) >= limits.ADDRESSES_A_MINUTE
                name = OTHERS if full and one not in self._reported else one
                if name not in self._reported:
                    due.setdefault(name, Counter()).update(self._failures.pop(one))
            self._reported.update(due)
            return list(due.items())

    def _kept(self, address: str, known: Collection[str]) -> str:
        """The name under which the address is counted among as many as are kept."""
        one = network(address)
        return one if one in known or len(known) < limits.ADDRESSES_KEPT else OTHERS

    def _turn_minute(self) -> None:
        if self._clock() - self._minute >= _MINUTE:
            self._minute = self._clock()
            self._listed.clear()
            self._reported.clear()


def network(address: str) -> str:
    """The key under which an address is counted: the IPv4 address, or the IPv6 network of the machine.

    A machine can choose any address within its IPv6 network.
    """
    one = numeric(address)
    return str(one) if one.version == 4 else str(ipaddress.ip_network((one, 64), strict=False))


def numeric(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address without its scope; an IPv4 address written as IPv6 becomes IPv4."""
    parsed = ipaddress.ip_address(address.split("%", 1)[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed
