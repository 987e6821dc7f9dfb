"""Backup of a running node, restore, and the support bundle.

A backup is a folder: the database, the copies of persons' decisions, the site key, the configuration files,
the site's device rules, and ``manifest.json`` with the SHA-256 of each. Received objects and built results
are large and included only on request: the PACS and the modalities have the images, and a delivered result is
in the PACS.

The support bundle: one ZIP file of JSON that helps remote support and names no patient.
Only listed data is included: the event fields listed here, and the configuration without secrets. Free texts
(reasons, paths, AE titles of strangers) stay on the site.
"""

import fcntl
import json
import platform
import shutil
import sqlite3
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dicom_node import __version__
from dicom_node.base import events, sitekey
from dicom_node.base.config.loading import FOLDER
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, PeerSettings, Settings
from dicom_node.base.errors import CannotCreate, FaultyInput, NodeError, NotAllowedNow, StorageError
from dicom_node.base.files import sha256_of
from dicom_node.base.kinds import DEIDENTIFIED_FOLDER, AuditAction
from dicom_node.base.store import decision_copies, views
from dicom_node.base.store.database import in_words, newest_schema, schema_versions, sqlite_file
from dicom_node.people import audit, preflight, reading, writing

_MANIFEST = "manifest.json"
_DATABASE, _KEY, _CONFIG = Path("node.db"), Path("site.key"), Path("config")
_DEVICE_RULES = Path(DEVICE_RULES_FOLDER)
_DECISIONS, _ENTERED = Path(decision_copies.FOLDER), Path(FOLDER)
_OBJECTS = (Path("spool/objects"), Path("results"), Path(DEIDENTIFIED_FOLDER))


def backup(
    settings: Settings, files: Sequence[Path], destination: Path, *, objects: bool = False, key: bool = True
) -> list[str]:
    """Write a backup into a new folder; the node may run. Returns remarks for the admin.

    ``objects``: with received objects and built results. ``key``: with the site key. Raises CannotCreate if
    the folder exists or cannot be made, DatabaseDamaged, DatabaseUnusable.
    """
    part = destination.with_name(destination.name + ".part")
    if destination.exists() or part.exists():
        raise CannotCreate(f"{destination} or {part.name} is there already: give the name of a new folder")
    try:
        part.mkdir(mode=0o700, parents=True)
        notes = _copy_database(settings, part / _DATABASE)
        if key and (key_file := sitekey.path_of(settings.node.data_dir)).exists():
            shutil.copyfile(key_file, part / _KEY)
            (part / _KEY).chmod(0o600)
        (part / _CONFIG).mkdir(mode=0o700)
        for number, file in enumerate(files):
            shutil.copyfile(file, part / _CONFIG / f"{number}-{file.name}")
        for file in sorted(_device_rules(settings).glob("*.toml")):
            (part / _DEVICE_RULES).mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(file, part / _DEVICE_RULES / file.name)
        for folder in (_DECISIONS, _ENTERED, *(_OBJECTS if objects else ())):
            if (settings.node.data_dir / folder).is_dir():
                _copy_tree(settings.node.data_dir / folder, part / folder)
        manifest = {
            "program": __version__,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {str(file.relative_to(part)): sha256_of(file) for file in _files(part)},
        }
        (part / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        part.rename(destination)
    except OSError as error:
        raise CannotCreate(f"the backup cannot be written to {destination}: {error.strerror}") from None
    return notes + _audited(settings, AuditAction.BACKED_UP, objects=objects, key=key)


def verify(source: Path) -> dict[str, Any]:
    """The manifest of a backup whose files are all present and undamaged. Raises FaultyInput."""
    try:
        manifest: dict[str, Any] = json.loads((source / _MANIFEST).read_text(encoding="utf-8"))
        names = [Path(name) for name in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise FaultyInput(f"{source} is no backup of dicom-node: {_MANIFEST} is missing or damaged") from None
    if any(name.is_absolute() or ".." in name.parts for name in names):
        raise FaultyInput(f"{source}: {_MANIFEST} names files outside the backup")
    for name, expected in manifest["files"].items():
        if not (source / name).is_file():
            raise FaultyInput(f"{source}: {name} is missing")
        if sha256_of(source / name) != expected:
            raise FaultyInput(f"{source}: {name} differs from the saved file")
    if (source / _DATABASE).exists():
        _check_database(source / _DATABASE)
    return manifest


def restore(settings: Settings, source: Path) -> tuple[list[Path], list[str]]:
    """Restore database, site key, device rules and objects of a verified backup.

    The node must be stopped. The present files are kept beside them, with the time in their names. Device
    rules that the backup lacks stay: without one a name might be shown. Returns the saved configuration
    files, which are not restored, and remarks for the admin. Raises FaultyInput, NotAllowedNow.
    """
    manifest = verify(source)
    data_dir = settings.node.data_dir
    if (database := sqlite_file(settings.database_url)) is None:
        raise NotAllowedNow("node.database_url is no SQLite file: restore it with the tools of its server")
    for lock in sorted(data_dir.glob("*.lock")):
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NotAllowedNow(f"a node works on {data_dir}: stop it first") from None
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for saved, place in ((_DATABASE, database), (_KEY, sitekey.path_of(data_dir))):
        if (source / saved).exists():
            _put(source / saved, place, stamp)
    for rules in sorted((source / _DEVICE_RULES).glob("*.toml")):
        _put(rules, _device_rules(settings) / rules.name, stamp)
    for folder in (_DECISIONS, _ENTERED, *_OBJECTS):  # no file that is there is written over
        if (source / folder).is_dir():
            _copy_tree(source / folder, data_dir / folder)
    notes = _audited(settings, AuditAction.RESTORED, made=manifest["made"], program=manifest["program"])
    return sorted((source / _CONFIG).iterdir()), notes


def _audited(settings: Settings, action: AuditAction, **fields: Any) -> list[str]:
    """Add it to the audit; what to tell where that cannot be: nothing else may fail for it."""
    file = sqlite_file(settings.database_url)
    if file is not None and not file.exists():
        return []
    try:
        with writing(settings) as session:
            audit.note(session, audit.COMMAND_LINE, action, **fields)
    except StorageError as error:
        return [f"This is not in the audit: {error}"]
    return []


def _copy_database(settings: Settings, target: Path) -> list[str]:
    url = settings.database_url
    if (source := sqlite_file(url)) is None:
        return ["The database is no SQLite file and not in this backup: save it by pg_dump --format=custom."]
    if not source.exists():
        return ["There is no database yet."]
    with in_words(url), closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as database:
        try:
            with closing(sqlite3.connect(target)) as copy:
                database.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
            _check_database(target)
        except sqlite3.DatabaseError:
            raise FaultyInput(f"the database {source} is damaged: it cannot be saved") from None
    return []


def _device_rules(settings: Settings) -> Path:
    """Where the site's device rules lie, or would lie."""
    from dicom_node.jobs.worker.analyse import device_rules_of

    return device_rules_of(settings) or settings.node.data_dir / DEVICE_RULES_FOLDER


def _check_database(path: Path) -> None:
    """Raises FaultyInput unless it is whole and of a version that this program knows."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            [(answer,)] = database.execute("PRAGMA integrity_check(1)").fetchall()
            [(version,)] = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except (sqlite3.DatabaseError, ValueError):
        raise FaultyInput(f"{path.name} in the backup is no database of a node, or damaged") from None
    if answer != "ok":
        raise FaultyInput(f"{path.name} in the backup is damaged: {answer}")
    if version not in schema_versions():
        raise FaultyInput(f"{path.name} in the backup has version {version}, newer than this program")


def _put(saved: Path, place: Path, stamp: str) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = place.with_name(f"{place.name}.restored")
    shutil.copyfile(saved, new)
    new.chmod(0o600)
    # SQLite's journals belong to the database that goes: beside another they would damage it.
    for old in (place, place.with_name(place.name + "-wal"), place.with_name(place.name + "-shm")):
        if old.exists():
            old.rename(old.with_name(f"{old.name}.before-{stamp}"))
    new.rename(place)


def _copy_tree(source: Path, target: Path) -> None:
    """Files may go while it runs (the purge), and none that is there is written over."""
    for file in _files(source):
        place = target / file.relative_to(source)
        if not place.exists():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(file, place)


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())


_LIBRARIES = (
    *("pydicom", "pynetdicom", "highdicom", "numpy", "onnxruntime", "torch", "opencv-python-headless"),
    *("SQLAlchemy", "alembic", "pydantic", "psycopg", "requests", "urllib3"),
)
_NUMBERS_OF_IDENTITY = frozenset({"patient", "accession", "birth_date"})
_WORDS = frozenset(
    {"after", "before", "database_version", "doing", "kind", "model", "outcome", "pipeline", "process"}
    | {"rule", "state", "status", "transport", "verdict", "version"}
)
_SECRET = frozenset({"password", "token", "username", "url", "database_url"})


def write_bundle(settings: Settings, files: Sequence[Path], destination: Path) -> list[str]:
    """Write the ZIP file; returns the names in it. Raises CannotCreate if it exists or cannot be made."""
    parts: dict[str, object] = {
        "versions.json": _versions(),
        "configuration.json": redacted(settings),
        "check.json": _check(files, settings),
        "machine.json": _machine(settings),
    }
    try:
        with reading(settings) as session:
            parts["counts.json"] = views.counts(session)
            rows = views.list_events(session, limit=2000)
            parts["events.json"] = [_event(row, settings) for row in rows]
    except NodeError as error:
        parts["database.json"] = {"problem": type(error).__name__}
    try:
        with destination.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            destination.chmod(0o600)
            for name, part in parts.items():
                bundle.writestr(name, json.dumps(part, indent=1, ensure_ascii=False, default=str))
    except OSError as error:
        raise CannotCreate(f"{destination} cannot be written: {error.strerror}") from None
    return list(parts)


def redacted(settings: Settings) -> dict[str, Any]:
    """The configuration without secrets, as JSON values."""
    plain: dict[str, Any] = settings.model_dump(mode="json")
    plain["node"]["database_url"] = settings.database_url.partition(":")[0]
    for peer in plain["peers"]:
        peer |= {key: "***" for key in _SECRET & peer.keys() if peer[key]}
    for rule in plain["rules"]:
        # Values are the site's own words: descriptions, stations, paths.
        rule["options"] = sorted(rule["options"])
        rule["when"] = sorted(key for key, value in rule["when"].items() if value)
    return plain


def _event(row: Mapping[str, Any], settings: Settings) -> dict[str, object]:
    known = {event.number: event.text for event in events.all_types()}
    shown = {
        key: safe
        for key, value in row["fields"].items()
        if (safe := _safe(key, value, settings.peers)) is not None
    }
    return {"at": row["at"], "number": row["number"], "text": known.get(row["number"], ""), "fields": shown}


def _safe(key: str, value: object, peers: Sequence[PeerSettings]) -> object:
    """The value if it cannot name a patient: numbers, words of the program, configured peers."""
    if key in ("calling_ae", "destination", "peer"):
        return next((peer.name for peer in peers if value in (peer.name, peer.ae_title)), "other")
    if isinstance(value, bool | int | float) and key not in _NUMBERS_OF_IDENTITY:
        return value
    return value if key in _WORDS and isinstance(value, str) and value.replace("_", "").isalnum() else None


def _check(files: Sequence[Path], settings: Settings) -> dict[str, object]:
    """What ``check`` says, without the values that it quotes."""
    checked = preflight.check_and_probe(files)
    names = {peer.name for peer in settings.peers}
    return {
        "problems": [{"key": problem.key.split("=")[0]} for problem in checked.problems],
        "checks": [
            {"subject": line.subject, "ok": line.ok}
            for line in checked.tried
            if not line.subject.startswith("peer ") or line.subject.removeprefix("peer ") in names
        ],
    }


def _versions() -> dict[str, str]:
    found = {"dicom-node": __version__, "python": platform.python_version(), "system": platform.platform()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found | {"schema of this program": newest_schema()}


def _machine(settings: Settings) -> dict[str, object]:
    folder = settings.node.data_dir
    disk = shutil.disk_usage(folder) if folder.is_dir() else None
    return {
        "free_mib": disk and disk.free // 2**20,
        "disk_mib": disk and disk.total // 2**20,
        "spool_objects": sum(1 for _ in (folder / "spool").rglob("*.dcm")),
        "results": sum(1 for _ in (folder / "results").rglob("*.dcm")),
    }
