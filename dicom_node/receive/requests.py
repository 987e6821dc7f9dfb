"""An accepted association, the requests that it brings, and how many of them a peer may send in a minute."""

import threading
import time
from collections import Counter
from dataclasses import dataclass

from dicom_node.receive.messages import (
    Command,
    Proposal,
    ProtocolViolation,
    name_of,
)
from dicom_node.receive.policy import (
    Permission,
)

MINUTE = 60.0


@dataclass(slots=True, eq=False)
class AcceptedAssociation:
    """One accepted association. ``association``: the node's own identifier of it, never used again."""

    association: str
    proposal: Proposal
    permission: Permission
    results: dict[int, tuple[int, str]]
    """Presentation context id -> (result, transfer syntax)."""
    roles: dict[str, tuple[bool, bool]]
    """SOP Class UID -> whether the peer is SCU, whether it is SCP."""
    stored: int = 0
    """The number of objects acknowledged with Success."""
    repeatable: int = 0
    """The number of echoes answered and of requests refused; a peer can repeat these at will, so only the
    first ones are journalled.
    """
    refused: int = 0
    """The number of objects not acknowledged with Success."""


class Request:
    """A DIMSE request that is being received: its command, and the data set that follows."""

    def __init__(self, command: Command, abstract_syntax: str, syntax: str, largest: int) -> None:
        """Begin to receive the data set of ``command``. ``syntax``: its transfer syntax. ``largest``: its
        maximum length in bytes.
        """
        self.command, self.abstract_syntax, self.syntax = command, abstract_syntax, syntax
        self.largest = largest
        """Bytes of the data set that are taken."""
        self.data = bytearray()

    def write(self, data: memoryview | bytes) -> None:
        """Append one fragment of the data set. Raises ProtocolViolation if the data set is longer than
        allowed.
        """
        self.data += data
        if len(self.data) > self.largest:
            raise ProtocolViolation(f"data set of {name_of(self.command.field)} beyond its largest length")

    def abandon(self) -> None:
        """Discard the received bytes, because the association ended or the request is refused."""
        self.data.clear()


class RequestRates:
    """What each peer has sent by DIMSE-N requests in this minute. Thread-safe."""

    def __init__(self) -> None:
        """Begin with all counts 0."""
        self._lock = threading.Lock()
        self._counted = Counter[tuple[str, str]]()
        self._minute = time.monotonic()

    def count(self, peer: str, what: str, number: int, most: int) -> bool:
        """Add ``number`` to what the peer has sent in this minute; return whether that is within the limit
        ``most``.

        ``what``: "requests", or "objects" for which storage commitment is requested.
        """
        with self._lock:
            if time.monotonic() - self._minute > MINUTE:
                self._minute = time.monotonic()
                self._counted.clear()
            self._counted[peer, what] += number
            return self._counted[peer, what] <= most
