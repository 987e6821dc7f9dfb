"""An existing Orthanc and the whole node, both ways: one job, results where the images are."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.modality import ultrasound
from tests.node_lab import ULTRASOUND, Node, running, site_config, store, wait_until
from tests.ports import free_port
from tests.wire.test_orthanc_forwarding import existing_orthanc, mark_of

pytestmark = pytest.mark.debian("orthanc")


def test_images_sent_to_orthanc_come_back_as_results_and_start_no_second_job(tmp_path: Path) -> None:
    image = ultrasound("roundtrip")
    node_port = free_port()
    with existing_orthanc(tmp_path / "orthanc", node_port) as orthanc:
        results = ("sr", "gsps", "sc", "cleaned")
        boxes = "burned_in_boxes = true"
        config = site_config(
            orthanc.dicom_port, ULTRASOUND, results, 0.5, ae_title=orthanc.ae_title, of_pacs=boxes
        )
        node = Node(tmp_path / "node", config, port=node_port)
        with running(node):
            assert store(orthanc.dicom_port, [image], "US1", orthanc.ae_title) == [0x0000]
            study = node.wait_for(["delivered"])[image.StudyInstanceUID]
            results = {item["sop_instance_uid"] for item in study["results"]}
            assert {item["kind"] for item in study["results"]} == {"sr", "gsps", "sc", "cleaned"}
            wait_until(
                lambda: set(orthanc.instances()) == results | {image.SOPInstanceUID}, 60, "all in Orthanc"
            )
            time.sleep(3)  # three rounds of the script: a result that it forwarded would be here now
            assert {mark_of(orthanc, uid) for uid in results} == {"result"}
            assert len(node.cli("jobs", "list")) == 1
            shown = node.cli("studies", "show", image.StudyInstanceUID)
            assert Counter(item["outcome"] for item in shown["received"]) == {"new": 1}
