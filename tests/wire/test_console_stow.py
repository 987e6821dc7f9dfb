"""STOW-RS: dicomweb-client, curl and plain sockets store in the node, and get an answer for each object."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import socket
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_console.handlers import stow as handlers
from dicom_console.views import uploaded
from dicom_console.web import parts
from dicom_node.config import loading
from dicom_node.errors import SpoolFull
from dicom_node.inbox.spool import IncomingObject
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.browser_lab import served_app
from tests.console_lab import PASSWORD, ConsoleLab, audited
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.node_lab import Node, running, site_config
from tests.ports import free_port
from tests.unit.inbox.objects import changed
from tests.waiting import wait_until

TYPE = 'multipart/related; type="application/dicom"; boundary=B0'


def part_10(ds: Dataset) -> bytes:
    data = io.BytesIO()
    ds.save_as(data, enforce_file_format=True)
    return data.getvalue()


def as_file(ds: Dataset) -> Dataset:
    """As it is read from a file: dicomweb-client writes a preamble only then."""
    return dcmread(io.BytesIO(part_10(ds)))


def body(*files: bytes, header: bytes = b"Content-Type: application/dicom\r\n", end: bytes = b"--") -> bytes:
    return b"".join(b"--B0\r\n%b\r\n%b\r\n" % (header, one) for one in files) + b"--B0" + end + b"\r\n"


@dataclass
class Served:
    node: Inbox
    console: ConsoleLab
    url: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def client(self) -> DICOMwebClient:
        return DICOMwebClient(self.url, headers=self.headers)

    def post(
        self, data: object, path: str = "/studies", kind: str = TYPE, token: str | None = None, **headers: str
    ) -> requests.Response:
        given = {"Authorization": f"Bearer {token}"} if token is not None else self.headers
        given |= {"Content-Type": kind, **headers}
        return requests.post(self.url + path, data=data, headers=given, timeout=60)  # type: ignore[arg-type]

    def waiting(self) -> int:
        return len(self.node.spool.pending())

    def leftovers(self) -> list[str]:
        return [path.name for path in self.node.spool.incoming.glob(".*")]

    def user(self, name: str, role: UserRole, *senders: str) -> str:
        users.add_user(self.console.settings, name, role, PASSWORD, senders=senders)
        return users.add_token(self.console.settings, name, "a test", 1)


@pytest.fixture
def served(node: Inbox) -> Iterator[Served]:
    known = {"dicomweb": True, "dicomweb_store": True, "upload_mib": 300}
    console = node.settings.console.model_copy(update=known)
    lab = ConsoleLab(node.settings.model_copy(update={"console": console}), node.database)
    lab.change("spool", minimum_free_mib=0)
    with served_app(lab) as address:
        token = users.add_token(lab.settings, UserRole.OPERATOR.value, "a gateway", 1)
        yield Served(node, lab, f"{address}/api/dicomweb", token)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "var")
    yield inbox
    inbox.close()


def failures(answer: requests.Response) -> list[tuple[str, int]]:
    """SOP Instance UID and Failure Reason of each failed object."""
    module = Dataset.from_json(answer.json())
    found = [*module.get("FailedSOPSequence", ()), *module.get("OtherFailuresSequence", ())]
    return [(str(one.get("ReferencedSOPInstanceUID", "")), one.FailureReason) for one in found]


def test_what_dicomweb_client_stores_is_received_as_from_a_modality(served: Served) -> None:
    one, two = ultrasound("one"), ultrasound("two")
    answer = served.client().store_instances([as_file(one), as_file(two)])
    named = {str(item.ReferencedSOPInstanceUID): item for item in answer.ReferencedSOPSequence}
    assert named.keys() == {str(one.SOPInstanceUID), str(two.SOPInstanceUID)}
    assert "FailedSOPSequence" not in answer and "OtherFailuresSequence" not in answer
    assert answer.RetrieveURL in ("", None)  # of two studies
    served.node.settle()
    row = served.node.instance(str(one.SOPInstanceUID))
    assert (row.calling_ae, row.called_ae) == ("CONSOLE", "AINODE")
    assert served.node.file_of(str(one.SOPInstanceUID)).PixelData == one.PixelData
    assert {job.rule for job in served.node.jobs()} == {"ultrasound"}
    with served.node.database.read() as session:
        assert uploaded.last(session) == []  # of the page on which a person follows the own uploads
    [noted] = audited(served.node.database, "uploaded")
    assert noted["association"].startswith("console-")  # type: ignore[attr-defined]
    assert noted | {"association": ""} == {
        "way": "STOW-RS", "objects": 2, "refused": 0, "association": "",
    }  # fmt: skip
    path = urlsplit(named[str(one.SOPInstanceUID)].RetrieveURL).path  # the client's Host header has no port
    place = f"{served.url}/studies{path.partition('/studies')[2]}"
    assert requests.get(place, headers=served.headers, timeout=60).status_code == 200


def test_a_study_is_stored_at_its_own_address_only(served: Served) -> None:
    one, other = ultrasound("one"), ultrasound("other")
    study = str(one.StudyInstanceUID)
    answer = served.client().store_instances([as_file(one)], study_instance_uid=study)
    assert answer.RetrieveURL.endswith(f"/api/dicomweb/studies/{study}")
    mixed = served.post(body(part_10(one), part_10(other)), f"/studies/{study}")
    assert mixed.status_code == 202
    assert failures(mixed) == [(str(other.SOPInstanceUID), 0xC409)]
    none = served.post(body(part_10(other)), f"/studies/{study}")
    assert (none.status_code, failures(none)) == (409, [(str(other.SOPInstanceUID), 0xC409)])
    assert served.post(body(part_10(one)), "/studies/1..2").status_code == 400
    assert served.waiting() == 2


def test_an_object_that_comes_again_is_stored(served: Served) -> None:
    data = part_10(ultrasound("one"))
    assert [served.post(body(data, data)).status_code for _ in range(2)] == [200, 200]
    served.node.settle()
    assert sorted(served.node.outcomes()) == ["duplicate"] * 3 + ["new"]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_study_is_found_in_each_coding_and_behind_long_sequences(served: Served, syntax: str) -> None:
    one = ultrasound("one")
    one.ReferencedImageSequence = [Dataset() for _ in range(500)]
    for item in one.ReferencedImageSequence:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, "1.2.3"
        item.is_undefined_length_sequence_item = True
    one["ReferencedImageSequence"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = syntax
    answer = served.post(body(part_10(one)), f"/studies/{one.StudyInstanceUID}")
    assert answer.status_code == 200
    [stored] = Dataset.from_json(answer.json()).ReferencedSOPSequence
    assert str(one.SeriesInstanceUID) in stored.RetrieveURL


def test_each_part_is_answered_for_itself(served: Served) -> None:
    good = ultrasound("good")
    other_class, other_data = ultrasound("a"), part_10(ultrasound("b"))
    other_class.SOPClassUID = other_class.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    syntax = other_data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    uid = str(ultrasound("c").SOPInstanceUID).encode()
    mixed_up = part_10(ultrasound("c"))
    mixed_up = mixed_up.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1)
    answer = served.post(body(part_10(good), part_10(other_class), syntax, mixed_up, b"no object", b""))
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/dicom+json"
    assert [reason for _, reason in failures(answer)] == [0x0122, 0xC122, 0xA900, 0xC000, 0xC000]
    assert served.waiting() == 1 and served.leftovers() == []
    assert audited(served.node.database, "uploaded")[0]["refused"] == 5


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/dicom", 415),
        ('multipart/related; type="application/dicom+json"; boundary=B0', 415),
        ('multipart/related; type="application/dicom+xml"; boundary=B0', 415),
        ("multipart/form-data; boundary=B0", 415),
        ("multipart/related; boundary=B0", 415),
        ("", 415),
        ('multipart/related; type="application/dicom"', 400),
        ('multipart/related; type="application/dicom"; boundary=', 400),
        (f'multipart/related; type="application/dicom"; boundary={"B" * 71}', 400),
        ('multipart/related; type="application/dicom"; boundary="B\t0"', 400),
        ("multipart/related; type=application/dicom; boundary=B0", 200),
        ('Multipart/Related; boundary="B0"; Type="Application/DICOM"', 200),
    ],
)
def test_another_media_type_is_not_stored(served: Served, kind: str, status: int) -> None:
    assert served.post(body(part_10(ultrasound("one"))), kind=kind).status_code == status
    assert served.waiting() == (status == 200)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"--B0--\r\n", 400),
        (b"hello", 400),
        (b"--B1\r\n\r\nx\r\n--B1--\r\n", 400),
        (b"--B0\r\nContent-Type application/dicom\r\n\r\nx\r\n--B0--\r\n", 400),
        (b"--B0\r\nX: " + b"y" * 5000 + b"\r\n\r\nx\r\n--B0--\r\n", 400),
        (b"--B0\r\n" + b"X: y\r\n" * 21 + b"\r\nx\r\n--B0--\r\n", 400),
        (b"--B0\r\n" + b"X" * 200_000, 400),
        (b"--B0\r\nContent-Type: application/dicom\r\n\r\nno object\r\n--B0--", 409),
        (b"--B0\r\nContent-Type: text/plain\r\n\r\nx\r\n--B0--", 409),
    ],
    ids=["nothing", "no part", "no delimiter", "other boundary", "no colon", "long header", "headers",
         "endless", "no object", "text"],
)  # fmt: skip
def test_hostile_parts_are_refused(served: Served, data: bytes, status: int) -> None:
    assert served.post(data).status_code == status
    assert served.waiting() == 0 and served.leftovers() == []


def test_what_came_whole_before_a_broken_end_stays_and_is_no_success(served: Served) -> None:
    one, two = part_10(ultrasound("one")), part_10(ultrasound("two"))
    answer = served.post(body(one, two, end=b""))
    assert (answer.status_code, served.waiting()) == (400, 2)  # both had an end: their own boundaries
    answer = served.post(body(one)[: -len("\r\n--B0--\r\n")])
    assert (answer.status_code, served.waiting(), served.leftovers()) == (400, 2, [])
    [noted] = audited(served.node.database, "uploaded")
    assert noted["objects"] == 2
    assert "2 objects" in served.post(body(one, two, end=b"")).json()["error"]


def test_a_boundary_in_the_pixels_is_no_boundary(served: Served) -> None:
    """Bytes that begin as a delimiter does, and every way in which pieces of the network can cut them."""
    one = ultrasound("one")
    pixels = bytearray(one.PixelData)
    for number, near in enumerate(
        (b"\r\n--B", b"\r\n--B1", b"\r\n-", b"\r\n\r\n--B\r\n", b"--B0\r\n", b"\r", b"\n--B0--")
    ):
        pixels[number * 50 : number * 50 + len(near)] = near
    one.PixelData = bytes(pixels)
    data = body(part_10(one))

    def pieces(size: int) -> Iterator[bytes]:
        yield from (data[at : at + size] for at in range(0, 4000, size))
        yield data[(4000 + size - 1) // size * size :]

    for size in (1, 7, 64, 1000):
        assert served.post(pieces(size)).status_code == 200
    for path in served.node.spool.pending():
        assert path.read_bytes().endswith(bytes(pixels))


def test_parts_are_cut_right_wherever_the_pieces_end() -> None:
    taken: list[bytearray] = []

    class Taker:
        def begin(self, media_type: str) -> None:
            taken.append(bytearray(media_type.encode()))

        def write(self, data: bytes) -> None:
            taken[-1] += data

        def end(self) -> None:
            taken[-1] += b"|"

    first, second = b"\r\n--B\r\n--B0x\r\n--B0-x\r\n--B0\rx--B0--", b"\r\n"
    data = body(first, second)
    for one in range(1, len(data)):
        for two in (one, (one + 1) % len(data), len(data) - 3):
            taken.clear()
            reader = parts.PartReader("B0", Taker())
            low, high = sorted((one, two))
            for piece in (data[:low], data[low:high], data[high:]):
                reader.feed(piece)
            reader.finish()
            assert taken == [b"application/dicom" + first + b"|", b"application/dicom" + second + b"|"]


def test_parts_have_a_number_and_bodies_a_size(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    data = part_10(ultrasound("one"))
    monkeypatch.setattr(parts, "PARTS", 2)
    assert served.post(body(data, data, data)).status_code == 413
    assert served.waiting() == 2
    served.console.change("listener", maximum_object_mib=0)
    answer = served.post(body(data))
    assert (answer.status_code, failures(answer)[0][1]) == (409, 0xC001)
    big = iter([b"--B0\r\n\r\n", *[bytes(2**20)] * 301])
    try:
        status = served.post(big).status_code
    except requests.ConnectionError:  # the rest of the body met a closed connection
        status = 413
    assert (status, served.waiting(), served.leftovers()) == (413, 2, [])


def test_a_large_object_is_not_held_in_memory(served: Served) -> None:
    head = part_10(ultrasound("one"))
    pieces = iter([b"--B0\r\n\r\n", head, *[bytes(2**20)] * 200, b"\r\n--B0--\r\n"])
    tracemalloc.start()
    try:
        assert served.post(pieces).status_code == 200
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


def test_success_is_said_after_the_object_is_durable(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    commit = IncomingObject.commit
    monkeypatch.setattr(IncomingObject, "commit", lambda self: done.append(commit(self)) or done[-1])
    assert served.post(body(part_10(ultrasound("one")))).status_code == 200
    assert len(done) == 1

    def full(_: IncomingObject) -> str:
        raise SpoolFull("the disk of the spool is full")

    monkeypatch.setattr(IncomingObject, "commit", full)
    answer = served.post(body(part_10(ultrasound("two"))))
    assert (answer.status_code, failures(answer)[0][1]) == (503, 0xA700)
    assert (served.waiting(), served.leftovers()) == (1, [])


def test_a_low_disk_refuses_before_anything_is_read(served: Served) -> None:
    served.console.change("spool", minimum_free_mib=2**40)
    assert served.post(body(part_10(ultrasound("one")))).status_code == 507
    assert served.post(iter([b"--B0"])).status_code == 507
    assert served.waiting() == 0


def test_too_many_waiting_objects_are_refused_for_now(served: Served) -> None:
    served.console.change("spool", waiting_objects=1)
    data = [part_10(ultrasound(name)) for name in ("one", "two")]
    answer = served.post(body(*data))
    assert (answer.status_code, failures(answer)[0][1]) == (202, 0xA700)
    assert served.post(body(data[1])).status_code == 503
    served.node.settle()
    time.sleep(1.1)  # the folder is listed once a second
    assert served.post(body(data[1])).status_code == 200


def test_a_sender_that_goes_away_leaves_nothing_of_what_was_not_whole(served: Served) -> None:
    data = body(part_10(ultrasound("one")), part_10(ultrasound("two")) + bytes(3 * 2**20))
    address = urlsplit(served.url)
    assert address.port
    for cut in (100, len(data) // 2, len(data) - 20):
        with socket.create_connection(("127.0.0.1", address.port)) as sent:
            head = (
                f"POST {address.path}/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\n"
                f"Authorization: Bearer {served.token}\r\nContent-Length: {len(data)}\r\n\r\n"
            )
            sent.sendall(head.encode() + data[:cut])
    wait_until(lambda: len(audited(served.node.database, "uploaded")) == 2, 20, "both are in the audit")
    assert [one["objects"] for one in audited(served.node.database, "uploaded")] == [1, 1]
    assert (served.waiting(), served.leftovers()) == (2, [])


def test_so_many_requests_at_a_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    places = asyncio.Semaphore(1)
    monkeypatch.setattr(handlers, "_places", places)
    waits = threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"--B0\r\n\r\n"
        waits.wait(30)
        yield b"x\r\n--B0--\r\n"

    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(served.post(slow()).status_code))
    thread.start()
    wait_until(places.locked, 20, "the slow one has the place")
    assert served.post(body(b"x")).status_code == 503
    waits.set()
    thread.join(30)
    assert statuses == [409]
    assert served.post(body(b"x")).status_code == 409


def test_only_an_operator_stores_and_nothing_is_there_without_the_setting(served: Served) -> None:
    data = body(part_10(ultrasound("one")))
    assert served.post(data, token="").status_code == 401
    assert served.post(data, token="dn_wrong").status_code == 401
    for role in (UserRole.VIEWER, UserRole.READER):
        token = users.add_token(served.console.settings, role.value, "a test", 1)
        assert served.post(data, token=token).status_code == 403
    console = ConsoleLab(served.node.settings, served.node.database)
    for path in ("/api/dicomweb/studies", "/api/dicomweb/studies/1.2"):
        answer = console.browser().client.post(
            path, content=data, headers={**served.headers, "Content-Type": TYPE}
        )
        assert answer.status_code == 404
    assert served.waiting() == 0


def test_a_cookie_counts_for_nothing(served: Served) -> None:
    browser = served.console.browser(UserRole.OPERATOR)
    answer = browser.client.post("/api/dicomweb/studies", content=body(b"x"), headers={"Content-Type": TYPE})
    assert answer.status_code == 401


def test_who_sees_some_senders_only_reaches_no_other_study(served: Served) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    served.node.receive(secret, calling="ROOM9")
    served.node.settle()
    added = part_10(
        changed(
            secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77", PixelData=bytes(len(secret.PixelData))
        )
    )
    elsewhere = served.user("elsewhere", UserRole.OPERATOR, "ROOM1")
    assert served.post(body(part_10(new)), token=elsewhere).status_code == 403
    limited = served.user("limited", UserRole.OPERATOR, "CONSOLE")
    assert served.post(body(part_10(new)), token=limited).status_code == 200
    answer = served.post(body(added), token=limited)
    assert (answer.status_code, failures(answer)[0][1]) == (409, 0x0124)
    no_study = changed(new, StudyInstanceUID="")
    assert failures(served.post(body(part_10(no_study)), token=limited))[0][1] == 0xC000
    assert served.post(body(part_10(new)), token=limited).status_code == 200  # its own comes again
    served.node.settle()
    mine = requests.get(
        f"{served.url}/studies", headers={"Authorization": f"Bearer {limited}"}, timeout=60
    ).json()
    assert [one["0020000D"]["Value"] for one in mine] == [[str(new.StudyInstanceUID)]]


def test_an_answer_in_xml_is_not_to_be_had(served: Served) -> None:
    data = body(part_10(ultrasound("one")))
    assert served.post(data, Accept="application/dicom+xml").status_code == 406
    assert served.post(data, Accept="application/dicom+xml, application/dicom+json;q=0.5").status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_stores_a_file(served: Served, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(body(part_10(ultrasound("one"))))
    done = subprocess.run(
        [
            *("curl", "-sS", "-H", f"Authorization: Bearer {served.token}", "-H", f"Content-Type: {TYPE}"),
            *("--data-binary", f"@{tmp_path / 'body'}", f"{served.url}/studies"),
        ],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert "00081199" in json.loads(done.stdout)
    assert served.waiting() == 1


@pytest.mark.timeout(200)
def test_a_node_that_is_killed_keeps_what_it_answered_for_and_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    config = site_config(free_port(), processes=0).replace(
        "[assembly]", f"[console]\nenabled = true\nport = {port}\ndicomweb_store = true\n[assembly]"
    )
    node = Node(tmp_path, config)
    url = f"http://127.0.0.1:{port}/api/dicomweb/studies"
    with running(node):
        settings = loading.load([node.config])
        users.add_user(settings, "gateway", UserRole.OPERATOR, PASSWORD)
        headers = {"Authorization": f"Bearer {users.add_token(settings, 'gateway', 'a test', 1)}"}
        wait_until(lambda: _answers(port), 60, "the console")
        one = part_10(ultrasound("one"))
        answer = requests.post(url, data=body(one), headers=headers | {"Content-Type": TYPE}, timeout=60)
        assert answer.status_code == 200

        def endless() -> Iterator[bytes]:
            yield b"--B0\r\n\r\n" + part_10(ultrasound("two"))
            while True:
                yield bytes(2**20)
                time.sleep(0.1)

        def send() -> None:
            with pytest.raises(requests.RequestException):
                requests.post(url, data=endless(), headers=headers | {"Content-Type": TYPE}, timeout=60)

        sender = threading.Thread(target=send)
        sender.start()
        incoming = settings.node.data_dir / "spool" / "incoming"
        wait_until(lambda: any(incoming.glob(".*")), 30, "an object is coming")
        node.kill()
        sender.join(60)
    with running(node):
        wait_until(lambda: len(node.studies()) == 1, 60, "the first object is indexed")
        assert list(incoming.glob(".*")) == []


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).ok
    except requests.RequestException:
        return False
