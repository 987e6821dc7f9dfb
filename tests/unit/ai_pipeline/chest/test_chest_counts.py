"""What the chest pipeline tells for the counts: every label of its card, and the gate that refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.contract import Accept, ImageHeader, PixelArray, Refuse, RefusedBy, Scores
from ai_pipeline.pipelines import create

CHEST = ImageHeader(
    "DX", "1.2.840.10008.5.1.4.1.1.1.1", 512, 512, 1, "MONOCHROME2", 8, "CHEST", "PA", age_years=50.0
)
LATERAL = ImageHeader(
    "DX", "1.2.840.10008.5.1.4.1.1.1.1", 512, 512, 1, "MONOCHROME2", 8, "CHEST", "LL", age_years=50.0
)


@dataclass(frozen=True, slots=True)
class Shown:
    """An image in memory."""

    uid: str
    pixels: npt.NDArray[np.uint8]
    header: ImageHeader = CHEST
    series_uid: str = "1.2"

    def stored(self, frame: int = 0) -> PixelArray:
        return self.pixels

    def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]:
        return self.pixels


NOISE = np.random.default_rng(3).integers(0, 256, (512, 512)).astype(np.uint8)


def test_a_refusal_names_the_gate_and_the_model() -> None:
    chest = create("chest_xray")
    answer = chest.accepts([Shown("1", NOISE, LATERAL), Shown("2", NOISE)])
    assert isinstance(answer, Refuse)
    told = [(refusal.source_uid, refusal.by, refusal.model) for refusal in answer.refused]
    model, _ = chest.models()
    assert told == [("1", RefusedBy.HEADER, model), ("2", RefusedBy.PIXELS, model)]


@pytest.mark.data
def test_scores_are_given_for_every_label_also_for_hidden_ones(data: Path) -> None:
    picture = cv2.imread(str(data / "cxr_nih" / "images" / "00000032_037.jpg"), cv2.IMREAD_GRAYSCALE)
    chest = create("chest_xray")
    images = [Shown("1", np.asarray(picture, np.uint8)), Shown("2", NOISE)]
    answer = chest.accepts(images)
    assert isinstance(answer, Accept)
    assert [refusal.source_uid for refusal in answer.refused] == ["2"]

    result = chest.run(images[:1], lambda share, what: None, {})
    [scores] = result.scores
    shown = {finding.label: finding.probability for finding in result.findings}
    assert shown.keys() < scores.values.keys(), "the others are hidden"
    assert {label: scores.values[label] for label in shown} == pytest.approx(shown)
    assert not scores.reoriented


def test_a_score_is_a_probability() -> None:
    model = create("chest_xray").models()[0]
    with pytest.raises(ValueError, match="between 0 and 1"):
        Scores("1", model, {"Mass": float("nan")})
