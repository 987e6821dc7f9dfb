"""Missing studies: those of the last days at a peer of which the rules want a result and none is here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import RuleSettings, matches
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import Unavailable
from dicom_node.base.events import (
    FETCH_ASKED,
    STUDIES_MISSING,
)
from dicom_node.base.lifecycle import (
    OPEN_FETCHES,
    DeliveryState,
    ObjectRole,
    StudyState,
)
from dicom_node.base.store import fetches
from dicom_node.base.store.database import Database, batches
from dicom_node.base.store.tables import Delivery, Instance, Result, Study
from dicom_node.base.store.transitions import record, try_move, utc_now
from dicom_node.deliver import scu
from dicom_node.studies.fetch_queue import daily_queries, queue_fetch

_ON_ITS_WAY = frozenset(
    {StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING, StudyState.UNASSESSED}
)
_SETTLED = frozenset({StudyState.DELIVERED, StudyState.DELIVERING, StudyState.NOT_APPLICABLE})


@dataclass(frozen=True, slots=True)
class MissingStudy:
    """A study at a peer that has no result. ``rule``: the first rule that should take it. ``why``: the reason
    in words. ``fetchable``: whether fetching it may help.
    """

    found: scu.FoundStudy
    rule: str
    why: str
    fetchable: bool = True


def missing(database: Database, settings: Settings, peer: PeerSettings, days: int) -> list[MissingStudy]:
    """Return the studies at the peer, of today and the ``days`` days before, that a rule should take and that
    have no result. Raises Unavailable.
    """
    today = date.today()  # Study Date is local
    archive = scu.open_archive(peer, settings)
    # Modalities to ask for; none, so all, where a rule takes any or has a pattern.
    named = {pattern for rule in settings.rules for pattern in rule.when.modality or ("*",)}
    modalities = [] if any(sign in name for name in named for sign in "*?") else sorted(named)
    asked = daily_queries(today - timedelta(days=days), today, modalities)
    answers = {study.study_instance_uid: study for one in asked for study in archive.find(one).studies}
    wanted = [(study, rule) for study in answers.values() if (rule := _rule_for(study, settings.rules))]
    with database.read() as session:
        return [row for batch in batches(wanted) for row in _without_result(session, peer, batch)]


def fetch_missing(session: Session, peer: str, study: MissingStudy) -> None:
    """Queue the retrieval of the study from ``peer``, even if it was fetched or given up before."""
    row = fetches.of_study(session, study.found.study_instance_uid)
    if row is None:
        queue_fetch(session, peer, study.found)
    elif row.state not in OPEN_FETCHES:
        row.peer = peer
        try_move(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())


def report_missing(database: Database, settings: Settings) -> int:
    """Record event 2057 for each peer with the setting ``missing_days`` that has studies without a result;
    return the number of studies.
    """
    total = 0
    for peer in settings.peers:
        if "query" not in peer.may or not peer.missing_days:
            continue
        try:
            rows = missing(database, settings, peer, peer.missing_days)
        except Unavailable:  # tomorrow again; deliveries to it say that it is away
            continue
        if rows:
            uids = [row.found.study_instance_uid for row in rows[:20]]  # so many stand in an event
            with database.write() as session:
                record(session, STUDIES_MISSING, peer=peer.name, number=len(rows), studies=uids)
        total += len(rows)
    return total


def _rule_for(study: scu.FoundStudy, rules: Sequence[RuleSettings]) -> str:
    """Return the first rule whose conditions may hold by the query answer (conditions on images cannot be
    tested); "" if none.
    """
    for rule in rules:
        wanted, texts = rule.when.modality, rule.when.study_description
        if _may_fit(wanted, study.modalities) and _may_fit(texts, [study.description]):
            return rule.name
    return ""


def _may_fit(patterns: Sequence[str], values: Sequence[str]) -> bool:
    """Return whether one of the ``values`` matches one of the ``patterns``; True also if there are no
    patterns or no values.
    """
    known = [value for value in values if value]
    return not patterns or not known or any(matches(one, value) for one in patterns for value in known)


def _without_result(
    session: Session, peer: PeerSettings, wanted: Sequence[tuple[scu.FoundStudy, str]]
) -> Iterator[MissingStudy]:
    """Yield those of the ``wanted`` studies (with the rules that take them) that never arrived, are
    incomplete or lack a result, with the reason. Studies whose fetch is under way are left out.
    """
    uids = [study.study_instance_uid for study, _ in wanted]
    here, asked = fetches.present_studies(session, uids), fetches.of_studies(session, uids)
    for study, rule in wanted:
        known, row = here.get(study.study_instance_uid), asked.get(study.study_instance_uid)
        if row is not None and row.state in OPEN_FETCHES:
            continue
        if known is None:
            why = "it never came" if row is None else f"fetching it: {row.state} {row.reason}".rstrip()
            yield MissingStudy(study, rule, why)
        elif why := _lacks(session, peer, study, known):
            yield MissingStudy(study, rule, why, fetchable=why.startswith("incomplete"))


def _lacks(session: Session, peer: PeerSettings, study: scu.FoundStudy, known: Study) -> str:
    """Return why a study that is here lacks its result; "" if it has the result or will have it."""
    if known.state in _ON_ITS_WAY:
        return ""
    received = session.scalar(
        select(func.count(Instance.id)).where(Instance.study_id == known.id, Instance.role != ObjectRole.OWN)
    )
    ours = session.scalar(
        select(func.count(Delivery.id))
        .join(Delivery.result)
        .where(
            Result.study_id == known.id,
            Delivery.destination == peer.name,
            Delivery.state == DeliveryState.CONFIRMED,
        )
    )
    received, theirs = received or 0, (study.instances or 0) - (ours or 0)
    if theirs > received:
        return f"incomplete: {received} of {theirs} objects came"
    return "" if known.state in _SETTLED else f"{known.state}: {known.reason}"[:200]
