"""Copies of decisions: in the database, in a file of each machine in ``node.data_dir``, in the bucket.

A decision is committed together with its effects, then copied; then the person gets the answer. After a kill
in between, the row is still marked as not copied: the next copying process copies it, and recognizes by its
id a line that was already written.

The file of decisions: one line of JSON per decision, with the hash of the previous line.
Nobody can change, remove or insert a line unnoticed without changing all later lines. Lines are synced to
disk before ``append`` returns. An incomplete last line was being written when the power failed; its caller
got no answer.

Encryption of a person's reason under the site key: a reason may name a patient, the file must not.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy.exc import IntegrityError

from dicom_node.config.settings import Settings
from dicom_node.errors import DecisionNotCopied, NotInSpool, StoreAway
from dicom_node.events import DECISIONS_CHANGED, DECISIONS_UNKNOWN
from dicom_node.inbox.journal import sync_folder
from dicom_node.model.kinds import AuditAction, ReviewVerdict
from dicom_node.model.lifecycle import HeldState
from dicom_node.object_store.files import Bucket, bucket_of
from dicom_node.sitekey import Seal
from dicom_node.store import decisions
from dicom_node.store.database import Database
from dicom_node.store.tables import DecisionRow
from dicom_node.store.tables.node import FAULT
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
    bucket = bucket_of(settings)
    if bucket is not None:
        _fetch(settings, bucket)
    new: list[DecisionRow] = []
    for path in sorted((settings.node.data_dir / FOLDER).glob("*.jsonl")):
        content = DecisionChain(path).read()
        found = {row.id: row for row in _rows(settings, path.stem, content)}
        new += _entered(database, found)
        if path.stem == machine():  # lines that were cut off at the end, or went with a disk
            with database.write() as session:
                decisions.mark_lost(session, path.stem, found)
    if bucket is not None:  # what it has not got of this machine's file
        there, path = set(bucket.keys(f"{FOLDER}/{machine()}")), _path(settings, machine())
        for line in DecisionChain(path).read().lines if path.exists() else ():
            if _key(machine(), line) not in there:
                _put_line(settings, bucket, machine(), line)
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
        return [
            {
                **row.record,
                "id": row.id,
                "at": row.at.isoformat(),
                "action": row.action,
                "study": row.study_uid,
                "holds": row.holds,
                "words": seal(settings.node.data_dir, str(row.record.get("words", "")), row.id),
            }
            for row in decisions.not_copied(session, machine(), _BATCH)
        ]


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
        yield DecisionRow(
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


def holds(action: AuditAction, what: dict[str, Any]) -> bool:
    """Whether deliveries of the study wait until such a decision is applied."""
    return (
        action in _HOLDS
        and what.get("verdict") not in _LETS_GO
        and what.get("change") not in ("retry", "put_first")
    )


def _put(settings: Settings, stem: str, lines: Sequence[Line]) -> None:
    """Into the bucket as well; one that is away gets them later (``take_in``)."""
    if (bucket := bucket_of(settings)) is not None:
        with suppress(StoreAway):
            for line in lines:
                _put_line(settings, bucket, stem, line)


def _put_line(settings: Settings, bucket: Bucket, stem: str, line: Line) -> None:
    file = settings.node.data_dir / FOLDER / f".{secrets.token_hex(8)}"
    try:
        file.write_bytes(encoded(line))
        bucket.put_first(_key(stem, line), file)
    finally:
        file.unlink(missing_ok=True)


def _fetch(settings: Settings, bucket: Bucket) -> None:
    """Files of all machines as the bucket has them, as far as they are longer there."""
    by_stem: dict[str, list[str]] = {}
    for key in bucket.keys(FOLDER):
        by_stem.setdefault(key.split("/")[-2], []).append(key)
    for stem, keys in by_stem.items():
        with DecisionChain(_path(settings, stem)).locked() as file:
            for key in sorted(key for key in keys if int(Path(key).stem) > file.number):
                file.write(_get(settings, bucket, key))


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


Line = Mapping[str, Any]
"""``n`` (from 1), ``before`` (hash of the line before), ``id``, what was decided, and ``sha256`` of all."""
_TAIL = 2**20  # bytes in which the lines are that a killed process wrote and did not mark as written


@dataclass(frozen=True, slots=True)
class Fault:
    """A place where the chain is broken. ``id`` is the same at each reading."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class ChainContent:
    """The content of a file: its valid lines, and the faults of its invalid lines."""

    lines: Sequence[Line]
    faults: Sequence[Fault]


class DecisionChain:
    """One file of decisions; the processes of one machine write to it one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[Appender]:
        """Lock the file against all other processes of this machine while the scope lasts. Raises OSError."""
        new = not self.path.exists()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if new:
                sync_folder(self.path.parent)
            yield Appender(file)

    def read(self) -> ChainContent:
        """Read all lines, and compare each with its hash and with the previous line. Raises OSError."""
        data = self.path.read_bytes()
        lines: list[Line] = []
        faults: list[Fault] = []
        number, before = 0, ""
        for raw in data[: data.rfind(b"\n") + 1].splitlines():
            line = _parsed(raw)
            number += 1
            if line is None or line["sha256"] != _digest(line):
                faults.append(self._fault(raw, before, f"line {number} was changed"))
            else:
                if (line["n"], line["before"]) != (number, before):
                    text = f"a line before line {line['n']} was changed or cut out"
                    faults.append(self._fault(raw, before, text))
                lines.append(line)
                number = line["n"]
            before = _hash_of(raw)
        return ChainContent(lines, faults)

    def _fault(self, raw: bytes, before: str, text: str) -> Fault:
        name = hashlib.sha256(f"{self.path.name}:{before}:".encode() + raw).hexdigest()[:32]
        return Fault(f"fault-{name}", f"{self.path.name}: {text}")


class Appender:
    """Appends to a locked file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.last = ""
        """The id of the last line, "" where there is none."""
        self.number, self._before, self._known = self._tail()

    def append(self, records: Sequence[Mapping[str, Any]]) -> list[Line]:
        """Append the records that are not in the file yet, and sync the file; returns the new lines."""
        lines: list[Line] = []
        for decision in records:
            if decision["id"] in self._known:
                continue
            self.number += 1
            line = {**decision, "n": self.number, "before": self._before}
            self._before = line["sha256"] = _digest(line)
            lines.append(line)
        self.write(b"".join(map(encoded, lines)))
        return lines

    def write(self, data: bytes) -> None:
        """Append lines unchanged, such as those of another copy of this file, and sync the file."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _tail(self) -> tuple[int, str, set[str]]:
        """Number and hash of the last line, and the ids of the last ones; a torn line is cut off."""
        size = self._file.seek(0, os.SEEK_END)
        for window in (_TAIL, size):
            self._file.seek(max(0, size - window))
            data = self._file.read()
            end = data.rfind(b"\n") + 1
            if end or window >= size:
                break
        self._file.truncate(size - len(data) + end)
        number, before = 0, ""
        ids: set[str] = set()
        for raw in data[:end].splitlines():
            line = _parsed(raw)
            number, before = number + 1 if line is None else line["n"], _hash_of(raw)
            if line is not None:
                self.last = str(line["id"])
                ids.add(self.last)
        return number, before, ids


def _hash_of(raw: bytes) -> str:
    """What the next line names; of a damaged line its bytes', so that the chain goes on after it."""
    line = _parsed(raw)
    return str(line["sha256"]) if line is not None else hashlib.sha256(raw).hexdigest()


def _digest(line: Line) -> str:
    content = {key: value for key, value in line.items() if key != "sha256"}
    return hashlib.sha256(encoded(content)).hexdigest()


def encoded(line: Line) -> bytes:
    """The bytes of a line in the file."""
    return json.dumps(line, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def _parsed(raw: bytes) -> Line | None:
    """None for what is no line of ours."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not {"before", "id", "sha256"} <= line.keys():
        return None
    return line if isinstance(line.get("n"), int) else None


LOST = "sealed under another site key"
"""In place of words that cannot be opened."""
_PURPOSE = "words of decisions"


def seal(data_dir: Path, words: str, number: str) -> str:
    """Encrypt the reason of decision ``number`` as text; "" for no reason. Raises ConfigurationError."""
    return base64.b64encode(Seal(data_dir, _PURPOSE).close(words, number)).decode("ascii") if words else ""


def unseal(data_dir: Path, text: str, number: str) -> str:
    """Decrypt the reason; LOST if the site key is a different one. Raises ConfigurationError."""
    with suppress(ValueError):  # also of text that is no ASCII
        sealed = base64.b64decode(text, validate=True)
        return (Seal(data_dir, _PURPOSE).open(sealed, number) or LOST) if text else ""
    return LOST
