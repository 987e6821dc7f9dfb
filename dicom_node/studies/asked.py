"""Questions to peers about a study, from the rules that take an image of it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.jobs import decide_study
from dicom_node.model.kinds import FetchPurpose, ObjectRole, QuestionKind
from dicom_node.store import fetches, questions
from dicom_node.store.tables import Instance, Study


def ask_about(session: Session, study: Study, image: Instance, settings: Settings) -> None:
    """Add the questions of the rules that take this image, each once per revision.

    Nothing is asked about a study that was fetched as a prior (its priors would have priors). If a study was
    fetched as a whole, nothing is asked about missing instances.
    """
    if not settings.asked_by_rules or image.role is not ObjectRole.SOURCE or not study.study_instance_uid:
        return
    fetch = fetches.of_study(session, study.study_instance_uid)
    if fetch is not None and fetch.purpose is FetchPurpose.PRIOR:
        return
    came_whole = fetch is not None and fetch.purpose is FetchPurpose.ASKED
    for decision in decide_study(session, study, [image], settings):
        rule = decision.rule
        if rule.complete_from and not came_whole:
            questions.add(session, study, QuestionKind.INSTANCES, rule.name, rule.complete_from)
        if rule.priors and not decision.held_reason:
            questions.add(session, study, QuestionKind.PRIORS, rule.name, rule.priors.peer)
