"""What ``[audit]`` asks for: files that there are, a way that nobody reads along."""

from __future__ import annotations

from dicom_node.config.settings import Settings
from dicom_node.preflight.found import Found, Tried


def check_audit(settings: Settings) -> Found:
    """Mistakes in the audit settings; audit messages name patients by their IDs."""
    audit = settings.audit
    for key in ("authorities", "certificate"):
        path = getattr(audit, key)
        if path is not None and not path.is_file():
            yield f"audit.{key}", str(path), "is no file"
    if audit.syslog and audit.transport == "udp":
        yield Tried("audit", False, "Patient IDs go over the network unencrypted, and may get lost: tls")
