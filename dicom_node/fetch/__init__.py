"""Studies of peers: the queries for them, the rate-limited retrieval into the spool, and missing studies."""

from dicom_node.fetch.arriving import Questions
from dicom_node.fetch.fetcher import (
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

__all__ = [
    "Fetcher",
    "MissingStudy",
    "Questions",
    "ask",
    "ask_again",
    "cancel",
    "fetch_missing",
    "missing",
    "questions",
    "report_missing",
]
