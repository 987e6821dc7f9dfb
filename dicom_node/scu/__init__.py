"""Clients of destinations and archives, each with one small protocol: DIMSE, Orthanc REST, DICOMweb, HL7,
FHIR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu.archive import (
    MOST_OBJECTS,
    Archive,
    FoundStudies,
    FoundStudy,
    ObjectSink,
    Retrieved,
    RetrieveStatus,
    StudyQuery,
)
from dicom_node.scu.destination import (
    Check,
    CommitmentProvider,
    CommitmentUser,
    Confirmation,
    Destination,
    Outgoing,
    Presence,
    RemovalAnswer,
    Remover,
    SendReport,
    SendStatus,
)
from dicom_node.scu.worklist import ChangeAnswer, ChangeStatus, WorklistManager

if TYPE_CHECKING:
    from dicom_node.scu.ups_events import UpsEvents

__all__ = [
    "MOST_OBJECTS",
    "Archive",
    "ChangeAnswer",
    "ChangeStatus",
    "Check",
    "CommitmentProvider",
    "CommitmentUser",
    "Confirmation",
    "Destination",
    "FoundStudies",
    "FoundStudy",
    "ObjectSink",
    "Outgoing",
    "Presence",
    "RemovalAnswer",
    "Remover",
    "RetrieveStatus",
    "Retrieved",
    "SendReport",
    "SendStatus",
    "StudyQuery",
    "WorklistManager",
    "open_archive",
    "open_commitment",
    "open_destination",
    "open_events",
    "open_remover",
    "open_reporter",
    "open_worklist",
]


def open_archive(peer: PeerSettings, settings: Settings) -> Archive:
    """The client that queries this peer, by DICOMweb or DIMSE. For one thread; not connected yet."""
    if peer.transport == "dicomweb":
        from dicom_node.scu.http_archive import DicomwebArchive

        return DicomwebArchive(peer, settings)
    from dicom_node.scu.dimse_archive import DimseArchive

    return DimseArchive(peer, settings)


def open_commitment(peer: PeerSettings, settings: Settings) -> CommitmentUser:
    """The client that requests storage commitment from this peer. For one thread; not connected yet."""
    from dicom_node.scu.commitment import CommitmentRequestor

    return CommitmentRequestor(peer, settings)


def open_reporter(peer: PeerSettings, settings: Settings) -> CommitmentProvider:
    """The client that reports to this peer on storage commitment. For one thread; not connected yet."""
    from dicom_node.scu.commitment import CommitmentReporter

    return CommitmentReporter(peer, settings)


def open_worklist(peer: PeerSettings, settings: Settings) -> WorklistManager:
    """The client of this worklist manager, by its ``transport``. For one thread; not connected yet."""
    if peer.transport == "dimse":
        from dicom_node.scu.ups_dimse import DimseManager

        return DimseManager(peer, settings)
    from dicom_node.scu.ups_rs import UpsRsManager

    return UpsRsManager(peer, settings)


def open_events(peer: PeerSettings, settings: Settings) -> UpsEvents:
    """The client for events of this worklist manager, which has UPS-RS. For one thread."""
    from dicom_node.scu.ups_events import UpsEvents

    return UpsEvents(peer, settings)


def open_remover(peer: PeerSettings, settings: Settings) -> Remover:
    """The client that deletes objects at this peer, which has ``withdraw = "delete"``. For one thread."""
    if peer.transport == "orthanc":
        from dicom_node.scu.orthanc import OrthancDestination

        return OrthancDestination(peer, settings)
    if peer.transport == "fhir":
        from dicom_node.scu.fhir import FhirDestination

        return FhirDestination(peer, settings)
    from dicom_node.scu.dicomweb import DicomwebDestination

    return DicomwebDestination(peer, settings)


def open_destination(peer: PeerSettings, settings: Settings) -> Destination:
    """The client that sends to this peer, by its ``transport``. For one thread; not connected yet."""
    # Each end is imported when a peer uses it: a site without Orthanc never loads the Orthanc client.
    if peer.transport == "orthanc":
        from dicom_node.scu.orthanc import OrthancDestination

        return OrthancDestination(peer, settings)
    if peer.transport == "dicomweb":
        from dicom_node.scu.dicomweb import DicomwebDestination

        return DicomwebDestination(peer, settings)
    if peer.transport == "hl7":
        from dicom_node.scu.mllp import Hl7Destination

        return Hl7Destination(peer, settings)
    if peer.transport == "fhir":
        from dicom_node.scu.fhir import FhirDestination

        return FhirDestination(peer, settings)
    from dicom_node.scu.dimse import DimseDestination

    return DimseDestination(peer, settings)
