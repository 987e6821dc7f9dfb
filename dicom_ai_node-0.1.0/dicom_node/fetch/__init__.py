"""Studies that peers have: asked for, fetched at a limited rate into the spool, and found to be missing."""

from __future__ import annotations

from dicom_node.fetch.arriving import Questions
from dicom_node.fetch.asking import AskedStudies, ask, ask_again, cancel, questions
from dicom_node.fetch.fetcher import Fetcher
from dicom_node.fetch.missing import MissingStudy, fetch_missing, missing, report_missing

__all__ = [
    "AskedStudies",
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
