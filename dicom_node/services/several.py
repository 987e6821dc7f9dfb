"""One action of a person on several studies: each is changed separately, and a refused one stops no other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy import select

from dicom_node.config.settings import Settings
from dicom_node.errors import NodeError, NotAllowedNow
from dicom_node.model.kinds import RejectionReason
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.services import deliveries, jobs, reading, results, studies
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.typed import PRINTABLE, Row, ServiceRequest, ServiceResult
from dicom_node.store.tables import Delivery, Job, Result
from dicom_node.store.views import find_study

_LOGGER = logging.getLogger(__name__)
StudyChange = Literal["retry", "rerun", "send", "release", "withdraw"]
MOST = 500
"""Studies that one request changes."""


class StudyChangeRequest(ServiceRequest):
    """``peer`` is for "send", ``reason`` and ``because`` are for "withdraw"."""

    change: StudyChange
    peer: str = Field("", max_length=64, pattern=PRINTABLE)
    reason: RejectionReason = RejectionReason.QUALITY
    because: str = Field("", max_length=256, pattern=PRINTABLE)


class SeveralStudies(StudyChangeRequest):
    """A change of several studies at once. ``studies``: their numbers in the database."""

    studies: Annotated[list[Annotated[int, Field(ge=1, lt=2**63)]], Field(min_length=1, max_length=MOST)]


class ChangedStudy(Row):
    """Whether one study was changed, and if not, why.

    ``by_hand``: UIDs of withdrawn results that a person must remove, by peer.
    """

    study: str
    done: bool
    reason: str
    by_hand: dict[str, list[str]] = Field(default_factory=dict)


class ChangedStudies(ServiceResult):
    """A row for each study, with its number ``id``."""

    studies: list[ChangedStudy]


def change_studies(
    settings: Settings,
    study_instance_uids: Sequence[str],
    wanted: StudyChangeRequest,
    by: Person = COMMAND_LINE,
) -> list[ChangedStudy]:
    """Change each of these studies; returns a row for each, with the ``reason`` if it was refused or failed.

    "retry": its stopped jobs and given-up deliveries. "release": from quarantine, if no choice is needed.
    "withdraw": all of its results. Raises UnknownPeer.
    """
    if wanted.change == "send":
        settings.peer(wanted.peer)
    rows = []
    for uid in study_instance_uids:
        reason, by_hand = "", dict[str, list[str]]()
        try:
            by_hand = _change(settings, uid, wanted, by)
        except NodeError as refused:
            reason = str(refused)
        except Exception as error:  # noqa: BLE001  (the others are changed, and each has its row)
            _LOGGER.error("%s of a study failed: %s", wanted.change, type(error).__name__)
            reason = f"it failed in the node ({type(error).__name__})"
        rows.append(ChangedStudy(study=uid, done=not reason, reason=reason, by_hand=by_hand))
    return rows


def _change(settings: Settings, uid: str, wanted: StudyChangeRequest, by: Person) -> dict[str, list[str]]:
    """Returns the UIDs of withdrawn results that persons must remove by hand, by peer."""
    match wanted.change:
        case "retry":
            _retry(settings, uid, by)
        case "rerun":
            studies.rerun_rules(settings, [uid], by)
        case "send":
            deliveries.send_study(settings, uid, wanted.peer, by)
        case "release":
            studies.release(settings, uid, by=by)
        case "withdraw":
            return results.withdraw(settings, uid, None, reason=wanted.reason, because=wanted.because, by=by)
    return {}


def _retry(settings: Settings, uid: str, by: Person) -> None:
    with reading(settings) as session:
        study = find_study(session, uid)
        stopped = select(Job.id).where(Job.study_id == study.id, Job.study_revision == study.revision)
        job_ids = session.scalars(stopped.where(Job.state.in_(jobs.STUCK))).all()
        dead = select(Delivery.id).join(Result).where(Result.study_id == study.id)
        delivery_ids = session.scalars(dead.where(Delivery.state == DeliveryState.DEAD)).all()
    if not job_ids and not delivery_ids:
        raise NotAllowedNow("no job was stopped and no delivery was given up")
    if job_ids:
        jobs.change_jobs(settings, job_ids, "retry", by)
    if delivery_ids:
        deliveries.retry(settings, delivery_ids, by=by)
