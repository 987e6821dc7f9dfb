"""A real Orthanc that has more of a patient than was sent: the node asks it, and fetches what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite

from tests.modality import chest
from tests.node_lab import Node, store
from tests.ports import free_port
from tests.waiting import wait_until
from tests.wire.orthanc_lab import Orthanc
from tests.wire.test_fetch import PIXELS, node_beside, orthanc_beside, reports

pytestmark = pytest.mark.debian("orthanc", "orthanc-dicomweb")

ASKS = """complete_from = "pacs"
priors = { peer = "pacs", same = "body part and modality", most = 1, years = 5 }
"""


def film(study: str, days_ago: int, number: int = 1) -> Dataset:
    """A film of the one patient, taken so many days ago."""
    image, patient = chest(study, PIXELS, number=number), chest("patient", PIXELS)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        setattr(image, keyword, patient.get(keyword))
    image.StudyDate = f"{datetime.now().astimezone() - timedelta(days=days_ago):%Y%m%d}"
    return image


def put(orthanc: Orthanc, *images: Dataset) -> None:
    for image in images:
        buffer = BytesIO()
        dcmwrite(buffer, image, enforce_file_format=True)
        orthanc.upload(buffer.getvalue())


@pytest.fixture(params=["get", "dicomweb"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Node, Orthanc]]:
    """A node whose one rule asks this Orthanc for missing images and for one prior."""
    port = free_port()
    with orthanc_beside(tmp_path / "orthanc", port) as orthanc:
        node = node_beside(tmp_path / "node", orthanc, port, request.param)
        config = node.config
        config.write_text(
            config.read_text().replace('pipeline = "command"\n', f'pipeline = "command"\n{ASKS}')
        )
        node.start()
        try:
            yield node, orthanc
        finally:
            node.kill()


def test_missing_images_and_the_prior_come_from_the_archive(site: tuple[Node, Orthanc]) -> None:
    node, orthanc = site
    older, old, new = film("older", 900), film("old", 300), [film("new", 0, number) for number in (1, 2, 3)]
    stranger = chest("stranger", PIXELS)
    stranger.StudyDate = old.StudyDate
    put(orthanc, older, old, stranger, *new)
    assert store(node.port, new[:1], orthanc.ae_title) == [0]
    node.kill()  # what is to be asked was written down with the image
    node.start()
    wait_until(lambda: reports(orthanc)[new[0].StudyInstanceUID] == 1, 120, "the report of the new study")
    jobs = node.cli("jobs", "list", "--limit", "0")
    assert sorted(row["state"] for row in jobs) == ["succeeded", "succeeded"]
    fetched = node.cli("fetches", "list")
    assert {row["study_instance_uid"] for row in fetched} == {new[0].StudyInstanceUID, old.StudyInstanceUID}
    assert reports(orthanc) == {new[0].StudyInstanceUID: 1}  # nothing of the prior is sent
    [study] = [
        row for row in node.cli("studies", "list") if row["study_instance_uid"] == new[0].StudyInstanceUID
    ]
    assert study["instances"] == 3
