"""Received objects that rules forward: queued for delivery unchanged, each version once for each peer.

This is decided when the study is complete: then it has one patient and no conflict, and the rules have all of
its images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.events import ORIGINALS_FORWARDED
from dicom_node.jobs.rules import RuleDecision
from dicom_node.model.kinds import ObjectRole
from dicom_node.store import deliveries, fetches, intake
from dicom_node.store.tables import Instance, Original, Study
from dicom_node.store.transitions import record, settle_study


def forward_originals(
    session: Session,
    study: Study,
    decisions: Sequence[RuleDecision],
    sources: Sequence[Instance],
    settings: Settings,
) -> bool:
    """Queue the images that these rules take for the peers in ``forward``; returns whether any is new.

    Reports, presentation states and captures from the senders of the images are queued with them. A limit of
    the rule that holds its job does not hold these objects. Nothing of a study that was fetched as a prior is
    queued.
    """
    wanted = [decision for decision in decisions if decision.rule.forward]
    if not wanted or fetches.is_prior(session, study.id):
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
                added[decision.rule.name, name] += _forward(session, instance, name, settings)
    for (rule, name), number in added.items():
        if number:
            record(session, ORIGINALS_FORWARDED, study.id, rule=rule, destination=name, objects=number)
    return added.total() > 0


def forward_late(session: Session, study: Study, instance: Instance, settings: Settings) -> None:
    """Queue an object that is no image and arrived after the study was complete for the peers of its images.

    Such an object does not reopen its study, so no rule will be applied to it.
    """
    for name in intake.forwarded_to(session, study.id, instance.calling_ae):
        if _forward(session, instance, name, settings):
            record(session, ORIGINALS_FORWARDED, study.id, destination=name, objects=1)
            settle_study(session, study.id)


def _forward(session: Session, instance: Instance, name: str, settings: Settings) -> bool:
    """Whether it is queued anew; not for a peer that may not have it, or that sent it."""
    peer = next((one for one in settings.peers if one.name == name), None)
    # It would come back to where it is.
    sent_it = peer and instance.calling_ae.strip().casefold() in {one.casefold() for one in peer.titles}
    if peer is None or "receive" not in peer.may or peer.deidentify or sent_it:
        return False
    return deliveries.forward(session, _original(session, instance), name)


def _original(session: Session, instance: Instance) -> Original:
    """The version in force, as the outbox knows it. The same bytes, again after their purge, are no other."""
    received = intake.file_of(session, instance)
    newest = intake.newest_original(session, instance.sop_instance_uid)
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
