"""What the node gets from this connector: the HL7 listener, and a thread that carries its messages out."""

from collections.abc import Iterator

from dicom_connectors.hl7.settings import Hl7Part
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Service, typed_section
from dicom_node.base.store.database import Database


def listener(database: Database, settings: Settings, owner: str) -> Iterator[Service]:  # noqa: ARG001
    """Yield the service that listens, if ``[hl7]`` has a port."""
    hl7 = typed_section(settings, Hl7Part).hl7
    if hl7.port:
        from dicom_connectors.hl7.inbox import Inbox
        from dicom_connectors.hl7.listener import Hl7Listener

        inbox = Inbox(database, settings, hl7.assigning_authority)
        yield Service("HL7 listener", Hl7Listener(database, hl7, inbox).run_once)


def messages(database: Database, settings: Settings, owner: str) -> Iterator[Service]:
    """Yield the service that carries out messages, if ``[hl7]`` has a port."""
    hl7 = typed_section(settings, Hl7Part).hl7
    if hl7.port:
        from dicom_connectors.hl7.carrying_out import Hl7Messages

        lane = Hl7Messages(database, settings, hl7, owner)
        yield Service(lane.name, lane.run_once)
