"""All settings: frozen once read, every mistake reported together (exit 78).

The tables of a peer and of a rule are in ``peer.py`` and ``rule.py``. Each field says its unit and its
reason; ``docs/reference/settings.md`` and ``config/node.toml`` are checked against these modules by tests.
``${VAR}`` and ``${VAR:-default}`` in strings are taken from the environment, ``${file:PATH}`` from a file
(its last line break dropped), so that secrets stay out of the configuration.
"""

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, IPvAnyNetwork, NonNegativeFloat, NonNegativeInt, PositiveFloat

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import RuleSettings
from dicom_node.base.config.section import (
    REVEALED,
    AeTitle,
    AtLeastOne,
    Host,
    Port,
    Secret,
    Section,
    Words,
    checked_url,
    did_you_mean,
    refuse,
)
from dicom_node.base.connectors import extended
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, CONSOLE_NAME

_VIEWER_SCHEMES = ("https", "http", "weasis", "radiant", "osirix", "horos")  # none that runs script


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


class LogSettings(Section):
    """``[log]``: the form of the log, which is on standard error. No level logs patient data."""

    format: Literal["text", "json"] = "text"
    """text, or json: an object a line, with an event's number and fields under keys of their own."""


class AssemblySettings(Section):
    """``[assembly]``: when a study is complete."""

    quiet_seconds: NonNegativeFloat = 5
    """No object and no open association for this long, for CR and DX."""
    quiet_seconds_us: NonNegativeFloat = 30
    """The same for ultrasound, where the examination goes on between images."""
    mpps_minutes: PositiveFloat = Field(30, le=1440)
    """How long a study that is quiet waits for the end of its performed procedure steps, and for the images
    that these name (peers with mpps)."""
    archive_seconds: NonNegativeFloat = Field(60, le=600)
    """How long the job of a study waits for earlier studies (priors of a rule), once the study is quiet."""


class SpoolSettings(Section):
    """``[spool]``: received objects and built results on disk."""

    minimum_free_mib: NonNegativeInt = 1024
    """Under this much free space (MiB) C-STORE is refused with A700 and the sender tries later."""
    waiting_objects: AtLeastOne = 20_000
    """Objects of one peer (of strangers: of one address) that may wait to be indexed. Beyond it C-STORE is
    refused with A700, and the peer tries later."""
    waiting_mib: AtLeastOne = 65_536
    """The same for the size of these objects (MiB)."""
    keep_days: NonNegativeFloat = 14
    """How long received objects stay after all results were confirmed."""
    result_days: NonNegativeFloat = 0
    """How long files of results stay after all of them were confirmed, and until the images are gone. 0: for
    good."""


class WorkerSettings(Section):
    """``[workers]``: processes that run the models."""

    processes: NonNegativeInt = Field(1, le=64)
    """Worker processes of this node; 0: this machine runs none."""
    threads: AtLeastOne = Field(2, le=128)
    """CPU threads of one worker's inference."""
    inference: Literal["cpu", "cuda", "openvino"] = "cpu"
    """Where ONNX Runtime runs all networks: cuda and openvino need a build of it that has them."""
    models_dir: Path | None = None
    """Folder with your own model cards and weights, besides those shipped."""
    device_rules_dir: Path | None = None
    """Folder with your own device rules (*.toml): where your scanners write the patient's name."""
    learn_screens: bool = True
    """Count under a keyed hash which texts each device's screen has at which place, so that an admin can
    confirm what stays (the page Cleaning)."""
    memory_mib: NonNegativeInt = 2304
    """Memory that one worker may take (MiB of data, RLIMIT_DATA; 0: no limit). An image that needs more fails
    by itself. Enough for ultrasound stills of 20 megapixels and X-rays of 40; larger stills are refused."""
    time_limit_seconds: PositiveFloat = 600
    """A job that takes longer is stopped and counts as failed once. On a machine so slow that it waits for a
    processor, the processor time that it got is counted, at least a tenth of what passed."""
    lease_seconds: PositiveFloat = Field(15, le=3600)
    """A worker that shows no life for this long loses its job to another; ten times as long while its process
    runs on the machine that looks."""
    attempts: AtLeastOne = 3
    """How often a job is tried before it fails for good."""
    retry_seconds: NonNegativeFloat = Field(5, le=3600)
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
    retry_seconds: PositiveFloat = 2
    """Wait before a delivery is tried again; doubles up to retry_limit_seconds."""
    retry_limit_seconds: PositiveFloat = Field(300, le=3600)
    """Longest wait between two tries, at most an hour. A peer that is down is tried for ever."""
    confirm_seconds: PositiveFloat = 1800
    """An object that the peer does not show is asked for again this long, then sent again; a withdrawn one is
    gone if the peer does not show it so long after it was sent."""
    refusals: AtLeastOne = 3
    """After this many refusals that waiting does not cure (0122, other Axxx and Cxxx) a person must look."""
    answer_seconds: PositiveFloat = 120
    """A peer that takes no byte or gives no answer for this long is cut off and tried later. An object may
    take as long, and a second more for each 64 KiB."""
    assess_hours: NonNegativeFloat = 24
    """Event 4041 when results of a rule with assess_first wait longer for a person (hours); 0: never."""

    def seconds_for(self, size: int) -> float:
        """Return the maximum number of seconds for sending ``size`` bytes and waiting for the answer."""
        return self.answer_seconds + size / (SLOWEST_KIB_PER_SECOND * 1024)


_FIXED: Final = (
    "node.data_dir",
    "node.database_url",
    "listener.host",
    "listener.port",
    "listener.share_port",
    "spool.minimum_free_mib",
)
Label = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[\w .-]+$")]
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
    maximum_associations: AtLeastOne = Field(100, le=1000)
    """Associations at the same time, over all peers; further ones are rejected for the moment."""
    maximum_object_mib: AtLeastOne = 4096
    """Larger objects (MiB) are refused with C001; the disk is guarded by spool.minimum_free_mib."""
    acse_timeout_seconds: PositiveFloat = 30
    """How long a peer may take from its connection to the whole of its association request."""
    network_timeout_seconds: PositiveFloat = 60
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
    idle_minutes: PositiveFloat = Field(15, le=1440)
    """Who asks for no page for this long is signed out."""
    upload_mib: AtLeastOne = 2048
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
        return self.peer((titled | {peer.name: peer.name for peer in self.peers}).get(name, name))

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
        return {key: attrgetter(key)(self) for key in _FIXED}

    def for_children(self) -> str:
        """Return all settings as JSON with passwords in plain text, for the standard input of child
        processes, never for a file.
        """
        return self.model_dump_json(context=REVEALED)
