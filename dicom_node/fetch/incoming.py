"""Objects that a retrieval receives on the node's own connection, on their way into the spool.

They are spooled like objects of a C-STORE from the peer, and inspected like all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom.file_meta import META_BYTES, is_uid
from dicom_node.errors import FaultyInput, SpoolFull
from dicom_node.inbox.header import Arrival
from dicom_node.inbox.part10 import check_taken, read_meta, store
from dicom_node.inbox.spool import Spool, WaitingObjects
from dicom_node.scp.contexts import accepted_classes

ASSOCIATION = "fetch-"
"""How the identifiers of such associations begin; the number of the fetch follows."""
_MEDIUM = 0  # C-STORE priority, PS3.7 9.1.1


class Incoming:
    """Stores the objects of one retrieval (``scu.ObjectSink``). ``number``: of the retrieval's row."""

    def __init__(
        self, spool: Spool, waiting: WaitingObjects, settings: Settings, peer: PeerSettings, number: int
    ) -> None:
        self._spool, self._waiting, self._settings, self._peer = spool, waiting, settings, peer
        self._association = f"{ASSOCIATION}{number}"
        self.sop_classes: Collection[str] = accepted_classes(settings.listener.further_storage_classes)

    @property
    def largest_bytes(self) -> int:
        """The size of the largest object that is accepted, in bytes (``listener.maximum_object_mib``)."""
        return self._settings.listener.maximum_object_mib * 2**20

    def take_object(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Iterable[bytes]
    ) -> None:
        """Store an encoded data set. Raises FaultyInput, SpoolError."""
        if not is_uid(sop_instance_uid):
            raise FaultyInput("it has no valid SOP Instance UID")
        check_taken(sop_class_uid, transfer_syntax_uid, self.sop_classes)
        limits = self._settings.spool
        if not self._waiting.has_room(self._peer.name, limits.waiting_objects, limits.waiting_mib * 2**20):
            raise SpoolFull("too many objects of this peer wait to be indexed")
        arrival = Arrival(
            self._association,
            self._peer.ae_title,
            self._settings.node.ae_title,
            self._peer.host,
            _MEDIUM,
            datetime.now(UTC),
        )
        incoming = self._spool.open(
            arrival, sop_class_uid, sop_instance_uid, transfer_syntax_uid, self._peer.name
        )
        size = store(incoming, data, self.largest_bytes)
        self._waiting.add(self._peer.name, size)

    def take_file(self, pieces: Iterable[bytes]) -> None:
        """Store a Part 10 file. Raises FaultyInput, SpoolError."""
        rest = iter(pieces)
        start = b""
        while len(start) < META_BYTES and (piece := next(rest, b"")):
            start += piece
        meta = read_meta(start[:META_BYTES])
        data = itertools.chain([start[meta.length :]], rest)
        self.take_object(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, data)
