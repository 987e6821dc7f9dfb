"""Peers as they are spoken to: associations, DICOMweb, Orthanc, folders; and what their answers mean."""

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from hypothesis import given, strategies
from pydicom.dataset import Dataset
from python_multipart.exceptions import FormParserError
from werkzeug.wrappers import Response

from dicom_connectors.dicomweb.client import DicomwebDestination, parts_of, stored_report
from dicom_connectors.orthanc import destination as orthanc
from dicom_node.base.config.addresses import LocalAddress, is_local, remote_address
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import ConsoleSettings, Settings
from dicom_node.deliver.scu import Presence, RetrieveStatus, SendStatus, http, open_destination, store_report
from dicom_node.deliver.scu.query_retrieve import _outcome
from dicom_node.deliver.scu.storage import DimseDestination
from tests.hostile.web import answering
from tests.modality import data_set, ultrasound
from tests.outbox_lab import outgoing

LIMIT = 2**20


BLOCK = b" " * 2**16


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def endless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Answers everything with blanks, until the other side has enough or sixteen times the limit is sent."""
    monkeypatch.setattr(http, "MAXIMUM_ANSWER_BYTES", LIMIT)
    blanks = [gzip.compress(BLOCK * 256)] if request.param else [BLOCK] * 256
    how = {"Content-Type": "application/dicom+json"} | ({"Content-Encoding": "gzip"} if request.param else {})
    with answering(lambda _: Response(iter(blanks), headers=how)) as (url, _):
        yield url


Made = Callable[[PeerSettings, Settings], DicomwebDestination | orthanc.OrthancDestination]


@pytest.mark.parametrize("make", [DicomwebDestination, orthanc.OrthancDestination])
def test_an_endless_answer_is_no_answer(endless: str, tmp_path: Path, make: Made) -> None:
    peer = PeerSettings(
        name="pacs",
        ae_title="PACS",
        transport="orthanc" if make is orthanc.OrthancDestination else "dicomweb",
        url=endless,
        may=["receive"],
    )
    destination = make(peer, Settings(peers=[peer]))
    item = outgoing(ultrasound("one"), tmp_path, "0" * 64)

    [report] = destination.send([item])
    [answer] = destination.confirm([item])

    assert report.status is SendStatus.UNREACHABLE  # blanks that were read to their end: no JSON, RETRY
    assert answer.presence is Presence.UNKNOWN
    assert not destination.test()[0].ok
    destination.close()


def response(uid: str = "1.2.3", *, failed: int | None = None, warned: int | None = None) -> Dataset:
    """A response about one object."""
    answer, item = Dataset(), data_set(ReferencedSOPInstanceUID=uid)
    if failed is not None:
        item.FailureReason, answer.FailedSOPSequence = failed, [item]
    else:
        if warned is not None:
            item.WarningReason = warned
        answer.ReferencedSOPSequence = [item]
    return answer


@pytest.mark.parametrize(
    ("code", "counts", "status", "text"),
    [
        (0x0000, {"Completed": 2, "Failed": 0}, RetrieveStatus.RETRIEVED, ""),
        (0xB000, {"Completed": 1, "Failed": 0, "Warning": 1}, RetrieveStatus.RETRIEVED, ""),
        (0xB000, {"Completed": 0, "Failed": 0, "Warning": 2}, RetrieveStatus.RETRIEVED, ""),
        (0xB000, {"Completed": 2, "Failed": 1}, RetrieveStatus.INCOMPLETE, "1 objects"),
        (0x0000, {"Completed": 2, "Remaining": 1}, RetrieveStatus.INCOMPLETE, "1 objects"),
        (0xB000, {"Completed": 2}, RetrieveStatus.INCOMPLETE, "some objects"),
        (0x0000, {"Completed": 0, "Failed": 0}, RetrieveStatus.ABSENT, "nothing"),
    ],
)
def test_a_retrieval_is_judged_by_what_did_not_come(
    code: int, counts: dict[str, int], status: RetrieveStatus, text: str
) -> None:
    last = Dataset()
    for name, number in counts.items():
        setattr(last, f"NumberOf{name}Suboperations", number)
    outcome = _outcome(code, last, None)
    assert outcome.status is status
    assert text in outcome.text
    assert text or outcome.objects == 2
    assert "0 objects" not in outcome.text


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (response(uid="1.2.4"), SendStatus.VERIFY),
        (response(), SendStatus.STORED),
        (response(warned=0xB000), SendStatus.WARNED),
        (response(failed=0x0110), SendStatus.RETRY),
        (response(failed=0xA700), SendStatus.RETRY),
        (response(failed=0x0122), SendStatus.REFUSED),
        (response(failed=0xC000), SendStatus.REFUSED),
        (response(failed=0x0111), SendStatus.VERIFY),
        (Dataset(), SendStatus.VERIFY),
    ],
)
def test_an_accepted_request_says_what_became_of_the_object(answer: Dataset, status: SendStatus) -> None:
    assert stored_report(answer, "1.2.3").status is status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps(response(failed=0xA700).to_json_dict()).encode(), SendStatus.RETRY),
        *((body, SendStatus.REFUSED) for body in (b"", b"<html>no</html>", b"[]", b'"text"', b"{}")),
    ],
)
def test_a_conflict_is_judged_by_its_reason_and_without_one_by_its_http_status(
    body: bytes, status: SendStatus
) -> None:
    answer = requests.Response()
    answer.status_code, answer._content = 409, body
    peer = PeerSettings(name="web", ae_title="WEB", transport="dicomweb", url="http://127.0.0.1:9")
    destination = DicomwebDestination(peer, Settings(peers=(peer,)))
    assert destination._problem(requests.HTTPError(response=answer)).status is status


LOCAL = (
    "127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1",
    "255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192", "::1", "::", "fe80::1",
    "fe80::1%eth0", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "::ffff:127.0.0.1", "::127.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::",
)  # fmt: skip


def test_an_address_of_the_machine_its_link_or_a_metadata_service_is_known_and_others_are_not() -> None:
    assert [address for address in LOCAL if not is_local(address)] == []
    remote = ["10.0.0.1", "192.168.1.20", "8.8.8.8", "fd00::1", "2001:db8::1"]
    assert [remote_address(address) for address in remote if not is_local(address)] == remote


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "localhost", "0"])
def test_other_ways_to_write_it_are_found_out(host: str) -> None:
    with pytest.raises(LocalAddress):
        remote_address(host)


@contextmanager
def watched() -> Iterator[tuple[int, list[object]]]:
    """A port of this machine, and who connected to it."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def take() -> None:
            try:
                while True:
                    connection, place = listening.accept()
                    came.append(place)
                    connection.close()
            except OSError:
                return

        threading.Thread(target=take, daemon=True).start()
        yield listening.getsockname()[1], came
        listening.shutdown(socket.SHUT_RDWR)


def keys(transport: str, host: str, port: int) -> dict[str, Any]:
    place = {"host": host, "port": port} if transport == "dimse" else {"url": f"http://{host}:{port}"}
    return {"name": "pacs", "ae_title": "PACS", "may": ["receive"], "transport": transport, **place}


@pytest.mark.parametrize("transport", ["dimse", "orthanc", "dicomweb"])
@pytest.mark.parametrize(("entered", "allowed"), [(True, False), (True, True), (False, False)])
def test_what_a_name_leads_to_is_looked_at_when_it_is_called(
    tmp_path: Path, transport: str, entered: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that says another address at each question (DNS rebinding): the first is remote."""
    item = outgoing(ultrasound("local"), tmp_path)
    real = socket.getaddrinfo

    def name_server(host: object, *rest: Any, **further: Any) -> Any:
        return real("127.0.0.1" if host == "pacs.example.org" else host, *rest, **further)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    with watched() as (port, came):
        peer = PeerSettings.model_validate({**keys(transport, "pacs.example.org", port), "entered": entered})
        destination = open_destination(peer, Settings(console=ConsoleSettings(local_peers=allowed)))
        [sent] = destination.send([item])
        [check, *_] = destination.test()
    assert sent.status is SendStatus.UNREACHABLE
    assert not check.ok
    if entered and not allowed:
        assert came == []
        assert "console.local_peers" in sent.text
        assert "console.local_peers" in check.text
    else:
        assert came
        assert "console.local_peers" not in sent.text


def test_the_checked_address_is_the_one_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name server is asked once: a second answer, another address, is never used."""
    real, asked = socket.getaddrinfo, []

    def name_server(host: object, *rest: Any, **further: Any) -> Any:
        if host == "pacs.example.org":
            asked.append(host)
            host = "127.0.0.1" if len(asked) > 1 else "192.0.2.1"  # which no network has (RFC 5737)
        return real(host, *rest, **further)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", name_server)
    monkeypatch.setattr("dicom_node.deliver.scu.http.CONNECT_SECONDS", 0.2)
    with watched() as (port, came):
        peer = PeerSettings.model_validate({**keys("orthanc", "pacs.example.org", port), "entered": True})
        [check] = open_destination(peer, Settings()).test()
    assert not check.ok
    assert came == []
    assert len(asked) == 1


PARTS = [b"first\r\n--not a boundary", b"\r\n" * 50, bytes(range(256)) * 300]
MULTIPART = 'multipart/related; type="application/dicom"; boundary="b0"'
MESSAGE = b"".join(b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in PARTS)


def parts(data: bytes, size: int = 100, content_type: str = MULTIPART) -> list[bytes]:
    """The parts of an answer that comes in pieces of ``size`` bytes."""
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    found: dict[int, bytes] = {}
    for number, piece in parts_of(content_type, blocks):
        found[number] = found.get(number, b"") + piece
    return list(found.values())


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10**6])
def test_each_part_comes_whole(size: int) -> None:
    assert parts(MESSAGE + b"--b0--\r\n", size) == PARTS


@pytest.mark.parametrize("cut", [5, 30, 70, len(MESSAGE)])
def test_an_answer_that_ends_early_is_no_whole_one(cut: int) -> None:
    with pytest.raises(FormParserError):
        parts(MESSAGE[:cut], 10)


def test_headers_that_do_not_end_are_cut_off() -> None:
    with pytest.raises(FormParserError, match="Maximum"):
        parts(b"--b0\r\n" + b"X: 1\r\n" * 1000)


@pytest.mark.parametrize("content_type", ["", "text/html", "multipart/related", "text/html; boundary=b0"])
def test_only_a_multipart_answer_has_parts(content_type: str) -> None:
    with pytest.raises(FormParserError):
        parts(MESSAGE + b"--b0--", content_type=content_type)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr("dicom_node.deliver.scu.association._NEGOTIATE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def told(server: socket.socket) -> str:
    port = server.getsockname()[1]
    peer = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, may=["receive"])
    check = DimseDestination(peer, Settings(peers=[peer])).echo()
    assert not check.ok
    return check.text.replace(f"PACS at 127.0.0.1:{port}", "it")


def test_a_peer_that_hangs_is_told_from_one_that_is_away(listening: socket.socket) -> None:
    assert told(listening) == "connected to it, but it gave no answer"
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        assert told(unheard) == "cannot connect to it"


def test_a_peer_that_hangs_up_is_told_so(listening: socket.socket) -> None:
    def hang_up() -> None:
        listening.accept()[0].close()

    hangs_up = threading.Thread(target=hang_up, daemon=True)
    hangs_up.start()
    assert told(listening).startswith("connected to it, ")
    hangs_up.join()


def test_a_file_that_grows_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def file(*_: Any, **__: Any) -> Iterator[bytes]:
        for block in range(200):
            sent.append(block)
            yield bytes(2**20)

    changing = Mock(get_instance_file=file, **{"find.return_value": ["one"]})
    monkeypatch.setattr(orthanc, "_client", lambda _peer: changing)
    peer = PeerSettings(name="pacs", ae_title="PACS", transport="orthanc", url="http://127.0.0.1:9")
    item = outgoing(ultrasound("one"), tmp_path, "0" * 64)
    destination = orthanc.OrthancDestination(peer, Settings(peers=[peer]))
    [answer] = destination.confirm([item])
    destination.close()
    assert answer.presence is Presence.DIFFERENT
    assert len(sent) < 5


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0x0000, SendStatus.STORED),
        (0xB000, SendStatus.WARNED),
        (0xB006, SendStatus.WARNED),
        (0xB007, SendStatus.WARNED),
        (0xB123, SendStatus.WARNED),
        (0x0111, SendStatus.VERIFY),
        (0x0110, SendStatus.RETRY),
        (0xA700, SendStatus.RETRY),
        (0xA7FF, SendStatus.RETRY),
        (0x0122, SendStatus.REFUSED),
        (0x0124, SendStatus.REFUSED),
        (0xA800, SendStatus.REFUSED),
        (0xA900, SendStatus.REFUSED),
        (0xC000, SendStatus.REFUSED),
        (0xCFFF, SendStatus.REFUSED),
        (None, SendStatus.RETRY),  # the association was lost
    ],
)
def test_store_statuses(code: int | None, status: SendStatus) -> None:
    report = store_report(code)
    assert (report.status, report.code) == (status, "" if code is None else f"{code:04X}")


@given(strategies.integers(min_value=0, max_value=0xFFFF))
def test_only_success_and_warnings_count_as_stored(code: int) -> None:
    stored = store_report(code).status in (SendStatus.STORED, SendStatus.WARNED)
    # PS3.7 C: 0000 success; 0001, 0107, 0116 and Bxxx warnings.
    assert stored == (code in (0x0000, 0x0001, 0x0107, 0x0116) or 0xB000 <= code <= 0xBFFF)


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (SendStatus.RETRY, [401, 403, 404, 408, 429, 500, 502, 503, 507]),
        (SendStatus.REFUSED, [400, 406, 409, 413, 415, 422]),
    ],
)
def test_http_statuses_that_may_pass_and_that_waiting_does_not_cure(
    status: SendStatus, codes: list[int]
) -> None:
    assert {http.http_report(code).status for code in codes} == {status}
