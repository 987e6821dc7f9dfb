"""What the node gets from this connector besides its destination: a check of the settings."""

from __future__ import annotations

from importlib.util import find_spec

from dicom_connectors.fhir.settings import FhirPeer
from dicom_node.config.settings import Settings
from dicom_node.connectors import part
from dicom_node.preflight.found import Found


def check(settings: Settings) -> Found:
    """Peers without the library, and keys that say nothing with another transport."""
    for peer in settings.peers:
        key = f"peers.{peer.name}"
        if peer.transport == "fhir" and find_spec("fhir") is None:
            remedy = "needs fhir.resources: pip install 'dicom-ai-node[fhir]'"
            yield f"{key}.transport", peer.transport, remedy
        added = part(peer, FhirPeer)
        given = {"token": added.token.get_secret_value(), "patient_systems": added.patient_systems}
        for name in (name for name, value in given.items() if value and peer.transport != "fhir"):
            yield f"{key}.{name}", "", 'without transport = "fhir" it says nothing: leave it out'
