"""All settings: frozen once read, every mistake reported together (exit 78).

Each field says its unit and its reason; ``docs/reference/settings.md`` and ``config/node.toml`` are checked
against this module by tests. ``${VAR}`` and ``${VAR:-default}`` in strings are taken from the environment,
``${file:PATH}`` from a file (its last line break dropped), so that secrets stay out of the configuration.
"""

import difflib
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dicom_node.base.connectors import extended, installed
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import (
    CONSOLE_AE_TITLE,
    CONSOLE_NAME,
    DEIDENTIFIED_KINDS,
    ResultKind,
    Retained,
)

AE_TITLE: Final = r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]*)$"
NAME: Final = r"^[A-Za-z0-9._-]+$"
HOST: Final = r"^[A-Za-z0-9._:%-]*$"
MODALITY: Final = r"^[A-Z0-9_*?]([A-Z0-9_ *?]*[A-Z0-9_*?])?$"  # PS3.5 6.2, CS, with the signs of patterns
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


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "known") -> str:
    """Suggest the known word most similar to ``word`` (``did you mean us1?``); without a similar word, list
    all known words after the heading ``otherwise``.
    """
    choices = list(filter(None, dict.fromkeys(known)))
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(str(word).casefold(), folded, n=1, cutoff=0.5)
    return f"did you mean {folded[near[0]]}?" if near else f"{otherwise}: {', '.join(choices) or 'none'}"


def refuse(*faults: tuple[object, str]) -> None:
    """Raise ValueError with the remedy of the first fault that is true. ``faults``: pairs of condition and
    remedy.
    """
    for is_there, remedy in faults:
        if is_there:
            raise ValueError(remedy)


def checked_host(host: str) -> str:
    """Return the host. Raises ValueError for a malformed IPv4 address, or when the text contains a port."""
    parts = host.split(".")
    is_ipv4 = len(parts) == 4 and all(part.isdigit() and int(part) <= 255 for part in parts)
    refuse(
        (
            re.fullmatch(r"[0-9.]+", host) and not is_ipv4,
            "is not an IP address: four numbers from 0 to 255, such as 192.168.1.20",
        ),
        (host.count(":") == 1, "must be the name or address alone: the port is a key of its own"),
    )
    return host


def checked_url(url: str) -> str:
    """Return ``url`` if it is a valid base URL or "". Raises ValueError with the remedy."""
    found = re.fullmatch(r"https?://([\w.%-]+|\[[\w:.%]+\])(:(\d{1,5}))?(/.*)?", url)
    refuse(
        (url and not url.startswith(("http://", "https://")), "must begin with http:// or https://"),
        ("@" in url, "leave user and password out of it: they are keys of their own"),
        ("?" in url or "#" in url, "must end with the path: leave out ? or # and what follows"),
        (
            url and not (found and 0 < int(found[3] or 80) < 2**16),
            "write it as http://host:8042 or https://host/dicom-web",
        ),
    )
    return url


def checked_viewer(address: str) -> str:
    """Return the address of a web viewer if it is valid and contains ``{study}`` or ``{accession}``.

    Raises ValueError with the remedy.
    """
    places = {*re.findall(r"{([^{}]*)}", address)}
    refuse(
        (
            address.partition("://")[0] not in _VIEWER_SCHEMES,
            f"must begin with one of {', '.join(f'{one}://' for one in _VIEWER_SCHEMES)}",
        ),
        (places - {"study", "accession"}, "only {study} and {accession} can be in it"),
        (not places, "must have {study}, the Study Instance UID, or {accession} where it belongs"),
    )
    return address


DEVICE_RULES_FOLDER: Final = "device_rules"
"""Device rules that were made at the console, in ``node.data_dir``, unless a folder is configured."""
SLOWEST_KIB_PER_SECOND = 64.0
"""Rate at which an object that is slower is cut off, and tried later."""
REVEALED: Final = "secrets revealed"
"""The context of a dump for a process of the node itself, by a pipe that nobody else reads."""


def _dumped(secret: SecretStr, info: SerializationInfo) -> str:
    """Serialize a secret to JSON: in plain text if the context is ``REVEALED`` (for child processes),
    otherwise as stars.
    """
    return secret.get_secret_value() if info.context == REVEALED else str(secret)


AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=AE_TITLE)]
Secret = Annotated[SecretStr, PlainSerializer(_dumped, return_type=str)]
"""A password, or what may hold one: neither repr, str, a log, a mistake nor JSON shows it."""


class Section(BaseModel):
    """A table of the configuration: frozen once read, unknown keys are mistakes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class LogSettings(Section):
    """``[log]``: the form of the log, which is on standard error. No level logs patient data."""

    format: Literal["text", "json"] = "text"
    """text, or json: an object a line, with an event's number and fields under keys of their own."""


class AssemblySettings(Section):
    """``[assembly]``: when a study is complete."""

    quiet_seconds: float = Field(5, ge=0)
    """No object and no open association for this long, for CR and DX."""
    quiet_seconds_us: float = Field(30, ge=0)
    """The same for ultrasound, where the examination goes on between images."""
    mpps_minutes: float = Field(30, gt=0, le=1440)
    """How long a study that is quiet waits for the end of its performed procedure steps, and for the images
    that these name (peers with mpps)."""
    archive_seconds: float = Field(60, ge=0, le=600)
    """How long the job of a study waits for earlier studies (priors of a rule), once the study is quiet."""


class SpoolSettings(Section):
    """``[spool]``: received objects and built results on disk."""

    minimum_free_mib: int = Field(1024, ge=0)
    """Under this much free space (MiB) C-STORE is refused with A700 and the sender tries later."""
    waiting_objects: int = Field(20_000, ge=1)
    """Objects of one peer (of strangers: of one address) that may wait to be indexed. Beyond it C-STORE is
    refused with A700, and the peer tries later."""
    waiting_mib: int = Field(65_536, ge=1)
    """The same for the size of these objects (MiB)."""
    keep_days: float = Field(14, ge=0)
    """How long received objects stay after all results were confirmed."""
    result_days: float = Field(0, ge=0)
    """How long files of results stay after all of them were confirmed, and until the images are gone. 0: for
    good."""


class WorkerSettings(Section):
    """``[workers]``: processes that run the models."""

    processes: int = Field(1, ge=0, le=64)
    """Worker processes of this node; 0: this machine runs none."""
    threads: int = Field(2, ge=1, le=128)
    """CPU threads of one worker's inference."""
    inference: Literal["cpu", "cuda", "openvino"] = "cpu"
    """Where ONNX Runtime runs all networks: cuda and openvino need a build of it that has them."""
    models_dir: Path | None = None
    """Folder with your own model cards and weights, besides those shipped."""
    device_rules_dir: Path | None = None
    """Folder with your own device rules (*.toml): where your scanners write the patient's name."""
    memory_mib: int = Field(2304, ge=0)
    """Memory that one worker may take (MiB of data, RLIMIT_DATA; 0: no limit). An image that needs more fails
    by itself. Enough for ultrasound stills of 20 megapixels and X-rays of 40; larger stills are refused."""
    time_limit_seconds: float = Field(600, gt=0)
    """A job that takes longer is stopped and counts as failed once."""
    lease_seconds: float = Field(15, gt=0, le=3600)
    """A worker that shows no life for this long loses its job to another."""
    attempts: int = Field(3, ge=1)
    """How often a job is tried before it fails for good."""
    retry_seconds: float = Field(5, ge=0, le=3600)
    """Wait before the second attempt; doubles for each further one."""
    pipelines: tuple[str, ...] = ()
    """This node's workers load only these pipelines, and take only jobs of them; empty: all."""

    def takes(self, pipeline: str) -> bool:
        """Return whether the workers of this node run the pipeline with this name."""
        return not self.pipelines or pipeline in self.pipelines


class OutboxSettings(Section):
    """``[outbox]``: delivery of results."""

    deliver: bool = True
    """false: this machine sends nothing, another of the site does, such as one with --role delivery."""
    retry_seconds: float = Field(2, gt=0)
    """Wait before a delivery is tried again; doubles up to retry_limit_seconds."""
    retry_limit_seconds: float = Field(300, gt=0, le=3600)
    """Longest wait between two tries, at most an hour. A peer that is down is tried for ever."""
    confirm_seconds: float = Field(1800, gt=0)
    """An object that the peer does not show is asked for again this long, then sent again."""
    refusals: int = Field(3, ge=1)
    """After this many refusals that waiting does not cure (0122, other Axxx and Cxxx) a person must look."""
    answer_seconds: float = Field(120, gt=0)
    """A peer that takes no byte or gives no answer for this long is cut off and tried later. An object may
    take as long, and a second more for each 64 KiB."""
    assess_hours: float = Field(24, ge=0)
    """Event 4041 when results of a rule with assess_first wait longer for a person (hours); 0: never."""

    def seconds_for(self, size: int) -> float:
        """Return the maximum number of seconds for sending ``size`` bytes and waiting for the answer."""
        return self.answer_seconds + size / (SLOWEST_KIB_PER_SECOND * 1024)


Name = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME)]
Label = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[\w .-]+$")]
Host = Annotated[str, Field(max_length=255, pattern=HOST), AfterValidator(checked_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Words = tuple[str, ...]
Patterns = tuple[Annotated[str, Field(min_length=1)], ...]
PeerService = Literal["storage", "query", "commitment"]
if TYPE_CHECKING:
    Transport = str
else:
    Transport = Literal["dimse", *installed("destinations")]
NEEDS_RESTART = "cannot change while the node runs: restart it"
"""Of the settings that are ``Settings.fixed``."""


class NodeSettings(Section):
    """``[node]``: who we are and where we keep things."""

    ae_title: AeTitle = "AINODE"
    """Our AE title, called by modalities and used when we call a peer; also the station name in results."""
    data_dir: Path = Path("./var")
    """Folder for spool, database, results and journal. With SQLite on a local disk, no network share."""
    database_url: Secret = Field("", validate_default=True)
    """SQLAlchemy URL; empty: SQLite under data_dir. PostgreSQL: postgresql+psycopg://user@host/name."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Level of the log (standard error). No level logs patient data."""
    event_days: float = Field(400, ge=1)
    """How long events, and associations that have ended, are kept."""
    entered: int = 0
    """The node itself sets it: the version of the entered peers and rules that it runs with."""


class TlsSettings(Section):
    """``[listener.tls]`` (PS3.15 B.12) and ``[console.tls]``: our certificate, and the authorities whose
    clients are accepted.
    """

    certificate: Path
    """PEM file with our certificate and its chain."""
    private_key: Path
    """PEM file with its key."""
    trusted: Path | None = None
    """PEM file of CAs whose client certificates are accepted; set: a client certificate is required."""


class ListenerSettings(Section):
    """``[listener]``: the C-STORE and C-ECHO service."""

    host: Host = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: Port = 11112
    """TCP port."""
    share_port: bool = False
    """Further listeners of this folder may have the same port; the system deals connections among them."""
    tls: TlsSettings | None = None
    """Certificates; absent: plain DICOM."""
    maximum_associations: int = Field(100, ge=1, le=1000)
    """Associations at the same time, over all peers; further ones are rejected for the moment."""
    maximum_object_mib: int = Field(4096, ge=1)
    """Larger objects (MiB) are refused with C001; the disk is guarded by spool.minimum_free_mib."""
    acse_timeout_seconds: float = Field(30, gt=0)
    """How long a peer may take from its connection to the whole of its association request."""
    network_timeout_seconds: float = Field(60, gt=0)
    """How long an association may be idle; a message gets a second more for each 100 bytes that came."""
    check_called_ae: bool = True
    """Refuse associations that call another AE title than ours."""
    further_ae_titles: tuple[AeTitle, ...] = ()
    """More AE titles that we answer to (rules can tell them apart)."""
    further_storage_classes: Words = ()
    """SOP Class UIDs accepted besides those of the conformance statement."""


@extended("settings.console")
class ConsoleSettings(Section):
    """``[console]``: pages for people with a browser."""

    url: Annotated[str, AfterValidator(checked_url)] = ""
    """Its address for people, such as "https://ai-node.example.org": in links of notifications, and
    where the provider of [console.oidc] sends browsers back to; empty: no links."""
    enabled: bool = False
    """Serve it where the node receives or has that role; needs dicom-ai-node-console, and users."""
    host: Host = "127.0.0.1"
    """Address to listen on; another than this machine's own 127.0.0.1 or ::1 needs [console.tls]."""
    port: Port = 8080
    """TCP port."""
    tls: TlsSettings | None = None
    """Certificates, with the keys of [listener.tls]; absent: plain HTTP, for this machine only."""
    idle_minutes: float = Field(15, gt=0, le=1440)
    """Who asks for no page for this long is signed out."""
    upload_mib: int = Field(2048, ge=1)
    """Largest upload or request of STOW-RS (MiB)."""
    hosts: tuple[Host, ...] = ()
    """Names under which the console is asked for, such as "ai-node.example.org", without port. localhost and
    the address that is connected to need no entry."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Addresses or networks of reverse proxies, such as "127.0.0.1" or "10.1.0.0/24". What they say in
    X-Forwarded-For is the address of a visitor: limits count by it, and the audit has it."""
    open_in: dict[Label, Annotated[str, AfterValidator(checked_viewer)]] = Field({}, max_length=5)
    """Viewers that the page of a study links to, by name, as open_in = {OHIF =
    "https://ohif.example.org/viewer?StudyInstanceUIDs={study}"}. {study}: the Study Instance UID,
    {accession}: the Accession Number."""
    dicomweb_store: bool = False
    """Programs may store objects at /api/dicomweb/studies (STOW-RS), with a token of an operator or admin."""
    local_peers: bool = False
    """Entered peers may have an address of this machine, link-local ones and those of cloud metadata."""
    metrics_token: Secret = Field("", validate_default=True)
    """Bearer token for /metrics, by ${VAR}; empty: /metrics is refused at the console's port."""
    metrics_port: Port | None = None
    """A further port at console.host that answers /metrics without a token, /healthz and /readyz, and nothing
    else: for a network of its own. Whoever reaches it reads the numbers."""


@extended("settings.peers")
class PeerSettings(Section):
    """``[[peers]]``: a modality, a PACS, an Orthanc."""

    by_url: ClassVar = frozenset({"orthanc", "dicomweb"})
    """Transports whose peers have a base URL. A connector's class may have more."""
    by_address: ClassVar = frozenset({"dimse"})
    """Transports whose peers have host and port. A connector's class may have more."""
    takes_over: ClassVar[frozenset[str]] = frozenset()
    """Transports whose acknowledgement says that the peer is responsible from now on."""

    name: Name
    """Short name, used in rules and commands."""
    ae_title: AeTitle
    """Its AE title."""
    host: Host = ""
    """Its address, for sending and (with check_address) for receiving."""
    port: Port | None = None
    """Its port; needed when it may receive over DIMSE."""
    may: tuple[Literal["send", "receive", "query"], ...] = ("send",)
    """"send": may send to us. "receive": may get results. "query": may be asked for studies."""
    check_address: bool = False
    """Refuse associations under this AE title from another address than host."""
    maximum_associations: int = Field(20, ge=1)
    """Associations of this peer at the same time."""
    quiet_seconds: float | None = Field(None, ge=0)
    """Overrides assembly.quiet_seconds for studies of this peer."""
    silent_hours: float = Field(0, ge=0)
    """Event 1010 when no object came from it for so long; 0: it may be silent."""
    mpps: bool = False
    """With "send": it may report on its performed procedure steps (MPPS): a study is complete when its steps
    have ended and all images that they name are here."""
    assume_charset: str = ""
    """Specific Character Set (0008,0005) to assume where this peer names none or a wrong one."""
    transport: Transport = "dimse"
    """How results are sent: C-STORE, Orthanc's REST API, STOW-RS; reports as HL7 v2 ORU^R01 by MLLP, or as
    resources of FHIR R4."""
    url: Annotated[str, AfterValidator(checked_url)] = ""
    """Base URL for orthanc (http://host:8042), dicomweb (…/dicom-web) and fhir (…/fhir)."""
    username: str = ""
    """For HTTP; better by ${VAR}."""
    password: Secret = Field("", validate_default=True)
    """For HTTP; by ${VAR}, never in the file."""
    tls: bool = False
    """Call this peer with DICOM TLS, or MLLP over TLS, with the listener's certificate as ours."""
    results: tuple[ResultKind, ...] = (ResultKind.SR, ResultKind.GSPS, ResultKind.SC)
    """Kinds of result that it can show: sr, gsps, sc, summary, pdf (needs the extra pdf), heatmap, cleaned,
    seg."""
    confirm: Literal["query", "commitment", "none"] = "query"
    """"query": ask until it shows the object. "commitment": until it says that it keeps it. "none": its
    Success is all we get."""
    commitment_hours: float = Field(24, gt=0, le=168)
    """With confirm = "commitment": how long its report may take."""
    commitment_else: Literal["query", "give_up"] = "query"
    """Where no report comes: "query": ask as without commitment. "give_up": a dead letter, for a person."""
    query_ae_title: AeTitle | None = None
    """Another AE title to query, where store and query are two AEs."""
    query_host: Host | None = None
    """Another host to query."""
    query_port: Port | None = None
    """Another port to query."""
    retrieve: Literal["move", "get"] = "move"
    """With "query", unless by DICOMweb: C-MOVE (the peer knows our AE title and address, and may send), or
    C-GET."""
    fetch_per_minute: float = Field(6, gt=0, le=600)
    """With "query": studies a minute that are retrieved from it at most."""
    retrieve_minutes: float = Field(10, gt=0, le=55)
    """With "query": how long the retrieval of one study may take."""
    missing_days: int = Field(0, ge=0, le=90)
    """With "query": once a day it is asked for studies of the last days without a result; 0: it is not."""
    commitment_ae_title: AeTitle | None = None
    """Another AE title for storage commitment; reports may come from either."""
    commitment_host: Host | None = None
    """Another host for storage commitment."""
    commitment_port: Port | None = None
    """Another port for storage commitment."""
    commit_after: Literal["", "delivered"] = ""
    """"delivered": it may ask us for storage commitment of what it sent, and gets our report once an archive
    in forward of a rule has confirmed the image. Empty: its requests are refused."""
    commit_hours: float = Field(24, gt=0, le=168)
    """With commit_after: what no archive has confirmed after this time is reported as a failure, and a report
    that the peer does not take is given up after as long."""
    iocm: bool = False
    """Gets a rejection note (IHE IOCM) when results that it has are withdrawn, and hides or deletes them.
    With transport = "hl7": a message that takes them back."""
    withdraw: Literal["", "delete"] = ""
    """With "delete" the node deletes there the results that a person withdraws, and asks whether they are
    gone. By Orthanc's REST API, or by DELETE of DICOMweb, which the standard does not have. By FHIR they are
    marked as entered in error."""
    assessments: bool = False
    """Gets persons' verdicts on findings in reports that it has, as a further SR (as IHE AIRA does)."""
    charset: Literal["utf8", "source"] = "utf8"
    """Character set of results: ISO_IR 192, or the source's for an old PACS."""
    deidentify: bool = False
    """Results without identity (PS3.15 Annex E), pseudonyms by the site key. For cleaned, seg and sr only."""
    pseudonym_domain: Name | None = None
    """With deidentify: only peers of one domain share pseudonyms and UIDs; all without a domain do."""
    retain: tuple[Retained, ...] = ()
    """With deidentify, kept besides: modified_dates, patient_characteristics."""
    entered: int = 0
    """The node itself sets it, for peers that a person entered: they follow console.local_peers."""

    @model_validator(mode="before")
    @classmethod
    def _move_login_out_of_url(cls, given: Any) -> Any:
        """Validator: move user and password from ``url`` to the keys ``username`` and ``password``, so that
        the URL can be shown.
        """
        url = given.get("url") if isinstance(given, dict) else None
        found = re.fullmatch(r"(https?://)(.*)@(.*)", url, re.DOTALL) if isinstance(url, str) else None
        if found is None or {"username", "password"} & given.keys():
            return given
        scheme, login, place = found.groups()
        name, _, password = login.partition(":")
        return {**given, "url": scheme + place, "username": unquote(name), "password": unquote(password)}

    @field_validator("results")
    @classmethod
    def _notes_have_a_key(cls, results: tuple[ResultKind, ...]) -> tuple[ResultKind, ...]:
        """Validator: refuse result kinds that have an on-off key of their own (rejection notes,
        assessments).
        """
        refuse(
            (ResultKind.REJECTION in results, "rejection notes go to peers with iocm = true"),
            (ResultKind.ASSESSMENT in results, "assessments go to peers with assessments = true"),
        )
        return results

    @field_validator("deidentify")
    @classmethod
    def _shows_no_source(cls, deidentify: bool, info: ValidationInfo) -> bool:
        """Validator: refuse a de-identified peer whose results could show the uncleaned image or name the
        patient.
        """
        results = info.data.get("results", ())
        wrong = ", ".join(kind.value for kind in results if kind not in DEIDENTIFIED_KINDS)
        why = f"{wrong} may identify the patient" if wrong else "cleaned is missing"
        if deidentify:
            refuse(
                (
                    wrong or ResultKind.CLEANED not in results,
                    f'{why}: set results = ["cleaned", "seg", "sr"], or fewer with cleaned',
                ),
                (info.data.get("assessments"), "an assessment names the patient: leave out assessments"),
                (
                    info.data.get("charset") == "source",
                    "de-identified results are in UTF-8 always: leave out charset",
                ),
            )
        return deidentify

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        """Validator: refuse a peer whose keys contradict each other, or that lacks a key that its tasks
        need.
        """
        sends, receives, is_queried = (word in self.may for word in ("send", "receive", "query"))
        by_query = is_queried and self.transport != "dicomweb"
        missing = self.missing_of_address()
        asked_at, reported_at = (self.address_of(service)[:2] for service in ("query", "commitment"))
        refuse(
            (
                receives and self._is_in("by_address") and missing,
                f"{missing}: a peer that may receive needs host and port",
            ),
            (receives and self.by_http and not self.url, f"transport {self.transport} needs url"),
            (self.mpps and not sends, 'mpps is for peers with may = ["send"]'),
            (self.silent_hours and not sends, 'silent_hours is for peers with may = ["send"]'),
            (self.missing_days and not is_queried, 'missing_days is for peers with may = ["query"]'),
            (is_queried and not by_query and not self.url, "transport dicomweb needs url"),
            (
                by_query and not all(asked_at),
                'a peer that may be queried needs host and port, or transport = "dicomweb"',
            ),
            (
                by_query and self.retrieve == "move" and self.transport in ("dimse", "orthanc") and not sends,
                'objects of a C-MOVE come to our listener: add "send" to may, or use "get"',
            ),
            (
                self.withdraw == "delete" and not (receives and self.by_http),
                'withdraw = "delete" is for peers that receive by transport "orthanc", "dicomweb" or '
                '"fhir": neither DICOM\'s own network nor HL7 v2 has a request to delete',
            ),
            (self.withdraw == "delete" and self.iocm, 'give iocm = true or withdraw = "delete", not both'),
            (
                self.confirm == "commitment" and not (receives and self.transport == "dimse"),
                'confirm = "commitment" is for peers that receive by transport = "dimse"',
            ),
            (
                self.commit_after and not (sends and all(reported_at)),
                'commit_after is for peers with may = ["send"], and with host and port, or commitment_host '
                "and commitment_port, at which they take our report",
            ),
        )
        return self

    def address_of(self, service: PeerService) -> tuple[str, int | None, str]:
        """Return host ("" if missing), port (None if missing) and AE title of the peer for one of its
        services.
        """
        host, port, ae_title = {
            "storage": (None, None, None),
            "query": (self.query_host, self.query_port, self.query_ae_title),
            "commitment": (self.commitment_host, self.commitment_port, self.commitment_ae_title),
        }[service]
        return host or self.host, port or self.port, ae_title or self.ae_title

    @property
    def by_http(self) -> bool:
        """Whether the peer is reached by a base URL; other peers are reached by host and port."""
        return self._is_in("by_url")

    @property
    def acknowledges(self) -> bool:
        """Whether the peer's acknowledgement of a result is final, so that no query has to confirm that the
        result arrived.
        """
        return self._is_in("takes_over")

    def _is_in(self, transports: str) -> bool:
        """Return whether the peer's transport is listed in the class variable named ``transports`` of any
        settings class.
        """
        return any(self.transport in getattr(kind, transports, ()) for kind in type(self).__mro__)

    @property
    def retrieve_seconds(self) -> float:
        """The maximum number of seconds that the retrieval of one study from the peer may take."""
        return 60 * self.retrieve_minutes

    @property
    def answers_queries(self) -> bool:
        """Whether the peer can be queried for the results sent to it, to confirm that they arrived."""
        return self.confirm == "query" or (self.confirm == "commitment" and self.commitment_else == "query")

    @property
    def reporting_titles(self) -> tuple[str, ...]:
        """AE titles that may send storage commitment reports for this peer; none if the node requests
        none.
        """
        return self._commitment_titles if self.confirm == "commitment" else ()

    @property
    def requesting_titles(self) -> tuple[str, ...]:
        """AE titles under which the peer may request storage commitment from this node; none if it may
        not.
        """
        return self._commitment_titles if self.commit_after else ()

    @property
    def _commitment_titles(self) -> tuple[str, ...]:
        """The AE titles under which the peer may send storage commitment messages."""
        return tuple(filter(None, (self.ae_title, self.commitment_ae_title)))

    @property
    def titles(self) -> tuple[str, ...]:
        """All AE titles under which the peer may open an association to this node."""
        titles = self.ae_title, self.query_ae_title, self.commitment_ae_title
        return tuple(dict.fromkeys(title.strip() for title in titles if title))

    @property
    def is_called(self) -> bool:
        """Whether the node opens connections to the peer (to send, query, or report storage commitment)."""
        return bool({"receive", "query"} & {*self.may} or self.commit_after)

    def missing_of_address(self) -> str:
        """What an association to this peer lacks, such as ``port is missing``; "" if host and port are
        set.
        """
        missing = [key for key in ("host", "port") if not getattr(self, key)]
        return f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing" if missing else ""


def matches(pattern: str, value: str) -> bool:
    """Return whether ``value`` matches a shell pattern with * and ?, ignoring case. ``[`` is an ordinary
    character, because descriptions contain brackets.
    """
    return fnmatchcase(value.casefold(), pattern.casefold().replace("[", "[[]"))


class Conditions(Section):
    """``when`` of a rule: all conditions must hold. Texts are patterns with * and ?, case ignored."""

    modality: tuple[Annotated[str, Field(pattern=MODALITY)], ...] = ()
    """Modality (0008,0060), a code in capitals: one or a list."""
    body_part: Patterns = ()
    """Body Part Examined (0018,0015)."""
    view: Patterns = ()
    """View Position (0018,5101)."""
    calling_ae: Patterns = ()
    """AE title that sent the object."""
    called_ae: Patterns = ()
    """AE title of ours that it called."""
    station: Patterns = ()
    """Station Name (0008,1010)."""
    study_description: Patterns = ()
    """Study Description (0008,1030)."""
    series_description: Patterns = ()
    """Series Description (0008,103E)."""

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """Validator: turn a single text into a tuple of one."""
        return (value,) if isinstance(value, str) else value


def _condition(text: str) -> str:
    """Validator: return ``text`` if it is a condition on results ("FINDING suspected", or a word on quality).
    Raises ValueError with the remedy.
    """
    names_finding = text.endswith(SUSPECTED) and text.removesuffix(SUSPECTED).strip()
    refuse(
        (
            text not in QUALITY and not names_finding,
            f'write "FINDING{SUSPECTED}", {" or ".join(map(repr, QUALITY))}',
        ),
        (not text.isprintable(), "has signs that no finding has"),
    )
    return text


QUALITY = ("withheld", "not assessed")
SUSPECTED = " suspected"


class ResultSettings(Section):
    """``then`` of a rule: what is done in addition if the results meet a condition. It never takes anything
    away.
    """

    when: Annotated[str, Field(max_length=80), AfterValidator(_condition)]
    """ "FINDING suspected", as the report names it, * and ? as above; "not assessed": the AI did not run;
    "withheld": nothing may be sent, a person rejected it or text may be left."""
    send_to: tuple[Name, ...] = ()
    """Further peers that get the results of the job."""
    notify: tuple[Name, ...] = ()
    """Notifications that say it, by name; once a person accepted the results where the rule asks for that."""
    priority: Annotated[Literal["routine", "stat"], BeforeValidator(lambda given: str(given).lower())] = (
        "routine"
    )
    """STAT: deliveries of the study go before others; every fourth is the one that has waited longest."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        """Validator: refuse an entry of ``then`` without an effect."""
        goes = self.send_to or self.priority == "stat"
        refuse(
            (self.when == "withheld" and goes, "what is withheld is sent nowhere: give notify only"),
            (not goes and not self.notify, "does nothing: give send_to, notify or priority"),
        )
        return self

    @property
    def finding(self) -> str:
        """The pattern for the name of the finding in the condition; "" for a condition on image quality."""
        return "" if self.when in QUALITY else self.when.removesuffix(SUSPECTED).strip()

    def is_met(self, suspected: Iterable[str], *, assessed: bool = True) -> bool:
        """Return whether the results of a job meet the condition.

        ``suspected``: names of the findings that the AI suspects. ``assessed``: whether the AI could assess
        the images.
        """
        if self.when in QUALITY:
            return self.when == "not assessed" and not assessed
        return any(matches(self.finding, name) for name in suspected)

    def __str__(self) -> str:
        """Return the condition and what follows from it, on one line."""
        does = [f"to {', '.join(self.send_to)}"] if self.send_to else []
        does += [f"notify {', '.join(self.notify)}"] if self.notify else []
        does += ["STAT"] if self.priority == "stat" else []
        return f"{self.when}: {', '.join(does)}"


class RuleSettings(Section):
    """``[[rules]]``: which pipeline for which study, and where its results go."""

    name: Name
    """Short name; results and events say it."""
    when: Conditions = Conditions()
    """Required: one or more conditions on single images; modality = "*": every image of a source class."""
    pipeline: str
    """Name of a pipeline (`ai-pipeline pipelines` lists the installed ones)."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Options of the pipeline, such as policy = "research"."""
    send_to: tuple[Name, ...]
    """Peers that get the results; each must be allowed to receive."""
    forward: tuple[Name, ...] = ()
    """Peers that get the received images that the rule takes, unchanged, once the study is complete, and what
    the same device sent with them that is no image; never the one that sent them."""
    priority: Literal["stat", "routine", "low"] = "routine"
    """STAT studies overtake others; a C-STORE with priority HIGH is STAT too."""
    max_study_age_days: float = Field(7, ge=0)
    """Older studies are held for a person (a migration must not start a million jobs), except the first 20 of
    a new node, which are tests. 0: no limit."""
    secondary_captures_from: tuple[Name, ...] = ()
    """Peers whose secondary captures count as images (a frame grabber; "console": uploads)."""
    tell_pacs_refusals: bool = False
    """Send a short report also when the pipeline does not apply."""
    priors: Name | None = None
    """A peer that may be queried: up to two earlier studies of the patient (the same body part and modality,
    of five years) are fetched from it and analysed by this rule, for comparison. Their results are sent
    nowhere."""
    no_call: tuple[ResultKind, ...] | None = None
    """Kinds of results of images without a call (nothing suspected, no enlarged heart, no doubt about the
    film), as far as peers take them. Left out: the report and cleaned images; of mere cleaning the cleaned
    images, or the report where a peer does not take these."""
    assess_first: bool = False
    """Results wait until a person has accepted them (console, studies accept); rejected ones never leave."""
    compare: bool = False
    """Compare with the same pipeline's results for earlier studies of the patient on this node."""
    then: tuple[ResultSettings, ...] = Field((), max_length=50)
    """What findings, or none, change: a list of { when = …, send_to = […], notify = […], priority = … }."""
    entered: int = 0
    """The node itself sets it, for rules that a person entered."""

    @property
    def receivers(self) -> tuple[str, ...]:
        """Every peer that may get the rule's results: ``send_to``, and the peers of ``then``."""
        return tuple(dict.fromkeys((*self.send_to, *(name for one in self.then for name in one.send_to))))


@extended("settings")
class Settings(Section):
    """The whole configuration."""

    node: NodeSettings = NodeSettings()
    log: LogSettings = LogSettings()
    listener: ListenerSettings = ListenerSettings()
    console: ConsoleSettings = ConsoleSettings()
    spool: SpoolSettings = SpoolSettings()
    assembly: AssemblySettings = AssemblySettings()
    workers: WorkerSettings = WorkerSettings()
    outbox: OutboxSettings = OutboxSettings()
    peers: tuple[PeerSettings, ...] = ()
    rules: tuple[RuleSettings, ...] = ()

    def peer(self, name: str) -> PeerSettings:
        """Return the settings of the peer with this name. Raises NotFound."""
        names = [peer.name for peer in self.peers]
        if name not in names:
            raise NotFound(f"no peer is called {name!r}; {did_you_mean(name, names, 'configured')}")
        return self.peers[names.index(name)]

    def sender(self, name: str) -> PeerSettings:
        """Return the settings of the peer with this name or AE title. Raises NotFound."""
        titled = {peer.ae_title: peer.name for peer in reversed(self.peers)}
        return self.peer(({**titled} | {peer.name: peer.name for peer in self.peers}).get(name, name))

    def rule(self, name: str) -> RuleSettings | None:
        """Return the settings of the rule with this name; None if the configuration no longer has it."""
        return next((rule for rule in self.rules if rule.name == name), None)

    @property
    def watched_findings(self) -> Mapping[str, Sequence[str]]:
        """The names of findings that settings other than rules react to, by the key of the setting;
        connectors override this.
        """
        return {}

    @property
    def queried_by_rules(self) -> frozenset[str]:
        """The names of the peers that the rules query for ``priors`` while a study is being received."""
        return frozenset(rule.priors for rule in self.rules if rule.priors)

    @property
    def sender_names(self) -> dict[str, str]:
        """Return the names of all peers that may send or be queried, and of the console, by AE title. The
        console may run on another machine.
        """
        asked = {peer.ae_title: peer.name for peer in self.peers if "query" in peer.may}
        named = {peer.ae_title: peer.name for peer in self.peers if "send" in peer.may}
        return asked | named | {CONSOLE_AE_TITLE: CONSOLE_NAME}

    @property
    def database_url(self) -> str:
        """The URL of the database; by default an SQLite file under ``data_dir``."""
        return (
            self.node.database_url.get_secret_value()
            or f"sqlite:///{self.node.data_dir.resolve() / 'node.db'}"
        )

    @property
    def fixed(self) -> dict[str, object]:
        """Return the settings, by dotted key, that take effect only after a restart of the node."""
        return {
            "node.data_dir": self.node.data_dir,
            "node.database_url": self.node.database_url,
            "listener.host": self.listener.host,
            "listener.port": self.listener.port,
            "listener.share_port": self.listener.share_port,
            "spool.minimum_free_mib": self.spool.minimum_free_mib,
        }

    def for_children(self) -> str:
        """Return all settings as JSON with passwords in plain text, for the standard input of child
        processes, never for a file.
        """
        return self.model_dump_json(context=REVEALED)
