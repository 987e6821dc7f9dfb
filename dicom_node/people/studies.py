"""A person's actions on studies: release from quarantine, rules again, retry, send, withdraw.

Several studies are changed one by one: if one is refused, the others are changed all the same.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NodeError, NotAllowedNow
from dicom_node.base.lifecycle import (
    AuditAction,
    DeliveryState,
    RejectionReason,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Job, Result
from dicom_node.base.store.views import find_study
from dicom_node.people import (
    PRINTABLE,
    Row,
    ServiceRequest,
    ServiceResult,
    audit,
    jobs,
    open_database,
    outbox,
    reading,
    writing,
)
from dicom_node.people.withdrawal import withdraw_results


class Studies(ServiceResult):
    """One page of studies. ``next``: the value of ``after`` for the next page, null at the end."""

    studies: list[Row]
    next: int | None


class Wanted(ServiceRequest):
    """A request to search studies by what identifies a patient; it is sent in the body, so that no address
    contains it.

    Each value is complete, or its beginning and an asterisk; ``name``: words or their beginnings. "" matches
    all.
    """

    patient: str = Field("", max_length=64, pattern=PRINTABLE)
    name: str = Field("", max_length=64, pattern=PRINTABLE)
    accession: str = Field("", max_length=16, pattern=PRINTABLE)


def versions(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """The choices that a person must make before a study can be released from quarantine, as rows; they name
    patients.

    Raises NotFound.
    """
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
    """Release a study from quarantine with the choices ``take`` (numbers), one for each question of
    ``versions``.

    ``as_of``: a hash of the choices that the person saw; None: not compared. Raises NotFound, or
    NotAllowedNow if it is not in quarantine, a choice is missing, or objects of the study have arrived since.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = number_of(database, study_instance_uid)

        def note(session: Session, what: dict[str, Any]) -> None:
            """Note the release in the audit; ``what``: the choices by UID."""
            audit.note(session, by, AuditAction.STUDY_RELEASED, study_id=study, what=what, taken=sorted(take))

        Choice(database, settings).release(study, take, as_of=as_of, also=note)


def rerun_rules(
    settings: Settings, study_instance_uids: Sequence[str], by: audit.Person = audit.COMMAND_LINE
) -> list[dict[str, Any]]:
    """Apply the rules to these studies again, all or none; returns a row for each study and rule that takes
    it.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.studies import choose

    with writing(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
        for study in studies:
            audit.note(session, by, AuditAction.STUDY_RERUN, study_id=study)
        return [row for study in studies for row in choose.rerun(session, study, settings)]


def number_of(database: Database, study_instance_uid: str) -> int:
    """The study's number in the database. Raises NotFound."""
    with database.read() as session:
        return find_study(session, study_instance_uid).id


StudyChange = Literal["retry", "send", "release", "withdraw"]


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
) -> list[Row]:
    """Make one change to each of these studies; returns a row for each, with the ``reason`` if it was
    refused.

    "retry" runs the stopped jobs again and sends the given-up deliveries again. "send" sends the results to
    ``peer``. "release" releases from quarantine; ``take`` and ``as_of`` as in ``release``, for one study
    only. "withdraw" withdraws all results, or ``only`` those with these UIDs, with ``reason`` (code) and
    ``because`` (a person's words). ``raises_alone``: if there is only one study, raise its refusal. Raises
    NotFound, FaultyInput.
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
                case "send":
                    outbox.send_study(settings, uid, peer, by)
                case "release":
                    release(settings, uid, take, by, as_of=as_of)
                case "withdraw":
                    by_hand = withdraw_results(
                        settings, uid, only or None, reason=reason, because=because, by=by
                    )
        except NodeError as refused:
            if raises_alone and len(study_instance_uids) == 1:
                raise
            why_not = str(refused)
        rows.append(Row(study=uid, done=not why_not, reason=why_not, by_hand=by_hand))
    return rows


def _retry(settings: Settings, uid: str, by: audit.Person) -> None:
    """Run the stopped jobs of a study again, and send its given-up deliveries again. Raises NotAllowedNow
    without any.
    """
    with reading(settings) as session:
        study = find_study(session, uid)
        job_ids = session.scalars(
            select(Job.id)
            .where(Job.study_id == study.id, Job.study_revision == study.revision)
            .where(Job.state.in_(jobs.STUCK))
        ).all()
        delivery_ids = session.scalars(
            select(Delivery.id)
            .join(Result)
            .where(Result.study_id == study.id, Delivery.state == DeliveryState.DEAD)
        ).all()
    if not job_ids and not delivery_ids:
        raise NotAllowedNow("no job was stopped and no delivery was given up")
    if job_ids:
        jobs.change_jobs(settings, job_ids, "retry", by)
    if delivery_ids:
        outbox.send_again(settings, delivery_ids, by=by)
