"""Questions to peers about earlier studies of a patient; ``fetch.arriving`` asks them."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.kinds import QuestionState
from dicom_node.base.store.tables import ArchiveQuestion, Study
from dicom_node.base.store.transitions import utc_now


def of_rule(session: Session, study: Study, rule: str) -> ArchiveQuestion | None:
    """The question of a rule about this revision of the study."""
    row = ArchiveQuestion
    mine = (row.study_id == study.id, row.revision == study.revision, row.rule == rule)
    return session.scalar(select(row).where(*mine))


def add(session: Session, study: Study, rule: str, peer: str) -> None:
    """Add the question of a rule about this revision of the study, once."""
    if of_rule(session, study, rule) is None:
        mine = {"study_id": study.id, "revision": study.revision, "rule": rule}
        session.add(ArchiveQuestion(**mine, peer=peer, next_at=utc_now()))
        session.flush()


def wait_for_priors(session: Session, study: Study, rule: str, until: datetime) -> bool:
    """Whether the job of this rule must wait for earlier studies; ``until`` at most."""
    row = of_rule(session, study, rule)
    if row is None or row.state is QuestionState.ENDED:
        return False
    row.until = until
    return True
