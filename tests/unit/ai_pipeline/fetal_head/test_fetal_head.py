"""Fetal heads: which are measured, how, and what is said of them."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ai_pipeline.cli import app
from ai_pipeline.contract import Accept, ImageHeader, PipelineResult, Refuse, UltrasoundRegion
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.fetal_head import biometry, pipeline
from ai_pipeline.fetal_head.intended_use import fetus_of_each, names_in, refused_by_header, tells_of_several
from ai_pipeline.fetal_head.pipeline import FetalHead
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models.registry import find
from ai_pipeline.networks import heads
from ai_pipeline.networks.heads import HeadModel
from ai_training.sets.files import rows
from tests.unit.ai_pipeline.chest.chest_lab import SAME
from tests.unit.ai_pipeline.fetal_head.heads_lab import LIMITS, REF, by_brightness
from tests.unit.ai_pipeline.phantoms import ArrayImage, silent
from tests.unit.heads import HEAD, drawn_head

HEADER = ImageHeader("US", "", 345, 512, 1, "MONOCHROME2", 8)


@pytest.fixture
def fetal(monkeypatch: pytest.MonkeyPatch) -> FetalHead:
    """The pipeline with an engine that knows drawn heads."""
    made = FetalHead()
    monkeypatch.setattr(made, "_loaded", model())
    return made


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"modality": "CT"}, "not US"),
        ({"frames": 12}, "still picture"),
        ({"body_part": "BREAST"}, "not that of a pregnancy"),
        ({"age_years": 0.1}, "not the mother"),
        ({"attributes": {"PatientSex": "M"}}, "not the mother"),
        ({"rows": 100}, "fewer than"),
        (
            {
                "ultrasound_regions": (
                    UltrasoundRegion((0, 0, 250, 345), None, 1, 1),
                    UltrasoundRegion((260, 0, 512, 345), None, 1, 1),
                )
            },
            "side by side",
        ),
        *(
            ({"body_part": part, "age_years": 31.0}, "")  # is looked at
            for part in ("", "HEAD", "FETUS", "ABDOMEN", "PELVIS")
        ),
    ],
)
def test_the_header_refuses_what_is_no_still_of_a_pregnancy(changed: dict[str, Any], reason: str) -> None:
    said = refused_by_header(replace(HEADER, **changed))
    assert reason in said
    assert bool(reason) is bool(said)


@pytest.mark.parametrize(
    ("said", "unit", "factor"),
    [
        ({"attributes": {"PixelSpacing": "0.2\\0.2"}}, "mm", 0.2),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 512, 345), (0.2, 0.2), 1, 1),)}, "mm", 0.2),
        ({}, "{pixels}", 1.0),
        # Beside the head.
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 60, 60), (0.2, 0.2), 1, 1),)}, "{pixels}", 1.0),
    ],
)
def test_lengths_are_millimetres_only_where_the_image_says_how_large_its_pixels_are(
    fetal: FetalHead, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], unit: str, factor: float
) -> None:
    # cleaning takes seconds, and is of no matter here
    monkeypatch.setattr(pipeline, "clean", Mock(side_effect=CleaningFailed("too much text")))
    measured = fetal.run([ArrayImage(drawn_head()[0][None], **said)], silent, {}).measurements
    assert [(one.name, one.quantity.value, one.unit.value) for one in measured] == [
        ("Head circumference", "11984-2", unit),
        ("BPD (outer-outer)", "11820-8", unit),
        ("Occipitofrontal diameter", "11851-3", unit),
    ]
    wanted = [HEAD.circumference * factor, HEAD.short * factor, HEAD.long * factor]
    assert [one.value for one in measured] == pytest.approx(wanted, rel=0.03)
    assert (measured[0].closed, len(measured[0].lines[0])) == (True, 72)
    assert math.dist(*measured[2].lines[0]) * factor == pytest.approx(measured[2].value, rel=0.01)


def test_pixels_that_are_not_square_are_measured_in_millimetres() -> None:
    flat, points = biometry.in_millimetres(HEAD, (0.1, 0.2)), np.array(HEAD.polygon(720)) * [0.2, 0.1]
    around = np.linalg.norm(np.diff(np.vstack([points, points[:1]]), axis=0), axis=1).sum()
    assert flat.circumference == pytest.approx(around, rel=1e-3)


@pytest.mark.parametrize("spacing", ["0.01\\0.01", "2\\2", str(0.39 / HEAD.circumference * 1000)])
def test_a_head_of_an_impossible_size_is_refused(fetal: FetalHead, spacing: str) -> None:
    spacing = spacing if "\\" in spacing else f"{spacing}\\{spacing}"
    verdict = fetal.accepts([ArrayImage(drawn_head()[0][None], attributes={"PixelSpacing": spacing})])
    assert isinstance(verdict, Refuse)
    assert "is implausible: heads of 40 to 380 mm" in verdict.reason


def test_pictures_without_a_head_are_refused_and_counted(fetal: FetalHead) -> None:
    with_head = ArrayImage(drawn_head()[0][None])
    without = ArrayImage(np.full((1, 345, 512), 60, np.uint8), uid="1.2.4")
    verdict = fetal.accepts([with_head, without])
    assert isinstance(verdict, Accept)
    assert verdict.source_uids == ("1.2.3",)
    assert [(refused.source_uid, refused.by.value) for refused in verdict.refused] == [("1.2.4", "pixels")]
    assert isinstance(fetal.accepts([without]), Refuse)


def test_the_result_has_the_head_as_a_mask_and_is_drawn_on_cleaned_pixels(fetal: FetalHead) -> None:
    picture, mask = drawn_head()
    result = fetal.run([ArrayImage(picture[None])], silent, {})
    kinds = {image.kind.value: image for image in result.images}
    assert (set(kinds), result.drawn_on) == ({"organs", "cleaned", "mask"}, "cleaned")
    assert kinds["organs"].organs[0].value == "69536005"
    assert ((kinds["organs"].frames[0] > 0) == mask).mean() > 0.98
    assert result.models[0] == fetal._model().ref, "what runs is named"
    assert {"fetal head", "not assessed"} <= {note.name for note in result.quality}


@pytest.mark.data
def test_a_real_head_on_the_command_line_and_what_is_none(data: Path, tmp_path: Path) -> None:
    heads = rows(data / "us_fetal_head" / "manifest.csv", "val")
    row = next(row for row in heads if float(row["head_circumference_mm"]) > 150)
    given = ["--pipeline", "fetal_head", "--modality", "US", "--body-part", "HEAD", "--json"]
    given += ["--pixel-mm", row["pixel_mm_at_512"], "--out", str(tmp_path)]
    files = (data / "us_fetal_head" / row["file"], next((data / "us_breast" / "images").glob("*.png")))
    done = CliRunner().invoke(app, ["run", *map(str, files), *given])
    assert done.exit_code == 0, done.output
    head, breast = (json.loads(line) for line in done.stdout.splitlines())
    around = next(one for one in head["measurements"] if one["name"] == "Head circumference")
    assert around["value"] == pytest.approx(float(row["head_circumference_mm"]), abs=8)
    assert (around["unit"], len(around["points"])) == ("mm", 72)
    assert {"annotated", "organs"} <= {image["kind"] for image in head["images"]}
    assert (breast["accepted"], breast["measurements"]) == (False, [])
    assert "no fetal head" in breast["reason"]


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.2, 2.0, 3.0])
@pytest.mark.parametrize("short", [120.0, 170.0, 215.0])
def test_the_ellipse_of_a_mask_is_the_one_it_was_drawn_by(turn: float, short: float) -> None:
    drawn = replace(HEAD, turn=turn, short=short)
    found = heads.ellipse_of(drawn.mask(345, 512), SAME)
    assert found is not None
    assert abs(math.sin(found.turn - turn)) < 0.05
    assert (found.x, found.y) == pytest.approx((drawn.x, drawn.y), abs=0.2)
    assert (found.long, found.short) == pytest.approx((drawn.long, drawn.short), abs=0.6)
    assert found.circumference == pytest.approx(drawn.circumference, rel=0.003)


def test_a_head_that_leaves_the_picture_is_continued_and_not_cut_off() -> None:
    drawn = replace(HEAD, y=70.0)
    found = heads.ellipse_of(drawn.mask(345, 512), SAME)
    assert found is not None
    assert min(y for _, y in drawn.polygon()) < -5
    assert found.circumference == pytest.approx(drawn.circumference, rel=0.01)


def test_the_ellipse_lies_in_the_coordinates_of_the_source() -> None:
    found = heads.ellipse_of(HEAD.mask(345, 512), Affine(2.0, 0.0, 10.0, 0.0, 2.0, -4.0))
    assert found is not None
    assert found.circumference == pytest.approx(2 * HEAD.circumference, rel=0.003)
    assert (found.x, found.y) == pytest.approx((2 * HEAD.x + 10, 2 * HEAD.y - 4), abs=0.4)


@pytest.mark.parametrize("mask", [np.zeros((50, 50), bool), np.eye(50, dtype=bool), np.ones((50, 50), bool)])
def test_what_has_no_outline_has_no_ellipse(mask: np.ndarray) -> None:
    found = heads.ellipse_of(mask, SAME)

    assert found is None or found.short < 3


def test_the_circumference_of_a_circle_is_that_of_a_circle_and_the_polygon_lies_on_it() -> None:
    circle = heads.Ellipse(50.0, 50.0, 80.0, 80.0, 0.0)
    assert circle.circumference == pytest.approx(math.pi * 80)
    assert all(math.hypot(x - 50, y - 50) == pytest.approx(40) for x, y in circle.polygon())
    assert math.dist(*HEAD.long_axis()) == pytest.approx(HEAD.long)
    assert math.dist(*HEAD.short_axis()) == pytest.approx(HEAD.short)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("TWIN A", {"A"}),
        ("twin b HC", {"B"}),
        ("FETUSA", {"A"}),
        ("Fetus: 2", {"2"}),
        ("BABY B", {"B"}),
        ("FETUS A/2", {"A"}),
        ("FETUS 1/1", set()),
        ("Fetus 1 of 1", set()),
        ("FETUS", set()),
        ("FETUSES", set()),
        ("BABY BOY", set()),
        ("FETAL HEAD", set()),
        ("TWINS", set()),
        ("HC 24 cm", set()),
    ],
)
def test_a_picture_names_its_fetus(text: str, names: set[str]) -> None:
    assert names_in([text]) == names


@pytest.mark.parametrize(
    ("text", "several"),
    [
        *((text, True) for text in ("TWINS", "Twin pregnancy", "TWINA", "OB multiple gestation")),
        *((text, True) for text in ("Triplets", "MCDA", "Zwillinge")),
        *((text, False) for text in ("FETUS 1", "GE TWINKLE", "OB 2nd trimester", "single gestation", "")),
    ],
)
def test_words_tell_of_several(text: str, several: bool) -> None:
    assert tells_of_several([text]) is several


def test_one_picture_that_names_a_fetus_says_of_all_that_there_are_several() -> None:
    found = fetus_of_each({"1": ["TWIN A"], "2": ["HC 24.1 cm"], "3": ["TWIN A TWIN B"]}, [HEADER])
    assert found["1"] == ("A", "")
    assert "does not say which" in found["2"][1]
    assert "more than one fetus" in found["3"][1]


Study = Callable[..., PipelineResult]


@pytest.fixture
def study(fetal: FetalHead, monkeypatch: pytest.MonkeyPatch) -> Study:
    """What is measured in pictures of drawn heads, in each of which a text is read."""

    def run(*texts: str, picture: np.ndarray | None = None, **attributes: str) -> PipelineResult:
        drawn = (drawn_head()[0] if picture is None else picture)[None]
        said = {f"1.2.{number}": text for number, text in enumerate(texts, start=1)}
        read = {uid: pipeline._CleanedImage((), (), (text,)) for uid, text in said.items()}
        monkeypatch.setattr(fetal, "_cleaned", lambda image, _report: read[image.uid])
        return fetal.run([ArrayImage(drawn, attributes=attributes, uid=uid) for uid in said], silent, {})

    return run


def measured(result: PipelineResult) -> dict[str, str]:
    """Which fetus was measured, by image."""
    return {one.source_uid: one.fetus for one in result.measurements}


def reasons(result: PipelineResult) -> list[str]:
    notes = [note.text for note in result.quality if note.name == pipeline.NOTE]
    return [text for text in notes if "not measured" in text]


def test_twins_are_measured_where_the_picture_says_which_also_if_only_the_header_tells_of_twins(
    study: Study,
) -> None:
    result, unsaid = study("TWIN A", "TWIN B", ""), study("", StudyDescription="OB Twin follow-up")
    assert (measured(result), measured(unsaid)) == ({"1.2.1": "A", "1.2.2": "B"}, {})
    assert (
        reasons(result)
        == reasons(unsaid)
        == ["Head not measured: there is more than one fetus, and the picture does not say which this is."]
    )
    assert measured(study("TWIN B", StudyDescription="OB Twin follow-up")) == {"1.2.1": "B"}


def test_two_heads_in_one_picture_are_not_measured(study: Study, fetal: FetalHead) -> None:
    left, right = (drawn_head(head=heads.Ellipse(x, 170.0, 150.0, 120.0, 0.0))[0] for x in (130.0, 380.0))
    fetal._loaded = model(of_columns_apart, spread=1.0)
    result = study("TWIN A", picture=np.maximum(left, right))
    assert measured(result) == {}
    assert reasons(result) == ["Head not measured: the picture shows more than one head."]


def of_columns_apart(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that outlines an ellipse in each half of the picture."""
    count, _, rows, columns = values.shape
    half = heads.Ellipse(columns / 4, rows / 2, 75.0, 60.0, 0.0).mask(rows, columns // 2)
    twice = np.tile(np.concatenate([half, half], axis=1).astype(np.float32), (count, 1, 1))
    return {"head": twice, "present": np.ones(count, np.float32)}


def model(engine=by_brightness, **limits: object) -> HeadModel:  # type: ignore[no-untyped-def]
    return HeadModel(engine, replace(LIMITS, **limits), REF)  # type: ignore[arg-type]


def test_a_drawn_head_is_outlined_where_it_lies() -> None:
    found = model().outline(drawn_head()[0])
    assert (found.fault, found.shape > 0.97, found.spread < 0.03) == ("", True, True)
    assert found.measured is not None
    assert found.measured.circumference == pytest.approx(HEAD.circumference, rel=0.02)
    assert (found.measured.x, found.measured.y) == pytest.approx((HEAD.x, HEAD.y), abs=3)


def test_the_measured_ellipse_runs_inside_the_outlined_one() -> None:
    found = model(inset=0.5).outline(drawn_head()[0])
    assert found.area is not None
    assert found.measured is not None
    assert found.area.long - found.measured.long == pytest.approx(2 * 0.5 * 2, rel=0.01)  # reduced to a half


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"present": 1.1}, "no fetal head"),
        ({"shape": 0.9999}, "not the ellipse"),
        ({"roundness": (0.95, 1.0)}, "not the ellipse"),
        ({"spread": 0.0}, "changes with small changes"),
        ({"outside": -0.1}, "outside the picture"),
        ({"unevenness": (9.0, 0.0)}, "no tissue"),
        ({"unevenness": (0.0, 9.0)}, "no tissue"),
    ],
)
def test_each_limit_refuses_with_its_reason(limits: dict[str, object], reason: str) -> None:
    assert reason in model(**limits).outline(drawn_head()[0]).fault


@pytest.mark.parametrize(
    ("blur", "contrast"),
    [(0.0, 0.6), (0.0, 0.1), (1.0, 0.5), (3.0, 0.5)],
    ids=["white noise", "faint noise", "fine grain", "coarse grain"],
)
def test_a_ring_drawn_in_noise_is_no_head(blur: float, contrast: float) -> None:
    noise = np.random.default_rng(8).normal(0, 1, (540, 800)).astype(np.float32)
    grain = cv2.GaussianBlur(noise, (0, 0), blur) if blur else noise
    picture = np.asarray(60 * (1 + contrast * grain / grain.std()), np.float32)
    cv2.ellipse(picture, (410, 265), (170, 135), 20.0, 0, 360, 230.0, 8)
    found = HeadModel.of(find(pipeline.MODEL)).outline(np.clip(picture, 0, 255).astype(np.uint8))
    assert found.area is not None, "the network takes the ring for a skull"
    assert found.fault == "there is no tissue inside or around the outline"


def test_an_answer_that_a_mirror_changes_is_refused() -> None:
    def sees_left(values: np.ndarray) -> Mapping[str, np.ndarray]:
        found = by_brightness(values)
        found["head"][1] *= np.linspace(1, 0, found["head"].shape[2]) > 0.55
        return found

    assert model(sees_left, shape=0.0).outline(drawn_head()[0]).fault != ""


def test_a_head_that_is_cut_in_half_is_refused() -> None:
    picture, _ = drawn_head(head=replace(HEAD, y=10.0))
    found = model(shape=0.0, spread=9.0, roundness=(0.0, 1.0)).outline(picture)
    assert found.fault == "too much of the head lies outside the picture"
