"""Jobs: which pipeline for which study, the queue, the workers. Other packages import from here."""

from dicom_node.jobs.enqueue import cancel, decide_study, enqueue_study, forward_late, put_first, retry
from dicom_node.jobs.rules import RuleDecision, explain

__all__ = [
    "RuleDecision",
    "cancel",
    "decide_study",
    "enqueue_study",
    "explain",
    "forward_late",
    "put_first",
    "retry",
]
