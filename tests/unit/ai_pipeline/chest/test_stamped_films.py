"""Stamps in the whole pipeline, on public films with words drawn on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.chest import pipeline, stamps
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import ImageKind, PipelineResult
from tests.unit.ai_pipeline.chest.test_chest import CHEST, Shown, quiet

FILM = "00000032_037.jpg"


@pytest.fixture(scope="module")
def chest() -> ChestXray:
    return ChestXray()


def film(data: Path, text: str = "") -> np.ndarray:
    picture = cv2.imread(str(data / "cxr_nih" / "images" / FILM), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((400, 480), text, fill=255, font=ImageFont.load_default(18))
    return np.array(image)


def result_of(chest: ChestXray, pixels: np.ndarray, view: str) -> PipelineResult:
    header = replace(CHEST, view_position=view, attributes={"PatientOrientation": "L\\F"})
    return chest.run([Shown(pixels, header)], quiet, {"outlines": True})


def texts(result: PipelineResult, name: str) -> list[str]:
    return [note.text for note in result.quality if note.name == name]


@pytest.mark.data
def test_a_film_stamped_ap_is_not_measured_against_the_limit_of_pa_films(
    chest: ChestXray, data: Path
) -> None:
    result = result_of(chest, film(data, "PORTABLE"), "PA")

    assert not any(one.statement for one in result.measurements)
    assert texts(result, "cardiothoracic ratio") == ["not measured: projection AP, not PA."]
    [note] = texts(result, "stamps")
    assert note.startswith("Stamped ")
    assert note.endswith("while the header says PA: judged as AP.")
    assert stamps.MODEL in {model.id for model in result.models}
    assert result.timings["stamps"] > 0


@pytest.mark.data
@pytest.mark.parametrize("turned_over", [False, True])
def test_a_mirrored_film_has_no_sides(chest: ChestXray, data: Path, turned_over: bool) -> None:
    pixels = film(data, "PORTABLE")
    result = result_of(chest, np.ascontiguousarray(pixels[::-1] if turned_over else pixels[:, ::-1]), "AP")

    [note] = texts(result, "sides")
    assert note.endswith("sides are not given.")
    assert not any(finding.side for finding in result.findings)
    assert not texts(result, "place")
    assert ImageKind.ORGANS not in {picture.kind for picture in result.images}


@pytest.mark.data
def test_a_film_is_analysed_where_stamps_cannot_be_read(
    chest: ChestXray, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "read_stamps", lambda *_: None)

    result = result_of(chest, film(data), "AP")

    assert texts(result, "stamps") == ["Stamps were not read."]
    assert result.findings
    assert stamps.MODEL not in {model.id for model in result.models}
