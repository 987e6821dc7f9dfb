"""Results leave a job: files first, then one transaction with rows, deliveries and the job's end."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.contract import ModelRef, Pipeline, PipelineResult, Refusal
from dicom_node import results
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import ResultRefused, UnknownPeer
from dicom_node.events import DELIVERY_RETRIED, RESULT_BUILT, RESULT_EXISTS, RESULT_WITHHELD, SOURCE_REPAIRED
from dicom_node.jobs.queue import ClaimedJob, LeaseQueue
from dicom_node.jobs.worker.cleaning_counts import NOTHING_CLEANED, CleaningCounts
from dicom_node.jobs.worker.images import JobImages
from dicom_node.model.deidentified import FOLDER as DEIDENTIFIED_FOLDER
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState
from dicom_node.monitoring.tally import Tallies, Tally
from dicom_node.results import BuiltObject, Cause, Pseudonyms, ResultContext, SourceObject
from dicom_node.sitekey import load_or_create
from dicom_node.store import deliveries
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Job, Result
from dicom_node.store.transitions import move_delivery, record, settle_study, utc_now

_ROUNDS = 5  # another worker may release the same object at the same moment; once is enough in practice


@dataclass(frozen=True, slots=True)
class _File:
    """A built object on disk under a temporary name; ``final`` is where it belongs.

    ``was_there``: it was built before and its row was lost with the database. Those bytes are the object
    (truth 5), and nobody knows whether they were sent.
    """

    temporary: Path
    final: Path
    sha256: str
    size: int
    was_there: bool = False


class Releaser:
    """Builds the result objects of a job and releases them, all or none."""

    def __init__(self, database: Database, settings: Settings, queue: LeaseQueue) -> None:
        self._database = database
        self._settings = settings
        self._queue = queue
        self._tallies = Tallies(settings.workers.models_dir)

    def check_destinations(self, job: ClaimedJob) -> None:
        """Raise UnknownPeer when a destination of the job was taken out of the configuration."""
        for name in job.destinations:
            self._settings.peer(name)

    def release(
        self,
        job: ClaimedJob,
        pipeline: Pipeline,
        images: JobImages,
        result: PipelineResult,
        refused: Sequence[Refusal] = (),
    ) -> None:
        """Release what the pipeline found, and count it and what it ``refused``.

        Raises ResultRefused, LeaseLost, JobCancelled, PixelError.
        """
        analysed_at = job.analysed_at or utc_now()
        models = result.models or pipeline.models()
        built: list[BuiltObject] = []
        for peers in _by_boxes(self._peers(job, deidentified=False)):
            context = self._context(job, pipeline, models, analysed_at, peers, built=built)
            built += results.build(context, images.readable, result)
        if hidden := self._peers(job, deidentified=True):
            context = self._context(job, pipeline, models, analysed_at, hidden, deidentified=True)
            built += self._deidentified(job, context, images, result)
        self._tell_repairs(job, images.readable)
        tally = self._tallies.of(result.scores, refused)
        cleaning = CleaningCounts.of(result)
        self._release(job, JobState.SUCCEEDED, "", built, analysed_at, tally, cleaning)

    def release_failure(
        self,
        job: ClaimedJob,
        pipeline: Pipeline,
        images: JobImages,
        state: JobState,
        reason: str,
        cause: Cause,
        refused: Sequence[Refusal] = (),
    ) -> None:
        """Release a short report that the AI did not run, why, and what kind of cause. Raises as ``release``.

        It is for those who wait for the study: a de-identified destination has no study to wait for.
        """
        known = self._peers(job, deidentified=False)
        context = self._context(job, pipeline, pipeline.models(), utc_now(), known)
        built = results.build_failure(context, images.all, reason, cause)
        self._tell_repairs(job, images.all)
        self._release(job, state, reason, built, None, self._tallies.of((), refused))

    def end(
        self, job: ClaimedJob, state: JobState, reason: str = "", refused: Sequence[Refusal] = ()
    ) -> None:
        """End a job without results. Raises LeaseLost."""
        tally = self._tallies.of((), refused)
        with self._database.write() as session:
            self._queue.complete_if_owner(session, job, state, reason)
            tally.count(session, self._settings)
            settle_study(session, job.study_id)

    def _release(
        self,
        job: ClaimedJob,
        state: JobState,
        reason: str,
        built: Sequence[BuiltObject],
        analysed_at: datetime | None,
        tally: Tally,
        cleaning: CleaningCounts = NOTHING_CLEANED,
    ) -> None:
        with self._written(built) as files:
            for _ in range(_ROUNDS):
                with contextlib.suppress(IntegrityError), self._database.write() as session:
                    row = self._queue.complete_if_owner(session, job, state, reason)
                    row.analysed_at = row.analysed_at or analysed_at
                    known = self._known(session, built)
                    rows = dict(known)
                    for item in built:
                        uid = item.sop_instance_uid
                        rows[uid] = rows.get(uid) or self._add(session, job, item, files)
                        in_doubt = uid in files and files[uid].was_there
                        self._deliver(session, job, item, rows[uid], in_doubt=in_doubt)
                    tally.count(session, self._settings)
                    cleaning.record(session, job)
                    settle_study(session, job.study_id)
                    session.flush()
                    # Last before the commit: should it fail, the next try writes the files anew.
                    new = [file for uid, file in files.items() if uid not in known and not file.was_there]
                    _put_in_place(new)
                    return
        raise RuntimeError("results of this job are being released by another worker again and again")

    def _known(self, session: Session, built: Sequence[BuiltObject]) -> dict[str, Result]:
        """Objects that exist: they are looked up, never built again (truth 5)."""
        uids = [item.sop_instance_uid for item in built]
        found = session.scalars(select(Result).where(Result.sop_instance_uid.in_(uids)))
        known = {row.sop_instance_uid: row for row in found}
        for row in known.values():
            record(session, RESULT_EXISTS, row.study_id, kind=row.kind.value, instance=row.sop_instance_uid)
        return known

    def _add(
        self, session: Session, job: ClaimedJob, item: BuiltObject, files: Mapping[str, _File]
    ) -> Result:
        """The row of a new object. Raises IntegrityError when another worker was quicker."""
        file = files[item.sop_instance_uid]
        row = Result(
            study_id=job.study_id,
            job_id=job.id,
            kind=item.kind,
            sop_instance_uid=item.sop_instance_uid,
            sop_class_uid=item.sop_class_uid,
            series_instance_uid=item.series_instance_uid,
            path=str(file.final.relative_to(self._settings.node.data_dir)),
            sha256=file.sha256,
            bytes=file.size,
            supersedes=item.supersedes,
            deidentified=item.deidentified,
            created_at=utc_now(),
        )
        session.add(row)
        session.flush()
        record(
            session, RESULT_BUILT, job.study_id,
            job=job.id, kind=row.kind.value, instance=row.sop_instance_uid, supersedes=row.supersedes,
        )  # fmt: skip
        return row

    def _tell_repairs(self, job: ClaimedJob, images: Sequence[SourceObject]) -> None:
        """An event for each image with attributes that DICOM does not allow: keywords, no values."""
        faulty = results.repairs_of(images)
        if not faulty:
            return
        with self._database.write() as session:
            for uid, repairs in faulty.items():
                record(
                    session, SOURCE_REPAIRED, job.study_id, job=job.id, instance=uid,
                    repaired=",".join(repairs.repaired), left_out=",".join(repairs.left_out),
                    kept=",".join(repairs.kept),
                )  # fmt: skip

    def _deidentified(
        self, job: ClaimedJob, context: ResultContext, images: JobImages, result: PipelineResult
    ) -> list[BuiltObject]:
        """Objects for destinations that may not know the patient; what may not leave is told by an event.

        Raises ResultRefused when nothing may and the job has no other destination.
        """
        pseudonyms = Pseudonyms.of(load_or_create(self._settings.node.data_dir))
        made = results.build_deidentified(context, images.readable, result, pseudonyms)
        if made.withheld:
            with self._database.write() as session:
                for reason in made.withheld:
                    record(session, RESULT_WITHHELD, job.study_id, job=job.id, reason=reason)
        alone = not self._peers(job, deidentified=False)
        if alone and made.withheld and not made.objects:
            raise ResultRefused("; ".join(made.withheld))
        return list(made.objects)

    def _deliver(
        self, session: Session, job: ClaimedJob, item: BuiltObject, result: Result, *, in_doubt: bool
    ) -> None:
        for peer in self._peers(job, deidentified=result.deidentified):
            if result.kind not in peer.results or item.burned_in_boxes is (not peer.burned_in_boxes):
                continue
            delivery = deliveries.add(
                session, result, peer.name, ask_first=in_doubt and peer.confirm != "none"
            )
            if delivery.withdrawn:
                wanted = {"reason": "wanted again", "withdrawn": False, "next_at": utc_now()}
                move_delivery(session, delivery, DeliveryState.PENDING, DELIVERY_RETRIED, **wanted)

    @contextlib.contextmanager
    def _written(self, built: Sequence[BuiltObject]) -> Iterator[dict[str, _File]]:
        """The bytes of new objects, durable under temporary names; what is not put in place goes away."""
        files: dict[str, _File] = {}
        try:
            for item in built:
                if item.data is not None:
                    name = DEIDENTIFIED_FOLDER if item.deidentified else "results"
                    folder = self._settings.node.data_dir / name
                    files[item.sop_instance_uid] = _write(folder, item.sop_instance_uid, item.data)
            yield files
        finally:
            for file in files.values():
                file.temporary.unlink(missing_ok=True)

    def _context(
        self,
        job: ClaimedJob,
        pipeline: Pipeline,
        models: tuple[ModelRef, ...],
        analysed_at: datetime,
        peers: Sequence[PeerSettings],
        *,
        deidentified: bool = False,
        built: Sequence[BuiltObject] = (),
    ) -> ResultContext:
        """``built``: objects of this job for other destinations; the same one is not built again."""
        former, series = self._former_report(job, peers, deidentified=deidentified)
        known = self._peers(job, deidentified=deidentified)
        charset: Literal["utf8", "source"] = (
            "source" if any(peer.charset == "source" for peer in known) else "utf8"
        )
        return ResultContext(
            pipeline=pipeline.name,
            pipeline_version=pipeline.version,
            rule=job.rule,
            models=models,
            analysed_at=analysed_at,
            kinds=frozenset(kind for peer in peers for kind in peer.results),
            options=job.options,
            station_name=self._settings.node.station_name,
            charset=charset,
            burned_in_boxes=any(peer.burned_in_boxes for peer in peers),
            supersedes=former,
            supersedes_series=series,
            exists=self._exists({item.sop_instance_uid for item in built}),
        )

    def _exists(self, built: Collection[str]) -> Callable[[str], bool]:
        def exists_already(uid: str) -> bool:
            if uid in built:
                return True
            with self._database.read() as session:
                return bool(session.scalar(select(exists().where(Result.sop_instance_uid == uid))))

        return exists_already

    def _former_report(
        self, job: ClaimedJob, peers: Sequence[PeerSettings], *, deidentified: bool
    ) -> tuple[str, str]:
        """SOP and Series Instance UID of the newest report of this rule on the study that these may have."""
        left = exists().where(
            Delivery.result_id == Result.id,
            Delivery.destination.in_([peer.name for peer in peers]),
            Delivery.state != DeliveryState.CANCELLED,
        )
        chosen = (
            select(Result.sop_instance_uid, Result.series_instance_uid)
            .join(Job, Job.id == Result.job_id)
            .where(Result.study_id == job.study_id, Result.kind == ResultKind.SR, Job.rule == job.rule, left)
            .where(Result.deidentified.is_(deidentified))
            .order_by(Result.id.desc())
            .limit(1)
        )
        with self._database.read() as session:
            row = session.execute(chosen).first()
        return (row[0], row[1]) if row else ("", "")

    def _peers(self, job: ClaimedJob, *, deidentified: bool) -> list[PeerSettings]:
        found = []
        for name in job.destinations:
            with contextlib.suppress(UnknownPeer):  # check_destinations told it at the start
                found.append(self._settings.peer(name))
        return [peer for peer in found if peer.deidentify is deidentified]


def _by_boxes(peers: Sequence[PeerSettings]) -> list[list[PeerSettings]]:
    """Destinations that get the same objects: boxes of burned-in text are for those that want them."""
    wanted = [[peer for peer in peers if peer.burned_in_boxes is boxes] for boxes in (False, True)]
    return [group for group in wanted if group] or [[]]


def _write(folder: Path, uid: str, data: bytes) -> _File:
    digest = hashlib.sha256(uid.encode("ascii")).hexdigest()
    place = folder / digest[:2]
    place.mkdir(parents=True, exist_ok=True)
    temporary, final = place / f".{uid}.{os.getpid()}", place / f"{uid}.dcm"
    if final.is_file():
        data = final.read_bytes()
        return _File(temporary, final, hashlib.sha256(data).hexdigest(), len(data), was_there=True)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return _File(temporary, final, hashlib.sha256(data).hexdigest(), len(data))


def _put_in_place(files: Sequence[_File]) -> None:
    """Rename into place; durable before the rows are."""
    for file in files:
        file.temporary.replace(file.final)
    folders = {file.final.parent for file in files}
    for folder in folders | {folder.parent for folder in folders}:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
