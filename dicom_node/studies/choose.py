"""Completion of studies, a person's choices for those in quarantine, and the rules applied again.

A study is complete when no open association brings it objects and its quiet time has passed; also when its
performed procedure steps have ended and all objects that they refer to are here, if its peer reports steps.

Each choice, between patients or between versions of one image, is a question with numbered options. Nothing
received is deleted: versions that are not chosen stay in the spool, set aside, and are not analysed.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient, are_one_patient
from dicom_node.base.errors import NotAllowedNow, NotInSpool
from dicom_node.base.events import (
    STEPS_FULFILLED,
    STEPS_NOT_AWAITED,
    STUDY_COMPLETE,
    STUDY_MAY_BE_INCOMPLETE,
    STUDY_RERUN,
    VERSION_CHOSEN,
)
from dicom_node.base.files import Files, all_uploaded, bucket_of
from dicom_node.base.lifecycle import JobState, ObjectRole, Outcome, StepStatus, StudyState
from dicom_node.base.store import fetches, intake, queue, requested
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Instance, ReceivedObject, Study
from dicom_node.base.store.transitions import FOR_UPDATE, move_study, record, steady_now
from dicom_node.base.store.views import as_json
from dicom_node.jobs.queue import RuleDecision, decide_study, enqueue_study
from dicom_node.receive.inspection import Inspected, Inspector, ReaderLost
from dicom_node.receive.spool import Arrival, Spool
from dicom_node.studies.indexing import (
    OTHER_PATIENT,
    TWO_PATIENTS,
    Arrived,
    Indexing,
    is_of_another_patient,
    note_other_patient,
    quarantine_study,
    release_study,
    stop_study,
)

# An open association that brought a study nothing for so long no longer keeps it open: if the journal loses
# the line with the association's end, the study is completed all the same.
_SILENCE = timedelta(hours=1)


class Assembler:
    """Decides when studies are complete, because nothing arrived for a while, and creates their jobs by the
    rules.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        """Prepare the rules and the quiet times of these settings."""
        self._database, self._settings = database, settings
        # Where there is an object store, workers of other machines find all of the study in it.
        self._also = [all_uploaded()] if bucket_of(settings) else []
        self._fetches = any("query" in peer.may for peer in settings.peers)
        self._mpps = [peer.name for peer in settings.peers if peer.mpps]
        self._at_once = requested.complete_by_steps(self._mpps) if self._mpps else None
        of_site = settings.assembly.quiet_seconds, settings.assembly.quiet_seconds_us
        self._longest = timedelta(
            seconds=max(*of_site, *(peer.quiet_seconds or 0 for peer in settings.peers))
        )

    def run_once(self, now: datetime | None = None, behind: Collection[str] = ()) -> int:
        """Complete every due study, creating its jobs, in one transaction each; return how many.

        ``now``: UTC by :func:`steady_now`; None for the present. ``behind``: marks of senders with objects
        that are not indexed yet, whose studies may still get objects.
        """
        now = now or steady_now()
        also = [*self._also, *([intake.came_from_none_of(behind)] if behind else [])]
        if self._fetches:  # what is half fetched would be analysed twice
            also.append(fetches.is_not_under_way(now - _SILENCE))
        if self._mpps:
            silent_since = now - timedelta(minutes=self._settings.assembly.mpps_minutes)
            also.append(~requested.waits_for_steps(self._mpps, silent_since))
        # A later end of a quiet time was written by a clock that has been set back since.
        latest = now + 2 * self._longest
        late = (Study.state == StudyState.RECEIVING) & (Study.due_at > latest)
        with self._database.read() as session:
            is_late = session.scalar(select(exists().where(late)))
        if is_late:
            with self._database.write() as session:
                session.execute(update(Study).where(late).values(due_at=latest))
        done = 0
        while self._complete_next(now, also):
            done += 1
        return done

    def seconds_to_next(self) -> float:
        """Return the seconds until the next study becomes due; infinite if none is being received."""
        now = steady_now()
        with self._database.read() as session:
            due = session.scalar(select(func.min(Study.due_at)).where(Study.due_at > now))
        return (due - now).total_seconds() if due else float("inf")

    def _complete_next(self, now: datetime, also: Sequence[ColumnElement[bool]]) -> bool:
        """Complete the next due study, or quarantine it; return False if none is due. ``also``: further SQL
        conditions on it.
        """
        with self._database.read() as session:
            if not intake.any_due(session, now, now - _SILENCE, *also, at_once=self._at_once):
                return False
        with self._database.write() as session:
            study = intake.next_due(session, now, now - _SILENCE, *also, at_once=self._at_once)
            if study is None:
                return False
            if not are_one_patient(intake.patients(session, study.id, [ObjectRole.SOURCE])):
                quarantine_study(session, study, TWO_PATIENTS)
                return True
            if self._fetches and is_of_another_patient(session, study):
                note_other_patient(session, study)
                quarantine_study(session, study, OTHER_PATIENT)
                return True
            # How far the steps of the study were fulfilled.
            named = requested.steps_of(session, study.study_instance_uid, self._mpps) if self._mpps else ()
            missing = requested.objects_missing(session, [row.id for row in named])
            going_on = sum(row.status is StepStatus.IN_PROGRESS for row in named)
            if missing or going_on:
                record(
                    session,
                    STEPS_NOT_AWAITED,
                    study.id,
                    steps=len(named),
                    going_on=going_on,
                    missing=missing,
                )
            elif named:
                record(session, STEPS_FULFILLED, study.id, steps=len(named))
            if unread := intake.unread_beside(session, study.id):
                record(session, STUDY_MAY_BE_INCOMPLETE, study.id, objects=unread)
            study.due_at = None
            session.flush()
            move_study(session, study, STUDY_COMPLETE)
            enqueue_study(session, study, self._settings)
            return True


_ROLES = (ObjectRole.SOURCE, ObjectRole.NON_SOURCE)


@dataclass(frozen=True, slots=True)
class Version:
    """One received version of an object in a quarantined study.

    ``number``: id of its row. ``in_force``: whether it is the version that is analysed now. ``superseded``:
    whether a newer version replaced it, such as one with a corrected name. ``elsewhere``: the Study Instance
    UID of another study that has this object; "" for none.
    """

    number: int
    item: Arrived
    in_force: bool
    superseded: bool = False
    elsewhere: str = ""

    @property
    def uid(self) -> str:
        """The SOP Instance UID of the object."""
        return self.item.found.sop_instance_uid


@dataclass(frozen=True, slots=True)
class Option:
    """What a person can choose for a quarantined study: one patient with all objects, or one version of the
    image ``sop_instance_uid``.

    ``sop_instance_uid``: "" for a patient. ``if_taken``: the number of the patient option for which this
    choice of a version is needed; None if there is only one patient.
    """

    number: int
    sop_instance_uid: str
    versions: Sequence[Version]
    if_taken: int | None = None

    @property
    def question(self) -> tuple[int | None, str]:
        """The key of the choice to be made; all options between which a person chooses have the same key."""
        return self.if_taken, self.sop_instance_uid


_Patients = Sequence[Sequence[Version]]
"""A study's versions, patient by patient."""


def _options(groups: _Patients) -> list[Option]:
    """Return all options between which a person must choose, numbered from 1: patients first, otherwise in
    the order of arrival.
    """
    numbers = count(1)
    patients = [Option(next(numbers), "", group) for group in groups if len(groups) > 1]
    found = list(patients)
    for at, group in enumerate(groups):
        if_taken = patients[at].number if patients else None
        for uid, versions in _by_uid(group).items():
            if len(versions) > 1:
                found += [Option(next(numbers), uid, (version,), if_taken) for version in versions]
    return found


def _chosen_versions(groups: _Patients, take: Collection[int]) -> dict[str, Version]:
    """Return the version of each object, by SOP Instance UID, to be used if a person takes the options with
    the numbers ``take``. Raises NotAllowedNow.
    """
    options = _options(groups)
    patient = _chosen_option(options, take, (None, "")) if len(groups) > 1 else None
    group = patient.versions if patient else [version for group in groups for version in group]
    if_taken = patient.number if patient else None
    if wrong := set(take) - {o.number for o in options if o.if_taken == if_taken or o == patient}:
        raise NotAllowedNow(
            f"--take {min(wrong)} is no option of this study, or of the other patient: {_summary(options)}"
        )
    return {
        uid: versions[0] if len(versions) == 1 else _chosen_option(options, take, (if_taken, uid)).versions[0]
        for uid, versions in _by_uid(group).items()
    }


class Choice:
    """Lets a person choose between versions in a quarantined study, and releases the study."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Prepare to read the spooled files of these settings again."""
        self._database = database
        self._files = Files(settings)
        self._assumed = {peer.ae_title: peer.assume_charset for peer in settings.peers if "send" in peer.may}
        self._inspector = Inspector()
        self._indexing = Indexing(
            Spool(settings.node.data_dir / "spool", minimum_free_bytes=0), settings, self._inspector
        )

    def rows(self, study_id: int) -> list[dict[str, Any]]:
        """Return the options for a person as JSON objects: who sent them, when, and how they differ; none if
        no choice is needed. They contain patients' names.

        ``as_of`` in each row identifies the state of the study; the choice must pass it back.
        """
        patients, as_of = self._read(study_id)
        options = _options(patients)
        shown = []
        for option in options:
            texts = [_compared_attributes(other) for other in options if other.question == option.question]
            mine = _compared_attributes(option)
            arrivals = [version.item.arrival for version in option.versions]
            shown.append(
                {
                    "as_of": as_of,
                    "number": option.number,
                    "choose": "image" if option.sop_instance_uid else "patient",
                    "if_taken": option.if_taken,
                    "sop_instance_uid": option.sop_instance_uid,
                    "objects": len(_by_uid(option.versions)),
                    "received": [version.number for version in option.versions],
                    "calling_ae": sorted({arrival.calling_ae for arrival in arrivals}),
                    "first_received_at": as_json(min(arrival.received_at for arrival in arrivals)),
                    "last_received_at": as_json(max(arrival.received_at for arrival in arrivals)),
                    "counts": any(version.in_force for version in option.versions),
                    "stands_in": next((v.elsewhere for v in option.versions if v.elsewhere), ""),
                    "differs": {
                        word: mine.get(word, "")
                        for word in sorted({word for values in texts for word in values})
                        if len({values.get(word, "") for values in texts}) > 1
                    },
                }
            )
        return shown

    def release(
        self,
        study_id: int,
        take: Collection[int] = (),
        *,
        as_of: str | None = None,
        also: Callable[[Session, dict[str, Any]], None] | None = None,
    ) -> None:
        """Release a study from quarantine with the options numbered ``take``, one for each choice to be made.

        ``as_of``: from the rows among which the person chose, None if unknown; if objects arrived since then,
        a number may mean another patient. ``also`` writes in the same transaction; it is called with the
        released study and the spool names of each option taken. Raises NotAllowedNow if the study is not in
        quarantine, a choice is missing, an option does not exist, or objects arrived since.
        """
        patients, seen = self._read(study_id)
        chosen = [option for option in _options(patients) if option.number in take]
        with self._database.write() as session:
            study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
            if study.state is StudyState.QUARANTINED:  # else it says what it is: released already, say
                if as_of not in (None, seen) or _arrivals_hash(session, study_id) != seen:
                    raise NotAllowedNow("something came for the study meanwhile: look at its versions again")
                self._apply(session, study, patients, _chosen_versions(patients, take))
                for option in chosen:
                    first = option.versions[0]
                    record(
                        session,
                        VERSION_CHOSEN,
                        study.id,
                        study=study.study_instance_uid,
                        instance=option.sop_instance_uid or first.uid,
                        objects=len(option.versions),
                        calling=first.item.arrival.calling_ae,
                        received=as_json(first.item.arrival.received_at),
                    )
            release_study(session, study_id)
            if also is not None:
                also(session, {"of": seen, "taken": [_names(option) for option in chosen]})

    def present_numbers(self, study_id: int, what: Mapping[str, Any]) -> list[int] | None:
        """Return the present numbers of the options that were taken in an earlier release, to repeat it after
        a restore.

        ``what``: the record of that release. None unless the study is as it was then: in quarantine, with the
        same objects.
        """
        with self._database.read() as session:
            study = session.get_one(Study, study_id)
            if study.state is not StudyState.QUARANTINED or _arrivals_hash(session, study_id) != what["of"]:
                return None
        patients, _ = self._read(study_id)
        numbers = [option.number for option in _options(patients) if _names(option) in what["taken"]]
        return numbers if len(numbers) == len(what["taken"]) else None

    def _apply(
        self, session: Session, study: Study, patients: _Patients, taken: Mapping[str, Version]
    ) -> None:
        """Make the chosen versions, ``taken`` by SOP Instance UID, the current ones, and mark the others as
        set aside.
        """
        for version in taken.values():
            if not version.in_force and not version.elsewhere:
                # From another study, which must not have gone on with it.
                former = intake.instance(session, version.uid)
                other = session.get_one(Study, former.study_id) if former else study
                if other is not study and other.state is not StudyState.QUARANTINED:
                    raise NotAllowedNow(
                        f"object {version.uid} is in study {other.study_instance_uid}, which is "
                        f"{other.state}: it cannot be taken from there"
                    )
                self._indexing.make_current(session, study, version.item)
        versions = [version for group in patients for version in group]
        left = {version.uid for version in versions} - taken.keys()
        chosen = [version.item.found.patient for version in taken.values()]
        for instance in intake.instances_of(session, study.id, _ROLES):
            # Of another patient's images that are deleted nothing is left to choose.
            if instance.sop_instance_uid in left or (
                instance.purged and not are_one_patient([Patient.parse(instance.patient), *chosen])
            ):
                instance.role = ObjectRole.ASIDE
        paths = {version.item.path for version in taken.values()}
        aside = {version.item.path for version in versions if not version.superseded} - paths
        for row in intake.received(session, study.id):
            path = self._files.data_dir / row.path
            if path in aside and row.outcome is not Outcome.DUPLICATE:
                row.outcome = Outcome.SET_ASIDE
            elif path in paths and row.outcome in (Outcome.CONFLICT, Outcome.SET_ASIDE):
                row.outcome = Outcome.TAKEN
        for version in [version for version in taken.values() if not version.elsewhere][:1]:
            self._indexing.describe_study(session, study, version.item.found)

    def _read(self, study_id: int) -> tuple[_Patients, str]:
        """Inspect all versions of a study's objects again; return them grouped by patient, and a hash of the
        present objects.
        """
        with self._database.read() as session:
            study = session.get_one(Study, study_id)
            as_of, listed = _arrivals_hash(session, study_id), list(_listed(session, study))
            session.expunge_all()
        versions = []
        try:
            for row, in_force, superseded, elsewhere in listed:
                arrival = Arrival(row.association, row.calling_ae, row.called_ae, "", 0, row.received_at)
                try:
                    with self._database.read() as session:
                        path = self._files.here(session, row.path)
                    found = self._inspected(path, self._assumed.get(row.calling_ae, ""))
                except (OSError, NotInSpool):  # the file is missing
                    continue
                item = Arrived(self._files.data_dir / row.path, arrival, found, row.bytes)
                if not found.fault:
                    versions.append(Version(row.id, item, in_force, superseded, elsewhere))
        finally:
            self._inspector.close()
        return _patients(versions), as_of

    def _inspected(self, path: Path, charset: str) -> Inspected:
        """Inspect a file, a second time if the inspection process died. ``charset``: the character set to try
        if the object's own does not fit.
        """
        try:
            return self._inspector.inspect(path, charset)
        except ReaderLost:
            return self._inspector.inspect(path, charset, again=True)


def _names(option: Option) -> list[Any]:
    """Return the SOP Instance UID and the spool names of an option's versions, which identify the option even
    if the database is lost.
    """
    return [option.sop_instance_uid, sorted({version.item.path.stem for version in option.versions})]


def _arrivals_hash(session: Session, study_id: int) -> str:
    """Return a hash of the spool names of a study's objects, which changes when another object of the study
    arrives.
    """
    names = {Path(row.path).stem for row in intake.received(session, study_id)}
    return hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()


def _compared_attributes(option: Option) -> dict[str, str]:
    """Return the attributes in which the options of a choice may differ, by keyword: those of the patient,
    and for an image also those that describe its pixels. Different values of one attribute are joined by
    vertical bars.
    """
    texts: dict[str, set[str]] = defaultdict(set)
    for version in option.versions:
        found = version.item.found
        values = {**found.identity}
        if option.sop_instance_uid:
            values |= found.attributes
            values |= {"TransferSyntaxUID": found.transfer_syntax_uid, "PixelData": found.pixels_sha256[:12]}
        for word, value in values.items():
            texts[word].add(value)
    return {word: " | ".join(sorted(values)) for word, values in texts.items()}


def _listed(session: Session, study: Study) -> Iterator[tuple[ReceivedObject, bool, bool, str]]:
    """Yield every version of the study's objects, also versions in other studies, each file once.

    Each as (row, whether it is current, whether it is superseded, UID of the other study that has it or "").
    """
    by_path: dict[str, ReceivedObject] = {}
    for row in intake.received(session, study.id):
        by_path.setdefault(row.path, row)
    sound = [row for row in by_path.values() if row.outcome is not Outcome.QUARANTINED]
    now = intake.instances(session, {row.sop_instance_uid for row in sound})
    for row in sound:
        instance = now.get(row.sop_instance_uid)
        if instance is not None and instance.role is ObjectRole.OWN:
            continue
        here = instance is not None and instance.study_id == study.id
        in_force = instance is not None and here and instance.path == row.path and instance.role in _ROLES
        yield row, in_force, not in_force and row.outcome is not Outcome.CONFLICT, ""
        if instance is not None and not here and row.outcome is Outcome.CONFLICT:
            copies = intake.stored_copies(session, row.sop_instance_uid, limit=100)
            other = session.get_one(Study, instance.study_id).study_instance_uid or ""
            yield from ((copy, False, False, other) for copy in copies if copy.path == instance.path)


def _patients(versions: Sequence[Version]) -> list[list[Version]]:
    """Return groups of versions that can be of one patient. A superseded version starts no group."""
    groups: list[list[Version]] = []
    for version in sorted(versions, key=lambda version: version.superseded):
        patient = version.item.found.patient
        group = next(
            (g for g in groups if not any(patient.contradicts(v.item.found.patient) for v in g)), None
        )
        if group is not None:
            group.append(version)
        elif not version.superseded:
            groups.append([version])
    return groups


def _by_uid(group: Sequence[Version]) -> dict[str, list[Version]]:
    """Return the versions of each object to choose between, by SOP Instance UID; a superseded version only if
    the object has no other, and then the newest.

    One that lacks patient attributes of an older one is left out: it was never current.
    """
    found: dict[str, list[Version]] = defaultdict(list)
    for version in group:
        if not version.superseded:
            found[version.uid].append(version)
    live = set(found)
    for version in group:
        patient, older = version.item.found.patient, found[version.uid]
        if version.uid not in live and not any(patient.lacks(one.item.found.patient) for one in older):
            found[version.uid] = [version]
    return found


def _chosen_option(
    options: Sequence[Option], take: Collection[int], question: tuple[int | None, str]
) -> Option:
    """Return the one option among ``take`` for a choice to be made (the key ``question``). Raises
    NotAllowedNow unless there is exactly one.
    """
    chosen = [option for option in options if option.question == question and option.number in take]
    if len(chosen) != 1:
        raise NotAllowedNow(
            f"choose first, one of each: {_summary(options)}. `dicom-node studies versions UID` shows them, "
            "`dicom-node studies release UID --take NUMBER` takes one"
        )
    return chosen[0]


def _summary(options: Sequence[Option]) -> str:
    """Return the options on one line without names: "patient 1 or 2; image 1.2.3: 3 or 4"."""
    numbers_of: dict[tuple[int | None, str], list[str]] = defaultdict(list)
    for option in options:
        numbers_of[option.question].append(str(option.number))
    return "; ".join(
        f"{f'image {uid}' if uid else 'patient'} {' or '.join(numbers)}"
        + (f" (if {if_taken} is taken)" if if_taken else "")
        for (if_taken, uid), numbers in numbers_of.items()
    )


Row = dict[str, Any]
"""A study and a rule that takes it, or "" for none; the keys stand in ``docs/reference/lists.md``."""


def rerun(session: Session, study_id: int, settings: Settings) -> list[Row]:
    """Apply the rules to a study as if it had just been completed; return a row for each rule that takes it.

    Unsent deliveries of earlier jobs are withdrawn until a job wants them again. Results that do not change
    have the same derived UIDs, so they are neither built nor sent again. Raises NotAllowedNow.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
    if reason := _refusal(study, intake.instances_of(session, study_id, [ObjectRole.SOURCE])):
        raise NotAllowedNow(reason)
    study.revision += 1
    session.flush()
    stop_study(session, study, f"replaced by revision {study.revision} of the study", same_data=True)
    move_study(session, study, STUDY_RERUN)
    move_study(session, study, STUDY_COMPLETE)
    return _rows(study.study_instance_uid, enqueue_study(session, study, settings), study.reason, queued=True)


def replay(
    database: Database, settings: Settings, since: datetime, also: Callable[[Session, int], None] | None
) -> list[Row]:
    """Apply the rules anew to studies that lack a job the rules now want; return a row for each study and
    rule that takes it.

    Considered are studies received after ``since``. A study that would only lose a job is left out, because
    delivered results stay; so is a study whose rules are still to be applied (being received, in quarantine).
    Each is done in one transaction, in which ``also`` writes; with None nothing is changed.
    """
    found, rows = [], []
    with database.read() as session:
        coming = (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED)
        settled = select(Study).where(Study.last_received_at >= since, Study.state.not_in(coming))
        for study in session.scalars(settled.order_by(Study.last_received_at, Study.id)).all():
            sources = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
            had = [
                _work(job.pipeline, job.options, job.destinations, job.source_uids)
                for job in queue.of_study(session, study.id, set(JobState) - {JobState.HELD})
                if job.study_revision == study.revision
            ]
            decisions = decide_study(session, study, sources, settings)
            wanted = [
                _work(one.rule.pipeline, one.rule.options, one.rule.send_to, one.source_uids)
                for one in decisions
                if not one.held_reason
            ]
            if any(work not in had for work in wanted):
                uid, refusal = study.study_instance_uid, _refusal(study, sources)
                found.append((study.id, uid, decisions, refusal or "would be queued"))
    for study_id, uid, decisions, reason in found:
        if also is None:
            rows += _rows(uid, decisions, reason, queued=False)
            continue
        try:
            with database.write() as session:
                rows += rerun(session, study_id, settings)
                also(session, study_id)
        except NotAllowedNow as refused:
            rows += _rows(uid, decisions, str(refused), queued=False)
    return rows


def _work(
    pipeline: str, options: Mapping[str, Any], destinations: Sequence[str], source_uids: Sequence[str]
) -> tuple[object, ...]:
    """Return what makes two jobs the same work, whatever their rules are called: equal values for equal
    work.
    """
    return pipeline, json.dumps(dict(options), sort_keys=True), sorted(destinations), list(source_uids)


def _rows(study: str | None, decisions: Sequence[RuleDecision], reason: str, *, queued: bool) -> list[Row]:
    """Return a row for each rule's decision on a study. ``reason``: for decisions without a limit that stops
    the job.
    """
    none = {"rule": "", "pipeline": "", "destinations": [], "sources": 0, "queued": False, "reason": reason}
    if not decisions:
        return [{"study_instance_uid": study, **none}]
    return [
        {
            "study_instance_uid": study,
            "rule": decision.rule.name,
            "pipeline": decision.rule.pipeline,
            "destinations": list(decision.rule.send_to),
            "sources": len(decision.source_uids),
            "queued": queued and not decision.held_reason,
            "reason": f"held: {decision.held_reason}" if decision.held_reason else reason,
        }
        for decision in decisions
    ]


def _refusal(study: Study, sources: Sequence[Instance]) -> str:
    """Return why the rules cannot be applied to a study again; "" if they can. ``sources``: its images."""
    coming = "is still being received: its rules are applied when it is complete"
    why = {
        StudyState.RECEIVING: coming,
        StudyState.COMPLETE: coming,
        StudyState.QUARANTINED: "is in quarantine: "
        "`dicom-node studies release` releases it and applies the rules",
    }.get(study.state, "")
    if not why and any(source.purged for source in sources):
        why = "has images that were purged after spool.keep_days: have them sent again"
    return why and f"study {study.study_instance_uid} {why}"
