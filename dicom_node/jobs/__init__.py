"""Jobs: which pipeline for which study, the queue, the workers. This is the front door for other rooms."""

from dicom_node.jobs.again import foresee, replay, rerun
from dicom_node.jobs.by_hand import cancel, put_first, release_study, retry
from dicom_node.jobs.rules import Explanation, ImageFacts, explain
from dicom_node.jobs.studies import drop_waiting, enqueue_study, quarantine_study, stop_study

__all__ = [
    "Explanation",
    "ImageFacts",
    "cancel",
    "drop_waiting",
    "enqueue_study",
    "explain",
    "foresee",
    "put_first",
    "quarantine_study",
    "release_study",
    "replay",
    "rerun",
    "retry",
    "stop_study",
]
