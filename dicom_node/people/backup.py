"""Backup of a running node, restore, and SQLite moved to PostgreSQL.

A backup is a folder: the database, the copies of persons' decisions, the site key, the configuration files,
the site's device rules, and ``manifest.json`` with the SHA-256 of each. Received objects and built results
are large and included only on request: the PACS and the modalities have the images, and a delivered result is
in the PACS.
"""

import fcntl
import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, delete, func, insert, select

from dicom_node import __version__
from dicom_node.base import sitekey
from dicom_node.base.config.loading import FOLDER
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.errors import FaultyInput, NotAllowedNow, StorageError
from dicom_node.base.files import sha256_of
from dicom_node.base.lifecycle import DEIDENTIFIED_FOLDER, AuditAction
from dicom_node.base.store.database import in_words, schema_versions, sqlite_file
from dicom_node.base.store.mapping import Base
from dicom_node.base.store.tables import SiteProcess
from dicom_node.people import audit, open_database, writing
from dicom_node.people.audit import COMMAND_LINE

_MANIFEST = "manifest.json"
_DATABASE, _KEY, _CONFIG = "node.db", "site.key", "config"
_AT_ONCE = 1000  # rows of one statement
_OBJECTS = ("spool/objects", "results", DEIDENTIFIED_FOLDER)


def backup(
    settings: Settings, files: Sequence[Path], destination: Path, *, objects: bool = False, key: bool = True
) -> list[str]:
    """Write a backup into the new folder ``destination``; the node may run. Returns remarks for the admin.

    ``files``: the configuration files. ``objects``: include received objects and built results. ``key``:
    include the site key. Raises FaultyInput if the folder exists or cannot be made, StorageError,
    DatabaseUnusable.
    """
    part = destination.with_name(destination.name + ".part")
    if destination.exists() or part.exists():
        raise FaultyInput(f"{destination} or {part.name} is there already: give the name of a new folder")
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
            (part / DEVICE_RULES_FOLDER).mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(file, part / DEVICE_RULES_FOLDER / file.name)
        for folder in (audit.FOLDER, FOLDER, *(_OBJECTS if objects else ())):
            _copy_tree(settings.node.data_dir / folder, part / folder)
        manifest = {
            "program": __version__,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {str(file.relative_to(part)): sha256_of(file) for file in _files(part)},
        }
        (part / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        part.rename(destination)
    except OSError as error:
        raise FaultyInput(f"the backup cannot be written to {destination}: {error.strerror}") from None
    return notes + _note_in_audit(settings, AuditAction.BACKED_UP, objects=objects, key=key)


def verify(source: Path) -> dict[str, Any]:
    """Check that all files of a backup are present and undamaged; returns its manifest. Raises
    FaultyInput.
    """
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
    """Restore database, site key, device rules and objects of a backup; the node must be stopped.

    The present files are kept beside them, with the time in their names. Device rules that the backup lacks
    stay: without one a name might be shown. Returns (saved configuration files, which are not restored;
    remarks for the admin). Raises FaultyInput, NotAllowedNow.
    """
    manifest = verify(source)
    data_dir = settings.node.data_dir
    if (database := sqlite_file(settings.database_url)) is None:
        raise NotAllowedNow("node.database_url is no SQLite file: restore it with the tools of its server")
    _refuse_running(data_dir)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    for saved, place in ((_DATABASE, database), (_KEY, sitekey.path_of(data_dir))):
        if (source / saved).exists():
            _replace_file(source / saved, place, stamp)
    _forget_processes(database)
    for rules in sorted((source / DEVICE_RULES_FOLDER).glob("*.toml")):
        _replace_file(rules, _device_rules(settings) / rules.name, stamp)
    for folder in (audit.FOLDER, FOLDER, *_OBJECTS):  # no file that is there is written over
        _copy_tree(source / folder, data_dir / folder)
    notes = _note_in_audit(settings, AuditAction.RESTORED, made=manifest["made"], program=manifest["program"])
    return sorted((source / _CONFIG).iterdir()), notes


def _forget_processes(database: Path) -> None:
    """Remove the signs of life that were in the database when it was saved: the next start would call the
    node that worked then, and was stopped since, killed.
    """
    if database.exists():
        with closing(sqlite3.connect(database)) as restored, restored:
            restored.execute(f"DELETE FROM {SiteProcess.__tablename__}")


def _refuse_running(data_dir: Path) -> None:
    """Raise NotAllowedNow if a node runs on this data folder."""
    for lock in sorted(data_dir.glob("*.lock")):
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NotAllowedNow(f"a node works on {data_dir}: stop it first") from None


def move_database(settings: Settings) -> dict[str, int]:
    """Copy all rows of a stopped node's ``node.db`` into the empty database that ``node.database_url`` names.

    Returns the number of rows by table, compared in both. The file stays as it is, and after an error the new
    database is empty as before. Raises NotAllowedNow, FaultyInput, SchemaOutdated.
    """
    source, moved = settings.node.data_dir / _DATABASE, dict[str, int]()
    if sqlite_file(settings.database_url) or not source.exists():
        raise NotAllowedNow(f"set node.database_url to the PostgreSQL into which {source} is to be moved")
    _refuse_running(settings.node.data_dir)
    _check_database(source)
    engine = create_engine(f"sqlite:///file:{source}?mode=ro&uri=true")
    with engine.connect() as there, open_database(settings) as database, database.write() as here:
        for table in Base.metadata.sorted_tables:
            counted = select(func.count()).select_from(table)
            if table.name == "installation":  # made with the schema
                here.execute(delete(table))
            elif here.scalar(counted):
                raise NotAllowedNow(f"the new database is not empty: it has rows of {table.name}")
            rows = there.execute(select(table).order_by(*table.primary_key)).mappings()
            for some in rows.partitions(_AT_ONCE):
                here.execute(insert(table), [dict(row) for row in some])
            moved[table.name] = there.scalar(counted) or 0
            if here.scalar(counted) != moved[table.name]:
                raise NotAllowedNow(f"not all rows of {table.name} came over: nothing was moved")
            if (key := table.autoincrement_column) is not None:  # the next row gets a number of its own
                sequence, last = func.pg_get_serial_sequence(table.name, key.name), func.max(key)
                here.execute(select(func.setval(sequence, select(last).scalar_subquery())))
    return moved


def _note_in_audit(settings: Settings, action: AuditAction, **fields: Any) -> list[str]:
    """Add a row to the audit; returns a list of one remark if that is impossible, because nothing else may
    fail for it.
    """
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
    """Copy an SQLite database to ``target`` while it is in use; returns remarks for the admin, such as why
    there is none.
    """
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
    """The folder of the site's device rules, which need not exist."""
    from ai_pipeline.burnin.devices.rules import site_folder

    ours = settings.node.data_dir / DEVICE_RULES_FOLDER
    return site_folder(settings.workers.device_rules_dir, ours) or ours


def _check_database(path: Path) -> None:
    """Raise FaultyInput unless the database is undamaged and of a version that this program knows."""
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


def _replace_file(saved: Path, place: Path, stamp: str) -> None:
    """Put a saved file in place; the present file is renamed (with the time ``stamp``), not overwritten."""
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
    """Copy a folder, which need not exist and of which files may be deleted meanwhile; existing files are not
    overwritten.
    """
    for file in _files(source):
        place = target / file.relative_to(source)
        if not place.exists():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(file, place)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, without symbolic links."""
    return (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
