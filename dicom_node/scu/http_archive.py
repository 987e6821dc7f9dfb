"""Archives over HTTP: QIDO-RS and WADO-RS (PS3.18 10.6, 10.4).

Part 10 files are streamed to the sink: no file is parsed here or held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import requests
from pydicom.datadict import tag_for_keyword
from urllib3.exceptions import HTTPError

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import FaultyInput, PeerUnreachable, SpoolError
from dicom_node.scu.archive import (
    MOST_OBJECTS,
    STUDY_KEYS,
    FoundStudies,
    ObjectSink,
    Retrieved,
    RetrieveStatus,
    StudyQuery,
)
from dicom_node.scu.connections import Connections
from dicom_node.scu.destination import Check, SendStatus
from dicom_node.scu.http import CONNECT_SECONDS, FAULTY_ANSWER, UNREADABLE, BoundedSession, problem, status_of
from dicom_node.scu.multipart import MalformedMultipart, Parts, boundary_of

_Answer = TypeVar("_Answer")
_PAGE = 1000
_PAGES = 100
_BLOCK = 2**16
_NO_STUDY: Final = StudyQuery(study_instance_uid="2.25.0")
_WADO = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_BODY_PART = f"{tag_for_keyword('BodyPartExamined'):08X}"
_TAGS = {keyword: f"{tag_for_keyword(keyword):08X}" for keyword in STUDY_KEYS}


class DicomwebArchive:
    """A DICOMweb server at a base URL such as https://host/dicom-web; every call has a deadline."""

    name = "QIDO-RS"

    def __init__(self, peer: PeerSettings, settings: Settings) -> None:
        self._peer, self._settings = peer, settings
        local = not peer.entered or settings.console.local_peers
        self._connections = Connections(settings.outbox.answer_seconds, local=local)
        self._session = BoundedSession(self._connections)
        self._url = peer.url.rstrip("/")
        if peer.username:
            self._session.auth = (peer.username, peer.password.get_secret_value())

    def find(self, query: StudyQuery) -> FoundStudies:
        """Ask for studies. Raises PeerUnreachable."""
        return self._answer(lambda: FoundStudies.fitting(query, self._search(query)))

    def body_parts(self, study_instance_uid: str) -> frozenset[str]:
        """Ask for series. Raises PeerUnreachable."""
        found = self._answer(lambda: {text.strip().upper() for text in self._body_parts(study_instance_uid)})
        return frozenset(found - {""})

    def _answer(self, ask: Callable[[], _Answer]) -> _Answer:
        try:
            with self._connections.within(self._settings.outbox.answer_seconds):
                return ask()
        except requests.RequestException as error:
            report = problem(error, self._connections)
            raise PeerUnreachable(f"{self._peer.name}: {report.code} {report.text}") from None
        except FAULTY_ANSWER:
            raise PeerUnreachable(f"{self._peer.name}: {UNREADABLE.text}") from None

    def retrieve(self, study_instance_uid: str, sink: ObjectSink) -> Retrieved:
        """Get all objects of a study within ``retrieve_minutes`` of the peer."""
        count = _Count(sink)
        try:
            with self._connections.within(self._peer.retrieve_seconds):
                return count.outcome(self._fetch(study_instance_uid, count))
        except requests.RequestException as error:
            return count.outcome(self._failure(error))
        except SpoolError as error:
            return count.outcome(Retrieved(RetrieveStatus.RETRY, text=str(error)))
        except (HTTPError, MalformedMultipart):
            cut = "cut off: too slow" if self._connections.timed_out else "its answer ended early"
            return count.outcome(Retrieved(RetrieveStatus.RETRY, text=cut))
        except FAULTY_ANSWER:
            return count.outcome(Retrieved(RetrieveStatus.REFUSED, text=UNREADABLE.text))

    def test(self) -> list[Check]:
        """Search for a study that cannot exist."""
        try:
            self.find(_NO_STUDY)
        except PeerUnreachable as error:
            return [Check(self.name, False, str(error).removeprefix(f"{self._peer.name}: "))]
        return [Check(self.name, True, "search answered")]

    def close(self) -> None:
        """End all calls under way for good, from any thread."""
        self._connections.close()

    def _get(self, path: str, accept: str = "", **options: Any) -> requests.Response:
        headers = {"Accept": accept} if accept else {}
        if options.get("stream"):
            headers["Accept-Encoding"] = "identity"  # what is packed has no size that can be limited
        timeout = (CONNECT_SECONDS, self._settings.outbox.answer_seconds)
        answer = self._session.get(f"{self._url}{path}", headers=headers, timeout=timeout, **options)
        answer.raise_for_status()
        return answer

    def _failure(self, error: requests.RequestException) -> Retrieved:
        report = problem(error, self._connections)
        status = {
            SendStatus.UNREACHABLE: RetrieveStatus.UNREACHABLE,
            SendStatus.REFUSED: RetrieveStatus.REFUSED,
        }.get(report.status, RetrieveStatus.RETRY)
        if status_of(error) == 404:
            return Retrieved(RetrieveStatus.ABSENT, text="the peer has no such study")
        return Retrieved(status, text=f"{report.code} {report.text}".strip())

    def _search(self, query: StudyQuery) -> Iterator[dict[str, str]]:
        asked = {
            "StudyDate": query.dates,
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_instance_uid,
            "PatientID": query.patient_id,
        }
        keys = {key: value for key, value in asked.items() if value} | {"limit": str(_PAGE)}
        named = (
            "StudyDescription",
            "ModalitiesInStudy",
            "NumberOfStudyRelatedInstances",
            "IssuerOfPatientID",
        )
        also = [_TAGS[key] for key in named]
        for page in range(_PAGES):
            params = {**keys, "offset": str(page * _PAGE), "includefield": also}
            answer = self._get("/studies", "application/dicom+json", params=params)
            rows = answer.json() if answer.status_code != 204 and answer.content else []
            if not isinstance(rows, list):
                raise TypeError("no list of studies")
            yield from (_json_texts(row) for row in rows)
            if len(rows) < _PAGE:
                return

    def _body_parts(self, study_instance_uid: str) -> Iterator[str]:
        params = {"includefield": _BODY_PART, "limit": str(_PAGE)}
        answer = self._get(f"/studies/{study_instance_uid}/series", "application/dicom+json", params=params)
        for row in answer.json() if answer.status_code != 204 and answer.content else []:
            yield from map(_json_text, row.get(_BODY_PART, {}).get("Value") or [])

    def _fetch(self, study_instance_uid: str, count: _Count) -> Retrieved:
        with self._get(f"/studies/{study_instance_uid}", _WADO, stream=True) as answer:
            boundary = boundary_of(answer.headers.get("Content-Type", ""))
            for part in Parts(answer.raw.stream(_BLOCK, decode_content=False), boundary):
                count.take(part)
        return Retrieved(RetrieveStatus.RETRIEVED)


class _Count:
    """What of one retrieval was taken, and what not."""

    def __init__(self, sink: ObjectSink) -> None:
        self._sink = sink
        self.taken = self.refused = 0

    def take(self, pieces: Iterable[bytes]) -> None:
        """Store one Part 10 file. Raises SpoolError, also for more objects than a retrieval may bring."""
        if self.taken + self.refused >= MOST_OBJECTS:
            raise SpoolError(f"more than {MOST_OBJECTS} objects")
        try:
            self._sink.take_file(pieces)
            self.taken += 1
        except FaultyInput:
            self.refused += 1

    def outcome(self, found: Retrieved) -> Retrieved:
        """The outcome with its numbers."""
        if found.status is not RetrieveStatus.RETRIEVED:
            return Retrieved(found.status, self.taken, found.text)
        if self.refused:
            text = f"{self.refused} objects were not taken: their class, transfer syntax or size"
            return Retrieved(RetrieveStatus.INCOMPLETE, self.taken, text)
        if not self.taken:
            return Retrieved(RetrieveStatus.ABSENT, 0, "the peer sent nothing of this study")
        return Retrieved(RetrieveStatus.RETRIEVED, self.taken)


def _json_texts(row: Any) -> dict[str, str]:
    """The values of STUDY_KEYS in DICOM JSON (PS3.18 F); a study that is faulty has none."""
    try:
        return {
            key: "\\".join(map(_json_text, row.get(tag, {}).get("Value") or [])) for key, tag in _TAGS.items()
        }
    except FAULTY_ANSWER:
        return {}


def _json_text(value: Any) -> str:
    if isinstance(value, dict):
        groups = [str(value.get(key, "")) for key in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)
