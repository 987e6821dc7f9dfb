"""Checks of a configuration beyond its text: files, folders, database, models, pipelines, peers.

``dicom-node check``, ``serve`` and a reload use the same function and report all results at once. A fault
that keeps the node from working is a ``ConfigProblem``; one that may be temporary (a PACS that is switched
off) is a warning.
"""

import ipaddress
import os
import re
import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr
from pydicom.uid import UID
from sqlalchemy import func, select, text
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session

from ai_pipeline import extras
from ai_pipeline.burnin.devices.rules import read_rules, site_folder
from ai_pipeline.contract import PipelineCard, StatesOccasions
from ai_pipeline.errors import CardError, DeviceRuleError, NoDecoder, PluginError, first_line
from ai_pipeline.images.decoder import Decoder
from ai_pipeline.models import registry
from ai_pipeline.models.engine import lacking
from ai_pipeline.models.reference import reference_of
from ai_pipeline.pipelines import PIPELINES, card_of, create, option_faults
from dicom_node.base.config.loading import Place, TomlFiles, add_unimportable, examine, undercuts, validated
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import QUALITY, SUSPECTED, RuleSettings, matches
from dicom_node.base.config.section import did_you_mean
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings, TlsSettings
from dicom_node.base.connectors import can_be_imported, every, installed
from dicom_node.base.dicom.header import CharacterSet, terms
from dicom_node.base.errors import CannotRun, ConfigProblem, SchemaOutdated
from dicom_node.base.files import bucket_of
from dicom_node.base.lifecycle import OPEN_DELIVERIES, DeliveryState, Role
from dicom_node.base.logs import redacted
from dicom_node.base.processes import console_program, running
from dicom_node.base.store.database import Database, hosts, meaning_of, sqlite_file
from dicom_node.base.store.tables import DecisionRow, Delivery
from dicom_node.people import peers
from dicom_node.receive.policy import (
    PROGRAM_CLASSES,
    STORAGE_CLASSES,
    AEPolicy,
    accepted_classes,
    further_classes,
)
from dicom_node.results.foreign.kinds import modalities_of


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of one test of the configuration's surroundings; if not ``ok``, it is a warning."""

    subject: str
    ok: bool
    text: str


Problem = tuple[str, str, str]
"""Key, value, remedy: something that keeps the node from working."""
Found = Iterator[Problem | Tried]

# On these SQLite's locks and shared memory do not work (sqlite.org/wal.html, "all processes … same host").
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "glusterfs", "beegfs", "afs", "gfs2",
        "ocfs2", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone",
        "fuse.davfs", "davfs",
    }
)  # fmt: skip


def network_file_system(folder: Path) -> str:
    """The type of the network file system on which a folder is (or would be); "" if it is on a local one."""
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
    """The folder, or its nearest parent that exists."""
    whole = folder.resolve()
    return next(path for path in (whole, *whole.parents) if os.path.lexists(path))


def _check_machine(settings: Settings, role: Role) -> Found:
    """Yield requirements that this machine does not fulfil, and warnings about what its settings lead to."""
    yield from _check_data_dir(settings)
    # Who can put together what is known of a patient: peers that get the same pseudonyms.
    linked = [peer.name for peer in settings.peers if peer.deidentify and not peer.pseudonym_domain]
    if len(linked) > 1:
        yield Tried(
            "pseudonyms",
            False,
            f"{', '.join(linked)} get the same, so who has two of them can link patients; "
            "give each a pseudonym_domain, or all the same if that is wanted",
        )
    yield from _check_database(settings)
    if settings.listener.tls:
        yield from _check_certificates("listener.tls", settings.listener.tls)
    if not settings.outbox.deliver:
        if role is Role.DELIVERY:
            yield "outbox.deliver", "false", "this machine has nothing else to do: take it out"
        elif role.may_deliver:
            yield Tried(
                "outbox",
                False,
                "outbox.deliver = false: nothing is sent from here, another machine must (--role delivery)",
            )


def _check_data_dir(settings: Settings) -> Found:
    """Yield mistakes of the data folder: it cannot be made or written, or is on a network file system."""
    folder = settings.node.data_dir
    existing = _existing(folder)
    try:  # since a file system may refuse what permissions allow
        Path(tempfile.mkdtemp(prefix=".check-", dir=existing)).rmdir()
    except OSError as error:
        yield (
            "node.data_dir",
            str(folder),
            f"no folder can be made in {existing} ({error.strerror}): change its owner or choose another",
        )
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


def _check_certificates(section: str, tls: TlsSettings) -> Found:
    """Yield faults of the files that a TLS section of the configuration names; ``section``: such as
    "listener.tls".
    """
    paths = {key: path for key in _TLS_FILES if (path := getattr(tls, key)) is not None}
    closed = {key: path for key, path in paths.items() if not os.access(path, os.R_OK)}
    for key, path in closed.items():
        why = "may not be read by the user who runs the node" if path.exists() else _NO_FILE
        yield f"{section}.{key}", str(path), f"the {_TLS_FILES[key]} {why}"
    if closed:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.private_key)
    except OSError:  # ssl.SSLError is one
        yield (
            f"{section}.certificate",
            str(tls.certificate),
            "is no PEM certificate, or the private key is not its own",
        )
    try:
        if tls.trusted:
            context.load_verify_locations(tls.trusted)
    except OSError:
        yield f"{section}.trusted", str(tls.trusted), "holds no PEM certificates"


_NO_FILE = "is missing: there is no such file"
_TLS_FILES = {
    "certificate": "certificate",
    "private_key": "private key",
    "trusted": "file of trusted certificates",
}
_HERE = {"localhost", "127.0.0.1", "::1"}
_ENCRYPTED = ("require", "verify-ca", "verify-full")  # of libpq, whose default takes what the server offers
# What a server says of a commit that it has not yet written down (PostgreSQL manual, "Write Ahead Log").
_DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def _check_database(settings: Settings) -> Found:
    """Yield mistakes in ``node.database_url`` that are visible without connecting to the server."""
    shown = redacted(settings.database_url)
    try:
        url = make_url(settings.database_url)
        if url.get_backend_name() != "sqlite":
            Database(settings.database_url).dispose()
            # A service of libpq may name any machine, and says so in a file that is not read here.
            elsewhere = "service" in url.query or not _HERE.issuperset(hosts(url))
            if elsewhere and url.query.get("sslmode") not in _ENCRYPTED:
                yield Tried(
                    "database",
                    False,
                    "patients' data may go to it unencrypted: add ?sslmode=verify-full to node.database_url",
                )
    except (ArgumentError, ValueError):
        yield (
            "node.database_url",
            shown,
            "is no URL of a database: write postgresql+psycopg://USER@HOST:PORT/NAME",
        )
    except (SQLAlchemyError, ImportError) as error:
        yield "node.database_url", shown, str(meaning_of(error, settings.database_url) or error)


def _probe_listener(settings: Settings) -> Found:
    """Test whether the listener's port can be opened, or a node of this data folder runs, which has it."""
    from dicom_node.receive.listener import listen  # on first use: the console too checks settings

    try:
        listen(AEPolicy.from_settings(settings)).close()
        yield Tried("listener", True, f"port {settings.listener.port} is free")
    except OSError as error:
        ours = any(Role.at(place).receives for place in running(settings.node.data_dir))
        text = f"port {settings.listener.port}: the node of this data folder runs" if ours else str(error)
        yield Tried("listener", ours, text)


def _probe_console(settings: Settings) -> Found:
    """Test whether the console's port can be opened, or a node of this data folder runs, which has it."""
    console = settings.console
    try:
        family, *_, address = socket.getaddrinfo(console.host, console.port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
        yield Tried("console", True, f"port {console.port} is free")
    except OSError as error:
        ours = any(Role.at(place).may_serve_console for place in running(settings.node.data_dir))
        why = (
            "the node of this data folder runs" if ours else f"{error.strerror} (console.host, console.port)"
        )
        yield Tried("console", ours, f"port {console.port}: {why}")


def _probe_database(settings: Settings, read: TomlFiles) -> Found:
    """Connect to the database; yield whether its schema is up to date and whether it keeps what it
    committed.
    """
    shown = redacted(settings.database_url)
    try:
        file = sqlite_file(settings.database_url)
        if file is not None and not file.exists():
            made = f"{shown}: will be made at the next start"
            lost = any((settings.node.data_dir / "spool").rglob("*.dcm"))
            remedy = "after a loss the start indexes what the spool has"
            yield Tried("database", not lost, f"{made}; {remedy}" if lost else made)
            return
        database = Database(settings.database_url)
    except (ValueError, SQLAlchemyError, ImportError, CannotRun):
        return  # reported by _check_database
    try:
        database.check()
        yield Tried("database", True, f"{shown}: reachable, schema is up to date")
        with database.read() as session:
            asked = () if database.is_sqlite else _DURABLE
            off = [name for name in asked if session.scalar(text(f"SHOW {name}")) == "off"]
            lost = session.scalar(select(func.count()).where(DecisionRow.applied_at.is_(None)))
            if not read.is_faulty(("peers",)):  # else a peer with a mistake is not among them
                yield from [Tried("outbox", False, line) for line in left_behind(session, settings.peers)]
        if lost:
            yield Tried(
                "decisions", False, f"{lost} wait, and deliveries with them: dicom-node decisions list"
            )
        if off:
            yield Tried(
                "database",
                False,
                f"{' and '.join(off)} off: the last commits are lost if the server crashes; set to on in "
                "postgresql.conf",
            )
    except CannotRun as error:
        if database.is_sqlite and isinstance(error, SchemaOutdated) and database.version() is not None:
            yield Tried("database", True, f"{shown}: will be brought up to date at the next start")
        else:
            yield "node.database_url", shown, str(error)
    except SQLAlchemyError as error:
        yield (
            "node.database_url",
            shown,
            str(meaning_of(error, settings.database_url) or f"cannot be used: {type(error).__name__}"),
        )
    finally:
        database.dispose()


def left_behind(session: Session, peers: Iterable[PeerSettings]) -> list[str]:
    """What becomes of unsent results for names that are none of these ``peers``, or may not receive: a line
    for each name.
    """
    unsent = (
        Delivery.destination.not_in([peer.name for peer in peers if "receive" in peer.may]),
        Delivery.state.in_(OPEN_DELIVERIES | {DeliveryState.DEAD}),
    )
    chosen = select(Delivery.destination, func.count()).where(*unsent).group_by(Delivery.destination)
    return [
        f"{number} unsent for {name}, which is no peer that may receive: they are given up, stay in the "
        "outbox, and can be sent again once there is a peer of this name"
        for name, number in session.execute(chosen.order_by(Delivery.destination))
    ]


def check_console(settings: Settings, role: Role) -> Found:
    """Yield mistakes that prevent the console from being served at its configured address."""
    console = settings.console
    if role is Role.CONSOLE and not console.enabled:
        yield "console.enabled", "false", "this machine has nothing else to do: set it to true"
    if not (console.enabled and role.may_serve_console):
        return
    if not console_program():
        yield (
            "console.enabled",
            "true",
            "needs the package dicom-ai-node-console: pip install -c constraints.txt ./dicom_console",
        )
    if console.tls:
        yield from _check_certificates("console.tls", console.tls)
    elif not _is_this_machine(console.host):
        yield (
            "console.host",
            repr(console.host),
            "passwords would cross the network unencrypted: add [console.tls], or keep 127.0.0.1",
        )
    for find in every("checks.console"):
        yield from find(settings)


def _is_this_machine(host: str) -> bool:
    """Whether a host is certainly this machine; False for names other than localhost."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any address
        return False


def _check_rule(rule: RuleSettings, settings: Settings, *, runs_models: bool) -> Found:
    """Yield mistakes of a rule: no such pipeline or option, or images that its pipeline does not accept.

    ``runs_models``: whether this machine runs the pipeline, so that its models are checked, too.
    """
    key = f"rules.{rule.name}"
    yield from _check_pipeline(f"{key}.pipeline", rule.pipeline)
    if rule.pipeline not in PIPELINES or extras.missing():
        return
    try:
        card = card_of(rule.pipeline)
    except PluginError as error:
        if runs_models:
            yield f"{key}.pipeline", repr(rule.pipeline), str(error)
        return
    yield from _check_conditions(rule, card)
    if not card.modalities:
        yield from _check_receivable(rule, settings)
    yield from _check_options(rule, card, settings, runs_models=runs_models)


def _check_pipeline(key: str, name: str) -> Found:
    """Yield that there is no pipeline of this name, which stands under ``key``."""
    if name not in PIPELINES:
        yield key, repr(name), f"no such pipeline; {did_you_mean(name, sorted(PIPELINES), 'there are')}"


def _check_options(rule: RuleSettings, card: PipelineCard, settings: Settings, *, runs_models: bool) -> Found:
    """Yield mistakes in the options that a rule gives to its pipeline; ``runs_models`` as in
    ``_check_rule``.
    """
    key, known = f"rules.{rule.name}", card.options.model_fields
    for unknown in rule.options.keys() - known.keys():
        instead = card.options.former.get(unknown) or did_you_mean(unknown, sorted(known))
        yield f"{key}.options.{unknown}", "", f"{rule.pipeline} has no such option; {instead}"
    given = {name: value for name, value in rule.options.items() if name in known}
    faults = _option_faults(rule, given, settings) if runs_models else card.options.faults(given)
    for place, remedy in faults.items():
        at = f"{key}.options.{place}" if place else f"{key}.pipeline"
        yield at, repr(given[place]) if place in given else "", remedy
    nameless = [peer.name for peer in settings.peers if peer.deidentify and peer.name in rule.receivers]
    for option in card.options.listed() if nameless and not faults else ():
        if option.leaves_text and card.options.sets(option.key, given):
            yield (
                f"{key}.options.{option.key}",
                repr(given[option.key]),
                f"not in pictures for {nameless[0]}, which is de-identified: give it a rule of its own",
            )


def _check_occasions(settings: Settings) -> Found:
    """Yield conditions on results in rules and notifications that never hold, as no pipeline says such a
    thing with the options of its rule.
    """
    found = set[str]()
    for rule in settings.rules:
        wanted = [one.when for one in rule.then if one.when not in QUALITY]
        if wanted or settings.watched_findings:
            known = occasions(rule, settings)
            found |= known
            for name in _never_met(wanted, known):
                yield (
                    f"rules.{rule.name}.then",
                    repr(name.removesuffix(SUSPECTED)),
                    f"{rule.pipeline} finds no such thing with these options; "
                    + did_you_mean(name, sorted(known), "it can say"),
                )
    if UNKNOWN in found or not settings.rules:  # a new node has none yet
        return
    names = sorted(one.removesuffix(SUSPECTED) for one in found - {ANY_FINDING})
    for key, watched in settings.watched_findings.items():
        for name in _never_met(watched, names):
            remedy = f"no rule finds such a thing; {did_you_mean(name, names, 'they find')}"
            if ANY_FINDING in found:
                yield Tried(
                    key, False, f"{name!r}: only a program, which does not say what it finds: {remedy}"
                )
            else:
                yield key, repr(name), remedy


UNKNOWN, ANY_FINDING = "*", f"*{SUSPECTED}"


def occasions(rule: RuleSettings, settings: Settings) -> frozenset[str]:
    """The occasions for ``then`` that results of the rule can give with its options and the present models;
    ANY_FINDING of a program, UNKNOWN if this machine cannot say.
    """
    folder = settings.workers.models_dir
    try:
        card = card_of(rule.pipeline)
        pipeline = create(rule.pipeline, models_dir=folder)
        if isinstance(pipeline, StatesOccasions):
            return frozenset(pipeline.occasions(rule.options))
        models = [registry.find(f"{one.id}@{one.version}", folder) for one in pipeline.models()]
    except Exception:  # noqa: BLE001  (_check_rule reports it; or a model of another package, without a card)
        return frozenset({UNKNOWN})
    codes = {*card.codes, *(label.code for one in models for label in one.labels if label.supported)}
    named = {code.meaning[:64] + SUSPECTED for code in codes} | {call.meaning for call in card.calls}
    return frozenset(named if named or card.measures else {ANY_FINDING})


def can_say(name: str, known: Iterable[str]) -> bool:
    """Whether the pattern ``name`` matches one of the ``known`` occasions, which may be patterns too."""
    return any(matches(name, one) or matches(one, name) for one in known)


def _never_met(wanted: Iterable[str], known: Collection[str]) -> list[str]:
    """The patterns among ``wanted`` that match no known occasion."""
    return [name for name in dict.fromkeys(wanted) if not can_say(name, known)]


def _check_conditions(rule: RuleSettings, card: PipelineCard) -> Found:
    """Yield conditions by which a rule takes only images that its pipeline refuses; ``card``: the pipeline's
    description.
    """
    lifted = {one.lifts for one in card.options.listed() if rule.options.get(one.key)}
    for name, values in {"modality": card.modalities, "view": card.views}.items():
        for pattern in getattr(rule.when, name) if values and name not in lifted else ():
            if not any(matches(pattern, value) for value in values):
                yield (
                    f"rules.{rule.name}.when.{name}",
                    repr(pattern),
                    f"{rule.pipeline} takes no such images; it takes {', '.join(sorted(values))}",
                )


def _check_receivable(rule: RuleSettings, settings: Settings) -> Found:
    """Yield modalities of a rule of which no object can arrive, because no SOP class of theirs is
    accepted.
    """
    if rule.secondary_captures_from:  # those may name any modality
        return
    accepted = _modalities(accepted_classes(further_classes(settings)))
    known = accepted | _modalities((*STORAGE_CLASSES, *PROGRAM_CLASSES))
    for pattern in rule.when.modality:
        meant = {modality for modality in known if matches(pattern, modality)}
        if meant and not meant & accepted:
            yield (
                f"rules.{rule.name}.when.modality",
                repr(pattern),
                "never holds: no SOP class of such objects is accepted; name theirs in "
                "listener.further_storage_classes",
            )


def _modalities(sop_classes: Iterable[str]) -> set[str]:
    """The modalities whose objects have these SOP classes, as far as a class says it."""
    return {modality for uid in sop_classes for modality in modalities_of(uid)}


def _option_faults(
    rule: RuleSettings, options: Mapping[str, object], settings: Settings
) -> Mapping[str, str]:
    """The faults in the values of the pipeline's options, by option; under "" those of the pipeline and its
    models.
    """
    try:
        pipeline = create(rule.pipeline, models_dir=settings.workers.models_dir)
        pipeline.models()  # of one that was activated and is gone no other takes the place
        return option_faults(pipeline, options)
    except (CardError, PluginError) as error:
        return {"": str(error)}
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it may be another package's)
        return {"": f"pipeline {rule.pipeline} cannot be used: {first_line(error)}"}


def _check_models(settings: Settings) -> Found:
    """Yield faults of models, whose weights must match their cards (files about them), and of device
    rules.
    """
    if remedy := extras.missing():
        yield (
            "workers.processes",
            str(settings.workers.processes),
            f"{remedy}, or set 0 on a machine that runs no models",
        )
        return
    if remedy := lacking(settings.workers.inference):
        yield "workers.inference", settings.workers.inference, remedy
    try:
        if walls := _decoder_lacks():
            yield Tried(
                "decoder", False, f"this machine cannot take from it {walls} (docs/reference/confinement.md)"
            )
    except NoDecoder as error:
        yield "decoder", "", str(error)
    try:
        cards = registry.cards(settings.workers.models_dir)
    except CardError as error:
        yield "workers.models_dir", str(settings.workers.models_dir or ""), str(error)
    else:
        for card in cards:
            try:
                registry.verify(card)
                reference_of(card)
            except CardError as error:
                yield f"model {card.id}", "", str(error)
    try:
        read_rules(
            site_folder(settings.workers.device_rules_dir, settings.node.data_dir / DEVICE_RULES_FOLDER)
        )
    except DeviceRuleError as error:
        for fault in error.faults:
            place = ": ".join(filter(None, (str(fault.file), fault.key)))
            yield "workers.device_rules_dir", place, fault.remedy


@cache
def _decoder_lacks() -> str:
    """The rights that the decoder's process cannot give up on this machine, in words; "" if it gives up all.

    Raises NoDecoder.
    """
    with closing(Decoder()) as decoder:
        return decoder.lacks()


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of checking a configuration: mistakes (``problems``) and further test results (``tried``).

    ``settings``: None if too little of the configuration could be read to continue. ``files``: what was read.
    """

    settings: Settings | None
    files: TomlFiles
    tried: Sequence[Tried]

    @property
    def problems(self) -> Sequence[ConfigProblem]:
        """The mistakes, without warnings."""
        return self.files.problems


def check(files: Sequence[Path], role: Role = Role.ALL, *, tries: bool = False) -> Checked:
    """Check configuration files for a machine of this role; the result has all mistakes and warnings.

    ``tries``: also connect to the database, the peers and other services.
    """
    return _checked(*examine(files), role, tries=tries)


def check_data(data: dict[str, Any], role: Role = Role.ALL) -> Checked:
    """Check a configuration that is in no file (``data``: its tables), as :func:`check` does."""
    read = TomlFiles(data=data)
    return _checked(validated(read), read, role)


def _checked(settings: Settings | None, read: TomlFiles, role: Role, *, tries: bool = False) -> Checked:
    """Run all checks of these settings for a machine of this role; ``tries`` as in ``check``.

    ``settings``: None if too little could be read; then only the mistakes in ``read`` are returned.
    """
    if settings is None:
        return Checked(None, read, ())
    tried: list[Tried] = []
    checks = [
        _check_machine(settings, role),
        check_console(settings, role),
        _check_secrets(settings, read),
        _check_rules(settings, read, role),
        _check_senders(settings, read),
        *(find(settings) for find in every("checks")),
        *(_check_peer(peer, settings, read) for peer in settings.peers),
    ]
    if tries:
        checks += [
            _probe_listener(settings) if role.receives else iter(()),
            _probe_console(settings) if settings.console.enabled and role.may_serve_console else iter(()),
            _probe_database(settings, read),
            *(probe(settings) for probe in every("probes")),
            _test_peers(settings),
        ]
    for found in chain.from_iterable(checks):
        if isinstance(found, Tried):
            tried.append(replace(found, text=read.as_written(found.text)))
        else:
            read.add_named(*found)
    add_unimportable(read)
    return Checked(settings, read, tried)


def _check_rules(settings: Settings, read: TomlFiles, role: Role) -> Found:
    """Yield mistakes in rules, in the pipelines that they name, and in models if this machine runs them."""
    runs_models = role.runs_models and settings.workers.processes > 0
    for name in settings.workers.pipelines:
        yield from _check_pipeline("workers.pipelines", name)
    for rule in settings.rules:
        yield from _check_rule(
            rule, settings, runs_models=runs_models and settings.workers.takes(rule.pipeline)
        )
    if runs_models:
        # A rule with a mistake may be left out.
        if len(settings.rules) >= len(read.tables("rules")):
            yield from _check_occasions(settings)
        yield from _check_models(settings)
    for undercut in undercuts(settings):
        subject, _, text = undercut.partition(": ")
        yield Tried(subject, False, f"{text}: give it assess_first = true")


def _check_secrets(settings: Settings, read: TomlFiles) -> Found:
    """Yield files with a password or a private key that every user of this machine may read."""
    files = {tls.private_key for tls in (settings.listener.tls, settings.console.tls) if tls}
    for place in _places_of_secrets(settings.model_dump()):
        if place != ("node", "database_url") or re.match(r"[^:]+://[^/@]*:[^/]*@", settings.database_url):
            files.update(read.files_of(place if read.at(place) else (*place[:-1], "url")))
    for file in sorted(files):
        if file.exists() and file.stat().st_mode & stat.S_IROTH:
            yield Tried(
                "secrets",
                False,
                f"{file} holds a password, a token or a private key, and every user may read it: chmod 600",
            )


def _places_of_secrets(value: object, place: Place = ()) -> Iterator[Place]:
    """Yield the places of secrets in dumped settings, where each secret is replaced by stars; ``place``: of
    ``value``.
    """
    if value == _HIDDEN:
        yield place
    items = dict(enumerate(value)) if isinstance(value, list | tuple) else value
    for key, item in items.items() if isinstance(items, dict) else ():
        yield from _places_of_secrets(item, (*place, key))


_HIDDEN = str(SecretStr("x"))


def _check_senders(settings: Settings, read: TomlFiles) -> Found:
    """Yield mistakes in what the listener accepts, and warnings if nothing can arrive or be analysed."""
    for uid in map(UID, settings.listener.further_storage_classes):
        if not uid.is_valid or (uid.name != uid and "Storage" not in uid.name):
            yield "listener.further_storage_classes", repr(str(uid)), "is no SOP Class UID of storage"
    if not any("send" in peer.may for peer in settings.peers) and not read.is_faulty(("peers",)):
        yield Tried("peers", False, "none may send to this node: add [[peers]], one for each modality")
    if not settings.rules and not read.is_faulty(("rules",)):
        yield Tried("rules", False, "none: nothing that arrives is analysed; add [[rules]]")


def _check_peer(peer: PeerSettings, settings: Settings, read: TomlFiles) -> Found:
    """Yield mistakes in the settings of a peer, and warnings of those that may surprise."""
    for group in ("destinations", "archives"):
        if point := installed(group).get(peer.transport):
            can_be_imported(point)
    yield from _check_http(peer)
    if peer.authorities and not peer.authorities.is_file():
        yield f"peers.{peer.name}.authorities", str(peer.authorities), "is no file"
    if (peer.pseudonym_domain or peer.retain) and not peer.deidentify:
        yield (
            f"peers.{peer.name}.{'retain' if peer.retain else 'pseudonym_domain'}",
            "",
            "is for peers with deidentify = true: add that, or leave it out",
        )
    if peer.assume_charset and not CharacterSet.from_terms(terms(peer.assume_charset)).known:
        yield (
            f"peers.{peer.name}.assume_charset",
            repr(peer.assume_charset),
            "is no defined term of PS3.3 C.12.1.1.2, such as ISO_IR 100",
        )
    hidden = read.is_faulty(("peers",)) or read.is_faulty(("rules",))  # what has a mistake is left out
    if peer.commit_after and not hidden and not _archive_confirms(peer, settings):
        yield (
            f"peers.{peer.name}.commit_after",
            repr(peer.commit_after),
            'no archive confirms: give a rule forward, to a peer with confirm = "query" or "commitment"',
        )
    if peer.mpps and bucket_of(settings):  # a machine keeps the steps that it took in its own folder
        yield Tried(
            f"peer {peer.name}",
            False,
            "MPPS: with a bucket each machine knows the steps that it took: report to one listener only",
        )


def _check_http(peer: PeerSettings) -> Iterator[Tried]:
    """Yield warnings of a proxy that would get what goes to the peer, and of a login without encryption."""
    parts = urlsplit(peer.url)
    named = {parts.scheme, "all"} & getproxies().keys()
    if peer.by_http and named and not proxy_bypass(parts.hostname or ""):
        yield Tried(
            f"peer {peer.name}",
            False,
            "what it gets goes through a proxy, which the environment names (HTTP_PROXY, HTTPS_PROXY)",
        )
    if (peer.username or any(_places_of_secrets(peer.model_dump()))) and peer.url.startswith("http://"):
        yield Tried(
            f"peer {peer.name}", False, "its login goes over the network unencrypted (http): use https"
        )


def _archive_confirms(peer: PeerSettings, settings: Settings) -> bool:
    """Whether a rule forwards received images to another peer that confirms them."""
    archives = {name for rule in settings.rules for name in rule.forward} - {peer.name}
    return any(other.name in archives and other.confirm != "none" for other in settings.peers)


def _test_peers(settings: Settings) -> Iterator[Tried]:
    """Test whether the names of the peers' machines are known here, and whether the peers that the node calls
    answer.
    """
    for peer in settings.peers:
        try:
            if peer.host:
                socket.getaddrinfo(peer.host, None)
            lines = list(peers.test_peer(peer, settings)) if peer.is_called else []
        except (socket.gaierror, UnicodeError):
            yield Tried(f"peer {peer.name}", False, f"{peer.host} is no machine that this one knows")
        except OSError:  # certificates that cannot be used: a problem of [listener.tls], reported there
            yield Tried(f"peer {peer.name}", False, "not asked: the certificates cannot be used")
        else:
            yield from (Tried(f"peer {peer.name}", line.ok, f"{line.name}: {line.text}") for line in lines)
