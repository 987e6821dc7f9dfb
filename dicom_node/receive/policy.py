"""AE policy: who may associate, and for which services, with limits on those who have no association yet.

The listener reads it from ``policy.json``, which the node replaces in one step, so the listener needs no
database. No unknown caller can use up the places of others, by silence or by number, or fill the journal.

The accepted storage classes, each in every transfer syntax (``dicom.transfer_syntaxes``): names and UIDs are
pydicom's, which are generated from PS3.6 Annex A. The tables of ``docs/conformance.md`` are generated from
here.
"""

import contextlib
import ipaddress
import json
import logging
import os
import re
import socket
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydicom.uid import UID_dictionary

from dicom_node.base.dicom import dimse_n
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES, SyntaxKind, uid_name
from dicom_node.receive import limits, statuses
from dicom_node.receive.messages import APPLICATION_CONTEXT, Contexts, Proposal, is_ae_title

if TYPE_CHECKING:  # the listener starts without it
    from dicom_node.base.config.settings import Settings

_MINUTE = 60.0
OTHERS = "others"


Failure = Literal["no_place", "too_late", "malformed", "rejected", "no_tls"]
"""Why a connection ended without an association: closed at once, as too many waited; no complete request
in the time allowed; something else than a request; of rejections and TLS failures those without an event of
their own."""


class Entrance:
    """Limits connections that have no association yet, and counts failed ones, by network address.

    The first failure of an address is written to the journal at once, further ones are counted and written
    once a minute. Thread-safe; no method blocks or uses the name service.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with all counts 0. ``clock``: returns monotonic seconds."""
        self._clock, self._lock = clock, threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._peers: OrderedDict[str, None] = OrderedDict()
        self._failures: defaultdict[str, Counter[Failure]] = defaultdict(Counter)
        self._reported: set[str] = set()  # in this minute
        self._listed: Counter[str] = Counter()
        self._minute = clock()

    def know(self, addresses: Iterable[str]) -> None:
        """Mark these addresses as those of peers, for which some connections are reserved; beyond
        ``MOST_ADDRESSES`` the oldest are forgotten.
        """
        with self._lock:
            for address in addresses:
                self._peers[network(address)] = None
                self._peers.move_to_end(network(address))
            while len(self._peers) > limits.MOST_ADDRESSES:
                self._peers.popitem(last=False)

    def enter(self, address: str) -> bool:
        """Admit a new connection from ``address``; return False, counting a failure, if too many are waiting
        for an association.
        """
        one = network(address)
        with self._lock:
            places, mine = limits.WAITING, limits.WAITING_OF_ONE_ADDRESS
            if one in self._peers:
                places, mine = places + limits.WAITING_OF_PEERS, 2 * mine
            if self._waiting.total() < places and self._waiting[one] < mine:
                self._waiting[one] += 1
                return True
        self.fail(address, "no_place")
        return False

    def leave(self, address: str, failure: Failure | None = None) -> None:
        """Stop counting a connection from ``address``, which now has its association or is closed, so that
        another one can be admitted. ``failure``: why it was closed, None if it did not fail.
        """
        with self._lock:
            self._waiting -= Counter([network(address)])  # keeps only what is above 0
        if failure:
            self.fail(address, failure)

    def fail(self, address: str, failure: Failure) -> None:
        """Count one failure of this address."""
        with self._lock:
            self._failures[self._counted_as(address, self._failures)][failure] += 1

    def count_listed(self, address: str) -> bool:
        """Count a failure of this address; return whether it may still have its own event in this minute."""
        with self._lock:
            self._turn_minute()
            one = self._counted_as(address, self._listed)
            self._listed[one] += 1
            return self._listed[one] <= limits.LISTED_A_MINUTE

    def due(self) -> list[tuple[str, Mapping[Failure, int]]]:
        """Return addresses with the failures that are due for the journal, by kind; this call resets the
        counts.
        """
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

    def _counted_as(self, address: str, known: Collection[str]) -> str:
        """Return the name under which an address is counted: its own, or that of all others if ``known`` has
        too many.
        """
        one = network(address)
        return one if one in known or len(known) < limits.MOST_ADDRESSES else OTHERS

    def _turn_minute(self) -> None:
        """Reset the limits per minute when a minute has passed."""
        if self._clock() - self._minute >= _MINUTE:
            self._minute = self._clock()
            self._listed.clear()
            self._reported.clear()


def network(address: str) -> str:
    """Return the key under which an address is counted: the IPv4 address, or the IPv6 /64 network, within
    which a machine can choose any address.
    """
    one = numeric(address)
    return str(one) if one.version == 4 else str(ipaddress.ip_network((one, 64), strict=False))


def numeric(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address without its scope; an IPv4 address written as IPv6 becomes IPv4."""
    parsed = ipaddress.ip_address(address.split("%", 1)[0])
    return (parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None) or parsed


_KEYWORDS = """
    UltrasoundImageStorage UltrasoundMultiFrameImageStorage
    UltrasoundImageStorageRetired UltrasoundMultiFrameImageStorageRetired
    ComputedRadiographyImageStorage
    DigitalXRayImageStorageForPresentation DigitalXRayImageStorageForProcessing
    SecondaryCaptureImageStorage MultiFrameSingleBitSecondaryCaptureImageStorage
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    MultiFrameTrueColorSecondaryCaptureImageStorage
    BasicTextSRStorage EnhancedSRStorage ComprehensiveSRStorage Comprehensive3DSRStorage
    ExtensibleSRStorage ProcedureLogStorage MammographyCADSRStorage ChestCADSRStorage ColonCADSRStorage
    XRayRadiationDoseSRStorage EnhancedXRayRadiationDoseSRStorage PatientRadiationDoseSRStorage
    AcquisitionContextSRStorage SimplifiedAdultEchoSRStorage KeyObjectSelectionDocumentStorage
    GrayscaleSoftcopyPresentationStateStorage ColorSoftcopyPresentationStateStorage
    PseudoColorSoftcopyPresentationStateStorage BlendingSoftcopyPresentationStateStorage
    AdvancedBlendingPresentationStateStorage VariableModalityLUTSoftcopyPresentationStateStorage
    SegmentationStorage
    EncapsulatedPDFStorage EncapsulatedCDAStorage
    EnhancedUSVolumeStorage RawDataStorage
    DigitalMammographyXRayImageStorageForPresentation DigitalMammographyXRayImageStorageForProcessing
    XRayAngiographicImageStorage XRayRadiofluoroscopicImageStorage
    TwelveLeadECGWaveformStorage GeneralECGWaveformStorage AmbulatoryECGWaveformStorage
"""  # those of sources first (``dicom.sop_classes``)


_BY_KEYWORD = {entry[4]: uid for uid, entry in UID_dictionary.items() if entry[4]}
STORAGE_CLASSES: Mapping[str, str] = {
    **{_BY_KEYWORD[keyword]: uid_name(_BY_KEYWORD[keyword]) for keyword in _KEYWORDS.split()},
    # Private classes of ultrasound systems, as public dictionaries of UIDs name them.
    "1.2.840.113543.6.6.1.3.10001": "Private Philips HP Live 3D 01 Storage",
    "1.2.840.113543.6.6.1.3.10002": "Private Philips HP Live 3D 02 Storage",
    "1.3.46.670589.2.5.1.1": "Private Philips 3D Presentation State Storage",
    "1.2.276.0.48.5.1.4.1.1.7": "Private TomTec Annotation Storage",
    "1.2.392.200036.9116.7.8.1.1.1": "Private Toshiba US Image Storage",
}
"""Names of SOP classes of the Storage service (PS3.4 B.5) by UID.

Accepted without configuration, so that nothing that an ultrasound cart sends beside its images fails its
job; ``listener.further_storage_classes`` adds to them."""

_PROGRAM_KEYWORDS = """
    CTImageStorage EnhancedCTImageStorage LegacyConvertedEnhancedCTImageStorage
    MRImageStorage EnhancedMRImageStorage EnhancedMRColorImageStorage LegacyConvertedEnhancedMRImageStorage
    MRSpectroscopyStorage
    PositronEmissionTomographyImageStorage EnhancedPETImageStorage LegacyConvertedEnhancedPETImageStorage
    NuclearMedicineImageStorage
    EnhancedXAImageStorage EnhancedXRFImageStorage XRay3DAngiographicImageStorage
    XRay3DCraniofacialImageStorage
    BreastTomosynthesisImageStorage BreastProjectionXRayImageStorageForPresentation
    BreastProjectionXRayImageStorageForProcessing
    DigitalIntraOralXRayImageStorageForPresentation DigitalIntraOralXRayImageStorageForProcessing
    PhotoacousticImageStorage IntravascularOpticalCoherenceTomographyImageStorageForPresentation
    OphthalmicPhotography8BitImageStorage OphthalmicPhotography16BitImageStorage
    OphthalmicTomographyImageStorage WideFieldOphthalmicPhotographyStereographicProjectionImageStorage
    WideFieldOphthalmicPhotography3DCoordinatesImageStorage
    OphthalmicOpticalCoherenceTomographyEnFaceImageStorage
    VLEndoscopicImageStorage VideoEndoscopicImageStorage VLMicroscopicImageStorage
    VLSlideCoordinatesMicroscopicImageStorage VLPhotographicImageStorage VideoPhotographicImageStorage
    VLWholeSlideMicroscopyImageStorage DermoscopicPhotographyImageStorage ConfocalMicroscopyImageStorage
    ParametricMapStorage SurfaceSegmentationStorage RealWorldValueMappingStorage
    SpatialRegistrationStorage DeformableSpatialRegistrationStorage SpatialFiducialsStorage
    RTStructureSetStorage RTDoseStorage RTPlanStorage RTIonPlanStorage RTImageStorage EnhancedRTImageStorage
    RTSegmentAnnotationStorage
    MicroscopyBulkSimpleAnnotationsStorage EncapsulatedSTLStorage
    GeneralAudioWaveformStorage RoutineScalpElectroencephalogramWaveformStorage
    XAXRFGrayscaleSoftcopyPresentationStateStorage
"""
PROGRAM_CLASSES: Mapping[str, str] = {
    **{_BY_KEYWORD[keyword]: uid_name(_BY_KEYWORD[keyword]) for keyword in _PROGRAM_KEYWORDS.split()},
    # PS3.6 table A-1 of 2024 and 2025, which pydicom's dictionary does not have yet.
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
}
"""What is accepted besides, as soon as a rule runs a program. Both lists together fit an association of a
C-GET (128 presentation contexts)."""

VERIFICATION = "1.2.840.10008.1.1"
_SYNTAXES_SHOWN = 3
_ACCEPTED, _NO_SUCH_CLASS, _NO_SUCH_SYNTAX = 0, 3, 4
_NOT_SIGNIFICANT = "1.2.840.10008.1.2"  # the transfer syntax of a refused context (PS3.8 9.3.3.2)
LITTLE_ENDIAN = tuple(
    one.uid for one in TRANSFER_SYNTAXES if one.kind in (SyntaxKind.EXPLICIT, SyntaxKind.IMPLICIT)
)
"""Transfer syntaxes of commands that are no C-STORE."""
_SYNTAXES = tuple(one.uid for one in TRANSFER_SYNTAXES)
_CLASS = re.compile(r"(?:[^:]* \()?([0-9]+(?:\.[0-9]+)+)\)?")  # as _named writes it


def accepted_classes(further: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the Storage SOP Class UIDs that the node accepts: its own list and ``further`` ones
    (:func:`further_classes`).
    """
    return tuple(dict.fromkeys([*STORAGE_CLASSES, *further]))


def further_classes(settings: "Settings") -> tuple[str, ...]:
    """Return the Storage SOP Class UIDs that this configuration adds: those that it names, and those of
    programs if a rule runs one.
    """
    programs = PROGRAM_CLASSES if any(rule.runs_program for rule in settings.rules) else ()
    return tuple(dict.fromkeys([*settings.listener.further_storage_classes, *programs]))


def negotiate(
    proposed: Contexts, supported: Mapping[str, tuple[str, ...]]
) -> tuple[dict[int, tuple[int, str]], tuple[str, ...]]:
    """Choose result (PS3.8 Table 9-18) and transfer syntax for each proposed presentation context; return
    them by context id, and the refused contexts as texts.

    ``supported``: SOP class -> transfer syntaxes, preferred first. A text is the SOP class, such as "CT Image
    Storage (1.2.840.10008.5.1.4.1.1.2)". If the node accepts the class, but none of the proposed transfer
    syntaxes, a colon and these transfer syntaxes follow.
    """
    results, refused = dict[int, tuple[int, str]](), dict[str, None]()
    for context_id, (abstract, syntaxes) in proposed.items():
        ours = supported.get(abstract)
        best = next((one for one in ours or () if one in syntaxes), "")
        if best:
            results[context_id] = _ACCEPTED, best
        elif ours is None:
            results[context_id] = _NO_SUCH_CLASS, _NOT_SIGNIFICANT
            refused[_named(abstract)] = None
        else:
            results[context_id] = _NO_SUCH_SYNTAX, _NOT_SIGNIFICANT
            shown = ", ".join(_named(uid) for uid in syntaxes[:_SYNTAXES_SHOWN])
            more = f" and {len(syntaxes) - _SYNTAXES_SHOWN} more" if len(syntaxes) > _SYNTAXES_SHOWN else ""
            refused[f"{_named(abstract)}: {shown}{more}"] = None
    return results, tuple(refused)


def refused_class(refusal: str) -> str:
    """Return the SOP Class UID in a refusal text of :func:`negotiate`; "" if the class itself is accepted or
    the text has no UID.
    """
    found = _CLASS.fullmatch(refusal)
    return found[1] if found else ""


def _named(uid: str) -> str:
    """Return a UID from outside with its name, if it has one."""
    return f"{uid_name(uid)} ({shown_uid(uid)})" if uid in UID_dictionary else shown_uid(uid)


def shown_uid(uid: str) -> str:
    """Return a UID from outside with all but digits and dots replaced by "?", so that events never show a
    name sent in its place.
    """
    return re.sub(r"[^0-9.]", "?", uid[:64])


_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """The rights of one configured peer at the listener; fields as in ``[[peers]]``."""

    name: str
    ae_title: str
    host: str
    may_send: bool
    check_address: bool
    maximum_associations: int
    reports_as: tuple[str, ...] = ()
    """AE titles under which the peer sends storage commitment reports."""
    reports_from: str = ""
    """The host from which it sends them; "" if it is ``host``."""
    asks_as: tuple[str, ...] = ()
    """AE titles under which the peer requests storage commitment from this node, from the same host."""
    mpps: bool = False
    """Whether the peer may report performed procedure steps (MPPS)."""

    def is_at(self, address: str, host: str) -> bool:
        """Return whether the peer may call from this numeric address. ``host``: the host whose addresses are
        allowed.
        """
        if not self.check_address:
            return True
        return numeric(address) in {numeric(one) for one in addresses(host)}


@dataclass(frozen=True, slots=True)
class Permission:
    """The rights of an accepted association. ``peer``: the name of the peer, "" for an unknown caller."""

    peer: str
    may_send: bool
    may_report: bool = False
    """Whether it may send storage commitment reports."""
    may_ask: bool = False
    """Whether it may request storage commitment."""
    mpps: bool = False
    """Whether it may report performed procedure steps (MPPS)."""


@dataclass(frozen=True, slots=True)
class AEPolicy:
    """All settings that the listener needs, as written to ``policy.json``."""

    ae_titles: tuple[str, ...]
    check_called_ae: bool
    host: str
    port: int
    share_port: bool
    tls: tuple[str, str, str] | None
    """Paths of PEM files: certificate, its key, and the authorities of which clients need a certificate ("":
    none). None without TLS.
    """
    maximum_associations: int
    maximum_object_mib: int
    acse_timeout_seconds: float
    network_timeout_seconds: float
    further_storage_classes: tuple[str, ...]
    minimum_free_mib: int
    waiting_objects: int
    waiting_mib: int
    peers: tuple[PeerPolicy, ...]
    log_level: str
    log_as_json: bool

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Build the policy from the part of the configuration that concerns the listener."""
        listener, spool, tls = settings.listener, settings.spool, settings.listener.tls
        peers = tuple(
            PeerPolicy(
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
            for peer in settings.peers
        )
        return cls(
            ae_titles=(settings.node.ae_title, *listener.further_ae_titles),
            check_called_ae=listener.check_called_ae,
            host=listener.host,
            port=listener.port,
            share_port=listener.share_port,
            tls=(str(tls.certificate), str(tls.private_key), str(tls.trusted or "")) if tls else None,
            maximum_associations=listener.maximum_associations,
            maximum_object_mib=listener.maximum_object_mib,
            acse_timeout_seconds=listener.acse_timeout_seconds,
            network_timeout_seconds=listener.network_timeout_seconds,
            further_storage_classes=further_classes(settings),
            minimum_free_mib=spool.minimum_free_mib,
            waiting_objects=spool.waiting_objects,
            waiting_mib=spool.waiting_mib,
            peers=peers,
            log_level=settings.node.log_level,
            log_as_json=settings.log.format == "json",
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the output of ``to_json``. Raises ValueError, LookupError or TypeError for any other text."""
        fields = json.loads(text, object_hook=with_tuples)
        return cls(**{**fields, "peers": tuple(PeerPolicy(**peer) for peer in fields["peers"])})

    def to_json(self) -> str:
        """Return the policy as the text of ``policy.json``."""
        return json.dumps(asdict(self), indent=1)

    def write(self, path: Path) -> None:
        """Replace the policy file atomically: a reader finds the old policy or the new one. Raises OSError.

        An identical file is not written again, because a full disk would refuse that, but its time is changed
        so that it is read again: the certificates that it names may be new.
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
        """Decide whether the caller of an association request may associate, and for which services.

        May use the name service (``check_address``). An unknown caller may use verification (C-ECHO) at most.
        """
        if refusal := self._refusal(proposal):
            return refusal
        calling, address = proposal.calling_ae.strip(), proposal.address
        sender = self._sender(calling, address)
        committing = [
            peer
            for peer in self.peers
            if calling in (*peer.reports_as, *peer.asks_as)
            and peer.is_at(address, peer.reports_from or peer.host)
        ]
        reporter = next((peer for peer in committing if calling in peer.reports_as), None)
        asking = next((peer for peer in committing if calling in peer.asks_as), None)
        if known_peer := sender or asking or reporter:
            return Permission(
                known_peer.name,
                may_send=sender is not None and sender.may_send,
                may_report=reporter is not None,
                may_ask=asking is not None and asking.name == known_peer.name,
                mpps=sender is not None and sender.mpps,
            )
        classes = {abstract for abstract, _ in proposal.contexts.values()}
        if is_ae_title(proposal.calling_ae) and classes == {VERIFICATION}:
            return Permission("", may_send=False)
        return statuses.CALLING_AE_NOT_RECOGNISED

    def _refusal(self, proposal: Proposal) -> statuses.Rejection | None:
        """Return why nobody may associate by this request, whoever calls; None if it is for this node."""
        if not proposal.has_version_1:
            return statuses.PROTOCOL_VERSION_NOT_SUPPORTED
        if proposal.application_context != APPLICATION_CONTEXT:
            return statuses.APPLICATION_CONTEXT_NOT_SUPPORTED
        called = proposal.called_ae
        if not is_ae_title(called) or (self.check_called_ae and called not in self.ae_titles):
            return statuses.CALLED_AE_NOT_RECOGNISED
        return None

    def _sender(self, calling: str, address: str) -> PeerPolicy | None:
        """Return the peer with this AE title at this address; one that may send where several bear it."""
        titled = [peer for peer in self.peers if peer.ae_title.strip() == calling]
        titled.sort(key=lambda peer: not peer.may_send)
        return next((peer for peer in titled if peer.is_at(address, peer.host)), None)

    def offer(
        self, permission: Permission, roles: Mapping[str, tuple[bool, bool]]
    ) -> tuple[Mapping[str, tuple[str, ...]], dict[str, tuple[bool, bool]]]:
        """Return what the node accepts on an association with this permission: transfer syntaxes by SOP
        class, and the peer's roles by SOP class.

        ``roles``: the roles that the peer proposed, by SOP class; only those for storage commitment (PS3.4
        J.3) are accepted.
        """
        decoded = tuple(one.uid for one in TRANSFER_SYNTAXES if not one.is_encapsulated)
        supported = {
            VERIFICATION: decoded,
            **dict.fromkeys(accepted_classes(self.further_storage_classes), _SYNTAXES),
        }
        granted = dict[str, tuple[bool, bool]]()
        scu, scp = roles.get(dimse_n.COMMITMENT_CLASS, (True, False))
        reports = scp and permission.may_report
        if reports or (scu and permission.may_ask):
            supported[dimse_n.COMMITMENT_CLASS] = LITTLE_ENDIAN
            if dimse_n.COMMITMENT_CLASS in roles:
                granted[dimse_n.COMMITMENT_CLASS] = (not reports, reports)
        if permission.mpps:
            supported[dimse_n.STEP_CLASS] = LITTLE_ENDIAN
        return supported, granted

    def has_room(self, permission: Permission, address: str, open_ones: Collection[tuple[str, str]]) -> bool:
        """Return whether one more association from this address is within the limits.

        ``open_ones``: (name of the peer, "" for strangers; address) of each open association. If peers are
        configured, strangers never get more than half of the associations.
        """
        number = sum(peer == permission.peer for peer, _ in open_ones)
        most = self.maximum_associations
        if len(open_ones) >= most:
            return False
        if permission.peer:
            return number < {peer.name: peer.maximum_associations for peer in self.peers}[permission.peer]
        here = sum(one == ("", address) for one in open_ones)
        strangers = min(max(most // 2, 1) if self.peers else most, limits.STRANGERS)
        return number < strangers and here < limits.STRANGERS_OF_ONE_ADDRESS


def policy_path(data_dir: Path, place: str = "") -> Path:
    """Return the path of the policy file of the listener with this place name ("" for the first listener)."""
    return data_dir / (f"policy-{place}.json" if place else "policy.json")


def with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its lists as tuples, for the fields of frozen classes."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


class PolicyFile:
    """The file ``policy.json``, read again whenever it was replaced."""

    def __init__(self, path: Path) -> None:
        """Prepare to read the policy file ``path``."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._policy: AEPolicy | None = None

    def current(self) -> AEPolicy:
        """Return the newest valid policy; if the file is broken, the previous policy stays in force.

        Raises OSError, ValueError, LookupError or TypeError if there is no previous one.
        """
        try:
            status = self._path.stat()
            identity = status.st_ino, status.st_mtime_ns, status.st_size
            if self._policy is None or identity != self._seen:
                self._seen = identity
                self._policy = AEPolicy.from_json(self._path.read_text(encoding="utf-8"))
                _LOGGER.info("policy read")
        except (OSError, ValueError, LookupError, TypeError) as error:
            if self._policy is None:
                raise
            _LOGGER.error("%s cannot be read (%s): the policy before stays in force", self._path, error)
        return self._policy


def addresses(host: str) -> Iterable[str]:
    """Return the numeric addresses of a host by the name service; none if it does not know the host."""
    try:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, None)]
    except OSError:
        return []
