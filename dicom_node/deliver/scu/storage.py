"""Sending by C-STORE, as SCU (PS3.4 B), and its confirmation by C-FIND: DIMSE destinations.

Files are sent with their bytes unchanged if the peer accepts their transfer syntax. Explicit VR Little Endian
is converted if the peer accepts only Implicit VR Little Endian; compressed objects are never transcoded.
Query and store may be two AEs.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    generate_uid,
)
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom import dimse_n
from dicom_node.base.errors import Unavailable
from dicom_node.base.lifecycle import RESULT_KINDS, ResultKind
from dicom_node.deliver.scu import (
    CUT_OFF,
    NOT_TRIED,
    Check,
    Confirmation,
    Outgoing,
    Presence,
    SendReport,
    SendStatus,
    hangs,
    query_outcome,
    store_report,
)
from dicom_node.deliver.scu.association import (
    ENDLESS_ANSWER,
    LITTLE_ENDIAN,
    MOST_CONTEXTS,
    DimseCaller,
    NoAssociation,
    contexts,
)
from dicom_node.deliver.scu.query_retrieve import FIND, query_identifier


class DimseDestination(DimseCaller):
    """The client of a PACS that receives objects by DIMSE."""

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send all objects; if the peer cuts the association at one object, continue with the next on a new
        one.
        """
        reports: list[SendReport] = []
        while len(reports) < len(objects):
            rest = objects[len(reports) :]
            reports += [NOT_TRIED] * len(rest) if hangs(reports) else self._send_on_one_association(rest)
        return reports

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Query by C-FIND at IMAGE level (PS3.4 C.6.2.1) which objects the peer has, with one query per
        series.
        """
        with self.associate(contexts(FIND), service="query") as association:
            if isinstance(association, NoAssociation):
                return [Confirmation(Presence.UNKNOWN, f"query: {association.text}")] * len(objects)
            found: dict[str, str] = {}
            missing = {}
            for series in dict.fromkeys(item.series_instance_uid for item in objects):
                group = [item for item in objects if item.series_instance_uid == series]
                question = query_identifier(
                    "IMAGE",
                    StudyInstanceUID=group[0].study_instance_uid,
                    SeriesInstanceUID=series,
                    SOPInstanceUID=group[0].sop_instance_uid if len(group) == 1 else "",
                    SOPClassUID="",
                )
                seconds, find = self._settings.outbox.answer_seconds, association.send_c_find
                code, _, matches = self.request(association, seconds, find, question, FIND)
                named = [match for match in matches if "SOPInstanceUID" in match]
                found |= {str(one.SOPInstanceUID): str(one.get("SOPClassUID", "") or "") for one in named}
                missing[series] = self._not_found(code)
        return [
            query_outcome(item, found[item.sop_instance_uid])
            if item.sop_instance_uid in found
            else missing[item.series_instance_uid]
            for item in objects
        ]

    def test(self) -> list[Check]:
        """Test C-ECHO, the acceptance of the SOP classes of results, and the queries for confirmation."""
        checks = [self.echo()]
        if not checks[0].ok:
            return checks
        programs = any(rule.runs_program for rule in self._settings.rules)
        more = {
            ResultKind.REJECTION: self._peer.iocm,
            ResultKind.ASSESSMENT: self._peer.assessments,
            ResultKind.PROGRAM_SR: programs and self._peer.takes(ResultKind.PROGRAM_SR),
        }
        kinds = (*self._peer.results, *(kind for kind, taken in more.items() if taken))
        checks += [
            self.accepts(str(kind), "storage", uid)
            for kind in kinds
            for uid in RESULT_KINDS[kind].sop_classes
        ]
        if self._peer.confirm == "commitment":
            checks.append(self.accepts("commitment", "commitment", dimse_n.COMMITMENT_CLASS))
        if self._peer.answers_queries:
            # For an object that nobody has: a PACS may accept the context and refuse the question.
            nobody = Outgoing("", generate_uid(), generate_uid(), generate_uid(), Path(), "")
            [answer] = self.confirm([nobody])
            is_answered = answer.presence is not Presence.UNKNOWN and answer.presence is not Presence.HUNG
            text = "Study Root C-FIND answered" if is_answered else answer.text.removeprefix("query: ")
            checks.append(Check("query", is_answered, text))
        return checks

    def echo(self) -> Check:
        """Test C-ECHO (PS3.4 A), with the time that it took."""
        began = time.monotonic()
        status, _, text = self.call([build_context(Verification)], "send_c_echo")
        took = f", {(time.monotonic() - began) * 1000:.0f} ms"
        return Check("echo", status == 0, text if status is None else text + took)

    def _send_on_one_association(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Send objects on one association, until it ends; returns a report for each object that was tried."""
        with self.associate(_store_contexts(objects)) as association:
            if isinstance(association, NoAssociation):
                status = SendStatus.NARROWED if association.takes_nothing else SendStatus.UNREACHABLE
                return [SendReport(status, "", association.text)] * len(objects)
            reports: list[SendReport] = []
            for item in objects:
                reports.append(self._store(association, item))
                if not association.is_established:
                    break
        return reports

    def _store(self, association: Association, item: Outgoing) -> SendReport:
        """Send one object by C-STORE; returns the peer's answer."""
        content = _as_accepted(association, item)
        if isinstance(content, SendReport):
            return content
        seconds = self._settings.outbox.seconds_for(item.path.stat().st_size)
        try:
            # Priority 0 is medium (PS3.7 9.1.1).
            status, _, _ = self.request(association, seconds, association.send_c_store, content, priority=0)
        except ValueError:
            return SendReport(SendStatus.REFUSED, "", "cannot be converted to Implicit VR Little Endian")
        return CUT_OFF if status is None and self._connections.timed_out else store_report(status)

    def _not_found(self, code: int | None) -> Confirmation:
        """The outcome for an object that a C-FIND did not return; ``code``: its last status, None without an
        answer.
        """
        if code == 0:
            return Confirmation(Presence.NOT_FOUND, "the destination does not show it")
        why = self._lost() if code is None else f"status {code:04X}"
        return Confirmation(Presence.HUNG if why == ENDLESS_ANSWER else Presence.UNKNOWN, f"query: {why}")


def dicom_files(paths: Iterable[Path]) -> list[Path]:
    """The files among ``paths``, and all files in the folders among them, sorted by name."""
    listed = (sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path] for path in paths)
    return list(chain.from_iterable(listed))


def send_files(
    peer: PeerSettings, settings: Settings, files: Iterable[Path]
) -> Iterator[tuple[Outgoing, SendReport]]:
    """C-STORE files as they are, in batches; yields each object with the peer's answer.

    Used by ``dicom-node send`` and the demonstration, where a person looks at every status. Raises
    Unavailable if the peer is unreachable. A file that cannot be sent is reported, not raised.
    """
    objects = []
    for path in files:
        try:
            meta = read_file_meta_info(path)
            named = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID
            objects.append(Outgoing(named[0], named[1], "", "", path, ""))
        except (InvalidDicomError, OSError, AttributeError):
            yield (
                Outgoing("", "", "", "", path, ""),
                SendReport(SendStatus.REFUSED, "", "no DICOM file (Part 10)"),
            )
    destination = DimseDestination(peer, settings)
    for start in range(0, len(objects), MOST_CONTEXTS // len(LITTLE_ENDIAN)):
        some = objects[start : start + MOST_CONTEXTS // len(LITTLE_ENDIAN)]
        reports = destination.send(some)
        if reports[0].status is SendStatus.UNREACHABLE:
            raise Unavailable(reports[0].text)
        yield from zip(some, reports, strict=True)


def _store_contexts(objects: Iterable[Outgoing]) -> list[PresentationContext]:
    """The presentation contexts for these objects, one per SOP class and transfer syntax, so that the peer
    answers for each of them.
    """
    wanted: dict[tuple[str, str], None] = {}
    for item in objects:
        own = _transfer_syntax(item)
        for syntax in LITTLE_ENDIAN if own in LITTLE_ENDIAN else (own,):
            wanted[item.sop_class_uid, syntax] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def _as_accepted(association: Association, item: Outgoing) -> Path | Dataset | SendReport:
    """The object as the peer accepts it: its file, or a data set to convert; a report if no presentation
    context fits.
    """
    syntaxes = {
        context.transfer_syntax[0]
        for context in association.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid
    }
    if not syntaxes:
        return SendReport(SendStatus.NARROWED, "", f"{UID(item.sop_class_uid).name} is not accepted")
    own = _transfer_syntax(item)
    if own in syntaxes:
        return item.path
    if own in LITTLE_ENDIAN:
        return dcmread(item.path)
    return SendReport(
        SendStatus.NARROWED, "", f"{UID(item.sop_class_uid).name} in {own.name} is not accepted"
    )


def _transfer_syntax(item: Outgoing) -> UID:
    """The transfer syntax that an object's file has."""
    return UID(str(read_file_meta_info(item.path).TransferSyntaxUID))
