"""Studies of peers: the queries for them, the rate-limited retrieval into the spool, and missing studies."""

from __future__ import annotations

from dicom_node.fetch.arriving import Questions
from dicom_node.fetch.asking import AskedStudies, ask, ask_again, cancel, questions
from dicom_node.fetch.cancellations import Cancellations
from dicom_node.fetch.fetcher import Fetcher
from dicom_node.fetch.missing import MissingStudy, fetch_missing, missing, report_missing
from dicom_node.fetch.worklist import Worklist, give_up_workitems

__all__ = [
    "AskedStudies",
    "Cancellations",
    "Fetcher",
    "MissingStudy",
    "Questions",
    "Worklist",
    "ask",
    "ask_again",
    "cancel",
    "fetch_missing",
    "give_up_workitems",
    "missing",
    "questions",
    "report_missing",
]
