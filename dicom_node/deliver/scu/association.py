"""Associations that the node requests as SCU (PS3.7, PS3.8), and requests on them; each has a deadline."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from dicom_node.base.config.peer import PeerService
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import Check, Connections, PeerCaller, client_tls
from dicom_node.deliver.scu.calling_ae import CallingAE
from dicom_node.receive.messages import MAXIMUM_PDU_BYTES

_LOGGER = logging.getLogger(__name__)
_CONNECT_SECONDS = 10.0
_NEGOTIATE_SECONDS = 30.0
_ASSOCIATE_SECONDS = 2 * _CONNECT_SECONDS + _NEGOTIATE_SECONDS  # TCP, TLS, A-ASSOCIATE
_LATER_SECONDS = 5.0  # pynetdicom's own time-out stands behind ours, which also frees its threads
ENDLESS_ANSWER = "cut off, its answer does not end"
MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers 1 to 255
LITTLE_ENDIAN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


_UNKNOWN_THERE = "Calling AE title not recognised"  # PS3.8 9.3.4, as pynetdicom says it


@dataclass(frozen=True, slots=True)
class NoAssociation:
    """The failure to get an association. ``text``: why; ``takes_nothing``: the peer refused all presentation
    contexts.
    """

    text: str
    takes_nothing: bool = False


class DimseCaller(PeerCaller):
    """Base class of DIMSE clients (SCU), which requests associations from one peer."""

    @contextlib.contextmanager
    def associate(
        self,
        contexts: list[PresentationContext],
        *,
        service: PeerService = "storage",
        handlers: Sequence[tuple[Any, ...]] = (),
        roles: Sequence[Any] = (),
        largest_object: int = 0,
    ) -> Iterator[Association | NoAssociation]:
        """Context manager: an association with one service of the peer, or why there is none; released at the
        end.

        ``contexts``: the presentation contexts to propose. ``handlers``: pynetdicom's event handlers for
        requests of the peer. ``roles``: SCP/SCU role selection (PS3.7 D.3.3.4), for objects of up to
        ``largest_object`` bytes that the peer sends on this association.
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
            tls = (client_tls(self._settings, self._connections), host) if peer.tls else None
            with self._connections.within(_ASSOCIATE_SECONDS):
                association = ae.associate(
                    self._connections.address_of(host),
                    port,
                    contexts,
                    ae_title=called,
                    max_pdu=MAXIMUM_PDU_BYTES,
                    tls_args=tls,
                    ext_neg=list(roles),
                    evt_handlers=list(handlers),
                )
        except OSError as error:  # unknown host name, unreadable certificate
            yield NoAssociation(
                f"cannot call {called} at {host}:{port}: "
                f"{tls_refusal(error) or error.strerror or 'TLS set-up failed'}"
            )
            return
        if not association.is_established:
            refused = _why_no_association(association, self._connections, f"{called} at {host}:{port}")
            if _UNKNOWN_THERE in refused.text:
                refused = replace(refused, text=f"{refused.text}: {self._enter_us()}")
            yield refused
            return
        try:
            yield association
        finally:
            if association.is_established:
                with self._connections.within(_ASSOCIATE_SECONDS):
                    association.release()

    def _enter_us(self) -> str:
        """What to do at a peer that does not know this node."""
        return (
            f"enter {self._settings.node.ae_title}, the address of this machine"
            f" and port {self._settings.listener.port} there"
        )

    def _lost(self) -> str:
        """Why a request got no answer. Orthanc cuts the association of a node that it does not know."""
        return (
            ENDLESS_ANSWER
            if self._connections.timed_out
            else f"association lost before the answer; if it does not know this node, {self._enter_us()}"
        )

    def accepts(self, name: str, service: PeerService, model: Any, roles: Sequence[Any] = ()) -> Check:
        """Test whether the peer accepts a service: ``model`` is its SOP class, ``name`` that of the test."""
        with self.associate(contexts(model), service=service, roles=roles) as association:
            if isinstance(association, NoAssociation):
                return Check(name, False, association.text)
        return Check(name, True, f"{UID(model).name} accepted")

    @contextlib.contextmanager
    def waiting(self, association: Association, seconds: float) -> Iterator[None]:
        """Context manager: limit one message and its answer to ``seconds``."""
        association.dimse_timeout = seconds + _LATER_SECONDS
        with self._connections.within(seconds):
            yield

    def request(
        self,
        association: Association,
        seconds: float,
        send: Callable[..., Any],
        *request: Any,
        **options: Any,
    ) -> tuple[int | None, Dataset, list[Dataset]]:
        """Send one request by ``send`` (a method of the association) and wait for all answers, at most
        ``seconds``.

        Returns (last status, its data set, data sets of the pending answers). If the association was cut, the
        status is None and the association is aborted: pynetdicom notices that late, and would wait for the
        next answer. Raises what ``send`` raises for a request that cannot be encoded.
        """
        last, matches = Dataset(), list[Dataset]()
        with self.waiting(association, seconds):
            try:
                answers = send(*request, **options)
                if isinstance(answers, Dataset):  # of a DIMSE-C service with one answer
                    answers = [(answers, None)]
                elif isinstance(answers, tuple):  # of a DIMSE-N service
                    answers = [answers]
                for last, match in answers:
                    if match is not None or last.get("Status") in (0xFF00, 0xFF01):  # pending
                        matches.append(match or Dataset())
            except RuntimeError:  # cut meanwhile, or by an earlier request
                last = Dataset()
            code: int | None = last.get("Status")
            name = self._peer.name  # no value of a data set: it may name a patient
            _LOGGER.debug("%s to %s: status %s", send.__name__, name, code, extra={"peer": name})
            if code is None:
                association.abort()
        return code, last, matches

    def call(
        self,
        wanted: list[PresentationContext],
        send: str,
        *request: Any,
        service: PeerService = "storage",
        roles: Sequence[Any] = (),
        **options: Any,
    ) -> tuple[int | None, list[Dataset], str]:
        """Send one request on an association of its own; ``send``: the name of the association's method for
        it.

        ``wanted``: the presentation contexts. Returns (status, None without an answer; data sets of the
        answers; status or failure in words).
        """
        with self.associate(wanted, service=service, roles=roles) as association:
            if isinstance(association, NoAssociation):
                return None, [], association.text
            seconds, method = self._settings.outbox.answer_seconds, getattr(association, send)
            code, _, answers = self.request(association, seconds, method, *request, **options)
        return (None, [], self._lost()) if code is None else (code, answers, f"status {code:04X}")


def contexts(sop_class: Any) -> list[PresentationContext]:
    """A list of one presentation context for a service, with the two transfer syntaxes that every service
    accepts.
    """
    return [build_context(sop_class, list(LITTLE_ENDIAN))]


def _why_no_association(association: Association, connections: Connections, whom: str) -> NoAssociation:
    """Why an association was not established: rejected, no accepted context, or no answer.

    ``whom``: the peer in words.
    """
    if association.is_rejected:
        return NoAssociation(f"association rejected by {whom}: {association.acceptor.primitive.reason_str}")
    if association.rejected_contexts:
        names = {UID(context.abstract_syntax).name for context in association.rejected_contexts}
        return NoAssociation(f"{whom} does not accept {', '.join(sorted(names))}", takes_nothing=True)
    return NoAssociation(connections.without_answer(whom))
