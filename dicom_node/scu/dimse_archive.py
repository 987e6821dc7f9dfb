"""An archive that speaks DIMSE: C-FIND, then C-MOVE to our own listener or C-GET (PS3.4 C.4, Study Root)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.dicom.header import decoded, named, quiet_pydicom, terms
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES, SyntaxKind
from dicom_node.errors import DecodedDifferently, FaultyObject, PeerUnreachable, SpoolError
from dicom_node.scu.archive import (
    MOST_OBJECTS,
    STUDY_KEYS,
    FoundStudies,
    ObjectSink,
    Retrieved,
    RetrieveStatus,
    StudyQuery,
    Taking,
    retrieve_status,
)
from dicom_node.scu.association import FIND, MOST_CONTEXTS, DimseCaller, NoAssociation, contexts, question_at
from dicom_node.scu.destination import Check

LARGEST_BY_GET = 512 * 2**20
"""Bytes of an object by C-GET, which is in memory once; larger ones come by C-MOVE."""
GET_SYNTAXES = [
    one.uid for one in TRANSFER_SYNTAXES if one.kind not in (SyntaxKind.LOSSLESS_KEPT, SyntaxKind.LOSSY_KEPT)
]
"""Proposed for objects by C-GET: those that are decoded here. DCMTK gives no answer to as many as we know."""
_MODELS = {
    "move": StudyRootQueryRetrieveInformationModelMove,
    "get": StudyRootQueryRetrieveInformationModelGet,
}
_CANNOT_UNDERSTAND, _OUT_OF_RESOURCES = 0xC000, 0xA700  # PS3.4 B.2.3
_FAULTY_VALUES = (
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    DecodedDifferently,
    FaultyObject,
)


class DimseArchive(DimseCaller):
    """A PACS that is queried by C-FIND."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings, silence_seconds=peer.retrieve_seconds)

    def find(self, query: StudyQuery) -> FoundStudies:
        """C-FIND at STUDY level. Raises PeerUnreachable."""
        values = {
            "StudyDate": query.dates,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
        }
        answers = self._answers(question_at("STUDY", **dict.fromkeys(STUDY_KEYS, "") | values))
        return FoundStudies.fitting(query, (texts for answer in answers if (texts := self._texts(answer))))

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """The Body Part Examined of the study's series, in capitals (C-FIND at SERIES level). Raises
        PeerUnreachable.
        """
        question = question_at(
            "SERIES",
            StudyInstanceUID=study_instance_uid,
            SeriesInstanceUID="",
            Modality="",
            BodyPartExamined="",
        )
        found = set()
        for answer in self._answers(question):
            with quiet_pydicom(), suppress(*_FAULTY_VALUES):
                found.add(_text(answer.get("BodyPartExamined")).strip().upper())
        return frozenset(found - {""})

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """C-MOVE or C-GET, by the peer's setting ``retrieve``; objects of a C-MOVE arrive at our listener."""
        if self._peer.retrieve == "get":
            return self._get(study_instance_uid, sink)
        with self.associate(contexts(_MODELS["move"]), service="query") as association:
            if isinstance(association, NoAssociation):
                return _none(association)
            with self.waiting(association, self._peer.retrieve_seconds):
                asked = question_at("STUDY", StudyInstanceUID=study_instance_uid)
                answers = _until_cut(
                    association.send_c_move, asked, self._settings.node.ae_title, _MODELS["move"]
                )
                return self._outcome(association, answers, came=None)

    def test(self) -> list[Check]:
        """Test whether queries and retrieval are accepted; nothing is retrieved."""
        wanted = {"find": FIND, self._peer.retrieve: _MODELS[self._peer.retrieve]}
        return [self.accepts(name, "query", model) for name, model in wanted.items()]

    def _answers(self, question: Dataset) -> list[Dataset]:
        with self.associate(contexts(FIND), service="query") as association:
            if isinstance(association, NoAssociation):
                raise PeerUnreachable(f"{self._peer.name}: {association.text}")
            answers, code = self.matches_of(association, question)
            self.debug("C-FIND", answers=len(answers), status=code)
            if code is None:
                cut = "cut off, its answer does not end" if self._connections.timed_out else "no answer"
                raise PeerUnreachable(f"{self._peer.name}: query: {cut}")
            if code != 0:
                raise PeerUnreachable(f"{self._peer.name}: query: status {code:04X}")
            return answers

    def _texts(self, answer: Dataset) -> dict[str, str]:
        """The values of an answer; of one that cannot be decoded, its UID: it can be fetched."""
        with quiet_pydicom():
            for charset in (named(answer), terms(self._peer.assume_charset)):
                try:
                    header = decoded(answer, STUDY_KEYS, charset)
                    return {keyword: _text(header.get(keyword)) for keyword in STUDY_KEYS}
                except _FAULTY_VALUES:
                    continue
            try:
                return {"StudyInstanceUID": _text(answer.get("StudyInstanceUID"))}
            except _FAULTY_VALUES:
                return {"StudyInstanceUID": ""}

    def _get(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        taking = Taking()

        def on_store(event: Any) -> int:
            """Store one object; its status is sent when it is durable (PS3.4 B.2.3)."""
            request = event.request
            data = request.DataSet.getvalue() if request.DataSet else b""
            named = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
            try:
                taken = taking.take(sink.take_object, *named, str(event.context.transfer_syntax), [data])
            except SpoolError:
                if taking.taken + taking.refused >= MOST_OBJECTS:  # it may go on for ever
                    self._connections.cut()
                return _OUT_OF_RESOURCES
            return 0x0000 if taken else _CANNOT_UNDERSTAND

        with self.associate(
            [*contexts(_MODELS["get"]), *(build_context(uid, GET_SYNTAXES) for uid in _classes(sink))],
            service="query",
            handlers=[(evt.EVT_C_STORE, on_store)],
            roles=[build_role(uid, scp_role=True) for uid in _classes(sink)],
            largest_object=min(sink.largest_bytes, LARGEST_BY_GET),
        ) as association:
            if isinstance(association, NoAssociation):
                return _none(association)
            if all(one.abstract_syntax != _MODELS["get"] for one in association.accepted_contexts):
                return Retrieved(RetrieveStatus.REFUSED, 0, "the peer does not accept C-GET")
            with self.waiting(association, self._peer.retrieve_seconds):
                asked = question_at("STUDY", StudyInstanceUID=study_instance_uid)
                answers = _until_cut(association.send_c_get, asked, _MODELS["get"])
                outcome = self._outcome(association, answers, came=taking)
        if taking.stopped:
            return Retrieved(RetrieveStatus.RETRY, taking.taken, taking.stopped)
        return outcome

    def _outcome(
        self,
        association: Association,
        answers: Iterator[tuple[Dataset, Dataset | None]],
        came: Taking | None,
    ) -> Retrieved:
        """Read the answers to their end; ``came``: what the sink took, None where our listener did."""
        last = Dataset()
        for status, _identifier in answers:
            last = status
        code = last.get("Status")
        self.debug(self._peer.retrieve, status=code)
        if code is None:
            association.abort()
            why = "cut off: too slow" if self._connections.timed_out else "association lost before the end"
            return Retrieved(RetrieveStatus.RETRY, came.taken if came else 0, why)
        objects = came.taken if came else int(last.get("NumberOfCompletedSuboperations") or 0)
        failed = int(last.get("NumberOfFailedSuboperations") or 0)
        outcome, text = retrieve_status(code)
        if outcome is RetrieveStatus.RETRIEVED and failed:
            outcome = RetrieveStatus.INCOMPLETE
        if outcome is RetrieveStatus.INCOMPLETE:
            text = f"{failed} objects did not come: of classes that are not taken here, or see its log"
        # Counts are optional where all came (PS3.4 C.4.2.1.8): only a 0 that is there says "none".
        if outcome is RetrieveStatus.RETRIEVED and not objects and "NumberOfCompletedSuboperations" in last:
            return Retrieved(RetrieveStatus.ABSENT, 0, "the peer sent nothing of this study")
        return Retrieved(outcome, objects, text)


def _until_cut(send: Callable[..., Iterator[Any]], *request: Any) -> Iterator[tuple[Dataset, Dataset | None]]:
    """The answers to a request; where the association was cut before it, one without a status."""
    try:
        yield from send(*request)
    except RuntimeError:
        yield Dataset(), None


def _none(association: NoAssociation) -> Retrieved:
    status = RetrieveStatus.REFUSED if association.takes_nothing else RetrieveStatus.UNREACHABLE
    return Retrieved(status, 0, association.text)


def _classes(sink: ObjectSink) -> Sequence[str]:
    return list(sink.sop_classes)[: MOST_CONTEXTS - 1]


def _text(value: Any) -> str:
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue | list) else [value]
    return "\\".join("" if one is None else str(one) for one in values)
