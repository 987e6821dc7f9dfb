"""Destinations that speak HTTP, as peers of the node."""

from typing import Any

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.deliver.scu import (
    Destination,
    open_destination,
)
from tests.outbox_lab import fhir_peer
from tests.peers import a_peer


def peer_at(transport: str, url: str, **more: Any) -> PeerSettings:
    """One that is called by HTTP."""
    if transport == "fhir":
        return fhir_peer(url, **{"patient_systems": {}, **more})
    return PeerSettings.model_validate(a_peer("pacs", may=("receive",), transport=transport, url=url, **more))


def called(peer: PeerSettings) -> Destination:
    return open_destination(peer, Settings(peers=(peer,)))


JSON, FHIR_JSON = "application/dicom+json", "application/fhir+json"
