"""The results of an examination.

Requirements of a configuration on the machine: folders, port, certificates, and the database.

Checks of the configured database: whether it can be reached, who can read it, and what it may lose.
Requirements of an object store: an existing bucket, and the rights to the bucket.
Requirements of ``[console]``: its packages, an address that is safe without TLS, a free port.

Checks of rules and of their pipelines, options, models and device rules.

Checks of a configuration beyond its text: files, folders, database, models, peers.

``dicom-node check``, ``serve`` and a reload use the same function and report all results at once. A fault
that keeps the node from working is a ``ConfigProblem``; one that may be temporary (a PACS that is switched
off) is a warning.
"""

import ipaddress
import os
import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr
from pydicom.charset import python_encoding
from pydicom.uid import UID
from sqlalchemy import exists, select, text
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ai_pipeline import extras
from ai_pipeline.burnin.devices.rules import read_rules, site_folder
from ai_pipeline.contract import PipelineCard
from ai_pipeline.errors import CardError, DeviceRuleError, NoDecoder, PluginError, first_line
from ai_pipeline.images.decoder import Decoder
from ai_pipeline.models import registry
from ai_pipeline.models.engine import lacking
from ai_pipeline.pipelines import PIPELINES, card_of, create, option_faults
from dicom_node.base import connectors
from dicom_node.base.config.loading import examine, examined, undercuts
from dicom_node.base.config.mistakes import did_you_mean
from dicom_node.base.config.settings import (
    DEVICE_RULES_FOLDER,
    PeerSettings,
    RuleSettings,
    Section,
    Settings,
    TlsSettings,
    matches,
)
from dicom_node.base.config.toml_files import Place, TomlFiles
from dicom_node.base.connectors import every
from dicom_node.base.dicom.header import CharacterSet, terms
from dicom_node.base.errors import (
    ConfigProblem,
    ConfigurationError,
    DatabaseNotReady,
    SchemaOutdated,
    StoreAway,
)
from dicom_node.base.files import Files, bucket_of
from dicom_node.base.kinds import Role
from dicom_node.base.printable import redacted
from dicom_node.base.processes import console_program, running
from dicom_node.base.sitekey import load_or_create, path_of
from dicom_node.base.store import faults, migrate
from dicom_node.base.store.database import Database, hosts
from dicom_node.base.store.tables import UserAccount
from dicom_node.deliver.scu import open_archive, open_destination, open_reporter
from dicom_node.people.monitoring import days_left
from dicom_node.receive.spool import Spool
from dicom_node.studies.upkeep import compare


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of a test; if not ``ok``, it is a warning."""

    subject: str
    ok: bool
    text: str


Problem = tuple[str, str, str]
"""Key, value, remedy: something that keeps the node from working."""
Found = Iterator[Problem | Tried]

# On these SQLite's locks and shared memory do not work (sqlite.org/wal.html, "all processes … same host").
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "glusterfs", "beegfs", "afs", "gfs2", "ocfs2"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "davfs"}
)


def network_file_system(folder: Path) -> str:
    """The type of the file system that a folder is (or would be) on, if it is a network file system; else
    "".
    """
    device = _existing(folder).stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with Path("/proc/self/mountinfo").open(encoding="utf-8") as mounts:
        for line in mounts:
            # man 5 proc: 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted and right.split()[0] in NETWORK_FILE_SYSTEMS:
                return right.split()[0]
    return ""


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    whole = folder.resolve()
    return next(path for path in (whole, *whole.parents) if os.path.lexists(path))


def check_machine(settings: Settings) -> Found:
    """Requirements that the machine does not fulfil."""
    yield from _check_data_dir(settings)
    yield from _check_site_key(settings)
    # Who can put together what is known of a patient: peers that get the same pseudonyms.
    linked = [peer.name for peer in settings.peers if peer.deidentify and not peer.pseudonym_domain]
    if len(linked) > 1:
        text = f"{', '.join(linked)} get the same, so who has two of them can link patients"
        remedy = "give each a pseudonym_domain, or all the same if that is wanted"
        yield Tried("pseudonyms", False, f"{text}; {remedy}")
    yield from check_database(settings)
    if settings.listener.tls:
        yield from check_certificates("listener.tls", settings.listener.tls)
    else:
        for peer in settings.peers:
            if peer.tls:
                yield Tried(f"peer {peer.name}", False, "tls without [listener.tls]: no certificate is shown")


def probe_machine(settings: Settings, role: Role) -> Found:
    """Check conditions that may change at any time: database, spool, port."""
    yield from probe_database(settings)
    listener = settings.listener
    if role.receives:
        yield from _probe_port("listener", listener.host, listener.port, settings)


def _check_data_dir(settings: Settings) -> Found:
    folder = settings.node.data_dir
    existing = _existing(folder)
    if not existing.is_dir():
        yield "node.data_dir", str(folder), f"{existing} is no folder"
        return
    try:  # since a file system may refuse what permissions allow
        Path(tempfile.mkdtemp(prefix=".check-", dir=existing)).rmdir()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        remedy = f"the node may not write in {existing} ({reason}): change its owner or choose another folder"
        yield "node.data_dir", str(folder), remedy
        return
    kind = network_file_system(folder)
    if kind and settings.database_url.startswith("sqlite"):
        yield (
            "node.data_dir",
            str(folder),
            f"is on a network file system ({kind}), where SQLite loses data: choose a local disk, "
            "or set node.database_url to a PostgreSQL",
        )
    free = shutil.disk_usage(existing).free // 2**20
    enough = free >= settings.spool.minimum_free_mib
    note = "" if enough else ": under spool.minimum_free_mib, so C-STORE would be refused (A700)"
    yield Tried("data folder", enough, f"{folder.resolve()}, {free} MiB free{note}")


def _check_site_key(settings: Settings) -> Found:
    path = path_of(settings.node.data_dir)
    if not any(peer.deidentify for peer in settings.peers):
        return
    is_made = path.exists()
    try:
        if is_made:
            load_or_create(settings.node.data_dir)
    except ConfigurationError as error:
        yield from (("site key", problem.file, problem.remedy) for problem in error.problems)
    else:
        when = "back it up" if is_made else "will be made at the first start; back it up then"
        yield Tried("site key", True, f"{path}: {when}")


def _probe_port(section: str, host: str, port: int, settings: Settings, key: str = "port") -> Found:
    """Whether a process can listen there; not asked while a node of this data folder runs."""
    shown = f"{host}:{port}"
    if running(settings.node.data_dir):
        yield Tried(section, True, f"{shown}: not tried, this node runs already")
        return
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        yield f"{section}.host", repr(host), "is not an address of this machine"
        return
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError:
            remedy = "ports under 1024 need a privilege: choose another, or give CAP_NET_BIND_SERVICE"
            yield f"{section}.{key}", str(port), remedy
        except OSError as error:
            remedy = f"cannot be listened on ({error.strerror}): stop what uses it, or choose another"
            yield f"{section}.{key}", shown, remedy
        else:
            yield Tried(section, True, f"{shown} is free")


def check_certificates(section: str, tls: TlsSettings) -> Found:
    """Faults of the files that a TLS section of the configuration, such as "listener.tls", names."""
    faults: list[Problem] = []
    for key, what in _TLS_FILES.items():
        path = getattr(tls, key)
        if path is not None and not path.is_file():
            faults.append((f"{section}.{key}", str(path), f"the {what} is missing: there is no such file"))
        elif path is not None and not os.access(path, os.R_OK):
            remedy = f"the {what} may not be read by the user who runs the node"
            faults.append((f"{section}.{key}", str(path), remedy))
    yield from faults
    if faults:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.private_key)
        yield Tried("TLS", True, f"[{section}]: certificate and private key belong together")
    except (ssl.SSLError, OSError):
        remedy = "is no PEM certificate, or the private key is not its own"
        yield f"{section}.certificate", str(tls.certificate), remedy
    if tls.trusted is not None:
        try:
            context.load_verify_locations(tls.trusted)
        except (ssl.SSLError, OSError):
            yield f"{section}.trusted", str(tls.trusted), "holds no PEM certificates"


_TLS_FILES = {
    "certificate": "certificate",
    "private_key": "private key",
    "trusted": "file of trusted certificates",
}
_HERE = {"localhost", "127.0.0.1", "::1"}
_ENCRYPTED = ("require", "verify-ca", "verify-full")  # of libpq, whose default takes what the server offers
# What a server says of a commit that it has not yet written down (PostgreSQL manual, "Write Ahead Log").
_DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def check_database(settings: Settings) -> Found:
    """Mistakes in ``node.database_url`` that are visible without connecting to the server."""
    shown = redacted(settings.database_url)
    try:
        url = make_url(settings.database_url)
        if url.get_backend_name() != "sqlite":
            Database(settings.database_url).dispose()
            yield from _doubts(url)
    except (ArgumentError, ValueError):
        remedy = "is no URL of a database: write postgresql+psycopg://USER@HOST:PORT/NAME"
        yield "node.database_url", shown, remedy
    except (SQLAlchemyError, ImportError) as error:
        yield "node.database_url", shown, str(faults.meaning(error, settings.database_url) or error)


def _doubts(url: URL) -> Found:
    machines = hosts(url)
    # A service of libpq may name any machine, and says so in a file that is not read here.
    elsewhere = "service" in url.query or not _HERE.issuperset(machines)
    if elsewhere and url.query.get("sslmode") not in _ENCRYPTED:
        remedy = "add ?sslmode=verify-full to node.database_url"
        yield Tried("database", False, f"patients' data may go to it unencrypted: {remedy}")
    if len(machines) > 1 and "target_session_attrs" not in url.query:
        remedy = "add target_session_attrs=read-write to node.database_url"
        yield Tried(
            "database", False, f"of several servers a standby may be taken, which cannot write: {remedy}"
        )


def probe_database(settings: Settings) -> Found:
    """Check the database's schema, its agreement with the spool, and how long the disk will last."""
    shown = redacted(settings.database_url)
    try:
        url = make_url(settings.database_url)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            made = f"{shown}: will be made at the next start"
            lost = any((settings.node.data_dir / "spool").rglob("*.dcm"))
            remedy = "after a loss start the node, then run dicom-node spool reindex"
            yield Tried("database", not lost, f"{made}; {remedy}" if lost else made)
            return
        database = Database(settings.database_url)
    except (ArgumentError, ValueError, SQLAlchemyError, ImportError, DatabaseNotReady):
        return  # reported by check_database
    try:
        migrate.check(database)
        yield Tried("database", True, f"{shown}: reachable, schema is up to date")
        with database.read() as session:
            nobody = settings.console.enabled and not session.scalar(
                select(exists().where(UserAccount.id > 0))
            )
        if nobody:
            yield Tried("console", False, "nobody can sign in yet: dicom-node users add NAME --role admin")
        yield from _compare_spool(database, settings)
        yield from _ask_server(database, settings)
    except DatabaseNotReady as error:
        outdated = isinstance(error, SchemaOutdated) and migrate.current(database) is not None
        if database.is_sqlite and outdated:
            yield Tried("database", True, f"{shown}: will be brought up to date at the next start")
        else:
            yield "node.database_url", shown, str(error)
    except SQLAlchemyError as error:
        fault = faults.meaning(error, settings.database_url)
        yield "node.database_url", shown, str(fault or f"cannot be used: {type(error).__name__}")
    finally:
        database.dispose()


def _compare_spool(database: Database, settings: Settings) -> Found:
    folder = settings.node.data_dir / "spool"
    if folder.is_dir():
        try:
            difference = str(compare(database, Spool(folder, 0), Files(settings)))
        except StoreAway as away:
            difference = f"not compared with the database: {away}"
        yield Tried("spool", not difference, difference or "all objects are known to the database")


def _ask_server(database: Database, settings: Settings) -> Found:
    with database.read() as session:
        days = days_left(session, settings)
        asked = () if database.is_sqlite else _DURABLE
        off = [name for name in asked if session.scalar(text(f"SHOW {name}")) == "off"]
    if off:
        lost = "the last commits are lost if the server crashes"
        yield Tried("database", False, f"{' and '.join(off)} off: {lost}; set to on in postgresql.conf")
    if days is not None:
        yield Tried("disk", days > 7, f"full in {days:.0f} days, as the last week went")


def check_console(settings: Settings, role: Role) -> Found:
    """Mistakes that prevent the console from being served at its configured address."""
    console = settings.console
    if role is Role.CONSOLE and not console.enabled:
        yield "console.enabled", "false", "this machine has nothing else to do: set it to true"
    if not (console.enabled and role.may_serve_console):
        return
    if not console_program():
        remedy = "needs the package dicom-ai-node-console: pip install -c constraints.txt ./dicom_console"
        yield "console.enabled", "true", remedy
    if console.tls:
        yield from check_certificates("console.tls", console.tls)
    elif not _is_this_machine(console.host):
        remedy = "passwords would cross the network unencrypted: add [console.tls], or keep 127.0.0.1"
        yield "console.host", repr(console.host), remedy
    if role.receives and (console.host, console.port) == (settings.listener.host, settings.listener.port):
        yield "console.port", str(console.port), "is the listener's port: choose another"
    if console.metrics_port:
        if console.metrics_port in (console.port, settings.listener.port):
            yield "console.metrics_port", str(console.metrics_port), "is taken by the node: choose another"
        elif not _is_this_machine(console.host):
            text = f"whoever reaches port {console.metrics_port} reads /metrics: for your monitoring alone"
            yield Tried("console", False, text)
    if not _is_this_machine(console.host) and not console.hosts:
        text = "asked for by its address only: list the names that browsers use in console.hosts"
        yield Tried("console", False, text)
    for find in every("checks.console"):
        yield from find(settings)


def probe_console(settings: Settings, role: Role) -> Found:
    """Whether another process uses the console's ports."""
    console = settings.console
    if console.enabled and role.may_serve_console:
        yield from _probe_port("console", console.host, console.port, settings)
        if console.metrics_port:
            yield from _probe_port("console", console.host, console.metrics_port, settings, "metrics_port")


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any address
        return False


def check_rule(rule: RuleSettings, settings: Settings, *, runs_models: bool) -> Found:
    """Check that the rule's pipeline exists, knows the options, and accepts the images that the rule gives
    it.
    """
    key = f"rules.{rule.name}"
    if rule.pipeline not in PIPELINES:
        remedy = f"no such pipeline; {did_you_mean(rule.pipeline, sorted(PIPELINES), 'there are')}"
        yield f"{key}.pipeline", repr(rule.pipeline), remedy
        return
    if extras.missing():
        if not runs_models:
            yield Tried(f"rule {rule.name}", True, "options are not checked: this machine runs no models")
        return
    try:
        card = card_of(rule.pipeline)
    except PluginError as error:
        if runs_models:
            yield f"{key}.pipeline", repr(rule.pipeline), str(error)
        else:
            yield Tried(f"rule {rule.name}", False, f"not needed on this machine, but: {error}")
        return
    yield from _check_conditions(rule, card)
    known = card.options.model_fields
    for option in rule.options.keys() - known.keys():
        instead = card.options.former.get(option) or did_you_mean(option, sorted(known))
        remedy = f"{rule.pipeline} has no such option; {instead}"
        yield f"{key}.options.{option}", "", remedy
    given = {option: value for option, value in rule.options.items() if option in known}
    faults = _faults(rule, given, settings) if runs_models else card.options.faults(given)
    for place, remedy in faults.items():
        if place == _WHOLE:
            yield f"{key}.pipeline", repr(rule.pipeline), remedy
        else:
            yield f"{key}.options.{place}", repr(given[place]) if place in given else "", remedy
    nameless = [peer.name for peer in settings.peers if peer.deidentify and peer.name in rule.receivers]
    for one in card.options.listed() if nameless and not faults else ():
        if one.leaves_text and card.options.sets(one.key, given):
            remedy = f"not in pictures for {nameless[0]}, which is de-identified: give it a rule of its own"
            yield f"{key}.options.{one.key}", repr(given[one.key]), remedy


def check_findings(settings: Settings) -> Found:
    """Names of findings in rules and notifications that no pipeline can return: they would never hold."""
    asked = {rule.name: [one.finding for one in rule.then if one.finding] for rule in settings.rules}
    found: dict[str, frozenset[str] | None] = {}
    for rule in settings.rules:
        if asked[rule.name] or settings.watched_findings:
            try:
                found[rule.name] = _findings(rule, card_of(rule.pipeline), settings)
            except (KeyError, PluginError):  # reported by check_rule
                found[rule.name] = None
        known = found.get(rule.name)
        for name in _never_found(asked[rule.name], known):
            remedy = (
                f"{rule.pipeline} finds no such thing; {did_you_mean(name, sorted(known or ()), 'it finds')}"
            )
            yield f"rules.{rule.name}.then", repr(name), remedy
    every = frozenset(name for names in found.values() for name in names or ())
    for key, watched in settings.watched_findings.items() if found else ():
        for name in _never_found(watched, every):
            remedy = f"no rule finds such a thing; {did_you_mean(name, sorted(every), 'they find')}"
            if None in found.values():  # a program may return whatever it likes
                text = f"findings {name!r}: {remedy}; a pipeline that says nothing of it may"
                yield Tried(key, False, text)
            else:
                yield key, repr(name), remedy


def _never_found(asked: Iterable[str], known: Collection[str] | None) -> list[str]:
    """Those of the patterns that fit no known finding; none where nothing says what is found."""
    if known is None:
        return []
    return [name for name in dict.fromkeys(asked) if not any(matches(name, finding) for finding in known)]


def _findings(rule: RuleSettings, card: PipelineCard, settings: Settings) -> frozenset[str] | None:
    """What the pipeline, with the models that it runs now, may suspect; None where nothing says it."""
    names = {code.meaning[:64] for code in card.codes}
    folder = settings.workers.models_dir
    try:
        models = create(rule.pipeline, models_dir=folder).models()
        found = {model.id: registry.find(f"{model.id}@{model.version}", folder) for model in models}
    except Exception:  # noqa: BLE001  (_check_cards reports it; or a model of another package, without a card)
        return frozenset(names) or None
    whole = bool(rule.options.get("all_labels")) or "all_labels" not in card.options.model_fields
    labels = [label for model in found.values() for label in model.labels]
    names |= {label.code.meaning[:64] for label in labels if label.supported or whole}
    return frozenset(names) if names or card.measures else None


def check_shares(settings: Settings) -> Found:
    """Check that the pipelines in ``[workers]`` exist."""
    for name in settings.workers.pipelines:
        if name not in PIPELINES:
            remedy = f"no such pipeline; {did_you_mean(name, sorted(PIPELINES), 'there are')}"
            yield "workers.pipelines", repr(name), remedy


def _check_conditions(rule: RuleSettings, card: PipelineCard) -> Found:
    """Conditions by which the rule takes only images that its pipeline says to refuse."""
    lifted = {one.lifts for one in card.options.listed() if rule.options.get(one.key)}
    for name, values in {"modality": card.modalities, "view": card.views}.items():
        for pattern in getattr(rule.when, name) if values and name not in lifted else ():
            if not any(matches(pattern, value) for value in values):
                remedy = f"{rule.pipeline} takes no such images; it takes {', '.join(sorted(values))}"
                yield f"rules.{rule.name}.when.{name}", repr(pattern), remedy


_WHOLE = ""
"""The place of what is wrong with a pipeline as a whole."""


def _faults(rule: RuleSettings, options: Mapping[str, object], settings: Settings) -> Mapping[str, str]:
    """What is wrong with the values of the options; the pipeline may have to read its model's card."""
    try:
        return option_faults(create(rule.pipeline, models_dir=settings.workers.models_dir), options)
    except CardError:
        return {}  # reported by _check_cards
    except PluginError as error:
        return {_WHOLE: str(error)}
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it may be another package's)
        return {_WHOLE: f"its options cannot be checked: {first_line(error)}"}


DECODER = "its process can do nothing but decode; JPEG XL and video are kept, and no model sees them"


def check_models(settings: Settings) -> Found:
    """Check that the models' weights match their cards, and that the device rules can be read."""
    if remedy := extras.missing():
        further = ", or set 0 on a machine that runs no models"
        yield "workers.processes", str(settings.workers.processes), f"{remedy}{further}"
        return
    if remedy := lacking(settings.workers.inference):
        yield "workers.inference", settings.workers.inference, remedy
    try:
        walls = _lacking()
    except NoDecoder as error:
        yield "decoder", "", str(error)
    else:
        text = f"this machine cannot take from it {walls} (docs/reference/confinement.md)"
        yield Tried("decoder", not walls, text if walls else DECODER)
    yield from _check_cards(settings)
    yield from _check_device_rules(settings)


@cache
def _lacking() -> str:
    """What a decoder's process cannot give up here: no machine gets other walls while a program runs.

    Raises NoDecoder.
    """
    with closing(Decoder()) as decoder:
        return decoder.lacks()


def _check_cards(settings: Settings) -> Found:
    try:
        cards = registry.cards(settings.workers.models_dir)
    except CardError as error:
        yield "workers.models_dir", str(settings.workers.models_dir or ""), str(error)
        return
    for card in cards:
        try:
            registry.verify(card)
        except CardError as error:
            yield f"model {card.id}", "", str(error)
        else:
            yield Tried(f"model {card.id}", True, f"version {card.version}, weights are those of the card")
    for name in sorted({rule.pipeline for rule in settings.rules} & PIPELINES.keys()):
        if not settings.workers.takes(name):
            continue
        try:
            create(name, models_dir=settings.workers.models_dir).models()
        except CardError as error:  # the one that was activated is gone: no other is taken
            yield f"pipeline {name}", "", str(error)
        except PluginError:
            pass  # reported by check_rule
        except (Exception, SystemExit) as error:  # noqa: BLE001  (it may be another package's)
            yield f"pipeline {name}", "", f"cannot name its models: {first_line(error)}"


def _check_device_rules(settings: Settings) -> Found:
    own = site_folder(settings.workers.device_rules_dir, settings.node.data_dir / DEVICE_RULES_FOLDER)
    try:
        rules = read_rules(own)
    except DeviceRuleError as error:
        for fault in error.faults:
            place = ": ".join(filter(None, (str(fault.file), fault.key)))
            yield "workers.device_rules_dir", place, fault.remedy
        return
    files = len(list(own.glob("*.toml"))) if own else 0
    text = f"{len(rules)} in all" + (f", {files} files of yours in {own}" if own else "")
    yield Tried("device rules", own is None or files > 0, text)


_SECRETS_IN_WORDS = {
    "url": "address, which may hold a login or a key,",
    "token": "token",
    "metrics_token": "token",
    "headers": "login",
    "secret_access_key": "secret key",
}
_CHARSETS = sorted(term for term in python_encoding if term.startswith(("ISO_IR", "GB")))


@dataclass(frozen=True, slots=True)
class Checked:
    """The mistakes and warnings of an examination.

    ``settings`` is None if too little of the configuration could be read to continue.
    """

    settings: Settings | None
    files: TomlFiles
    tried: Sequence[Tried]

    @property
    def problems(self) -> Sequence[ConfigProblem]:
        """The mistakes, without warnings."""
        return self.files.problems


def check(files: Sequence[Path], role: Role = Role.ALL) -> Checked:
    """Check configuration files on a machine of this role; ``tried`` of the result lists further checks."""
    return _checked(*examine(files), role)


def check_data(data: dict[str, Any], role: Role = Role.ALL) -> Checked:
    """Check a configuration without a file, as :func:`check` does."""
    read = TomlFiles(data=data)
    return _checked(examined(read), read, role)


def check_and_probe(files: Sequence[Path], role: Role = Role.ALL) -> Checked:
    """Check configuration files, and also test what ``serve`` needs: port, spool, console, store, peers."""
    return _checked(*examine(files), role, tries=True)


def _checked(
    settings: Settings | None,
    read: TomlFiles,
    role: Role,
    *,
    tries: bool = False,
) -> Checked:
    if settings is None:
        return Checked(None, read, ())
    tried: list[Tried] = []
    checks = [_everything(settings, read, role)]
    if tries:
        checks += [probe_machine(settings, role), probe_console(settings, role)]
        checks += [probe(settings) for probe in connectors.every("probes")]
        checks.append(_ask_peers(settings))
    for found in chain.from_iterable(checks):
        if isinstance(found, Tried):
            tried.append(replace(found, text=read.as_written(found.text)))
        else:
            read.add_named(*found)
    return Checked(settings, read, tried)


def _everything(settings: Settings, read: TomlFiles, role: Role) -> Found:
    yield from check_machine(settings)
    yield from check_console(settings, role)
    if not settings.outbox.deliver:
        yield from _check_deliveries(role)
    yield from _check_secrets(settings, read)
    runs_models = role.runs_models and settings.workers.processes > 0
    yield from check_shares(settings)
    for rule in settings.rules:
        yield from check_rule(rule, settings, runs_models=runs_models)
    are_whole = len(settings.rules) >= len(read.at(("rules",)) or ())  # a rule with a mistake may be left out
    findings: Found = check_findings(settings) if are_whole else iter(())
    if runs_models:
        yield from findings
        yield from check_models(settings)
    else:
        yield Tried("models", True, "this machine runs none")
        if role.may_serve_console and settings.console.enabled and not extras.missing():
            # As warnings: this machine may lack models of the workers, and they refuse what is wrong.
            for one in findings:
                if isinstance(one, Tried):
                    yield one
                else:
                    key, value, remedy = one
                    yield Tried(key, False, f"{value}: {remedy}, as far as this machine knows")
    yield from _check_senders(settings, read)
    for undercut in undercuts(settings):
        yield Tried(f"rule {undercut.rule}", False, f"{undercut}: give it assess_first = true")
    for find in connectors.every("checks"):
        yield from find(settings)
    for peer in settings.peers:
        yield from _check_peer(peer)
        yield from _check_reports(peer, settings)


def _check_deliveries(role: Role) -> Found:
    if role is Role.DELIVERY:
        yield "outbox.deliver", "false", "this machine has nothing else to do: take it out"
    elif role.may_deliver:
        text = "outbox.deliver = false: nothing is sent from here, another machine must (--role delivery)"
        yield Tried("outbox", False, text)


def _check_secrets(settings: Settings, read: TomlFiles) -> Found:
    """Files that every user of this machine may read, and that hold a password or a private key."""
    places: dict[str, Place] = {
        ".".join(place[:-1]).replace("_", " "): place for place in _secrets(settings) if place[0] != "node"
    }
    with suppress(ArgumentError, ValueError):  # check_machine reports it
        if make_url(settings.database_url).password:
            places["node.database_url"] = ("node", "database_url")
    for key, several in settings:
        for one in several if isinstance(several, tuple) else ():
            table = read.place_of(key, one.name)
            for secret in _secrets(one):
                in_url = secret == ("password",) and not read.at((*table, *secret))
                places[f"{key[:-1]} {one.name}"] = (*table, *(("url",) if in_url else secret))
    for subject, place in places.items():
        for file in read.files_of(place):
            if _is_open(file):
                what = _SECRETS_IN_WORDS.get(str(place[-1]), "password")
                yield Tried(subject, False, f"its {what} is in {file}, which every user may read")
    for tls in (settings.listener.tls, settings.console.tls):
        if tls and _is_open(tls.private_key):
            yield Tried("TLS", False, f"every user may read the private key: chmod 600 {tls.private_key}")


def _secrets(section: Section, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of the secrets that a section has, and the sections in it."""
    for key, value in section:
        values = value.values() if isinstance(value, Mapping) else (value,)
        if isinstance(value, Section):
            yield from _secrets(value, (*above, key))
        elif any(isinstance(one, SecretStr) and one.get_secret_value() for one in values):
            yield *above, key


def _is_open(file: Path) -> bool:
    return file.exists() and bool(file.stat().st_mode & stat.S_IROTH)


def _check_senders(settings: Settings, read: TomlFiles) -> Found:
    for uid in map(UID, settings.listener.further_storage_classes):
        if not uid.is_valid or (uid.name != uid and "Storage" not in uid.name):
            yield "listener.further_storage_classes", repr(str(uid)), "is no SOP Class UID of storage"
    if (
        not any("send" in peer.may for peer in settings.peers)
        and not read.is_faulty(("peers",))
        and settings.listener.unknown_callers == "refuse"
    ):
        yield Tried("peers", False, "none may send to this node: add [[peers]], one for each modality")
    if not settings.rules and not read.is_faulty(("rules",)):
        yield Tried("rules", False, "none: nothing that arrives is analysed; add [[rules]]")


def _check_peer(peer: PeerSettings) -> Found:
    parts = urlsplit(peer.url)
    if (
        peer.by_http
        and {parts.scheme, "all"} & getproxies().keys()
        and not proxy_bypass(parts.hostname or "")
    ):
        text = "what it gets goes through a proxy, which the environment names (HTTP_PROXY, HTTPS_PROXY)"
        yield Tried(f"peer {peer.name}", False, text)
    secrets = [".".join(place) for place in _secrets(peer) if place != ("password",)]  # goes with the name
    if (peer.username or secrets) and peer.url.startswith("http://"):
        what = "user name and password go" if peer.username else f"its {secrets[0]} goes"
        text = f"{what} over the network unencrypted (http): use https"
        yield Tried(f"peer {peer.name}", False, text)
    if peer.silent_hours and "send" not in peer.may:
        text = f"silent_hours = {peer.silent_hours:g}: nothing comes from a peer that may not send"
        yield Tried(f"peer {peer.name}", False, text)
    if not peer.deidentify:
        for key in ("pseudonym_domain", "retain"):
            if value := getattr(peer, key):
                remedy = "without deidentify = true it says nothing: add that, or leave this out"
                shown = repr(value) if isinstance(value, str) else ", ".join(value)
                yield f"peers.{peer.name}.{key}", shown, remedy
    if peer.assume_charset and not CharacterSet.from_terms(terms(peer.assume_charset)).known:
        remedy = f"is no defined term of PS3.3 C.12.1.1.2; {did_you_mean(peer.assume_charset, _CHARSETS)}"
        yield f"peers.{peer.name}.assume_charset", repr(peer.assume_charset), remedy


def _check_reports(peer: PeerSettings, settings: Settings) -> Found:
    """Whether an archive can ever confirm what this peer asks us to commit to, and what its procedure steps
    (MPPS) change; a machine keeps the steps that it took in its own folder.
    """
    archives = {name for rule in settings.rules for name in rule.forward} - {peer.name}
    confirming = [one for one in settings.peers if one.name in archives and one.confirm != "none"]
    if peer.commit_after and not confirming:
        remedy = 'no archive confirms: give a rule forward, to a peer with confirm = "query" or "commitment"'
        yield f"peers.{peer.name}.commit_after", repr(peer.commit_after), remedy
    if not peer.mpps:
        return
    minutes = f"{settings.assembly.mpps_minutes:g}"
    text = f"MPPS: a study waits for the end of its steps, {minutes} minutes at most after it is quiet"
    yield Tried(f"peer {peer.name}", True, text)
    if bucket_of(settings):
        text = "MPPS: with a bucket each machine knows the steps that it took: report to one listener only"
        yield Tried(f"peer {peer.name}", False, text)


def _ask_peers(settings: Settings) -> Iterator[Tried]:
    """Whether their machines are known here, and those that we call answer now."""
    for peer in settings.peers:
        try:
            if peer.host:
                socket.getaddrinfo(peer.host, None)
            lines = open_destination(peer, settings).test() if "receive" in peer.may else []
            lines += open_archive(peer, settings).test() if "query" in peer.may else []
            lines += [open_reporter(peer, settings).check()] if peer.commit_after else []
            for test in connectors.every("peer_tests"):
                lines += test(peer, settings)
        except (socket.gaierror, UnicodeError):
            yield Tried(f"peer {peer.name}", False, f"{peer.host} is no machine that this one knows")
        except OSError:  # certificates that cannot be used: a problem of [listener.tls], reported there
            yield Tried(f"peer {peer.name}", False, "not asked: the certificates cannot be used")
        else:
            yield from (Tried(f"peer {peer.name}", line.ok, f"{line.name}: {line.text}") for line in lines)
