"""A vendor's AI gets de-identified copies, with a real node: what it sees, and whose its answer is."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.events import ANSWER_WHOLE
from tests.ct_lab import ct_slices
from tests.modality import data_set, ultrasound
from tests.node_lab import Node, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.service_lab import run_example, service_site
from tests.vendor_lab import Vendor, derived, remote_rule, run_vendor, vendor_site
from tests.waiting import wait_until

COPIES = "deadline = 1, deidentify = true"


def with_references(images: Sequence[Dataset]) -> list[Dataset]:
    """One derived image for each, which refers to it."""
    return [
        derived(
            image,
            SourceImageSequence=[
                data_set(
                    ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID
                )
            ],
        )
        for image in images
    ]


def named(name: str) -> list[Dataset]:
    """Slices of somebody who can be told from others."""
    images = ct_slices(name, 2, side=32)
    for one in images:
        one.PatientName, one.PatientID, one.PatientBirthDate = "Okafor^Lina", "HOSP-774411", "19580311"
        one.ReferringPhysicianName, one.InstitutionName = "Szymanski^Ewa", "Klinikum Musterdorf"
    return images


@pytest.mark.timeout(300)
def test_a_vendor_sees_a_pseudonym_and_its_answer_is_of_the_patient(tmp_path: Path) -> None:
    images, pacs, vendor = named("copies"), Pacs(), Vendor(answers=with_references)
    with run_pacs(pacs), run_vendor(vendor):
        node = Node(tmp_path, vendor_site(pacs, vendor, rules=remote_rule(options=COPIES)))
        vendor.node = node.port
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["delivered"])
    sent = b"".join(vendor.stored.values())
    identity = ["Okafor", "Lina", "774411", "19580311", "Szymanski", "Musterdorf", "CT1"]
    uids = [str(one[level].value) for one in images for level in ("StudyInstanceUID", "SOPInstanceUID")]
    assert [text for text in (*identity, *uids) if text.encode() in sent] == []
    results = [dcmread(BytesIO(one), force=True) for one in pacs.stored.values()]
    assert len(results) == 2
    assert {(one.PatientID, one.StudyInstanceUID) for one in results} == {
        ("HOSP-774411", images[0].StudyInstanceUID)
    }
    assert {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in results} == {
        one.SOPInstanceUID for one in images
    }
    assert not any(b"AI-" in one for one in pacs.stored.values()), "no pseudonym is left"
    assert list((tmp_path / "var" / "copies").iterdir()) == [], "copies are removed when they are sent"


@pytest.mark.timeout(300)
def test_an_answer_for_another_pseudonym_is_refused(tmp_path: Path) -> None:
    def of_another(images: Sequence[Dataset]) -> list[Dataset]:
        return [derived(image, PatientID="AI-ANOTHER", PatientName="AI-ANOTHER^") for image in images]

    images, pacs, vendor = named("other"), Pacs(), Vendor(answers=of_another)
    with run_pacs(pacs), run_vendor(vendor):
        node = Node(tmp_path, vendor_site(pacs, vendor, rules=remote_rule(options=COPIES)))
        vendor.node = node.port
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["failed"])
            assert len(node.events(ANSWER_WHOLE.number)) == 1, "it came, and was judged"
            wait_until(lambda: bool(pacs.stored), what="the report that the AI did not run")
    assert {str(dcmread(BytesIO(one), force=True).Modality) for one in pacs.stored.values()} == {"SR"}


@pytest.mark.timeout(300)
def test_images_whose_pixels_may_show_a_name_never_leave(tmp_path: Path) -> None:
    image, pacs, vendor = ultrasound("copies"), Pacs(), Vendor(answers=None)
    with run_pacs(pacs), run_vendor(vendor):
        rules = remote_rule(options=COPIES, modality="US")
        node = Node(tmp_path, vendor_site(pacs, vendor, rules=rules))
        vendor.node = node.port
        with running(node):
            assert store(node.port, [image], "CT1") == [0]
            node.wait_for(["failed"])
            reason = node.studies()[str(image.StudyInstanceUID)]["reason"]
    assert "its pixels may show a name" in reason
    assert vendor.stored == {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("answers", ["returned", "fetched"])
def test_a_service_by_http_gets_copies_too(tmp_path: Path, answers: str) -> None:
    images, pacs = named(f"copies-{answers}"), Pacs()
    with run_pacs(pacs), run_example() as url:
        options = f'answers = "{answers}", deadline = 1, deidentify = true'
        node = Node(tmp_path, service_site(pacs, url, options))
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["delivered"])
    results = [dcmread(BytesIO(one), force=True) for one in pacs.stored.values()]
    assert len(results) == 2
    assert {(one.PatientID, one.StudyInstanceUID) for one in results} == {
        ("HOSP-774411", images[0].StudyInstanceUID)
    }
