"""The DICOM conformance statement, from the tables that the program itself uses (layout of PS3.2 Annex A)."""
# ruff: noqa: E501 - the lines are those of the document

from __future__ import annotations

from collections.abc import Sequence

from generate import table
from pydicom.uid import UID

from ai_pipeline import pipelines
from ai_pipeline.contract import Code
from ai_pipeline.models.registry import cards
from dicom_node.audit_trail.message import KINDS as AUDIT_KINDS
from dicom_node.config.sections import OutboxSettings
from dicom_node.config.settings import ListenerSettings, PeerSettings
from dicom_node.dicom import commitment
from dicom_node.dicom.own_objects import MANUFACTURER, MODEL_NAME
from dicom_node.dicom.sop_classes import SECONDARY_CAPTURES
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.concepts import CERTAINTY, PRIVATE, SCHEME, SCHEME_UID
from dicom_node.results.common.envelope import SERIES_NUMBERS
from dicom_node.results.deidentify.profile import DUMMY_DATE, EDITION
from dicom_node.scp.connection import limits
from dicom_node.scp.contexts import STORAGE_CLASSES, VERIFICATION, ClassKind
from dicom_node.scp.statuses import REJECTIONS, REPORT_STATUSES, STATUSES, Status
from dicom_node.scu.kinds import SOP_CLASSES

_KINDS = {
    ResultKind.SR: "report of findings (TID 1500)",
    ResultKind.GSPS: "overlay of findings on the source image",
    ResultKind.SC: "picture with findings drawn on it",
    ResultKind.SUMMARY: "one page on all images of a job: patient, results in words, one picture",
    ResultKind.HEATMAP: "heat map of a finding with a colour bar",
    ResultKind.CLEANED: "source image without burned-in text, verified",
    ResultKind.SEG: "mask of what was removed; heart and lungs; ovarian lesion",
    ResultKind.REJECTION: "note that results are withdrawn, to peers with `iocm = true`",
    ResultKind.ASSESSMENT: "what a person says of the findings of a report (TID 1500), with `assessments = true`",
}
_FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def conformance_statement(version: str) -> str:
    """The whole document."""
    parts = (_overview, _introduction, _networking, _media, _transformation, _security, _annexes)
    body = "\n".join(part(version) for part in parts)
    return f"# DICOM conformance statement\n\n{_COVER.format(version=version)}\n{body}"


_COVER = """\
Product: DICOM AI Node, version {version}. Written by `python docs/generate.py` from the tables that the program
uses: what stands here is what it does. Layout: PS3.2. **Not for diagnostic use.**
"""


def _overview(_version: str) -> str:
    rows = [("**Verification**", "", "")]
    rows.append((UID(VERIFICATION).name, "Yes", "Yes"))
    rows.append(("**Storage**", "", ""))
    sent = {str(uid) for classes in SOP_CLASSES.values() for uid in classes}
    for item in STORAGE_CLASSES:
        rows.append((item.name, "Yes" if item.uid in sent else "No", "Yes"))
    rows += [(UID(uid).name, "Yes", "No") for uid in sorted(sent - {item.uid for item in STORAGE_CLASSES})]
    rows += [("**Query/Retrieve**", "", ""), (UID(_FIND).name, "Yes", "No")]
    rows += [("**Storage Commitment**", "", ""), (commitment.SOP_CLASS.name, "Yes", "No")]
    services = table(("SOP class", "user (SCU)", "provider (SCP)"), rows)
    return f"""\
## 1 Overview

The node receives ultrasound and X-ray images by C-STORE, analyses them, and sends results (structured report,
presentation state, secondary captures, segmentation) to configured destinations. It is no archive: it answers no
query, and takes over no storage commitment (it may ask its destinations for it).

{services}
Results may also be sent by DICOMweb (STOW-RS, confirmed by QIDO-RS, PS3.18) or by the REST API of Orthanc; see 3.5.
No media storage.
"""


def _introduction(_version: str) -> str:
    return """\
## 2 Introduction

For those who connect the node to modalities, PACS and other systems. Conformance to this statement does not by
itself assure interoperability: test with your own systems (`dicom-node peers test`, `dicom-node rules try`).

Terms and abbreviations are those of PS3. "Peer" is a configured remote application entity (`[[peers]]`).
"""


def _networking(version: str) -> str:
    return "\n".join(
        ("## 3 Networking\n", _model(), _storage_scp(), _storage_scu(), _interfaces(), _web(version))
    )


def _model() -> str:
    return f"""\
### 3.1 Implementation model

One application entity, `node.ae_title` (default AINODE), both receives and sends; `listener.further_ae_titles` adds
titles under which it receives.

1. A modality or PACS opens an association and sends images. Each is answered when it is on stable storage.
2. When no association holds the study and a quiet time has passed, its rules are applied.
3. Results are sent on associations that the node opens; then the destination is queried until it shows them, or
   asked for storage commitment until it reports that it keeps them.

Implementation Class UID: `{IMPLEMENTATION_CLASS_UID}`; Implementation Version Name: `{IMPLEMENTATION_VERSION_NAME}`.
Maximum PDU size offered: {ListenerSettings().maximum_pdu_bytes} bytes (`listener.maximum_pdu_bytes`). No asynchronous
operations window, no extended negotiation; user identity (PS3.7 D.3.3.7) is ignored, answered without being checked, or
refused (`listener.user_identity`); role selection for storage commitment reports only. Of Protocol-version bit 0 alone is
tested (PS3.8 9.3.2).
"""


def _storage_scp() -> str:
    images = [item for item in STORAGE_CLASSES if item.kind is ClassKind.IMAGE]
    others = [item for item in STORAGE_CLASSES if item.kind is not ClassKind.IMAGE]
    classes = table(
        ("SOP class", "UID", "taken for"),
        [(item.name, item.uid, _use(item.uid)) for item in images]
        + [(item.name, item.uid, "kept with its study, starts nothing") for item in others],
    )
    syntaxes = table(
        ("preference", "transfer syntax", "UID", "kind"),
        [(number, item.name, item.uid, item.kind) for number, item in enumerate(TRANSFER_SYNTAXES, start=1)],
    )
    statuses = _status_table(STATUSES)
    rejections = table(
        ("result", "source", "reason", "meaning"),
        [(item.result, item.source, item.reason, item.meaning) for item in REJECTIONS],
    )
    listener = ListenerSettings()
    return f"""\
### 3.2 Association acceptance: Verification SCP and Storage SCP

Associations are accepted from configured peers that may send (`may = ["send"]`) and that call one of our AE titles
(`check_called_ae`); C-ECHO from {listener.echo_from} (`echo_from`). At most {listener.maximum_associations}
associations at the same time, and `maximum_associations` of each peer. An association request must be there whole
{listener.acse_timeout_seconds:g} s after the connection; an idle association is aborted after
{listener.network_timeout_seconds:g} s, and a message that takes longer than that and a second for each
{limits.SLOWEST_BYTES_PER_SECOND} bytes of it.

Aborted: an association request without presentation contexts. Aborted without being read to the end: one of more than {limits.LARGEST_REQUEST} bytes,
{limits.CONTEXTS} presentation contexts or {limits.USER_ITEMS} user items, another PDU of more than
{limits.LARGEST_PDU} bytes (or the maximum offered, if that is more), a command set of more than
{limits.LARGEST_COMMAND} bytes, and every command but C-STORE, C-ECHO, C-CANCEL and (3.3, storage commitment)
N-EVENT-REPORT. Requests that come before the
answer to the last one are answered in their order.

Each storage class below is accepted with each transfer syntax below, in any number of presentation contexts. Of
several transfer syntaxes in one context the first of this list that was offered is taken: what we can decode
without loss comes before what has lost something already. Further classes: `listener.further_storage_classes`.

#### SOP classes

{classes}
#### Transfer syntaxes, in order of preference

Where a rule asks for images that are "kept but not decoded here" the report names them, or says "AI did not run:
cannot be decoded" if there are no others.

{syntaxes}
Objects are kept bit for bit as they came (Level 2, full; PS3.4 B.4.1); no element is coerced, so no warning status is
returned. Success means that the object is on stable storage (file and directory entry synced). Of the content SOP Class
UID and SOP Instance UID are compared with the request, where the first {limits.HEAD} bytes of the data set show them: another
class is refused, another instance is stored under its own UID with event 1013, or refused (`listener.instance_uids`).
An object with other faults is acknowledged and then put in quarantine. The same SOP Instance UID again is
acknowledged; nothing received is ever overwritten.

#### C-STORE statuses

{statuses}
#### Association rejections

{rejections}
"""


def _status_table(statuses: Sequence[Status]) -> str:
    rows = [(f"{item.code:04X}", item.category, item.meaning, item.when, item.reference) for item in statuses]
    return table(("status", "category", "meaning", "when", "reference"), rows)


def _use(uid: str) -> str:
    if uid in SECONDARY_CAPTURES:
        return "analysis where a rule names its sender (`secondary_captures_from`), else kept"
    return "analysis, by rule"


def _storage_scu() -> str:
    rows = [
        (f"`{kind}`", _KINDS[kind], UID(uid).name, uid, SERIES_NUMBERS[kind])
        for kind, uids in SOP_CLASSES.items()
        for uid in uids
    ]
    results = table(("kind", "what it is", "SOP class", "UID", "Series Number"), rows)
    outbox = OutboxSettings()
    return f"""\
### 3.3 Association initiation: Storage SCU, Query SCU, Verification SCU

#### Storage SCU

Sent to peers that may receive, as far as their `results` name the kind:

{results}
One presentation context per class and transfer syntax: Explicit VR Little Endian and Implicit VR Little Endian.
Objects are built once; a repetition sends the same bytes under the same SOP Instance UID.

{_answers(outbox)}
#### Query SCU

After Success the destination is asked (Study Root, IMAGE level: Study, Series and SOP Instance UID; SOP Class UID is
requested) until it shows the object. What is not shown within {outbox.confirm_seconds / 60:g} minutes is sent again.
Query AE, host and port may differ from those of storage; `confirm = "none"` takes Success as the end.

{_commitment()}
#### Verification SCU

`dicom-node echo`, `dicom-node peers test` and `dicom-node check`.
"""


def _commitment() -> str:
    peer = PeerSettings(name="x", ae_title="X")
    return f"""\
#### Storage Commitment Push Model SCU (PS3.4 Annex J)

For peers with `confirm = "commitment"`. After Success of their C-STORE up to 32 objects of one study are named in one
N-ACTION (Action Type 1) on an association of its own, in Explicit or Implicit VR Little Endian, with a Transaction UID
(2.25 and a random number) that is in the database before it is sent. AE title, host and port may differ from those of
storage (`commitment_ae_title`, `commitment_host`, `commitment_port`). Storage media are not named.

The report (N-EVENT-REPORT, Event Types 1 and 2) is taken

* on the association of the request, which stays open for it for {peer.commitment_wait_seconds:g} s
  (`commitment_wait_seconds`), and
* on an association that the SCP opens to our listener under its AE title, proposing the SCP role by SCP/SCU Role
  Selection. Without that, and from peers that are not asked, the presentation context is rejected: **the node takes
  over no storage commitment**, as SCP it gives none.

It is answered with Success when it is on stable storage, may come at any time and more than once, and counts only for
objects of a request to that peer. Limits: {commitment.MAXIMUM_BYTES // 1024} KiB, {commitment.MAXIMUM_OBJECTS} objects,
{limits.REPORTS_OF_ONE_ASSOCIATION} reports on one association.

{_status_table(REPORT_STATUSES)}
| answer | what the node does |
| --- | --- |
| object in Referenced SOP Sequence | confirmed |
| object in Failed SOP Sequence, whatever its Failure Reason | sent and asked for again, as often as refusals are; then a person must look |
| N-ACTION 0110, 0210, 0213, abort, no answer, no association | asked again with a new Transaction UID |
| other failures of the N-ACTION, context not accepted | as without report, at once |
| no report for {peer.commitment_hours:g} h (`commitment_hours`) | `commitment_else`: confirmed by query, or given up as unconfirmed for a person; a late report still confirms |
"""


def _answers(outbox: OutboxSettings) -> str:
    rows: Sequence[tuple[str, str]] = (
        ("0000", "confirmed by query or storage commitment"),
        ("B000, B006, B007 and other warnings", "stored; a warning event; confirmed likewise"),
        ("0111 (duplicate SOP instance)", "verified likewise"),
        (
            "A7xx, 0110, 0213, abort, no answer",
            f"tried again, after {outbox.retry_seconds:g} s at first, for ever",
        ),
        (
            "0122, 0124, A9xx, Cxxx and other failures",
            f"given up after {outbox.refusals} refusals: a person must look",
        ),
        ("no accepted presentation context", "not sent to this destination; a warning event"),
    )
    return table(("answer of the destination", "what the node does"), rows)


def _interfaces() -> str:
    return """\
### 3.4 Network interfaces and configuration

TCP/IP (IPv4, IPv6). Default port 11112 (`listener.port`), registered for DICOM. AE titles, hosts and ports of peers
are configured (`docs/admin.md`); none is discovered.
"""


def _web(_version: str) -> str:
    return """\
### 3.5 Web services as a client

With `transport = "dicomweb"`: STOW-RS (`POST …/studies/{study}`, `application/dicom`), confirmed by QIDO-RS
(`GET …/studies/{study}/series/{series}/instances`). With `transport = "orthanc"`: `POST /instances`, confirmed by
`POST /tools/lookup` and comparison with what is stored. HTTP basic authentication and TLS. No web service is provided.
"""


def _media(_version: str) -> str:
    return "## 4 Media interchange\n\nNone.\n"


def _transformation(_version: str) -> str:
    return """\
## 5 Support of character sets

All character sets of PS3.3 C.12.1.1.2 are read, with and without code extensions. Text that its character set does
not decode is not replaced: the object is decoded with the `assume_charset` of its peer, or put in quarantine. Results
are written in ISO_IR 192 (UTF-8), or in the character set of the source (`charset = "source"`).
"""


def _security(_version: str) -> str:
    audited = table(
        ("what a person did", "Event ID", "Event Type Code", "action"),
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
## 6 Security

* Secure transport: DICOM over TLS (PS3.15 B.12) for receiving (`[listener.tls]`, with client certificates when
  `trusted` is set) and sending (`tls = true`).
* Association level: calling and called AE title, optionally the address of the caller, permissions and limits per
  peer.
* De-identification (PS3.15 Annex E) for peers with `deidentify = true`, and for no others: Basic Application Level
  Confidentiality Profile, for images with the Clean Pixel Data Option, for reports the Clean Structured Content Option, by
  Table E.1-1 of edition {EDITION}. Patient Identity Removed (0012,0062) is YES, De-identification Method Code Sequence
  (0012,0064) holds (113100, DCM), in images (113101, DCM), in reports (113104, DCM), Longitudinal Temporal Information
  Modified (0028,0303) is REMOVED. UIDs and the pseudonym in Patient ID and Patient's Name are HMAC-SHA256 under a key of
  the site. All attributes that are not needed to describe the picture are removed, more than the profile asks for.
  By a peer's `retain` also the options Retain Longitudinal Temporal Information Modified Dates (113107, of Study Date;
  (0028,0303) is then MODIFIED), Retain Patient Characteristics (113108: sex, age, size, weight), Retain Device Identity
  (113109: in Contributing Equipment) and Clean Descriptors (113105: known words of Study Description).
  Dates that an IOD requires are {DUMMY_DATE}. Digital signatures and encrypted attributes are not made.
* For all other peers attributes that identify the patient are kept, and Patient Identity Removed is never set to YES.
* Audit trail (PS3.15 A.5, where `[audit]` names a repository): what a person did, as audit messages by syslog over TLS
  (RFC 5425; TLS 1.2 or newer) or UDP (RFC 5426), MSGID DICOM+RFC3881. Active participants are the person and the node
  ((110150, DCM, "Application"); AlternativeUserID has its AE title), objects the study (Study Instance UID) and the patient
  (Patient ID). Events without a person (start and stop, associations, transfers) are not sent.

{audited}"""


def _private_classes() -> list[Code]:
    """The codes of our own scheme on the cards of pipelines and models, but for those of all results."""
    codes = [code for card in pipelines.cards() for code in card.private_codes]
    codes += [label.code for card in cards() for label in card.labels]
    common = {code.value for code in PRIVATE}
    return [code for code in codes if code.scheme == SCHEME and code.value not in common]


def _measures() -> str:
    """What each pipeline measures, with its codes."""
    found = []
    for card in pipelines.cards():
        codes = dict.fromkeys(one.code for one in card.measures)
        named = [f"{code.meaning} ({code.value}, {code.scheme})" for code in codes]
        found += [f"{', '.join(named)} by `{card.name}`"] if named else []
    return "; ".join(found)


def _outlines() -> str:
    """What each pipeline outlines."""
    found = [(card.name, ", ".join(one.meaning for one in card.outlines)) for card in pipelines.cards()]
    return "; ".join(f"{structures} by `{name}`" for name, structures in found if structures)


def _annexes(_version: str) -> str:
    codes = table(
        ("value", "scheme", "meaning"),
        [(code.value, code.scheme_designator, code.meaning) for code in PRIVATE]
        + [(code.value, code.scheme, code.meaning) for code in _private_classes()],
    )
    return f"""\
## 7 Annexes

### 7.1 Created SOP instances

All results, but for those of de-identified destinations (6): patient and study attributes as in the source image, to
the letter; a series of their own, numbered from
{min(SERIES_NUMBERS.values())}, whose description begins with "AI"; times are those of the analysis and never change;
Manufacturer `{MANUFACTURER}`, Manufacturer's Model Name `{MODEL_NAME}`. UIDs are derived (UUIDv5 under 2.25) from all
that shaped the object: in one installation the same images and models give the same UIDs.

Device UID (0018,1002) and Device Serial Number (0018,1000) are those of the installation: a number drawn when its database
was made, which backups hold. A site with several machines is one installation. Contributing Equipment Sequence (0018,A001)
names the installation and each model with purpose (109102, DCM, "Processing Equipment"); the Device UID of a model is of
installation, weights and card. Device Observer UID (121012, DCM) is of installation, pipeline and models, in reports,
assessments and rejection notes. By Manufacturer and Manufacturer's Model Name in Contributing Equipment results that come
back are recognised and start nothing. Results without identity name no installation.

Measurements of a fetus have the subject context of TID 1006 and TID 1008: Subject Class (121024, DCM) Fetus (121026, DCM) and
as Subject ID (121030, DCM) the letter or number in the picture, `1` where nothing tells of a second fetus; in every such
measurement group, and in the document where all measurements are of one. So has the note that withdraws such a report.

Target Region (123014, DCM) stands with every image in the image library: the first member of CID 4031 among Anatomic Region
Sequence (SNOMED CT, or RT mapped to it), Body Part Examined and the region that the pipeline is made for; where none of them
has one, (38266002, SCT, "Entire body").

| object | what it holds |
| --- | --- |
| Comprehensive 3D SR | TID 1500, the conclusion (121077, DCM) in words first: per finding with a place a group by TID 1410 (SCOORD), else TID 1501; finding, presence (CID 240), probability; what a model measured as TID 1501 groups (no TID 5000): {_measures()}; image library with view and target region; UNVERIFIED, COMPLETE. What was looked for and not found, and "AI did not run" with a reason of CID 9300 or 9303, are reports too |
| Presentation state | graphic annotations with the tracking UIDs of the report; window and LUTs of the source; INVERSE for MONOCHROME1; colour presentation state for colour images |
| Secondary capture | picture, RGB, with findings or a heat map drawn on it, on the cleaned image only where the pipeline cleans first; Burned In Annotation YES |
| Cleaned image | the source's samples without burned-in text, as secondary capture (multi-frame where the source is), DERIVED\\SECONDARY; Burned In Annotation NO after verification only; "inpainted, not for measurement"; one that a pipeline of another package has processed further is in a series of its own, with the Derivation Code that it names besides |
| Key Object Selection | the rejection note of IHE IOCM (RAD TF-3, 4.66): (113001, DCM, "Rejected for Quality Reasons") or (113037, DCM, "Rejected for Patient Safety Reasons") with the person's words as description (113012, DCM); made when a person withdraws results |
| Assessment | Comprehensive 3D SR, TID 1500: the assessed report in Referenced Instance Sequence (purpose ASSESSEDREPORT) and in the evidence, its UID as a UIDREF item, for each finding a TID 1501 group with its own tracking UID, the model, ASSESSMENT = ACCEPTED, MODIFIED, REJECTED or MISSING (private codes) and the reason as (121106, DCM, "Comment"); person and device observer; UNVERIFIED, PRELIMINARY; a later one names its predecessor |
| Segmentation | BINARY: mask of what was removed; what a pipeline outlines, a segment for each structure ({_outlines()}) |

Finding's probability: in % from calibrated models only, a private code of the finding with (111012, DCM,
"{CERTAINTY.meaning}") as its Equivalent Code where the finding is not absent; any other number is called a score.
Timezone Offset From UTC (0008,0201) is that of the source. Where the source has none there is none: it would speak of
the copied Study Date and Time too, whose zone is not known; the times of the analysis are then in the node's own zone.

### 7.2 Private attributes

None in results. Objects in the spool hold (0002,0100) and (0002,0102) Private Information in their File Meta
Information: how the object came.

### 7.3 Coded terminology

SNOMED CT, DCM, LOINC, RadLex and UCUM, as the model cards name them with their source. Private codes, coding scheme
designator `{SCHEME}`, UID `{SCHEME_UID}` in Coding Scheme Identification Sequence (0008,0110):

{codes}
Names of scores and probabilities of single findings are codes of the same scheme, hashes of the finding's code and the
name.

### 7.4 Greyscale consistency

Not claimed: the node displays nothing.
"""
