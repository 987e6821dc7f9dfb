"""A vendor's AI server beside a real node: well behaved, silent, late, twice, for another patient."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.events import ANSWER_ASIDE, ANSWER_LATE, ANSWER_SILENT, ANSWER_UNKNOWN, ANSWER_WHOLE
from tests.ct_lab import ct_slices
from tests.node_lab import Node, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.vendor_lab import Vendor, derived, derives, remote_rule, run_vendor, vendor_site
from tests.waiting import wait_until


def study_of(node: Node, images: list[Dataset]) -> dict[str, Any]:
    found: dict[str, Any] = node.studies()[str(images[0].StudyInstanceUID)]
    return found


def stored(pacs: Pacs) -> list[Dataset]:
    return [dcmread(BytesIO(data), force=True) for data in pacs.stored.values()]


@pytest.mark.timeout(300)
def test_a_study_goes_to_a_vendor_and_its_answer_to_the_pacs(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("remote", 2, side=32), Pacs(), Vendor()
    with run_pacs(pacs), run_vendor(vendor):
        node = Node(tmp_path, vendor_site(pacs, vendor))
        vendor.node = node.port
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["delivered"])
            vendor.send(derives(vendor.images()))
            wait_until(lambda: len(node.events(ANSWER_ASIDE.number)) == 2, what="the second answer")
            assert study_of(node, images)["state"] == "delivered"
    results = stored(pacs)
    assert len(results) == 2, "the answer that came again sent nothing"
    assert {one.PatientID for one in results} == {images[0].PatientID}
    assert {one.StudyInstanceUID for one in results} == {images[0].StudyInstanceUID}
    assert all(is_own_result(one) for one in results)
    makers = {str(item.get("Manufacturer")) for one in results for item in one.ContributingEquipmentSequence}
    assert "Vendor Inc" in makers, "whose algorithm it was"


@pytest.mark.timeout(300)
def test_a_silent_vendor_is_said_and_its_late_answer_waits_for_a_person(tmp_path: Path) -> None:
    images, pacs, vendor = ct_slices("late", 2, side=32), Pacs(), Vendor(answers=None)
    with run_pacs(pacs), run_vendor(vendor):
        node = Node(tmp_path, vendor_site(pacs, vendor, rules=remote_rule(options="deadline = 0.05")))
        vendor.node = node.port
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["failed"])
            wait_until(lambda: len(pacs.stored) == 1, what="the report that the AI did not run")
            assert "no answer from vendor in 0.05 minutes" in study_of(node, images)["reason"]
            assert len(node.events(ANSWER_SILENT.number)) == 1
            vendor.send(derives(vendor.images()))
            node.wait_for(["unassessed"])
            assert len(node.events(ANSWER_LATE.number)) == 1
            assert len(pacs.stored) == 1, "nobody accepted it yet"
            done = node.run("studies", "accept", str(images[0].StudyInstanceUID))
            assert done.returncode == 0, done.stderr
            node.wait_for(["delivered"])
    assert [str(one.Modality) for one in stored(pacs)].count("CT") == 2


@pytest.mark.timeout(300)
def test_what_a_vendor_sends_for_others_is_quarantined_under_its_name(tmp_path: Path) -> None:
    """Of nobody, of another vendor, from a stranger, of another patient: nothing of it is delivered."""
    mine, pacs, vendor = ct_slices("mine", 2, side=32), Pacs(), Vendor(answers=None)
    rival = Vendor(ae_title="RIVAL", calling="RIVAL", answers=None)
    with run_pacs(pacs), run_vendor(vendor), run_vendor(rival):
        rules = remote_rule(options="deadline = 1") + remote_rule("rival", modality="MR")
        node = Node(tmp_path, vendor_site(pacs, vendor, rival, rules=rules))
        vendor.node = rival.node = node.port
        with running(node):
            assert store(node.port, mine, "CT1") == [0, 0]
            wait_until(lambda: len(vendor.images()) == 2, what="the images there")
            vendor.send(derives(ct_slices("nobody", 1, side=32)))
            rival.send(derives(vendor.images()))
            vendor.send(derives(vendor.images()), calling="STRANGER")
            wait_until(lambda: len(node.events(ANSWER_UNKNOWN.number)) == 2, what="two in quarantine")
            vendor.send([derived(mine[0]), derived(mine[1], PatientID="ANOTHER", PatientName="Other^One")])
            studies = node.wait_for(["failed"])
            assert len(node.events(ANSWER_WHOLE.number)) == 1
            wait_until(lambda: bool(pacs.stored), what="the report that the AI did not run")
    quarantined = [one for one in studies.values() if one["state"] == "quarantined"]
    assert len(studies) - len(quarantined) == 1, "nothing of a vendor became a study"
    assert not rival.received
    assert {str(one.Modality) for one in stored(pacs)} == {"SR"}
