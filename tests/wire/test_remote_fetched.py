"""Orthanc as a vendor's AI server at which results wait: the node queries for them and fetches them."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.events import ANSWER_SILENT, ANSWER_WHOLE
from tests.ct_lab import ct_slices
from tests.modality import part_10
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.service_lab import service_peer
from tests.vendor_lab import derived, derives, remote_rule
from tests.waiting import wait_until
from tests.wire.orthanc_lab import DICOMWEB, Orthanc, needs_orthanc, start_orthanc

Answer = Callable[[list[Dataset]], list[Dataset]]


def site(pacs: Pacs, orthanc: Orthanc, way: str, deadline: float) -> str:
    """Configuration of a node that fetches results from Orthanc by C-GET, C-MOVE or DICOMweb."""
    if way == "dicomweb":
        peer = service_peer(f"{orthanc.url}/dicom-web").replace('"VENDOR"', '"ORTHANC"')
    else:
        peer = (
            f'[[peers]]\nname = "vendor"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\n'
            f'port = {orthanc.dicom_port}\nmay = ["send", "receive"]\nretrieve = "{way}"\n'
        )
    rules = remote_rule(options=f'answers = "fetched", deadline = {deadline}')
    return site_config(pacs.port, rules + peer, results=("image", "sr"), senders=("CT1",), quiet=1, lease=5)


def run(folder: Path, way: str, answer: Answer, state: str, deadline: float = 1.0) -> tuple[Node, Pacs]:
    """Send a study of two slices; once Orthanc has them, it gets what ``answer`` makes of them. Returns when
    the study is in ``state``.
    """
    images, pacs, port = ct_slices(f"at-{way}", 2, side=32), Pacs(), free_port()
    lab = start_orthanc(
        folder / "orthanc", plugins=[DICOMWEB], modalities={"node": ("AINODE", "127.0.0.1", port)},
        config={"DicomAlwaysAllowStore": True, "DicomAlwaysAllowGet": True},
    )  # fmt: skip
    with run_pacs(pacs), lab as orthanc:
        node = Node(folder / "node", site(pacs, orthanc, way, deadline), port)
        with running(node):
            assert store(node.port, images, "CT1") == [0, 0]
            wait_until(lambda: len(orthanc.instances()) == 2, what="the study at the vendor")
            for one in answer([dcmread(BytesIO(part_10(image))) for image in images]):
                orthanc.upload(part_10(one))
            node.wait_for([state])
            wait_until(lambda: bool(pacs.stored), what="results, or that there are none")
    return node, pacs


@needs_orthanc
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["get", "move", "dicomweb"])
def test_results_at_a_server_are_fetched_and_reach_the_pacs(tmp_path: Path, way: str) -> None:
    node, pacs = run(tmp_path, way, derives, "delivered")
    assert len(pacs.stored) == 2
    assert len(node.events(ANSWER_WHOLE.number)) == 1


@needs_orthanc
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["get", "dicomweb"])
def test_results_of_another_patient_are_fetched_and_refused(tmp_path: Path, way: str) -> None:
    def answer(images: list[Dataset]) -> list[Dataset]:
        return [derived(images[0]), derived(images[1], PatientID="ANOTHER", PatientName="Other^One")]

    _, pacs = run(tmp_path, way, answer, "failed")
    assert {str(dcmread(BytesIO(data), force=True).Modality) for data in pacs.stored.values()} == {"SR"}


@needs_orthanc
@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["get", "dicomweb"])
def test_a_server_with_nothing_but_the_study_has_not_answered(tmp_path: Path, way: str) -> None:
    node, pacs = run(tmp_path, way, lambda _: [], "failed", deadline=0.1)
    assert len(pacs.stored) == 1
    assert len(node.events(ANSWER_SILENT.number)) == 1
