"""The ledger of a site: what became of each object that was sent, of each arrival and of each study."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import Select, or_, select

from dicom_node import people
from dicom_node.base.config import loading
from dicom_node.base.kinds import ObjectRole, Outcome
from dicom_node.base.lifecycle import DeliveryState, HeldState, StudyState
from dicom_node.base.store.tables import (
    Delivery,
    HeldResult,
    Instance,
    ReceivedObject,
    Result,
    Study,
    Withdrawal,
)
from tests.site_lab import Site

_SETTLED_SECONDS = 300  # without any change
_ENDED = {StudyState.DELIVERED, StudyState.QUARANTINED, StudyState.FAILED, StudyState.CANCELLED}


@dataclass
class Sent:
    """What modalities sent. ``acknowledged``: Successes by SOP Instance UID, of ``studies``."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    studies: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, image: Dataset) -> None:
        """Success was answered for this object."""
        with self._lock:
            self.acknowledged[str(image.SOPInstanceUID)] += 1
            self.studies.add(str(image.StudyInstanceUID))


def wait_until_settled(site: Site, sent: Sent) -> None:
    """Until every study has ended or is in quarantine, or nothing has changed for a while."""
    incoming = site.listeners[0].folder / "var" / "spool" / "incoming"
    seen, since = None, time.monotonic()
    while time.monotonic() - since < _SETTLED_SECONDS:
        states = Counter(study["state"] for study in site.listeners[0].studies().values())
        waits = set(states) - _ENDED or any(incoming.glob("*.dcm"))
        if states.total() >= len(sent.studies) and not waits:
            return
        if states != seen:
            seen, since = states, time.monotonic()
        time.sleep(1)


def count(site: Site, sent: Sent, folder: Path) -> dict[str, Any]:
    """Read the database, the spool and the PACS; ``folder``: that of the site, ``var`` lies in it.

    An object that was set aside because its reader was killed has no SOP Instance UID in the database: it is
    read from its file.
    """
    with people.reading(loading.load([site.listeners[0].config])) as session:
        arrivals = [
            (row.sop_instance_uid or _uid(folder / "var" / row.path), row.outcome, row.reason)
            for row in session.scalars(select(ReceivedObject))
        ]
        roles = {row.sop_instance_uid: row.role for row in session.scalars(select(Instance))}
        rows = session.scalars(select(Study)).all()
        studies = {row.study_instance_uid: row.state for row in rows}
        failed = [row.reason for row in rows if row.state is StudyState.FAILED]
        deliveries = Counter(str(state) for state in session.scalars(select(Delivery.state)))
        results = set(session.scalars(select(Result.sop_instance_uid)))
        stopped = set(session.scalars(_stopped()))  # by a person: it may have arrived before, or not
    held = Counter(site.pacs.instances())
    aside = {uid for uid, outcome, _ in arrivals if outcome is Outcome.QUARANTINED}
    came = Counter(uid for uid, _, _ in arrivals)
    lost = set(sent.acknowledged) - set(roles) - aside
    in_spool = {_uid(file) for file in (folder / "var" / "spool").rglob("*.dcm")} & lost if lost else set()
    return {
        "objects sent": len(sent.acknowledged),
        "what became of them": dict(Counter(_fate(uid, roles, aside, in_spool) for uid in sent.acknowledged)),
        "acknowledgements": sent.acknowledged.total(),
        "acknowledgements without an arrival": (sent.acknowledged - came).total(),
        "arrivals": dict(Counter(str(outcome) for _, outcome, _ in arrivals)),
        "arrivals that nobody sent": sum(uid not in sent.acknowledged for uid in came),
        "set aside": [
            {"object": uid, "indexed from another arrival": uid in roles, "reason": reason}
            for uid, outcome, reason in arrivals
            if outcome is Outcome.QUARANTINED
        ],
        "left in incoming": len(list((folder / "var" / "spool" / "incoming").glob("*.dcm"))),
        "studies sent": len(sent.studies),
        "what became of studies": dict(Counter(str(studies.get(uid, "nowhere")) for uid in sent.studies)),
        "why they failed": failed,
        "results": len(results),
        "deliveries": dict(deliveries),
        "in the PACS": held.total(),
        "results stopped by persons": len(stopped),
        "results not in the PACS": len(results - stopped - set(held)),
        "in the PACS twice or unknown": held.total() - len(results & set(held)),
    }


def _stopped() -> Select[str]:
    withdrawn = select(Withdrawal.result_id)
    rejected = select(HeldResult.result_id).where(HeldResult.state == HeldState.REJECTED)
    return select(Result.sop_instance_uid).where(or_(Result.id.in_(withdrawn), Result.id.in_(rejected)))


def _uid(file: Path) -> str:
    return str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)


def _fate(uid: str, roles: dict[str, ObjectRole], aside: set[str], in_spool: set[str]) -> str:
    """Every object has exactly one."""
    if uid in roles:
        return "own" if roles[uid] is ObjectRole.OWN else "indexed"
    if uid in aside:
        return "in quarantine"
    return "in the spool, unknown to the database" if uid in in_spool else "nowhere"


def mistakes(ledger: dict[str, Any]) -> list[str]:
    """What does not balance, in words; none where nothing was lost and nothing doubled."""
    arrivals, fates = Counter(ledger["arrivals"]), Counter(ledger["what became of them"])
    indexed = fates["indexed"] + fates["own"]
    studies = Counter(ledger["what became of studies"])
    asked: dict[str, Callable[[], bool]] = {
        "each object indexed, own, or in quarantine": lambda: (
            set(fates) <= {"indexed", "own", "in quarantine"}
        ),
        "as many first arrivals as objects indexed": lambda: arrivals["new"] == indexed,
        "received = new + duplicates + quarantined": lambda: (
            set(arrivals) <= {Outcome.NEW, Outcome.DUPLICATE, Outcome.QUARANTINED, Outcome.SET_ASIDE}
        ),
        "no acknowledgement without an arrival": lambda: not ledger["acknowledgements without an arrival"],
        "nothing arrived that nobody sent": lambda: not ledger["arrivals that nobody sent"],
        "nothing left in incoming": lambda: not ledger["left in incoming"],
        "each study delivered, failed, or in quarantine with its object": lambda: (
            set(studies) <= _ENDED
            and studies[StudyState.QUARANTINED] <= len(ledger["set aside"])
            and studies[StudyState.CANCELLED] <= ledger["results stopped by persons"]
        ),
        "each delivery confirmed, or stopped by a person": lambda: (
            set(ledger["deliveries"])
            == {DeliveryState.CONFIRMED} | ({DeliveryState.DISCARDED} & set(ledger["deliveries"]))
            and ledger["deliveries"].get(DeliveryState.DISCARDED, 0) <= ledger["results stopped by persons"]
        ),
        "each result in the PACS": lambda: not ledger["results not in the PACS"],
        "nothing twice": lambda: not ledger["in the PACS twice or unknown"],
    }
    return [f"NOT SO: {what}" for what, holds in asked.items() if not holds()]
