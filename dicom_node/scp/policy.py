"""AE policy: who may associate, and for which services. The listener reads it from ``policy.json``.

The node replaces the file in one step, so the listener needs neither settings nor database.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.logs import LogTarget
from dicom_node.model.kinds import CONSOLE_AE_TITLE
from dicom_node.scp import statuses
from dicom_node.scp.connection import limits
from dicom_node.scp.connection.pdus import is_ae_title
from dicom_node.scp.contexts import VERIFICATION
from dicom_node.scp.entrance import numeric

if TYPE_CHECKING:  # the listener starts without them
    from dicom_node.config.settings import PeerSettings, Settings

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The only one there is (PS3.7 A.2.1)."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """The rights of one peer; fields as in ``[[peers]]``."""

    name: str
    ae_title: str
    host: str
    may_send: bool
    check_address: bool
    maximum_associations: int
    reports_as: tuple[str, ...] = ()
    """AE titles under which it reports on storage commitment."""
    reports_from: str = ""
    """The host that does, "" where it is ``host``."""
    asks_as: tuple[str, ...] = ()
    """AE titles under which it asks us for storage commitment, from the same host."""
    mpps: bool = False
    """Whether it may report on performed procedure steps."""

    @classmethod
    def from_settings(cls, peer: PeerSettings) -> PeerPolicy:
        """The part of a peer's settings that concerns the listener."""
        return cls(
            name=peer.name,
            ae_title=peer.ae_title,
            host=peer.host,
            may_send="send" in peer.may,
            check_address=peer.check_address,
            maximum_associations=peer.maximum_associations,
            reports_as=tuple(title.strip() for title in peer.reporting_titles),
            reports_from=peer.commitment_host or "",
            asks_as=tuple(title.strip() for title in peer.requesting_titles),
            mpps=peer.mpps,
        )


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """Paths of PEM files; with ``trusted`` a client certificate is required."""

    certificate: str
    private_key: str
    trusted: str | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """The content of an A-ASSOCIATE-RQ; head as in ``RequestHead``, ``refused`` as ``contexts.refusals``."""

    calling_ae: str
    called_ae: str
    address: str
    abstract_syntaxes: tuple[str, ...]
    refused: tuple[str, ...] = ()
    application_context: str = APPLICATION_CONTEXT
    has_version_1: bool = True
    names_user: bool = False
    """Whether it negotiates a user identity (PS3.7 D.3.3.7)."""


@dataclass(frozen=True, slots=True)
class Permission:
    """The rights of an accepted association; ``peer`` is its name, "" for an unknown caller."""

    peer: str
    may_send: bool
    may_report: bool = False
    """On storage commitment."""
    may_ask: bool = False
    """For storage commitment."""
    mpps: bool = False
    """May report on performed procedure steps."""


@dataclass(frozen=True, slots=True)
class AEPolicy:
    """All settings that the listener needs."""

    host: str
    port: int
    share_port: bool
    ae_titles: tuple[str, ...]
    check_called_ae: bool
    unknown_callers: str
    maximum_associations: int
    maximum_object_bytes: int
    acse_timeout_seconds: float
    network_timeout_seconds: float
    further_storage_classes: tuple[str, ...]
    minimum_free_bytes: int
    waiting_objects: int
    waiting_bytes: int
    log_level: str
    tls: TlsPolicy | None
    peers: tuple[PeerPolicy, ...]
    user_identity: str = "ignore"
    strict_instance_uids: bool = False
    log: LogTarget = field(default_factory=LogTarget)

    @classmethod
    def from_settings(cls, settings: Settings) -> AEPolicy:
        """The part of the configuration that concerns the listener."""
        listener = settings.listener
        return cls(
            host=listener.host,
            port=listener.port,
            share_port=listener.share_port,
            ae_titles=(settings.node.ae_title, *listener.further_ae_titles),
            check_called_ae=listener.check_called_ae,
            unknown_callers=listener.unknown_callers,
            maximum_associations=listener.maximum_associations,
            maximum_object_bytes=listener.maximum_object_mib * 2**20,
            acse_timeout_seconds=listener.acse_timeout_seconds,
            network_timeout_seconds=listener.network_timeout_seconds,
            further_storage_classes=listener.further_storage_classes,
            minimum_free_bytes=settings.spool.minimum_free_mib * 2**20,
            waiting_objects=settings.spool.waiting_objects,
            waiting_bytes=settings.spool.waiting_mib * 2**20,
            log_level=settings.node.log_level,
            tls=TlsPolicy(
                str(listener.tls.certificate),
                str(listener.tls.private_key),
                str(listener.tls.trusted) if listener.tls.trusted else None,
            )
            if listener.tls
            else None,
            peers=tuple(map(PeerPolicy.from_settings, settings.peers)),
            user_identity=listener.user_identity,
            strict_instance_uids=listener.instance_uids == "strict",
            log=settings.log_target,
        )

    @classmethod
    def from_json(cls, text: str) -> AEPolicy:
        """Read the output of ``to_json``. Raises ValueError, KeyError or TypeError for any other text."""
        fields: dict[str, Any] = json.loads(text)
        fields["tls"] = TlsPolicy(**fields["tls"]) if fields["tls"] else None
        fields["log"] = LogTarget(**fields["log"])
        peers = (
            peer | {key: tuple(peer.get(key, ())) for key in ("reports_as", "asks_as")}
            for peer in fields["peers"]
        )
        fields["peers"] = tuple(PeerPolicy(**peer) for peer in peers)
        for name in ("ae_titles", "further_storage_classes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    def to_json(self) -> str:
        """The policy as the text of ``policy.json``."""
        return json.dumps(asdict(self), indent=1)

    def write(self, path: Path) -> None:
        """Replace the file at once: a reader finds the old policy or the new one. Raises OSError.

        An identical file is not written again, because a full disk would not accept another one, but is read
        again: the certificates that it names may be others.
        """
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == self.to_json():
                return path.touch()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(self.to_json(), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def decide(self, proposal: Proposal) -> Permission | statuses.Rejection:
        """Decide whether this caller may associate, and for which services.

        May use the name service (``check_address``). An unknown caller may at most verify,
        unless ``unknown_callers`` is "accept"; but a caller may not send under the title of the node's own
        console or of a peer with another address, because rules use the title.
        """
        if not proposal.has_version_1:
            return statuses.PROTOCOL_VERSION_NOT_SUPPORTED
        if proposal.application_context != APPLICATION_CONTEXT:
            return statuses.APPLICATION_CONTEXT_NOT_SUPPORTED
        if proposal.names_user and self.user_identity == "refuse":
            return statuses.USER_IDENTITY_REFUSED
        if not is_ae_title(proposal.called_ae) or (
            self.check_called_ae and proposal.called_ae not in self.ae_titles
        ):
            return statuses.CALLED_AE_NOT_RECOGNISED
        peer = self._peer_of(proposal)
        reporter = self._committing(proposal, lambda one: one.reports_as)
        asking = self._committing(proposal, lambda one: one.asks_as)
        if known_peer := peer or asking or reporter:
            return Permission(
                known_peer.name,
                may_send=peer is not None and peer.may_send,
                may_report=reporter is not None,
                may_ask=asking is not None and asking.name == known_peer.name,
                mpps=peer is not None and peer.mpps,
            )
        return self._decide_unknown(proposal)

    def may_report(self, calling_ae: str) -> bool:
        """Whether a peer may report on storage commitment under this title."""
        return any(calling_ae.strip() in peer.reports_as for peer in self.peers)

    def may_ask(self, calling_ae: str) -> bool:
        """Whether a peer may request storage commitment from us under this title."""
        return any(calling_ae.strip() in peer.asks_as for peer in self.peers)

    def takes_steps_of(self, calling_ae: str) -> bool:
        """Whether a peer may report on performed procedure steps under this title."""
        return any(peer.mpps and peer.ae_title.strip() == calling_ae.strip() for peer in self.peers)

    def has_room(self, permission: Permission, open_associations: Mapping[str, int], here: int) -> bool:
        """Whether one more association is within the limits.

        ``open_associations`` counts associations by name of peer, "" for strangers; ``here`` of them are from
        the same address. If there are peers, strangers never get more than half of the places.
        """
        if sum(open_associations.values()) >= self.maximum_associations:
            return False
        number = open_associations.get(permission.peer, 0)
        if permission.peer:
            return number < {peer.name: peer.maximum_associations for peer in self.peers}[permission.peer]
        half = max(self.maximum_associations // 2, 1) if self.peers else self.maximum_associations
        if permission.may_send:
            return number < half and here < limits.SENDING_STRANGERS_OF_ONE_ADDRESS
        return number < min(half, limits.STRANGERS) and here < limits.STRANGERS_OF_ONE_ADDRESS

    def _decide_unknown(self, proposal: Proposal) -> Permission | statuses.Rejection:
        if not is_ae_title(proposal.calling_ae):
            return statuses.CALLING_AE_NOT_RECOGNISED
        taken = {CONSOLE_AE_TITLE, *(peer.ae_title.strip() for peer in self.peers)}
        taken |= {title for peer in self.peers for title in (*peer.reports_as, *peer.asks_as)}
        if self.unknown_callers == "accept" and proposal.calling_ae.strip() not in taken:
            return Permission("", may_send=True)
        if set(proposal.abstract_syntaxes) == {VERIFICATION}:
            return Permission("", may_send=False)
        return statuses.CALLING_AE_NOT_RECOGNISED

    def _peer_of(self, proposal: Proposal) -> PeerPolicy | None:
        """The peer of this AE title (that may send, where several bear it) at an address of its own."""
        titled = [peer for peer in self.peers if peer.ae_title.strip() == proposal.calling_ae.strip()]
        for peer in sorted(titled, key=lambda peer: not peer.may_send):
            if not peer.check_address or _is_address_of(proposal.address, peer.host):
                return peer
        return None

    def _committing(
        self, proposal: Proposal, titles_of: Callable[[PeerPolicy], tuple[str, ...]]
    ) -> PeerPolicy | None:
        """The peer with this title among those for storage commitment, at an address of its own."""
        for peer in self.peers:
            if proposal.calling_ae.strip() in titles_of(peer) and (
                not peer.check_address or _is_address_of(proposal.address, peer.reports_from or peer.host)
            ):
                return peer
        return None


def policy_path(data_dir: Path, place: str = "") -> Path:
    """The path of the policy of the listener at this place ("" for the first)."""
    return data_dir / (f"policy-{place}.json" if place else "policy.json")


def addresses_of(peers: Iterable[PeerPolicy]) -> Iterator[str]:
    """Numeric addresses of the peers whose host is known. Uses the name service, which may take seconds."""
    for host in {peer.host for peer in peers if peer.host}:
        yield from addresses(host)


class PolicyFile:
    """The file ``policy.json``, read again after it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._identity()
        self._policy = AEPolicy.from_json(path.read_text(encoding="utf-8"))

    def current(self) -> AEPolicy:
        """The newest valid policy; if the file is broken, the previous policy stays in force."""
        try:
            if (identity := self._identity()) != self._seen:
                self._seen = identity
                self._policy = AEPolicy.from_json(self._path.read_text(encoding="utf-8"))
                _LOGGER.info("policy read again")
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOGGER.error("%s cannot be read (%s): the policy before stays in force", self._path, error)
        return self._policy

    def _identity(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size


def _is_address_of(address: str, host: str) -> bool:
    """Whether ``address`` (numeric) is one of ``host`` (a name or an address)."""
    return numeric(address) in {numeric(one) for one in addresses(host)}


def addresses(host: str) -> Iterable[str]:
    """Numeric addresses of a host from the name service, none if it does not know the host."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except OSError:
        return []
