"""Orders (ORM^O01, OMI^O23): a study becomes STAT, or a rule that the settings name is started for it.

An order that comes before its study waits for it. It changes nothing if its patient is not that of the study.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, literal, or_, select
from sqlalchemy.orm import Session

from dicom_connectors.hl7.message import Header, MessageRefused, component, patients_of, text
from dicom_connectors.hl7.settings import Hl7Settings
from dicom_node.base import events
from dicom_node.base.config.rule import RuleSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import issuers_differ
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import JobState, MessageState, StudyState
from dicom_node.base.store import intake, merges, queue
from dicom_node.base.store.locks import lock_studies
from dicom_node.base.store.merges import Hl7Message
from dicom_node.base.store.tables import Job, Study
from dicom_node.base.store.transitions import record, update_queue_place, utc_now
from dicom_node.jobs.queue import retry, start_rule

ORDERS: Final = ("ORM^O01", "OMI^O23")
SEGMENTS: Final = ("ORC", "OBR", "TQ1", "IPC", "ZDS")
_CANCELS: Final = frozenset({"CA", "OC", "CR", "DC", "OD"})  # HL7 table 0119
_STAT: Final = frozenset({"S", "STAT"})  # HL7 tables 0027 and 0485
_UID: Final = re.compile(r"[0-9.]{1,64}")
_COMING: Final = (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED)
_AT_ONCE: Final = 100


def order_of(header: Header, authority: str) -> dict[str, Any]:
    """Return what an order says, for the database. Raises MessageRefused."""
    ids = [one for patient, _ in patients_of(header, authority) for one in patient.ids]
    accessions = set(_firsts(header, ("IPC", 1))) or set(_firsts(header, ("OBR", 18)))
    studies = set(_firsts(header, ("IPC", 3), ("ZDS", 1)))
    accession, study = next(iter(accessions), ""), next(iter(studies), "")
    if len(accessions) > 1 or len(studies) > 1:
        raise MessageRefused("AE", "207", "a message names several accession numbers or studies")
    if not (accession or study) or len(accession) > 16 or (study and not _UID.fullmatch(study)):
        reason = "IPC or ZDS and OBR-18 name no accession number (16 characters at most) and no study UID"
        raise MessageRefused("AE", "101", reason)
    return {
        "ids": ids,
        "accession": accession,
        "study": study,
        "stat": not _STAT.isdisjoint(word.upper() for word in _priorities(header)),
        "codes": sorted(set(_firsts(header, ("OBR", 4))))[:_AT_ONCE],
        "cancels": any(word in _CANCELS for word in _firsts(header, ("ORC", 1))),
    }


def _firsts(header: Header, *places: tuple[str, int]) -> Iterator[str]:
    """Yield the first component of these fields (segment, number) wherever it is not empty."""
    for segment in header.segments:
        for name, number in places:
            if segment.name == name and (value := text(segment, number).partition("^")[0].strip()):
                yield value


def _priorities(header: Header) -> Iterator[str]:
    """Yield what an order says of its priority: TQ1-9, or the sixth component of ORC-7 and OBR-27."""
    yield from _firsts(header, ("TQ1", 9))
    for segment in header.segments:
        for name, number in (("ORC", 7), ("OBR", 27)):
            if segment.name == name:
                yield component(segment, number, 6)


def due_orders(session: Session, hours: float) -> Sequence[int]:
    """Return the numbers of waiting orders whose study is here, or whose time is over."""
    order = Hl7Message.content["order"]
    is_here = exists().where(_is_of(order["study"].as_string(), order["accession"].as_string()))
    is_over = Hl7Message.received_at < utc_now() - timedelta(hours=hours)
    chosen = select(Hl7Message.id).where(Hl7Message.state == MessageState.WAITING, or_(is_here, is_over))
    return session.scalars(chosen.order_by(Hl7Message.id).limit(_AT_ONCE)).all()


def _is_of(study: ColumnElement[str], accession: ColumnElement[str]) -> ColumnElement[bool]:
    """SQL: whether a study is that of an order; the study's UID counts where the order has it."""
    by_accession = (study == "") & (accession != "") & (Study.accession_number == accession)
    return or_((study != "") & (Study.study_instance_uid == study), by_accession)


class Orders:
    """Applies orders to their studies."""

    def __init__(self, settings: Settings, hl7: Hl7Settings) -> None:
        """Prepare the rules that orders may start."""
        self._settings, self._authority = settings, hl7.assigning_authority
        self._rules = {code: settings.rule(name) for code, name in hl7.order_rules.items()}
        self.hours = hl7.order_hours

    def apply(self, session: Session, row: Hl7Message) -> None:
        """Apply an order to the studies that are here; it waits for them, and until they are complete."""
        order = row.content["order"]
        if order["cancels"]:
            self._end(row, MessageState.DONE, self._cancel(session, row, order))
            return
        of_order = _is_of(literal(order["study"]), literal(order["accession"]))
        lock_studies(session, of_order)
        chosen = select(Study).where(of_order).order_by(Study.id).execution_options(populate_existing=True)
        studies = session.scalars(chosen).all()
        ours = [study for study in studies if self._is_of_patient(session, study, order)]
        if studies and not ours:
            record(session, events.ORDER_OTHER_PATIENT, studies[0].id, message=row.id)
            self._end(row, MessageState.NOTHING, "its patient is not that of the study")
            return
        changed = sum(self._hurry(session, study) for study in ours if order["stat"])
        row.studies = max(row.studies, len(ours) if changed else 0)
        rules = self._wanted(order)
        if ours and not (rules and any(study.state in _COMING for study in ours)):
            self._start_rules(session, row, ours, rules)
        elif row.received_at > utc_now() - timedelta(hours=self.hours):
            row.state = MessageState.WAITING
        else:
            self._end(row, MessageState.EXPIRED, "its study was not complete in time")

    def _start_rules(
        self, session: Session, row: Hl7Message, studies: Sequence[Study], rules: Sequence[RuleSettings]
    ) -> None:
        """Start rules for complete studies, and end the order."""
        started = [rule.name for study in studies for rule in rules if self._start(session, study, rule)]
        if started:
            row.studies = len(studies)
            record(session, events.ORDER_APPLIED, studies[0].id, message=row.id, rules=started)
        self._end(row, MessageState.DONE if row.studies else MessageState.NOTHING)

    def _wanted(self, order: dict[str, Any]) -> list[RuleSettings]:
        """Return the rules that an order may start."""
        return [rule for code in order["codes"] if (rule := self._rules.get(code)) is not None]

    def _is_of_patient(self, session: Session, study: Study, order: dict[str, Any]) -> bool:
        """Return whether an order names the patient of a study, also by an ID that another one replaced."""
        if issuers_differ(self._authority, study.issuer_of_patient_id):
            return False
        try:
            ids = {merges.survivor(session, one, self._authority) for one in order["ids"]}
        except merges.Circle:
            return False
        return study.patient_id in ids

    def _hurry(self, session: Session, study: Study) -> bool:
        """Make a study and its waiting jobs STAT; return whether it was not."""
        if study.priority == 1:
            return False
        study.priority = 1
        for job in queue.of_study(session, study.id, (JobState.QUEUED,)):
            job.priority = 1
            session.flush()
            update_queue_place(session, job)
        record(session, events.ORDERED_STAT, study.id)
        return True

    def _start(self, session: Session, study: Study, rule: RuleSettings) -> bool:
        """Start a rule for a study that is complete; return whether that made a job wait for a worker."""
        jobs = [job for job in _jobs(session, study) if job.rule == rule.name]
        if not jobs:
            return start_rule(session, study, rule, intake.sources(session, study.id), self._settings)
        if jobs[-1].state not in (JobState.HELD, JobState.FAILED, JobState.CANCELLED):
            return False
        try:
            retry(session, jobs[-1].id)
        except NotAllowedNow:
            return False
        return True

    def _cancel(self, session: Session, row: Hl7Message, order: dict[str, Any]) -> str:
        """End the orders of a sender that wait for the same study; return how many, as a reason."""
        waiting = select(Hl7Message).where(
            Hl7Message.sender == row.sender, Hl7Message.state == MessageState.WAITING
        )
        same = [one for one in session.scalars(waiting) if _same(one.content["order"], order)]
        for one in same:
            self._end(one, MessageState.NOTHING, "it was cancelled")
        return f"a cancellation: {len(same)} waiting orders ended; nothing that runs was stopped"

    def _end(self, row: Hl7Message, state: MessageState, reason: str = "") -> None:
        """Store what became of an order, and forget what it said."""
        row.state, row.reason, row.done_at = state, reason, utc_now()
        row.content, row.sealed = {}, b""


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two orders are of the same study."""
    return all(one[key] == other[key] for key in ("accession", "study"))


def _jobs(session: Session, study: Study) -> list[Job]:
    """Return the jobs of a study's newest revision, in their order."""
    rows = queue.of_study(session, study.id, tuple(JobState))
    return sorted((job for job in rows if job.study_revision == study.revision), key=lambda job: job.id)
