"""The jobs of a study: which rule takes which image, whose turn it is, what a person does to a job.

Engines of the queue are the lease table (SQLite) and procrastinate (PostgreSQL). Delivery is at least once: a
worker that dies loses its job and another takes the job over. So a job's effects are idempotent (derived
UIDs), and only the newest attempt at a job can end it. By the names of lease owners, processes of one machine
see whether an owner still runs: a killed worker's job is taken over at once, on other machines when its lease
ends.

Short jobs overtake long ones, and none waits for ever. A job's turn is its arrival plus ten times its
estimated work, at most an hour; the earliest turn is first. So a chest film (a few seconds) overtakes a cine
loop (minutes) that came before it, and not one that has waited longer than its turn. Urgent jobs (STAT, or
put first by a person) go before all turns. A job that runs is not interrupted, but lets shorter ones pass
between its steps: a film waits for a few readings of a cine, not for all of it.

What rules forward is decided with the jobs, when the study is complete: then it has one patient and no
conflict, and the rules have all of its images. Objects are queued unchanged, each version once for each peer.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.images.dates import date_of
from ai_pipeline.terms import shown_term
from dicom_node.base import events
from dicom_node.base.config.rule import Conditions, RuleSettings, matches
from dicom_node.base.config.settings import Settings, WorkerSettings
from dicom_node.base.errors import JobCancelled, LeaseLost, NotAllowedNow, NotFound
from dicom_node.base.lifecycle import JOB, JobState, ObjectRole, StudyState
from dicom_node.base.store import deliveries, fetches, intake, queue
from dicom_node.base.store.database import Database
from dicom_node.base.store.mapping import LONGEST_WAIT, has_ended
from dicom_node.base.store.tables import Instance, Job, Original, Study
from dicom_node.base.store.transitions import (
    FOR_UPDATE,
    database_time,
    move,
    record,
    settle_study,
    settle_study_as,
    try_move,
    update_queue_place,
    utc_now,
)
from dicom_node.jobs.owners import is_alive, is_dead, is_dead_with_its_node, is_of

# A rule's condition → the keyword of the image's attribute; the others are columns of Instance.
_KEYWORDS = {
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
    "station": "StationName",
    "study_description": "StudyDescription",
    "series_description": "SeriesDescription",
}
FIRST_STUDIES = 20
"""So many studies of a new node are analysed whatever their age: they are tests, and test images are old. A
migration goes far beyond them."""
Senders = Mapping[str, str]
"""The names of peers by AE title."""
_CODED = {
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
}


@dataclass(frozen=True, slots=True)
class RuleDecision:
    """A rule that takes images of a study. ``held_reason``: the rule's limit that stops the job, as a
    sentence; "" for none.
    """

    rule: RuleSettings
    source_uids: tuple[str, ...]
    held_reason: str = ""


def decide(
    rules: Sequence[RuleSettings],
    study_date: str,
    images: Sequence[Instance],
    today: date,
    senders: Senders,
    *,
    requested: bool = False,
) -> list[RuleDecision]:
    """Return every rule that takes at least one image, with its images in the order of the examination.

    ``senders``: names of the senders by AE title. ``requested``: the study was fetched on request, so its age
    does not stop the job.
    """
    ordered = sorted(images, key=_order)
    taken = [
        (rule, [image for image in ordered if not any(_mismatches(rule, image, senders))]) for rule in rules
    ]
    return [
        RuleDecision(
            rule,
            tuple(image.sop_instance_uid for image in its),
            "" if requested else _exceeded_limit(rule, study_date, today, its),
        )
        for rule, its in taken
        if its
    ]


def explain(
    rules: Sequence[RuleSettings], image: Instance, senders: Senders
) -> list[tuple[RuleSettings, str]]:
    """Return each rule with the first of its conditions that the image fails, as a sentence; "" if the rule
    takes the image.
    """
    return [(rule, next(_mismatches(rule, image, senders), "")) for rule in rules]


def why_none(rules: Sequence[RuleSettings], images: Sequence[Instance], senders: Senders) -> str:
    """Return why no rule takes any of these images: the failed conditions of the rule that came closest.

    Closest is the rule with the fewest failed conditions on an image; among equals, the first in the
    configuration. Header values are quoted only if they are no free text.
    """
    tried = [
        (rule.name, list(_mismatches(rule, image, senders)))
        for rule in rules
        for image in sorted(images, key=_order)
    ]
    if not tried:
        return "no rule applies: " + ("the study has no images" if rules else "none is configured")
    name, failed = min(tried, key=lambda attempt: len(attempt[1]))
    return f"no rule applies; closest is {name}: {' and '.join(failed)}"


def _mismatches(rule: RuleSettings, image: Instance, senders: Senders) -> Iterator[str]:
    """Yield one sentence for each condition of the rule that the image fails."""
    from dicom_node.base.dicom.uids import (  # with pydicom, which `jobs retry` does without
        SECONDARY_CAPTURES,
        is_image,
    )

    if image.role is ObjectRole.OWN:
        yield "it is a result of this node"
    elif image.sop_class_uid in SECONDARY_CAPTURES:
        if senders.get(image.calling_ae, "") not in rule.secondary_captures_from:
            yield "it is a secondary capture, and secondary_captures_from does not name its sender"
    elif rule.runs_program and not is_image(image.sop_class_uid):
        if image.modality not in rule.when.modality:
            yield "it is no image, and modality does not name what it is"
    elif image.role is not ObjectRole.SOURCE or not is_image(image.sop_class_uid):
        yield "its SOP class is no ultrasound or X-ray image"
    for name in Conditions.model_fields:
        patterns: Sequence[str] = getattr(rule.when, name)
        keyword = _KEYWORDS.get(name)
        value = image.attributes.get(keyword, "") if keyword else str(getattr(image, name))
        values = [part.strip() for part in value.split("\\")]
        if patterns and not any(matches(pattern, value) for pattern in patterns for value in values):
            yield _sentence(name, patterns, values)


def _sentence(condition: str, patterns: Sequence[str], values: Sequence[str]) -> str:
    """Return the sentence on a condition of which no value matches a pattern."""
    name = condition.replace("_", " ")
    wanted = " or ".join(patterns)
    if not any(values):
        return f"{name} is empty, not {wanted}"
    if keyword := _CODED.get(condition):
        return f"{name} {'/'.join(shown_term(keyword, value) for value in values)} does not match {wanted}"
    shown = f" {'/'.join(values)}" if condition.endswith("_ae") else ""
    return f"{name}{shown} does not match {wanted}"


def present_day(images: Iterable[Instance]) -> date:
    """Return the day to which the age of a study with these images is counted: Study Date is local.

    The day of this machine, or of the images' Timezone Offset From UTC (0008,0201) where that is earlier.
    """
    now = utc_now().astimezone()
    days = [now.date()]
    for offset in {image.attributes.get("TimezoneOffsetFromUTC", "") for image in images}:
        with suppress(ValueError, OverflowError):
            days.append(now.astimezone(datetime.strptime(offset, "%z").tzinfo).date())
    return min(days)


def _exceeded_limit(rule: RuleSettings, study_date: str, today: date, images: Sequence[Instance]) -> str:
    """Return the age limit of a rule that stops the job, as a sentence; "" if none does."""
    most, taken = rule.max_study_age_days, date_of(study_date)
    if most and taken and (age := (today - taken).days) > most:
        return f"the study is {age} days old, rule {rule.name} takes {most:g}"
    # Without any date nothing says that it is old; zeros stand for none.
    if most and not taken and any(image.attributes.get("StudyDate", "").strip("0") for image in images):
        return f"the date of the study names no day, rule {rule.name} takes studies of {most:g} days"
    return ""


def _order(image: Instance) -> tuple[int, int, str]:
    """Return the sort key for the order of the examination: series number, instance number, UID."""
    from ai_pipeline.images.numbers import whole  # with pydicom, which `jobs retry` does without

    return (
        whole(image.attributes.get("SeriesNumber", "")) or 0,
        whole(image.attributes.get("InstanceNumber", "")) or 0,
        image.sop_instance_uid,
    )


_LOSSES = 20  # times workers.attempts: so often a job may be lost for another reason before it is counted
_SLOW = 10  # times workers.lease_seconds: as long a worker that runs on this machine may be silent
_ENDS = {
    JobState.SUCCEEDED: events.JOB_SUCCEEDED,
    JobState.NOT_APPLICABLE: events.JOB_NOT_APPLICABLE,
    JobState.FAILED: events.JOB_FAILED,
    JobState.CANCELLED: events.JOB_CANCELLED,
}


def record_of_job(session: Session, job: Job, event: events.EventType, **fields: Any) -> None:
    """Record an event of a job, which names its study too."""
    record(session, event, job.study_id, job=job.id, **fields)


def enqueue(session: Session, job: Job) -> None:
    """Add a job, compute when it should run (``turn_at``), and record the event; workers see it when the
    caller's transaction commits.
    """
    job.turn_at = job.run_at + min(
        timedelta(seconds=OVERTAKING * (job.cost_seconds or 0.0)), LONGEST_OVERTAKEN
    )
    if (job.priority or 0) < 0:  # 1 STAT, 0 routine, -1 low
        job.turn_at += LOW
    session.add(job)
    session.flush()
    record_of_job(
        session,
        job,
        events.JOB_HELD if job.state is JobState.HELD else events.JOB_QUEUED,
        rule=job.rule,
        pipeline=job.pipeline,
        images=len(job.source_uids),
        reason=job.reason,
    )
    update_queue_place(session, job)


class JobQueue:
    """Gives jobs to workers and ends them. State, attempt and progress of a job are columns of its row.

    Methods with a ``session`` run in the caller's transaction, the others in one of their own.
    """

    def __init__(self, database: Database, workers: WorkerSettings) -> None:
        """Choose the engine: tickets of procrastinate with PostgreSQL, columns of the job's row with
        SQLite.
        """
        self._database = database
        self.outage = database.outage
        """For who tries again."""
        self._workers = workers
        self._lease = timedelta(seconds=workers.lease_seconds)
        self._next_free: Callable[..., Job | None] = (
            queue.next_free
        )  # the built-in engine: a turn is a column of the job
        self._repair: Callable[[Database], object] | None = None
        if not database.is_sqlite:
            from dicom_node.base.store import tickets  # only there procrastinate is installed

            self._next_free, self._repair = tickets.next_free, tickets.repair

    def claim(self, owner: str, passing: Job | None = None) -> Job | None:
        """Take the next job for ``owner``, STAT before others; None if no job waits.

        ``passing``: a job that this owner is running; only a more urgent or a much shorter job may then be
        taken. The returned row is as claimed; its owner and attempt number ensure that only the newest
        attempt can end the job.
        """
        now = utc_now()
        with self._database.read() as session:  # no writing transaction while there is nothing to do
            is_free, is_running = queue.claimable_and_running(session, now, self._workers)
            is_lost = is_running and bool(self._lost(session))
        if is_lost:
            self.reap()
        elif not is_free:
            return None
        with self._database.write() as session:
            short = None if passing is None else (passing.priority, PASSES * passing.cost_seconds)
            job = self._next_free(session, now, self._workers, short)
            if job is None:
                return None
            taken = try_move(
                session,
                job,
                events.JOB_STARTED,
                attempts=job.attempts + 1,
                tries=job.tries + 1,
                lease_owner=owner,
                lease_until=database_time(session) + self._lease,
                started_at=now,
            )
            if not taken:
                return None
            settle_study(session, job.study_id)
            return job

    def heartbeat(self, job: Job, share: float, doing: str) -> None:
        """Renew the lease of a running job, and store its progress: the finished part (0 to 1) and the
        present step in words.

        Raises LeaseLost, or JobCancelled if a person has cancelled the job.
        """
        with self._database.write() as session:
            cancelled = queue.renew_lease(
                session,
                job.id,
                job.lease_owner,
                job.attempts,
                until=database_time(session) + self._lease,
                share=share,
                doing=doing,
            )
        if cancelled is None:
            raise _lost(job)
        if cancelled:
            raise _stopped(job)

    def complete_if_owner(self, session: Session, job: Job, state: JobState, reason: str = "") -> Job:
        """End the job for good in ``state``; return its row. Raises LeaseLost, or JobCancelled if it was
        cancelled and ``state`` is another one.
        """
        row = self._leased(session, job)
        if row.cancel_requested and state is not JobState.CANCELLED:
            raise _stopped(job)
        # What a person or a newer revision gave as reason for the cancellation stays.
        reason = row.reason if state is JobState.CANCELLED and row.cancel_requested else reason
        values = {"reason": reason, "finished_at": utc_now(), "lease_until": None, "cancel_requested": False}
        if state is JobState.SUCCEEDED:
            values["share_done"] = 1.0
        if not try_move(session, row, _ENDS[state], **values):
            raise _lost(job)
        return row

    def retry_at(self, job: Job, when: datetime, reason: str) -> None:
        """Put a running job back into the queue, to be tried again at ``when``. Raises LeaseLost."""
        self._put_back(job, events.JOB_RETRIED, run_at=when, reason=reason)

    def hand_back(self, job: Job, seconds: float = 0.0, reason: str = "") -> None:
        """Put a running job back into the queue for other workers, after ``seconds``; this try does not
        count. Raises LeaseLost.
        """
        self._put_back(
            job,
            events.JOB_HANDED_BACK,
            run_at=utc_now() + timedelta(seconds=seconds),
            reason=reason,
            tries=job.tries - 1,
        )

    def give_back_jobs_of(self, pid: int) -> None:
        """Hand back the running jobs of the worker with this process id on this machine."""
        self._give_back(lambda owner: is_of(owner, pid), "its worker showed no life and was ended")

    def give_back_unheard(self, worker: str) -> None:
        """Hand back the running jobs of the owner ``worker``, which runs none: the database stored its claim,
        and the answer was lost.
        """
        self._give_back(worker.__eq__, "the answer to its claim was lost")

    def _give_back(self, is_its: Callable[[str], bool], reason: str) -> None:
        """Hand back the running jobs whose owner ``is_its``."""
        with self._database.read() as session:
            its = [job for job in queue.running(session) if is_its(job.lease_owner)]
            session.expunge_all()
        for job in its:
            with suppress(LeaseLost):
                self.hand_back(job, reason=reason)

    def end(self, job: Job, state: JobState, reason: str = "") -> None:
        """End the job in ``state``, with ``reason`` in words and without results. Raises LeaseLost,
        JobCancelled.
        """
        with self._database.write() as session:
            self.complete_if_owner(session, job, state, reason)
            settle_study(session, job.study_id)

    def reap(self) -> int:
        """Put back the jobs of workers that have ended, so that others can claim them; return their
        number.
        """
        if self._repair is not None:
            self._repair(self._database)
        with self._database.read() as session:
            if not self._lost(session):
                return 0
        with self._database.write() as session:
            return self._take_back(session)

    def clock_put_back(self) -> None:
        """Make waiting jobs due now, because the clock was put back."""
        with self._database.read() as session:
            waiting = queue.waiting_until(session, utc_now())
        for number in waiting:
            with self._database.write() as session:
                job = queue.locked_job(session, number)
                if job and job.state is JobState.QUEUED:
                    job.run_at = utc_now()
                    session.flush()
                    update_queue_place(session, job)

    def retry_delay(self, tries: int) -> timedelta:
        """Return the wait after the ``tries``-th try; it doubles with each."""
        return min(timedelta(seconds=self._workers.retry_seconds * 2.0 ** min(tries - 1, 20)), LONGEST_WAIT)

    def is_last_try(self, job: Job) -> bool:
        """Return whether this is the last try, so that a failure ends the job."""
        return job.tries >= self._workers.attempts

    def gives_up(self, job: Job) -> bool:
        """Return whether all tries were used and the last was lost with its worker, so that this one only
        reports the failure.

        The report is tried as often as the job was.
        """
        return job.tries > self._workers.attempts

    def may_be_tried_again(self, job: Job) -> bool:
        """Return whether a further try is allowed, even if only to report the failure."""
        return job.tries < 2 * self._workers.attempts

    def _put_back(self, job: Job, event: events.EventType, **values: Any) -> None:
        """Put a running job back into the queue, or cancel it if that was requested or the study has changed.
        Raises LeaseLost.
        """
        with self._database.write() as session:
            row = self._leased(session, job)
            if row.cancel_requested:
                self.complete_if_owner(session, job, JobState.CANCELLED)
            elif row.study.revision > row.study_revision:  # as what waited when the study changed
                reason = f"replaced by revision {row.study.revision} of the study"
                self.complete_if_owner(session, job, JobState.CANCELLED, reason)
            elif not try_move(session, row, event, lease_until=None, **values):
                raise _lost(job)
            settle_study(session, job.study_id)

    def _leased(self, session: Session, job: Job) -> Job:
        """Return the job, locked, if this attempt still has its lease. Raises LeaseLost."""
        row = queue.leased_job(session, job.id, job.lease_owner, job.attempts)
        if row is None:
            raise _lost(job)
        return row

    def _lost(self, session: Session, *, lock: bool = False) -> list[Job]:
        """Return the running jobs whose worker gives no sign of life, or has ended on this machine. ``lock``:
        lock them.
        """
        now = database_time(session)
        return [job for job in queue.running(session, lock=lock) if self._is_lost(job, now)]

    def _is_lost(self, job: Job, now: datetime) -> bool:
        """Return whether the worker of a running job has ended, or shows no life at the time ``now``."""
        is_over = has_ended(job.lease_until, now)
        if is_over and job.lease_until and is_alive(job.lease_owner):  # slow, maybe: its node ends what hangs
            is_over = abs(now - job.lease_until) > (_SLOW - 1) * self._lease
        return is_over or is_dead(job.lease_owner)

    def _take_back(self, session: Session) -> int:
        """Put back or end the jobs of lost workers, in the caller's transaction; return their number."""
        lost, now = self._lost(session, lock=True), utc_now()
        for job in lost:
            if job.cancel_requested:
                move(session, job, events.JOB_CANCELLED, finished_at=now, lease_until=None)
            elif job.tries >= 2 * self._workers.attempts:  # failure reports count as tries too
                move(
                    session,
                    job,
                    events.JOB_FAILED,
                    reason=f"{job.tries} workers were lost with this job",
                    finished_at=now,
                )
            else:
                # A try counts where the worker alone ended. That its whole node ended, or is too slow or too
                # far from the database to renew a lease, is not the job's fault. Within limits: a job may
                # also be what brings the node down.
                ended_alone = is_dead(job.lease_owner) and not is_dead_with_its_node(job.lease_owner)
                is_free = not ended_alone and job.attempts < _LOSSES * self._workers.attempts
                move(
                    session,
                    job,
                    events.JOB_TAKEN_OVER,
                    reason="its worker was lost",
                    lease_until=None,
                    tries=job.tries - is_free,
                )
            settle_study(session, job.study_id)
        return len(lost)


def _lost(job: Job) -> LeaseLost:
    """Build the error for a job that another worker has taken over."""
    return LeaseLost(f"job {job.id} is another worker's now")


def _stopped(job: Job) -> JobCancelled:
    """Build the error for a job that was cancelled while it ran."""
    return JobCancelled(f"job {job.id} is to be stopped")


OVERTAKING = 10.0
"""Seconds by which each second of estimated work puts a job's turn later."""
LONGEST_OVERTAKEN = timedelta(hours=1)
"""Later than its arrival no job's turn is put by its work: then it goes before whatever came after it."""
LOW = timedelta(hours=1)
"""Added to the turn of a job of low priority."""
PASSES = 0.5
"""A running job lets others pass whose estimated work is at most this share of its own."""
SECONDS_PER_IMAGE, SECONDS_PER_FRAME, SECONDS_PER_MEGAPIXEL = 1.0, 0.5, 0.5
"""A chest film of 6 megapixels: 4 s; a cine of 67 frames of 1024 × 768: 1 min, of 300: 4.5 (docs/reference/
measurements.md). Each further frame of a cine counts: its text is looked for in each."""


def estimated_seconds(images: Iterable[Mapping[str, Any]]) -> float:
    """Return the estimated seconds of work in images with these attributes (Rows, Columns, NumberOfFrames as
    text).

    Each frame costs a fixed time, and time by its pixels.
    """
    from ai_pipeline.images.numbers import whole  # with pydicom, which `jobs retry` does without

    size = ("Rows", "Columns", "NumberOfFrames")
    sizes = ([whole(image.get(word), least=1, most=999_999) or 1 for word in size] for image in images)
    return sum(
        SECONDS_PER_IMAGE
        + SECONDS_PER_FRAME * (frames - 1)
        + SECONDS_PER_MEGAPIXEL * rows * columns * frames / 1e6
        for rows, columns, frames in sizes
    )


_RULE_PRIORITY = {"stat": 1, "routine": 0, "low": -1}


def enqueue_study(session: Session, study: Study, settings: Settings) -> list[RuleDecision]:
    """Create the jobs of a complete study, and set its state to queued, or to not_applicable with the reason.

    Returns the rules that took the study.
    """
    sources = intake.sources(session, study.id)
    decisions = decide_study(session, study, sources, settings)
    if not decisions:
        images = sources or intake.instances_of(session, study.id, [ObjectRole.NON_SOURCE])
        reason = why_none(settings.rules, images, settings.sender_names)
        record(session, events.NO_RULE, study.id, study=study.study_instance_uid, reason=reason)
        settle_study_as(session, study, StudyState.NOT_APPLICABLE, reason)
        return []
    for decision in decisions:
        _enqueue_decision(session, study, decision, sources, settings)
    forwards = forward_originals(session, study, decisions, sources, settings)
    if all(decision.held_reason for decision in decisions):
        reason = "held: " + "; ".join(decision.held_reason for decision in decisions)
        settle_study_as(
            session, study, StudyState.DELIVERING if forwards else StudyState.NOT_APPLICABLE, reason
        )
    else:
        settle_study_as(session, study, StudyState.QUEUED)
    return decisions


def start_rule(
    session: Session, study: Study, rule: RuleSettings, sources: Sequence[Instance], settings: Settings
) -> bool:
    """Create the job of one rule for a complete study with these images, whatever the study's age; return
    whether the rule takes any of them.
    """
    today, names = present_day(sources), settings.sender_names
    decisions = decide([rule], study.study_date, sources, today, names, requested=True)
    for decision in decisions:
        _enqueue_decision(session, study, decision, sources, settings)
    settle_study(session, study.id)
    return bool(decisions)


def _enqueue_decision(
    session: Session, study: Study, decision: RuleDecision, sources: Sequence[Instance], settings: Settings
) -> None:
    """Create the job of a rule that takes images of a complete study."""
    attributes, now = {source.sop_instance_uid: source.attributes for source in sources}, utc_now()
    later, rule = now + timedelta(seconds=settings.assembly.archive_seconds), decision.rule
    waits = rule.priors is not None and fetches.wait_for_priors(session, study, rule.name, later)
    # STAT when the sender (C-STORE priority HIGH) or the rule says so, else low when either does.
    wanted = (study.priority, _RULE_PRIORITY[rule.priority])
    enqueue(
        session,
        Job(
            study_id=study.id,
            study_revision=study.revision,
            rule=rule.name,
            pipeline=rule.pipeline,
            options=dict(rule.options),
            destinations=[] if intake.is_trial(session, study.id) else list(rule.send_to),
            source_uids=list(decision.source_uids),
            priority=1 if 1 in wanted else min(wanted),
            assess_first=rule.assess_first,
            cost_seconds=estimated_seconds(attributes[uid] for uid in decision.source_uids),
            state=JobState.HELD if decision.held_reason else JobState.QUEUED,
            reason=decision.held_reason,
            run_at=later if waits else now,
            created_at=now,
        ),
    )


def decide_study(
    session: Session, study: Study, sources: Sequence[Instance], settings: Settings
) -> list[RuleDecision]:
    """Return the decisions of all rules on a study with these images.

    If the study was fetched for one rule, only that rule decides.
    """
    fetch = fetches.of_study(session, study.study_instance_uid)
    rules = [rule for rule in settings.rules if not (fetch and fetch.rule) or rule.name == fetch.rule]
    return decide(
        rules,
        study.study_date,
        sources,
        present_day(sources),
        settings.sender_names,
        requested=fetch is not None or study.id <= FIRST_STUDIES,
    )


def forward_originals(
    session: Session,
    study: Study,
    decisions: Sequence[RuleDecision],
    sources: Sequence[Instance],
    settings: Settings,
) -> bool:
    """Queue the images that these rules take for the peers in ``forward``; return whether any delivery is
    new.

    Reports, presentation states and captures from the senders of the images are queued with them, even if a
    limit of the rule stops its job. Nothing of a study whose results stay here is queued.
    """
    wanted = [decision for decision in decisions if decision.rule.forward]
    if not wanted or intake.stays_here(session, study.id):
        return False
    by_uid = {source.sop_instance_uid: source for source in sources}
    others = intake.instances_of(session, study.id, [ObjectRole.NON_SOURCE])
    added: Counter[tuple[str, str]] = Counter()
    for decision in wanted:
        images = [by_uid[uid] for uid in decision.source_uids]
        senders = {image.calling_ae for image in images}
        beside = [one for one in others if one.calling_ae in senders and not one.purged]
        for name in decision.rule.forward:
            for instance in (*images, *beside):
                added[decision.rule.name, name] += _queue_original(session, instance, name, settings)
    for (rule, name), number in added.items():
        if number:
            record(session, events.ORIGINALS_FORWARDED, study.id, rule=rule, destination=name, objects=number)
    return added.total() > 0


def forward_late(session: Session, study: Study, instance: Instance, settings: Settings) -> None:
    """Queue an object that is no image and arrived after the study was complete for the peers that get the
    study's images.

    Such an object does not reopen its study, so no rule will be applied to it.
    """
    for name in intake.forwarded_to(session, study.id, instance.calling_ae):
        if _queue_original(session, instance, name, settings):
            record(session, events.ORIGINALS_FORWARDED, study.id, destination=name, objects=1)
            settle_study(session, study.id)


def _queue_original(session: Session, instance: Instance, name: str, settings: Settings) -> bool:
    """Queue a received object for the peer ``name``; return False if nothing changes, or the peer may not get
    it or sent it itself.
    """
    peer = next((one for one in settings.peers if one.name == name), None)
    # It would come back to where it is.
    sent_it = peer and instance.calling_ae.strip().casefold() in {one.casefold() for one in peer.titles}
    if peer is None or "receive" not in peer.may or peer.deidentify or sent_it:
        return False
    return deliveries.forward(session, _original_in_force(session, instance), name)


def _original_in_force(session: Session, instance: Instance) -> Original:
    """Return the outbox's row for the current version of an object, created if needed; the same bytes
    received again have the same row.
    """
    received = intake.file_of(session, instance)
    versions = select(Original).where(Original.sop_instance_uid == instance.sop_instance_uid)
    newest = session.scalar(versions.order_by(Original.id.desc()).limit(1))
    if newest is not None and newest.study_id == instance.study_id:
        if newest.received_id == received.id:
            return newest
        if received.dataset_sha256 and newest.received.dataset_sha256 == received.dataset_sha256:
            newest.received = received
            return newest
    original = Original(
        study_id=instance.study_id,
        received_id=received.id,
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        series_instance_uid=instance.series_instance_uid,
    )
    session.add(original)
    session.flush()
    return original


def retry(session: Session, job_id: int) -> None:
    """Queue again a job that failed, was stopped by a limit or cancelled, or did not apply. Raises NotFound,
    NotAllowedNow.
    """
    job = _locked(session, job_id)
    if (job.state, events.JOB_QUEUED) not in JOB:
        raise NotAllowedNow(f"job {job_id} is {job.state}: it cannot be queued again")
    study = session.get_one(Study, job.study_id, with_for_update=FOR_UPDATE)
    if job.study_revision != study.revision or study.state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        raise NotAllowedNow(
            f"job {job_id} is of revision {job.study_revision}; its study is {study.state}, "
            f"revision {study.revision}"
        )
    move(
        session,
        job,
        events.JOB_QUEUED,
        reason="",
        run_at=utc_now(),
        tries=0,
        share_done=0.0,
        doing="",
        cancel_requested=False,
        finished_at=None,
        lease_until=None,
    )
    settle_study(session, job.study_id)


def cancel(session: Session, job_id: int) -> None:
    """Cancel a waiting job, or ask a running job to stop. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    reason = "cancelled by a person"
    if job.state is JobState.RUNNING:
        job.cancel_requested, job.reason = True, reason
        session.flush()
        return
    if job.state not in (JobState.QUEUED, JobState.HELD):
        raise NotAllowedNow(f"job {job_id} is {job.state}: only one that waits or runs can be cancelled")
    move(session, job, events.JOB_CANCELLED, reason=reason, finished_at=utc_now())
    settle_study(session, job.study_id)


def put_first(session: Session, job_id: int) -> None:
    """Move a waiting job to the front of the queue. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    if job.state is not JobState.QUEUED:
        raise NotAllowedNow(f"job {job_id} is {job.state}: only one that is queued can be put first")
    now = utc_now()
    job.priority, job.turn_at, job.run_at = 1, datetime.min.replace(tzinfo=now.tzinfo), min(job.run_at, now)
    session.flush()
    update_queue_place(session, job)
    record_of_job(session, job, events.JOB_FIRST, rule=job.rule)


def _locked(session: Session, job_id: int) -> Job:
    """Return the job with this id, locked after its study. Raises NotFound."""
    job = queue.locked_job(session, job_id)
    if job is None:
        raise NotFound(f"no job has the number {job_id}")
    return job
