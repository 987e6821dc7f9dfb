"""Decisions of persons: rows of the database, files of each machine in ``node.data_dir``, in the bucket.

A decision is committed together with its effects, then copied; then the person gets the answer. After a kill
in between, the row is still marked as not copied: the next copying process copies it, unless its file is
there already.

A decision is a file, which nothing changes or deletes: ``decisions/MACHINE/MONTH/TIME-NUMBER.json`` in
``node.data_dir``, and under the same key in the bucket. It has a hash of its content. A person's reason is
encrypted under the site key: it may name a patient, the file must not.

The audit: who did or saw something, or was refused; rows are only ever added.
"""

import base64
import hashlib
import json
import socket
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import Column, details, fields, times, uid
from dicom_node.base.actions.inputs import OfStudy, Since, Until, one_of
from dicom_node.base.actions.inputs import limit as at_most
from dicom_node.base.actions.nouns import AUDIT
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import patient_id_of
from dicom_node.base.durable import sync_folder, write_new
from dicom_node.base.errors import DecisionNotCopied, FaultyInput, StoreAway
from dicom_node.base.events import DECISIONS_CHANGED, DECISIONS_UNKNOWN
from dicom_node.base.files import bucket_of
from dicom_node.base.lifecycle import AuditAction, HeldState, ReviewVerdict, UserRole
from dicom_node.base.sitekey import Seal
from dicom_node.base.store import transitions
from dicom_node.base.store.database import DECIDED, Database, batches
from dicom_node.base.store.tables import FAULT, AuditRow, DecisionRow, Study
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.base.store.views import View, columns, find_study

FOLDER = "decisions"
"""In ``node.data_dir``, and in the bucket."""
LOST = "sealed under another site key"
"""In place of words that cannot be opened."""
_OTHERS_HAD = timedelta(hours=1)  # after which a machine copies what another one did not
_BATCH = 200  # rows that are copied at once
_PURPOSE = "words of decisions"
_LETS_GO = (HeldState.ACCEPTED, ReviewVerdict.ACCEPTED)
_HOLDS = frozenset(
    {
        AuditAction.RESULT_WITHDRAWN,
        AuditAction.RESULTS_ASSESSED,
        AuditAction.CLEANING_JUDGED,
        AuditAction.DISCARDED,
        AuditAction.JOB_CHANGED,
    }
)
"""Decisions by which something does not leave, or leaves as a person wanted it: it waits for them."""


def machine_name() -> str:
    """The name of this machine in the database, and of the folder of its copies of decisions."""
    return socket.gethostname()[:64]


def mark_applied(session: Session, number: str) -> None:
    """Mark a decision that was read back from its copy as applied by this transaction; ``number``: its id.

    Raises LookupError if it is unknown or was applied before.
    """
    row = session.get(DecisionRow, number, with_for_update=True, populate_existing=True)
    if row is None or row.applied_at is not None:
        raise LookupError(number)
    row.applied_at, row.waits_for = utc_now(), ""


def waiting_decisions(session: Session) -> Sequence[DecisionRow]:
    """Decisions that were read back from their copies after a restore and are not applied again yet, the
    oldest first.
    """
    return session.scalars(
        select(DecisionRow).where(DecisionRow.applied_at.is_(None)).order_by(DecisionRow.at, DecisionRow.id)
    ).all()


def copy_decisions(database: Database, settings: Settings) -> int:
    """Copy this machine's decisions that have no synced copy yet into files beside the database; returns how
    many.

    Raises DecisionNotCopied: the decision is in force, and the node copies it later.
    """
    done = 0
    try:
        while rows := _not_copied(database):
            done += sum(_copy(settings, row) for row in rows)
            mark_copied(database, [row.id for row in rows])
    except OSError as error:
        raise DecisionNotCopied(
            f"the decision is in force, but not in its copy ({error.strerror}): it would be lost with the "
            "database; make room, the node writes it then"
        ) from None
    return done


def mark_copied(database: Database, numbers: Collection[str], *, copied: bool = True) -> None:
    """Mark decisions as copied (the synced file contains them), or with ``copied=False`` as to be copied.

    ``numbers``: their ids.
    """
    with database.write() as session:
        for batch in batches(numbers):
            session.execute(update(DecisionRow).where(DecisionRow.id.in_(batch)).values(copied=copied))


def enter_copies(database: Database, settings: Settings) -> Sequence[DecisionRow]:
    """Enter the decisions of persons that have a copy in a file but no row in the database, as after a
    restore; returns the new rows, which wait to be applied again.

    A file that was altered gets a row, too, and then all deliveries wait for a person. Decisions that are in
    the database but missing in this machine's copies are copied again. Raises OSError, StoreAway, NotInSpool.
    """
    folder, bucket = settings.node.data_dir, bucket_of(settings)
    if bucket is not None:
        in_bucket = set(bucket.keys(FOLDER))
        for key in in_bucket:
            if not (folder / key).exists():
                bucket.get(key, folder / key)
    files = {_id_in_name(file): file for file in copied_decisions(folder)}
    new = []
    for numbers in batches(files):
        new += _enter_rows(database, settings, {number: files[number] for number in numbers})
    with database.read() as session:  # those that went with a disk
        mine = select(DecisionRow.id).where(DecisionRow.machine == machine_name(), DecisionRow.copied)
        lost = set(session.scalars(mine)) - files.keys()
    mark_copied(database, lost, copied=False)
    if bucket is not None:
        for file in copied_decisions(folder, machine_name()):
            key = str(file.relative_to(folder))
            if key not in in_bucket:
                bucket.put_first(key, file)
    return new


def is_behind(database: Database, settings: Settings) -> bool:
    """Whether the database lacks the newest copied decision of a machine: then it was restored while this
    node ran.
    """
    newest: set[str] = set()
    for folder in (settings.node.data_dir / FOLDER).glob("*"):
        month = max(folder.glob("[!.]*"), default=folder)
        newest |= {_id_in_name(file) for file in sorted(month.glob("[!.]*.json"))[-1:]}
    with database.read() as session:
        return not newest <= _known_ids(session, newest)


def copied_decisions(data_dir: Path, of: str = "*") -> list[Path]:
    """The files of copied decisions, the oldest first; ``of``: the machine whose copies are wanted, "*" for
    all.
    """
    return sorted((data_dir / FOLDER).glob(f"{of}/*/[!.]*.json"), key=lambda file: file.parts[-2:])


def read_decision(file: Path) -> dict[str, Any] | None:
    """The content of a decision's file; None if the file was changed. Raises OSError."""
    try:
        line = json.loads(file.read_bytes())
        return line if line.pop("sha256") == _digest(line) and line["id"] == _id_in_name(file) else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _not_copied(database: Database) -> Sequence[DecisionRow]:
    """The decisions that this machine must copy, the oldest first; after an hour also those of other
    machines.
    """
    ours = or_(DecisionRow.machine == machine_name(), DecisionRow.at < utc_now() - _OTHERS_HAD)
    chosen = select(DecisionRow).where(DecisionRow.copied.is_(False), ours)
    with database.read() as session:
        rows = session.scalars(chosen.order_by(DecisionRow.at, DecisionRow.id).limit(_BATCH)).all()
        session.expunge_all()
    return rows


def _known_ids(session: Session, numbers: Collection[str]) -> set[str]:
    """Those of these ids of decisions that the database has."""
    return set(session.scalars(select(DecisionRow.id).where(DecisionRow.id.in_(numbers))))


def _copy(settings: Settings, row: DecisionRow) -> bool:
    """Write and sync a decision's file, and put it into the bucket if that answers; returns whether the file
    is new.
    """
    folder = settings.node.data_dir
    content = {
        **row.record,
        "id": row.id,
        "at": row.at.isoformat(),
        "action": row.action,
        "study": row.study_uid,
        "holds": row.holds,
        "words": seal(folder, str(row.record.get("words", "")), row.id),
    }
    at = row.at.astimezone(UTC)
    key = f"{FOLDER}/{machine_name()}/{at:%Y-%m}/{at:%d%H%M%S%f}-{row.id}.json"
    (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
    is_new, place = not (folder / key).exists(), (folder / key).parent
    if not place.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        for above in place.parents[:3]:
            sync_folder(above)
    if is_new:
        with suppress(FileExistsError):  # of another process at this moment
            write_new(folder / key, json.dumps(content | {"sha256": _digest(content)}), 0o600)
    if (bucket := bucket_of(settings)) is not None:
        with suppress(StoreAway):
            bucket.put_first(key, folder / key)
    return is_new


def _enter_rows(database: Database, settings: Settings, files: Mapping[str, Path]) -> list[DecisionRow]:
    """Enter those of these decisions (files by id) that the database lacks; returns their rows.

    Two nodes that start at the same time may both try to enter them.
    """
    while True:
        try:
            with database.write() as session:
                known = _known_ids(session, files)
                new = [_row_of_file(settings, file) for number, file in files.items() if number not in known]
                session.add_all(new)
                session.flush()
                faults = sum(row.action == FAULT for row in new)
                if faults:
                    record(session, DECISIONS_CHANGED, places=faults)
                if len(new) > faults:
                    record(session, DECISIONS_UNKNOWN, decisions=len(new) - faults)
        except IntegrityError:
            continue
        return new


def _row_of_file(settings: Settings, file: Path) -> DecisionRow:
    """The row for a decision's file that the database does not have; for a changed file a row that says
    so.
    """
    place = {"id": _id_in_name(file), "machine": file.parts[-3], "copied": True, "applied_at": None}
    line = read_decision(file)
    if line is None:
        why = f"{file.relative_to(settings.node.data_dir)} was changed"
        about = {"action": FAULT, "at": utc_now(), "study_uid": "", "record": {}, "holds": True}
        return DecisionRow(**place, **about, waits_for=why)
    words = unseal(settings.node.data_dir, line["words"], line["id"])
    return DecisionRow(
        **place,
        at=datetime.fromisoformat(line["at"]),
        action=line["action"],
        study_uid=line["study"],
        record={key: line[key] for key in ("actor", "address", "fields", "what")} | {"words": words},
        holds=line["holds"],
        waits_for="",
    )


def _id_in_name(file: Path) -> str:
    """The id of a decision, from its file's name."""
    return file.stem.partition("-")[2]


def _digest(line: Mapping[str, Any]) -> str:
    """The SHA-256 of a decision's content, by which a changed file is detected."""
    return hashlib.sha256(json.dumps(line, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def seal(data_dir: Path, words: str, number: str) -> str:
    """Encrypt a person's reason ``words`` under the site key, as text; "" for no reason. Raises
    ConfigurationError.

    ``number``: the id of the decision, without which it cannot be decrypted.
    """
    return base64.b64encode(Seal(data_dir, _PURPOSE).close(words, number)).decode("ascii") if words else ""


def unseal(data_dir: Path, text: str, number: str) -> str:
    """Decrypt the reason of decision ``number``; LOST if the site key is a different one. Raises
    ConfigurationError.
    """
    with suppress(ValueError):  # also of text that is no ASCII
        sealed = base64.b64decode(text, validate=True)
        return (Seal(data_dir, _PURPOSE).open(sealed, number) or LOST) if text else ""
    return LOST


SHORTEST_REASON, LONGEST_REASON = 3, 200
"""Characters of a reason."""
_AGAIN = timedelta(minutes=5)  # after which looking at the same study is noted once more


DECISIONS = frozenset(
    {
        AuditAction.RESULT_WITHDRAWN,
        AuditAction.RESULTS_ASSESSED,
        AuditAction.FEEDBACK_GIVEN,
        AuditAction.ASSESSMENT_SENT,
        AuditAction.STUDY_RELEASED,
        AuditAction.STUDY_RERUN,
        AuditAction.CLEANING_JUDGED,
        AuditAction.DISCARDED,
        AuditAction.DELIVERY_RETRIED,
        AuditAction.SENT_TO_PEER,
        AuditAction.OBJECTS_DELETED,
        AuditAction.JOB_CHANGED,
    }
)
"""What persons decide of patients' objects: copied beside the database, a restore does not undo it."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who acts, and the network address of the person's request ("" for none).

    ``decided_at``, ``decision``: time and id of the original decision, if it is applied again after a
    restore.
    """

    name: str
    address: str = ""
    decided_at: datetime | None = None
    decision: str = ""

    @property
    def now(self) -> datetime:
        """The time for the audit: the present time, or for a decision that is applied again its original
        time.
        """
        return self.decided_at or transitions.utc_now()


COMMAND_LINE = Person("command line")
"""Whoever uses ``dicom-node``, which knows no users; none of the console's can bear this name."""


def note(
    session: Session,
    by: Person,
    action: AuditAction,
    *,
    study_id: int | None = None,
    what: Mapping[str, Any] | None = None,
    words: str = "",
    **fields: Any,
) -> AuditRow:
    """Add a row to the audit, in the transaction of the audited action; ``fields`` must contain no PHI.

    A decision is also stored for its copy: ``what`` names by UIDs what was decided, so that it can be applied
    again in a restored database; ``words``, the person's reason, are encrypted there.
    """
    row = AuditRow(
        at=by.now, actor=by.name, address=by.address[:64], action=action, study_id=study_id, fields=fields
    )
    session.add(row)
    if by.decision:
        mark_applied(session, by.decision)
    elif action in DECISIONS:
        about = dict(what or {})
        uid = (session.get_one(Study, study_id).study_instance_uid or "") if study_id is not None else ""
        # Later than the one before, also where the clock was put back: they are applied again in this order.
        before = session.scalar(select(func.max(DecisionRow.at)).where(DecisionRow.study_uid == uid))
        decision = DecisionRow(
            id=uuid.uuid4().hex,
            at=max(row.at, before + timedelta(microseconds=1)) if before else row.at,
            machine=machine_name(),
            action=action.value,
            study_uid=uid,
            record={
                "actor": by.name,
                "address": row.address,
                "fields": fields,
                "what": about,
                "words": words,
            },
            copied=False,
            # Deliveries of the study wait until such a decision is applied again.
            holds=action in _HOLDS
            and about.get("verdict") not in _LETS_GO
            and about.get("change") not in ("retry", "put_first"),
            applied_at=row.at,
            waits_for="",
        )
        session.add(decision)
        session.info[DECIDED] = True
    return row


def note_sight(database: Database, by: Person, study_id: int) -> None:
    """Record that a person sees a study, before it is shown; not again within a few minutes."""
    _note_once(database, by, AuditAction.STUDY_SEEN, AuditRow.study_id == study_id, study_id=study_id)


def note_list(database: Database, by: Person, name: str) -> None:
    """Record that a person sees a list of studies or patients; once in a few minutes, not for each page."""
    _note_once(database, by, AuditAction.LIST_SEEN, AuditRow.fields["list"].as_string() == name, list=name)


@Action(
    AUDIT,
    "list",
    "List what persons did and saw, the newest first. --json --limit 0 exports all that pass the filters.",
    "--patient P-17 --since 2026-03-01 --until 2026-04-01 --config node.toml",
    columns=(
        *times("at"),
        *fields("who: actor", "from: address", "what: action"),
        uid("study", "study"),
        Column("details", details),
    ),
    none="Nothing, or nothing that all filters let pass.",
    role=UserRole.ADMIN,
)
def rows(
    session: Session,
    *,
    actor: Annotated[str, Input("Only of this person.", "--who", "NAME")] = "",
    action: Annotated[
        str | None, Input("Only this action, such as study_seen.", "--what", "ACTION", one_of(*AuditAction))
    ] = None,
    since: Since = None,
    until: Until = None,
    patient: Annotated[str, Input("Only of studies with this Patient ID.", "--patient", "ID")] = "",
    study_instance_uid: OfStudy = "",
    limit: Annotated[int | None, at_most(100)] = 100,
    before: int | None = None,
) -> list[View]:
    """The newest audit rows that pass all filters; "" and None: all.

    ``before``: only rows older than the row with this number. ``limit``: how many at most. Raises NotFound
    for an unknown study.
    """
    chosen = select(AuditRow, Study.study_instance_uid).join(Study, isouter=True)
    if before is not None:
        chosen = chosen.where(AuditRow.id < before)
    if actor:
        chosen = chosen.where(AuditRow.actor == actor)
    if action:
        chosen = chosen.where(AuditRow.action == AuditAction(action))
    if since is not None:
        chosen = chosen.where(AuditRow.at >= since)
    if until is not None:
        chosen = chosen.where(AuditRow.at < until)
    if patient:
        chosen = chosen.where(Study.patient_id == patient_id_of(patient))
    if study_instance_uid:
        chosen = chosen.where(AuditRow.study_id == find_study(session, study_instance_uid).id)
    found = session.execute(chosen.order_by(AuditRow.id.desc()).limit(limit)).all()
    return [
        {"number": row.id, **columns(row, "at", "actor", "address", "action", "study_id"), "study": uid}
        | {"fields": dict(row.fields)}
        for row, uid in found
    ]


def _note_once(
    database: Database, by: Person, action: AuditAction, same: ColumnElement[bool], **fields: Any
) -> None:
    """Add an audit row, unless the person had an equal one in the last minutes; ``same``: SQL condition for
    equal rows.
    """
    noted = exists().where(
        same,
        AuditRow.actor == by.name,
        AuditRow.action == action,
        AuditRow.at > transitions.utc_now() - _AGAIN,
    )
    with database.read() as session:
        if session.scalar(select(noted)):
            return
    with database.write() as session:
        note(session, by, action, **fields)


def checked_reason(text: str) -> str:
    """A person's reason in one line, without double blanks. Raises FaultyInput if it is too short, long or
    unprintable.
    """
    words = " ".join(text.split())
    if not SHORTEST_REASON <= len(words) <= LONGEST_REASON or not words.isprintable():
        raise FaultyInput(f"say why in {SHORTEST_REASON} to {LONGEST_REASON} characters")
    return words
