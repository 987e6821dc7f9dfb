"""The results of a job: built, then stored with their deliveries in the transaction that ends the job."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from ai_pipeline.contract import (
    LOOK_FIRST,
    Decision,
    ModelRef,
    Pipeline,
    PipelineResult,
    Refusal,
    Scores,
)
from ai_pipeline.summary import UNSURE, calls_of, without_research
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import NOT_ASSESSED, PROGRAMS, SUSPECTED
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.uids import is_image
from dicom_node.base.errors import ResultRefused
from dicom_node.base.events import (
    PROGRAM_ANSWERED,
    RESULT_LOST,
    RESULT_WITHHELD,
    RESULTS_HELD,
    RESULTS_ROUTED,
    SOURCE_REPAIRED,
)
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultForm, ResultKind
from dicom_node.base.sitekey import PatientNames, load_or_create
from dicom_node.base.store import deliveries, intake, results
from dicom_node.base.store.database import Database, is_undone
from dicom_node.base.store.tables import RECORDS, Delivery, HeldResult, Job, Result, Study
from dicom_node.base.store.transitions import record, settle_study, utc_now
from dicom_node.deliver import outbox
from dicom_node.jobs.drift import count_images
from dicom_node.jobs.queue import JobQueue, record_of_job
from dicom_node.jobs.worker.cleaning import record_cleaning
from dicom_node.jobs.worker.images import JobImages
from dicom_node.jobs.worker.previous import previous_images
from dicom_node.jobs.worker.program_answer import ProgramAnswer, first_event, judge, record_verdicts
from dicom_node.results.build import build, build_failure
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.concepts import Cause
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified.build import build_deidentified
from dicom_node.results.deidentified.pseudonyms import Pseudonyms
from dicom_node.results.files import ResultFile, put_in_place, row_values, temporary_files
from dicom_node.results.foreign.verdict import JudgedObject
from dicom_node.results.series import RULE_STEP
from dicom_node.results.source import SourceObject, repairs_of

T = TypeVar("T")
SHOWN_HERE = frozenset({ResultKind.SR, ResultKind.CLEANED, ResultKind.HEATMAP})
"""Kinds that are built of a job whose results no rule sends: what the console shows them by."""
_MOST_OTHERS = 2_000
"""Patients whose names and IDs are looked for in the text of what a program made."""
_ROUNDS = 5  # another worker may write the same object at the same moment; once is enough in practice


@dataclass(frozen=True, slots=True, kw_only=True)
class _JobEnd:
    """What the transaction that ends a job stores.

    ``names``: peers that get the ``built`` results. ``refused``, ``scores``: of images, to be counted;
    ``is_unsure``: of an image the model says no more than what it suspects.
    ``models``: used for the results. ``present``: names of suspected findings and of calls. ``assess_first``:
    a person must accept the results before they are sent. ``stat``: a condition of the rule makes the study
    STAT.
    ``record_cleaning``: records how the removal of burned-in text went. ``answer``: of a program. ``first``:
    the job of its first answer to the same input, if the present one is another: the first one's results stay
    in place of new ones. ``records``: JSON texts that programs left for persons.
    """

    job: Job
    state: JobState
    names: Sequence[str]
    built: Sequence[BuiltObject]
    stat: bool
    reason: str = ""
    refused: Sequence[Refusal] = ()
    scores: Sequence[Scores] = ()
    is_unsure: bool = False
    models: Sequence[ModelRef] = ()
    analysed_at: datetime | None = None
    present: frozenset[str] = frozenset()
    assess_first: bool = False
    record_cleaning: Callable[[Session], None] | None = None
    answer: ProgramAnswer | None = None
    first: int | None = None
    records: Sequence[str] = ()


class ResultWriter:
    """Builds the result objects of a job, and stores files, rows and deliveries: all or none."""

    def __init__(self, database: Database, settings: Settings, queue: JobQueue) -> None:
        """Prepare to store results by these settings; ``queue`` ends the jobs."""
        self._database = database
        self._settings = settings
        self._queue = queue
        self._files = Files(settings)

    def write(
        self,
        job: Job,
        pipeline: Pipeline,
        images: JobImages,
        result: PipelineResult,
        refused: Sequence[Refusal] = (),
    ) -> None:
        """Build and store the results of a job, end the job, and count its images and the ``refused`` ones.

        Raises ResultRefused, LeaseLost, JobCancelled, PixelError.
        """
        analysed_at = job.analysed_at or utc_now()
        findings = without_research(result).findings
        suspected = {one.code.meaning[:64] for one in findings if one.decision is Decision.PRESENT}
        calls = {call.meaning[:64] for call in calls_of(result.measurements, result.quality)}
        names, stat = self._receivers(job, {name + SUSPECTED for name in suspected} | calls)
        models = result.models or pipeline.models()
        rule = self._settings.rule(job.rule)
        of_job = (job, pipeline, models, analysed_at, names, images, result)
        answer = self._judged(*of_job) if job.pipeline in PROGRAMS else None
        first = self._first_job(job, answer) if answer else None
        built = list(answer.built) if answer else []
        # Objects are the whole answer of a program that wrote no findings: no report says "not assessed".
        if first is None and (result.findings or not result.objects):
            built += self._own_results(*of_job)
        self._withhold(job, names, built)
        self._record_repairs(job, images.readable)
        self._end(
            _JobEnd(
                job=job,
                state=JobState.SUCCEEDED,
                names=names,
                built=[] if first is not None else built,
                stat=stat,
                reason=answer.reason if answer and first is None else "",
                refused=refused,
                scores=result.scores,
                is_unsure=any(note.name == UNSURE for note in result.quality),
                models=models,
                analysed_at=analysed_at,
                present=frozenset(suspected | calls),
                # Whether its rule wanted that when it took the study, or wants it now.
                assess_first=job.assess_first or (rule is not None and rule.assess_first),
                record_cleaning=lambda session: record_cleaning(
                    session, job, pipeline, result, images.readable
                ),
                answer=answer,
                first=first,
                records=result.records,
            )
        )

    def _own_results(
        self,
        job: Job,
        pipeline: Pipeline,
        models: Sequence[ModelRef],
        analysed_at: datetime,
        names: Sequence[str],
        images: JobImages,
        result: PipelineResult,
    ) -> list[BuiltObject]:
        """Build the results of what a pipeline found, for all destinations. Raises ResultRefused."""
        rule = self._settings.rule(job.rule)
        uids = [source.image.uid for source in images.readable] if rule and rule.compare else []
        previous, day = self._read(previous_images, self._files, job, uids) if uids else ({}, None)
        built: list[BuiltObject] = []
        for peers in _grouped_by_form(self._peers(names, deidentified=False)):
            context = self._context(job, pipeline, models, analysed_at, peers, built=built)
            context = replace(context, previous=previous, study_day=day)
            built += build(context, sources=_reported(images.readable), result=result)
        return built + self._deidentified(job, names, pipeline, models, analysed_at, images, result)

    def _judged(
        self,
        job: Job,
        pipeline: Pipeline,
        models: Sequence[ModelRef],
        analysed_at: datetime,
        names: Sequence[str],
        images: JobImages,
        result: PipelineResult,
    ) -> ProgramAnswer:
        """Judge what a program returned; what is refused as a whole is recorded. Raises ResultRefused."""

        def refuse(judged: Sequence[JudgedObject]) -> None:
            """Record the verdicts on an answer of which nothing is used."""
            with self._database.write() as session:
                record_verdicts(session, job, judged)

        peers = self._peers(names, deidentified=False)
        context = self._context(job, pipeline, models, analysed_at, peers)
        others = self._read(self._names_of_others, job.study_id) if result.objects else frozenset[str]()
        return judge(job, context, images.readable, result, others, refuse)

    def _names_of_others(self, session: Session, study_id: int) -> frozenset[str]:
        """Return the names and IDs of the patients of other studies, the newest ones."""
        others = select(Study.id, Study.patient_id).where(Study.id != study_id)
        patient = select(Study.patient_id).where(Study.id == study_id).scalar_subquery()
        rows = session.execute(
            others.where(Study.patient_id != patient).order_by(Study.id.desc()).limit(_MOST_OTHERS)
        ).all()
        names = PatientNames(self._settings.node.data_dir).of(session, [number for number, _ in rows])
        return frozenset(filter(None, (*names.values(), *(patient_id for _, patient_id in rows))))

    def _first_job(self, job: Job, answer: ProgramAnswer) -> int | None:
        """Return the job of the first answer to this input if that says something else; else None."""
        found = self._read(first_event, job.study_id, answer.input_sha256, PROGRAM_ANSWERED.number)
        if found is None or found["answer"] == answer.content_sha256:
            return None
        return int(str(found["job"]))

    def _withhold(self, job: Job, names: Sequence[str], built: Sequence[BuiltObject]) -> None:
        """Record that de-identified destinations get nothing that a program made: it names the patient.
        Raises ResultRefused if there is no other destination.
        """
        if not any(item.of_program for item in built) or not self._peers(names, deidentified=True):
            return
        reason = "what a program made names the patient: it goes to no de-identified destination"
        with self._database.write() as session:
            record_of_job(session, job, RESULT_WITHHELD, reason=reason)
        if all(item.of_program for item in built) and not self._peers(names, deidentified=False):
            raise ResultRefused(reason)

    def write_failure(
        self,
        job: Job,
        pipeline: Pipeline | None,
        images: Sequence[SourceObject],
        state: JobState,
        reason: str,
        cause: Cause,
        refused: Sequence[Refusal] = (),
    ) -> None:
        """Store a short report that the AI did not analyse the images, with reason and coded cause, and end
        the job in ``state``. Raises as ``write``.

        It begins with what ``refused`` say of images to be looked at first. It is for people who wait for the
        study, so de-identified destinations get none, and needs no acceptance by a person, because it says
        nothing about the patient.
        """
        look_first = {one.source_uid: one.look_first for one in refused if one.look_first}
        calls = frozenset({LOOK_FIRST.meaning} if look_first else ())
        names, stat = self._receivers(job, {NOT_ASSESSED, *calls})
        now, models = utc_now(), pipeline.models() if pipeline else ()
        built: list[BuiltObject] = []
        for peers in _grouped_by_form(self._peers(names, deidentified=False)):
            built += build_failure(
                self._context(job, pipeline, models, now, peers, built=built),
                _reported(images),
                reason,
                cause,
                look_first,
            )
        self._record_repairs(job, images)
        self._end(
            _JobEnd(
                job=job,
                state=state,
                names=names,
                built=built,
                stat=stat,
                reason=reason,
                refused=refused,
                present=calls,
            )
        )

    def end(self, job: Job, state: JobState, reason: str = "", refused: Sequence[Refusal] = ()) -> None:
        """End a job without results in ``state``, and count the ``refused`` images. Raises LeaseLost."""
        with self._database.write() as session:
            self._queue.complete_if_owner(session, job, state, reason)
            count_images(session, self._settings, refused=refused)
            settle_study(session, job.study_id)

    def _end(self, end: _JobEnd) -> None:
        """End the job, and store its results with their deliveries, in one transaction."""
        job = end.job
        with temporary_files(end.built, self._files) as files:
            for _ in range(_ROUNDS):
                with _once_more(), self._database.write() as session:
                    row = self._queue.complete_if_owner(session, job, end.state, end.reason)
                    row.analysed_at = row.analysed_at or end.analysed_at
                    row.models = [f"{model.id}@{model.version}" for model in end.models]
                    if intake.is_trial(session, job.study_id):
                        row.scores = {
                            f"{scored.model.id}@{scored.model.version}": dict(scored.values)
                            for scored in end.scores
                        }
                        if end.is_unsure:
                            row.scores |= {UNSURE: {}}
                    if end.records:
                        row.scores = {**(row.scores or {}), RECORDS: list(end.records)}
                    new = self._enter(session, end, files)
                    _record_routing(session, end, row)
                    count_images(session, self._settings, end.scores, end.refused)
                    if end.record_cleaning is not None:
                        end.record_cleaning(session)
                    settle_study(session, job.study_id)
                    session.flush()
                    # Last before the commit: should it fail, the next try writes the files anew.
                    put_in_place(new, self._files)
                    return
        raise RuntimeError("another worker writes the results of this job again and again")

    def _receivers(self, job: Job, occasions: Collection[str]) -> tuple[Sequence[str], bool]:
        """Return the peers that get the job's results, including those that conditions of its rule add, and
        whether a condition makes the study STAT.

        A peer that got an earlier report of the rule by a condition also gets the one that replaces it.
        ``occasions``: as ResultSettings.is_met takes them.
        """
        rule = self._settings.rule(job.rule)
        if rule is None or not rule.then:
            return job.destinations, False
        holding = [one for one in rule.then if one.is_met(occasions)]
        with self._database.read() as session:
            if intake.stays_here(session, job.study_id):
                return job.destinations, False
            had = results.receivers(session, job.study_id, job.rule)
        further = {name for one in holding for name in one.send_to} | had
        known = {peer.name for peer in self._settings.peers if "receive" in peer.may}
        names = [name for name in rule.receivers if name in further & known - set(job.destinations)]
        return [*job.destinations, *names], any(one.priority == "stat" for one in holding)

    def _enter(self, session: Session, end: _JobEnd, files: Mapping[str, ResultFile]) -> list[ResultFile]:
        """Add the rows and deliveries of the built objects; return the files that still need their final
        names.
        """
        job, waiting = end.job, 0
        stays_here = intake.stays_here(session, job.study_id)
        rows = results.existing(session, [item.sop_instance_uid for item in end.built])
        new = []
        waiting += self._keep_first(session, end, rows)
        for item in end.built:
            uid = item.sop_instance_uid
            if uid not in rows:
                rows[uid] = self._add_row(session, end, item, files[uid])
                new.append(files[uid])
            known = [] if stays_here else self._peers(end.names, deidentified=item.deidentified)
            peers = [peer for peer in known if _accepts_object(peer, item)]
            if rows[uid].purged:
                _record_losses(session, rows[uid], peers)
                continue
            waiting += outbox.enqueue(
                session,
                rows[uid],
                peers,
                in_doubt=uid in files and files[uid].was_there,
                assess_first=end.assess_first or item.held,
            )
        if end.state is JobState.SUCCEEDED:
            deliveries.replace_unassessed(session, job.study_id, job.rule, [row.id for row in rows.values()])
        if waiting:
            record_of_job(session, job, RESULTS_HELD, rule=job.rule, results=waiting)
        if end.answer is not None:
            end.answer.record(session, job, differs=end.first is not None)
        self._replace_sent_by_hand(session, end, rows)
        self._deliver_assessments(session, rows.values())
        return [file for file in new if not file.was_there]

    def _keep_first(self, session: Session, end: _JobEnd, rows: dict[str, Result]) -> int:
        """Queue the results of the program's first answer again, and add them to ``rows``; return how many
        wait for a person.
        """
        kept = session.scalars(select(Result).where(Result.job_id == end.first)).all() if end.first else ()
        peers = [peer for peer in self._settings.peers if peer.name in end.names]
        waiting = 0
        for row in kept:
            rows[row.sop_instance_uid] = row
            takers = [peer for peer in peers if outbox.is_for(row, peer, self._settings.peers)]
            if row.purged:
                _record_losses(session, row, takers)
            else:
                held = session.get(HeldResult, row.id) is not None
                waiting += outbox.enqueue(session, row, takers, assess_first=end.assess_first or held)
        return waiting

    def _add_row(self, session: Session, end: _JobEnd, item: BuiltObject, file: ResultFile) -> Result:
        """Add the row of a new result; a report's suspected findings too."""
        job, values = end.job, row_values(item, file, self._files)
        row = results.add(
            session, Result(study_id=job.study_id, job_id=job.id, created_at=utc_now(), **values)
        )
        if item.kind is ResultKind.SR and not item.deidentified:
            results.note_findings(session, row, end.present)
        return row

    def _replace_sent_by_hand(self, session: Session, end: _JobEnd, rows: Mapping[str, Result]) -> None:
        """Queue new results for the peers to which a person sent results that these replace before they
        left.
        """
        left = deliveries.left_by_hand(session, end.job.study_id, end.job.rule)
        by_hand = {delivery.destination for delivery in left} - set(end.names)
        for peer in (peer for peer in self._settings.peers if peer.name in by_hand):
            taken = [rows[item.sop_instance_uid] for item in end.built if _accepts_object(peer, item)]
            here = [row for row in taken if not row.purged]
            for row in here:
                outbox.enqueue(session, row, [peer], by_hand=True, assess_first=end.assess_first)
            for delivery in left if here else ():
                if delivery.destination == peer.name and delivery.result not in here:
                    delivery.withdrawn = False

    def _deliver_assessments(self, session: Session, rows: Collection[Result]) -> None:
        """Queue withdrawn assessments of reports that did not change after all."""
        jobs = {row.job_id for row in rows if row.kind is ResultKind.SR and not row.deidentified}
        withdrawn = (
            select(Result, Delivery.destination)
            .join(Result.deliveries)
            .where(Result.kind == ResultKind.ASSESSMENT, Result.job_id.in_(jobs), Delivery.withdrawn)
        )
        for result, destination in session.execute(withdrawn).all():
            takers = [peer for peer in self._settings.peers if peer.assessments and peer.name == destination]
            outbox.enqueue(session, result, takers)

    def _record_repairs(self, job: Job, images: Sequence[SourceObject]) -> None:
        """Record an event for each image with invalid attributes, naming the attributes without values."""
        if faulty := repairs_of(images):
            with self._database.write() as session:
                for uid, repairs in faulty.items():
                    record_of_job(
                        session,
                        job,
                        SOURCE_REPAIRED,
                        instance=uid,
                        repaired=",".join(sorted(repairs.repaired)),
                        left_out=",".join(sorted(repairs.left_out)),
                        kept=",".join(sorted(repairs.kept)),
                    )

    def _deidentified(
        self,
        job: Job,
        names: Sequence[str],
        pipeline: Pipeline,
        models: Sequence[ModelRef],
        analysed_at: datetime,
        images: JobImages,
        result: PipelineResult,
    ) -> list[BuiltObject]:
        """Build the objects for de-identified destinations, for each pseudonym domain; record an event for
        each that may not be sent.

        Raises ResultRefused if none may be sent and the job has no other destination.
        """
        domains: dict[str, list[PeerSettings]] = defaultdict(list)
        for peer in self._peers(names, deidentified=True):
            domains[peer.pseudonym_domain or ""].append(peer)
        objects: list[BuiltObject] = []
        reasons: list[str] = []
        for domain, peers in domains.items():
            made = build_deidentified(
                self._context(job, pipeline, models, analysed_at, peers, domain=domain),
                sources=images.readable,
                result=result,
                pseudonyms=Pseudonyms(load_or_create(self._settings.node.data_dir), domain),
                options=frozenset(peers[-1].retain),
            )
            objects += made.objects
            reasons += made.withheld
        if withheld := list(dict.fromkeys(reasons)):
            with self._database.write() as session:
                for reason in withheld:
                    record_of_job(session, job, RESULT_WITHHELD, reason=reason)
        if withheld and not objects and not self._peers(names, deidentified=False):
            raise ResultRefused("; ".join(withheld))
        return objects

    def _context(
        self,
        job: Job,
        pipeline: Pipeline | None,
        models: Sequence[ModelRef],
        analysed_at: datetime,
        peers: Sequence[PeerSettings],
        *,
        domain: str | None = None,
        built: Sequence[BuiltObject] = (),
    ) -> ResultContext:
        """Return what the builders of results need to know about a job.

        ``pipeline``: None if it could not be loaded. ``peers``: destinations of the results. ``domain``: the
        pseudonym domain, None for results that name the patient. ``built``: objects of this job for other
        destinations, which are not built again.
        """
        names = [peer.name for peer in peers]
        here = {item.sop_instance_uid for item in built}
        with self._database.read() as session:
            former, series = results.newest_report(session, job.study_id, job.rule, names, domain=domain)
            installation = results.this_installation(session)
            place = results.place_of_rule(session, job.study_id, job.rule)
        rule = self._settings.rule(job.rule)
        context = ResultContext(
            pipeline=job.pipeline,
            pipeline_version="unknown",
            models=tuple(models),
            analysed_at=analysed_at,
            kinds=_kinds_of(job, peers),
            installation=installation,
            options=job.options,
            station_name=self._settings.node.ae_title,
            form=peers[0].form if peers else ResultForm(),
            supersedes=former,
            supersedes_series=series,
            exists=lambda uid: uid in here or self._read(results.is_result, uid),
            series_began=partial(self._read, results.series_began, job.study_id),
            no_call=None if rule is None or rule.no_call is None else frozenset(rule.no_call),
            series_offset=RULE_STEP * place,
        )
        if pipeline is None:
            return context
        card = pipeline.card
        return replace(
            context,
            pipeline=card.name,
            pipeline_version=card.version,
            region=card.region,
            scheme=card.scheme,
        )

    def _read(self, query: Callable[..., T], *arguments: Any) -> T:
        """Return the value of ``query`` called with a reading session of its own and ``arguments``."""
        with self._database.read() as session:
            return query(session, *arguments)

    def _peers(self, names: Sequence[str], *, deidentified: bool) -> list[PeerSettings]:
        """Return the configured peers among ``names`` that get de-identified objects, or those that do
        not.
        """
        known = {peer.name: peer for peer in self._settings.peers}  # the job's start logged who is unknown
        return [known[one] for one in names if one in known and known[one].deidentify is deidentified]


def _reported(sources: Sequence[SourceObject]) -> Sequence[SourceObject]:
    """Return the images among what a job got, of which reports speak; all of it if none is an image."""
    return [one for one in sources if is_image(one.image.header.sop_class_uid)] or sources


def _kinds_of(job: Job, peers: Sequence[PeerSettings]) -> frozenset[ResultKind]:
    """Return the kinds of results that these destinations show, and the console where the job has none."""
    kinds = {kind for peer in peers for kind in peer.results}
    return frozenset(kinds if job.destinations else kinds | SHOWN_HERE)


@contextlib.contextmanager
def _once_more() -> Iterator[None]:
    """Context manager: suppress the errors of a transaction that another one made fail."""
    try:
        yield
    except DBAPIError as error:
        if not (isinstance(error, IntegrityError) or is_undone(error)):
            raise


def _record_routing(session: Session, end: _JobEnd, row: Job) -> None:
    """Record what the conditions of the rule changed, but no finding; make the study STAT if one does."""
    job = end.job
    further = [name for name in end.names if name not in row.destinations]
    if end.stat:  # its deliveries and later jobs go before those of other studies
        session.execute(update(Study).where(Study.id == job.study_id, Study.priority < 1).values(priority=1))
    if further or end.stat:
        record_of_job(
            session,
            job,
            RESULTS_ROUTED,
            rule=job.rule,
            destinations=",".join(further),
            stat=end.stat,
        )


def _record_losses(session: Session, row: Result, peers: Sequence[PeerSettings]) -> None:
    """Record which peers miss a result whose file was deleted: a result is made once."""
    for peer in peers:
        delivery = deliveries.add(session, row, peer.name)
        if delivery.state is DeliveryState.PENDING:
            deliveries.withdraw(session, delivery, "its file was deleted after spool.result_days")
            record(session, RESULT_LOST, row.study_id, instance=row.sop_instance_uid, destination=peer.name)


def _accepts_object(peer: PeerSettings, item: BuiltObject) -> bool:
    """Return whether a peer gets this object: it accepts the kind, with or without identity, the pseudonym
    domain and the form.
    """
    return (
        peer.deidentify is item.deidentified
        and item.not_beside.isdisjoint(peer.results)
        and peer.takes(item.kind)
        and item.pseudonym_domain == (peer.pseudonym_domain or "")
        and item.form in (None, peer.form)
    )


def _grouped_by_form(peers: Sequence[PeerSettings]) -> list[list[PeerSettings]]:
    """Return groups of peers that get the same objects, because they want the same form; one empty group
    without peers.
    """
    groups: dict[ResultForm, list[PeerSettings]] = defaultdict(list)
    for peer in peers:
        groups[peer.form].append(peer)
    return list(groups.values()) or [[]]
