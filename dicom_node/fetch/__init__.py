"""Studies of peers: the queries for them, the rate-limited retrieval into the spool, and missing studies."""

from __future__ import annotations

from dicom_node.fetch.arriving import Cancellations, Questions
from dicom_node.fetch.fetcher import (
    AskedStudies,
    Fetcher,
    MissingStudy,
    ask,
    ask_again,
    cancel,
    fetch_missing,
    missing,
    questions,
    report_missing,
)
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
