"""C-ECHO and C-STORE over real associations: what is acknowledged is in the spool, bit for bit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.dsutils import split_dataset

from benchmarks.sender import Stored, associate, elements_of, load
from dicom_node.dicom.transfer_syntaxes import TRANSFER_SYNTAXES
from dicom_node.events import ASSOCIATION_ACCEPTED, ASSOCIATION_RELEASED, ECHOED
from dicom_node.inbox.header import read_arrival
from dicom_node.scp.contexts import STORAGE_CLASSES
from dicom_node.scp.policy import policy_path
from tests.wire.receiver import (
    EXPLICIT,
    IMPLICIT,
    US,
    VERIFICATION,
    Receiver,
    receiving,
    ultrasound,
    wait_until,
)

COMMITMENT = "1.2.840.10008.1.20.1"
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
RLE, JPEG_LS, J2K_LOSSLESS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
BASELINE, DEFLATED, BIG_ENDIAN = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A listener that also takes the other storage classes of the test files."""
    further = sorted({item.sop_class_uid for item in readable(TEST_FILES)})
    with receiving(tmp_path_factory.mktemp("listener"), further_storage_classes=further) as running:
        yield running


def readable(folder: Path) -> list[Stored]:
    """What in a folder can be sent: has a header with a storage class and a syntax of the network."""
    syntaxes = {syntax.uid for syntax in TRANSFER_SYNTAXES}
    items = []
    for path in sorted(folder.rglob("*.dcm")):
        try:
            meta, _ = split_dataset(path)
        except InvalidDicomError:  # no Part 10 file: says nowhere what it is
            continue
        names = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        if all(meta.get(name) for name in names) and meta.TransferSyntaxUID in syntaxes:
            items.append(load(path))
    return [item for item in items if item.sop_class_uid != "1.2.840.10008.1.3.10" and item.data_set]


def store_all(receiver: Receiver, items: list[Stored]) -> dict[str, list[bytes]]:
    """Send each item in its own syntax; data sets in the spool afterwards, by SOP Instance UID."""
    before = set(receiver.spool.pending())
    pairs = sorted({(item.sop_class_uid, item.transfer_syntax_uid) for item in items})
    association = associate(receiver.address, [(abstract, [syntax]) for abstract, syntax in pairs])
    ids = {pair: 2 * number + 1 for number, pair in enumerate(pairs)}
    for item in items:
        assert association.store(ids[item.sop_class_uid, item.transfer_syntax_uid], item) == 0x0000
    association.release()
    found: dict[str, list[bytes]] = {}
    for path in set(receiver.spool.pending()) - before:
        kept = load(path)
        found.setdefault(kept.sop_instance_uid, []).append(kept.data_set)
    return found


@pytest.mark.debian("dcmtk")
def test_echoscu_gets_an_answer(receiver: Receiver) -> None:
    done = subprocess.run(["echoscu", "-aec", "AINODE", "127.0.0.1", str(receiver.port)], check=False)
    assert done.returncode == 0
    (event,) = receiver.wait_for_event(ECHOED)
    assert event.fields["calling"] == "ECHOSCU"


@pytest.mark.debian("dcmtk")
@pytest.mark.parametrize("program", ["storescu", "dcmsend"])
def test_dcmtk_stores(receiver: Receiver, program: str) -> None:
    before = set(receiver.spool.pending())
    path = TEST_FILES / "examples_rgb_color.dcm"
    options = ["-aet", "STORESCU", "-aec", "AINODE", "127.0.0.1", str(receiver.port)]
    done = subprocess.run([program, *options, str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (kept,) = set(receiver.spool.pending()) - before
    assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(path).PixelData


def test_pydicoms_files_are_kept_bit_for_bit(receiver: Receiver) -> None:
    items = readable(TEST_FILES)
    assert len({item.transfer_syntax_uid for item in items}) >= 10
    found = store_all(receiver, items)
    for item in items:
        assert item.data_set in found[item.sop_instance_uid]


@pytest.mark.data
def test_the_shared_files_are_kept_bit_for_bit(tmp_path: Path, data: Path) -> None:
    items = readable(data / "dicom")
    assert len(items) > 100
    further = sorted({item.sop_class_uid for item in items})
    with receiving(tmp_path, further_storage_classes=further) as receiver:
        found = store_all(receiver, items)
    assert sum(map(len, found.values())) == len(items)
    for item in items:
        assert item.data_set in found[item.sop_instance_uid]


def test_every_class_is_accepted_in_every_syntax(receiver: Receiver) -> None:
    for storage_class in STORAGE_CLASSES:
        contexts = [(storage_class.uid, [syntax.uid]) for syntax in TRANSFER_SYNTAXES]
        association = associate(receiver.address, contexts)
        assert list(association.accepted.values()) == [syntax.uid for syntax in TRANSFER_SYNTAXES]
        association.release()


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([BASELINE, RLE, EXPLICIT], EXPLICIT),
        ([BASELINE, IMPLICIT, JPEG_LS], JPEG_LS),
        ([IMPLICIT, J2K_LOSSLESS], J2K_LOSSLESS),
        ([BIG_ENDIAN, DEFLATED, IMPLICIT], IMPLICIT),
        ([BIG_ENDIAN, DEFLATED], DEFLATED),
        ([BASELINE, BIG_ENDIAN], BIG_ENDIAN),
        ([BASELINE], BASELINE),
        (["1.2.3.4.5", "1.2.840.10008.1.2.4.102"], "1.2.840.10008.1.2.4.102"),
    ],
)
def test_of_several_syntaxes_the_best_is_taken(receiver: Receiver, offered: list[str], taken: str) -> None:
    association = associate(receiver.address, [(US, offered)])
    assert association.accepted == {1: taken}
    association.release()


def test_unknown_classes_and_syntaxes_are_refused_by_context(receiver: Receiver) -> None:
    offered = [(US, ["1.2.3.4.5"]), ("1.2.3.4", [EXPLICIT]), (COMMITMENT, [EXPLICIT]), (US, [EXPLICIT])]
    association = associate(receiver.address, offered)
    assert association.results == {1: 4, 3: 3, 5: 3, 7: 0}  # PS3.8 Table 9-18
    association.release()


def test_what_an_ultrasound_cart_sends_beside_its_images_is_kept(receiver: Receiver) -> None:
    beside = [
        "1.2.840.10008.5.1.4.1.1.6.2", "1.2.840.10008.5.1.4.1.1.66", "1.2.840.10008.5.1.4.1.1.1.2",
        "1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2", "1.2.840.10008.5.1.4.1.1.9.1.1",
        "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.113543.6.6.1.3.10002",
    ]  # fmt: skip
    with receiving(receiver.data_dir.with_name("cart")) as listener:
        association = associate(listener.address, [(uid, [EXPLICIT]) for uid in [US, *beside]])
        assert set(association.results.values()) == {0}
        for number, uid in enumerate(beside, start=1):
            assert association.store(2 * number + 1, ultrasound(number, sop_class=uid)) == 0x0000
        association.release()


def test_refused_classes_are_logged_for_debugging_only(tmp_path: Path) -> None:
    """A toolkit offers all that it knows: the journal has it, the log does not."""
    offered = [(f"1.2.3.{number}", [EXPLICIT]) for number in range(40)]
    shown = {}
    for level in ("info", "debug"):
        receiver = Receiver(tmp_path / level)
        replace(receiver.policy, log_level=level).write(policy_path(receiver.data_dir))
        with (tmp_path / f"{level}.log").open("w") as file:
            receiver.start(stderr=file)
            associate(receiver.address, [*offered, (US, [EXPLICIT])]).release()
            (event,) = receiver.wait_for_event(ASSOCIATION_ACCEPTED)
            assert event.fields["refused_count"] == 40
            receiver.stop()
        log = (tmp_path / f"{level}.log").read_text()
        shown[level] = [line for line in log.splitlines() if "refused" in line]
    assert [len(lines) for lines in shown.values()] == [0, 1]


def test_the_spooled_file_says_how_the_object_came(receiver: Receiver) -> None:
    before = set(receiver.spool.pending())
    item = ultrasound(11, syntax=IMPLICIT)
    association = associate(receiver.address, [(US, [IMPLICIT])])
    assert association.store(1, item, priority=1) == 0x0000
    association.release()
    (path,) = set(receiver.spool.pending()) - before
    arrival = read_arrival(path)
    assert (arrival.calling_ae, arrival.called_ae, arrival.address) == ("SENDER", "AINODE", "127.0.0.1")
    assert arrival.priority == 1
    meta = pydicom.dcmread(path).file_meta
    assert meta.TransferSyntaxUID == IMPLICIT
    assert meta.MediaStorageSOPInstanceUID == item.sop_instance_uid
    accepted = [event.fields["association"] for event in receiver.events(ASSOCIATION_ACCEPTED)]
    assert arrival.association in accepted


def test_an_association_is_journalled_before_and_after_its_objects(receiver: Receiver) -> None:
    association = associate(receiver.address, [(US, [EXPLICIT])])
    accepted = receiver.events(ASSOCIATION_ACCEPTED)[-1]
    assert accepted.fields["peer"] == "sender"
    for number in (21, 22):
        assert association.store(1, ultrasound(number)) == 0x0000
    identifier = accepted.fields["association"]

    def released() -> dict[object, object]:
        """Objects by association; those of other tests may still come in."""
        events = receiver.events(ASSOCIATION_RELEASED)
        return {event.fields["association"]: event.fields["objects"] for event in events}

    assert identifier not in released()
    association.release()
    wait_until(lambda: identifier in released())
    assert released()[identifier] == 2


@pytest.mark.parametrize("limit", [128, 4096, 131072])
def test_pdus_of_any_size_are_put_together(receiver: Receiver, limit: int) -> None:
    before = set(receiver.spool.pending())
    item = ultrasound(31, pixels=9001)
    association = associate(receiver.address, [(US, [EXPLICIT])], maximum_pdu=limit)
    association.peer_pdu = limit
    assert association.store(1, item) == 0x0000
    association.release()
    (path,) = set(receiver.spool.pending()) - before
    assert load(path).data_set == item.data_set


def test_requests_that_do_not_wait_for_answers_are_answered_in_their_order(receiver: Receiver) -> None:
    before = set(receiver.spool.pending())
    association = associate(receiver.address, [(US, [EXPLICIT])])
    stores = [association.encode_store(1, ultrasound(number)) for number in range(40)]
    association.sock.sendall(b"".join(stores))
    answers = [elements_of(association.read_response()) for _ in range(40)]
    association.release()
    assert [int.from_bytes(answer[0x0120], "little") for answer in answers] == list(range(1, 41))
    assert {answer[0x0900] for answer in answers} == {b"\0\0"}
    assert len(set(receiver.spool.pending()) - before) == 40


def test_echo_and_store_share_an_association(receiver: Receiver) -> None:
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(VERIFICATION)
    ae.add_requested_context(US, EXPLICIT)
    association = ae.associate("127.0.0.1", receiver.port, ae_title="AINODE")
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = UID(US), UID("1.2.3.99")
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    for _ in range(2):
        assert association.send_c_echo().Status == 0x0000
        assert association.send_c_store(ds).Status == 0x0000
    association.release()
