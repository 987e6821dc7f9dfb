"""The protocol of a destination for the outbox: send, confirm, test. Statuses are data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.dicom.commitment import CommitmentReport
from dicom_node.model.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One result object to send: a complete Part 10 file on disk.

    ``path`` is absolute. ``sha256``: the hash of the whole file; not known of a received object, which
    ``is_original``. ``bytes``: its size. ``study``: the number of its study on this node, 0 if it is not
    needed. ``rule``: the rule whose job built it. ``former``: of what it withdraws (a rejection note) or
    replaces (a report), the results that this peer has or may have. ``delivery``, ``attempts``: number and
    tries of its row in the outbox. ``pseudonym_domain``: of the pseudonyms in it, "" for none.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: Path
    sha256: str
    study: int = 0
    rule: str = ""
    former: tuple[Outgoing, ...] = ()
    delivery: int = 0
    attempts: int = 0
    bytes: int = 0
    pseudonym_domain: str = ""
    is_original: bool = False


class SendStatus(StrEnum):
    """The outcome for one object, which decides the next step of the outbox."""

    STORED = "stored"
    WARNED = "warned"  # stored, with a warning status
    VERIFY = "verify"  # the destination says it has the object already: ask it
    RETRY = "retry"  # waiting may cure it
    HUNG = "hung"  # it stopped taking or answering, and was cut off: waiting may cure it
    UNREACHABLE = "unreachable"  # nothing was sent: the destination does not answer
    REFUSED = "refused"  # waiting does not cure it
    NARROWED = "narrowed"  # no such objects are taken there: no presentation context accepted


@dataclass(frozen=True, slots=True)
class SendReport:
    """The answer to one sent object. ``code``: the DIMSE or HTTP status (up to 32 characters); ``text``:
    the reason.
    """

    status: SendStatus
    code: str = ""
    text: str = ""


class Presence(StrEnum):
    """The destination's answer on whether it has an object."""

    FOUND = "found"
    DIFFERENT = "different"  # another object bears this UID there
    NOT_FOUND = "not found"
    UNKNOWN = "unknown"  # could not be asked
    HUNG = "hung"  # the same: it stopped answering, and was cut off


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The answer to a query for one object."""

    presence: Presence
    text: str = ""


CUT_OFF = SendReport(SendStatus.HUNG, "", "cut off: it stopped taking or answering, or is too slow")
NOT_TRIED = SendReport(SendStatus.UNREACHABLE, "", "not tried: two objects before it were cut off")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one test; one line of ``dicom-node peers test``."""

    name: str
    ok: bool
    text: str


class Destination(Protocol):
    """The client of one peer that can receive objects. For one thread; no connection stays open between
    calls.

    Every call has a time limit (``outbox.answer_seconds``, ``SLOWEST_KIB_PER_SECOND``).
    """

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send in this order; one report per object, in order. Failures of the peer are reports, not
        errors.
        """

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Query whether the peer has the objects; one answer per object, in the same order."""

    def test(self) -> list[Check]:
        """Test everything that delivery needs, without storing anything."""

    def close(self) -> None:
        """End all calls under way; calls that wait for the peer return at once. Any thread may call it."""


class Remover(Protocol):
    """A destination that deletes objects. For one thread."""

    def remove(self, item: Outgoing) -> Outcome:
        """Delete this object, but no other object with its UID, and query whether it is gone.

        Done: it is. Failed: a repetition would change nothing.
        """

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""


KeepReport = Callable[[CommitmentReport], None]
"""Makes a report durable, or raises: only then it is answered with Success."""


class CommitmentUser(Protocol):
    """Requests storage commitment from one peer, as SCU (PS3.4 Annex J). For one thread."""

    def ask(self, transaction_uid: str, objects: Sequence[Outgoing], keep: KeepReport) -> Outcome:
        """Request storage commitment for these objects; a report that arrives at once is passed to
        ``keep``.

        Done: a report will follow, or has come already. Failed: the destination does not do it.
        """

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""


class CommitmentProvider(Protocol):
    """Reports to one peer on storage commitment, as SCP (PS3.4 J.3.3). For one thread."""

    def report(self, information: Dataset, event_type: int) -> str:
        """Report this Event Information; returns "" if the peer accepted it, else why not."""

    def check(self) -> Check:
        """Check whether the peer accepts reports; sends none."""

    def close(self) -> None:
        """End all calls under way; later calls fail too. Any thread may call it."""


def hangs(reports: Sequence[SendReport]) -> bool:
    """Whether two objects in a row hung: then the destination hangs, not one object, so the rest is not
    tried.
    """
    return len(reports) > 1 and all(report.status is SendStatus.HUNG for report in reports[-2:])


def shown(item: Outgoing, sop_class: str) -> Confirmation:
    """The answer of a destination that lists this UID, with this SOP class ("" if it names none)."""
    if sop_class not in ("", item.sop_class_uid):
        return Confirmation(Presence.DIFFERENT, f"the destination holds it as {UID(sop_class).name}")
    return Confirmation(Presence.FOUND)


@dataclass(frozen=True, slots=True)
class StatusRange:
    """The outbox's reaction to the statuses from ``first`` to ``last``."""

    first: int
    last: int
    status: SendStatus
    text: str


# The first range that holds a code counts. A7xx, 0110 and 0122 … stand before the classes that contain them.
STORE_STATUSES: tuple[StatusRange, ...] = (
    StatusRange(0x0000, 0x0000, SendStatus.STORED, "stored"),
    StatusRange(0xB000, 0xB000, SendStatus.WARNED, "stored, data elements coerced"),
    StatusRange(0xB006, 0xB006, SendStatus.WARNED, "stored, elements discarded"),
    StatusRange(0xB007, 0xB007, SendStatus.WARNED, "stored, data set does not match its SOP class"),
    StatusRange(0x0001, 0x0001, SendStatus.WARNED, "stored, with a warning"),
    StatusRange(0x0107, 0x0107, SendStatus.WARNED, "stored, attribute list warning"),
    StatusRange(0x0116, 0x0116, SendStatus.WARNED, "stored, attribute value out of range"),
    StatusRange(0xB000, 0xBFFF, SendStatus.WARNED, "stored, with a warning"),
    StatusRange(0x0111, 0x0111, SendStatus.VERIFY, "duplicate SOP instance"),
    StatusRange(0x0110, 0x0110, SendStatus.RETRY, "processing failure"),
    StatusRange(0x0213, 0x0213, SendStatus.RETRY, "resource limitation"),
    StatusRange(0xFE00, 0xFE00, SendStatus.RETRY, "cancelled by the destination"),
    StatusRange(0xA700, 0xA7FF, SendStatus.RETRY, "out of resources"),
    StatusRange(0x0122, 0x0122, SendStatus.REFUSED, "SOP class not supported"),
    StatusRange(0x0124, 0x0124, SendStatus.REFUSED, "not authorized"),
    StatusRange(0xA900, 0xA9FF, SendStatus.REFUSED, "data set does not match SOP class"),
    StatusRange(0xC000, 0xCFFF, SendStatus.REFUSED, "cannot understand"),
)


def store_report(code: int | None) -> SendReport:
    """The report for a C-STORE status; None: no answer came (the association was cut off).

    Error Comment (0000,0902) is left out on purpose: free text of the peer may name a patient.
    """
    if code is None:
        return SendReport(SendStatus.RETRY, "", "association lost before the answer")
    for meaning in STORE_STATUSES:
        if meaning.first <= code <= meaning.last:
            return SendReport(meaning.status, f"{code:04X}", meaning.text)
    return SendReport(SendStatus.REFUSED, f"{code:04X}", "failure")
