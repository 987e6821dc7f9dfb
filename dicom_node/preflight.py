"""What can be wrong with a configuration beyond its text: files, folders, database, models, peers.

``dicom-node check`` reports all of it at once. What keeps the node from working is a ``ConfigProblem``;
what may pass (a PACS that is switched off) is a warning.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.charset import python_encoding
from pydicom.uid import UID
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import SQLAlchemyError

from ai_pipeline import extras, registry
from ai_pipeline.contract import ChecksOptions
from ai_pipeline.devicerules import DeviceRuleError, from_environment, read_rules
from ai_pipeline.pipelines import PIPELINES, create, pipeline_class
from dicom_node import sitekey
from dicom_node.errors import ConfigProblem, ConfigurationError, DatabaseNotReady
from dicom_node.inbox.comparison import compare
from dicom_node.inbox.spool import Spool
from dicom_node.scu import open_destination
from dicom_node.scu.dimse import DimseDestination
from dicom_node.settings import PeerSettings, RuleSettings, Settings, examine
from dicom_node.store import faults, migrate
from dicom_node.store.database import Database

# On these SQLite's locks and shared memory do not work (sqlite.org/wal.html, "all processes … same host").
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "glusterfs", "beegfs", "afs", "gfs2", "ocfs2"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.davfs", "davfs"}
)


@dataclass(frozen=True, slots=True)
class Passed:
    """Something that was tried; not ``ok`` is a warning."""

    subject: str
    ok: bool
    text: str


def check(files: Sequence[Path]) -> tuple[list[ConfigProblem], list[Passed]]:
    """Every mistake of the configuration, and what else was tried."""
    settings, problems = examine(files)
    if settings is None:
        return problems, []
    name = ", ".join(str(file) for file in files)
    tried: list[Passed] = []
    for found in _everything(settings):
        if isinstance(found, Passed):
            tried.append(found)
        else:
            key, value, remedy = found
            problems.append(ConfigProblem(name, key, value, remedy))
    return problems, tried


def network_file_system(folder: Path) -> str:
    """The type of the file system that a folder is (or would be) on, if it is a network's; else ""."""
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
    return next(path for path in (whole, *whole.parents) if path.exists())


def device_rule_faults(settings: Settings) -> list[tuple[str, str, str]]:
    """Every mistake in the device rules, as key, value, remedy: with one, no image can be cleaned here."""
    try:
        if settings.workers.processes:
            read_rules(settings.workers.device_rules_dir or from_environment())
    except DeviceRuleError as error:
        places = [": ".join(filter(None, (str(fault.file), fault.key))) for fault in error.faults]
        remedies = [fault.remedy for fault in error.faults]
        return [("workers.device_rules_dir", *both) for both in zip(places, remedies, strict=True)]
    return []


def missing_extra(settings: Settings) -> list[tuple[str, str, str]]:
    """What a machine with workers lacks to run models, as key, value, remedy."""
    if settings.workers.processes and (remedy := extras.missing()):
        remedy += ", or set 0 on a machine that runs no models"
        return [("workers.processes", str(settings.workers.processes), remedy)]
    return []


Problem = tuple[str, str, str]  # key, value, remedy
Found = Iterator[Problem | Passed]


def _everything(settings: Settings) -> Found:
    yield from _check_data_dir(settings)
    yield from _check_site_key(settings)
    yield from _check_database(settings)
    yield from _check_listener(settings)
    yield from _check_tls(settings)
    lacking = missing_extra(settings)
    yield from lacking
    for rule in settings.rules:
        yield from _check_rule(rule, settings, asks=not lacking)
    if not lacking:
        yield from _check_models(settings)
        yield from _check_device_rules(settings)
    for peer in settings.peers:
        yield from _check_peer(peer, settings)


def _check_data_dir(settings: Settings) -> Found:
    folder = settings.node.data_dir
    existing = _existing(folder)
    if not existing.is_dir():
        yield "node.data_dir", str(folder), f"{existing} is no folder"
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = f"the node may not write in {existing}: change its owner or choose another folder"
        yield "node.data_dir", str(folder), remedy
        return
    kind = network_file_system(folder)
    if kind and make_url(settings.database_url).get_backend_name() == "sqlite":
        yield (
            "node.data_dir",
            str(folder),
            f"is on a network file system ({kind}), where SQLite loses data: choose a local disk, "
            "or set node.database_url to a PostgreSQL",
        )
    free = shutil.disk_usage(existing).free // 2**20
    enough = free >= settings.spool.minimum_free_mib
    note = "" if enough else ": under spool.minimum_free_mib, so C-STORE would be refused (A700)"
    yield Passed("data folder", enough, f"{folder}, {free} MiB free{note}")


def _check_site_key(settings: Settings) -> Found:
    path = sitekey.path_of(settings.node.data_dir)
    if not any(peer.deidentify for peer in settings.peers):
        return
    if not path.exists():
        yield Passed("site key", True, f"{path}: will be made at the first start; back it up then")
        return
    try:
        sitekey.load_or_create(settings.node.data_dir)
    except ConfigurationError as error:
        yield from (("site key", problem.file, problem.remedy) for problem in error.problems)
        return
    yield Passed("site key", True, f"{path}: back it up")


def _check_database(settings: Settings) -> Found:
    url = make_url(settings.database_url)
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        lost = any((settings.node.data_dir / "spool").rglob("*.dcm"))
        note = "; objects of a lost one lie in the spool: start the node, then dicom-node spool reindex"
        yield Passed("database", not lost, f"{shown}: will be made at the next start{note * lost}")
        return
    try:
        database = Database(settings.database_url)
    except (SQLAlchemyError, ImportError) as error:
        yield "node.database_url", shown, str(faults.meaning(error, settings.database_url) or error)
        return
    try:
        migrate.check(database)
        yield Passed("database", True, f"{shown}: reachable, schema is up to date")
        yield from _check_spool(database, settings)
    except DatabaseNotReady as error:
        if database.is_sqlite and migrate.current(database) is not None and "older" in str(error):
            yield Passed("database", True, f"{shown}: will be brought up to date at the next start")
        else:
            yield "node.database_url", shown, str(error)
    except SQLAlchemyError as error:
        told = faults.meaning(error, settings.database_url)
        yield "node.database_url", shown, str(told or f"cannot be used: {type(error).__name__}")
    finally:
        database.dispose()


def _check_spool(database: Database, settings: Settings) -> Found:
    data_dir = settings.node.data_dir
    if (data_dir / "spool").is_dir():
        difference = str(compare(database, Spool(data_dir / "spool", 0), data_dir))
        yield Passed("spool", not difference, difference or "all objects are known to the database")


def _check_listener(settings: Settings) -> Found:
    listener = settings.listener
    for uid in listener.further_storage_classes:
        if not UID(uid).is_valid:
            yield "listener.further_storage_classes", repr(uid), "is no UID (PS3.5 9.1)"
    try:
        address = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_STREAM)[0]
    except OSError:
        yield "listener.host", repr(listener.host), "is no address of this machine"
        return
    with socket.socket(address[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address[4])
        except PermissionError:
            remedy = "ports under 1024 need a privilege: choose 11112, or give CAP_NET_BIND_SERVICE"
            yield "listener.port", str(listener.port), remedy
            return
        except OSError as error:
            if not _answers_as_this_node(settings):
                remedy = f"cannot be listened on ({error.strerror}): stop what uses it, or choose another"
                yield "listener.port", f"{listener.host}:{listener.port}", remedy
                return
            yield Passed("listener", True, f"{listener.host}:{listener.port}: this node runs there already")
            return
    yield Passed("listener", True, f"{listener.host}:{listener.port} is free")


def _answers_as_this_node(settings: Settings) -> bool:
    here = "127.0.0.1" if settings.listener.host in ("0.0.0.0", "::", "") else settings.listener.host
    us = PeerSettings(
        name="this-node",
        ae_title=settings.node.ae_title,
        host=here,
        port=settings.listener.port,
        tls=settings.listener.tls is not None,
    )
    return DimseDestination(us, settings).echo().ok


def _check_tls(settings: Settings) -> Found:
    tls = settings.listener.tls
    if tls is None:
        for peer in settings.peers:
            if peer.tls:
                yield Passed(
                    f"peer {peer.name}", False, "tls without [listener.tls]: no certificate is shown"
                )
        return
    readable = True
    for key, path in (
        ("certificate", tls.certificate),
        ("private_key", tls.private_key),
        ("trusted", tls.trusted),
    ):
        if path is not None and not os.access(path, os.R_OK):
            readable = False
            yield f"listener.tls.{key}", str(path), "this file is missing or may not be read"
    if not readable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.private_key)
    except (ssl.SSLError, OSError):
        yield "listener.tls", str(tls.certificate), "is no PEM certificate, or the private key is not its own"
    if tls.trusted is not None:
        try:
            context.load_verify_locations(tls.trusted)
        except (ssl.SSLError, OSError):
            yield "listener.tls.trusted", str(tls.trusted), "holds no PEM certificates"
    yield Passed("TLS", True, "certificate and private key belong together")


def _check_rule(rule: RuleSettings, settings: Settings, *, asks: bool) -> Found:
    """``asks``: the pipeline can be asked about its options, because this machine has its libraries."""
    key = f"rules.{rule.name}"
    if rule.pipeline not in PIPELINES:
        known = ", ".join(sorted(PIPELINES))
        yield f"{key}.pipeline", repr(rule.pipeline), f"no such pipeline; there are: {known}"
        return
    if not asks or extras.missing():
        if not settings.workers.processes:
            yield Passed(f"rule {rule.name}", True, "options are not checked: this machine runs no models")
        return
    known_options = pipeline_class(rule.pipeline).options  # type: ignore[attr-defined]
    for option, value in rule.options.items():
        if option not in known_options:
            known = ", ".join(sorted(known_options)) or "none"
            remedy = f"{rule.pipeline} has no such option; it has: {known}"
            yield f"{key}.options.{option}", repr(value), remedy
        elif not isinstance(value, known_options[option]):
            wanted = "a table" if known_options[option] is dict else known_options[option].__name__
            yield f"{key}.options.{option}", repr(value), f"must be {wanted}"
    typed = {k: v for k, v in rule.options.items() if k in known_options and isinstance(v, known_options[k])}
    yield from _check_values(rule, typed, settings)


def _check_values(rule: RuleSettings, options: Mapping[str, object], settings: Settings) -> Found:
    """What only the pipeline can say of its options' values; it may have to read its model's card."""
    pipeline = create(rule.pipeline, models_dir=settings.workers.models_dir)
    if not isinstance(pipeline, ChecksOptions):
        return
    try:
        faults = pipeline.option_faults(options)
    except registry.CardError:
        return  # told by _check_models
    for option, remedy in faults.items():
        yield f"rules.{rule.name}.options.{option}", repr(rule.options[option]), remedy


def _check_models(settings: Settings) -> Found:
    if not settings.workers.processes:
        yield Passed("models", True, "this machine runs none (workers.processes = 0)")
        return
    try:
        cards = registry.cards(settings.workers.models_dir)
    except registry.CardError as error:
        yield "workers.models_dir", str(settings.workers.models_dir or ""), str(error)
        return
    for card in cards:
        try:
            registry.verify(card)
        except registry.CardError as error:
            yield f"model {card.id}", "", str(error)
        else:
            yield Passed(f"model {card.id}", True, f"version {card.version}, weights are those of the card")
    for name in sorted({rule.pipeline for rule in settings.rules} & PIPELINES.keys()):
        try:
            create(name, models_dir=settings.workers.models_dir).models()
        except registry.CardError as error:  # the one that was activated is gone: no other is taken
            yield f"pipeline {name}", "", str(error)


def _check_device_rules(settings: Settings) -> Found:
    faults = device_rule_faults(settings)
    yield from faults
    if settings.workers.processes and not faults:
        own = settings.workers.device_rules_dir or from_environment()
        files = len(list(own.glob("*.toml"))) if own else 0
        text = f"{len(read_rules(own))} in all" + (f", {files} files of yours in {own}" if own else "")
        yield Passed("device rules", own is None or files > 0, text)


def _check_peer(peer: PeerSettings, settings: Settings) -> Found:
    if peer.assume_charset and peer.assume_charset not in python_encoding:
        yield (
            f"peers.{peer.name}.assume_charset",
            repr(peer.assume_charset),
            "is no defined term of PS3.3 C.12.1.1.2",
        )
    if "receive" in peer.may:
        for line in open_destination(peer, settings).test():
            yield Passed(f"peer {peer.name}", line.ok, f"{line.name}: {line.text}")
