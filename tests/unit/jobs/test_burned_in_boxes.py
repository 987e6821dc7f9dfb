"""A job with two PACSs, of which one asks for boxes around burned-in text: each gets its own, no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.contract import BURNED_IN, Decision, Finding, PipelineResult, Progress, SourceImage
from dicom_node.config.settings import PeerSettings
from dicom_node.store.tables import Delivery
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import MODEL, Obedient, configuration, work


class Marker(Obedient):
    """Finds burned-in text in every image, or nothing where it is told so."""

    card = replace(Obedient.card, name="marker")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        found = [self._mark(image, absent=options["do"] == "nothing") for image in images]
        return PipelineResult(tuple(found), models=(MODEL,))

    def _mark(self, image: SourceImage, *, absent: bool) -> Finding:
        if absent:
            return Finding("burned-in text", BURNED_IN, None, None, Decision.ABSENT, image.uid, MODEL)
        regions = self._finding(image).regions
        return Finding("text", BURNED_IN, 0.9, 0.5, Decision.PRESENT, image.uid, MODEL, regions=regions)


def delivered(folder: Path, do: str) -> dict[str, dict[str, str]]:
    """What a study leaves for each destination: whether a region stands in it, by kind and UID."""
    pipelines.PIPELINES["marker"] = EntryPoint("marker", f"{__name__}:Marker", pipelines.GROUP)
    config = configuration(do)
    config["rules"][0].update(pipeline="marker", send_to=["pacs", "demo"])
    demo = {"name": "demo", "ae_title": "DEMO", "burned_in_boxes": True, "results": ["sr", "gsps", "heatmap"]}
    config["peers"].append({**config["peers"][1], **demo})
    config["peers"][1]["results"] = ["sr", "gsps"]
    node = Inbox(folder / "var", config)
    try:
        node.receive(ultrasound("one"))
        node.settle()
        work(node)
        found: dict[str, dict[str, str]] = {}
        with node.database.read() as session:
            for row in session.scalars(select(Delivery).join(Delivery.result)):
                read = dcmread(node.settings.node.data_dir / row.result.path)
                drawn = "boxed" if "Graphic Data" in str(read) else "plain"
                found.setdefault(row.destination, {})[f"{row.result.kind} {drawn}"] = str(read.SOPInstanceUID)
        return found
    finally:
        node.close()


def test_boxes_go_to_the_destination_that_asks_for_them_and_to_no_other(tmp_path: Path) -> None:
    found = delivered(tmp_path, "find")
    assert set(found["pacs"]) == {"sr plain", "gsps plain"}
    assert set(found["demo"]) == {"sr boxed", "gsps boxed"}


def test_where_nothing_was_found_both_get_the_same_objects(tmp_path: Path) -> None:
    found = delivered(tmp_path, "nothing")
    assert found["pacs"] == found["demo"]
    assert set(found["pacs"]) == {"sr plain", "gsps plain"}


@pytest.mark.parametrize("results", [["cleaned", "sr"], ["cleaned"]])
def test_a_destination_that_may_not_know_the_patient_cannot_ask_for_boxes(results: list[str]) -> None:
    with pytest.raises(ValueError, match="leave out burned_in_boxes"):
        PeerSettings.model_validate(
            {"name": "x", "ae_title": "X", "deidentify": True, "results": results, "burned_in_boxes": True}
        )
