"""A job of the pipeline ``remote``: its study is sent, and then its answer is there, or did not come."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from ai_pipeline.contract import ModelRef, PipelineResult, ProgramFile
from ai_pipeline.programs.output import MOST_OBJECT_BYTES
from dicom_connectors.remote import copies
from dicom_connectors.remote.pipeline import RemoteOptions
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import AnswerAwaited, NoAnswer, NotFound
from dicom_node.base.events import JOB_FAILED
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import AwaitedState
from dicom_node.base.store.awaited import AnswerObject, AwaitedAnswer
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import EventRow, Job, ReceivedObject, Study
from dicom_node.base.store.transitions import utc_now

_LOOK_SECONDS: Final = 600.0  # the service that awaits answers has the job claimed when there is something
_SOON_SECONDS: Final = 2.0
_OVER: Final = (AwaitedState.SILENT, AwaitedState.DROPPED)


def answer(
    database: Database,
    settings: Settings,
    job: Job,
    images: Sequence[object],  # noqa: ARG001
) -> PipelineResult:
    """Return what the vendor's AI answered to a job, which nobody has judged yet.

    Raises AnswerAwaited until it is whole, NoAnswer if none came in time, StoreAway and NotInSpool.
    """
    options = RemoteOptions.of(job.options)
    with database.write() as session:
        row = newest(session, job.id)
        if row is None or (row.state in _OVER and is_asked_again(session, row)):
            row = _begin(session, settings, job, options)
        state, reason, peer = row.state, row.reason, row.peer
        if state is AwaitedState.ANSWERED:
            objects = _objects(session, settings, row)
            if options.deidentify:
                sent_as = copies.sent_as(session, settings, job, row.peer)
                objects = tuple(replace(one, content=sent_as.mapped_back(one.content)) for one in objects)
        elif state is AwaitedState.LATE and is_asked_again(session, row):
            raise AnswerAwaited(f"a late answer of {peer} is being received", _SOON_SECONDS)
    if state in (AwaitedState.SILENT, AwaitedState.LATE):
        raise NoAnswer(reason)
    if state is not AwaitedState.ANSWERED:
        raise AnswerAwaited(f"the answer of {peer} is awaited", _LOOK_SECONDS)
    return PipelineResult(models=(_model(settings, peer, options, job),), objects=objects)


def newest(session: Session, job_id: int) -> AwaitedAnswer | None:
    """Return the row of the newest answer to this job, awaited or there; None if the job has none."""
    chosen = select(AwaitedAnswer).where(AwaitedAnswer.job_id == job_id)
    return session.scalar(chosen.order_by(AwaitedAnswer.id.desc()).limit(1))


def is_asked_again(session: Session, row: AwaitedAnswer) -> bool:
    """Return whether the job of an answer that was given up has taken note of that: it failed then, or was
    cancelled, so that it is running again only because a person asked for it.
    """
    if row.state is AwaitedState.DROPPED:
        return True
    failed = exists().where(
        EventRow.study_id == row.study_id,
        EventRow.number == JOB_FAILED.number,
        EventRow.at >= row.ended_at,
        EventRow.fields["job"].as_integer() == row.job_id,
    )
    return bool(session.scalar(select(failed)))


def _begin(session: Session, settings: Settings, job: Job, options: RemoteOptions) -> AwaitedAnswer:
    """Add the row by which the study of a job is sent. Raises NoAnswer if the peer is gone."""
    try:
        settings.peer(options.peer)
    except NotFound as error:
        raise NoAnswer(str(error)) from None
    return add_row(session, settings, job, options.peer)


def add_row(session: Session, settings: Settings, job: Job, peer: str) -> AwaitedAnswer:
    """Add the row by which the study of a job is sent to this peer."""
    options, now = RemoteOptions.of(job.options), utc_now()
    study = session.get_one(Study, job.study_id).study_instance_uid or ""
    if options.deidentify:
        study = copies.pseudonyms_for(settings, peer).uid(study)
    row = AwaitedAnswer(
        study_id=job.study_id,
        job_id=job.id,
        peer=peer,
        study_instance_uid=study,
        state=AwaitedState.WAITING,
        began_at=now,
        limit_at=now + timedelta(minutes=options.deadline),
        next_at=now,
    )
    session.add(row)
    session.flush()
    return row


def _objects(session: Session, settings: Settings, row: AwaitedAnswer) -> tuple[ProgramFile, ...]:
    """Read the objects of a whole answer, in the order in which they came: of two with the same content the
    first counts. Raises NoAnswer if they are too large together, StoreAway, NotInSpool.
    """
    received = session.scalars(
        select(ReceivedObject)
        .join(AnswerObject, AnswerObject.received_id == ReceivedObject.id)
        .where(AnswerObject.awaited_id == row.id)
        .order_by(ReceivedObject.id)
    ).all()
    if sum(one.bytes for one in received) > MOST_OBJECT_BYTES:
        raise NoAnswer(f"the answer of {row.peer} has more than {MOST_OBJECT_BYTES >> 20} MiB")
    files = Files(settings)
    return tuple(
        ProgramFile(f"{number:04}.dcm", files.here(session, one.path).read_bytes())
        for number, one in enumerate(received, start=1)
    )


def _model(settings: Settings, peer: str, options: RemoteOptions, job: Job) -> ModelRef:
    """Return the model that results name: the vendor's, as the rule calls it, at the AE title of this
    peer. Raises NoAnswer if the peer is gone.
    """
    try:
        title = settings.peer(peer).ae_title
    except NotFound as error:
        raise NoAnswer(str(error)) from None
    described = json.dumps(dict(job.options), sort_keys=True, default=str)
    server, rule = (hashlib.sha256(text.encode()).hexdigest() for text in (f"remote {title}", described))
    return ModelRef(options.model, options.version, server, rule)
