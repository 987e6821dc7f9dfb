"""What the node gets from this connector: a thread for each vendor's AI server."""

from collections.abc import Iterator

from dicom_connectors.remote.settings import vendors
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Service
from dicom_node.base.store.database import Database


def services(database: Database, settings: Settings, owner: str) -> Iterator[Service]:
    """Yield, for each vendor's AI server, the service that sends studies to it and awaits its answers."""
    from dicom_connectors.remote.waiting import AwaitedAnswers

    for vendor in vendors(settings):
        lane = AwaitedAnswers(database, settings, vendor, owner)
        yield Service(lane.name, lane.run_once)
