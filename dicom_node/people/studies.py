"""A person's actions on a study, or on several: each is changed separately, a refused one stops no other; and
on the spool, where their objects are.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NodeError, NotAllowedNow
from dicom_node.base.files import Files
from dicom_node.base.kinds import AuditAction, RejectionReason
from dicom_node.base.lifecycle import END_STATES, DeliveryState, StudyState
from dicom_node.base.store import intake, transitions
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Instance, Job, Result, Study
from dicom_node.base.store.views import View, find_study
from dicom_node.people import (
    PRINTABLE,
    Row,
    ServiceRequest,
    ServiceResult,
    audit,
    deliveries,
    jobs,
    open_database,
    reading,
    results,
    writing,
)
from dicom_node.receive.spool import Spool


class StudyRow(Row):
    """A study; ``id`` is its number here."""

    id: int
    study: str
    state: StudyState
    reason: str
    revision: int


class Studies(ServiceResult):
    """One page; ``next`` is ``after`` of the next one, null at the end."""

    studies: list[StudyRow]
    next: int | None


class Wanted(ServiceRequest):
    """Whole values, or their beginning and an asterisk; of ``name`` whole words. No address holds them."""

    patient: str = Field("", max_length=64, pattern=PRINTABLE)
    name: str = Field("", max_length=64, pattern=PRINTABLE)
    accession: str = Field("", max_length=16, pattern=PRINTABLE)


def versions(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """The choices to make before a study can be released; they name patients. Raises NotFound."""
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        return Choice(database, settings).rows(number_of(database, study_instance_uid))


def release(
    settings: Settings,
    study_instance_uid: str,
    take: Sequence[int] = (),
    by: audit.Person = audit.COMMAND_LINE,
    *,
    as_of: str | None = None,
) -> None:
    """Release a study from quarantine with the options ``take``, one for each question of ``versions``.

    ``as_of``: the rows that the person saw. Raises NotFound, or NotAllowedNow if it is not in quarantine, a
    choice is missing, or objects of the study have arrived since.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = number_of(database, study_instance_uid)

        def note(session: Session, what: dict[str, Any]) -> None:
            audit.note(session, by, AuditAction.STUDY_RELEASED, study_id=study, what=what, taken=sorted(take))

        Choice(database, settings).release(study, take, as_of=as_of, also=note)


def rerun_rules(
    settings: Settings, study_instance_uids: Sequence[str], by: audit.Person = audit.COMMAND_LINE
) -> list[dict[str, Any]]:
    """Apply the rules to these studies again, all or none; a row for each study and rule that takes it.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.studies import choose

    with writing(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
        for study in studies:
            audit.note(session, by, AuditAction.STUDY_RERUN, study_id=study)
        return [row for study in studies for row in choose.rerun(session, study, settings)]


def delete_by_uid(settings: Settings, study_instance_uids: Sequence[str]) -> list[View]:
    """Delete the received objects of studies, by UID. Raises NotFound."""
    with open_database(settings) as database, database.read() as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
    return delete_received(settings, studies)


def delete_received(
    settings: Settings, studies: Sequence[int], by: audit.Person = audit.COMMAND_LINE
) -> list[View]:
    """Delete the received objects of these studies now; a row for each, with the reason why not, or "".

    The rule is that of ``spool.keep_days`` without the days: a study must have ended, and each of its results
    be confirmed, cancelled or discarded. Built results stay.
    """
    from dicom_node.studies.indexing import purge_now

    def note(session: Session, study: int) -> None:
        audit.note(session, by, AuditAction.OBJECTS_DELETED, study_id=study)

    with open_database(settings) as database:
        deleted = set(purge_now(database, settings, studies, note))
        with database.read() as session:
            return [
                {
                    "study_instance_uid": session.get_one(Study, study).study_instance_uid,
                    "deleted": study in deleted,
                    "reason": "" if study in deleted else _why_not(session, study),
                }
                for study in studies
            ]


def number_of(database: Database, study_instance_uid: str) -> int:
    """The study's number in the database. Raises NotFound."""
    with database.read() as session:
        return find_study(session, study_instance_uid).id


def _why_not(session: Session, number: int) -> str:
    study = session.get_one(Study, number)
    if study.state is StudyState.QUARANTINED:
        return "it is in quarantine: release it first"
    if study.state not in END_STATES:
        return f"it is {study.state.value}: wait until it has ended"
    if not session.scalar(select(exists().where(Instance.study_id == number, Instance.purged.is_(False)))):
        return "its images were deleted before"
    if intake.purgeable(session, transitions.utc_now() + timedelta(days=1), 1, [number]):
        return "it was being changed at that moment: try again"
    return "a result is not confirmed yet, or a job is held: send, discard or cancel it first"


_LOGGER = logging.getLogger(__name__)
StudyChange = Literal["retry", "rerun", "send", "release", "withdraw"]
MOST = 500
"""Studies that one request changes."""


class SeveralStudies(ServiceRequest):
    """A change of several studies at once; ``studies``: their numbers in the database. ``peer`` is for
    "send", ``reason`` and ``because`` are for "withdraw".
    """

    studies: Annotated[list[Annotated[int, Field(ge=1, lt=2**63)]], Field(min_length=1, max_length=MOST)]
    change: StudyChange
    peer: str = Field("", max_length=64, pattern=PRINTABLE)
    reason: RejectionReason = RejectionReason.QUALITY
    because: str = Field("", max_length=256, pattern=PRINTABLE)


class ChangedStudy(Row):
    """Whether one study was changed, and if not, why.

    ``by_hand``: UIDs of withdrawn results that a person must remove, by peer.
    """

    study: str
    done: bool
    reason: str
    by_hand: dict[str, list[str]] = Field(default_factory=dict)


class ChangedStudies(ServiceResult):
    """A row for each study, with its number ``id``."""

    studies: list[ChangedStudy]


def change_studies(
    settings: Settings,
    study_instance_uids: Sequence[str],
    change: StudyChange,
    by: audit.Person = audit.COMMAND_LINE,
    *,
    peer: str = "",
    reason: RejectionReason = RejectionReason.QUALITY,
    because: str = "",
    only: Sequence[str] = (),
    take: Sequence[int] = (),
    as_of: str | None = None,
    raises_alone: bool = False,
) -> list[ChangedStudy]:
    """Change each of these studies; returns a row for each, with the ``reason`` if it was refused or failed.

    "retry": its stopped jobs and given-up deliveries. "release": from quarantine, with the choices ``take``
    among what ``as_of`` marks, which are for one study. "withdraw": its results, or ``only`` those with these
    UIDs. ``raises_alone``: of one study the refusal is raised. Raises UnknownPeer, FaultyInput.
    """
    if change == "send":
        settings.peer(peer)
    if len(study_instance_uids) > 1 and (take or as_of or only):
        raise FaultyInput("a choice of versions or results is for one study")
    if change == "withdraw":
        audit.checked_reason(because)
    rows = []
    for uid in study_instance_uids:
        why_not, by_hand = "", dict[str, list[str]]()
        try:
            match change:
                case "retry":
                    _retry(settings, uid, by)
                case "rerun":
                    rerun_rules(settings, [uid], by)
                case "send":
                    deliveries.send_study(settings, uid, peer, by)
                case "release":
                    release(settings, uid, take, by, as_of=as_of)
                case "withdraw":
                    by_hand = results.withdraw(
                        settings, uid, only or None, reason=reason, because=because, by=by
                    )
        except NodeError as refused:
            if raises_alone and len(study_instance_uids) == 1:
                raise
            why_not = str(refused)
        except Exception as error:  # noqa: BLE001  (the others are changed, and each has its row)
            _LOGGER.error("%s of a study failed: %s", change, type(error).__name__)
            why_not = f"it failed in the node ({type(error).__name__})"
        rows.append(ChangedStudy(study=uid, done=not why_not, reason=why_not, by_hand=by_hand))
    return rows


def _retry(settings: Settings, uid: str, by: audit.Person) -> None:
    with reading(settings) as session:
        study = find_study(session, uid)
        stopped = select(Job.id).where(Job.study_id == study.id, Job.study_revision == study.revision)
        job_ids = session.scalars(stopped.where(Job.state.in_(jobs.STUCK))).all()
        dead = select(Delivery.id).join(Result).where(Result.study_id == study.id)
        delivery_ids = session.scalars(dead.where(Delivery.state == DeliveryState.DEAD)).all()
    if not job_ids and not delivery_ids:
        raise NotAllowedNow("no job was stopped and no delivery was given up")
    if job_ids:
        jobs.change_jobs(settings, job_ids, "retry", by)
    if delivery_ids:
        deliveries.retry(settings, delivery_ids, by=by)


def compare_spool(settings: Settings) -> str:
    """The differences between spool and index, and what to do; "" if there is none."""
    from dicom_node.studies.indexing import compare

    spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
    with open_database(settings) as database:
        return str(compare(database, spool, Files(settings)))


def reindex_spool(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Let the node index spooled objects that its database does not know; returns how many.

    ``progress`` is called with (done, all). Raises SpoolError.
    """
    from dicom_node.studies.indexing import reindex

    spool = Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)
    with open_database(settings) as database:
        done = reindex(database, spool, Files(settings), progress)
        if done:
            with database.write() as session:
                audit.note(session, audit.COMMAND_LINE, AuditAction.SPOOL_REINDEXED, objects=done)
    return done
