"""Copies of decisions: in the database, in a file of each machine in ``node.data_dir``, in the bucket.

A decision is committed together with its effects, then copied; then the person gets the answer. After a kill
in between, the row is still marked as not copied: the next copying process copies it, and recognizes by its
id a line that was already written.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError

from dicom_node.config.settings import Settings
from dicom_node.decisions.chain import ChainContent, DecisionChain, Fault, Line, encoded
from dicom_node.decisions.words import seal, unseal
from dicom_node.errors import DecisionNotCopied, NotInSpool, StoreAway
from dicom_node.events import DECISIONS_CHANGED, DECISIONS_UNKNOWN
from dicom_node.model.kinds import AuditAction, ReviewVerdict
from dicom_node.model.lifecycle import HeldState
from dicom_node.object_store.bucket import Bucket, bucket_of
from dicom_node.store import decisions
from dicom_node.store.database import Database
from dicom_node.store.tables import DecisionRow
from dicom_node.store.tables.decisions import FAULT
from dicom_node.store.transitions import record, utc_now

FOLDER = "decisions"
"""In ``node.data_dir``, and in the bucket: there a folder a file, and an object a line."""
_BATCH = 200  # rows that are copied at once; far fewer bytes than a chain looks back for them
_LETS_GO = (HeldState.ACCEPTED.value, ReviewVerdict.ACCEPTED.value)
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


def machine() -> str:
    """The name of this machine, which is also the name of the file that this process appends to."""
    return socket.gethostname()[:64]


def copy(database: Database, settings: Settings) -> int:
    """Append this machine's decisions that are not in the copies yet, and sync; returns their number.

    Raises DecisionNotCopied: the decision is in force, and the node copies it later.
    """
    done = 0
    if not _not_copied(database, settings):
        return done
    try:
        chain = DecisionChain(_path(settings, machine()))
        with chain.locked() as file:
            while records := _not_copied(database, settings):
                lines = file.append(records)
                with database.write() as session:
                    decisions.mark_copied(session, [one["id"] for one in records])
                done += len(lines)
                _put(settings, machine(), lines)
    except OSError as error:
        raise DecisionNotCopied(
            f"the decision is in force, but not in its copy ({error.strerror}): it would be lost with the "
            "database; make room, the node writes it then"
        ) from None
    return done


def take_in(database: Database, settings: Settings) -> Sequence[DecisionRow]:
    """Enter decisions that are in the copies but not in the database; returns the new rows, which wait.

    A changed or removed line gets a row, too: then all deliveries wait for a person. Decisions that are in
    the database but missing in this machine's file are appended to the file. Raises OSError, StoreAway.
    """
    bucket = bucket_of(settings.object_store)
    if bucket is not None:
        _fetch(settings, bucket)
    new: list[DecisionRow] = []
    for path in sorted((settings.node.data_dir / FOLDER).glob("*.jsonl")):
        content = DecisionChain(path).read()
        found = {row.id: row for row in _rows(settings, path.stem, content)}
        new += _entered(database, found)
        _copy_again(database, path.stem, found)
    if bucket is not None:
        _hand_over(settings, bucket)
    return new


def is_behind(database: Database, settings: Settings) -> bool:
    """Whether the database lacks the last line of a copy, because it was restored while this node ran."""
    last = []
    for path in (settings.node.data_dir / FOLDER).glob("*.jsonl"):
        with DecisionChain(path).locked() as file:
            last += [file.last] if file.last else []
    with database.read() as session:
        return bool(set(last) - decisions.known(session, last))


def _path(settings: Settings, stem: str) -> Path:
    return settings.node.data_dir / FOLDER / f"{stem}.jsonl"


def _not_copied(database: Database, settings: Settings) -> list[dict[str, Any]]:
    with database.read() as session:
        return [_record(settings, row) for row in decisions.not_copied(session, machine(), _BATCH)]


def _record(settings: Settings, row: DecisionRow) -> dict[str, Any]:
    words = seal(settings.node.data_dir, str(row.record.get("words", "")), row.id)
    known = {"id": row.id, "at": row.at.isoformat(), "action": row.action, "study": row.study_uid}
    return {**row.record, **known, "holds": row.holds, "words": words}


def _rows(settings: Settings, stem: str, content: ChainContent) -> Iterator[DecisionRow]:
    for line in content.lines:
        words = unseal(settings.node.data_dir, line["words"], line["id"])
        about = {key: line[key] for key in ("actor", "address", "fields", "what")}
        yield DecisionRow(
            id=line["id"],
            at=datetime.fromisoformat(line["at"]),
            machine=stem,
            action=line["action"],
            study_uid=line["study"],
            record={**about, "words": words},
            copied=True,
            holds=line["holds"],
            applied_at=None,
            waits_for="",
        )
    for fault in content.faults:
        yield _of_fault(stem, fault)


def _of_fault(stem: str, fault: Fault) -> DecisionRow:
    return DecisionRow(
        id=fault.id,
        at=utc_now(),
        machine=stem,
        action=FAULT,
        study_uid="",
        record={},
        copied=True,
        holds=True,
        applied_at=None,
        waits_for=fault.text,
    )


def _entered(database: Database, found: dict[str, DecisionRow]) -> list[DecisionRow]:
    """Enter the decisions that the database does not have, and return them.

    Two nodes that start at the same time may both try to enter them.
    """
    while True:
        with database.read() as session:
            new = [found[number] for number in found.keys() - decisions.known(session, found)]
        if not new:
            return []
        try:
            with database.write() as session:
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


def _copy_again(database: Database, stem: str, found: dict[str, DecisionRow]) -> None:
    """Lines that were cut off at the end, or went with a disk: the database has the decisions."""
    if stem != machine():
        return
    with database.write() as session:
        decisions.mark_lost(session, stem, found)


def holds(action: AuditAction, what: dict[str, Any]) -> bool:
    """Whether deliveries of the study wait until such a decision is applied."""
    return (
        action in _HOLDS
        and what.get("verdict") not in _LETS_GO
        and what.get("change") not in ("retry", "put_first")
    )


def _put(settings: Settings, stem: str, lines: Sequence[Line]) -> None:
    """Into the bucket as well; one that is away gets them later (``take_in``)."""
    bucket = bucket_of(settings.object_store)
    try:
        for line in lines:
            if bucket is not None:
                _put_line(settings, bucket, stem, line)
    except StoreAway:
        return


def _put_line(settings: Settings, bucket: Bucket, stem: str, line: Line) -> None:
    file = settings.node.data_dir / FOLDER / f".{secrets.token_hex(8)}"
    try:
        file.write_bytes(encoded(line))
        bucket.put_first(_key(stem, line), file)
    finally:
        file.unlink(missing_ok=True)


def _hand_over(settings: Settings, bucket: Bucket) -> None:
    """What the bucket has not got of this machine's file."""
    there = set(bucket.keys(f"{FOLDER}/{machine()}"))
    path = _path(settings, machine())
    for line in DecisionChain(path).read().lines if path.exists() else ():
        if _key(machine(), line) not in there:
            _put_line(settings, bucket, machine(), line)


def _fetch(settings: Settings, bucket: Bucket) -> None:
    """Files of all machines as the bucket has them, as far as they are longer there."""
    by_stem: dict[str, list[str]] = {}
    for key in bucket.keys(FOLDER):
        by_stem.setdefault(key.split("/")[-2], []).append(key)
    for stem, keys in by_stem.items():
        with DecisionChain(_path(settings, stem)).locked() as file:
            further = sorted(key for key in keys if int(Path(key).stem) > file.number)
            for key in further:
                file.take(_get(settings, bucket, key))


def _get(settings: Settings, bucket: Bucket, key: str) -> bytes:
    into = settings.node.data_dir / FOLDER / f".{secrets.token_hex(8)}"
    try:
        bucket.get(key, into)
        return into.read_bytes()
    except NotInSpool as lost:
        raise StoreAway(str(lost)) from None
    finally:
        into.unlink(missing_ok=True)


def _key(stem: str, line: Line) -> str:
    return f"{FOLDER}/{stem}/{line['n']:09d}.json"
