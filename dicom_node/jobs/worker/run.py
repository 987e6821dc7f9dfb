"""A worker: loads the pipelines once, then claims and runs jobs until it must stop.

One job: its images, opened by the one decoder → pipeline → files of its results → one transaction that writes
rows and deliveries and ends the job. A thread renews the job's lease meanwhile, and notices when it must
stop.

One small file per image in work, with a line per worker, records which image a worker is working on, so that
an image that kills workers, or takes all their memory, is left out. The line is removed when the worker has
finished with the image, whatever the result; a line that remains is a worker that the image killed. Losing
the files only costs further tries.

A job's images are compared with finished results of earlier studies in the database. They must be of the same
patient (Patient ID and issuer, and no contradiction by the rule "One patient per study"), pipeline, modality,
body part and view. The newest earlier study with such an image is used. Results that wait for a person, were
rejected or withdrawn, are older than a correction, or have lost their file are not used. If an earlier study
arrives later, nothing is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from sqlalchemy import exists, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from ai_pipeline import pipelines
from ai_pipeline.burnin.devices.rules import matching_rules, site_folder
from ai_pipeline.contract import (
    Accept,
    Decision,
    ImageHeader,
    ImageKind,
    ModelRef,
    Picture,
    Pipeline,
    PipelineResult,
    PixelArray,
    Progress,
    QualityNote,
    Refusal,
    Refuse,
    RefusedBy,
    Scores,
)
from ai_pipeline.errors import (
    CardError,
    CleaningFailed,
    NoNumber,
    PixelError,
    PluginError,
    ProgramFailed,
    ProgramStopped,
)
from ai_pipeline.images.dates import date_of
from ai_pipeline.images.decode import DicomImage, read_dicom
from ai_pipeline.images.limits import lacks_memory
from ai_pipeline.summary import without_research
from dicom_node.base.config.loading import is_behind
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.errors import (
    DecodedDifferently,
    HandedBack,
    JobCancelled,
    LeaseLost,
    NodeError,
    NotFound,
    NotInSpool,
    NotTakenOverYet,
    ResultRefused,
    StoreAway,
    TimeLimitReached,
    WorkerSpent,
)
from dicom_node.base.events import (
    CLEANING_WITHHELD,
    IMAGE_LEFT_OUT,
    IMAGES_CLEANED,
    RESULT_LOST,
    RESULT_REFUSED,
    RESULT_WITHHELD,
    RESULTS_HELD,
    RESULTS_ROUTED,
    SOURCE_REPAIRED,
    WORKER_READY,
    WORKER_SPENT,
)
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind, ReviewCause, StudyState
from dicom_node.base.processes import show_life
from dicom_node.base.sitekey import load_or_create
from dicom_node.base.store import deliveries, fetches, intake, results
from dicom_node.base.store.database import SHORTEST, Database
from dicom_node.base.store.tables import Delivery, Instance, Job, Result, Study, Withdrawal
from dicom_node.base.store.transitions import record, settle_study, utc_now
from dicom_node.deliver import outbox
from dicom_node.jobs.drift import count_images
from dicom_node.jobs.queue import JobQueue, is_dead, is_dead_with_its_node, new_owner
from dicom_node.results.build import (
    ResultFile,
    build,
    build_failure,
    put_in_place,
    row_values,
    temporary_files,
)
from dicom_node.results.deidentified import Pseudonyms, build_deidentified
from dicom_node.results.envelope import (
    NOT_HERE,
    NOT_READ,
    NOT_TAKEN,
    RULE_STEP,
    BuiltObject,
    Cause,
    PreviousImage,
    ResultContext,
    SourceObject,
    repairs_of,
    stand_in_of,
)
from dicom_node.results.sr import read_report

WITHHELD: Final = "cleaning_failed"
"""The quality note on an image of which no cleaned picture is handed back."""
_REVIEWS: Final = {WITHHELD: ReviewCause.WITHHELD} | {
    cause.value: cause for cause in (ReviewCause.IN_DOUBT, ReviewCause.BLACKED_OUT, ReviewCause.WIDENED)
}
T = TypeVar("T")
_Fault = PixelError | NoNumber | CleaningFailed
_MOST_DECODED = 4
"""With more images than these, no image keeps its last decoded frame: a mammogram's frame is 42 MB."""


class NothingCleaned(CleaningFailed):
    """Burned-in text could be removed from no image of the job; ``notes`` give the reason for each image."""

    def __init__(self, text: str, notes: Sequence[QualityNote]) -> None:
        """Store the text, and the reason for each image."""
        super().__init__(text)
        self.notes = tuple(notes)


def record_cleaning(
    session: Session, job: Job, pipeline: Pipeline, result: PipelineResult, sources: Sequence[SourceObject]
) -> None:
    """Record how the removal of burned-in text from a job's images went, in the transaction that ends the
    job.

    These are events on how many images were cleaned and withheld, and the reviews that a person should make.
    """
    noted = Counter(note.name for note in result.quality)
    if cleaned := sum(image.kind is ImageKind.CLEANED for image in result.images):
        record(
            session,
            IMAGES_CLEANED,
            job.study_id,
            job=job.id,
            images=cleaned,
            widened=noted["widened"],
            blacked_out=noted["blacked_out"],
        )
    if noted[WITHHELD]:
        record(session, CLEANING_WITHHELD, job.study_id, job=job.id, images=noted[WITHHELD])
    if sources:
        asked = []
        for source in sources:  # one for each image, with the most urgent cause
            own = {note.name: note for note in result.quality if note.source_uid == source.image.uid}
            if name := next((name for name in _REVIEWS if name in own), None):
                card = pipeline.card
                shaped_by = [card.name, card.version, dict(job.options), source.pixels_sha256]
                analysis = hashlib.sha256(json.dumps(shaped_by, sort_keys=True, default=str).encode())
                note, of_image = own[name], (source.image.uid, _REVIEWS[name])
                asked.append(results.ReviewRequest(*of_image, note.text, note.places, analysis.hexdigest()))
        results.queue_reviews(session, job.id, [source.image.uid for source in sources], asked)


def not_cleaned(failure: CleaningFailed, sources: Sequence[SourceObject]) -> PipelineResult:
    """Return the pipeline result for the case that no image could be cleaned of burned-in text.

    If ``failure`` does not say which images failed, a person should review all of them.
    """
    if isinstance(failure, NothingCleaned):
        return PipelineResult(quality=failure.notes)
    return PipelineResult(
        quality=tuple(
            QualityNote(WITHHELD, f"no cleaned picture: {failure}", one.image.uid) for one in sources
        )
    )


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """Runs pipelines on images, leaving out images that fail. Text that was read in images never leaves this
    process.
    """

    at_work: AtWork

    def accepts(
        self, pipeline: Pipeline, sources: Sequence[SourceObject], options: Mapping[str, object]
    ) -> tuple[Accept | Refuse, Mapping[str, str]]:
        """Return which images the pipeline accepts, and for each image that could not be judged the reason,
        by UID.

        Raises WorkerSpent; PixelError or NoNumber if it can judge no image.
        """
        if not pipeline.card.per_image:
            return pipeline.accepts([source.image for source in sources], options), {}
        done, faults = self._each(sources, lambda _, source: pipeline.accepts([source.image], options))
        if not done:
            raise _as_one(faults.values())
        verdicts, in_words = done.values(), {uid: str(fault) for uid, fault in faults.items()}
        refused = tuple(refusal for verdict in verdicts for refusal in verdict.refused)
        taken = [uid for verdict in verdicts if isinstance(verdict, Accept) for uid in verdict.source_uids]
        if taken:
            return Accept(tuple(taken), refused), in_words
        reasons = dict.fromkeys(verdict.reason for verdict in verdicts if isinstance(verdict, Refuse))
        return Refuse("; ".join(reasons), refused), in_words

    def run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> tuple[PipelineResult, Mapping[str, str]]:
        """Return the pipeline's result, and the reason for each image that was left out, by UID.

        An image that cannot be cleaned of burned-in text is left out with a note. An image that cannot be
        decoded, or for which the model gives no number, is left out as a fault. Raises CleaningFailed,
        PixelError or NoNumber if no image is left, WorkerSpent, and the exceptions of the pipeline.
        """
        if not pipeline.card.per_image:
            return self._run(pipeline, sources, options, report), {}

        def run_one(number: int, source: SourceObject) -> PipelineResult:
            """Run the pipeline on one image, reporting progress as a part of all images."""
            return self._run(
                pipeline, [source], options, lambda share, what: report((number + share) / len(sources), what)
            )

        done, faults = self._each(sources, run_one, report)
        withheld = {
            uid: QualityNote(WITHHELD, f"no cleaned picture: {fault}", uid, places=fault.places)
            for uid, fault in faults.items()
            if isinstance(fault, CleaningFailed)
        }
        if withheld and not done:
            raise NothingCleaned(str(faults[next(iter(withheld))]), list(withheld.values()))
        if not done:
            raise _as_one(faults.values())
        for uid, note in withheld.items():
            done[uid] = PipelineResult(quality=(note,), models=pipeline.models())
        in_order = [done[uid] for uid in (source.image.uid for source in sources) if uid in done]
        left_out = {uid: str(fault) for uid, fault in faults.items() if uid not in withheld}
        return PipelineResult.joined(in_order), left_out

    def _each(
        self,
        sources: Sequence[SourceObject],
        analyse: Callable[[int, SourceObject], T],
        report: Progress | None = None,
    ) -> tuple[dict[str, T], dict[str, _Fault]]:
        """Call ``analyse`` with index and image for each image; return the results, and the faults of the
        images without a result, by UID.
        """
        done: dict[str, T] = {}
        faults: dict[str, _Fault] = {}
        for number, source in enumerate(sources):
            if report:  # a job that is to stop stops here, which is not this image's fault
                report(number / len(sources), f"image {number + 1} of {len(sources)}")
            try:
                with self.at_work.at(source.path.name):
                    done[source.image.uid] = analyse(number, source)
            except (PixelError, NoNumber, CleaningFailed) as fault:
                faults[source.image.uid] = fault
            if len(sources) > _MOST_DECODED and isinstance(source.image, DicomImage):
                source.image.forget()
        return done, faults

    def _run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> PipelineResult:
        """Run the pipeline and return its result, without findings that are for research only and without the
        text that it read.
        """
        return replace(
            without_research(pipeline.run([source.image for source in sources], report, options)), readings=()
        )


def _as_one(faults: Collection[Exception]) -> PixelError | NoNumber:
    """Return one error for the faults of all images: NoNumber if the model is at fault for each, otherwise
    PixelError.
    """
    words = "; ".join(dict.fromkeys(map(str, faults)))
    return NoNumber(words) if all(isinstance(fault, NoNumber) for fault in faults) else PixelError(words)


@dataclass(frozen=True, slots=True)
class JobImages:
    """The images of a job.

    ``all``: images with a readable header, in the job's order. ``faults``: why an image is left out, by UID.
    ``unopened``: images that were refused before decoding; only the report needs them. ``purged``: Instance
    Numbers, as text, of images of an earlier job of the rule whose files are deleted now. ``unread``: number
    of objects that came with the study and cannot be read, so that nobody knows whether they belong to it.
    """

    all: tuple[SourceObject, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    purged: tuple[str, ...] = ()
    unopened: tuple[SourceObject, ...] = ()
    unread: int = 0

    @property
    def readable(self) -> list[SourceObject]:
        """The images without a fault, which a pipeline may analyse."""
        return [source for source in self.all if source.image.uid not in self.faults]

    @property
    def reasons(self) -> str:
        """Why images are left out: each reason once, in one text."""
        return "; ".join(dict.fromkeys(self.faults.values()))

    def only(self, uids: Collection[str]) -> JobImages:
        """Return a copy with only the images with these UIDs, and the images with a fault, which the report
        lists too.
        """
        return replace(
            self, all=tuple(s for s in self.all if s.image.uid in uids or s.image.uid in self.faults)
        )

    def without(self, faults: Mapping[str, str]) -> JobImages:
        """Return a copy in which the images in ``faults`` (UID -> reason) are left out. Raises PixelError if
        none is left.
        """
        left = replace(self, faults={**self.faults, **faults})
        if faults and not left.readable:
            raise PixelError("; ".join(dict.fromkeys(faults.values())))
        return left


_NO_HEADER = ImageHeader("", "", rows=0, columns=0, frames=1, photometric="", bits_stored=0)


@dataclass(frozen=True, slots=True)
class RefusedImage:
    """An image that was refused by its header, without pixels (a :class:`ai_pipeline.contract.SourceImage`).

    A report can name it, because the node reads the header itself.
    """

    uid: str
    fault: str
    series_uid: str = ""
    header: ImageHeader = _NO_HEADER

    def stored(self, frame: int = 0) -> PixelArray:  # noqa: ARG002
        """Raise PixelError, because a refused image has no pixels."""
        raise PixelError(self.fault)

    def display(self, frame: int = 0, shorter_side: int = 0) -> Picture:  # noqa: ARG002
        """Raise PixelError, because a refused image has no pixels."""
        raise PixelError(self.fault)

    def show(self, samples: PixelArray, frame: int = 0) -> Picture:  # noqa: ARG002
        """Raise PixelError, because a refused image has no pixels."""
        raise PixelError(self.fault)


def open_images(database: Database, settings: Settings, job: Job) -> JobImages:
    """Read the headers of a job's images; pixels are decoded later. Raises NotInSpool, StoreAway."""
    files = Files(settings)
    with database.read() as session:
        rows = session.execute(
            select(
                Instance.sop_instance_uid,
                Instance.path,
                Instance.purged,
                Instance.pixels_sha256,
                Instance.identity_sha256,
                Instance.header_sha256,
                Instance.assumed_charset,
            ).where(Instance.sop_instance_uid.in_(job.source_uids))
        ).all()
        purged = results.purged_images(session, job.study_id, job.rule)
        unread = intake.unread_beside(session, job.study_id)
        drawn = results.drawn_boxes(session, job.source_uids)
        here = {row.path: files.here(session, row.path) for row in rows if not row.purged}
    rules = device_rules_of(settings)
    known = {row.sop_instance_uid: row for row in rows}
    sources: list[SourceObject] = []
    faults: dict[str, str] = {}
    unopened: list[SourceObject] = []
    for row in [known[uid] for uid in job.source_uids if uid in known]:
        if row.purged:
            faults[row.sop_instance_uid] = "an image was purged from the spool"
            continue
        path = here[row.path]
        if not path.is_file():
            raise NotInSpool("an image is not in the spool")
        try:
            image, note = read_dicom(path), ""
            if by_hand := drawn.get(row.sop_instance_uid):
                image.header = replace(image.header, removed_by_hand=by_hand.boxes)
                places = "1 place was" if len(by_hand.boxes) == 1 else f"{len(by_hand.boxes)} places were"
                # The cleaned image says it: no names of staff.
                note = f"{places} marked by a person ({by_hand.role}) on {by_hand.at:%Y-%m-%d}"
            shape = shape_sha256(row.pixels_sha256, row.header_sha256, image.header, rules)
            sources.append(SourceObject(image, path, shape, row.identity_sha256, row.assumed_charset, note))
            image.check_decodable()  # it stays among the sources: a report can name it
        except PixelError as error:
            faults[row.sop_instance_uid] = str(error)
            refused = RefusedImage(row.sop_instance_uid, str(error))
            shape = shape_sha256(row.pixels_sha256, row.header_sha256, refused.header, rules)
            unopened.append(SourceObject(refused, path, shape, row.identity_sha256, row.assumed_charset))
    earlier = tuple(
        number if number.isdecimal() else "without number"
        for uid, number in purged.items()
        if uid not in known
    )
    return JobImages(tuple(sources), faults, earlier, tuple(unopened), unread)


def device_rules_of(settings: Settings) -> Path | None:
    """Return the site's folder of rules on where devices burn in text: the configured folder, else the one
    that the environment names, else the one that the console writes to; None if that does not exist.
    """
    return site_folder(settings.workers.device_rules_dir, settings.node.data_dir / DEVICE_RULES_FOLDER)


def shape_sha256(
    pixels_sha256: str, header_sha256: str, header: ImageHeader, device_rules: Path | None
) -> str:
    """Return a hash of all that shapes the results of an image, except patient and study: its pixels, its
    header, the boxes that a person drew on it, and the rules for its device. Raises
    ``ai_pipeline.errors.DeviceRuleError``.
    """
    rules = [rule.model_dump(mode="json") for rule in matching_rules(header, device_rules)]
    shaped_by = json.dumps([pixels_sha256, header_sha256, header.removed_by_hand, rules], sort_keys=True)
    return hashlib.sha256(shaped_by.encode()).hexdigest()


_ROUNDS = 5  # another worker may write the same object at the same moment; once is enough in practice


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
        present = frozenset(one.code.meaning[:64] for one in findings if one.decision is Decision.PRESENT)
        names, stat = self._receivers(job, present)
        models = result.models or pipeline.models()
        rule = self._settings.rule(job.rule)
        uids = [source.image.uid for source in images.readable] if rule and rule.compare else []
        previous, day = self._read(previous_images, self._files, job, uids) if uids else ({}, None)
        built: list[BuiltObject] = []
        for peers in _grouped_by_charset(self._peers(names, deidentified=False)):
            context = self._context(job, pipeline, models, analysed_at, peers, built=built)
            context = replace(context, previous=previous, study_day=day)
            built += build(context, sources=images.readable, result=result)
        built += self._deidentified(job, names, pipeline, models, analysed_at, images, result)
        self._record_repairs(job, images.readable)
        self._end(
            job,
            JobState.SUCCEEDED,
            "",
            names,
            built,
            refused,
            result.scores,
            lambda session: record_cleaning(session, job, pipeline, result, images.readable),
            analysed_at,
            # Whether its rule wanted that when it took the study, or wants it now.
            assess_first=job.assess_first or (rule is not None and rule.assess_first),
            present=present,
            models=models,
            stat=stat,
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

        The report is for people who wait for the study, so de-identified destinations get none. It needs no
        acceptance by a person, because it says nothing about the patient.
        """
        names, stat = self._receivers(job, (), assessed=False)
        now, models = utc_now(), pipeline.models() if pipeline else ()
        built: list[BuiltObject] = []
        for peers in _grouped_by_charset(self._peers(names, deidentified=False)):
            built += build_failure(
                self._context(job, pipeline, models, now, peers, built=built), images, reason, cause
            )
        self._record_repairs(job, images)
        self._end(job, state, reason, names, built, refused, stat=stat)

    def end(self, job: Job, state: JobState, reason: str = "", refused: Sequence[Refusal] = ()) -> None:
        """End a job without results in ``state``, and count the ``refused`` images. Raises LeaseLost."""
        with self._database.write() as session:
            self._queue.complete_if_owner(session, job, state, reason)
            count_images(session, self._settings, refused=refused)
            settle_study(session, job.study_id)

    def _end(
        self,
        job: Job,
        state: JobState,
        reason: str,
        names: Sequence[str],
        built: Sequence[BuiltObject],
        refused: Sequence[Refusal] = (),
        scores: Sequence[Scores] = (),
        also: Callable[[Session], object] = bool,
        analysed_at: datetime | None = None,
        *,
        assess_first: bool = False,
        present: frozenset[str] = frozenset(),
        models: Sequence[ModelRef] = (),
        stat: bool = False,
    ) -> None:
        """End the job in ``state``, and store the ``built`` results with deliveries to the peers ``names``,
        in one transaction.

        ``refused``, ``scores``: of images, to be counted. ``also``: called in the transaction to record more.
        ``assess_first``: a person must accept the results before they are sent. ``present``: names of
        suspected findings. ``models``: used for the results. ``stat``: a condition of the rule makes the
        study STAT.
        """
        with temporary_files(built, self._files) as files:
            for _ in range(_ROUNDS):
                with contextlib.suppress(IntegrityError), self._database.write() as session:
                    row = self._queue.complete_if_owner(session, job, state, reason)
                    row.analysed_at = row.analysed_at or analysed_at
                    row.models = [f"{model.id}@{model.version}" for model in models]
                    new = self._enter(session, job, state, names, assess_first, present, built, files)
                    # Make the study STAT, and record what the conditions of its rule changed, but no
                    # finding.
                    further = [name for name in names if name not in row.destinations]
                    if stat:
                        # Its deliveries and later jobs go before those of other studies.
                        session.execute(
                            update(Study)
                            .where(Study.id == job.study_id, Study.priority < 1)
                            .values(priority=1)
                        )
                    if further or stat:
                        record(
                            session,
                            RESULTS_ROUTED,
                            job.study_id,
                            job=job.id,
                            rule=job.rule,
                            destinations=",".join(further),
                            stat=stat,
                        )
                    count_images(session, self._settings, scores, refused)
                    also(session)
                    settle_study(session, job.study_id)
                    session.flush()
                    # Last before the commit: should it fail, the next try writes the files anew.
                    put_in_place(new, self._files)
                    return
        raise RuntimeError("another worker writes the results of this job again and again")

    def _receivers(
        self, job: Job, present: Collection[str], *, assessed: bool = True
    ) -> tuple[Sequence[str], bool]:
        """Return the peers that get the job's results, including those that conditions of its rule add, and
        whether a condition makes the study STAT.

        A peer that got an earlier report of the rule by a condition also gets the one that replaces it.
        ``present``: names of suspected findings.
        """
        rule = self._settings.rule(job.rule)
        if rule is None or not rule.then:
            return job.destinations, False
        holding = [one for one in rule.then if one.is_met(present, assessed=assessed)]
        with self._database.read() as session:
            if fetches.is_prior(session, job.study_id):  # its results are sent nowhere
                return job.destinations, False
            had = results.receivers(session, job.study_id, job.rule)
        further = {name for one in holding for name in one.send_to} | (had & set(rule.receivers))
        known = {peer.name for peer in self._settings.peers if "receive" in peer.may}
        names = [name for name in rule.receivers if name in further & known - set(job.destinations)]
        return [*job.destinations, *names], any(one.priority == "stat" for one in holding)

    def _enter(
        self,
        session: Session,
        job: Job,
        state: JobState,
        names: Sequence[str],
        assess_first: bool,
        present: frozenset[str],
        built: Sequence[BuiltObject],
        files: Mapping[str, ResultFile],
    ) -> list[ResultFile]:
        """Add the rows and deliveries of the ``built`` objects; return the files that still need their final
        names.

        Parameters as of ``_end``.
        """
        waiting = 0
        is_prior = fetches.is_prior(session, job.study_id)  # analysed for a comparison only
        rows = results.existing(session, [item.sop_instance_uid for item in built])
        new: list[ResultFile] = []
        for item in built:
            uid = item.sop_instance_uid
            if uid not in rows:
                values = row_values(item, files[uid], self._files)
                rows[uid] = results.add(
                    session, Result(study_id=job.study_id, job_id=job.id, created_at=utc_now(), **values)
                )
                new.append(files[uid])
                if item.kind is ResultKind.SR and not item.deidentified:
                    results.note_findings(session, rows[uid], present)
            known = [] if is_prior else self._peers(names, deidentified=item.deidentified)
            peers = [peer for peer in known if _accepts_object(peer, item)]
            if rows[uid].purged:  # write down who misses it: a result is made once
                for peer in peers:
                    delivery = deliveries.add(session, rows[uid], peer.name)
                    if delivery.state is DeliveryState.PENDING:
                        deliveries.withdraw(session, delivery, "its file was deleted after spool.result_days")
                        record(session, RESULT_LOST, job.study_id, instance=uid, destination=peer.name)
                continue
            waiting += outbox.enqueue(
                session,
                rows[uid],
                peers,
                in_doubt=uid in files and files[uid].was_there,
                assess_first=assess_first,
            )
        if state is JobState.SUCCEEDED:
            deliveries.replace_unassessed(session, job.study_id, job.rule, [row.id for row in rows.values()])
        if waiting:
            record(session, RESULTS_HELD, job.study_id, job=job.id, rule=job.rule, results=waiting)
        self._carry_over_decisions(session, job, names, assess_first, built, rows)
        return [file for file in new if not file.was_there]

    def _carry_over_decisions(
        self,
        session: Session,
        job: Job,
        names: Sequence[str],
        assess_first: bool,
        built: Sequence[BuiltObject],
        rows: Mapping[str, Result],
    ) -> None:
        """Apply to new results what a person did with the results that they replace: sending to further
        peers, assessments.
        """
        # Peers to which a person sent results that these replace before they left get these instead.
        left = deliveries.left_by_hand(session, job.study_id, job.rule)
        by_hand = {delivery.destination for delivery in left} - set(names)
        for peer in (peer for peer in self._settings.peers if peer.name in by_hand):
            here = [
                rows[one.sop_instance_uid]
                for one in built
                if peer.deidentify is one.deidentified
                and _accepts_object(peer, one)
                and not rows[one.sop_instance_uid].purged
            ]
            for row in here:
                outbox.enqueue(session, row, [peer], by_hand=True, assess_first=assess_first)
            replaced = [one for one in left if one.destination == peer.name and one.result not in here]
            for delivery in replaced if here else ():
                delivery.withdrawn = False
        # Withdrawn assessments of reports that did not change after all are delivered.
        jobs = {row.job_id for row in rows.values() if row.kind is ResultKind.SR and not row.deidentified}
        for delivery in session.scalars(
            select(Delivery)
            .join(Delivery.result)
            .where(Result.kind == ResultKind.ASSESSMENT, Result.job_id.in_(jobs), Delivery.withdrawn)
        ).all():
            takers = [one for one in self._settings.peers if one.name == delivery.destination]
            if delivery.result is not None:
                outbox.enqueue(session, delivery.result, [one for one in takers if one.assessments])

    def _record_repairs(self, job: Job, images: Sequence[SourceObject]) -> None:
        """Record an event for each image with invalid attributes, naming the attributes without values."""
        if faulty := repairs_of(images):
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
                    record(session, RESULT_WITHHELD, job.study_id, job=job.id, reason=reason)
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
        names, card = [peer.name for peer in peers], pipeline.card if pipeline else None
        here = {item.sop_instance_uid for item in built}
        with self._database.read() as session:
            former, series = results.newest_report(session, job.study_id, job.rule, names, domain=domain)
            installation = results.this_installation(session)
            place = results.place_of_rule(session, job.study_id, job.rule)
        rule = self._settings.rule(job.rule)
        return ResultContext(
            pipeline=card.name if card else job.pipeline,
            pipeline_version=card.version if card else "unknown",
            models=tuple(models),
            analysed_at=analysed_at,
            kinds=frozenset(kind for peer in peers for kind in peer.results),
            installation=installation,
            options=job.options,
            region=card.region if card else None,
            scheme=card.scheme if card else None,
            station_name=self._settings.node.ae_title,
            charset=peers[0].charset if peers else "utf8",
            supersedes=former,
            supersedes_series=series,
            exists=lambda uid: uid in here or self._read(results.is_result, uid),
            series_began=partial(self._read, results.series_began, job.study_id),
            no_call=None if rule is None or rule.no_call is None else frozenset(rule.no_call),
            series_offset=RULE_STEP * place,
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


def _accepts_object(peer: PeerSettings, item: BuiltObject) -> bool:
    """Return whether a peer gets this object: it accepts the kind, the pseudonym domain and the character
    set.
    """
    return (
        item.not_beside.isdisjoint(peer.results)
        and item.kind in peer.results
        and item.pseudonym_domain == (peer.pseudonym_domain or "")
        and item.charset in (None, peer.charset)
    )


def _grouped_by_charset(peers: Sequence[PeerSettings]) -> list[list[PeerSettings]]:
    """Return groups of peers that get the same objects, because they want the same character set; one empty
    group without peers.
    """
    groups = ([peer for peer in peers if peer.charset == charset] for charset in ("source", "utf8"))
    return list(filter(None, groups)) or [[]]


MOST_REPORTS: Final = 20
"""Earlier reports of a patient that are read at most, the newest first."""
_VIEWED: Final = frozenset({"CR", "DX", "MG"})  # modalities of which a view must be given
_Kind = tuple[str, str, str]


def previous_images(
    session: Session, files: Files, job: Job, uids: Sequence[str]
) -> tuple[dict[str, PreviousImage], date | None]:
    """Return the image of an earlier study to compare with, for each of ``uids`` (SOP Instance UIDs) that has
    one, and the date of the present study.
    """
    study = session.get_one(Study, job.study_id)
    on = date_of(study.study_date)
    found: dict[str, PreviousImage] = {}
    if on is None or not study.patient_id.strip():
        return found, on
    kinds = {row.sop_instance_uid: _kind(row) for row in _instances(session, study.id, uids)}
    wanted = {uid: kind for uid, kind in kinds.items() if kind is not None}
    not_released = exists().where(
        Delivery.result_id == Result.id,
        Delivery.state.in_([DeliveryState.UNASSESSED, DeliveryState.DISCARDED]),
    )
    # Reports on earlier studies with the same Patient ID and issuer, the newest study first.
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
            Job.pipeline == job.pipeline,
            Job.state == JobState.SUCCEEDED,
            Result.kind == ResultKind.SR,
            Result.deidentified.is_(False),
            Result.purged.is_(False),
            Result.outdated.is_(False),
            ~exists().where(Withdrawal.result_id == Result.id),
            ~not_released,
        )
        .order_by(Study.study_date.desc(), Result.id.desc())
        .limit(MOST_REPORTS)
    )
    for report, earlier, by in session.execute(chosen).all() if wanted else ():
        then, refer = date_of(earlier.study_date), earlier.study_instance_uid
        if not wanted or then is None or then >= on or refer is None:
            continue
        path = files.if_here(session, report.path)
        if path is None or not intake.of_one_patient(session, [study.id, earlier.id]):
            continue
        said = read_report(path)
        said_of = {one.image for one in said.findings} | {one.image for one in said.numbers}
        rows = {row.sop_instance_uid: row for row in _instances(session, earlier.id, by.source_uids)}
        there = [rows[uid] for uid in by.source_uids if uid in rows and uid in said_of]
        last = {_kind(row): row for row in there}  # of several of one kind the last one counts
        for uid in [uid for uid, kind in wanted.items() if kind in last]:
            row = last[wanted.pop(uid)]
            its_report, image = (
                stand_in_of(one.sop_class_uid, one.sop_instance_uid, refer, one.series_instance_uid)
                for one in (report, row)
            )
            found[uid] = PreviousImage(
                then,
                its_report,
                image,
                tuple(one for one in said.findings if one.image == row.sop_instance_uid),
                tuple(one for one in said.numbers if one.image == row.sop_instance_uid),
                same_options=dict(by.options) == dict(job.options),
            )
    return found, on


def _instances(session: Session, study: int, uids: Sequence[str]) -> list[Instance]:
    """Return the current versions of these images in the study with this id."""
    return list(
        session.scalars(
            select(Instance).where(Instance.study_id == study, Instance.sop_instance_uid.in_(uids))
        )
    )


def _kind(row: Instance) -> _Kind | None:
    """Return modality, body part and view, which are equal for comparable images; None for a radiograph
    without a view.
    """
    body_part, view = (
        str(row.attributes.get(word) or "").strip().upper() for word in ("BodyPartExamined", "ViewPosition")
    )
    return None if row.modality in _VIEWED and not view else (row.modality, body_part, view)


KEEP_SECONDS = 86_400.0


@dataclass(slots=True)
class AtWork:
    """Records which image a worker is working on, to find images that kill workers.

    ``owner``: the name of the worker. ``most``: how many workers an image may kill. ``memory_mib``: the
    memory limit of a worker in MiB.
    """

    folder: Path
    owner: str
    most: int
    memory_mib: int
    spent: bool = False
    """Whether memory ran out, so that the process must end: libraries give it back only then."""

    _image: Path | None = None
    last_try: bool = False
    """Whether a job runs for the last time: an image that exhausts memory now is left out at once."""

    @contextlib.contextmanager
    def at(self, spool_name: str) -> Iterator[None]:
        """Context manager: record that this worker works on the image, in case the process dies.

        Raises PixelError if the image has killed too many workers, WorkerSpent if the image exhausted the
        worker's memory.
        """
        file = self.folder / spool_name
        if (lost := self._losses(file)) >= self.most:
            raise PixelError(f"workers lost with this image, or out of memory or time at it: {lost}")
        self._add(file, self.owner)
        self._image = file
        try:
            yield
        except TimeLimitReached:
            self._remove(file)
            self._add(file, self._limit_mark())
            raise
        except Exception as error:
            self._remove(file)
            if not lacks_memory(error):
                raise
            self.spent = True
            self._add(file, self._limit_mark())
            if self.last_try or self._losses(file) >= self.most:
                raise PixelError(
                    f"the image takes more memory than workers.memory_mib = {self.memory_mib}"
                ) from error
            raise WorkerSpent("an image took all the memory of its worker") from error
        else:
            self._remove(file)
        finally:
            self._image = None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Context manager for running another job in between: if the process dies then, that does not count
        against the image of the first job.
        """
        image, last_try = self._image, self.last_try
        if image is not None:
            self._remove(image)
        try:
            yield
        finally:
            self._image, self.last_try = image, last_try
            if image is not None:
                self._add(image, self.owner)

    def forget_old(self) -> None:
        """Delete records that are older than a day."""
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - KEEP_SECONDS:
                    file.unlink()

    def _limit_mark(self) -> str:
        """Return the line that records a worker that reached its limit of memory or time at an image; it
        counts while the limit stays the same.
        """
        return f"limit of {self.memory_mib} MiB"

    def _losses(self, file: Path) -> int:
        """Return how many workers died or reached a limit at this image while their node lived on: after a
        power cut the image is not at fault.
        """
        return sum(
            line == self._limit_mark() or (is_dead(line) and not is_dead_with_its_node(line))
            for line in _lines(file)
        )

    def _add(self, file: Path, line: str) -> None:
        """Append a line to the record of an image."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as lines:
            lines.write(f"{line}\n")

    def _remove(self, file: Path) -> None:
        """Remove this worker's line from the record of an image."""
        rest = [line for line in _lines(file) if line != self.owner]
        if rest:
            file.write_text("".join(f"{line}\n" for line in rest), encoding="ascii")
        else:
            file.unlink(missing_ok=True)


def _lines(file: Path) -> list[str]:
    """Return the lines of an image's record; none if it does not exist."""
    try:
        return file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []


_LOGGER = logging.getLogger(__name__)
_AWAY_SECONDS, _LONGEST_AWAY_SECONDS = 2.0, 60.0  # wait for store or peer, longer each time
_MOST_NAMED = 50  # purged images, in a note
_ACCEPTED, _ANALYSED = 0.01, 0.95  # shares done


@dataclass(slots=True)
class _Attempt:
    """How far an attempt at a job has come, for the report if it fails."""

    job: Job
    pipeline: Pipeline | None = None
    images: JobImages = field(default_factory=JobImages)
    refused: tuple[Refusal, ...] = ()  # by the pipeline; counted when the job ends


class _Failed(Exception):
    """The job fails for good, because another attempt would fail in the same way."""

    def __init__(self, reason: str, cause: Cause = Cause.UNKNOWN) -> None:
        """Store the reason in words, and the cause that the report codes."""
        super().__init__(reason)
        self.cause = cause


_FINAL = (_Failed, PixelError, NoNumber, CleaningFailed, DecodedDifferently)


def _missing_notes(images: JobImages, refused: Sequence[Refusal]) -> Iterator[QualityNote]:
    """Yield notes for the report on the images of the study that this result does not cover. ``refused``: by
    the pipeline; those refused by their header are of another kind, and no reader expects a word on them.
    """
    if beside := sum(one.by is RefusedBy.PIXELS for one in refused):
        yield QualityNote(
            NOT_TAKEN,
            f"{beside} further image{'s' * (beside > 1)} of this study refused by the pixels: "
            "not assessed, so nothing is excluded.",
        )
    if images.faults:
        yield QualityNote(
            "not_analysed", f"{len(images.faults)} of the images not analysed: {images.reasons}"
        )
    if images.unread:
        yield QualityNote(
            NOT_READ,
            f"{images.unread} object{'s' * (images.unread > 1)} that came with these images cannot be read: "
            "the study may be incomplete",
        )
    if images.purged:
        named = ", ".join(images.purged[:_MOST_NAMED])
        if len(images.purged) > _MOST_NAMED:
            named += f" and {len(images.purged) - _MOST_NAMED} more"
        yield QualityNote(
            NOT_HERE,
            f"No longer here: image {named} of this study; what an earlier report says of it stays.",
        )


def _sentence(error: BaseException) -> str:
    """Return the reason of a failure as a sentence. Only errors of our own are quoted: others may contain
    header values.
    """
    if isinstance(error, DecodedDifferently):
        return f"a text of the object cannot be decoded ({error})"
    if isinstance(error, (NodeError, PixelError, NoNumber, CleaningFailed, ProgramFailed, _Failed)):
        return str(error)
    if lacks_memory(error):
        return "the analysis takes more memory than workers.memory_mib allows"
    return f"{type(error).__name__} in the pipeline"


def _cause(error: BaseException) -> Cause:
    """Return the kind of a failure, as the report codes it."""
    if isinstance(error, _Failed):
        return error.cause
    if lacks_memory(error):
        return Cause.RESOURCES
    return next((cause for kinds, cause in _CAUSES if isinstance(error, kinds)), Cause.UNKNOWN)


_CAUSES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Cause], ...] = (
    ((PixelError, DecodedDifferently), Cause.FORMAT),
    (CleaningFailed, Cause.QUALITY),
    ((TimeLimitReached, ProgramStopped), Cause.RESOURCES),
    ((CardError, NoNumber), Cause.EQUIPMENT),
)


def _where(error: BaseException) -> str:
    """Return class and place of an error, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"


_FINISH_SECONDS = 8.0  # a worker that stops lets its job run so long, then hands it back
_GRACE_SECONDS = 10.0  # a job that reports no progress for so long after it was to stop is abandoned
_FAILURE_REPORT_SECONDS = 60.0  # at least, for the attempt that only builds the report of a failure
_LOOK_SECONDS = 1.0  # how often a running job looks whether another may pass
_PAUSE_SECONDS = 1.0  # when the database is away


class Worker:
    """Runs jobs of the queue, one at a time, with one configuration."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """Prepare a worker with a name of its own; pipelines are loaded by :meth:`warm_up`."""
        self._settings = settings
        self._database = database
        self._owner = new_owner()
        self._queue = JobQueue(database, settings.workers)
        self._pipelines: dict[str, Pipeline] = {}
        self.stopping = threading.Event()
        """Set by SIGTERM, and when the node that started this process is gone."""
        self.retiring = threading.Event()
        """Set by SIGHUP: end after this job, another process works under another configuration."""
        workers = settings.workers
        # The last attempt of a job is made without an image that failed the ones before.
        most, data_dir = max(1, workers.attempts - 1), settings.node.data_dir
        self._at_work = AtWork(data_dir / "at-work", self._owner, most, workers.memory_mib)
        self._analysis = ImageAnalysis(self._at_work)
        self._results = ResultWriter(database, settings, self._queue)

    def run_forever(self) -> None:
        """Load the pipelines, report that the worker is ready, and run jobs until it must stop or its memory
        is exhausted.
        """
        self.warm_up()
        # One JSON line for the node that started us, and the event for everybody.
        with contextlib.suppress(SQLAlchemyError), self._database.write() as session:
            record(session, WORKER_READY, owner=self._owner, pipelines=" ".join(sorted(self._pipelines)))
        with contextlib.suppress(BrokenPipeError):
            # A line of its own, whatever a pipeline printed.
            sys.stdout.write(f"\n{json.dumps({'ready': True, 'owner': self._owner})}\n")
            sys.stdout.flush()
        changes, pause = self._database.changes, SHORTEST
        while not (self.stopping.is_set() or self.retiring.is_set() or self._at_work.spent):
            seen = changes.count
            try:
                found = self.run_once()
                pause = changes.pause(pause, found=found)
                if found:
                    show_life(busy_seconds=0)
                else:  # a look costs 0.4 ms with SQLite, some 5 ms of both sides with PostgreSQL
                    changes.wait(seen, pause, self.stopping)
            except WorkerSpent as spent:
                _LOGGER.warning("%s: this worker ends", spent)
            except SQLAlchemyError as error:  # the job's lease ends, and somebody takes it over
                show_life(busy_seconds=0)
                self._database.outage.note_error(error)
                self.stopping.wait(_PAUSE_SECONDS)

    def run_once(self) -> bool:
        """Claim and run one job; return False if no job waits."""
        job = self._queue.claim(self._owner)
        if job is None:
            return False
        # This process may be silent until the job's time limit ends it.
        limit = max(self._settings.workers.time_limit_seconds, _FAILURE_REPORT_SECONDS)
        show_life(busy_seconds=limit + 2 * _GRACE_SECONDS)
        looked_at = time.monotonic()

        def progress(share: float, what: str) -> None:
            """Report progress, and now and then run a shorter or more urgent job in between."""
            nonlocal looked_at
            heartbeat(share, what)
            if time.monotonic() - looked_at > _LOOK_SECONDS:
                self._run_passing_job(job, heartbeat)
                looked_at = time.monotonic()

        with self._heartbeat(job) as heartbeat:
            self._run(job, progress)
        return True

    def _run_passing_job(self, job: Job, heartbeat: JobHeartbeat) -> None:
        """Between two steps of a job, run another job that is more urgent or much shorter, if there is one.

        So a chest film waits for 16 frames of a cine (10 s), not for all of it; the cine continues after it.
        """
        if self.stopping.is_set() or self._at_work.spent:
            return
        try:
            other = self._queue.claim(self._owner, passing=job)
            if other is not None:
                with heartbeat.paused(), self._at_work.aside(), self._heartbeat(other) as report:
                    self._run(other, report)
        except SQLAlchemyError as error:  # the other's lease ends; this job goes on
            self._database.outage.note_error(error)

    def _heartbeat(self, job: Job) -> JobHeartbeat:
        """Return the heartbeat for a job, with the configured time limits."""
        workers = self._settings.workers
        return JobHeartbeat(
            self._queue,
            job,
            interval=min(1.0, workers.lease_seconds / 4),
            limit=max(workers.time_limit_seconds, _FAILURE_REPORT_SECONDS)
            if self._queue.gives_up(job)
            else workers.time_limit_seconds,
            grace=_GRACE_SECONDS,
            stopping=self.stopping,
            finish=_FINISH_SECONDS,
            abandon=self._abandon,
        )

    def warm_up(self) -> None:
        """Load the pipelines that the rules name; if one cannot be loaded, only its jobs fail."""
        self._at_work.forget_old()
        started = time.monotonic()
        named = dict.fromkeys(rule.pipeline for rule in self._settings.rules)
        for name in filter(self._settings.workers.takes, named):
            try:
                self._pipeline(name)
            except (Exception, SystemExit) as error:  # noqa: BLE001  (a model or another package)
                _LOGGER.error("pipeline %s cannot be loaded: %s", name, error)
        _LOGGER.info("pipelines loaded in %.1f s", time.monotonic() - started)

    def _pipeline(self, name: str) -> Pipeline:
        """Return the pipeline with this name, loaded once. Raises _Failed if it is unknown or cannot be
        created.
        """
        if name not in self._pipelines:
            try:
                pipeline = pipelines.create(
                    name,
                    models_dir=self._settings.workers.models_dir,
                    device_rules=device_rules_of(self._settings),
                )
            except (KeyError, PluginError) as error:
                raise _Failed(str(error.args[0]), Cause.EQUIPMENT) from None
            pipeline.warm_up()
            self._pipelines[name] = pipeline
        return self._pipelines[name]

    def _abandon(self, job: Job, stop: NodeError) -> None:
        """Settle a job that hangs in code that cannot be stopped, for the reason ``stop``, and kill this
        process.
        """
        _LOGGER.error("job %s does not stop (%s): this worker ends", job.id, stop)
        try:
            with contextlib.suppress(LeaseLost):
                if isinstance(stop, JobCancelled):
                    self._queue.end(job, JobState.CANCELLED)
                elif isinstance(stop, HandedBack):
                    self._queue.hand_back(job)
                elif self._queue.gives_up(job):
                    self._queue.end(job, JobState.FAILED, str(stop))
                elif not isinstance(stop, LeaseLost):
                    # After the last try the next claim gives up, and tells the PACS.
                    wait = self._queue.retry_delay(job.tries)
                    self._queue.retry_at(
                        job, utc_now() + (timedelta() if self._queue.is_last_try(job) else wait), str(stop)
                    )
        except (NodeError, SQLAlchemyError) as error:
            _LOGGER.error("job %s is left to its lease: %s", job.id, type(error).__name__)
        finally:
            os._exit(1)

    def _run(self, job: Job, report: Progress) -> None:
        """Run a job until it is finished, put back, or lost to another worker. Raises only database errors.

        ``report`` stops the job by raising JobCancelled, LeaseLost, HandedBack or TimeLimitReached. After a
        job that exhausted the memory (``AtWork.spent``) this process must end.
        """
        attempt = _Attempt(job)
        self._at_work.last_try = self._queue.is_last_try(job)
        try:
            try:
                self._end(attempt, report)
            except JobCancelled:
                self._results.end(job, JobState.CANCELLED)
            except (StoreAway, NotTakenOverYet) as away:  # not the job's fault: no try is lost
                self._queue.hand_back(
                    job, min(_AWAY_SECONDS * job.attempts, _LONGEST_AWAY_SECONDS), str(away)
                )
        except LeaseLost as lost:
            _LOGGER.warning("%s", lost)
        finally:
            self._at_work.last_try = False

    def _end(self, attempt: _Attempt, report: Progress) -> None:
        """Run an attempt, and end the job with its results, with a failure report, or by putting it back for
        another try.
        """
        job = attempt.job
        try:
            self._try(attempt, report)
        except (LeaseLost, JobCancelled, StoreAway, NotTakenOverYet):
            raise
        except HandedBack:
            self._queue.hand_back(job)
        except _FINAL as failure:
            if isinstance(failure, CleaningFailed) and attempt.pipeline:
                readable = attempt.images.readable
                withheld = not_cleaned(failure, readable)
                with self._database.write() as session:
                    record_cleaning(session, job, attempt.pipeline, withheld, readable)
            self._fail(attempt, _sentence(failure), _cause(failure))
        except ResultRefused as refused:
            with self._database.write() as session:
                record(session, RESULT_REFUSED, job.study_id, job=job.id, reason=str(refused))
            self._fail(attempt, f"a result was refused: {refused}", _cause(refused))
        except Exception as error:  # noqa: BLE001  (a pipeline may raise anything; it is tried again, then reported)
            reason = _sentence(error)
            self._at_work.spent |= lacks_memory(error)
            if self._at_work.spent:
                with self._database.write() as session:
                    record(
                        session, WORKER_SPENT, job.study_id, job=job.id, memory_mib=self._at_work.memory_mib
                    )
            _LOGGER.error("job %s, attempt %s: %s", job.id, job.attempts, _where(error))
            if self._queue.is_last_try(job):
                self._fail(attempt, reason, _cause(error))
            else:
                self._queue.retry_at(job, utc_now() + self._queue.retry_delay(job.tries), reason)

    def _try(self, attempt: _Attempt, report: Progress) -> None:
        """Run an attempt at a job up to its results. Raises an exception if it fails."""
        job = attempt.job
        report(0.0, "reading")
        attempt.images = images = open_images(self._database, self._settings, job)
        attempt.pipeline = pipeline = self._pipeline(job.pipeline)
        # A destination of the job may have been taken out of the configuration, or entered just now: this
        # machine will know it in a moment.
        for name in job.destinations:
            try:
                self._settings.peer(name)
            except NotFound as unknown:
                if is_behind(self._settings):
                    raise NotTakenOverYet(f"this machine has yet to take over the peer {name}") from None
                raise _Failed(str(unknown), Cause.EQUIPMENT) from None
        if self._queue.gives_up(job):
            tries = min(job.tries - 1, self._settings.workers.attempts)
            raise _Failed(f"given up after {tries} tries: {job.reason or 'its worker was lost'}")
        if not images.readable:
            raise (
                _Failed(images.reasons, Cause.FORMAT)
                if images.reasons
                else _Failed("there is no image any more", Cause.INCOMPLETE)
            )
        # Ask the pipeline; images that do not decode are left out, so that one does not spoil the rest.
        verdict, faults = self._analysis.accepts(pipeline, images.readable, job.options)
        self._leave_out(attempt, faults)
        attempt.refused = verdict.refused
        if isinstance(verdict, Refuse):
            if attempt.images.faults:  # the pipeline did not see these: the PACS gets a report
                raise _Failed(attempt.images.reasons, Cause.FORMAT)
            # Out of scope: listed in the node; reported to the PACS only where the rule asks for it.
            if (rule := self._settings.rule(job.rule)) is not None and rule.tell_pacs_refusals:
                self._report_failure(attempt, JobState.NOT_APPLICABLE, verdict.reason, Cause.OBJECT_TYPE)
            else:
                self._results.end(job, JobState.NOT_APPLICABLE, verdict.reason, attempt.refused)
            return
        attempt.images = attempt.images.only(verdict.source_uids)

        def progress(share: float, what: str) -> None:
            """Report the pipeline's progress as the corresponding part of the whole job's."""
            report(_ACCEPTED + share * (_ANALYSED - _ACCEPTED), what)

        report(_ACCEPTED, "analysing")
        result, faults = self._analysis.run(pipeline, attempt.images.readable, job.options, progress)
        self._leave_out(attempt, faults)
        result = replace(result, quality=(*result.quality, *_missing_notes(attempt.images, attempt.refused)))
        report(_ANALYSED, "building results")
        self._results.write(job, pipeline, attempt.images, result, attempt.refused)

    def _leave_out(self, attempt: _Attempt, faults: Mapping[str, str]) -> None:
        """Leave out the images in ``faults`` (UID -> reason), recording events; the others of the study are
        analysed.
        """
        if faults:
            job, attempt.images = attempt.job, attempt.images.without(faults)
            with self._database.write() as session:
                for uid, reason in faults.items():
                    record(session, IMAGE_LEFT_OUT, job.study_id, job=job.id, instance=uid, reason=reason)

    def _fail(self, attempt: _Attempt, reason: str, cause: Cause) -> None:
        """End the job as failed; the PACS gets a report that says so, unless the job had results before."""
        if attempt.job.analysed_at is None:
            self._report_failure(attempt, JobState.FAILED, reason, cause)
        else:
            self._results.end(attempt.job, JobState.FAILED, reason)

    def _report_failure(self, attempt: _Attempt, state: JobState, reason: str, cause: Cause) -> None:
        """Send the report that the AI did not analyse the images, and end the job in ``state``.

        If the memory of this process is exhausted, the job is put back so that another process writes the
        report.
        """
        job, refused = attempt.job, attempt.refused if state is JobState.NOT_APPLICABLE else ()
        known, again = attempt.images.all or attempt.images.unopened, self._queue.may_be_tried_again(job)
        if known and not (self._at_work.spent and again):  # not known: nothing says whose study it is
            try:
                self._results.write_failure(job, attempt.pipeline, known, state, reason, cause, refused)
                return
            except (LeaseLost, JobCancelled, StoreAway):
                raise
            except Exception as error:  # noqa: BLE001  (the job must end, even if the PACS gets no report)
                self._at_work.spent |= lacks_memory(error)
                _LOGGER.error("job %s: the PACS gets no report: %s", job.id, _where(error))
        if self._at_work.spent and again:
            self._queue.retry_at(job, utc_now(), reason)
        else:
            self._results.end(job, state, reason, refused)


class JobHeartbeat:
    """Renews the lease of a running job in a thread, watches its time limit, and stops it; called with the
    job's progress.

    All times are in seconds: ``interval`` between renewals, ``limit`` of the job's time, ``finish``: how long
    the job may still run when the worker has to stop. A job is stopped at its next report of progress; if
    none comes for ``grace`` seconds, ``abandon(job, reason)`` is called, which ends the process.
    """

    def __init__(
        self,
        queue: JobQueue,
        job: Job,
        *,
        interval: float,
        limit: float,
        grace: float,
        stopping: threading.Event,
        finish: float,
        abandon: Callable[[Job, NodeError], None],
    ) -> None:
        """Prepare the heartbeat of ``job``; a ``with`` block around the job starts and ends it."""
        self._queue, self._job = queue, job
        self._interval, self._limit, self._grace, self._finish = interval, limit, grace, finish
        self._stopping, self._abandon = stopping, abandon
        self._started = time.monotonic()
        self._stopping_since: float | None = None  # when the worker was asked to stop
        self._stop_decided_at = 0.0
        self._paused = False
        self._stop: NodeError | None = None
        self._share, self._doing = 0.0, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread that renews the lease."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """End the thread that renews the lease."""
        self._ended.set()
        self._thread.join()

    def __call__(self, share: float, what: str) -> None:
        """Report the job's progress: ``share`` done (0 to 1), and the present step in words. Raises NodeError
        if the job must stop.
        """
        self._share, self._doing = share, what
        if self._stop is not None:
            raise self._stop

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager for running another job in between: this job's lease is renewed, its time limit is
        suspended.
        """
        began, self._paused = time.monotonic(), True
        try:
            yield
        finally:
            gone = time.monotonic() - began
            self._started += gone
            self._stop_decided_at += gone
            self._paused = False

    def _beat(self) -> None:
        """Renew the lease at intervals, and request a stop when a limit is reached; runs in a thread."""
        next_beat = time.monotonic() + self._interval
        while not self._ended.wait(min(self._interval, 0.1)):
            now = time.monotonic()
            if self._stop is None and not self._paused:
                if now - self._started > self._limit:
                    self._request_stop(TimeLimitReached(f"took longer than {self._limit:g} s"))
                elif self._stopping.is_set():
                    self._stopping_since = self._stopping_since or now
                    if now - self._stopping_since >= self._finish:
                        self._request_stop(HandedBack("the worker stops"))
            if now >= next_beat and not isinstance(self._stop, (LeaseLost, JobCancelled)):
                next_beat = now + self._interval
                try:
                    self._queue.heartbeat(self._job, self._share, self._doing)
                except (LeaseLost, JobCancelled) as stop:
                    self._request_stop(stop)
                except SQLAlchemyError as error:  # the lease outlasts several beats
                    self._queue.outage.note_error(error)
                except Exception as error:  # noqa: BLE001  (no memory, say: the next one may succeed)
                    _LOGGER.warning("job %s: no heartbeat: %s", self._job.id, type(error).__name__)
            idle = self._paused or self._ended.is_set()
            if self._stop is not None and not idle and now - self._stop_decided_at > self._grace:
                self._abandon(self._job, self._stop)

    def _request_stop(self, stop: NodeError) -> None:
        """Let the job stop at its next report of progress by raising ``stop``."""
        self._stop, self._stop_decided_at = stop, time.monotonic()
