"""The tables. Times are UTC; paths are relative to ``node.data_dir``."""

from dicom_node.store.tables.analyses import (
    AnnotationReading,
    CleaningReview,
    CountedImage,
    DrawnByHand,
    ImageCount,
    ScoreCount,
)
from dicom_node.store.tables.base import Base, Id, UtcDateTime
from dicom_node.store.tables.commitments import Commitment, RequestedCommitment, WaitingReport
from dicom_node.store.tables.decisions import DecisionRow, HeldResult
from dicom_node.store.tables.fetches import ArchiveQuestion, Fetch
from dicom_node.store.tables.node import (
    Cursor,
    DiskSample,
    EnteredTable,
    EventRow,
    InstallationRow,
    Lease,
    SiteProcess,
    StudyTrace,
)
from dicom_node.store.tables.notifications import Notification, NotifiedEvent
from dicom_node.store.tables.steps import PerformedStep, StepObject, StepStudy
from dicom_node.store.tables.studies import (
    Association,
    Delivery,
    Instance,
    Job,
    Original,
    ReceivedObject,
    ReportedFinding,
    Result,
    Study,
    StudyName,
)
from dicom_node.store.tables.workitems import ClaimedWorkitem

__all__ = [
    "AnnotationReading",
    "ArchiveQuestion",
    "Association",
    "Base",
    "ClaimedWorkitem",
    "CleaningReview",
    "Commitment",
    "CountedImage",
    "Cursor",
    "DecisionRow",
    "Delivery",
    "DiskSample",
    "DrawnByHand",
    "EnteredTable",
    "EventRow",
    "Fetch",
    "HeldResult",
    "Id",
    "ImageCount",
    "InstallationRow",
    "Instance",
    "Job",
    "Lease",
    "Notification",
    "NotifiedEvent",
    "Original",
    "PerformedStep",
    "ReceivedObject",
    "ReportedFinding",
    "RequestedCommitment",
    "Result",
    "ScoreCount",
    "SiteProcess",
    "StepObject",
    "StepStudy",
    "Study",
    "StudyName",
    "StudyTrace",
    "UtcDateTime",
    "WaitingReport",
]
