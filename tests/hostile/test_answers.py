"""Answers of peers that are none, of another patient, without end, or lead elsewhere."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from werkzeug.wrappers import Request, Response

from dicom_connectors.worklist import workitem
from dicom_connectors.worklist.performer import open_manager as open_worklist
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import Unavailable
from dicom_node.base.events import (
    FETCHED_OTHER_PATIENT,
)
from dicom_node.base.lifecycle import FetchState, ResultKind, StudyState
from dicom_node.base.store.tables import Fetch, Job
from dicom_node.deliver.scu import (
    MAXIMUM_ANSWER_BYTES,
    Presence,
    RetrieveStatus,
    SendStatus,
    StudyQuery,
    calling_ae,
    open_archive,
)
from dicom_node.studies import fetch
from dicom_node.studies.fetched import OTHER_PATIENT, OTHER_STUDY
from dicom_node.studies.quarantine import release_study
from tests.hostile.peers_lab import FHIR_JSON, JSON, called, peer_at
from tests.hostile.web import answering
from tests.modality import (
    chest,
    part_10,
    ultrasound,
)
from tests.outbox_lab import Outbox, add_report, outgoing, outgoing_report, report_file
from tests.pacs_lab import (
    PIXELS,
    QUERY,
    FakeArchive,
    Sink,
    answer_for,
    beside,
    fetched,
    film,
    inbox_beside,
    peer,
    run_pacs,
)
from tests.worklist_lab import instances, work_item

pytestmark = pytest.mark.usefixtures("impatient")

HEAD = bytes(128) + b"DICM"
LONG = b"\2\0\1\0OB\0\0\xff\xff\xff\x7f"  # an element of 2 GiB


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "ANOTHER"},
        {"PatientName": "Somebody^Else"},
        {"PatientBirthDate": "19010101"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_images_of_another_patient_than_the_answer_go_to_quarantine(
    tmp_path: Path, other: dict[str, str]
) -> None:
    image = film("another")
    with beside(tmp_path, answers=[answer_for(image, **other)], gives=[image]) as inbox:
        fetched(inbox)
    study = inbox.study_of(image)
    assert (study.state, study.reason) == (StudyState.QUARANTINED, OTHER_PATIENT)
    assert not inbox.jobs()
    [event] = inbox.events(FETCHED_OTHER_PATIENT.number)
    assert not {*other.values(), image.PatientID} & set(map(str, event.fields.values()))
    inbox.write(release_study, study.id)
    inbox.settle()
    assert inbox.column(Job.rule) == ["films"]
    assert inbox.column(Fetch.state) == [FetchState.OTHER_PATIENT]


def test_a_study_that_nobody_asked_for_goes_to_quarantine(tmp_path: Path) -> None:
    wanted, other = film("wanted"), film("other")
    with beside(tmp_path, answers=[answer_for(wanted)], gives=[wanted, other]) as inbox:
        fetched(inbox)
    assert inbox.study_of(wanted).state is StudyState.QUEUED
    study = inbox.study_of(other)
    assert study.state is StudyState.QUARANTINED
    assert OTHER_STUDY in study.reason


@pytest.mark.filterwarnings("ignore:.* for VR UI")  # pydicom's, in the archive of the test
def test_answers_to_another_question_are_left_out() -> None:
    image = film("asked for")
    wrong = [
        answer_for(image, StudyInstanceUID=""),
        answer_for(image, StudyInstanceUID="../../etc"),
        answer_for(image, StudyInstanceUID="1.2.3", StudyDate="19990101"),
        answer_for(image, StudyInstanceUID="1.2.4", ModalitiesInStudy="CT"),
        answer_for(Dataset(), StudyInstanceUID="1." * 40 + "1"),
    ]
    with run_pacs(FakeArchive(answers=[*wrong, answer_for(image)] * 2), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        found = open_archive(settings.peers[0], settings).find(QUERY)
    assert [study.study_instance_uid for study in found.studies] == [image.StudyInstanceUID]
    assert found.strays == 2 * len(wrong)


def test_answers_without_an_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_ae, "MAXIMUM_ANSWER_BYTES", 2**16)
    image = film("endless")
    with run_pacs(FakeArchive(answers=[answer_for(image)] * 5000), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        with pytest.raises(Unavailable, match="does not end"):
            open_archive(settings.peers[0], settings).find(QUERY)


def test_more_objects_than_a_study_may_have_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("scu", "scu.query_retrieve"):
        monkeypatch.setattr(f"dicom_node.deliver.{module}.MOST_OBJECTS", 3)
    images = [chest("more", PIXELS, number=one) for one in range(1, 8)]
    sink = Sink()
    with run_pacs(FakeArchive(gives=images), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        outcome = open_archive(settings.peers[0], settings).retrieve("1.2.3", sink)
    assert (outcome.status, len(sink.taken)) == (RetrieveStatus.RETRY, 3), outcome


def wado(*parts: bytes, end: bytes = b"--b--") -> bytes:
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in parts) + end


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[]", "application/json", RetrieveStatus.RETRY),
        (b"", "multipart/related; boundary=b", RetrieveStatus.RETRY),
        (wado(), "multipart/related; boundary=b", RetrieveStatus.ABSENT),
        (wado(b"no DICOM"), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(HEAD + b"\xff" * 500), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(HEAD + LONG * 20), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(part_10(film("cut")), end=b""), "multipart/related; boundary=b", RetrieveStatus.RETRY),
    ],
    ids=["JSON", "nothing", "no part", "no DICOM", "no meta", "bad lengths", "no end"],
)
def test_what_is_no_answer_of_wado_stores_nothing_faulty(
    tmp_path: Path, body: bytes, kind: str, status: RetrieveStatus
) -> None:
    with answering(body=body, Content_Type=kind) as (url, _):
        inbox = inbox_beside(tmp_path, 1, transport="dicomweb", url=url)
        archive = inbox.settings.peer("archive")
        sink = fetch.RetrievalSink(
            inbox.spool, fetch.WaitingObjects(inbox.spool.incoming), inbox.settings, archive, "fetch-1"
        )
        outcome = open_archive(archive, inbox.settings).retrieve("1.2.3", sink)
    assert outcome.status is status, outcome
    assert not inbox.spool.pending()


@pytest.mark.parametrize(
    ("status", "leads_on"), [(300, False), (301, True), (303, True), (304, False), (307, True), (308, True)]
)
@pytest.mark.parametrize(
    ("transport", "secret"),
    [
        ("orthanc", {"username": "node", "password": "secret"}),
        ("dicomweb", {"username": "node", "password": "secret"}),
        ("fhir", {"token": "secret"}),
    ],
    ids=["orthanc", "dicomweb", "fhir"],
)
def test_a_redirect_is_followed_by_nothing(
    tmp_path: Path, transport: str, secret: dict[str, str], status: int, leads_on: bool
) -> None:
    """No object and no password goes to the other address; nor is it a success where it names none."""
    fhir = transport == "fhir"
    item = outgoing_report(report_file(tmp_path)) if fhir else outgoing(ultrasound("redirected"), tmp_path)
    with (
        answering() as (elsewhere, taken),
        answering(status, **{"Location": f"{elsewhere}/taken"} if leads_on else {}) as (url, asked),
    ):
        destination = called(peer_at(transport, url, **secret))
        (sent,) = destination.send([item])
        (confirmed,) = destination.confirm([item])
        (tested,) = destination.test()
    assert len(asked) == 3
    assert taken == []
    assert sent.status is SendStatus.RETRY
    assert "not followed" in sent.text
    assert confirmed.presence is Presence.UNKNOWN
    assert "not followed" in confirmed.text
    assert not tested.ok
    assert "not followed" in tested.text


ANYBODYS: tuple[tuple[bytes, str], ...] = (
    (b"[]", JSON),
    (b"{}", JSON),
    (b"null", JSON),
    (b"[" * 100_000, JSON),
    (b"<html>sign in</html>", "text/html"),
)
NONSENSE: dict[str, tuple[tuple[bytes, str], ...]] = {
    "orthanc": (*ANYBODYS, (b'"stored"', JSON), (b'{"Status": ["Success"]}', JSON)),
    "dicomweb": (
        *ANYBODYS,
        (b"[1]", JSON),
        (b'{"00081199": 5}', JSON),
        (b'{"00081199": {"vr": "SQ", "Value": [7]}}', JSON),
        (b"<html>sign in</html>", "application/dicom+xml"),
        (b"<html", "application/dicom+xml"),
    ),
}


@pytest.mark.parametrize(
    ("transport", "confirm", "body", "kind"),
    [
        *(("orthanc", "query", *answer) for answer in NONSENSE["orthanc"]),
        *(("dicomweb", "none", *answer) for answer in NONSENSE["dicomweb"]),
        *(
            ("fhir", "query", body, FHIR_JSON)
            for body in (b"[]", b"{}", b'{"resourceType": "Bundle", "type": "searchset", "entry": [1]}')
        ),
        ("fhir", "none", b"{}", FHIR_JSON),
    ],
)
def test_no_nonsense_is_a_success_and_its_tries_have_an_end(
    tmp_path: Path, transport: str, body: bytes, kind: str, confirm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A web server that is no PACS, or a PACS that answers nonsense."""
    with answering(body=body, Content_Type=kind) as (url, asked):
        peer = peer_at(transport, url, confirm=confirm)
        outbox = Outbox(tmp_path, [peer], retry_seconds=0.01, retry_limit_seconds=0.01, confirm_seconds=0.01)
        add_report(outbox) if transport == "fhir" else outbox.add_study(["pacs"], [ResultKind.SR])
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
        [check] = called(peer).test()
    assert 3 <= sum(one.startswith("POST") for one in asked) < 20
    assert "defect" not in row["reason"], row["reason"]
    assert len(row["reason"]) > 20, row["reason"]
    assert not any(record.exc_info for record in caplog.records)
    assert len(check.text) > 10


WORK_ITEM = work_item("1.2.3").to_json_dict()
ODD: tuple[tuple[str, Any], ...] = (
    ("00400400", {"vr": "LT", "Value": "no list"}),
    ("00400400", {"Value": ["no vr"]}),
    ("00200013", {"vr": "IS", "Value": ["text"]}),
    ("00091001", {"vr": "FL", "Value": ["text"]}),
    ("00091001", 7),
    ("00400400", {"vr": "LT", "Value": None}),
    ("00081111", {"vr": "SQ", "Value": [{"00080018": 5}, 7]}),
    ("00080090", {"vr": "PN", "Value": [{"Alphabetic": None}]}),
    ("00100010", {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Ideographic": None}]}),
    ("00100020", {"Value": "a value alone"}),
)


@pytest.mark.parametrize(("tag", "value"), ODD)
def test_an_odd_attribute_that_nobody_needs_loses_no_work_item(tag: str, value: Any) -> None:
    with manager(200, json.dumps([{**WORK_ITEM, tag: value}]).encode()) as ris:
        [found] = ris.search()
    item = workitem.read_workitem(found)
    assert item is not None
    assert item.is_for(["*"], "AINODE")
    assert item.study_instance_uid == "1.2.3"
    assert item.patient_id == ("a value alone" if tag == "00100020" else item.patient_id)


def test_work_items_come_in_pages_as_the_manager_likes() -> None:
    rows = [{**WORK_ITEM, "00080018": {"vr": "UI", "Value": [f"1.2.{at}"]}} for at in range(150)]
    with answering(pages_of(rows, 40)) as (url, _):
        peer = PeerSettings(name="ris", ae_title="RIS", transport="dicomweb", url=url, worklist=["*"], may=[])
        assert len(open_worklist(peer, Settings()).search()) == 150


def pages_of(
    rows: list[dict[str, Any]], most: int, refuses: int = 10**6, moves: bool = True
) -> Callable[[Request], Response]:
    """A search that answers ``most`` rows in a page and refuses limits above ``refuses``; without ``moves``
    it does not know offset."""

    def answer(request: Request) -> Response:
        limit, offset = (int(request.args.get(key, 0)) for key in ("limit", "offset"))
        if limit > refuses:
            return Response(status=400)
        page = rows[offset if moves else 0 :][: min(limit or most, most)]
        return Response(json.dumps(page), 200 if page else 204, content_type="application/dicom+json")

    return answer


@pytest.mark.parametrize(
    ("most", "refuses", "moves", "found"),
    [
        (100, 10**6, True, 450),
        (7, 10**6, True, 450),
        (1000, 200, True, 450),
        (1000, 5, True, 450),
        (450, 10**6, False, 450),
    ],
    ids=["a hundred a page", "few a page", "limit to 200", "no limit", "offset unknown"],
)
def test_a_search_finds_all_studies_whatever_the_pages_are(
    most: int, refuses: int, moves: bool, found: int
) -> None:
    rows = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{at}"]}} for at in range(450)]
    rows[3]["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": None}]}  # type: ignore[dict-item]
    rows[5]["00081030"] = {"vr": "LO"}  # type: ignore[dict-item]
    with answering(pages_of(rows, most, refuses, moves)) as (url, _):
        peer = PeerSettings(name="pacs", ae_title="PACS", transport="dicomweb", url=url, may=["query"])
        assert len(open_archive(peer, Settings()).find(StudyQuery()).studies) == found


@pytest.mark.parametrize("end", [400, 404, 416])
@pytest.mark.parametrize("size", [450, 1000])
def test_a_refusal_of_an_offset_is_the_end_of_the_rows_unless_the_page_before_was_full(
    end: int, size: int
) -> None:
    page = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{at}"]}} for at in range(size)]
    kind = "application/dicom+json"

    def answer(request: Request) -> Response:
        return Response(json.dumps(page), end if "offset" in request.args else 200, content_type=kind)

    with answering(answer) as (url, _):
        peer = PeerSettings(name="pacs", ae_title="PACS", transport="dicomweb", url=url, may=["query"])
        archive = open_archive(peer, Settings())
        if size < 1000:
            assert len(archive.find(StudyQuery()).studies) == size
        else:
            with pytest.raises(Unavailable):
                archive.find(StudyQuery())


NEXT = {"Link": '</studies?page=2>; rel="next"'}
MORE = {"Warning": '299 archive "There are 350 additional results that can be requested"'}
OLD = {"Warning": '299 archive "Deprecated API"'}


@pytest.mark.parametrize(
    ("size", "first", "second", "is_whole"),
    [
        (100, NEXT, {}, False),
        (100, MORE, {}, False),
        (100, {}, MORE, False),
        (1000, MORE, {}, False),
        (1000, NEXT, {}, True),
        (100, OLD, OLD, True),
    ],
    ids=["next page", "warning", "warning at the end", "full page", "full page that links on", "deprecated"],
)
def test_a_search_that_ends_before_the_end_that_the_archive_names_is_no_answer(
    size: int, first: dict[str, str], second: dict[str, str], is_whole: bool
) -> None:
    page = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{at}"]}} for at in range(size)]

    def answer(request: Request) -> Response:
        is_first = "offset" not in request.args
        rows, headers = (page, first) if is_first else ([], second)
        return Response(json.dumps(rows), headers=headers, content_type="application/dicom+json")

    with answering(answer) as (url, _):
        peer = PeerSettings(name="pacs", ae_title="PACS", transport="dicomweb", url=url, may=["query"])
        archive = open_archive(peer, Settings())
        if is_whole:
            assert len(archive.find(StudyQuery()).studies) == size
        else:
            with pytest.raises(Unavailable, match="it says that there is more"):
                archive.find(StudyQuery())


NONE = b'{"resourceType": "Bundle", "type": "searchset", "total": 1, "entry": []}'


@pytest.mark.parametrize(
    ("transport", "body", "headers"),
    [("dicomweb", b"[]", MORE), ("orthanc", b"[]", MORE), ("fhir", NONE, {})],
    ids=["QIDO-RS", "Orthanc", "FHIR, by its total"],
)
def test_an_object_that_a_search_does_not_name_may_be_there_if_there_is_more(
    tmp_path: Path, transport: str, body: bytes, headers: dict[str, str]
) -> None:
    kind = FHIR_JSON if transport == "fhir" else JSON
    with answering(200, body, Content_Type=kind, **headers) as (url, _):
        [seen] = called(peer_at(transport, url)).confirm([outgoing_report(report_file(tmp_path))])
    assert seen.presence is Presence.UNKNOWN
    assert "it says that there is more" in seen.text


STORED = {"00081150": {"vr": "UI", "Value": ["1.2"]}, "00081155": {"vr": "UI", "Value": ["UID"]}}
ODD_STORED: tuple[Any, ...] = (
    {"00081199": {"vr": "SQ", "Value": [STORED]}},
    [{"00081199": {"vr": "SQ", "Value": [STORED]}}],
    {"00081199": {"vr": "SQ", "Value": [STORED]}, "00091001": {"vr": "FL", "Value": ["x"]}},
    {"00081199": {"vr": "SQ", "Value": [{**STORED, "00081197": {"vr": "US", "Value": ["?"]}}]}, "x": 1},
    {"00081199": {"Value": STORED}},
    *(
        {"00081199": {"vr": "SQ", "Value": [{**STORED, "00081196": {"vr": "US", "Value": warning}}]}}
        for warning in ([7, 2], [-1], [10**30], ["x"], [None])
    ),
    {
        "00081199": {"vr": "SQ", "Value": [{**STORED, "00081155": {"vr": "UI", "Value": ["9"]}}, STORED]},
        "00081198": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["9"]}}]},
    },
)


@pytest.mark.parametrize("answer", ODD_STORED)
@pytest.mark.parametrize("kind", ["application/dicom+json", "application/json; charset=utf-8"])
def test_an_answer_that_names_the_object_as_stored_counts(tmp_path: Path, answer: Any, kind: str) -> None:
    item = outgoing(ultrasound("stored"), tmp_path)
    body = json.dumps(answer).replace('"UID"', f'"{item.sop_instance_uid}"').encode()
    with answering(body=body, Content_Type=kind) as (url, _):
        [report] = called(peer_at("dicomweb", url, confirm="none")).send([item])
    assert report.status is SendStatus.STORED


def test_an_answer_in_xml_is_read(tmp_path: Path) -> None:
    item = outgoing(ultrasound("stored"), tmp_path)
    uid = f'<DicomAttribute tag="00081155" vr="UI"><Value number="1">{item.sop_instance_uid}</Value>'
    body = (
        '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
        f'<DicomAttribute tag="00081199" vr="SQ"><Item number="1">{uid}</DicomAttribute></Item>'
        "</DicomAttribute></NativeDicomModel>"
    )
    with answering(body=body.encode(), Content_Type="application/dicom+xml") as (url, _):
        [report] = called(peer_at("dicomweb", url, confirm="none")).send([item])
    assert report.status is SendStatus.STORED


@contextmanager
def manager(status: int, body: bytes) -> Iterator[Any]:
    with answering(status, body, Content_Type="application/dicom+json") as (url, _):
        peer = PeerSettings(name="ris", ae_title="RIS", transport="dicomweb", url=url, worklist=["*"], may=[])
        yield open_worklist(peer, Settings.model_validate({"outbox": {"answer_seconds": 5}}))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"null",
        b'"text"',
        b"7",
        b"[" * 100_000,
        b"\xff\xfe",
        b"[" + b" " * MAXIMUM_ANSWER_BYTES + b"]",
        b"[" + b"9" * 5000 + b"]",
    ],
    ids=["html", "null", "text", "number", "nested", "no text", "long", "digits"],
)
def test_an_answer_that_is_none_is_no_work(body: bytes) -> None:
    with manager(200, body) as ris:
        for ask in (ris.search, lambda: ris.read("1.2.3")):
            try:
                assert not ask()
            except Unavailable as error:
                assert "html" not in str(error)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("00404021", {"vr": "SQ", "Value": ["no item"]}),
        ("00404021", {"vr": "SQ", "Value": 5}),
        ("00404021", {"vr": "LO", "Value": ["a", "b"]}),
        ("00404021", {"vr": "SQ", "Value": [instances("1.2.3").to_json_dict()] * 1001}),
        ("00080018", {"vr": "UI", "Value": ["../../etc"]}),
        ("00080018", {"vr": "UI", "Value": ["1.2", "1.3"]}),
        ("00080018", {"vr": "UI", "BulkDataURI": "file:///etc/passwd"}),
        ("00741000", {"vr": "CS", "Value": [{"a": 1}]}),
        ("00404018", {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["a^b"]}}]}),
        ("00100010", {"vr": "PN", "Value": [["a"]]}),
        ("00404041", 3),
    ],
)
def test_a_faulty_item_is_left_out_and_the_others_are_read(tag: str, value: Any) -> None:
    with manager(200, json.dumps([{**WORK_ITEM, tag: value}, WORK_ITEM, [], None, 1, {}]).encode()) as ris:
        read = [item for item in map(workitem.read_workitem, ris.search()) if item is not None]
        assert all(item.study_instance_uid in ("", "1.2.3") for item in read)
        assert read[-1].uid == WORK_ITEM["00080018"]["Value"][0]
        assert not any(code.value == "a^b" for item in read for code in item.codes)
