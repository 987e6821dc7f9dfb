"""Clients of destinations and archives, each with one small protocol: DIMSE, DICOMweb, Orthanc REST."""

from importlib.metadata import EntryPoint
from typing import cast

from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.base.connectors import installed
from dicom_node.deliver.scu.interfaces import (
    MOST_OBJECTS,
    Archive,
    Check,
    CommitmentProvider,
    CommitmentUser,
    Confirmation,
    Destination,
    FoundStudies,
    FoundStudy,
    ObjectSink,
    Outgoing,
    Presence,
    Remover,
    Retrieved,
    RetrieveStatus,
    SendReport,
    SendStatus,
    StudyQuery,
)

__all__ = [
    "MOST_OBJECTS",
    "Archive",
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
    "Remover",
    "RetrieveStatus",
    "Retrieved",
    "SendReport",
    "SendStatus",
    "StudyQuery",
    "open_archive",
    "open_commitment",
    "open_destination",
    "open_remover",
    "open_reporter",
]

_OURS = {
    "dimse": "dicom_node.deliver.scu.dimse:DimseDestination",
    "dicomweb": "dicom_node.deliver.scu.dicomweb:DicomwebDestination",
    "orthanc": "dicom_node.deliver.scu.orthanc:OrthancDestination",
}
"""By transport; those of connectors are entry points."""


def open_archive(peer: PeerSettings, settings: Settings) -> Archive:
    """The client that queries this peer, by DICOMweb or DIMSE. For one thread; not connected yet."""
    if peer.transport == "dicomweb":
        from dicom_node.deliver.scu.dicomweb import DicomwebArchive

        return DicomwebArchive(peer, settings)
    from dicom_node.deliver.scu.dimse import DimseArchive

    return DimseArchive(peer, settings)


def open_commitment(peer: PeerSettings, settings: Settings) -> CommitmentUser:
    """The client that requests storage commitment from this peer. For one thread; not connected yet."""
    from dicom_node.deliver.scu.dimse import CommitmentRequestor

    return CommitmentRequestor(peer, settings)


def open_reporter(peer: PeerSettings, settings: Settings) -> CommitmentProvider:
    """The client that reports to this peer on storage commitment. For one thread; not connected yet."""
    from dicom_node.deliver.scu.dimse import CommitmentReporter

    return CommitmentReporter(peer, settings)


def open_remover(peer: PeerSettings, settings: Settings) -> Remover:
    """The client that deletes objects at this peer, which has ``withdraw = "delete"``. For one thread."""
    return cast(Remover, open_destination(peer, settings))


def open_destination(peer: PeerSettings, settings: Settings) -> Destination:
    """The client that sends to this peer, by its ``transport``. For one thread; not connected yet."""
    # Each end is imported when a peer uses it: a site without Orthanc never loads the Orthanc client.
    added = installed("destinations").get(peer.transport)
    opens = (added or EntryPoint(peer.transport, _OURS[peer.transport], "")).load()
    return cast(Destination, opens(peer, settings))
