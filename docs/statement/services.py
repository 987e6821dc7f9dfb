"""Sections 1, 5 and 6: which services there are, what each does, and how it is configured.

A further service is one more ``Service`` in ``SERVICES``.
"""
# ruff: noqa: E501 - the lines are those of the document

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from generate import setting_row, table
from pydantic import BaseModel
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_console.web.parts import PARTS
from dicom_node.config.docstrings import documented_fields
from dicom_node.config.sections import AssemblySettings, AuditSettings, OutboxSettings
from dicom_node.config.settings import ListenerSettings, PeerSettings
from dicom_node.dicom import commitment, performed_step
from dicom_node.dicom.sop_classes import SECONDARY_CAPTURES
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from dicom_node.dicom.workitem import PULL, CancelReason
from dicom_node.model.kinds import ResultKind
from dicom_node.outbox.commitment_answers import INDEXED_AFTER
from dicom_node.results.common.envelope import SERIES_NUMBERS
from dicom_node.scp.connection import limits
from dicom_node.scp.contexts import STORAGE_CLASSES, VERIFICATION, ClassKind
from dicom_node.scp.performed_steps import KEPT_DAYS
from dicom_node.scu.archive import MOST_OBJECTS, STUDY_KEYS
from dicom_node.scu.dimse_archive import LARGEST_BY_GET
from dicom_node.scu.kinds import SOP_CLASSES
from dicom_node.scu.ups_dimse import KEYS
from dicom_node.scu.ups_events import MAXIMUM_MESSAGE
from dicom_node.scu.worklist import MOST_ITEMS
from dicom_node.services.stow import REASONS
from dicom_node.store.requested import MOST_OPEN

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
_MATCHED: Final = {
    "StudyInstanceUID": "universal, or unique for one study",
    "StudyDate": "range: one day, or universal",
    "ModalitiesInStudy": "single value, or universal",
}
_KINDS: Final = {
    ResultKind.SR: "report of findings (TID 1500)",
    ResultKind.GSPS: "overlay of findings on the source image",
    ResultKind.SC: "picture with findings drawn on it",
    ResultKind.SUMMARY: "one page on all images of a job: patient, results in words, one picture",
    ResultKind.PDF: "the same page as a PDF, with text",
    ResultKind.HEATMAP: "heat map of a finding with a colour bar",
    ResultKind.CLEANED: "source image without burned-in text, verified",
    ResultKind.SEG: "mask of what was removed; heart and lungs; ovarian lesion",
    ResultKind.REJECTION: "note that results are withdrawn, to peers with `iocm = true`",
    ResultKind.ASSESSMENT: "what a person says of the findings of a report (TID 1500), with `assessments = true`",
}


@dataclass(frozen=True)
class Service:
    """A DIMSE service of the node: SOP Class UIDs by role, and its text in section 5.2."""

    name: str
    users: tuple[str, ...]
    """SOP Class UIDs as SCU."""
    providers: tuple[str, ...]
    """SOP Class UIDs as SCP."""
    text: Callable[[], str]


def overview() -> str:
    """Section 1."""
    rows = [
        (
            service.name,
            "Yes" if service.users else "No",
            "Yes" if service.providers else "No",
            f"5.2.{number}",
        )
        for number, service in enumerate(SERVICES, start=1)
    ]
    classes = []
    for service in SERVICES:
        classes.append((f"**{service.name}**", "", "", ""))
        for uid in dict.fromkeys([*service.providers, *service.users]):
            roles = ("Yes" if uid in users else "No" for users in (service.users, service.providers))
            classes.append((class_name(uid), uid, *roles))
    return f"""\
## 1 Conformance statement overview

The node receives ultrasound and X-ray images by C-STORE, analyses them, and sends results (structured report,
presentation state, secondary captures, segmentation, PDF) to configured destinations. It may find studies that a peer has, and
fetch them, and hand received images on to an archive unchanged. It is no archive: it answers no query, and gives storage commitment
only for what an archive behind it has confirmed (`commit_after`).

### 1.1 DIMSE services

{table(("service", "user (SCU)", "provider (SCP)", "section"), rows)}
Not supported: Modality Worklist, Modality Performed Procedure Step as user, Instance Availability Notification, Print Management, Query/Retrieve as provider.

### 1.2 SOP classes

{table(("SOP class", "UID", "user (SCU)", "provider (SCP)"), classes)}
### 1.3 DICOM web services

| service | user agent | origin server |
| --- | --- | --- |
| Studies: Store (STOW-RS) | Yes | Yes, with `console.dicomweb_store` |
| Studies: Search (QIDO-RS) | Yes | Yes, with `console.dicomweb` |
| Studies: Retrieve (WADO-RS) | Yes | Yes, with `console.dicomweb` |
| Worklist (UPS-RS) | Yes, of peers with `worklist` | No |
| all others | No | No |

### 1.4 Media services

None.

### 1.5 Real-Time Video services

None.

### 1.6 De-identification profiles

Basic Application Level Confidentiality Profile with options, for destinations that ask for it: 8.4.

### 1.7 Specific Character Sets

All of PS3.3 C.12.1.1.2 are read; ISO_IR 192, or the set of the source, is written: 5.5.
"""


STOW_ANSWERS = (
    ("200", "all objects are stored: whole and on stable storage"),
    ("202", "some are, and some failed"),
    ("409", "none is stored"),
    (
        "503",
        "none is stored, all for lack of room (A700), or many other requests are under way: send again later",
    ),
    ("507", "less free disk than `spool.minimum_free_mib` and twice the request; nothing of it was read"),
    ("400", "the parts cannot be read, or the last boundary lacks; what came whole before is stored"),
    (
        "401, 403",
        "no valid token; the user is no operator, or sees some senders only and `CONSOLE` is none of them",
    ),
    ("406, 415", "another answer or another media type is asked for"),
    ("408, 413", "the request does not come, or is beyond a limit; what came whole before is stored"),
)
"""Of Store as origin server (PS3.18 Table 10.5.3-1)."""


def services() -> str:
    """Section 5."""
    mapping = [
        ("C-ECHO, C-STORE as SCP", "listener", "any configured peer that may send"),
        ("N-CREATE, N-SET as SCP of MPPS", "listener", "peers with `mpps = true`"),
        (
            "N-EVENT-REPORT as SCU of storage commitment",
            "listener, and the association of the request",
            "the peer that was asked",
        ),
        ("N-ACTION as SCP of storage commitment", "listener", 'peers with `commit_after = "delivered"`'),
        ("N-EVENT-REPORT as SCP of storage commitment", "delivery", "the peer that asked"),
        (
            "C-STORE, C-FIND, N-ACTION, C-ECHO as SCU",
            "delivery",
            'peers that may receive, with `transport = "dimse"`',
        ),
        (
            "C-FIND, C-MOVE, C-GET as SCU; C-STORE as SCP on the association of a C-GET",
            "fetching",
            'peers with `may = ["query"]` and `transport = "dimse"`',
        ),
        ("STOW-RS, QIDO-RS", "delivery", 'peers with `transport = "dicomweb"`'),
        ("QIDO-RS, WADO-RS as origin server", "console", "viewers with a token, with `console.dicomweb`"),
        (
            "STOW-RS as origin server",
            "console",
            "programs with a token of an operator or admin, with `console.dicomweb_store`",
        ),
        ("QIDO-RS, WADO-RS", "fetching", 'peers with `may = ["query"]` and `transport = "dicomweb"`'),
        (
            "REST API of Orthanc (no DICOM service)",
            "delivery, fetching",
            'peers with `transport = "orthanc"`',
        ),
        (
            "C-FIND, N-GET, N-SET, N-ACTION as SCU of UPS Pull",
            "work",
            'peers with `worklist` and `transport = "dimse"`',
        ),
        ("UPS-RS", "work", 'peers with `worklist` and `transport = "dicomweb"`'),
        (
            "HL7 v2 ORU^R01 by MLLP (no DICOM service)",
            "delivery of reports",
            'peers with `transport = "hl7"`',
        ),
        ("HL7 FHIR R4 (no DICOM service)", "delivery of reports", 'peers with `transport = "fhir"`'),
    ]
    parts = "\n".join(
        f"#### 5.2.{number} {service.name} service\n\n{service.text()}"
        for number, service in enumerate(SERVICES, start=1)
    )
    return f"""\
## 5 Service and interoperability description

### 5.1 Mapping of services to Application Entities

One application entity has all services, under one AE title.

{table(("service", "activity", "with"), mapping)}
### 5.2 DIMSE services

{parts}
### 5.3 DICOM web services

Studies web service as user agent, where a peer has `transport = "dicomweb"`: Store (`POST …/studies/{{study}}`, media type
`multipart/related; type="application/dicom"`, Explicit VR Little Endian), confirmed by Search
(`GET …/studies/{{study}}/series/{{series}}/instances`). HTTP basic authentication and TLS. No redirect is followed, and no
answer that does not name the object counts as stored.

With `may = ["query"]` studies are found by Search (`GET …/studies`, `application/dicom+json`, `limit` and `offset`, the keys of
5.2.4.2) and fetched by Retrieve (`GET …/studies/{{study}}`, `multipart/related; type="application/dicom"; transfer-syntax=*`):
whole studies as they are stored, of at most {MOST_OBJECTS} objects, within `retrieve_minutes`.

As origin server, where `console.dicomweb` is set, below `/api/dicomweb`, with a bearer token. Search: studies (by PatientName: whole
words; PatientID and AccessionNumber: whole, or their beginning and `*`; StudyDate: one or a range; ModalitiesInStudy;
StudyInstanceUID: one or a list; `limit` to 200, `offset` to 10,000; another key is left out, with a Warning header), series of a study,
instances of a study or series. Retrieve: studies, series, instances (`multipart/related; type="application/dicom"`), their metadata
(`application/dicom+json`, without Pixel Data and binary values of more than 256 KiB), frames; all as they are stored: another transfer syntax
is answered with 406. Neither rendered images nor thumbnails nor bulk data.

As origin server, where `console.dicomweb_store` is set, below `/api/dicomweb`, with a bearer token: Store
(`POST …/studies` and `POST …/studies/{{study}}`), media type `multipart/related; type="application/dicom"`; metadata with bulk data
(`application/dicom+json`, `application/dicom+xml`) is answered with 415. The SOP classes of 1.2 in the transfer syntaxes of 7.2, of at most
`listener.maximum_object_mib` each; {PARTS:,} parts and `console.upload_mib` in a request. Nothing is coerced. An object that was stored before is
stored again with success; whether it differs is found when it is indexed. The answer is the Store Instances Response
Module as `application/dicom+json` with Referenced SOP Sequence, Failed SOP Sequence, and Other Failures Sequence for parts
without valid file meta information. Retrieve URL has a value with `console.dicomweb`; the object is found there once it is indexed.

{table(("status", "when"), STOW_ANSWERS)}
{table(("Failure Reason", "meaning", "when", "reference"), [(f"{one.code:04X}", one.meaning, one.when, one.reference) for one in REASONS])}
Peers with `withdraw = "delete"` get `DELETE …/studies/{{study}}/series/{{series}}/instances/{{instance}}` for results that a person
withdrew, which PS3.18 does not have; with `transport = "orthanc"` `DELETE /instances/{{id}}`. Both are followed by a search.

With `transport = "orthanc"`, which is no DICOM service: `POST /instances`, confirmed by `POST /tools/lookup` and comparison with what
is stored; studies are found by `POST /tools/find` and fetched by `GET /instances/{{id}}/file`.

With `transport = "hl7"`, which is no DICOM service: a message ORU^R01 of HL7 2.5.1 for each report, and with `iocm` for each withdrawal,
by MLLP, plain or TLS; confirmed by the acknowledgement AA or CA of its MSH-10.

With `transport = "fhir"`, which is no DICOM service: a transaction of HL7 FHIR R4 for each report, confirmed by a search for its SOP
Instance UID.

Worklist service as user agent, where a peer has `worklist` and `transport = "dicomweb"` (`application/dicom+json`), with the attributes and the
behaviour of 5.2.6: Search (`GET …/workitems`, by Procedure Step State, `includefield=all`), Retrieve (`GET …/workitems/{{workitem}}`),
Change State (`PUT …/workitems/{{workitem}}/state`), Update (`POST …/workitems/{{workitem}}?{{transaction-uid}}`, with the Transaction UID in the data
set as well), Subscribe to a work item (`POST …/workitems/{{workitem}}/subscribers/{{AE title}}`) and Open Event Channel (`GET
…/subscribers/{{AE title}}`, WebSocket), of which UPS Cancel Requested is read, in messages of one frame of at most {MAXIMUM_MESSAGE // 1024} KiB. A
400 or 409 is followed by Retrieve, and the state of the item decides.

### 5.4 Cross-service considerations

A job begins when no association holds its study and a quiet time has passed, or when the performed procedure steps of the study
say that it is whole (5.2.5). Its results are built once: a repetition, on
whatever service, sends the same bytes under the same SOP Instance UID. "Delivered" is said only of what the destination shows
or keeps (`confirm`). A later report names the one that it replaces in Predecessor Documents Sequence.

### 5.5 Specific Character Sets

All character sets of PS3.3 C.12.1.1.2 are read, with and without code extensions. Text that its character set does
not decode is not replaced: the object is decoded with the `assume_charset` of its peer, or put in quarantine. Results
are written in ISO_IR 192 (UTF-8), or in the character set of the source (`charset = "source"`) where that holds all of them.
"""


def configuration() -> str:
    """Section 6."""
    sections: tuple[tuple[str, type[BaseModel]], ...] = (
        ("6.1 General: `[listener]`", ListenerSettings),
        ("6.2 Remote application entities: `[[peers]]`", PeerSettings),
        ("6.3 Delivery and confirmation: `[outbox]`", OutboxSettings),
        ("6.4 Audit trail: `[audit]`", AuditSettings),
    )
    parts = "\n".join(f"### {title}\n\n{_settings(model)}" for title, model in sections)
    return f"""\
## 6 Configuration

In TOML files, and for peers in the console. AE titles, hosts and ports are configured; none is discovered. The default
port is registered for DICOM; the default AE title is AINODE (`node.ae_title`). TCP/IP, IPv4 and IPv6.

{parts}"""


def _settings(model: type[BaseModel]) -> str:
    rows = [setting_row(name, field) for name, field in documented_fields(model).items()]
    return table(("parameter", "default", "what it does"), rows)


def class_name(uid: str) -> str:
    """The name of a SOP class that is in our tables, private ones too."""
    return next((item.name for item in STORAGE_CLASSES if item.uid == uid), UID(uid).name)


def _verification() -> str:
    return f"""\
As SCP to anyone whom `echo_from` lets in, even where only C-ECHO is allowed; as SCU by `dicom-node echo`,
`dicom-node peers test` and `dicom-node check`. At most {limits.STRANGERS} associations of unknown callers at a time, and
{limits.STRANGERS_OF_ONE_ADDRESS} of one address.
"""


def _storage() -> str:
    classes = table(
        ("SOP class", "UID", "taken for"),
        [(item.name, item.uid, _use(item.uid, item.kind)) for item in STORAGE_CLASSES],
    )
    syntaxes = table(
        ("preference", "transfer syntax", "UID", "kind"),
        [(number, item.name, item.uid, item.kind) for number, item in enumerate(TRANSFER_SYNTAXES, start=1)],
    )
    results = table(
        ("kind", "what it is", "SOP class", "UID", "Series Number"),
        [
            (f"`{kind}`", _KINDS[kind], UID(uid).name, uid, SERIES_NUMBERS[kind])
            for kind, uids in SOP_CLASSES.items()
            for uid in uids
        ],
    )
    return f"""\
##### 5.2.2.1 SCP of the Storage SOP classes

Each class below is accepted with each transfer syntax below, in any number of presentation contexts. Of several transfer
syntaxes in one context the first of this list that was offered is taken: what can be decoded without loss comes before what
has lost something already. Further classes: `listener.further_storage_classes`.

{classes}
Transfer syntaxes, in order of preference. Where a rule asks for images that are "kept but not decoded here" the report names
them, or says "AI did not run: cannot be decoded" if there are no others.

{syntaxes}
Objects are kept bit for bit as they came (Level 2, full; PS3.4 B.4.1), and no element is coerced, so no warning status is
returned. Success means that the object is on stable storage (file and directory entry synced). Of the content, SOP Class
UID and SOP Instance UID are compared with the request, where the first {limits.HEAD} bytes of the data set show them: another
class is refused, another instance is stored under its own UID with event 1013, or refused (`listener.instance_uids`). An
object with other faults is acknowledged and then put in quarantine. The same SOP Instance UID again is acknowledged; nothing
received is ever overwritten. Statuses: 7.3.

##### 5.2.2.2 SCU of the Storage SOP classes

Sent to peers that may receive, as far as their `results` name the kind:

{results}
Results are in Explicit VR Little Endian, and converted where the destination accepts Implicit VR Little Endian only. Nothing
is compressed.

Received objects of any class above that a rule forwards (`forward`) are sent with the data set and in the transfer syntax in which they
came, one presentation context each; between Explicit and Implicit VR Little Endian they are converted where the destination
accepts the other only. A class or transfer syntax that is not accepted is given up, for a person. They are confirmed as results are.
"""


def _use(uid: str, kind: ClassKind) -> str:
    if kind is not ClassKind.IMAGE:
        return "kept with its study, starts nothing"
    if uid in SECONDARY_CAPTURES:
        return "analysis where a rule names its sender (`secondary_captures_from`), else kept"
    return "analysis, by rule"


def _commitment() -> str:
    peer = PeerSettings(name="x", ae_title="X")
    return f"""\
##### 5.2.3.1 As SCU: results and forwarded objects are confirmed

For peers with `confirm = "commitment"` (PS3.4 Annex J). After Success of their C-STORE up to 32 objects of one study are
named in one N-ACTION (Action Type 1) on an association of its own, with a Transaction UID (2.25 and a random number) that is
in the database before it is sent. AE title, host and port may differ from those of storage (`commitment_ae_title`,
`commitment_host`, `commitment_port`). Storage media are not named.

The report (N-EVENT-REPORT, Event Types 1 and 2) is taken on the association of the request, which stays open for it for
{peer.commitment_wait_seconds:g} s (`commitment_wait_seconds`), and on an association that the SCP opens to our listener under its
AE title, proposing the SCP role by SCP/SCU Role Selection. Without that, and from peers that are not asked, the presentation
context is rejected, unless they may ask us (5.2.3.2).

It is answered with Success when it is on stable storage, may come at any time and more than once, and counts only for
objects of a request to that peer. Limits: {commitment.MAXIMUM_BYTES // 1024} KiB, {commitment.MAXIMUM_OBJECTS} objects,
{limits.REPORTS_OF_ONE_ASSOCIATION} reports on one association.

| answer | what the node does |
| --- | --- |
| object in Referenced SOP Sequence | confirmed |
| object in Failed SOP Sequence, whatever its Failure Reason | sent and asked for again, as often as refusals are; then a person must look |
| N-ACTION 0110, 0210, 0213, abort, no answer, no association | asked again with a new Transaction UID |
| other failures of the N-ACTION, context not accepted | as without report, at once |
| no report for {peer.commitment_hours:g} h (`commitment_hours`) | `commitment_else`: confirmed by query, or given up as unconfirmed for a person; a late report still confirms |

##### 5.2.3.2 As SCP: a modality asks for what it sent

For peers with `commit_after = "delivered"`; from all others the presentation context is rejected. **The node keeps nothing for good
and promises nothing itself**: an instance is reported as committed when a peer in `forward` of a rule has the version in force, and
has confirmed it by query or by its own storage commitment. No storage media and no Retrieve AE Title are named.

The N-ACTION (Action Type 1, well-known SOP Instance) is answered when it is on stable storage. Limits: {commitment.REQUEST_BYTES // 1024} KiB,
{commitment.REQUEST_OBJECTS} objects; {limits.REQUESTS_A_MINUTE} requests and {limits.OBJECTS_ASKED_A_MINUTE} objects of a peer in a minute;
{MOST_OPEN} requests of a peer that wait for a report. A Transaction UID counts once for each peer.

One N-EVENT-REPORT for each request (Event Type 1, or 2 where an instance failed), never on the association of the request: on one that
the node opens to the peer (`commitment_ae_title`, `commitment_host`, `commitment_port`, else those of the peer), proposing the SCP
role by SCP/SCU Role Selection. A peer that accepts the context without answering the role gets the report all the same. A report
that is not answered with 0000 is sent again, the same, for {peer.commit_hours:g} h (`commit_hours`), then given up (event 1074); one
whose answer was lost comes twice.

| instance | reported as |
| --- | --- |
| confirmed in an archive | in Referenced SOP Sequence |
| never sent by this peer, or not indexed {INDEXED_AFTER.total_seconds() // 60:g} minutes after the request | failed, {commitment.NO_SUCH_OBJECT:04X} |
| of another SOP class | failed, {commitment.CLASS_CONFLICT:04X} |
| of a complete study, and forwarded by no rule | failed, {commitment.PROCESSING_FAILURE:04X} |
| not confirmed {peer.commit_hours:g} h after the request (`commit_hours`), in quarantine or replaced by another's version | failed, {commitment.PROCESSING_FAILURE:04X} |
"""


def _query() -> str:
    outbox = OutboxSettings()
    return f"""\
As SCU, Study Root. Query AE, host and port may differ from those of storage. Relational queries are not used, and nothing is
cancelled.

##### 5.2.4.1 Results are confirmed

Where a peer has `confirm = "query"`: IMAGE level, one C-FIND for each series, until the destination shows the object. What is not
shown within {outbox.confirm_seconds / 60:g} minutes is sent again. `confirm = "none"` takes Success as the end.

| key | tag | match |
| --- | --- | --- |
| Query/Retrieve Level | (0008,0052) | IMAGE |
| Study Instance UID | (0020,000D) | unique |
| Series Instance UID | (0020,000E) | unique |
| SOP Instance UID | (0008,0018) | unique for one object, else universal |
| SOP Class UID | (0008,0016) | returned |

{_retrieval()}"""


def _retrieval() -> str:
    peer = PeerSettings(name="x", ae_title="X")
    keys = [
        (dictionary_description(key), Tag(tag_for_keyword(key)), _MATCHED.get(key, "returned"))
        for key in STUDY_KEYS
    ]
    return f"""\
##### 5.2.4.2 Studies are found and fetched

From peers with `may = ["query"]`: C-FIND at STUDY level, a question for each day and modality. An answer without a valid Study
Instance UID, or of another study, day, modality or patient than was asked for, is left out. For a study that is being received,
where a rule has `complete_from`, by its Study Instance UID, for Number of Study Related Instances (0020,1208); where it has `priors`,
by Patient ID (0010,0020) and a range of Study Date, and of up to 20 answers the series (SERIES level, for Body Part Examined,
0018,0015). No Patient ID with a wildcard is asked for. The same by QIDO-RS (also `GET …/studies/{{study}}/series`) and Orthanc's REST API.

{table(("key", "tag", "match"), [("Query/Retrieve Level", "(0008,0052)", "STUDY"), *keys])}
Studies are retrieved whole (STUDY level, by Study Instance UID), one at a time from each peer and not faster than
`fetch_per_minute` ({peer.fetch_per_minute:g}). One retrieval may take {peer.retrieve_minutes:g} minutes (`retrieve_minutes`).

* By C-MOVE (`retrieve = "move"`), with `node.ae_title` as Move Destination: objects come as in 5.2.2.1.
* By C-GET (`retrieve = "get"`), for which the SCP role is proposed for the storage classes of 5.2.2.1, in the transfer syntaxes
  that are decoded here. At most {MOST_OBJECTS} objects of {LARGEST_BY_GET // 2**20} MiB each. The statuses of their C-STORE are Success when the
  object is on stable storage, C000 for one that is not taken, A700 where nothing more can be stored.

Patient ID, name, birth date and sex of the answer are compared with those of the objects that come: a study that contradicts is
put in quarantine. Statuses: 7.3.7.
"""


def _performed_steps() -> str:
    minutes = AssemblySettings().mpps_minutes
    return f"""\
As SCP (PS3.4 F.7), to peers with `mpps = true`; the presentation context is rejected to all others. N-CREATE and N-SET are answered
with Success when what they say is on stable storage. N-GET (Retrieve) and N-EVENT-REPORT (Notification) are not supported. The AI results
of the node are of no performed procedure step.

| operation | what is required of it (PS3.4 Table F.7.2-1) |
| --- | --- |
| N-CREATE | attributes of type 1: Scheduled Step Attributes Sequence with Study Instance UID, Performed Procedure Step ID, Performed Station AE Title, Performed Procedure Step Start Date and Time, Modality, and Performed Procedure Step Status IN PROGRESS |
| N-SET | the step is known, was created by the same peer, and is IN PROGRESS; with COMPLETED or DISCONTINUED, or before, Performed Procedure Step End Date and Time, and Performed Series Sequence with an item |
| both, of each series | Series Instance UID, Protocol Name, and Referenced SOP Class and Instance UID of each image and other object |

Attributes of type 2 may be missing, which is taken as empty; what an N-SET may not change is not read. The SOP Instance UID is chosen
by the SCU. No Attribute List is returned, and values are neither coerced nor kept, but for status, SOP Instance UID of the step, Study
Instance UIDs, and SOP Instance UIDs of its objects. Limits: {performed_step.MAXIMUM_BYTES // 2**20} MiB, {performed_step.MAXIMUM_OBJECTS:,} objects and
{performed_step.MAXIMUM_STUDIES} studies of a step, {limits.STEP_REPORTS_OF_ONE_ASSOCIATION} requests on one association. A step is known for
{KEPT_DAYS} days after its last request; machines that have no folder in common do not know each other's steps.

A study with steps is complete when all of them are COMPLETED or DISCONTINUED and all objects that they name are here: at once where they
name all of its images, else after the quiet time. After {minutes:g} minutes of quiet (`assembly.mpps_minutes`) it is complete all the same, with
event 1083. Statuses: 7.3.7.
"""


def _work() -> str:
    keys = [(dictionary_description(key), str(Tag(tag_for_keyword(key) or 0))) for key in KEYS]
    reasons = [(reason.value, f"{reason.code.value}, {reason.code.meaning}") for reason in CancelReason]
    return f"""\
As SCU of UPS Pull (PS3.4 CC), for peers with `worklist` and `transport = "dimse"`: C-FIND (matching by Procedure Step State SCHEDULED),
N-GET, N-ACTION (Change UPS State) and N-SET, each on an association of its own, with the UPS Push SOP Class as Requested SOP Class. Tried
against a program of ours only. Neither UPS Watch nor UPS Event is supported: cancellation can be asked for by UPS-RS (5.3) only.

{table(("attribute asked for", "tag"), keys)}
Of a search {MOST_ITEMS} items are looked at. An item is claimed where Input Readiness State is READY or empty, a Scheduled Workitem Code is one of
`worklist`, Scheduled Station Name Code Sequence is empty or has `node.station_name` as a Code Value, and the Input Information Sequence names one
study: one that is here, or that a peer which may be queried has (Retrieve AE Title, or Retrieve URL of WADO-RS Retrieval).

Progress is set as Procedure Step Progress and its Description. COMPLETED is set when the results of the study are confirmed, with Performed
Station Name Code, Start and End DateTime, Performed Workitem Code (the scheduled ones) and Output Information Sequence: an item for each series
of results, with Referenced SOP Sequence and with Retrieve AE Title or Retrieve URL of the peers that have confirmed them. CANCELED is set with the
same, without outputs, and with Procedure Step Cancellation DateTime, Reason For Cancellation and a discontinuation reason:

{table(("reason", "code (DCM, CID 9300)"), reasons)}
Warnings count as Success. C300, C301, C302 and C310 are followed by N-GET, and the state of the item decides; C307 and 0112: the item is let go;
0110, 0210, 0213 and no answer: tried again, later each time; any other: claim let go, outcome given up (event 2076).
"""


SERVICES: Final[tuple[Service, ...]] = (
    Service("Verification", (VERIFICATION,), (VERIFICATION,), _verification),
    Service(
        "Storage",
        tuple(dict.fromkeys(str(uid) for classes in SOP_CLASSES.values() for uid in classes)),
        tuple(item.uid for item in STORAGE_CLASSES),
        _storage,
    ),
    Service("Storage Commitment", (str(commitment.SOP_CLASS),), (str(commitment.SOP_CLASS),), _commitment),
    Service("Query/Retrieve", (STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET), (), _query),
    Service("Modality Performed Procedure Step", (), (str(performed_step.SOP_CLASS),), _performed_steps),
    Service("Unified Worklist and Procedure Step", (str(PULL),), (), _work),
)
"""In the order of the statement."""
