"""Vendors' AI servers that answer half, slowly or under another name, and studies that change meanwhile."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_node.base.events import (
    ANSWER_ASIDE,
    ANSWER_AWAITED,
    ANSWER_DROPPED,
    ANSWER_SENDING,
    ANSWER_SILENT,
    ANSWER_WHOLE,
)
from dicom_node.deliver.scu.calling_ae import CallingAE
from tests.ct_lab import ct_slices
from tests.node_lab import Node, in_background, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.vendor_lab import Vendor, derives, remote_rule, run_vendor, vendor_site
from tests.waiting import wait_until
from tests.wire.test_remote import stored, study_of

pytestmark = pytest.mark.timeout(300)
SILENT = remote_rule(options="deadline = 0.05")
PATIENT = remote_rule(options="deadline = 1")


@contextmanager
def beside(
    folder: Path, pacs: Pacs, *vendors: Vendor, rules: str = PATIENT, is_up: bool = True
) -> Iterator[Node]:
    """A node between this PACS and these vendors, all running."""
    with ExitStack() as stack:
        stack.enter_context(run_pacs(pacs))
        for vendor in vendors if is_up else ():
            stack.enter_context(run_vendor(vendor))
        node = Node(folder, vendor_site(pacs, *vendors, rules=rules))
        for vendor in vendors:
            vendor.node = node.port
        yield stack.enter_context(running(node))


def break_off(node: Node, objects: Sequence[Dataset], calling: str = "VENDOR") -> None:
    """C-STORE these, and abort the association instead of its release."""
    ae = CallingAE(ae_title=calling)
    ae.add_requested_context(objects[0].SOPClassUID, objects[0].file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", node.port, ae_title="AINODE")
    for one in objects:
        assert association.send_c_store(one).Status == 0
    association.abort()


def has_images(vendor: Vendor, number: int) -> bool:
    return len(vendor.stored) == number


def modalities(pacs: Pacs) -> list[str]:
    return sorted(str(one.Modality) for one in stored(pacs))


def test_the_rest_of_an_answer_that_broke_off_is_awaited(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("broken", 2, side=32), Pacs(), Vendor(answers=None)
    with beside(tmp_path, pacs, vendor) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_AWAITED.number)), what="the images there")
        answer = derives(vendor.images())
        break_off(node, answer[:1])
        time.sleep(3)  # longer than it has to be quiet
        assert not node.events(ANSWER_WHOLE.number)
        assert vendor.send(answer) == [0, 0]
        node.wait_for(["delivered"])
        assert len(node.events(ANSWER_ASIDE.number)) == 1, "the half that came again"
    assert modalities(pacs) == ["CT", "CT"]


def test_half_an_answer_waits_for_a_person_if_the_rest_never_comes(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("half", 2, side=32), Pacs(), Vendor(answers=None)
    with beside(tmp_path, pacs, vendor, rules=remote_rule(options="deadline = 0.15")) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_AWAITED.number)), what="the images there")
        break_off(node, derives(vendor.images())[:1])
        node.wait_for(["unassessed"])
    assert not pacs.stored


def test_an_answer_that_comes_byte_by_byte_keeps_no_study_waiting(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("drips", 2, side=32), Pacs(), Vendor(answers=None)
    stop = threading.Event()

    def drip(port: int) -> None:
        ae = CallingAE(ae_title="VENDOR")
        ae.add_requested_context(images[0].SOPClassUID, images[0].file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", port, ae_title="AINODE")
        connection = association.dul.socket.socket
        for byte in b"\x04\x00\x00\x00\x10\x00" + bytes(4096):  # P-DATA-TF, PS3.8 9.3.5
            if stop.wait(1):
                break
            connection.send(bytes([byte]))
        association.abort()

    with beside(tmp_path, pacs, vendor, rules=SILENT) as node:
        dripping = in_background(lambda: drip(node.port))
        assert store(node.port, images, "CT1") == [0, 0]
        node.wait_for(["failed"], seconds=30)
        assert "no answer from vendor" in study_of(node, images)["reason"]
        stop.set()
        dripping.join(30)


def test_a_vendor_under_another_ae_title_is_silent(tmp_path: Path) -> None:
    images, pacs = ct_slices("renamed", 2, side=32), Pacs()
    refused: list[int | None] = []
    vendor = Vendor(answers=None)
    with beside(tmp_path, pacs, vendor, rules=remote_rule(options="deadline = 0.1")) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_AWAITED.number)), what="the images there")
        refused += vendor.send(derives(vendor.images()), calling="VENDOR_2")
        node.wait_for(["failed"])
        assert len(node.studies()) == 1
    assert refused == [None, None]
    assert modalities(pacs) == ["SR"], "the report that the AI did not run"


def test_a_vendor_that_is_down_for_the_whole_deadline_is_said(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("down", 2, side=32), Pacs(), Vendor()
    with beside(tmp_path, pacs, vendor, rules=SILENT, is_up=False) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        node.wait_for(["failed"])
        assert "it could not be sent to vendor in 0.05 minutes" in study_of(node, images)["reason"]
        wait_until(lambda: modalities(pacs) == ["SR"], what="the report that the AI did not run")


def test_a_vendor_that_is_down_for_a_while_gets_the_study_then(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("away", 2, side=32), Pacs(), Vendor()
    with beside(tmp_path, pacs, vendor, is_up=False) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_SENDING.number)), what="the first try")
        time.sleep(3)
        with run_vendor(vendor):
            node.wait_for(["delivered"])
            assert len(vendor.stored) == 2


def test_no_more_studies_are_there_than_may_be_under_way(tmp_path: Path) -> None:
    studies = [ct_slices(f"many{number}", 1, side=32) for number in range(3)]
    pacs, vendor = Pacs(), Vendor(whole=1, answers=None)
    with beside(tmp_path, pacs, vendor, rules=remote_rule(options="deadline = 2, under_way = 1")) as node:
        for images in studies:
            assert store(node.port, images, "CT1") == [0]
        for number in range(1, 4):
            wait_until(partial(has_images, vendor, number), what="the next study")
            time.sleep(3)
            assert len(vendor.stored) == number
            vendor.send(derives(vendor.images()[-1:]))
        node.wait_for(["delivered"], count=3)


def test_the_answer_for_the_patient_before_a_correction_is_refused(tmp_path: Path) -> None:
    """The patient's name came wrong, and comes right while the vendor works on the first one."""
    images, pacs, vendor = ct_slices("corrected", 2, side=32), Pacs(), Vendor(answers=None)
    with beside(tmp_path, pacs, vendor) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_AWAITED.number)), what="the images there")
        first = derives(vendor.images())
        for image in images:
            image.PatientName = "Corrected^Name"
        store(node.port, images, "CT1")
        wait_until(lambda: bool(node.events(ANSWER_DROPPED.number)), what="the first one given up")
        vendor.send(first)
        node.wait_for(["failed"])
        assert "PatientName contradicts" in study_of(node, images)["reason"]
        wait_until(lambda: bool(pacs.stored), what="the report that the AI did not run")
    [report] = stored(pacs)
    assert (report.Modality, str(report.PatientName)) == ("SR", "Corrected^Name")


def test_the_answer_for_a_study_that_was_erased_changes_nothing(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("erased", 2, side=32), Pacs(), Vendor(answers=None)
    with beside(tmp_path, pacs, vendor) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        wait_until(lambda: bool(node.events(ANSWER_AWAITED.number)), what="the images there")
        answer = derives(vendor.images())
        [job] = node.cli("jobs", "list")
        assert node.run("jobs", "cancel", str(job["job"])).returncode == 0
        done = node.run("studies", "erase", str(images[0].StudyInstanceUID))
        assert done.returncode == 0, done.stderr
        vendor.send(answer)
        wait_until(lambda: bool(node.events(ANSWER_DROPPED.number)), what="the answer given up")
        vendor.send(derives(vendor.images()))
        wait_until(lambda: len(node.events(ANSWER_ASIDE.number)) == 2, what="the second answer")
        assert not node.events(ANSWER_WHOLE.number)
    assert not pacs.stored


def test_the_answer_for_a_study_whose_results_were_withdrawn_changes_nothing(tmp_path: Path) -> None:
    """Withdrawn after the vendor answered; then it answers once more."""
    images, pacs, vendor = ct_slices("withdrawn", 2, side=32), Pacs(), Vendor()
    with beside(tmp_path, pacs, vendor) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        node.wait_for(["delivered"])
        uid = str(images[0].StudyInstanceUID)
        done = node.run("studies", "withdraw", uid, "--reason", "safety", "--because", "wrong side")
        assert done.returncode == 0, done.stderr
        vendor.send(derives(vendor.images()))
        wait_until(lambda: len(node.events(ANSWER_ASIDE.number)) == 2, what="the second answer")
        time.sleep(2)
        assert len(node.events(ANSWER_WHOLE.number)) == 1
    assert modalities(pacs) == ["CT", "CT"]


def test_an_answer_after_withdrawal_and_cancelled_rerun_changes_nothing(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("again", 2, side=32), Pacs(), Vendor()
    with beside(tmp_path, pacs, vendor) as node:
        assert store(node.port, images, "CT1") == [0, 0]
        node.wait_for(["delivered"])
        vendor.answers = None
        uid = str(images[0].StudyInstanceUID)
        assert node.run("studies", "rerun", uid).returncode == 0
        wait_until(lambda: len(node.events(ANSWER_AWAITED.number)) == 2, what="the images there again")
        done = node.run("studies", "withdraw", uid, "--reason", "safety", "--because", "wrong side")
        assert done.returncode == 0, done.stderr
        [job] = [one for one in node.cli("jobs", "list") if one["state"] in ("queued", "running")]
        assert node.run("jobs", "cancel", str(job["job"])).returncode == 0
        vendor.send(derives(vendor.images()))
        wait_until(lambda: bool(node.events(ANSWER_DROPPED.number)), what="the answer given up")
        assert len(node.events(ANSWER_WHOLE.number)) == 1, "the first one"
        assert not node.events(ANSWER_SILENT.number)
    assert len(pacs.stored) == 2
