"""Queries of which files are in the object store, and which received objects wait for upload."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from dicom_node.store.tables import Instance, ReceivedObject, Result, Study

_WAITS = (ReceivedObject.sha256 == "") & ReceivedObject.purged.is_(False)
_INDEXING = 0x4449434F4D  # number of the lock of who indexes ("DICOM")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A received object that waits for upload: number and path of its row, size of its file in bytes."""

    id: int
    path: str
    bytes: int


def known_sha256(session: Session, path: str) -> str | None:
    """The hash of the file at ``path``: "" while it waits for upload, None if it was never uploaded."""
    name = PurePosixPath(path)
    if name.parts[0] == "spool":
        return session.scalar(select(ReceivedObject.sha256).where(ReceivedObject.spool_name == name.stem))
    return session.scalar(select(Result.sha256).where(Result.sop_instance_uid == name.stem))


def waiting(session: Session, after: int, limit: int) -> Sequence[Waiting]:
    """Received objects that wait for upload, with row numbers above ``after``.

    Their files may be on another machine.
    """
    chosen = select(ReceivedObject.id, ReceivedObject.path, ReceivedObject.bytes)
    chosen = chosen.where(_WAITS, ReceivedObject.id > after).order_by(ReceivedObject.id).limit(limit)
    return [Waiting(*row) for row in session.execute(chosen)]


def oldest_waiting(session: Session) -> tuple[int, datetime | None]:
    """The number of the site's objects waiting for upload, and the time of the oldest."""
    count, since = session.execute(
        select(func.count(), func.min(ReceivedObject.received_at)).where(_WAITS)
    ).one()
    return count, since


def waiting_paths(session: Session) -> set[str]:
    """The paths of all files waiting for upload."""
    return set(session.scalars(select(ReceivedObject.path).where(_WAITS)))


def expect(session: Session, spool_names: Collection[str]) -> None:
    """Queue files for upload that were stored before the object store was configured."""
    session.execute(
        update(ReceivedObject)
        .where(ReceivedObject.spool_name.in_(spool_names), ReceivedObject.sha256.is_(None))
        .values(sha256="")
    )


def handed_over(session: Session, hashes: Mapping[int, str]) -> list[str]:
    """Store the hashes of uploaded files in their rows. Returns the paths of files purged meanwhile."""
    session.execute(
        update(ReceivedObject), [{"id": number, "sha256": hashes[number]} for number in sorted(hashes)]
    )
    gone = select(ReceivedObject.path).where(ReceivedObject.id.in_(hashes), ReceivedObject.purged)
    return list(session.scalars(gone))


def purged(session: Session, spool_names: Collection[str], result_uids: Collection[str]) -> set[str]:
    """The names of these received files and results that have been purged."""
    received = select(ReceivedObject.spool_name).where(ReceivedObject.purged)
    results = select(Result.sop_instance_uid).where(Result.purged)
    return {
        *session.scalars(received.where(ReceivedObject.spool_name.in_(spool_names))),
        *session.scalars(results.where(Result.sop_instance_uid.in_(result_uids))),
    }


def is_whole() -> ColumnElement[bool]:
    """SQL: whether all objects in force of the study are in the store, so that any machine finds them."""
    file = aliased(ReceivedObject)
    there = exists().where(
        file.sop_instance_uid == Instance.sop_instance_uid, file.path == Instance.path, file.sha256 > ""
    )
    return ~exists().where(Instance.study_id == Study.id, Instance.purged.is_(False), ~there)


def one_indexer(session: Session) -> None:
    """Prevent other machines of the site from indexing until this transaction ends.

    A machine that stops responding loses this right after two minutes. SQLite has a single writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.set_config("idle_in_transaction_session_timeout", "120s", True)))
        session.execute(select(func.pg_advisory_xact_lock(_INDEXING)))
