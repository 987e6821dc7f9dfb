"""Boxes of the chest pipeline: a detector's where it surely places the label, otherwise none and why."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomlkit

from ai_pipeline.chest.detector import BoxDetector
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.chest.places import NO_PLACE
from ai_pipeline.contract import Decision, Finding, ImageHeader, Origin, PipelineResult, Refuse
from ai_pipeline.models.registry import find
from tests.unit.ai_pipeline.chest.test_chest import CHEST, Shown, quiet

CARD = find("chest-efficientnet-lite0")
pytestmark = pytest.mark.data
IMAGES = 12


@pytest.fixture(scope="module")
def sick(data: Path) -> list[np.ndarray]:
    """Test images of adults with an effusion, a mass or a nodule."""
    import cv2

    with (data / "cxr_nih" / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test" and float(row["age"]) >= 16]
    chosen = [row for row in rows if row["Effusion"] == "1" or row["Mass"] == "1" or row["Nodule"] == "1"]
    return [cv2.imread(str(data / "cxr_nih" / row["file"]), 0) for row in chosen[:IMAGES]]


def _run(pipeline: ChestXray, pixels: np.ndarray, header: ImageHeader = CHEST) -> PipelineResult | None:
    image = Shown(pixels, replace(header, rows=pixels.shape[0], columns=pixels.shape[1]))
    if isinstance(pipeline.accepts([image]), Refuse):
        return None
    return pipeline.run([image], quiet, {"heatmaps": True})


@pytest.fixture(scope="module")
def results(sick: list[np.ndarray]) -> list[PipelineResult]:
    pipeline = ChestXray()
    return [result for pixels in sick if (result := _run(pipeline, pixels)) is not None]


def _present(results: list[PipelineResult]) -> Iterator[tuple[PipelineResult, Finding]]:
    for result in results:
        for finding in result.findings:
            if finding.decision is Decision.PRESENT:
                yield result, finding


def test_only_labels_that_passed_get_a_box_and_a_detector_drew_it(results: list[PipelineResult]) -> None:
    passed = {label.name for label in CARD.labels if label.detector}
    seen = list(_present(results))

    assert {finding.label for _, finding in seen} & passed
    assert {finding.label for _, finding in seen} - passed
    assert any(finding.regions for _, finding in seen)
    for _, finding in seen:
        assert finding.label in passed or not finding.regions
        assert all(region.origin is Origin.DETECTOR for region in finding.regions)
        assert finding.evidence is not None  # the heat map stays


def test_a_finding_without_a_reliable_place_is_named(results: list[PipelineResult]) -> None:
    seen = list(_present(results))
    assert seen
    for result, finding in seen:
        said = [note.text for note in result.quality if note.name == NO_PLACE]
        assert any(finding.code.meaning in text for text in said) is not bool(finding.regions)


def test_the_place_is_told_in_words_where_the_header_says_how_the_film_lies(sick: list[np.ndarray]) -> None:
    pipeline = ChestXray()
    oriented = replace(CHEST, attributes={"PatientOrientation": "L\\F"})

    with_header = [result for p in sick if (result := _run(pipeline, p, oriented)) is not None]
    without = [result for p in sick if (result := _run(pipeline, p)) is not None]

    told = [note.text for result in with_header for note in result.quality if note.name == "place"]
    assert told
    assert len(without) == len(with_header)
    assert all("zone" in text for text in told)
    assert not any(note.name == "place" for result in without for note in result.quality)


def test_a_picture_that_was_turned_has_its_box_at_the_same_place(sick: list[np.ndarray]) -> None:
    detector = BoxDetector.from_card(CARD)
    assert detector is not None
    label = detector.head.labels[0]
    from ai_pipeline.images.orientation import Pose

    upright = detector.prepare(sick[0])
    turned = detector.prepare(np.ascontiguousarray(sick[0][::-1, ::-1]), Pose(turned=180))

    first, second = (detector.in_source(detector.find(look, label), look) for look in (upright, turned))  # type: ignore[arg-type]
    assert first is not None
    assert second is not None
    left, top, right, bottom = first.bounds
    side = sick[0].shape[0]
    assert second.bounds == pytest.approx((side - right, side - bottom, side - left, side - top), abs=1.0)


def test_a_classifier_without_a_detector_draws_what_its_maps_say(
    sick: list[np.ndarray], tmp_path: Path
) -> None:
    from ai_training.chest.export import forget_detector

    card = tomlkit.parse(CARD.path.read_text())
    forget_detector(card)
    (tmp_path / CARD.path.name).write_text(tomlkit.dumps(card))
    for weights in card["weights"]:
        shutil.copyfile(CARD.path.parent.parent / "weights" / weights["file"], tmp_path / weights["file"])
    pipeline = ChestXray(models_dir=tmp_path)

    made = [result for p in sick[:4] if (result := _run(pipeline, p)) is not None]

    origins = {region.origin for _, finding in _present(made) for region in finding.regions}
    assert origins == {Origin.ACTIVATION}
    assert not any(note.name == NO_PLACE for result in made for note in result.quality)
