"""What the node gets from this connector: threads for each manager, a check, a test of peers."""

from collections.abc import Iterator

from dicom_connectors.worklist.settings import WorklistPeer
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Service, typed_section
from dicom_node.base.store.database import Database
from dicom_node.deliver.scu import Check
from dicom_node.people.preflight import Found, Tried


def services(database: Database, settings: Settings, owner: str) -> Iterator[Service]:
    """Yield, for each worklist manager, the service that performs its work items and, if the manager speaks
    DICOMweb, one that listens for requests to cancel them.
    """
    from dicom_connectors.worklist.performer import Cancellations, Worklist

    for peer in settings.peers:
        if typed_section(peer, WorklistPeer).worklist:
            worklist = Worklist(database, settings, peer, owner)
            yield Service(worklist.name, worklist.run_once)
            if peer.transport == "dicomweb":
                cancellations = Cancellations(database, settings, peer)
                yield Service(f"cancellations of {peer.name}", cancellations.run_once)


def check(settings: Settings) -> Found:
    """Yield a warning for each worklist manager if no peer may be queried for the input of its work items."""
    for peer in settings.peers:
        if typed_section(peer, WorklistPeer).worklist and not any(
            "query" in one.may for one in settings.peers
        ):
            text = "worklist: no peer may be queried, so only work on studies that are here is taken"
            yield Tried(f"peer {peer.name}", False, text)


def test(peer: PeerSettings, settings: Settings) -> list[Check]:
    """Check whether the worklist manager answers and lets the node in; [] for a peer that is none."""
    from dicom_connectors.worklist.performer import open_manager

    return open_manager(peer, settings).test() if typed_section(peer, WorklistPeer).worklist else []
