"""Sections 4 and 7: the implementation model with its sequences, associations, contexts and statuses."""
# ruff: noqa: E501 - the lines are those of the document

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from generate import table
from statement.services import STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, class_name

from dicom_node.config.sections import OutboxSettings
from dicom_node.config.settings import ListenerSettings, PeerSettings
from dicom_node.dicom import commitment, performed_step
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.dicom.workitem import PULL
from dicom_node.fetch.fetcher import ATTEMPTS
from dicom_node.scp.connection import limits
from dicom_node.scp.contexts import (
    VERIFICATION,
    accepted_classes,
    commitment_context,
    presentation_contexts,
    step_context,
)
from dicom_node.scp.policy import APPLICATION_CONTEXT
from dicom_node.scp.statuses import (
    REJECTIONS,
    REPORT_STATUSES,
    REQUEST_STATUSES,
    SOP_CLASS_NOT_SUPPORTED,
    STATUSES,
    STEP_STATUSES,
    SUCCESS,
    Status,
)
from dicom_node.scu.archive import RetrieveStatus
from dicom_node.scu.destination import SendStatus
from dicom_node.scu.dimse_archive import GET_SYNTAXES
from dicom_node.scu.kinds import SOP_CLASSES
from dicom_node.scu.statuses import RETRIEVE_STATUSES, STORE_STATUSES


@dataclass(frozen=True)
class Step:
    """One message of a sequence; ``answer``: drawn as a response."""

    sender: str
    receiver: str
    message: str
    answer: bool = False


_M, _N, _P, _C = "Modality", "Node", "PACS", "Commitment SCP"
_RETRIEVED: Final = {
    RetrieveStatus.RETRIEVED: "the study is fetched",
    RetrieveStatus.INCOMPLETE: f"tried again; after {ATTEMPTS} tries it is taken as it is",
    RetrieveStatus.RETRY: f"tried again; given up after {ATTEMPTS} tries",
    RetrieveStatus.REFUSED: "given up; a person may start it once more",
}
SEQUENCES: Final[dict[str, tuple[Step, ...]]] = {
    "Images are received": (
        Step(_M, _N, "A-ASSOCIATE"),
        Step(_M, _N, "C-STORE-RQ, for each image"),
        Step(_N, _M, "C-STORE-RSP, when it is on stable storage", answer=True),
        Step(_M, _N, "A-RELEASE"),
        Step(_N, _N, "quiet time, then the rules of the study"),
    ),
    "A modality reports on its performed procedure step": (
        Step(_M, _N, "A-ASSOCIATE"),
        Step(_M, _N, "N-CREATE-RQ: IN PROGRESS, study"),
        Step(_N, _M, "N-CREATE-RSP, when it is on stable storage", answer=True),
        Step(_M, _N, "C-STORE-RQ, for each image, before, between or after"),
        Step(_M, _N, "N-SET-RQ: COMPLETED or DISCONTINUED, objects"),
        Step(_N, _M, "N-SET-RSP, when it is on stable storage", answer=True),
        Step(_N, _N, "when all objects are here, the rules of the study"),
    ),
    "Results are delivered and confirmed by query": (
        Step(_N, _P, "A-ASSOCIATE"),
        Step(_N, _P, "C-STORE-RQ, for each result"),
        Step(_P, _N, "C-STORE-RSP", answer=True),
        Step(_N, _P, "A-RELEASE"),
        Step(_N, _P, "A-ASSOCIATE, with the query AE"),
        Step(_N, _P, "C-FIND-RQ, IMAGE level, for each series"),
        Step(_P, _N, "C-FIND-RSP: pending with each object, then success", answer=True),
        Step(_N, _P, "A-RELEASE"),
    ),
    "Results are confirmed by storage commitment": (
        Step(_N, _C, "A-ASSOCIATE"),
        Step(_N, _C, "N-ACTION-RQ: Transaction UID, objects"),
        Step(_C, _N, "N-ACTION-RSP", answer=True),
        Step(_N, _C, "A-RELEASE, unless the report comes first"),
        Step(_C, _N, "A-ASSOCIATE, with SCP role"),
        Step(_C, _N, "N-EVENT-REPORT-RQ: committed and failed objects"),
        Step(_N, _C, "N-EVENT-REPORT-RSP, when it is on stable storage", answer=True),
    ),
    "A modality asks for storage commitment of what is forwarded": (
        Step(_M, _N, "A-ASSOCIATE, C-STORE-RQ, as images are received"),
        Step(_M, _N, "A-ASSOCIATE"),
        Step(_M, _N, "N-ACTION-RQ: Transaction UID, objects"),
        Step(_N, _M, "N-ACTION-RSP, when it is on stable storage", answer=True),
        Step(_M, _N, "A-RELEASE"),
        Step(_N, _P, "C-STORE-RQ, for each image, and confirmation as of results"),
        Step(_N, _M, "A-ASSOCIATE, with SCP role"),
        Step(_N, _M, "N-EVENT-REPORT-RQ: committed and failed objects"),
        Step(_M, _N, "N-EVENT-REPORT-RSP", answer=True),
        Step(_N, _M, "A-RELEASE"),
    ),
    "Studies are found and fetched by C-MOVE": (
        Step(_N, _P, "A-ASSOCIATE, with the query AE"),
        Step(_N, _P, "C-FIND-RQ, STUDY level, for each day and modality"),
        Step(_P, _N, "C-FIND-RSP: pending with each study, then success", answer=True),
        Step(_N, _P, "A-RELEASE"),
        Step(_N, _P, "A-ASSOCIATE, for each study"),
        Step(_N, _P, "C-MOVE-RQ, to our AE title"),
        Step(_P, _N, "A-ASSOCIATE, C-STORE-RQ, as images are received"),
        Step(_P, _N, "C-MOVE-RSP: pending, then the last status", answer=True),
        Step(_N, _P, "A-RELEASE"),
    ),
    "Studies are fetched by C-GET": (
        Step(_N, _P, "A-ASSOCIATE, with SCP role for storage classes"),
        Step(_N, _P, "C-GET-RQ"),
        Step(_P, _N, "C-STORE-RQ, for each object"),
        Step(_N, _P, "C-STORE-RSP, when it is on stable storage", answer=True),
        Step(_P, _N, "C-GET-RSP: the last status", answer=True),
        Step(_N, _P, "A-RELEASE"),
    ),
}


def model() -> str:
    """Section 4."""
    diagrams = "\n".join(
        f"#### 4.3.{number} {title}\n\n{_drawn(steps)}"
        for number, (title, steps) in enumerate(SEQUENCES.items(), start=1)
    )
    return f"""\
## 4 Implementation model

### 4.1 Application data flow

```mermaid
flowchart LR
    modality[Modality or PACS] -- C-STORE --> listener
    subgraph AINODE [AI node: one application entity]
        listener --> jobs[rules, analysis, results] --> delivery
        fetching --> jobs
    end
    delivery -- "C-STORE, C-FIND, N-ACTION" --> pacs[PACS]
    delivery -- "STOW-RS, QIDO-RS" --> web[DICOMweb server]
    pacs -- N-EVENT-REPORT --> listener
    fetching -- "C-FIND, C-MOVE, C-GET" --> pacs
    fetching -- "QIDO-RS, WADO-RS" --> web
```

### 4.2 Functional definition of the application entity

One application entity, `node.ae_title`, both receives and sends; `listener.further_ae_titles` adds titles under which it
receives. It waits for associations from configured peers, and opens associations when results are there to be sent,
confirmed or committed, and when studies are to be found or fetched.

### 4.3 Sequencing of real-world activities

{diagrams}"""


def _drawn(steps: Sequence[Step]) -> str:
    names = list(dict.fromkeys(name for step in steps for name in (step.sender, step.receiver)))
    short = {name: name.replace(" ", "") for name in names}
    lines = [f"    participant {short[name]} as {name}" for name in names]
    lines += [
        f"    {short[step.sender]}{'-->>' if step.answer else '->>'}{short[step.receiver]}: {step.message}"
        for step in steps
    ]
    return "\n".join(("```mermaid", "sequenceDiagram", *lines, "```", ""))


def details() -> str:
    """Section 7."""
    return "\n".join(("## 7 Network and media communication details\n", _general(), _contexts(), _statuses()))


def _general() -> str:
    listener, outbox, peer = ListenerSettings(), OutboxSettings(), PeerSettings(name="x", ae_title="X")
    rows = [
        ("Application Context Name", APPLICATION_CONTEXT),
        ("Protocol version", "bit 0 alone is tested (PS3.8 9.3.2)"),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
        ("maximum PDU size received", f"{listener.maximum_pdu_bytes} bytes (`maximum_pdu_bytes`)"),
        ("associations accepted at the same time", f"{listener.maximum_associations} (`maximum_associations`), and of each peer its own"),
        ("associations initiated at the same time", "one for each destination, one for each peer that studies are fetched from, and one for a test or a question by a person"),
        ("asynchronous operations window", "not negotiated; requests that come before the answer to the last one are answered in order"),
        ("user identity (PS3.7 D.3.3.7)", "never sent; ignored, answered without being checked, or refused (`user_identity`)"),
        ("SOP class extended negotiation", "none"),
        ("SCP/SCU role selection", "accepted for storage commitment; proposed for our reports on it, and for the objects of a C-GET"),
        ("association request as acceptor", f"whole within {listener.acse_timeout_seconds:g} s of the connection (`acse_timeout_seconds`)"),
        ("idle association as acceptor", f"aborted after {listener.network_timeout_seconds:g} s (`network_timeout_seconds`); a message has a second more for each {limits.SLOWEST_BYTES_PER_SECOND} bytes"),
        ("answer as initiator", f"{outbox.answer_seconds:g} s (`outbox.answer_seconds`), longer for large objects"),
        ("retrieval as initiator", f"{peer.retrieve_minutes:g} minutes (`retrieve_minutes` of the peer)"),
    ]  # fmt: skip
    return f"""\
### 7.1 General association parameters

{table(("parameter", "value"), rows)}
Aborted: an association request without presentation contexts. Aborted without being read to the end: one of more than
{limits.LARGEST_REQUEST} bytes, {limits.CONTEXTS} presentation contexts or {limits.USER_ITEMS} user items, another PDU of more
than {limits.LARGEST_PDU} bytes (or the maximum offered, if that is more), a command set of more than {limits.LARGEST_COMMAND} bytes,
and every command but C-STORE, C-ECHO, C-CANCEL, (5.2.3) N-EVENT-REPORT and N-ACTION and (5.2.5) N-CREATE and N-SET.
"""


def _contexts() -> str:
    accepted = presentation_contexts()
    of_storage = next(one for one in accepted if str(one.abstract_syntax) == accepted_classes()[0])
    plain = ", ".join(uid.name for uid in accepted[0].transfer_syntax)
    acceptance = [
        (class_name(VERIFICATION), VERIFICATION, plain, "SCP"),
        (f"{len(accepted) - 1} storage classes of 5.2.2.1", "", f"all {len(of_storage.transfer_syntax)} of 5.2.2.1", "SCP"),
        (
            class_name(commitment.SOP_CLASS), commitment.SOP_CLASS,
            ", ".join(uid.name for uid in commitment_context().transfer_syntax),
            "SCU, of peers that were asked; SCP, of peers that may ask",
        ),
        (
            class_name(performed_step.SOP_CLASS), performed_step.SOP_CLASS,
            ", ".join(uid.name for uid in step_context().transfer_syntax), "SCP, to peers with `mpps = true`",
        ),
    ]  # fmt: skip
    both = "Explicit VR Little Endian, Implicit VR Little Endian"
    initiation = [
        (
            "verification",
            class_name(VERIFICATION),
            VERIFICATION,
            "Implicit and Explicit VR Little Endian, Deflated, Big Endian",
        ),
        *(
            ("storage", class_name(str(uid)), uid, f"{both}: a context for each")
            for uid in dict.fromkeys(uid for uids in SOP_CLASSES.values() for uid in uids)
        ),
        ("query", class_name(STUDY_ROOT_FIND), STUDY_ROOT_FIND, both),
        ("work items", class_name(PULL), PULL, both),
        ("storage commitment", class_name(commitment.SOP_CLASS), commitment.SOP_CLASS, both),
        (
            "storage commitment report, with SCP role",
            class_name(commitment.SOP_CLASS),
            commitment.SOP_CLASS,
            both,
        ),
        (
            "storage of forwarded objects",
            "the class of each object",
            "",
            "the transfer syntax in which it came",
        ),
        *(("retrieval", class_name(uid), uid, both) for uid in (STUDY_ROOT_MOVE, STUDY_ROOT_GET)),
        (
            "retrieval by C-GET, with SCP role",
            f"{len(accepted_classes())} storage classes of 5.2.2.1",
            "",
            f"the {len(GET_SYNTAXES)} of 5.2.2.1 that are decoded here",
        ),
    ]
    return f"""\
### 7.2 Application entity specification

#### 7.2.1 Association initiation

{table(("activity", "abstract syntax", "UID", "transfer syntaxes"), initiation)}
#### 7.2.2 Association acceptance

From configured peers that may send (`may = ["send"]`) and that call one of our AE titles (`check_called_ae`).

{table(("abstract syntax", "UID", "transfer syntaxes", "role"), acceptance)}
Association rejections:

{table(("result", "source", "reason", "meaning"), [(one.result, one.source, one.reason, one.meaning) for one in REJECTIONS])}"""


def _statuses() -> str:
    outbox = OutboxSettings()
    return f"""\
### 7.3 Status codes

#### 7.3.1 Communication failures

| failure | as initiator | as acceptor |
| --- | --- | --- |
| no connection, association rejected | tried again, after {outbox.retry_seconds:g} s at first, for ever; event 5022 after a while | – |
| no answer in time, abort, connection lost | the object is asked for, then sent again; event 5009 | what is not whole is discarded; event 1003 |
| no accepted presentation context | not sent to this destination; event 5006 | the context is rejected, the association stays |

#### 7.3.2 Verification service as SCP

| status | meaning | when |
| --- | --- | --- |
| {SUCCESS.code:04X} | {SUCCESS.meaning} | always, in a presentation context of Verification |
| {SOP_CLASS_NOT_SUPPORTED.code:04X} | {SOP_CLASS_NOT_SUPPORTED.meaning} | C-ECHO in a presentation context of another class |

#### 7.3.3 Storage service as SCP

{status_table(STATUSES)}
#### 7.3.4 Storage service as SCU

The first row that holds a status counts; any other status is taken as a failure.

{table(("status", "meaning", "behaviour"), [(_range(one.first, one.last), one.text, _consequence(one.status, outbox)) for one in STORE_STATUSES])}
#### 7.3.5 Storage Commitment: answers to N-EVENT-REPORT

{status_table(REPORT_STATUSES)}
#### 7.3.6 Storage Commitment: answers to N-ACTION

{status_table(REQUEST_STATUSES)}
#### 7.3.7 Query/Retrieve service as SCU

C-FIND to confirm results, and C-FIND for studies:

| status | meaning | behaviour for results | behaviour for studies |
| --- | --- | --- | --- |
| FF00, FF01 | pending | the object that it names is confirmed | the study is to be fetched, where it is not here |
| 0000 | success | what was not named is not there yet: asked again | the next question |
| others | failure | nothing is known: asked again | the answers to this question are dropped; a person asks again, or the next night where `missing_days` is set |

C-MOVE and C-GET: the first row that holds the last status counts. Success with failed sub-operations is taken as B000, success without
any object as "the peer has no such study": given up, as where the presentation context is rejected. Where there is no association the
peer is asked again, for ever; an association that is lost, or no answer in time, is a failure.

{table(("status", "meaning", "behaviour"), [(_range(first, last), text or "success", _RETRIEVED[status]) for first, last, status, text in RETRIEVE_STATUSES])}
#### 7.3.7 Modality Performed Procedure Step service as SCP

Failures have an Error Comment (0000,0902) without any value of the request; 0120 has an Attribute Identifier List (0000,1005).

{status_table(STEP_STATUSES)}"""


def status_table(statuses: Sequence[Status]) -> str:
    """Statuses that the node returns."""
    rows = [(f"{item.code:04X}", item.category, item.meaning, item.when, item.reference) for item in statuses]
    return table(("status", "category", "meaning", "when", "reference"), rows)


def _range(first: int, last: int) -> str:
    return f"{first:04X}" if first == last else f"{first:04X} to {last:04X}"


def _consequence(status: SendStatus, outbox: OutboxSettings) -> str:
    return {
        SendStatus.STORED: "confirmed by query or storage commitment",
        SendStatus.WARNED: "stored: event 5005, confirmed likewise",
        SendStatus.VERIFY: "verified likewise",
        SendStatus.RETRY: f"tried again, after {outbox.retry_seconds:g} s at first, for ever",
        SendStatus.REFUSED: f"given up after {outbox.refusals} refusals: a person must look",
    }[status]
