"""Records which image a worker is working on, so that an image that kills workers is left out.

The same holds for an image that takes all memory of a worker. There is one small file per image in work, with
a line per worker. The line is removed when the worker has finished with the image, whatever the result; a
line that remains is a worker that the image killed. Losing the files only costs further tries.

One job: images → pipeline → results → one transaction that stores them and ends the job.
"""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ai_pipeline.contract import Pipeline, Progress, QualityNote, Refusal, Refuse
from ai_pipeline.errors import CardError, CleaningFailed, NoNumber, PixelError, ProgramFailed, ProgramStopped
from ai_pipeline.images.limits import lacks_memory
from dicom_node.base.config.loading import is_behind
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import (
    DecodedDifferently,
    HandedBack,
    JobCancelled,
    LeaseLost,
    NodeError,
    NoSuchPipeline,
    NotTakenOverYet,
    ResultRefused,
    StoreAway,
    TimeLimitReached,
    UnknownPeer,
    WorkerSpent,
)
from dicom_node.base.events import IMAGE_LEFT_OUT, RESULT_REFUSED, WORKER_SPENT
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Job
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.jobs import lease as owners
from dicom_node.jobs.queue import JobQueue
from dicom_node.jobs.worker.analyse import ImageAnalysis, JobImages, not_cleaned, open_images, record_cleaning
from dicom_node.jobs.worker.persist import JobPipeline, ResultWriter
from dicom_node.results.common.source import NOT_HERE, NOT_READ, Cause

KEEP_SECONDS = 86_400.0


@dataclass(slots=True)
class AtWork:
    """The record of the images that one worker works on.

    ``most``: how many workers an image may kill. ``memory_mib``: the memory limit of a worker in MiB.
    """

    folder: Path
    owner: str
    most: int
    memory_mib: int
    spent: bool = False
    """Set when memory ran out: what libraries keep of it is given back only by the process's end."""

    _image: Path | None = None
    last_try: bool = False
    """Set while a job runs for the last time: an image that fails now is left out at once."""

    @contextmanager
    def at(self, spool_name: str) -> Iterator[None]:
        """Record that this worker works on the image during this scope, in case the process ends there.

        Raises PixelError if the image has killed too many workers, WorkerSpent if the image used up the
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
            self._add(file, self._token())
            raise
        except Exception as error:
            self._remove(file)
            if not lacks_memory(error):
                raise
            self.spent = True
            self._add(file, self._token())
            if self.last_try or self._losses(file) >= self.most:
                raise PixelError(
                    f"the image takes more memory than workers.memory_mib = {self.memory_mib}"
                ) from error
            raise WorkerSpent("an image took all the memory of its worker") from error
        else:
            self._remove(file)
        finally:
            self._image = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A scope in which another job runs first: if the process ends there, this job's image is not
        blamed.
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

    def _token(self) -> str:
        """Stands for a worker that ran out of memory or time; it counts while the limit is the same."""
        return f"limit of {self.memory_mib} MiB"

    def _losses(self, file: Path) -> int:
        """Workers that died while their nodes lived on: a power cut is not the image's fault."""
        return sum(
            line == self._token() or (owners.is_dead(line) and not owners.is_dead_with_its_node(line))
            for line in _lines(file)
        )

    def _add(self, file: Path, line: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as lines:
            lines.write(f"{line}\n")

    def _remove(self, file: Path) -> None:
        rest = [line for line in _lines(file) if line != self.owner]
        if rest:
            file.write_text("".join(f"{line}\n" for line in rest), encoding="ascii")
        else:
            file.unlink(missing_ok=True)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []


_LOGGER = logging.getLogger(__name__)
_NO_IMAGE = "there is no image any more"
_AWAY_SECONDS, _LONGEST_AWAY_SECONDS = 2.0, 60.0  # wait for store or peer, longer each time
_MOST_NAMED = 50  # purged images, in a note
_ACCEPTED, _ANALYSED = 0.01, 0.95  # shares done


@dataclass(slots=True)
class _Attempt:
    """How far this attempt got: what the report says that the PACS gets when it fails."""

    job: Job
    pipeline: Pipeline | None = None
    images: JobImages = field(default_factory=JobImages)
    refused: tuple[Refusal, ...] = ()  # by the pipeline; counted when the job ends


class _Failed(Exception):
    """The job fails for good: a further attempt would find the same."""

    def __init__(self, reason: str, cause: Cause = Cause.UNKNOWN) -> None:
        super().__init__(reason)
        self.cause = cause


_FINAL = (_Failed, PixelError, NoNumber, CleaningFailed, DecodedDifferently, UnknownPeer, NoSuchPipeline)


class JobRunner:
    """Runs claimed jobs of this process.

    ``pipelines`` returns a pipeline by its name, loaded once.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        queue: JobQueue,
        pipelines: Callable[[str], Pipeline],
        at_work: AtWork,
    ) -> None:
        self._database = database
        self._settings = settings
        self._queue = queue
        self._pipelines = pipelines
        self._at_work = at_work
        self._analysis = ImageAnalysis(at_work)
        self._results = ResultWriter(database, settings, queue)

    def run(self, job: Job, report: Progress) -> None:
        """Finish a job, put it back, or lose it. Raises only database errors.

        ``report`` stops the job by raising JobCancelled, LeaseLost, HandedBack or TimeLimitReached. After a
        job that used up the memory (``AtWork.spent``) this process must end.
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
        job = attempt.job
        report(0.0, "reading")
        attempt.images = images = open_images(self._database, self._settings, job)
        attempt.pipeline = pipeline = self._pipelines(job.pipeline)
        # Raise UnknownPeer when a destination of the job was taken out of the configuration. Raises
        # NotTakenOverYet where it may have been entered just now: this machine will know it in a moment.
        for name in job.destinations:
            try:
                self._settings.peer(name)
            except UnknownPeer:
                if is_behind(self._settings):
                    raise NotTakenOverYet(f"this machine has yet to take over the peer {name}") from None
                raise
        if self._queue.gives_up(job):
            tries = min(job.tries - 1, self._settings.workers.attempts)
            raise _Failed(f"given up after {tries} tries: {job.reason or 'its worker was lost'}")
        if not images.readable:
            reasons = "; ".join(dict.fromkeys(images.faults.values()))
            raise _Failed(reasons, Cause.FORMAT) if reasons else _Failed(_NO_IMAGE, Cause.INCOMPLETE)
        # Ask the pipeline; images that do not decode are left out, so that one does not spoil the rest.
        verdict, faults = self._analysis.accepts(pipeline, images.readable, job.options)
        self._leave_out(attempt, faults)
        attempt.refused = verdict.refused
        if isinstance(verdict, Refuse):
            if left_out := attempt.images.faults:  # the pipeline did not see these: the PACS gets a report
                raise _Failed("; ".join(dict.fromkeys(left_out.values())), Cause.FORMAT)
            # Out of scope: listed in the node; reported to the PACS only where the rule asks for it.
            rule = self._settings.rule(job.rule)
            if rule is not None and rule.tell_pacs_refusals:
                self._report_failure(attempt, JobState.NOT_APPLICABLE, verdict.reason, Cause.OBJECT_TYPE)
            else:
                self._results.end(job, JobState.NOT_APPLICABLE, verdict.reason, attempt.refused)
            return
        attempt.images = attempt.images.only(verdict.source_uids)

        def progress(share: float, what: str) -> None:
            report(_ACCEPTED + share * (_ANALYSED - _ACCEPTED), what)

        report(_ACCEPTED, "analysing")
        result, faults = self._analysis.run(pipeline, attempt.images.readable, job.options, progress)
        self._leave_out(attempt, faults)
        result = replace(result, quality=(*result.quality, *_missing(attempt.images)))
        report(_ANALYSED, "building results")
        self._results.write(job, pipeline, attempt.images, result, attempt.refused)

    def _leave_out(self, attempt: _Attempt, faults: Mapping[str, str]) -> None:
        """These images cannot be analysed; the others of the study are."""
        if not faults:
            return
        attempt.images = attempt.images.without(faults)
        with self._database.write() as session:
            for uid, reason in faults.items():
                named = {"job": attempt.job.id, "instance": uid, "reason": reason}
                record(session, IMAGE_LEFT_OUT, attempt.job.study_id, **named)

    def _fail(self, attempt: _Attempt, reason: str, cause: Cause) -> None:
        """Fail for good: the PACS gets a report that says so, unless the job had a result before."""
        if attempt.job.analysed_at is None:
            self._report_failure(attempt, JobState.FAILED, reason, cause)
        else:
            self._results.end(attempt.job, JobState.FAILED, reason)

    def _report_failure(self, attempt: _Attempt, state: JobState, reason: str, cause: Cause) -> None:
        """Write the report that the AI did not run. What memory an image has left may not do for it: then
        another process writes it."""
        job, refused = attempt.job, attempt.refused if state is JobState.NOT_APPLICABLE else ()
        known, again = attempt.images.all or attempt.images.unopened, self._queue.may_be_tried_again(job)
        if known and not (self._at_work.spent and again):  # not known: nothing says whose study it is
            loaded = attempt.pipeline
            by = JobPipeline.from_pipeline(loaded) if loaded else JobPipeline(job.pipeline)
            try:
                self._results.write_failure(job, by, known, state, reason, cause, refused)
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


def _missing(images: JobImages) -> Iterator[QualityNote]:
    """What of the study is not in this result."""
    if images.faults:
        reasons = "; ".join(dict.fromkeys(images.faults.values()))
        yield QualityNote("not_analysed", f"{len(images.faults)} of the images not analysed: {reasons}")
    if images.unread:
        number = f"{images.unread} object" + "s" * (images.unread > 1)
        yield QualityNote(
            NOT_READ, f"{number} that came with these images cannot be read: the study may be incomplete"
        )
    if images.purged:
        named = ", ".join(images.purged[:_MOST_NAMED])
        if len(images.purged) > _MOST_NAMED:
            named += f" and {len(images.purged) - _MOST_NAMED} more"
        yield QualityNote(
            NOT_HERE, f"image {named} of this study; what an earlier report says of it is not replaced."
        )


def _sentence(error: BaseException) -> str:
    """The reason as a sentence. Only errors of our own are quoted: others may hold header values."""
    if isinstance(error, DecodedDifferently):
        return f"a text of the object cannot be decoded ({error})"
    if isinstance(error, (NodeError, PixelError, NoNumber, CleaningFailed, ProgramFailed, _Failed)):
        return str(error)
    if lacks_memory(error):
        return "the analysis takes more memory than workers.memory_mib allows"
    return f"{type(error).__name__} in the pipeline"


def _cause(error: BaseException) -> Cause:
    """The kind of a failure, as the report codes it."""
    if isinstance(error, _Failed):
        return error.cause
    if lacks_memory(error):
        return Cause.RESOURCES
    return next((cause for kinds, cause in _CAUSES if isinstance(error, kinds)), Cause.UNKNOWN)


_CAUSES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Cause], ...] = (
    ((PixelError, DecodedDifferently), Cause.FORMAT),
    (CleaningFailed, Cause.QUALITY),
    ((TimeLimitReached, ProgramStopped), Cause.RESOURCES),
    ((CardError, NoNumber, UnknownPeer, NoSuchPipeline), Cause.EQUIPMENT),
)


def _where(error: BaseException) -> str:
    """Type and place of an error, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"
