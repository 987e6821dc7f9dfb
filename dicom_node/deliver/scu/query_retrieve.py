"""Query and retrieval, as SCU (PS3.4 C, Study Root): DIMSE archives.

An archive is asked by C-FIND, and sends by C-MOVE to our own listener or by C-GET.
"""

import contextlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pynetdicom import build_context, build_role, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.elements import is_uid
from dicom_node.base.dicom.header import character_sets, decoded, quiet_pydicom, terms
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES, SyntaxKind
from dicom_node.base.errors import DecodedDifferently, FaultyObject, SpoolError, Unavailable
from dicom_node.deliver.scu import (
    MOST_OBJECTS,
    STUDY_KEYS,
    Check,
    FoundObject,
    FoundStudies,
    ObjectSink,
    RetrievalCounts,
    Retrieved,
    RetrieveStatus,
    StudyQuery,
    retrieve_status,
)
from dicom_node.deliver.scu.association import MOST_CONTEXTS, DimseCaller, NoAssociation, contexts

FIND = StudyRootQueryRetrieveInformationModelFind


def query_identifier(level: str, **keys: str) -> Dataset:
    """The identifier of a C-FIND, C-MOVE or C-GET (PS3.4 C.4.1.1.3) at this level; ``keys``: values by
    keyword.
    """
    question = Dataset()
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


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
    """The client of a PACS that is queried by C-FIND, and from which studies are retrieved by C-MOVE or
    C-GET.
    """

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        """Prepare calls to ``peer``, which may transfer no byte for as long as its setting
        ``retrieve_seconds`` says.
        """
        super().__init__(peer, settings, silence_seconds=peer.retrieve_seconds)

    def find(self, query: StudyQuery) -> FoundStudies:
        """Query for studies by C-FIND at STUDY level. Raises Unavailable."""
        values = {
            "StudyDate": query.dates,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
        }
        answers = self._answers("STUDY", **dict.fromkeys(STUDY_KEYS, "") | values)
        return FoundStudies.fitting(query, (texts for answer in answers if (texts := self._texts(answer))))

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """The Body Part Examined of the study's series, in capitals (C-FIND at SERIES level). Raises
        Unavailable.
        """
        uids = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": ""}
        found = set()
        for answer in self._answers("SERIES", **uids, Modality="", BodyPartExamined=""):
            with quiet_pydicom(), contextlib.suppress(*_FAULTY_VALUES):
                found.add(_text(answer.get("BodyPartExamined")).strip().upper())
        return frozenset(found - {""})

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """Retrieve a study by C-MOVE or C-GET, as the peer's setting ``retrieve`` says.

        Objects of a C-GET are stored in ``sink``; those of a C-MOVE arrive at our listener.
        """
        return self._retrieve(query_identifier("STUDY", StudyInstanceUID=study_instance_uid), sink)

    def objects(self, study_instance_uid: str) -> frozenset[FoundObject]:
        """List the objects of a study: its series by C-FIND, then those of each (PS3.4 C.4.1.2.2.1). Raises
        Unavailable.
        """
        study = {"StudyInstanceUID": study_instance_uid}
        found = set()
        for series in {
            _uid(answer, "SeriesInstanceUID")
            for answer in self._answers("SERIES", **study, SeriesInstanceUID="")
        } - {""}:
            keys = {**study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
            found |= {
                FoundObject.from_texts(series, _uid(answer, "SOPInstanceUID"))
                for answer in self._answers("IMAGE", **keys)
            }
        return frozenset(one for one in found if one is not None)

    def retrieve_objects(
        self, study_instance_uid: str, objects: Collection[FoundObject], sink: ObjectSink
    ) -> Retrieved:
        """Retrieve objects of a study, one series after the other, until that fails for one."""
        came = 0
        for series in sorted({one.series_instance_uid for one in objects}):
            wanted = query_identifier("IMAGE", StudyInstanceUID=study_instance_uid, SeriesInstanceUID=series)
            wanted.SOPInstanceUID = sorted(
                one.sop_instance_uid for one in objects if one.series_instance_uid == series
            )
            found = self._retrieve(wanted, sink)
            came += found.objects
            if found.status is not RetrieveStatus.RETRIEVED:
                return replace(found, objects=came)
        return Retrieved(RetrieveStatus.RETRIEVED, came)

    def _retrieve(self, identifier: Dataset, sink: ObjectSink) -> Retrieved:
        """Retrieve what the identifier names by C-MOVE or C-GET."""
        taking, model, get = RetrievalCounts(), _MODELS[self._peer.retrieve], dict[str, Any]()
        wanted = contexts(model)
        if self._peer.retrieve == "get":
            classes = list(sink.sop_classes)[: MOST_CONTEXTS - 1]
            wanted += [build_context(uid, GET_SYNTAXES) for uid in classes]
            get["handlers"] = [(evt.EVT_C_STORE, self._on_store, [sink, taking])]
            get["roles"] = [build_role(uid, scp_role=True) for uid in classes]
            get["largest_object"] = min(sink.largest_bytes, LARGEST_BY_GET)
        with self.associate(wanted, service="query", **get) as association:
            if isinstance(association, NoAssociation):
                return Retrieved(
                    RetrieveStatus.REFUSED if association.takes_nothing else RetrieveStatus.UNREACHABLE,
                    0,
                    association.text,
                )
            if all(one.abstract_syntax != model for one in association.accepted_contexts):
                return Retrieved(RetrieveStatus.REFUSED, 0, f"the peer does not accept {UID(model).name}")
            request = [identifier, model]
            if not get:
                request.insert(1, self._settings.node.ae_title)
            send = association.send_c_get if get else association.send_c_move
            code, last, _ = self.request(association, self._peer.retrieve_seconds, send, *request)
        if taking.stopped:
            return Retrieved(RetrieveStatus.RETRY, taking.taken, taking.stopped)
        if code is None:
            why = "cut off: too slow" if self._connections.timed_out else "association lost before the end"
            return Retrieved(RetrieveStatus.RETRY, taking.taken, why)
        return _outcome(code, last, taking.taken if get else None)

    def test(self) -> list[Check]:
        """Test whether queries and retrieval are accepted; nothing is retrieved."""
        wanted = {"find": FIND, self._peer.retrieve: _MODELS[self._peer.retrieve]}
        return [self.accepts(name, "query", model) for name, model in wanted.items()]

    def _answers(self, level: str, **keys: str) -> list[Dataset]:
        """The data sets that a C-FIND at this level returns; ``keys``: the query's values by keyword. Raises
        Unavailable.
        """
        question = query_identifier(level, **keys)
        code, answers, text = self.call(contexts(FIND), "send_c_find", question, FIND, service="query")
        if code != 0:
            raise Unavailable(f"{self._peer.name}: query: {text}")
        return answers

    def _texts(self, answer: Dataset) -> dict[str, str]:
        """The values of an answer as texts by keyword; only the Study Instance UID, by which the study can be
        fetched, if the texts cannot be decoded.
        """
        with quiet_pydicom():
            for charset in (character_sets(answer), terms(self._peer.assume_charset)):
                try:
                    header = decoded(answer, STUDY_KEYS, charset)
                    return {keyword: _text(header.get(keyword)) for keyword in STUDY_KEYS}
                except _FAULTY_VALUES:
                    continue
            try:
                return {"StudyInstanceUID": _text(answer.get("StudyInstanceUID"))}
            except _FAULTY_VALUES:
                return {"StudyInstanceUID": ""}

    def _on_store(self, event: Any, sink: ObjectSink, taking: RetrievalCounts) -> int:
        """Handle a C-STORE of a C-GET: store the object durably, then return the status to answer (PS3.4
        B.2.3).
        """
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


def _outcome(code: int, last: Dataset, taken: int | None) -> Retrieved:
    """The outcome of a retrieval by its last answer (``last``) and that answer's status (``code``).

    ``taken``: number of objects that our sink stored; None if our listener got them.
    """
    completed, warned, failed, remaining = (
        int(last.get(f"NumberOf{state}Suboperations") or 0)
        for state in ("Completed", "Warning", "Failed", "Remaining")
    )
    objects, missing = completed + warned if taken is None else taken, failed + remaining
    outcome, text = retrieve_status(code)
    if outcome is RetrieveStatus.RETRIEVED and missing:
        outcome = RetrieveStatus.INCOMPLETE
    # B000 is of failures or warnings, and what came with a warning came (PS3.4 C.4.2.1.5).
    elif outcome is RetrieveStatus.INCOMPLETE and not missing and "NumberOfFailedSuboperations" in last:
        outcome, text = RetrieveStatus.RETRIEVED, ""
    if outcome is RetrieveStatus.INCOMPLETE:
        text = f"{missing or 'some'} objects did not come: of classes that are not taken here, or see its log"
    # Counts are optional where all came (PS3.4 C.4.2.1.8): only a 0 that is there says "none".
    if outcome is RetrieveStatus.RETRIEVED and not objects and "NumberOfCompletedSuboperations" in last:
        return Retrieved(RetrieveStatus.ABSENT, 0, "the peer sent nothing of this study")
    return Retrieved(outcome, objects, text)


def _uid(answer: Dataset, keyword: str) -> str:
    """A UID of an answer, "" if it has none that is valid."""
    with quiet_pydicom(), contextlib.suppress(*_FAULTY_VALUES):
        uid = _text(answer.get(keyword)).strip()
        return uid if is_uid(uid) else ""
    return ""


def _text(value: Any) -> str:
    """A value as text, "" for None; several values have backslashes between them."""
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue | list) else [value]
    return "\\".join("" if one is None else str(one) for one in values)
