"""Requirements of a configuration on the machine: folders, port, certificates, and the database.

Checks of the configured database: whether it can be reached, who can read it, and what it may lose.
Requirements of an object store: an existing bucket, and the rights to the bucket.
Requirements of ``[console]``: its packages, an address that is safe without TLS, a free port.
"""

import ipaddress
import os
import shutil
import socket
import ssl
import tempfile
from pathlib import Path

from sqlalchemy import exists, select, text
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dicom_node.config.settings import Settings, TlsSettings
from dicom_node.connectors import every
from dicom_node.errors import ConfigurationError, DatabaseNotReady, SchemaOutdated, StoreAway
from dicom_node.inbox.spool import Spool
from dicom_node.model.roles import Role
from dicom_node.monitoring.disk import forecast
from dicom_node.object_store.files import Files
from dicom_node.preflight.found import Found, Problem, Tried
from dicom_node.printable import redacted
from dicom_node.processes import console_program, running
from dicom_node.sitekey import load_or_create, path_of
from dicom_node.store import faults, migrate
from dicom_node.store.database import Database, hosts
from dicom_node.store.tables import UserAccount
from dicom_node.studies.upkeep import compare

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
        future = forecast(session, settings)
        asked = () if database.is_sqlite else _DURABLE
        off = [name for name in asked if session.scalar(text(f"SHOW {name}")) == "off"]
    if off:
        lost = "the last commits are lost if the server crashes"
        yield Tried("database", False, f"{' and '.join(off)} off: {lost}; set to on in postgresql.conf")
    if future is not None:
        enough = future.days is None or future.days > 7
        yield Tried("disk", enough, str(future))


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
