"""Backup of a running node, and restore.

A backup is a folder: the database, the copies of persons' decisions, the site key, the configuration files,
the site's device rules, and ``manifest.json`` with the SHA-256 of each. Received objects and built results
are large and included only on request: the PACS and the modalities have the images, and a delivered result is
in the PACS.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node import __version__, sitekey
from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.config.settings import Settings
from dicom_node.decisions import copies
from dicom_node.errors import CannotCreate, FaultyInput, NotAllowedNow, StorageError
from dicom_node.model.deidentified import DEIDENTIFIED_FOLDER
from dicom_node.model.kinds import AuditAction
from dicom_node.object_store.bucket import sha256_of
from dicom_node.services import audit, writing
from dicom_node.services.audit import COMMAND_LINE
from dicom_node.store import faults, migrate
from dicom_node.store.database import sqlite_file

_MANIFEST = "manifest.json"
_DATABASE, _KEY, _CONFIG = Path("node.db"), Path("site.key"), Path("config")
_DEVICE_RULES = Path(DEVICE_RULES_FOLDER)
_DECISIONS = Path(copies.FOLDER)
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
        if key:
            _copy_key(settings, part / _KEY)
        (part / _CONFIG).mkdir(mode=0o700)
        for number, file in enumerate(files):
            shutil.copyfile(file, part / _CONFIG / f"{number}-{file.name}")
        _copy_device_rules(settings, part / _DEVICE_RULES)
        for folder in (_DECISIONS, *(_OBJECTS if objects else ())):
            if (settings.node.data_dir / folder).is_dir():
                _copy_tree(settings.node.data_dir / folder, part / folder)
        _write_manifest(part)
        part.rename(destination)
    except OSError as error:
        raise CannotCreate(f"the backup cannot be written to {destination}: {error.strerror}") from None
    return notes + _audited(settings, AuditAction.BACKED_UP, objects=objects, key=key)


def verify(source: Path) -> dict[str, Any]:
    """The manifest of a backup whose files are all present and undamaged. Raises FaultyInput."""
    manifest = _manifest(source)
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
    _refuse_while_it_runs(data_dir)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for saved, place in ((_DATABASE, database), (_KEY, sitekey.path_of(data_dir))):
        if (source / saved).exists():
            _put(source / saved, place, stamp)
    for rules in sorted((source / _DEVICE_RULES).glob("*.toml")):
        _put(rules, _device_rules(settings) / rules.name, stamp)
    for folder in (_DECISIONS, *_OBJECTS):  # no file that is there is written over
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
            audit.note(session, COMMAND_LINE, action, **fields)
    except StorageError as error:
        return [f"This is not in the audit: {error}"]
    return []


def _copy_database(settings: Settings, target: Path) -> list[str]:
    url = settings.database_url
    if (source := sqlite_file(url)) is None:
        return ["The database is no SQLite file and not in this backup: save it by pg_dump --format=custom."]
    if not source.exists():
        return ["There is no database yet."]
    with faults.in_words(url), closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as database:
        try:
            with closing(sqlite3.connect(target)) as copy:
                database.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
            _check_database(target)
        except sqlite3.DatabaseError:
            raise FaultyInput(f"the database {source} is damaged: it cannot be saved") from None
    return []


def _copy_key(settings: Settings, target: Path) -> None:
    key = sitekey.path_of(settings.node.data_dir)
    if key.exists():
        shutil.copyfile(key, target)
        target.chmod(0o600)


def _copy_device_rules(settings: Settings, target: Path) -> None:
    files = sorted(_device_rules(settings).glob("*.toml"))
    for file in files:
        target.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(file, target / file.name)


def _device_rules(settings: Settings) -> Path:
    """Where the site's device rules lie, or would lie."""
    from dicom_node.jobs.worker.at_start import device_rules_of

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
    if not migrate.is_known(version):
        raise FaultyInput(f"{path.name} in the backup has version {version}, newer than this program")


def _refuse_while_it_runs(data_dir: Path) -> None:
    for lock in sorted(data_dir.glob("*.lock")):
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NotAllowedNow(f"a node works on {data_dir}: stop it first") from None


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
        if place.exists():
            continue
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            shutil.copyfile(file, place)
        except FileNotFoundError:
            continue


def _write_manifest(folder: Path) -> None:
    files = {str(file.relative_to(folder)): sha256_of(file) for file in _files(folder)}
    made = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"program": __version__, "made": made, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _manifest(source: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((source / _MANIFEST).read_text(encoding="utf-8"))
        names = [Path(name) for name in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise FaultyInput(f"{source} is no backup of dicom-node: {_MANIFEST} is missing or damaged") from None
    if any(name.is_absolute() or ".." in name.parts for name in names):
        raise FaultyInput(f"{source}: {_MANIFEST} names files outside the backup")
    return manifest


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
