"""A DICOMweb server (PS3.18): STOW-RS and QIDO-RS as destination; QIDO-RS and WADO-RS to fetch.

Part 10 files that are fetched are streamed to the sink: no file is parsed here or held in memory.
"""

import contextlib
import secrets
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import groupby, starmap
from operator import attrgetter, itemgetter
from typing import Any
from xml.etree.ElementTree import fromstring

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from urllib3.exceptions import HTTPError

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.web import Preamble, from_xml, read_dataset, tag_of, texts
from dicom_node.base.errors import SpoolError
from dicom_node.deliver.scu import (
    STUDY_KEYS,
    Check,
    Confirmation,
    FoundObject,
    FoundStudies,
    ObjectSink,
    Outgoing,
    Presence,
    RetrievalCounts,
    Retrieved,
    RetrieveStatus,
    SendReport,
    SendStatus,
    StudyQuery,
    query_outcome,
    store_report,
)
from dicom_node.deliver.scu.http import (
    FAULTY_ANSWER,
    NO_STUDY,
    UNREADABLE,
    HttpDestination,
    paged,
    status_of,
)

_RETRIEVED = {
    SendStatus.UNREACHABLE: RetrieveStatus.UNREACHABLE,
    SendStatus.REFUSED: RetrieveStatus.REFUSED,
}
_RESPONSE = (
    "FailedSOPSequence", "ReferencedSOPSequence", "ReferencedSOPInstanceUID",
    "FailureReason", "WarningReason",
)  # fmt: skip
_UNNAMED = SendReport(SendStatus.VERIFY, "HTTP 200", "the answer does not name the object")


class DicomwebDestination(HttpDestination):
    """A DICOMweb server as destination: results are stored by STOW-RS and confirmed by QIDO-RS."""

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        super().__init__(peer, settings)
        # Study Instance UIDs come from modalities, and some write components with leading zeros.
        self._client = DICOMwebClient(
            self._url,
            session=self._session,
            permissive_uid=True,
            timeout=self._timeout,
        )
        # Retries belong to the outbox, which counts and shows them.
        self._client.set_http_retry_params(retry=False)

    def test(self) -> list[Check]:
        """Check whether the server answers and lets the node in, by a search for an object that
        cannot exist.
        """

        def ask() -> list[Check]:
            """Search for a UID that no object has, and return one check that says that the search was
            answered.
            """
            list(self._search(generate_uid()))
            return [Check("QIDO-RS", True, "search answered")]

        return self._checked("QIDO-RS", ask)

    def _store(self, item: Outgoing) -> SendReport:
        """Send one object by STOW-RS; return what became of it."""
        boundary = secrets.token_hex(16)
        start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        answer = self._session.post(
            f"{self._url}/studies",
            data=start + item.path.read_bytes() + f"\r\n--{boundary}--\r\n".encode(),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary="{boundary}"',
                "Accept": "application/dicom+json, application/dicom+xml;q=0.5, */*;q=0.1",
            },
            timeout=self._timeout,
        )
        answer.raise_for_status()
        report = stored_report(store_response(answer), item.sop_instance_uid)
        return UNREADABLE if report is _UNNAMED and not self._peer.answers_queries else report

    def _delete(self, item: Outgoing) -> None:
        """Delete one object from the server."""
        self._client.delete_instance(item.study_instance_uid, item.series_instance_uid, item.sop_instance_uid)

    def _query(self, item: Outgoing) -> Confirmation:
        """Return whether the server has this object, by a search for it (QIDO-RS)."""
        names_none = False
        try:
            for answer in self._search(
                item.sop_instance_uid, item.study_instance_uid, item.series_instance_uid
            ):
                uid = _value(answer, "SOPInstanceUID")
                names_none |= not uid
                if uid == item.sop_instance_uid:
                    return query_outcome(item, _value(answer, "SOPClassUID"))
        except requests.HTTPError as error:
            if status_of(error) != 404:  # it has no such study, or no search
                raise
            return NO_STUDY
        if names_none:
            raise ValueError("an answer names no object")
        return Confirmation(Presence.NOT_FOUND, "the destination does not show it")

    def _search(self, instance: str, *inside: str) -> Iterator[Any]:
        """Yield the server's objects with the SOP Instance UID ``instance``, or what else it answers.

        ``inside``: UIDs of the study and the series to search, none for all.
        """
        ask = partial(self._client.search_for_instances, *inside, search_filters={"SOPInstanceUID": instance})
        return paged(self._session, ask, _MOST_ROWS, 0)

    def _problem(self, error: requests.RequestException) -> SendReport:
        """Return the report for a failed request; after HTTP 409 with the failure reason of the object from
        the body (PS3.18 10.5.3).
        """
        if error.response is not None and status_of(error) == 409:
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # any idea of a body
                for failed in store_response(error.response).get("FailedSOPSequence") or ():
                    return _failure(failed)
        return super()._problem(error)


def stored_report(answer: Dataset, uid: str) -> SendReport:
    """Return what became of the object ``uid``, by the server's Store Instances Response (PS3.18 I.2).

    It counts as stored only if the response names it as stored.
    """
    for stored in answer.get("ReferencedSOPSequence") or ():
        if stored.get("ReferencedSOPInstanceUID") == uid:
            report = store_report(stored.get("WarningReason"))
            is_warned = report.status is SendStatus.WARNED
            return report if is_warned else SendReport(SendStatus.STORED, "HTTP 200", "stored")
    for failed in answer.get("FailedSOPSequence") or ():
        return _failure(failed)
    return _UNNAMED


def store_response(answer: requests.Response) -> Dataset:
    """Return the Store Instances Response in an HTTP answer, empty if there is none.

    Raises the errors in FAULTY_ANSWER.
    """
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    rows: Any = {}
    if answer.content and kind.endswith("xml"):
        rows = from_xml(fromstring(answer.content))
    elif answer.content and (kind.endswith("json") or not kind):
        rows = answer.json()
    return read_dataset(rows[0] if isinstance(rows, list) and rows else rows or {}, _RESPONSE)[0]


def _failure(failed: Dataset) -> SendReport:
    """Return the report for an object that is listed as failed, with the Failure Reason if there is one."""
    if reason := failed.get("FailureReason"):
        return store_report(int(reason))
    return SendReport(SendStatus.REFUSED, "HTTP 409", "refused without a reason")


def _value(answer: Any, keyword: str) -> str:
    """Return the first value of an attribute of an object in DICOM JSON; "" if it has none that can be
    read.
    """
    with contextlib.suppress(TypeError):
        return next(iter(texts(answer, keyword)), "")
    return ""


_MOST_ROWS = 100_000  # of one search
_BLOCK = 2**16
_WADO = {
    "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
    "Accept-Encoding": "identity",  # what is packed has no size that can be limited
}
_BODY_PART = "BodyPartExamined"


class DicomwebArchive(DicomwebDestination):
    """A DICOMweb server as archive: searched by QIDO-RS, and read by WADO-RS. Every call has a deadline."""

    def find(self, query: StudyQuery) -> FoundStudies:
        """Search for studies, and return those that fit ``query``.

        Raises Unavailable if the server does not answer.
        """
        return self._answer(lambda: FoundStudies.fitting(query, self._studies(query)))

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """Return the values of Body Part Examined (0018,0015) of a study's series, in upper case.

        Raises Unavailable if the server does not answer.
        """

        def ask() -> frozenset[str]:
            """Search for the series; return their body parts, "" among them if a series has an empty one."""
            ask = partial(self._client.search_for_series, study_instance_uid, fields=[tag_of(_BODY_PART)])
            return frozenset(
                _value(row, _BODY_PART).strip().upper() for row in paged(self._session, ask, _MOST_ROWS)
            )

        return self._answer(ask) - {""}

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """Download all objects of a study into ``sink``, within ``retrieve_minutes`` of the peer; return the
        outcome.
        """
        taking = RetrievalCounts()
        with self._connections.within(self._peer.retrieve_seconds):
            return self._retrieve(f"/studies/{study_instance_uid}", sink, taking)

    def objects(self, study_instance_uid: str) -> frozenset[FoundObject]:
        """List the objects of a study (PS3.18 10.6), none if it is not there. Raises Unavailable."""

        def ask() -> frozenset[FoundObject]:
            """Search for the objects of the study."""
            ask = partial(self._client.search_for_instances, study_instance_uid)
            rows = paged(self._session, ask, _MOST_ROWS)
            try:
                named = [(_value(row, "SeriesInstanceUID"), _value(row, "SOPInstanceUID")) for row in rows]
            except requests.HTTPError as error:
                if status_of(error) != 404:
                    raise
                return frozenset()
            return frozenset(filter(None, starmap(FoundObject.from_texts, named)))

        return self._answer(ask)

    def retrieve_objects(
        self, study_instance_uid: str, objects: Collection[FoundObject], sink: ObjectSink
    ) -> Retrieved:
        """Download objects of a study one after the other, until that fails for one; all within
        ``retrieve_minutes`` of the peer.
        """
        taking = RetrievalCounts()
        with self._connections.within(self._peer.retrieve_seconds):
            for one in sorted(objects, key=attrgetter("series_instance_uid", "sop_instance_uid")):
                series = f"/studies/{study_instance_uid}/series/{one.series_instance_uid}"
                found = self._retrieve(f"{series}/instances/{one.sop_instance_uid}", sink, taking)
                if found.status is not RetrieveStatus.RETRIEVED:
                    return found
        return Retrieved(RetrieveStatus.RETRIEVED, taking.taken)

    def _retrieve(self, path: str, sink: ObjectSink, taking: RetrievalCounts) -> Retrieved:
        """Download what the server has at ``path`` into ``sink``, and count it."""
        try:
            with (
                self._session.get(
                    f"{self._url}{path}", headers=_WADO, timeout=self._timeout, stream=True
                ) as answer,
            ):
                answer.raise_for_status()
                blocks = answer.raw.stream(_BLOCK, decode_content=False)
                for _, pieces in groupby(
                    parts_of(answer.headers.get("Content-Type"), blocks), key=itemgetter(0)
                ):
                    taking.take(sink.take_file, map(itemgetter(1), pieces))
        except requests.RequestException as error:
            return self._failure(error, taking.taken)
        except (SpoolError, HTTPError, FormParserError):
            cut = "cut off: too slow" if self._connections.timed_out else "its answer ended early"
            return Retrieved(RetrieveStatus.RETRY, taking.taken, taking.stopped or cut)
        except FAULTY_ANSWER:
            return Retrieved(RetrieveStatus.REFUSED, taking.taken, UNREADABLE.text)
        if taking.refused:
            text = f"{taking.refused} objects were not taken: their class, transfer syntax or size"
            return Retrieved(RetrieveStatus.INCOMPLETE, taking.taken, text)
        if taking.taken:
            return Retrieved(RetrieveStatus.RETRIEVED, taking.taken)
        return Retrieved(RetrieveStatus.ABSENT, 0, "the peer sent nothing of this study")

    def _failure(self, error: requests.RequestException, taken: int) -> Retrieved:
        """Return the outcome of a download that failed with ``error`` after ``taken`` objects had been
        stored.
        """
        if status_of(error) == 404:
            return Retrieved(RetrieveStatus.ABSENT, text="the peer has no such study")
        report = self._problem(error)
        status = _RETRIEVED.get(report.status, RetrieveStatus.RETRY)
        return Retrieved(status, taken, f"{report.code} {report.text}".strip())

    def _studies(self, query: StudyQuery) -> Iterator[dict[str, str]]:
        """Search for studies (PS3.18 10.6), and yield for each the values of STUDY_KEYS by keyword; {} for an
        entry that cannot be read.
        """
        asked = {
            "StudyDate": query.dates,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
        }
        filters = {key: value for key, value in asked.items() if value}
        fields = [tag_of(keyword) for keyword in STUDY_KEYS]
        ask = partial(self._client.search_for_studies, fields=fields, search_filters=filters)
        for row in paged(self._session, ask, _MOST_ROWS):
            try:
                yield {keyword: "\\".join(texts(row, keyword)) for keyword in STUDY_KEYS}
            except TypeError:
                yield {}


def parts_of(content_type: str | None, blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the content of a multipart answer (RFC 2046 5.1) as its ``blocks`` arrive: (number of the part
    from 0, piece of its bytes).

    Raises FormParserError if the answer is not multipart, or ends early.
    """
    kind, options = parse_options_header(content_type)
    if not kind.startswith(b"multipart/") or not options.get(b"boundary"):
        raise FormParserError("not a multipart answer")
    preamble = Preamble(options[b"boundary"])
    read: list[bytes | None] = []  # None: the end of a part
    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_data": lambda data, start, end: read.append(data[start:end]),
            "on_part_end": lambda: read.append(None),
        },
    )
    number = 0
    for block in blocks:
        parser.write(preamble.removed(block))
        for piece in read:
            if piece is None:
                number += 1
            else:
                yield number, piece
        read.clear()
        if parser.state is MultipartState.END:
            return
    raise FormParserError("the answer ended early")
