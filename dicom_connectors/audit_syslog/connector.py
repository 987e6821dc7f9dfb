"""What the node gets from this connector: a thread that sends, and a check of its settings."""

from collections.abc import Iterator

from dicom_connectors.audit_syslog.settings import AuditPart
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Service, typed_section
from dicom_node.base.store.database import Database
from dicom_node.people.preflight import Found, Tried


def services(database: Database, settings: Settings, owner: str) -> Iterator[Service]:
    """Yield the service whose thread sends audit records by syslog, if ``audit.syslog`` names a
    repository.
    """
    if typed_section(settings, AuditPart).audit.syslog:
        from dicom_connectors.audit_syslog.sender import AuditSender  # loads all codes of PS3.16

        sender = AuditSender(database, settings, owner)
        yield Service("audit", sender.run_once, at_stop=sender.send_last)


def check(settings: Settings) -> Found:
    """Yield mistakes in the ``[audit]`` settings, and a warning if Patient IDs in messages go unencrypted."""
    audit = typed_section(settings, AuditPart).audit
    for key in ("authorities", "certificate"):
        path = getattr(audit, key)
        if path is not None and not path.is_file():
            yield f"audit.{key}", str(path), "is no file"
    if audit.syslog and audit.transport == "udp":
        yield Tried("audit", False, "Patient IDs go over the network unencrypted, and may get lost: tls")
