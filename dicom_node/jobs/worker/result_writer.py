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
from dicom_node.base.config.rule import NOT_ASSESSED, SUSPECTED
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ResultRefused
from dicom_node.base.events import RESULT_LOST, RESULT_WITHHELD, RESULTS_HELD, RESULTS_ROUTED, SOURCE_REPAIRED
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultForm, ResultKind
from dicom_node.base.sitekey import load_or_create
from dicom_node.base.store import deliveries, intake, results
from dicom_node.base.store.database import Database, is_undone
from dicom_node.base.store.tables import Delivery, Job, Result, Study
from dicom_node.base.store.transitions import record, settle_study, utc_now
from dicom_node.deliver import outbox
from dicom_node.jobs.drift import count_images
from dicom_node.jobs.queue import JobQueue, record_of_job
from dicom_node.jobs.worker.cleaning import record_cleaning
from dicom_node.jobs.worker.images import JobImages
from dicom_node.jobs.worker.previous import previous_images
from dicom_node.results.build import build, build_failure
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.concepts import Cause
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified.build import build_deidentified
from dicom_node.results.deidentified.pseudonyms import Pseudonyms
from dicom_node.results.files import ResultFile, put_in_place, row_values, temporary_files
from dicom_node.results.series import RULE_STEP
from dicom_node.results.source import SourceObject, repairs_of

T = TypeVar("T")
SHOWN_HERE = frozenset({ResultKind.SR, ResultKind.CLEANED, ResultKind.HEATMAP})
"""Kinds that are built of a job whose results no rule sends: what the console shows them by."""
_ROUNDS = 5  # another worker may write the same object at the same moment; once is enough in practice


@dataclass(frozen=True, slots=True, kw_only=True)
class _JobEnd:
    """What the transaction that ends a job stores.

    ``names``: peers that get the ``built`` results. ``refused``, ``scores``: of images, to be counted;
    ``is_unsure``: of an image the model says no more than what it suspects.
    ``models``: used for the results. ``present``: names of suspected findings and of calls. ``assess_first``:
    a person must accept the results before they are sent. ``stat``: a condition of the rule makes the study
    STAT.
    ``record_cleaning``: records how the removal of burned-in text went.
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
        uids = [source.image.uid for source in images.readable] if rule and rule.compare else []
        previous, day = self._read(previous_images, self._files, job, uids) if uids else ({}, None)
        built: list[BuiltObject] = []
        for peers in _grouped_by_form(self._peers(names, deidentified=False)):
            context = self._context(job, pipeline, models, analysed_at, peers, built=built)
            context = replace(context, previous=previous, study_day=day)
            built += build(context, sources=images.readable, result=result)
        built += self._deidentified(job, names, pipeline, models, analysed_at, images, result)
        self._record_repairs(job, images.readable)
        self._end(
            _JobEnd(
                job=job,
                state=JobState.SUCCEEDED,
                names=names,
                built=built,
                stat=stat,
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
            )
        )

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
                images,
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
                assess_first=end.assess_first,
            )
        if end.state is JobState.SUCCEEDED:
            deliveries.replace_unassessed(session, job.study_id, job.rule, [row.id for row in rows.values()])
        if waiting:
            record_of_job(session, job, RESULTS_HELD, rule=job.rule, results=waiting)
        self._replace_sent_by_hand(session, end, rows)
        self._deliver_assessments(session, rows.values())
        return [file for file in new if not file.was_there]

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
        and item.kind in peer.results
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
