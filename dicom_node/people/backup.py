"""Backup of a running node, restore, and the support bundle.

A backup is a folder: the database, the copies of persons' decisions, the site key, the configuration files,
the site's device rules, and ``manifest.json`` with the SHA-256 of each. Received objects and built results
are large and included only on request: the PACS and the modalities have the images, and a delivered result is
in the PACS.

The support bundle: one ZIP file of JSON that helps remote support and names no patient.
Only listed data is included: the event fields listed here, and the configuration without secrets. Free texts
(reasons, paths, AE titles of strangers) stay on the site.

Persons' decisions that a restored database lacks: listed, applied again, or settled by a person.

Each is applied by the function that applied it first, in one transaction with its audit record, under the
name and the time of the person who decided. A decision that cannot be applied yet waits: the study may still
come back from the spool, the result from its job. Deliveries that it would prevent wait with it
(``people/audit.py``).
"""

import fcntl
import json
import platform
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, delete, func, insert, select
from sqlalchemy.orm import Session

from dicom_node import __version__
from dicom_node.base import events, sitekey
from dicom_node.base.config.loading import FOLDER
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.errors import FaultyInput, NodeError, NotAllowedNow, StorageError
from dicom_node.base.files import sha256_of
from dicom_node.base.lifecycle import (
    DEIDENTIFIED_FOLDER,
    DELIVERY,
    END_STATES,
    AuditAction,
    DeliveryState,
    HeldState,
    JobState,
    ReaderVerdict,
    RejectionReason,
    ReviewVerdict,
    StudyState,
    UserRole,
)
from dicom_node.base.store import results, transitions, views
from dicom_node.base.store.database import in_words, newest_schema, schema_versions, sqlite_file
from dicom_node.base.store.tables import (
    FAULT,
    Base,
    DecisionRow,
    Delivery,
    DrawnByHand,
    Instance,
    Job,
    Result,
    Study,
)
from dicom_node.deliver import holding, outbox
from dicom_node.jobs.queue import cancel
from dicom_node.people import (
    audit,
    existing,
    open_database,
    preflight,
    reading,
    spool,
    studies,
    withdrawal,
    writing,
)
from dicom_node.people.jobs import sources_sha256

_MANIFEST = "manifest.json"
_DATABASE, _KEY, _CONFIG = Path("node.db"), Path("site.key"), Path("config")
_DEVICE_RULES = Path(DEVICE_RULES_FOLDER)
_DECISIONS, _ENTERED = Path(audit.FOLDER), Path(FOLDER)
_AT_ONCE = 1000  # rows of one statement
_OBJECTS = (Path("spool/objects"), Path("results"), Path(DEIDENTIFIED_FOLDER))


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
    for rules in sorted((source / _DEVICE_RULES).glob("*.toml")):
        _replace_file(rules, _device_rules(settings) / rules.name, stamp)
    for folder in (_DECISIONS, _ENTERED, *_OBJECTS):  # no file that is there is written over
        if (source / folder).is_dir():
            _copy_tree(source / folder, data_dir / folder)
    notes = _note_in_audit(settings, AuditAction.RESTORED, made=manifest["made"], program=manifest["program"])
    return sorted((source / _CONFIG).iterdir()), notes


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
            audit.note(session, audit.COMMAND_LINE, action, **fields)
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
    """Copy a folder, of which files may be deleted meanwhile; existing files are not overwritten."""
    for file in _files(source):
        place = target / file.relative_to(source)
        if not place.exists():
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                shutil.copyfile(file, place)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, without symbolic links."""
    return (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())


_LIBRARIES = (
    *("pydicom", "pynetdicom", "highdicom", "numpy", "onnxruntime", "torch", "opencv-python-headless"),
    *("SQLAlchemy", "alembic", "pydantic", "psycopg", "requests", "urllib3"),
)
_NUMBERS_OF_IDENTITY = frozenset({"patient", "accession", "birth_date"})
_SECRET = frozenset({"password", "token", "username", "url", "database_url"})


def write_bundle(settings: Settings, files: Sequence[Path], destination: Path) -> list[str]:
    """Write the support bundle, a ZIP file that names no patient; returns the names of the files in it.

    ``files``: the configuration files. Raises FaultyInput if ``destination`` exists or cannot be made.
    """
    installed = {one.name: one.version for one in metadata.distributions()}
    folder = settings.node.data_dir
    disk = shutil.disk_usage(folder) if folder.is_dir() else None
    checked = preflight.check(files, tries=True)
    names = {peer.name for peer in settings.peers}
    parts: dict[str, object] = {
        "versions.json": {
            "dicom-node": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            **{library: installed.get(library, "not installed") for library in _LIBRARIES},
            "schema of this program": newest_schema(),
        },
        "configuration.json": redacted(settings),
        # What ``check`` says, without the values that it quotes.
        "check.json": {
            "problems": [{"key": problem.key.split("=")[0]} for problem in checked.problems],
            "checks": [
                {"subject": line.subject, "ok": line.ok}
                for line in checked.tried
                if not line.subject.startswith("peer ") or line.subject.removeprefix("peer ") in names
            ],
        },
        "machine.json": {
            "free_mib": disk and disk.free // 2**20,
            "disk_mib": disk and disk.total // 2**20,
            "spool_objects": sum(1 for _ in (folder / "spool").rglob("*.dcm")),
            "results": sum(1 for _ in (folder / "results").rglob("*.dcm")),
        },
    }
    try:
        with reading(settings) as session:
            parts["counts.json"] = views.counts(session)
            texts = {event.number: event.text for event in events.all_types()}
            # Of their fields what cannot name a patient: numbers, and configured peers.
            parts["events.json"] = [
                {
                    "at": row["at"],
                    "number": row["number"],
                    "text": texts.get(row["number"], ""),
                    "fields": {
                        key: value
                        for key, value in row["fields"].items()
                        if key not in _NUMBERS_OF_IDENTITY
                        and (isinstance(value, bool | int | float) or str(value) in names)
                    },
                }
                for row in views.list_events(session, limit=2000)
            ]
    except NodeError as error:
        parts["database.json"] = {"problem": type(error).__name__}
    try:
        with destination.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            destination.chmod(0o600)
            for name, part in parts.items():
                bundle.writestr(name, json.dumps(part, indent=1, ensure_ascii=False, default=str))
    except OSError as error:
        raise FaultyInput(f"{destination} cannot be written: {error.strerror}") from None
    return list(parts)


def redacted(settings: Settings) -> dict[str, Any]:
    """The configuration as JSON values, without secrets and without the values of rules' options and
    conditions, which are the site's own words: only their keys are left.
    """
    plain: dict[str, Any] = settings.model_dump(mode="json")
    plain["node"]["database_url"] = settings.database_url.partition(":")[0]
    for peer in plain["peers"]:
        peer |= {key: "***" for key in _SECRET & peer.keys() if peer[key]}
    for rule in plain["rules"]:
        # Values are the site's own words: descriptions, stations, paths.
        rule["options"] = sorted(rule["options"])
        rule["when"] = sorted(key for key, value in rule["when"].items() if value)
    return plain


_SHOWN = 100  # decisions that are named


class _NotYet(Exception):
    """Raised if a decision cannot be applied again yet, because its subject is missing; the text says
    what.
    """


def reconcile_decisions(settings: Settings) -> list[views.View]:
    """Enter persons' decisions that the database lost, and apply them again if they can be applied now.

    Returns all lost decisions as rows with the outcome of each. Raises OSError, StoreAway.
    """
    with open_database(settings) as database:
        audit.copy_decisions(database, settings)
        new = {row.id for row in audit.enter_copies(database, settings)}
        with database.read() as session:
            lost = [as_view(row) for row in audit.waiting_decisions(session)]
    apply_waiting_decisions(settings)
    with reading(settings) as session:
        left = {row["decision"]: row for row in waiting_decisions(session)}
    return [
        left.get(row["decision"], row | {"state": "applied", "waits_for": ""})
        for row in lost
        if row["decision"] in new or row["decision"] in left
    ]


def apply_waiting_decisions(settings: Settings) -> int:
    """Apply again the lost decisions that can be applied now, in their order; returns how many."""
    with reading(settings) as session:
        lost = [row for row in audit.waiting_decisions(session) if row.action != FAULT]
        session.expunge_all()
    done = 0
    behind: set[str] = set()  # studies of which an earlier one waits
    for one in lost:
        reason = "a decision before it" if one.study_uid in behind else ""
        try:
            if not reason:
                _AGAIN.get(one.action, _apply_with_audit)(settings, one)
        except (NodeError, _NotYet) as not_yet:
            reason = str(not_yet)
        except LookupError:  # another process was quicker
            reason = ""
        if not reason:
            done += 1
            continue
        behind |= {one.study_uid} if one.holds and one.study_uid else set()
        if one.waits_for != reason[:255]:
            with writing(settings) as session:
                here = session.get_one(DecisionRow, one.id, with_for_update=True)
                here.waits_for = reason[:255] if here.applied_at is None else here.waits_for
    return done


def waiting_decisions(session: Session) -> list[views.View]:
    """Lost decisions that are not applied again yet, as rows, the oldest first; ``waits_for``: the reason for
    each.
    """
    return [as_view(row) for row in audit.waiting_decisions(session)]


def settle_decision(
    settings: Settings, number: str, *, because: str, by: audit.Person = audit.COMMAND_LINE
) -> None:
    """Mark a lost decision that cannot be applied again as settled; deliveries stop waiting for it.

    ``number``: its id. ``because``: a person's reason. Raises NotFound, NotAllowedNow, FaultyInput.
    """
    words = audit.checked_reason(because)
    with writing(settings) as session:
        row = existing(session, DecisionRow, number, "there is no such decision", lock=True)
        try:
            audit.mark_applied(session, number)
        except LookupError:
            raise NotAllowedNow("this decision is applied") from None
        row.waits_for = f"settled by a person: {words}"
        transitions.record(session, events.DECISION_SETTLED, decision=number, action=row.action)
        audit.note(session, by, AuditAction.DECISION_SETTLED, decision=number, of=row.action)


def describe_lost(settings: Settings) -> list[str]:
    """Lines for the admin on the decisions made after the restored backup was written, with the outcome of
    each.

    Empty if there is no such decision.
    """
    try:
        lost = reconcile_decisions(settings)
    except (NodeError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        return [f"What persons decided since is compared when the node starts, before it sends: {text}"]
    if not lost:
        return []
    waits = [row for row in lost if row["state"] == "waits"]
    lines = [
        f"  {row['at']} {row['actor']} {row['action']} {row['study_instance_uid']}: "
        + (f"waits: {row['waits_for']}" if row in waits else "applied again")
        for row in lost[:_SHOWN]
    ]
    return [
        f"{len(lost)} decision{'s' if len(lost) != 1 else ''} of persons unknown to the database: "
        f"{len(lost) - len(waits)} applied again, {len(waits)} wait (dicom-node decisions list); "
        f"deliveries of {sum(row['holds'] for row in waits)} wait for them",
        *lines,
        *(["  …"] if len(lost) > _SHOWN else []),
    ]


def as_view(row: DecisionRow) -> views.View:
    """A decision as a row of lists."""
    return {
        "decision": row.id,
        "at": views.as_json(row.at),
        "actor": row.record.get("actor", ""),
        "action": row.action,
        "study_instance_uid": row.study_uid,
        "holds": row.holds,
        "state": "waits" if row.applied_at is None else "applied",
        "waits_for": row.waits_for,
    }


def _author(wanted: DecisionRow) -> audit.Person:
    """The person who made a decision, with the time and id of that decision."""
    record = wanted.record
    return audit.Person(record["actor"], record["address"], decided_at=wanted.at, decision=wanted.id)


def _apply_with_audit(settings: Settings, wanted: DecisionRow) -> None:
    """Apply a decision again (``wanted``) and add its entry to the audit, in one transaction.

    Of some decisions only the entry is added: their effect is stored elsewhere, or a person requests it
    again.
    """
    with writing(settings) as session:
        study = views.find_study(session, wanted.study_uid).id if wanted.study_uid else None
        if again := _AGAIN_WITH_AUDIT.get(wanted.action):
            again(session, settings, wanted)
        audit.note(
            session, _author(wanted), AuditAction(wanted.action), study_id=study, **wanted.record["fields"]
        )


def _withdraw(settings: Settings, wanted: DecisionRow) -> None:
    """Withdraw results again that a person withdrew. Raises _NotYet."""
    uids, reason = wanted.record["what"]["results"], RejectionReason(wanted.record["what"]["reason"])
    with reading(settings) as session:
        _results(session, uids)
    withdrawal.withdraw_results(
        settings, wanted.study_uid, uids, reason=reason, because=wanted.record["words"], by=_author(wanted)
    )


def _assess(settings: Settings, wanted: DecisionRow) -> None:
    """Accept or reject results again, as a person did. Raises _NotYet."""
    from dicom_node.people import reviews  # loads what builds results

    what = wanted.record["what"]
    with reading(settings) as session:
        _results(session, what["results"])
        study = views.find_study(session, wanted.study_uid).id
        decided_again = any(
            {*row.record["what"]["results"]} >= {*what["results"]}
            for row in session.scalars(
                select(DecisionRow)
                .where(DecisionRow.study_uid == wanted.study_uid, DecisionRow.action == wanted.action)
                .where(DecisionRow.at > wanted.at, DecisionRow.applied_at.is_not(None))
            )
        )
        if not decided_again and {
            session.get_one(Result, row.result_id).sop_instance_uid
            for row in holding.decidable_results(session, study)
        } != {*what["results"]}:
            raise _NotYet("the waiting results changed since they were assessed")
    if decided_again:  # by a person, before this decision could be applied
        _apply_with_audit(settings, wanted)
    elif what["verdict"] == HeldState.REJECTED:
        reviews.reject_results(settings, wanted.study_uid, _author(wanted), because=wanted.record["words"])
    else:
        reviews.accept_results(settings, wanted.study_uid, _author(wanted), rejected=what["rejected"])


def _release(settings: Settings, wanted: DecisionRow) -> None:
    """Release a study from quarantine again, with the choices that a person made. Raises _NotYet."""
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = studies.number_of(database, wanted.study_uid)
        take = Choice(database, settings).present_numbers(study, wanted.record["what"])
        with database.read() as session:
            state = views.find_study(session, wanted.study_uid).state
            later = session.scalar(
                select(DecisionRow.id)
                .where(DecisionRow.study_uid == wanted.study_uid, DecisionRow.action == wanted.action)
                .where(DecisionRow.at > wanted.at)
                .limit(1)
            )
    if take is not None:
        studies.release(settings, wanted.study_uid, take, _author(wanted))
    elif later is not None or state in END_STATES - {StudyState.QUARANTINED}:  # it came through without it
        _apply_with_audit(settings, wanted)
    else:
        raise _NotYet("the study is not in quarantine with the objects that were released")


def _discard(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Discard deliveries again that a person discarded."""
    for delivery in _deliveries(session, wanted.record["what"]["deliveries"]):
        if (delivery.state, events.DELIVERY_DISCARDED) in DELIVERY:
            outbox.discard(session, delivery.id, wanted.record["words"])


def _retry(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Send deliveries again that a person sent again."""
    for delivery in _deliveries(session, wanted.record["what"]["deliveries"]):
        if delivery.state in (DeliveryState.DISCARDED, DeliveryState.DEAD):
            outbox.retry(session, delivery.id)


def _give_feedback(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Store a person's verdict on findings again."""
    from dicom_node.people import reviews  # loads what builds results

    what, words = wanted.record["what"], wanted.record["words"]
    study, verdict = views.find_study(session, wanted.study_uid).id, ReaderVerdict(what["verdict"])
    reviews.store_verdicts(session, study, [what["finding"]], verdict, _author(wanted), words)


def _judge_cleaning(session: Session, settings: Settings, wanted: DecisionRow) -> None:
    """Apply a person's verdict on the cleaning of an image again. Raises _NotYet."""
    from dicom_node.studies import choose

    what, actor = wanted.record["what"], wanted.record["actor"]
    instance = session.scalar(select(Instance).where(Instance.sop_instance_uid == what["image"]))
    if instance is None or instance.pixels_sha256 != what["pixels_sha256"]:
        raise _NotYet("the image that was judged is not here")
    verdict = ReviewVerdict(what["verdict"])
    results.end_reviews_of_image(session, instance.id, verdict, actor)
    if verdict is ReviewVerdict.DRAWN:
        about = {key: what[key] for key in ("pixels_sha256", "boxes")}
        session.merge(
            DrawnByHand(
                instance_id=instance.id, at=wanted.at, actor=actor, role=UserRole(what["role"]), **about
            )
        )
        if session.get_one(Study, instance.study_id).state is not StudyState.RECEIVING:
            choose.rerun(session, instance.study_id, settings)


def _change_job(session: Session, _settings: Settings, wanted: DecisionRow) -> None:
    """Cancel a job again that a person cancelled; if it has finished, discard its unsent results."""
    what = wanted.record["what"]
    study = views.find_study(session, wanted.study_uid).id
    if what["change"] == "cancel":
        newest_first = session.scalars(
            select(Job).where(Job.study_id == study, Job.rule == what["rule"]).order_by(Job.id.desc())
        )
        job = next((job for job in newest_first if sources_sha256(job) == what["images"]), None)
        if job is None:
            raise _NotYet("the job that was cancelled is not there")
        if job.state in (JobState.QUEUED, JobState.HELD, JobState.RUNNING):
            cancel(session, job.id)
        for delivery in session.scalars(
            select(Delivery)
            .join(Result, Result.id == Delivery.result_id)
            .where(Result.job_id == job.id)
            .order_by(Delivery.id)
        ).all():
            if (delivery.state, events.DELIVERY_DISCARDED) in DELIVERY:
                outbox.discard(session, delivery.id, "its job was cancelled by a person")


def _delete_received(settings: Settings, wanted: DecisionRow) -> None:
    """Delete the received objects of a study again. Raises _NotYet if they must stay."""
    with open_database(settings) as database:
        study = studies.number_of(database, wanted.study_uid)
    [row] = spool.delete_received(settings, [study], _author(wanted))
    if not row["deleted"]:
        raise _NotYet(row["reason"])


_AGAIN: Mapping[str, Callable[[Settings, DecisionRow], None]] = {
    AuditAction.RESULT_WITHDRAWN: _withdraw,
    AuditAction.RESULTS_ASSESSED: _assess,
    AuditAction.STUDY_RELEASED: _release,
    AuditAction.OBJECTS_DELETED: _delete_received,
}
_AGAIN_WITH_AUDIT: Mapping[str, Callable[[Session, Settings, DecisionRow], None]] = {
    AuditAction.FEEDBACK_GIVEN: _give_feedback,
    AuditAction.CLEANING_JUDGED: _judge_cleaning,
    AuditAction.DISCARDED: _discard,
    AuditAction.DELIVERY_RETRIED: _retry,
    AuditAction.JOB_CHANGED: _change_job,
}


def _results(session: Session, uids: Sequence[str]) -> Sequence[Result]:
    """The results with these SOP Instance UIDs. Raises _NotYet if one is missing."""
    rows = session.scalars(select(Result).where(Result.sop_instance_uid.in_(uids))).all()
    if missing := len(set(uids)) - len(rows):
        raise _NotYet(f"{missing} of {len(set(uids))} results are not built (any more)")
    return rows


def _deliveries(session: Session, pairs: Sequence[Sequence[str]]) -> list[Delivery]:
    """The deliveries for these pairs of SOP Instance UID and peer. Raises _NotYet if one is missing."""
    rows = {row.sop_instance_uid: row.id for row in _results(session, [uid for uid, _ in pairs])}
    chosen = (select(Delivery).filter_by(result_id=rows[uid], destination=peer) for uid, peer in pairs)
    there = [row for one in chosen if (row := session.scalar(one)) is not None]
    if len(there) < len(pairs):
        raise _NotYet("its results do not go to that peer (yet)")
    return there
