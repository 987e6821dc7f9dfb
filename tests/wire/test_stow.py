"""Objects stored by STOW-RS: as from a modality, each answered for itself, and none without the right."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_console.handlers import stow
from dicom_console.views import uploaded
from dicom_node.base.errors import SpoolFull
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import Job
from dicom_node.people import users
from dicom_node.receive.spool import IncomingObject
from tests.browser_lab import served_app
from tests.console_lab import PASSWORD, ConsoleLab, audited, console_of
from tests.inbox_lab import Inbox
from tests.modality import part_10, ultrasound
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

TYPE = 'multipart/related; type="application/dicom"; boundary=B0'


def as_file(ds: Dataset) -> Dataset:
    """As it is read from a file: dicomweb-client writes a preamble only then."""
    return dcmread(io.BytesIO(part_10(ds)))


def body(*files: bytes, header: bytes = b"Content-Type: application/dicom\r\n", end: bytes = b"--") -> bytes:
    return b"".join(b"--B0\r\n%b\r\n%b\r\n" % (header, one) for one in files) + b"--B0" + end + b"\r\n"


@dataclass
class Gateway:
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
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    node = Inbox(tmp_path / "var")
    console = node.settings.console.model_copy(update={"dicomweb_store": True, "upload_mib": 300})
    lab = ConsoleLab(node.settings.model_copy(update={"console": console}), node.database)
    lab.change("spool", minimum_free_mib=0)
    with served_app(lab) as address:
        token = users.add_token(lab.settings, UserRole.OPERATOR.value, "a gateway", 1)
        yield Gateway(node, lab, f"{address}/api/dicomweb", token)
    node.close()


def failures(answer: requests.Response) -> list[tuple[str, int]]:
    """SOP Instance UID and Failure Reason of each failed object."""
    module = Dataset.from_json(answer.json())
    found = [*module.get("FailedSOPSequence", ()), *module.get("OtherFailuresSequence", ())]
    return [(str(one.get("ReferencedSOPInstanceUID", "")), one.FailureReason) for one in found]


def test_what_dicomweb_client_stores_is_received_as_from_a_modality(
    gateway: Gateway,
) -> None:
    one, two = ultrasound("one"), ultrasound("two")
    answer = gateway.client().store_instances([as_file(one), as_file(two)])
    named = {str(item.ReferencedSOPInstanceUID): item for item in answer.ReferencedSOPSequence}
    assert named.keys() == {str(one.SOPInstanceUID), str(two.SOPInstanceUID)}
    assert "FailedSOPSequence" not in answer
    assert "OtherFailuresSequence" not in answer
    assert answer.RetrieveURL in ("", None), "nothing is retrieved here"
    gateway.node.settle()
    row = gateway.node.instance(one)
    assert (row.calling_ae, row.called_ae) == ("CONSOLE", "AINODE")
    assert gateway.node.file_of(one).PixelData == one.PixelData
    assert set(gateway.node.column(Job.rule)) == {"ultrasound"}
    assert gateway.node.read(uploaded.newest) == []  # of the page on which a person follows the own uploads
    [noted] = audited(gateway.node.database, "uploaded")
    assert noted["association"].startswith("console-")  # type: ignore[attr-defined]
    assert noted | {"association": ""} == {
        "way": "STOW-RS", "objects": 2, "refused": 0, "association": "",
    }  # fmt: skip


def test_a_study_is_stored_at_its_own_address_only(gateway: Gateway) -> None:
    one, other = ultrasound("one"), ultrasound("other")
    study = str(one.StudyInstanceUID)
    answer = gateway.client().store_instances([as_file(one)], study_instance_uid=study)
    assert len(answer.ReferencedSOPSequence) == 1
    mixed = gateway.post(body(part_10(one), part_10(other)), f"/studies/{study}")
    assert mixed.status_code == 202
    assert failures(mixed) == [(str(other.SOPInstanceUID), 0xC409)]
    none = gateway.post(body(part_10(other)), f"/studies/{study}")
    assert (none.status_code, failures(none)) == (409, [(str(other.SOPInstanceUID), 0xC409)])
    assert gateway.post(body(part_10(one)), "/studies/1..2").status_code == 400
    assert gateway.waiting() == 2


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_study_is_found_in_each_coding_and_behind_long_sequences(gateway: Gateway, syntax: str) -> None:
    one = ultrasound("one")
    one.ReferencedImageSequence = [Dataset() for _ in range(500)]
    for item in one.ReferencedImageSequence:
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, "1.2.3"
        item.is_undefined_length_sequence_item = True
    one["ReferencedImageSequence"].is_undefined_length = True
    one.file_meta.TransferSyntaxUID = syntax
    assert gateway.post(body(part_10(one)), f"/studies/{one.StudyInstanceUID}").status_code == 200


def test_each_part_is_answered_for_itself(gateway: Gateway) -> None:
    good = ultrasound("good")
    other_class, other_data = ultrasound("a"), part_10(ultrasound("b"))
    other_class.SOPClassUID = other_class.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    syntax = other_data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    uid = str(ultrasound("c").SOPInstanceUID).encode()
    mixed_up = part_10(ultrasound("c"))
    mixed_up = mixed_up.replace(uid, uid[:-1] + (b"1" if uid[-1:] != b"1" else b"2"), 1)
    answer = gateway.post(body(part_10(good), part_10(other_class), syntax, mixed_up, b"no object", b""))
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/dicom+json"
    assert [reason for _, reason in failures(answer)] == [0x0122, 0xC122, 0xA900, 0xC000, 0xC000]
    assert gateway.waiting() == 1
    assert gateway.leftovers() == []
    assert audited(gateway.node.database, "uploaded")[0]["refused"] == 5


FAULTY: tuple[tuple[bytes, int], ...] = (
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
)


def test_hostile_parts_are_refused(gateway: Gateway) -> None:
    for data, code in FAULTY:
        assert gateway.post(data).status_code == code, data[:80]
        assert gateway.waiting() == 0
        assert gateway.leftovers() == []
    assert gateway.post(b"", kind="application/dicom").status_code == 400
    assert gateway.post(part_10(ultrasound("one")), kind="application/dicom").status_code == 200
    assert gateway.waiting() == 1, "one object may be the whole body"
    assert gateway.leftovers() == [], "one object may be the whole body"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Accept": "application/dicom+xml;q=0.9, application/dicom+json"}, 200),
        ({"Accept": "application/json"}, 200),
        ({"Accept": "application/dicom+xml"}, 406),
        ({"Accept": "application/dicom+json;q=0, text/html"}, 406),
        ({"Content-Encoding": "identity"}, 200),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "br"}, 415),
    ],
)
def test_what_cannot_be_read_or_answered_is_refused_before_anything_is_stored(
    gateway: Gateway, headers: dict[str, str], status: int
) -> None:
    answer = gateway.post(body(part_10(ultrasound("one"))), **headers)
    assert answer.status_code == status, answer.text
    assert gateway.waiting() == int(status == 200)


def test_text_before_the_first_boundary_means_nothing(gateway: Gateway) -> None:
    data = body(part_10(ultrasound("one")))
    for before, status in ((b"This is MIME.\r\n", 200), (b"\r\n", 200), (b"x" * 70_000, 400)):
        assert gateway.post(before + data).status_code == status
    assert gateway.post(b"no boundary at all").status_code == 400


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
    data = b"--B\r\nwhat is before\r\n" + body(first, second)
    for one in range(1, len(data)):
        for two in (one, (one + 1) % len(data), len(data) - 3):
            taken.clear()
            reader = stow.PartReader("B0", Taker())
            low, high = sorted((one, two))
            for piece in (data[:low], data[low:high], data[high:]):
                reader.feed(piece)
            reader.finish()
            assert taken == [b"application/dicom" + first + b"|", b"application/dicom" + second + b"|"]


def test_success_is_said_after_the_object_is_durable(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    commit = IncomingObject.commit
    monkeypatch.setattr(IncomingObject, "commit", lambda self: done.append(commit(self)) or done[-1])
    assert gateway.post(body(part_10(ultrasound("one")))).status_code == 200
    assert len(done) == 1

    def full(_: IncomingObject) -> str:
        raise SpoolFull("the disk of the spool is full")

    monkeypatch.setattr(IncomingObject, "commit", full)
    answer = gateway.post(body(part_10(ultrasound("two"))))
    assert (answer.status_code, failures(answer)[0][1]) == (503, 0xA700)
    assert (gateway.waiting(), gateway.leftovers()) == (1, [])


@pytest.mark.parametrize("path", ["/studies", "/../v1/upload"])
def test_whose_right_ends_while_objects_come_stores_no_further_one(gateway: Gateway, path: str) -> None:
    sent = [part_10(ultrasound("late", number=number, size=(640, 480))) for number in range(4)]
    data, kind = body(*sent), TYPE
    if path != "/studies":
        about = b'Content-Disposition: form-data; name="files"; filename="a"'
        data, kind = (
            data.replace(b"Content-Type: application/dicom", about),
            "multipart/form-data; boundary=B0",
        )

    def coming() -> Iterator[bytes]:
        yield data[: len(data) // 2]
        settings = gateway.console.settings
        wait_until(lambda: users.list_tokens(settings)[0]["used_at"], 60, "let in")
        users.change_user(settings, "operator", role=UserRole.VIEWER)
        yield data[len(data) // 2 :]

    assert gateway.post(coming(), path, kind).status_code == 403
    assert gateway.waiting() < 3
    assert gateway.leftovers() == []


def test_who_sees_some_senders_only_reaches_no_other_study(gateway: Gateway) -> None:
    secret, new = ultrasound("secret"), ultrasound("new")
    gateway.node.receive(secret, calling="ROOM9")
    gateway.node.settle()
    added = part_10(
        changed(
            secret, SOPInstanceUID="1.2.826.0.1.3680043.10.543.77", PixelData=bytes(len(secret.PixelData))
        )
    )
    elsewhere = gateway.user("elsewhere", UserRole.OPERATOR, "QUICK")
    assert gateway.post(body(part_10(new)), token=elsewhere).status_code == 403
    limited = gateway.user("limited", UserRole.OPERATOR, "CONSOLE")
    assert gateway.post(body(part_10(new)), token=limited).status_code == 200
    answer = gateway.post(body(added), token=limited)
    assert (answer.status_code, failures(answer)[0][1]) == (409, 0x0124)
    taken_over = changed(secret, StudyInstanceUID="1.2.826.0.1.3680043.10.543.78")
    assert failures(gateway.post(body(part_10(taken_over)), token=limited))[0][1] == 0x0124
    no_study = changed(new, StudyInstanceUID="")
    assert failures(gateway.post(body(part_10(no_study)), token=limited))[0][1] == 0xC000
    assert gateway.post(body(part_10(new)), token=limited).status_code == 200  # its own comes again
    gateway.node.settle()
    seen = requests.get(
        f"{gateway.url.removesuffix('dicomweb')}v1/studies",
        headers={"Authorization": f"Bearer {limited}"},
        timeout=60,
    ).json()
    assert [one["study"] for one in seen["studies"]] == [str(new.StudyInstanceUID)]


def test_nobody_stores_without_a_token_and_nothing_is_there_without_the_setting(gateway: Gateway) -> None:
    assert gateway.post(body(part_10(ultrasound("one"))), token="").status_code == 401
    client = console_of(gateway.node).browser().client
    for path in ("/studies", "/studies/1.2"):
        assert client.post(f"/api/dicomweb{path}", headers=gateway.headers).status_code == 404
