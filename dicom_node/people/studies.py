"""A person's actions on studies: release from quarantine, rules again, retry, send, withdraw.

Several studies are changed one by one: if one is refused, the others are changed all the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Final

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input, all_of
from dicom_node.base.actions.columns import JOBS_OF_RULES, Column, Uid, fields, times, yes_no
from dicom_node.base.actions.inputs import StudyUid, StudyUids
from dicom_node.base.actions.nouns import STUDIES
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import SAYS_WHO
from dicom_node.base.errors import FaultyInput, NodeError, NotAllowedNow
from dicom_node.base.lifecycle import (
    AuditAction,
    DeliveryState,
    UserRole,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.locks import lock_studies
from dicom_node.base.store.tables import Delivery, Job, Result, Study
from dicom_node.base.store.views import View, find_study
from dicom_node.people import (
    PRINTABLE,
    Row,
    ServiceRequest,
    ServiceResult,
    ShortText,
    audit,
    jobs,
    open_database,
    outbox,
    reading,
    registered,
    writing,
)
from dicom_node.people.audit import COMMAND_LINE, Person

CHANGED: Final = (*fields("study"), yes_no("done", "done"), *fields("reason"))
"""The columns of what became of each study that was to be changed."""


_Change = partial(Action, STUDIES, columns=CHANGED, status=all_of("done"), role=UserRole.OPERATOR)
"""Declares a change of studies, each on its own."""


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

    patient: ShortText = ""
    name: ShortText = ""
    accession: str = Field("", max_length=16, pattern=PRINTABLE)


def _differing(row: View, *, says_who: bool) -> str:
    """The values of a choice in which the others differ: those that say who the patient is, or the rest."""
    return ", ".join(
        f"{word}={value}" for word, value in row["differs"].items() if (word in SAYS_WHO) is says_who
    )


@Action(
    STUDIES,
    "versions",
    "Show the choices for a study in quarantine: patients, versions, their senders and differences.",
    "1.2.840.113619.2.1 --config node.toml",
    columns=(
        *fields("take: number"),
        Column(
            "choose",
            lambda row: row["choose"] + (f" (if {row['if_taken']} is taken)" if row["if_taken"] else ""),
        ),
        Column("image", lambda row: Uid(row["sop_instance_uid"] or "")),
        *fields("objects", "from: calling_ae"),
        *times("received: first_received_at"),
        Column(
            "now",
            lambda row: "counts" if row["counts"] else "in another study" if row["stands_in"] else "",
        ),
        Column("differs in who", lambda row: _differing(row, says_who=True)),
        Column("and in", lambda row: _differing(row, says_who=False)),
    ),
    none="There is nothing to choose in this study: `studies show` gives the reason of its quarantine.",
    says="Then: dicom-node studies release {study_instance_uid} --as-of {result[0][as_of]}\n"
    "with --take NUMBER for each choice that has numbers.",
    role=UserRole.OPERATOR,
)
def versions(settings: Settings, study_instance_uid: StudyUid) -> list[View]:
    """The choices that a person must make before a study can be released from quarantine, as rows; they name
    patients. Two rows without number compare what is registered under the Patient ID with the images, where
    it differs.

    Raises NotFound.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        with database.read() as session:
            study = find_study(session, study_instance_uid)
            number, known = study.id, registered.registered_otherwise(session, settings, study)
        return Choice(database, settings).rows(number, known)


def release(
    settings: Settings,
    study_instance_uid: str,
    take: Sequence[int] = (),
    by: Person = COMMAND_LINE,
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

        def note(session: Session, what: View) -> None:
            """Note the release in the audit; ``what``: the choices by UID."""
            audit.note(session, by, AuditAction.STUDY_RELEASED, study_id=study, what=what, taken=sorted(take))

        Choice(database, settings).release(study, take, as_of=as_of, also=note)


@_Change(
    "release",
    "Release studies from quarantine: each is assembled again; of one study you may choose what "
    "counts.\n\nObjects that you do not choose stay aside.",
    "1.2.840.113619.2.1 --as-of HASH --take 1",
)
def release_studies(
    settings: Settings,
    study_instance_uids: StudyUids,
    by: Person = COMMAND_LINE,
    *,
    take: Annotated[
        Sequence[int], Input("Number of a choice in `studies versions`; repeatable.", "--take", "NUMBER")
    ] = (),
    as_of: Annotated[
        str | None,
        Input(
            "As `studies versions` says: refused if something came since, so that no number stands "
            "for another patient than you saw.",
            "--as-of",
        ),
    ] = None,
) -> list[Row]:
    """Release these studies from quarantine; returns a row for each, with the ``reason`` if it was refused.

    ``take`` and ``as_of`` as in ``release``, for one study only; the refusal of an only study is raised.
    Raises NotFound, NotAllowedNow, FaultyInput.
    """
    refuse_choices(study_instance_uids, take or as_of)
    return change_each(
        study_instance_uids,
        lambda uid: release(settings, uid, take, by, as_of=as_of),
        raises_alone=True,
    )


@Action(
    STUDIES,
    "rerun",
    "Apply the present rules to studies again, delivered and failed ones too: to all of them or "
    "none.\n\nUnchanged results are not sent twice. A study that is being received or in quarantine "
    "is refused.",
    "1.2.840.113619.2.1 --config node.toml",
    columns=JOBS_OF_RULES,
    role=UserRole.OPERATOR,
)
def rerun_rules(
    settings: Settings,
    study_instance_uids: StudyUids,
    by: Person = COMMAND_LINE,
) -> list[View]:
    """Apply the rules to these studies again, all or none; returns a row for each study and rule that takes
    it.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.studies import reruns

    with writing(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
        lock_studies(session, Study.id.in_(studies))
        for study in studies:
            audit.note(session, by, AuditAction.STUDY_RERUN, study_id=study)
        return [row for study in studies for row in reruns.rerun(session, study, settings)]


@_Change(
    "retry",
    "Run the stopped jobs of studies again, and send their given-up deliveries again.",
    "1.2.840.113619.2.1 113619.2.7 --config node.toml",
)
def retry_studies(
    settings: Settings,
    study_instance_uids: StudyUids,
    by: Person = COMMAND_LINE,
) -> list[Row]:
    """Run the stopped jobs of these studies again, and send their given-up deliveries again.

    Returns a row for each, with the ``reason`` if there are none.
    """
    return change_each(study_instance_uids, lambda uid: _retry(settings, uid, by))


@_Change(
    "send",
    "Send the newest results of studies to a further peer, as far as it takes their kinds.",
    "1.2.840.113619.2.1 --to teaching --config node.toml",
)
def send_studies(
    settings: Settings,
    study_instance_uids: StudyUids,
    peer: Annotated[str, Input("A configured peer that may receive.", "--to", "PEER")],
    by: Person = COMMAND_LINE,
) -> list[Row]:
    """Send the newest results of these studies to ``peer``; returns a row for each, with the ``reason`` if it
    was refused. Raises NotFound for an unknown peer.
    """
    settings.peer(peer)
    return change_each(study_instance_uids, lambda uid: outbox.send_study(settings, uid, peer, by))


def change_each(
    study_instance_uids: Sequence[str], change: Callable[[str], object], *, raises_alone: bool = False
) -> list[Row]:
    """Make a change to each of these studies, so that one that is refused stops no other; returns a row for
    each, with the ``reason`` if it was refused.

    ``change``: gets the UID, and raises a NodeError. ``raises_alone``: raise the refusal of an only study.
    """
    rows = []
    for uid in study_instance_uids:
        why_not = ""
        try:
            change(uid)
        except NodeError as refused:
            if raises_alone and len(study_instance_uids) == 1:
                raise
            why_not = str(refused)
        rows.append(Row(study=uid, done=not why_not, reason=why_not, by_hand={}))
    return rows


def refuse_choices(study_instance_uids: Sequence[str], choices: object) -> None:
    """Raise FaultyInput where choices were made for several studies."""
    if len(study_instance_uids) > 1 and choices:
        raise FaultyInput("a choice of versions or results is for one study")


def _retry(settings: Settings, uid: str, by: Person) -> None:
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
        jobs.run_jobs_again(settings, job_ids, by=by)
    if delivery_ids:
        outbox.send_again(settings, delivery_ids, by=by)


def number_of(database: Database, study_instance_uid: str) -> int:
    """The study's number in the database. Raises NotFound."""
    with database.read() as session:
        return find_study(session, study_instance_uid).id
