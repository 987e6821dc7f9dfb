"""Real chest X-rays go through a node, and ``models drift`` shows how many of each sender were counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline import pipelines
from ai_pipeline.models.registry import Card, find
from dicom_node.dicom.uids import derived_uid
from tests.modality import chest
from tests.node_lab import Node, running, store, wait_until
from tests.ports import free_port

pytestmark = pytest.mark.data

CONFIG = """unknown_callers = "accept"
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds = 0.2
[workers]
models_dir = "{models}"
[[peers]]
name = "room3"
ae_title = "ROOM3"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
[[rules]]
name = "chest"
when = {{ modality = "*" }}
max_study_age_days = 0
pipeline = "chest_xray"
send_to = ["pacs"]
"""
TENTHS = [tenth / 10 for tenth in range(1, 10)]


def with_reference(folder: Path) -> Card:
    """The chest model in a folder of the site, its card with a reference if it has none of its own."""
    card = find(pipelines.create("chest_xray").models()[0].id)
    folder.mkdir()
    for weights in card.weights:
        shutil.copy(weights.path, folder)
    text = card.path.read_text(encoding="utf-8")
    if "reference" not in card.details:
        text += '\n[reference]\nset = "tenths"\nimages = 1000\nrefused = 0.05\n[reference.deciles]\n'
        text += "".join(f'"{label.name}" = {TENTHS}\n' for label in card.labels)
    (folder / card.path.name).write_text(text, encoding="utf-8")
    return find(card.id, folder)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Node, Card]]:
    card = with_reference(tmp_path / "models")
    node = Node(tmp_path / "node", CONFIG.format(models=tmp_path / "models", pacs=free_port()))
    with running(node):
        yield node, card


def radiograph(data: Path, stem: str, number: int) -> Dataset:
    picture = cv2.imread(str(data / "cxr_nih" / "images" / f"{stem}.jpg"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return chest("drift", picture.astype(np.uint16) * 16, number=number)


def real(data: Path, stem: str) -> Dataset:
    """A DICOM file under UIDs of its own."""
    ds = dcmread(data / "dicom" / "files" / f"{stem}.dcm")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        delattr(ds, keyword)  # unread: one of the public files has an invalid UID
        setattr(ds, keyword, derived_uid(stem, keyword))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def wait_for_jobs(node: Node, number: int) -> None:
    def ended() -> bool:
        states = [job["state"] for job in node.cli("jobs", "list")]
        return len(states) == number and set(states) <= {"succeeded", "not_applicable"}

    wait_until(
        ended, 120, f"{number} jobs at their end", step=0.5, shown=lambda: node.log.read_text()[-1500:]
    )


def test_the_counts_of_each_sender_are_shown_and_no_image_counts_twice(
    site: tuple[Node, Card], data: Path
) -> None:
    node, card = site
    first, late = radiograph(data, "00000032_037", 1), radiograph(data, "00000679_000", 2)
    leg, stranger = real(data, "pydicom-data__RG3_J2KI"), real(data, "pydicom-data__RG1_J2KI")
    assert store(node.port, [first, first, leg], "ROOM3") == [0x0000] * 3
    assert store(node.port, [stranger], "HALL") == [0x0000]
    wait_for_jobs(node, 3)
    assert store(node.port, [late], "ROOM3") == [0x0000]
    wait_for_jobs(node, 4)  # the late image: a job that analyses the first one again

    rows: dict[str, Any] = {row["calling_ae"]: row for row in node.cli("models", "drift")}

    assert set(rows) == {"ROOM3", "other"}
    refused = ("refused_header", "refused_pixels")
    assert sum(rows["ROOM3"][outcome] for outcome in ("analysed", *refused)) == 3
    assert rows["ROOM3"]["analysed"] >= 1
    assert sum(rows["ROOM3"][outcome] for outcome in refused) >= 1, "the leg"
    assert rows["other"]["analysed"] == 1
    for row in rows.values():
        assert (row["model"], row["card_sha256"], row["note"]) == (card.id, card.sha256, "")
        assert [score["label"] for score in row["scores"]] == [label.name for label in card.labels]
        assert {score["images"] for score in row["scores"]} == {row["analysed"]}
        assert row["verdict"] == "too few"
    printed = node.run("models", "drift", "--peer", "room3")
    assert "ROOM3" in printed.stdout and "HALL" not in printed.stdout
