"""The end of a job: the files of its results, then one transaction for rows, deliveries and job state.

Finds earlier results to compare a job's images with: finished results of earlier studies in the database.
They must be of the same patient (Patient ID and issuer, and no contradiction by the rule "One patient per
study"), pipeline, modality, body part and view. The newest earlier study with such an image is used. Results
that wait for a person, were rejected or withdrawn, or whose file was deleted are not used. If an earlier
study arrives later, nothing is written again.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.contract import Code, CodingScheme, Decision, ModelRef, Pipeline, PipelineResult, Refusal
from ai_pipeline.images.dates import date_of
from ai_pipeline.summary import without_research
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.errors import ResultRefused
from dicom_node.base.events import (
    RESULT_LOST,
    RESULT_WITHHELD,
    RESULTS_HELD,
    RESULTS_ROUTED,
    SOURCE_REPAIRED,
)
from dicom_node.base.files import Files
from dicom_node.base.kinds import ResultKind
from dicom_node.base.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.base.sitekey import load_or_create
from dicom_node.base.store import deliveries, fetches, intake
from dicom_node.base.store import results as stored
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Instance, Job, Result, Study, Withdrawal
from dicom_node.base.store.transitions import record, settle_study, utc_now
from dicom_node.deliver import outbox
from dicom_node.jobs.drift import Tallies, Tally
from dicom_node.jobs.queue import JobQueue
from dicom_node.jobs.worker.analyse import JobImages, record_cleaning
from dicom_node.results.build import ResultFile, build, build_failure, put_in_place, row_values, written
from dicom_node.results.common.source import (
    BuiltObject,
    Cause,
    EarlierObject,
    PreviousImage,
    ResultContext,
    SourceObject,
    repairs_of,
)
from dicom_node.results.deidentified import Pseudonyms, build_deidentified
from dicom_node.results.sr import stated

T = TypeVar("T")
_NOT_AGAIN = "its file was deleted after spool.result_days"
_ROUNDS = 5  # another worker may write the same object at the same moment; once is enough in practice


@dataclass(frozen=True, slots=True)
class JobPipeline:
    """The pipeline of a job as results name it; without version and models if it could not be loaded."""

    name: str
    version: str = "unknown"
    models: tuple[ModelRef, ...] = ()
    region: Code | None = None
    scheme: CodingScheme | None = None

    @staticmethod
    def from_pipeline(pipeline: Pipeline, models: tuple[ModelRef, ...] = ()) -> JobPipeline:
        """The pipeline with the models that were run, or with all models that it may run if none are
        given.
        """
        card = pipeline.card
        return JobPipeline(card.name, card.version, models or pipeline.models(), card.region, card.scheme)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a job ends, where its results go and whether they wait for a person, of which models they are."""

    state: JobState
    reason: str
    destinations: Sequence[str]
    tally: Tally
    also: Callable[[Session], object] = bool  # what is recorded besides
    analysed_at: datetime | None = None
    assess_first: bool = False
    present: frozenset[str] = frozenset()  # findings by the meanings of their codes
    models: tuple[ModelRef, ...] = ()
    stat: bool = False  # a condition of the rule makes the study STAT


class ResultWriter:
    """Builds the result objects of a job, and writes files, rows and deliveries: all or none."""

    def __init__(self, database: Database, settings: Settings, queue: JobQueue) -> None:
        self._database = database
        self._settings = settings
        self._queue = queue
        self._files = Files(settings)
        self._tallies = Tallies(settings.workers.models_dir)

    def write(
        self,
        job: Job,
        pipeline: Pipeline,
        images: JobImages,
        result: PipelineResult,
        refused: Sequence[Refusal] = (),
    ) -> None:
        """Write the pipeline's results, and count them and the ``refused`` images.

        Raises ResultRefused, LeaseLost, JobCancelled, PixelError.
        """
        analysed_at = job.analysed_at or utc_now()
        findings = without_research(result).findings
        present = frozenset(one.code.meaning[:64] for one in findings if one.decision is Decision.PRESENT)
        names, stat = self._routed(job, present)
        by = JobPipeline.from_pipeline(pipeline, result.models)
        rule = self._settings.rule(job.rule)
        previous: Mapping[str, PreviousImage] = {}
        day: date | None = None
        if rule is not None and rule.compare:
            uids = [source.image.uid for source in images.readable]
            previous, day = self._read(previous_images, self._files, job, uids)
        built: list[BuiltObject] = []
        for peers in _alike(self._peers(names, deidentified=False)):
            context = self._context(job, by, analysed_at, peers, built=built)
            context = replace(context, previous=previous, study_day=day)
            built += build(context, sources=images.readable, result=result)
        built += self._deidentified(job, names, by, analysed_at, images, result)
        self._tell_repairs(job, images.readable)
        end = _Ending(
            JobState.SUCCEEDED,
            "",
            names,
            self._tallies.count(result.scores, refused),
            lambda session: record_cleaning(session, job, pipeline, result, images.readable),
            analysed_at,
            # Whether its rule wanted that when it took the study, or wants it now.
            assess_first=job.assess_first or (rule is not None and rule.assess_first),
            present=present,
            models=by.models,
            stat=stat,
        )
        self._end(job, end, built)

    def write_failure(
        self,
        job: Job,
        by: JobPipeline,
        images: Sequence[SourceObject],
        state: JobState,
        reason: str,
        cause: Cause,
        refused: Sequence[Refusal] = (),
    ) -> None:
        """Write a short report that the AI did not run, with the reason and its cause. Raises as ``write``.

        The report is for people who wait for the study, so de-identified destinations get none. It needs no
        assessment, because it says nothing about the patient.
        """
        names, stat = self._routed(job, (), assessed=False)
        now = utc_now()
        built: list[BuiltObject] = []
        for peers in _alike(self._peers(names, deidentified=False)):
            built += build_failure(self._context(job, by, now, peers, built=built), images, reason, cause)
        self._tell_repairs(job, images)
        self._end(job, _Ending(state, reason, names, self._tallies.count((), refused), stat=stat), built)

    def end(self, job: Job, state: JobState, reason: str = "", refused: Sequence[Refusal] = ()) -> None:
        """End a job without results. Raises LeaseLost."""
        tally = self._tallies.count((), refused)
        with self._database.write() as session:
            self._queue.complete_if_owner(session, job, state, reason)
            tally.count(session, self._settings)
            settle_study(session, job.study_id)

    def _end(self, job: Job, end: _Ending, built: Sequence[BuiltObject]) -> None:
        with written(built, self._files) as files:
            for _ in range(_ROUNDS):
                with contextlib.suppress(IntegrityError), self._database.write() as session:
                    row = self._queue.complete_if_owner(session, job, end.state, end.reason)
                    row.analysed_at = row.analysed_at or end.analysed_at
                    row.models = [f"{model.id}@{model.version}" for model in end.models]
                    new = self._enter(session, job, end, built, files)
                    # Make the study STAT, and record what the conditions of its rule changed, but no
                    # finding.
                    further = [name for name in end.destinations if name not in row.destinations]
                    if end.stat:
                        stored.make_stat(session, job.study_id)
                    if further or end.stat:
                        record(
                            session,
                            RESULTS_ROUTED,
                            job.study_id,
                            job=job.id,
                            rule=job.rule,
                            destinations=",".join(further),
                            stat=end.stat,
                        )
                    end.tally.count(session, self._settings)
                    end.also(session)
                    settle_study(session, job.study_id)
                    session.flush()
                    # Last before the commit: should it fail, the next try writes the files anew.
                    put_in_place(new, self._files)
                    return
        raise RuntimeError("another worker writes the results of this job again and again")

    def _routed(
        self, job: Job, present: Collection[str], *, assessed: bool = True
    ) -> tuple[Sequence[str], bool]:
        """The job's peers with those of its rule's conditions; whether one of these makes the study STAT.

        A peer that got an earlier report of the rule by a condition gets what replaces it, too.
        """
        rule = self._settings.rule(job.rule)
        if rule is None or not rule.then:
            return job.destinations, False
        holding = [one for one in rule.then if one.holds(present, assessed=assessed)]
        with self._database.read() as session:
            if fetches.is_prior(session, job.study_id):  # its results are sent nowhere
                return job.destinations, False
            had = stored.receivers(session, job.study_id, job.rule)
        further = {name for one in holding for name in one.send_to} | (had & set(rule.receivers))
        known = {peer.name for peer in self._settings.peers if "receive" in peer.may}
        names = [name for name in rule.receivers if name in further & known - set(job.destinations)]
        stat = any(one.priority == "stat" for one in holding)
        return [*job.destinations, *names], stat

    def _enter(
        self,
        session: Session,
        job: Job,
        end: _Ending,
        built: Sequence[BuiltObject],
        files: Mapping[str, ResultFile],
    ) -> list[ResultFile]:
        """Rows and deliveries of these objects; returns the files that are to be put in place."""
        waiting = 0
        is_prior = fetches.is_prior(session, job.study_id)  # analysed for a comparison only
        rows = stored.existing(session, [item.sop_instance_uid for item in built])
        new: list[ResultFile] = []
        for item in built:
            uid = item.sop_instance_uid
            if uid not in rows:
                values = row_values(item, files[uid], self._files)
                row = Result(study_id=job.study_id, job_id=job.id, created_at=utc_now(), **values)
                rows[uid] = stored.add(session, row)
                new.append(files[uid])
                if item.kind is ResultKind.SR and not item.deidentified:
                    stored.note_findings(session, rows[uid], end.present)
            known = [] if is_prior else self._peers(end.destinations, deidentified=item.deidentified)
            peers = [peer for peer in known if _gets(peer, item)]
            in_doubt = uid in files and files[uid].was_there
            if rows[uid].purged:  # write down who misses it: a result is made once
                for peer in peers:
                    delivery = deliveries.add(session, rows[uid], peer.name)
                    if delivery.state is DeliveryState.PENDING:
                        deliveries.withdraw(session, delivery, _NOT_AGAIN)
                        lost = {"instance": uid, "destination": peer.name}
                        record(session, RESULT_LOST, job.study_id, **lost)
                continue
            waiting += outbox.enqueue(
                session, rows[uid], peers, in_doubt=in_doubt, assess_first=end.assess_first
            )
        if end.state is JobState.SUCCEEDED:
            deliveries.replace_unassessed(session, job.study_id, job.rule, [row.id for row in rows.values()])
        if waiting:
            record(session, RESULTS_HELD, job.study_id, job=job.id, rule=job.rule, results=waiting)
        here = [(item, rows[item.sop_instance_uid]) for item in built]
        self._carry_over(session, job, end, [(item, row) for item, row in here if not row.purged])
        self._restore_assessments(session, rows.values())
        return [file for file in new if not file.was_there]

    def _carry_over(
        self,
        session: Session,
        job: Job,
        end: _Ending,
        built: Sequence[tuple[BuiltObject, Result]],
    ) -> None:
        """Peers to which a person sent results that these replace before they left get these instead."""
        left = deliveries.left_by_hand(session, job.study_id, job.rule)
        names = {delivery.destination for delivery in left} - set(end.destinations)
        for peer in (peer for peer in self._settings.peers if peer.name in names):
            rows = [row for item, row in built if peer.deidentify is item.deidentified and _gets(peer, item)]
            for row in rows:
                outbox.enqueue(session, row, [peer], by_hand=True, assess_first=end.assess_first)
            replaced = [one for one in left if one.destination == peer.name and one.result not in rows]
            for delivery in replaced if rows else ():
                delivery.withdrawn = False

    def _restore_assessments(self, session: Session, rows: Collection[Result]) -> None:
        """Deliver withdrawn assessments of reports that did not change after all."""
        jobs = {row.job_id for row in rows if row.kind is ResultKind.SR and not row.deidentified}
        for delivery in deliveries.withdrawn_assessments(session, jobs):
            takers = [peer for peer in self._settings.peers if peer.assessments]
            peers = [peer for peer in takers if peer.name == delivery.destination]
            if delivery.result is not None:
                outbox.enqueue(session, delivery.result, peers)

    def _tell_repairs(self, job: Job, images: Sequence[SourceObject]) -> None:
        """An event for each image with attributes that DICOM does not allow: keywords, no values."""
        faulty = repairs_of(images)
        if not faulty:
            return
        with self._database.write() as session:
            for uid, repairs in faulty.items():
                record(
                    session,
                    SOURCE_REPAIRED,
                    job.study_id,
                    job=job.id,
                    instance=uid,
                    repaired=",".join(sorted(repairs.repaired)),
                    left_out=",".join(sorted(repairs.left_out)),
                    kept=",".join(sorted(repairs.kept)),
                )

    def _deidentified(
        self,
        job: Job,
        names: Sequence[str],
        by: JobPipeline,
        analysed_at: datetime,
        images: JobImages,
        result: PipelineResult,
    ) -> list[BuiltObject]:
        """Objects for de-identified destinations, by their pseudonym domain; an event is recorded for each
        that may not leave.

        Raises ResultRefused when nothing may and the job has no other destination.
        """
        domains: dict[str, list[PeerSettings]] = defaultdict(list)
        for peer in self._peers(names, deidentified=True):
            domains[peer.pseudonym_domain or ""].append(peer)
        objects: list[BuiltObject] = []
        reasons: list[str] = []
        for domain, peers in domains.items():
            context = self._context(job, by, analysed_at, peers, domain=domain)
            made = build_deidentified(
                context,
                sources=images.readable,
                result=result,
                pseudonyms=Pseudonyms.of(load_or_create(self._settings.node.data_dir), domain),
                options=frozenset(peers[-1].retain),
            )
            objects += made.objects
            reasons += made.withheld
        if withheld := list(dict.fromkeys(reasons)):
            with self._database.write() as session:
                for reason in withheld:
                    record(session, RESULT_WITHHELD, job.study_id, job=job.id, reason=reason)
        if withheld and not objects and not self._peers(names, deidentified=False):
            raise ResultRefused("; ".join(withheld))
        return objects

    def _context(
        self,
        job: Job,
        by: JobPipeline,
        analysed_at: datetime,
        peers: Sequence[PeerSettings],
        *,
        domain: str | None = None,
        built: Sequence[BuiltObject] = (),
    ) -> ResultContext:
        """``domain``: of the pseudonyms, None where the patient is named.

        ``built``: objects of this job for other destinations; the same one is not built again.
        """
        names = [peer.name for peer in peers]
        with self._database.read() as session:
            former, series = stored.newest_report(session, job.study_id, job.rule, names, domain=domain)
            installation = stored.this_installation(session)
        return ResultContext(
            pipeline=by.name,
            pipeline_version=by.version,
            rule=job.rule,
            models=by.models,
            analysed_at=analysed_at,
            kinds=frozenset(kind for peer in peers for kind in peer.results),
            installation=installation,
            options=job.options,
            region=by.region,
            scheme=by.scheme,
            station_name=self._settings.node.ae_title,
            charset=peers[0].charset if peers else "utf8",
            burned_in_boxes=any(peer.burned_in_boxes for peer in peers),
            supersedes=former,
            supersedes_series=series,
            exists=partial(self._exists, {item.sop_instance_uid for item in built}),
            series_began=partial(self._read, stored.series_began, job.study_id),
        )

    def _exists(self, built: Collection[str], uid: str) -> bool:
        return uid in built or self._read(stored.is_result, uid)

    def _read(self, query: Callable[..., T], *given: Any) -> T:
        with self._database.read() as session:
            return query(session, *given)

    def _peers(self, names: Sequence[str], *, deidentified: bool) -> list[PeerSettings]:
        known = {peer.name: peer for peer in self._settings.peers}  # the job's start logged who is unknown
        return [known[one] for one in names if one in known and known[one].deidentify is deidentified]


def _gets(peer: PeerSettings, item: BuiltObject) -> bool:
    """Whether a peer can show this kind of object, and wants these pseudonyms, boxes and characters."""
    return (
        item.kind in peer.results
        and item.pseudonym_domain == (peer.pseudonym_domain or "")
        and item.burned_in_boxes in (None, peer.burned_in_boxes)
        and item.charset in (None, peer.charset)
    )


def _alike(peers: Sequence[PeerSettings]) -> list[list[PeerSettings]]:
    """Destinations that get the same objects: they want the same boxes and the same character set."""
    groups: dict[tuple[str, bool], list[PeerSettings]] = {}
    for peer in peers:
        groups.setdefault((peer.charset, peer.burned_in_boxes), []).append(peer)
    return [groups[key] for key in sorted(groups)] or [[]]


MOST_REPORTS: Final = 20
"""Earlier reports of a patient that are read at most, the newest first."""
_VIEWED: Final = frozenset({"CR", "DX", "MG"})  # modalities of which a view must be given
_Kind = tuple[str, str, str]


def previous_images(
    session: Session, files: Files, job: Job, uids: Sequence[str]
) -> tuple[dict[str, PreviousImage], date | None]:
    """The earlier image, if any, for each of these images (SOP Instance UIDs); and the earlier study's
    date.
    """
    study = session.get_one(Study, job.study_id)
    on = date_of(study.study_date)
    found: dict[str, PreviousImage] = {}
    if on is None or not study.patient_id.strip():
        return found, on
    kinds = {row.sop_instance_uid: _kind(row) for row in _instances(session, study.id, uids)}
    wanted = {uid: kind for uid, kind in kinds.items() if kind is not None}
    for report, earlier, by in _earlier(session, study, job.pipeline):
        if not wanted:
            break
        then = date_of(earlier.study_date)
        if then is None or then >= on or not intake.of_one_patient(session, [study.id, earlier.id]):
            continue
        for uid, one in _of_report(session, files, report, earlier, by, wanted, then, job).items():
            found[uid] = one
            del wanted[uid]
    return found, on


def _earlier(session: Session, study: Study, pipeline: str) -> list[tuple[Result, Study, Job]]:
    """Reports on earlier studies with the same Patient ID and issuer, the newest study first."""
    held = exists().where(
        Delivery.result_id == Result.id,
        Delivery.state.in_([DeliveryState.UNASSESSED, DeliveryState.DISCARDED]),
    )
    chosen = (
        select(Result, Study, Job)
        .join(Study, Study.id == Result.study_id)
        .join(Job, Job.id == Result.job_id)
        .where(
            Study.patient_id == study.patient_id,
            Study.issuer_of_patient_id == study.issuer_of_patient_id,
            Study.id != study.id,
            Study.study_date < study.study_date,
            Study.state != StudyState.QUARANTINED,
            Job.pipeline == pipeline,
            Job.state == JobState.SUCCEEDED,
            Result.kind == ResultKind.SR,
            Result.deidentified.is_(False),
            Result.purged.is_(False),
            ~exists().where(Withdrawal.result_id == Result.id),
            ~held,
        )
        .order_by(Study.study_date.desc(), Result.id.desc())
        .limit(MOST_REPORTS)
    )
    return [(report, earlier, by) for report, earlier, by in session.execute(chosen)]


def _of_report(
    session: Session,
    files: Files,
    report: Result,
    study: Study,
    by: Job,
    wanted: dict[str, _Kind],
    then: date,
    job: Job,
) -> dict[str, PreviousImage]:
    """What one report says of images of the wanted kinds; of several of one kind the last one counts."""
    path = files.if_here(session, report.path)
    if path is None or study.study_instance_uid is None:
        return {}
    said = stated(path)
    said_of = {one.image for one in said.findings} | {one.image for one in said.numbers}
    rows = {row.sop_instance_uid: row for row in _instances(session, study.id, by.source_uids)}
    there = [rows[uid] for uid in by.source_uids if uid in rows and uid in said_of]
    last = {kind: row for row in there if (kind := _kind(row)) is not None}
    refer = study.study_instance_uid
    return {
        uid: PreviousImage(
            then,
            EarlierObject(refer, report.series_instance_uid, report.sop_class_uid, report.sop_instance_uid),
            EarlierObject(refer, row.series_instance_uid, row.sop_class_uid, row.sop_instance_uid),
            tuple(one for one in said.findings if one.image == row.sop_instance_uid),
            tuple(one for one in said.numbers if one.image == row.sop_instance_uid),
            same_options=dict(by.options) == dict(job.options),
        )
        for uid, kind in wanted.items()
        if (row := last.get(kind)) is not None
    }


def _instances(session: Session, study: int, uids: Sequence[str]) -> list[Instance]:
    return list(
        session.scalars(
            select(Instance).where(Instance.study_id == study, Instance.sop_instance_uid.in_(uids))
        )
    )


def _kind(row: Instance) -> _Kind | None:
    """Modality, body part and view; None where a radiograph does not say its view."""
    body_part, view = (
        str(row.attributes.get(word) or "").strip().upper() for word in ("BodyPartExamined", "ViewPosition")
    )
    return None if row.modality in _VIEWED and not view else (row.modality, body_part, view)
