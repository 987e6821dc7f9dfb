"""Section 8 and Annex A.C: secure transport, identity, audit trail, de-identification."""
# ruff: noqa: E501 - the lines are those of the document

from __future__ import annotations

from generate import table

from dicom_node.audit_trail.message import KINDS as AUDIT_KINDS
from dicom_node.results.deidentify.profile import DUMMY_DATE, EDITION


def security() -> str:
    """Section 8."""
    audited = table(
        ("what was done", "Event ID", "Event Type Code", "action"),
        [
            (
                action.value.replace("_", " "),
                f'({kind.event.value}, DCM, "{kind.event.meaning}")',
                f'({kind.type.value}, DCM, "{kind.type.meaning}")' if kind.type else "",
                kind.action,
            )
            for action, kind in AUDIT_KINDS.items()
        ],
    )
    return f"""\
## 8 Security

### 8.1 Secure transport

DICOM over TLS 1.2 or newer (PS3.15 B.12, BCP 195) for receiving (`[listener.tls]`; with client certificates when `trusted` is
set) and sending (`tls = true`). DICOMweb over HTTPS with verified certificates.

### 8.2 Association security

Calling and called AE title, optionally the address of the caller, permissions and limits for each peer. User identity is not
used to let anybody in; what the node does with one: 7.1.

### 8.3 Audit trail

Where `[audit]` names a repository: audit messages of PS3.15 A.5 by syslog over TLS (RFC 5425; TLS 1.2 or newer) or UDP (RFC
5426), MSGID DICOM+RFC3881, checked against the schema of A.5.1 before they are sent. Active participants are the person, or
the other application entity as source (110153, DCM) or destination (110152, DCM), and the node ((110150, DCM, "Application")
where it has neither role; AlternativeUserID has its AE title), objects the study (Study Instance UID) and the patient (Patient
ID). The last six rows are what no person did: the node's start and stop, a complete study, results sent to a peer (one message
for messages that were sent together), an association or a TLS handshake that was refused, and questions to a peer about a study,
its patient, or studies without result. Questions that confirm results are not audited.

{audited}
### 8.4 De-identification

PS3.15 Annex E, for peers with `deidentify = true` and for no others: Basic Application Level Confidentiality Profile, for
images with the Clean Pixel Data Option, for reports the Clean Structured Content Option, by Table E.1-1 of edition {EDITION}.
Patient Identity Removed (0012,0062) is YES, De-identification Method Code Sequence (0012,0064) holds (113100, DCM), in images
(113101, DCM), in reports (113104, DCM), Longitudinal Temporal Information Modified (0028,0303) is REMOVED. UIDs and the
pseudonym in Patient ID and Patient's Name are HMAC-SHA256 under a key of the site. All attributes that are not needed to
describe the picture are removed, more than the profile asks for. Dates that an IOD requires are {DUMMY_DATE}. Digital
signatures and encrypted attributes are not made.

By a peer's `retain` also the options Retain Longitudinal Temporal Information Modified Dates (113107, of Study Date;
(0028,0303) is then MODIFIED), Retain Patient Characteristics (113108: sex, age, size, weight), Retain Device Identity
(113109: in Contributing Equipment) and Clean Descriptors (113105: known words of Study Description).

For all other peers attributes that identify the patient are kept, and Patient Identity Removed is never set to YES.
"""


def security_details() -> str:
    """Annex A.C."""
    return """\
## Annex A.C Security details

Cipher suites are those of OpenSSL's default for TLS 1.2 and newer; certificates are PEM files of the site. No digital
signatures, no encrypted attributes, no secure use profiles. Time: results and audit messages use the clock of the machine,
which a site keeps by NTP (IHE CT); the node sets none.
"""
