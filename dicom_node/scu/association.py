"""Associations that we request from a peer, within deadlines; or the reason why there is none (PS3.8 7.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from dicom_node.config.settings import PeerService, PeerSettings, Settings
from dicom_node.scu.connections import Connections
from dicom_node.scu.transport import CallingAE, client_tls

# pynetdicom logs data sets and identifiers, which name patients.
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

_LOGGER = logging.getLogger(__name__)
_CONNECT_SECONDS = 10.0
_NEGOTIATE_SECONDS = 30.0
_ASSOCIATE_SECONDS = 2 * _CONNECT_SECONDS + _NEGOTIATE_SECONDS  # TCP, TLS, A-ASSOCIATE
_LATER_SECONDS = 5.0  # pynetdicom's own time-out stands behind ours, which also frees its threads


@dataclass(frozen=True, slots=True)
class NoAssociation:
    """Why there is no association, and whether the peer refused all presentation contexts."""

    text: str
    takes_nothing: bool = False


class DimseCaller:
    """Requests associations from one peer. For one thread; any thread may call ``close``."""

    def __init__(self, peer: PeerSettings, settings: Settings, silence_seconds: float = 0) -> None:
        """Prepare calls to ``peer``.

        ``silence_seconds``: how long the peer may transfer no byte; 0: ``outbox.answer_seconds``.
        """
        self._peer = peer
        self._settings = settings
        local = not peer.entered or settings.console.local_peers
        self._connections = Connections(silence_seconds or settings.outbox.answer_seconds, local=local)

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""
        self._connections.close()

    @contextmanager
    def associate(
        self,
        contexts: list[PresentationContext],
        *,
        service: PeerService = "storage",
        handlers: Sequence[tuple[Any, Callable[[Any], Any]]] = (),
        roles: Sequence[Any] = (),
        largest_object: int = 0,
    ) -> Iterator[Association | NoAssociation]:
        """An association with one service of the peer, released at the end of the scope.

        ``handlers``: pynetdicom's events for requests of the peer. ``roles``: SCP/SCU role selection (PS3.7
        D.3.3.4), for objects of up to ``largest_object`` bytes that the peer sends on this association.
        """
        peer = self._peer
        host, port, called = peer.address_of(service)
        if port is None or not host:
            yield NoAssociation(f"{peer.missing_of_address()}: add it to this peer's [[peers]]")
            return
        if self._connections.closed:
            yield NoAssociation("not tried: the node stops")
            return
        ae = CallingAE(self._settings.node.ae_title, self._connections, largest_object)
        ae.connection_timeout = _CONNECT_SECONDS
        ae.acse_timeout = _NEGOTIATE_SECONDS
        ae.network_timeout = None
        try:
            tls = (client_tls(self._settings), host) if peer.tls else None
            with self._connections.within(_ASSOCIATE_SECONDS):
                association = ae.associate(
                    self._connections.address_of(host),
                    port,
                    contexts,
                    ae_title=called,
                    max_pdu=self._settings.listener.maximum_pdu_bytes,
                    tls_args=tls,
                    ext_neg=list(roles),
                    evt_handlers=list(handlers),
                )
        except OSError as error:  # unknown host name, unreadable certificate
            yield NoAssociation(
                f"cannot call {called} at {host}:{port}: {error.strerror or 'TLS set-up failed'}"
            )
            return
        if not association.is_established:
            yield _refusal(association, self._connections, f"{called} at {host}:{port}")
            return
        self.debug("association", accepted=len(association.accepted_contexts), of=len(contexts))
        try:
            yield association
        finally:
            if association.is_established:
                with self._connections.within(_ASSOCIATE_SECONDS):
                    association.release()

    def debug(self, what: str, **fields: object) -> None:
        """Log a line for ``peers.debug``: numbers and UIDs, as in events."""
        shown = " ".join(f"{key}={value}" for key, value in fields.items())
        _LOGGER.debug("%s with %s: %s", what, self._peer.name, shown, extra={"peer": self._peer.name})

    @contextmanager
    def waiting(self, association: Association, seconds: float) -> Iterator[None]:
        """Scope of one message and its answer, limited to ``seconds``."""
        association.dimse_timeout = seconds + _LATER_SECONDS
        with self._connections.within(seconds):
            yield


def _refusal(association: Association, connections: Connections, whom: str) -> NoAssociation:
    if association.is_rejected:
        primitive = association.acceptor.primitive
        return NoAssociation(f"association rejected by {whom}: {primitive.reason_str}")
    if association.rejected_contexts:
        names = {UID(context.abstract_syntax).name for context in association.rejected_contexts}
        return NoAssociation(f"{whom} does not accept {', '.join(sorted(names))}", takes_nothing=True)
    return NoAssociation(connections.without_answer(whom))
