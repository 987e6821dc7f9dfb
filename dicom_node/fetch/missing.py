"""Studies of the last days that should have a result according to the rules, and have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy.orm import Session

from dicom_node import scu
from dicom_node.config.settings import PeerSettings, RuleSettings, Settings, matches
from dicom_node.errors import PeerUnreachable
from dicom_node.events import FETCH_ASKED, STUDIES_MISSING
from dicom_node.fetch.asking import questions, write_down
from dicom_node.model.lifecycle import OPEN_FETCHES, StudyState
from dicom_node.scu import FoundStudy
from dicom_node.store import fetches
from dicom_node.store.database import Database
from dicom_node.store.tables import Study
from dicom_node.store.transitions import move_fetch, record, utc_now

_BATCH = 500  # studies of one query
_NAMED = 20  # UIDs in an event
_ON_ITS_WAY = frozenset(
    {StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUEUED, StudyState.RUNNING, StudyState.UNASSESSED}
)
_SETTLED = frozenset({StudyState.DELIVERED, StudyState.DELIVERING, StudyState.NOT_APPLICABLE})


@dataclass(frozen=True, slots=True)
class MissingStudy:
    """A study of the peer without a result. ``rule``: the first rule that should take it. ``why``: in words.

    ``fetchable``: whether fetching the study may help.
    """

    found: FoundStudy
    rule: str
    why: str
    fetchable: bool = True


def missing(database: Database, settings: Settings, peer: PeerSettings, days: int) -> list[MissingStudy]:
    """Query the peer for studies of today and of the ``days`` days before. Raises PeerUnreachable."""
    today = date.today()  # Study Date is local
    archive = scu.open_archive(peer, settings)
    asked = questions(today - timedelta(days=days), today, _modalities(settings.rules))
    answers = {study.study_instance_uid: study for one in asked for study in archive.find(one).studies}
    wanted = [(study, rule) for study in answers.values() if (rule := _rule_for(study, settings.rules))]
    batches = [wanted[start : start + _BATCH] for start in range(0, len(wanted), _BATCH)]
    with database.read() as session:
        return [row for batch in batches for row in _without_result(session, peer, batch)]


def fetch_missing(session: Session, peer: str, study: MissingStudy) -> None:
    """Queue the study to be fetched, even if it was fetched or given up before."""
    row = fetches.of_study(session, study.found.study_instance_uid)
    if row is None:
        write_down(session, peer, study.found)
    elif row.state not in OPEN_FETCHES:
        row.peer = peer
        move_fetch(session, row, FETCH_ASKED, attempts=0, reason="", next_at=utc_now())


def report_missing(database: Database, settings: Settings) -> int:
    """Record event 2057 for each peer with ``missing_days`` and such studies; returns the number of
    studies.
    """
    total = 0
    for peer in settings.peers:
        if "query" not in peer.may or not peer.missing_days:
            continue
        try:
            rows = missing(database, settings, peer, peer.missing_days)
        except PeerUnreachable:  # tomorrow again; deliveries to it say that it is away
            continue
        if rows:
            uids = [row.found.study_instance_uid for row in rows[:_NAMED]]
            with database.write() as session:
                record(session, STUDIES_MISSING, peer=peer.name, number=len(rows), studies=uids)
        total += len(rows)
    return total


def _modalities(rules: Sequence[RuleSettings]) -> list[str]:
    """Modalities to ask for; none, so all, where a rule takes any or has a pattern."""
    named = [pattern for rule in rules for pattern in rule.when.modality or ("*",)]
    return [] if any(sign in name for name in named for sign in "*?") else sorted(set(named))


def _rule_for(study: FoundStudy, rules: Sequence[RuleSettings]) -> str:
    """The first rule whose conditions hold as far as an answer says; those on images cannot be tried."""
    for rule in rules:
        wanted, texts = rule.when.modality, rule.when.study_description
        of_modality = not wanted or not study.modalities or _any(wanted, study.modalities)
        if of_modality and (not texts or not study.description or _any(texts, [study.description])):
            return rule.name
    return ""


def _any(patterns: Sequence[str], values: Sequence[str]) -> bool:
    return any(matches(pattern, value) for pattern in patterns for value in values)


def _without_result(
    session: Session, peer: PeerSettings, wanted: Sequence[tuple[FoundStudy, str]]
) -> Iterator[MissingStudy]:
    uids = [study.study_instance_uid for study, _ in wanted]
    here, asked = fetches.here(session, uids), fetches.of_studies(session, uids)
    for study, rule in wanted:
        known, row = here.get(study.study_instance_uid), asked.get(study.study_instance_uid)
        if row is not None and row.state in OPEN_FETCHES:
            continue
        if known is None:
            why = "it never came" if row is None else f"fetching it: {row.state} {row.reason}".rstrip()
            yield MissingStudy(study, rule, why)
        elif why := _lacks(session, peer, study, known):
            yield MissingStudy(study, rule, why, fetchable=why.startswith("incomplete"))


def _lacks(session: Session, peer: PeerSettings, study: FoundStudy, known: Study) -> str:
    """What is wrong with a study that is here; "" where it has its result, or will have it."""
    if known.state in _ON_ITS_WAY:
        return ""
    received = fetches.received_objects(session, known.id)
    theirs = (study.instances or 0) - fetches.results_at(session, known.id, peer.name)
    if theirs > received:
        return f"incomplete: {received} of {theirs} objects came"
    if known.state in _SETTLED:
        return ""
    return f"{known.state}: {known.reason}"[:200]
