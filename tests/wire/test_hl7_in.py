"""A real node whose RIS merges patients while their studies are under way."""

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.events import CORRECTION_AWAITED, JOB_STARTED, STUDY_CORRECTED
from tests.ct_lab import ct_slices
from tests.hl7_lab import hl7_config, message, send_until_acknowledged
from tests.modality import quick_ultrasound
from tests.node_lab import PROGRAM, Node, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.vendor_lab import Vendor, derives, run_vendor, vendor_site
from tests.waiting import wait_until

SLOW = PROGRAM.replace("sleep 0.2", "sleep 5")


def study(patient: str) -> list[Dataset]:
    image = quick_ultrasound("merged")
    image.PatientID = patient
    return [image]


def patients(pacs: Pacs) -> set[str]:
    return {str(dcmread(BytesIO(data), force=True).PatientID) for data in pacs.stored.values()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rules", [PROGRAM, SLOW], ids=["result waits in the outbox", "job runs"])
def test_a_merge_in_mid_flight_ends_under_the_right_patient(tmp_path: Path, rules: str) -> None:
    port, pacs = free_port(), Pacs()
    node = Node(tmp_path, site_config(pacs.port, rules) + hl7_config(port))
    with running(node):
        assert store(node.port, study("OLD"), "US1") == [0]
        if rules == SLOW:
            wait_until(lambda: node.events(JOB_STARTED.number), what="the job")
        else:
            node.wait_for(["delivering"])
        send_until_acknowledged(port, message())
        wait_until(lambda: node.events(CORRECTION_AWAITED.number), what="the study is held")
        with run_pacs(pacs):
            assert store(node.port, study("NEW"), "PACS") == [0]
            node.wait_for(["delivered"])
    assert patients(pacs) == {"NEW"}
    assert node.cli("patients", "former") == []
    assert [row["state"] for row in node.cli("messages", "list")] == ["done"]


@pytest.mark.timeout(300)
def test_a_merge_while_a_vendor_answers_ends_under_the_right_patient(tmp_path: Path) -> None:
    port, pacs, vendor = free_port(), Pacs(), Vendor(answers=None)
    images = ct_slices("merged", 2, side=32)
    former = str(images[0].PatientID)
    with run_pacs(pacs), run_vendor(vendor):
        node = Node(tmp_path, vendor_site(pacs, vendor) + hl7_config(port))
        vendor.node = node.port
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            wait_until(lambda: len(vendor.images()) == 2, what="the vendor has the study")
            late = derives(vendor.images())
            send_until_acknowledged(port, message(former=f"{former}^^^HOSP"))
            wait_until(lambda: node.events(CORRECTION_AWAITED.number), what="the study is held")
            vendor.send(late)
            for image in images:
                image.PatientID = "NEW"
            assert store(node.port, images, "CT1") == [0, 0]
            wait_until(lambda: node.events(STUDY_CORRECTED.number), what="the study goes on")
            wait_until(lambda: {str(one.PatientID) for one in vendor.images()} == {"NEW"}, what="sent anew")
            vendor.send(derives(vendor.images()))
            node.wait_for(["delivered"])
    assert patients(pacs) == {"NEW"}


@pytest.mark.timeout(300)
def test_what_was_delivered_before_a_merge_is_listed(tmp_path: Path) -> None:
    port, pacs = free_port(), Pacs()
    with run_pacs(pacs):
        node = Node(tmp_path, site_config(pacs.port) + hl7_config(port))
        with running(node):
            assert store(node.port, study("OLD"), "US1") == [0]
            node.wait_for(["delivered"])
            former = set(pacs.stored)
            send_until_acknowledged(port, message())
            node.wait_for(["quarantined"])
            rows = node.cli("patients", "former")
    assert {row["sop_instance_uid"] for row in rows} == former
    assert {(row["former_id"], row["patient_id"]) for row in rows} == {("OLD", "NEW")}
