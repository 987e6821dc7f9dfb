"""A vendor's AI as an HTTP service beside a real node: its answers come back with the request."""

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.events import ANSWER_ASIDE, ANSWER_WHOLE
from tests.ct_lab import ct_slices
from tests.node_lab import Node, running, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.service_lab import Service, answered, raw, run_example, run_service, service_site
from tests.vendor_lab import derived, derives
from tests.waiting import wait_until


def stored(pacs: Pacs) -> list[Dataset]:
    return [dcmread(BytesIO(data), force=True) for data in pacs.stored.values()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("answers", ["returned", "fetched", "sent"])
def test_the_example_service_gets_a_study_and_its_results_reach_the_pacs(
    tmp_path: Path, answers: str
) -> None:
    images, pacs, console = ct_slices("web", 2, side=32), Pacs(), free_port()
    with run_pacs(pacs), run_example(console) as url:
        config = service_site(pacs, url, f'answers = "{answers}", deadline = 0.5', console=console)
        node = Node(tmp_path, config)
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["delivered"])
            assert len(node.events(ANSWER_WHOLE.number)) == 1
    results = stored(pacs)
    assert len(results) == 2
    assert {(one.PatientID, one.StudyInstanceUID) for one in results} == {
        (images[0].PatientID, images[0].StudyInstanceUID)
    }
    assert all(is_own_result(one) for one in results)
    assert {"Half"} <= {
        str(item.get("ManufacturerModelName"))
        for one in results
        for item in one.ContributingEquipmentSequence
    }


@pytest.mark.timeout(300)
def test_a_study_is_sent_again_with_its_key_until_it_is_answered(tmp_path: Path) -> None:
    """A service in trouble, then half an answer, then the whole: nothing of the half is delivered."""
    images, pacs = ct_slices("again", 2, side=32), Pacs()
    sent: list[bytes] = [raw(b"", status="503 Service Unavailable", Retry_After="1")]

    def answer(asked: list[Dataset]) -> bytes:
        whole = answered(derives(asked))
        return {0: sent[0], 1: whole[: len(whole) * 2 // 3]}.get(len(service.asked) - 1, whole)

    service = Service(answer)
    with run_pacs(pacs), run_service(service):
        node = Node(tmp_path, service_site(pacs, service.url))
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["delivered"])
    assert len(service.asked) == 3
    assert len({*service.keys()}) == 1
    assert len(stored(pacs)) == 2
    [path, headers, got] = service.asked[0]
    assert path == f"/dicom-web/studies/{images[0].StudyInstanceUID}"
    assert "application/dicom" in headers["accept"]
    assert {one.SOPInstanceUID for one in got} == {one.SOPInstanceUID for one in images}
    assert all("PrivateInformation" not in one.file_meta for one in got), "who sent it to the node"


@pytest.mark.timeout(300)
def test_another_patients_answer_and_two_versions_of_one_object_never_leave(tmp_path: Path) -> None:
    images, pacs = ct_slices("mine", 2, side=32), Pacs()
    service = Service(
        lambda got: answered([derived(got[0]), derived(got[1], PatientID="ANOTHER", PatientName="Other^One")])
    )
    with run_pacs(pacs), run_service(service):
        node = Node(tmp_path, service_site(pacs, service.url))
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            node.wait_for(["failed"])
            wait_until(lambda: bool(pacs.stored), what="the report that the AI did not run")
    assert {str(one.Modality) for one in stored(pacs)} == {"SR"}


@pytest.mark.timeout(300)
def test_an_answer_of_another_study_fails_at_once_and_says_why(tmp_path: Path) -> None:
    images, others, pacs = ct_slices("this", 1, side=32), ct_slices("that", 1, side=32), Pacs()
    service = Service(lambda _: answered(derives(others)))
    with run_pacs(pacs), run_service(service):
        node = Node(tmp_path, service_site(pacs, service.url))
        with running(node):
            assert store(node.port, images, "CT1") == [0]
            studies = node.wait_for(["failed"])
            assert not node.events(ANSWER_ASIDE.number)
    assert len(service.asked) == 1
    [study] = studies.values()
    assert "object 1 of its answer: it is of another study" in study["reason"]
