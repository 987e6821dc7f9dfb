"""The node is killed again and again, the PACS goes away: nothing is lost, nothing is doubled."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from tests.modality import chest, ultrasound
from tests.node_lab import Node, in_background, running, site_config, store, wait_until
from tests.wire.orthanc_lab import Orthanc, start_orthanc


def configuration(pacs: Orthanc) -> str:
    return site_config(pacs.dicom_port, lease=5, ae_title=pacs.ae_title, workers="attempts = 100")


def send_until_acknowledged(node: Node, images: list[Dataset], stop: threading.Event) -> None:
    """What a modality does: it sends an object again until it gets Success."""
    for image in images:
        while not stop.is_set():
            if store(node.port, [image], "US1") == [0x0000]:
                break
            time.sleep(0.1)


def reports_in(pacs: Orthanc) -> Counter[str]:
    """How many SRs the PACS holds, by Study Instance UID."""
    studies = {item["ID"]: item["MainDicomTags"]["StudyInstanceUID"] for item in pacs.get("/studies?expand")}
    found: Counter[str] = Counter()
    for series in pacs.get("/series?expand"):
        if series["MainDicomTags"]["Modality"] == "SR":
            found[studies[series["ParentStudy"]]] += len(series["Instances"])
    return found


@pytest.mark.debian("orthanc")
@pytest.mark.timeout(3600)  # ends earlier when nothing moves
def test_kills_while_objects_arrive_lose_and_double_nothing(tmp_path: Path, rounds: int) -> None:
    """Six kills and 42 objects here, thirty and 210 by ``make hostile``."""
    kills = min(30, max(6, rounds // 1000))
    # Every third is analysed: for the others no rule applies, and all that is asked is that none gets lost.
    pixels = np.zeros((120, 100), np.uint16)
    images = [
        chest(f"kill{number:03d}", pixels) if number % 3 else ultrasound(f"kill{number:03d}")
        for number in range(7 * kills)
    ]
    analysed = {image.StudyInstanceUID for image in images if image.Modality == "US"}
    chance = random.Random(20260102)
    stop = threading.Event()
    with start_orthanc(tmp_path / "orthanc") as pacs:
        node = Node(tmp_path / "node", configuration(pacs))
        with running(node):
            senders = [
                in_background(lambda part=images[k::4]: send_until_acknowledged(node, part, stop))
                for k in range(4)
            ]
            try:
                for _ in range(kills):
                    time.sleep(chance.uniform(0.1, 2.0))
                    node.kill()
                    node.start()
                wait_until(
                    lambda: not any(sender.is_alive() for sender in senders),
                    what="every object acknowledged",
                    progress=lambda: len(node.studies()),
                )
            finally:
                stop.set()
            studies = node.wait_for(["delivered", "not_applicable"], count=len(images))
            assert set(studies) == {image.StudyInstanceUID for image in images}
            assert {uid for uid, study in studies.items() if study["state"] == "delivered"} == analysed
            assert reports_in(pacs) == dict.fromkeys(analysed, 1)


@pytest.mark.debian("orthanc")
def test_a_pacs_that_was_away_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    images = [ultrasound(f"away{number}") for number in range(4)]
    with start_orthanc(tmp_path / "orthanc") as pacs:
        node = Node(tmp_path / "node", configuration(pacs))
        with running(node):
            assert store(node.port, images[:1], "US1") == [0x0000]
            node.wait_for(["delivered"])
            pacs.stop()
            assert store(node.port, images[1:], "US1") == [0x0000] * 3
            node.wait_for(["delivering"], count=3)
            tries = lambda: max(row["attempts"] for row in node.cli("outbox", "list"))
            wait_until(lambda: tries() >= 6, what="six tries in vain", step=1, progress=tries)
            assert Counter(study["state"] for study in node.studies().values()) == {
                "delivered": 1,
                "delivering": 3,
            }
            pacs.restart()
            node.wait_for(["delivered"], count=4)
            wait_until(lambda: len(reports_in(pacs)) == 4, what="four reports")
            assert set(reports_in(pacs).values()) == {1}
