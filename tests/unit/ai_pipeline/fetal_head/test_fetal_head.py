"""The pipeline ``fetal_head``: which images it takes, what it says, in which unit."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ai_pipeline import pipelines
from ai_pipeline.cli import app
from ai_pipeline.contract import Accept, ImageHeader, Refuse, UltrasoundRegion
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.fetal_head import biometry, pipeline
from ai_pipeline.fetal_head.intended_use import image_area, refused_by_header
from ai_pipeline.fetal_head.pipeline import FetalHead
from tests.unit.ai_pipeline.fetal_head.test_outline import model
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.heads import HEAD, drawn_head

HEADER = ImageHeader("US", "", 345, 512, 1, "MONOCHROME2", 8)
WHOLE = UltrasoundRegion((0, 0, 512, 345), (0.2, 0.2), 1, 1)


@pytest.fixture
def fetal(monkeypatch: pytest.MonkeyPatch) -> FetalHead:
    """The pipeline with an engine that knows drawn heads."""
    made = FetalHead()
    monkeypatch.setattr(made, "_loaded", model())
    return made


def silent(share: float, what: str) -> None:
    pass


def fails(*args: object, **options: object) -> None:
    raise CleaningFailed("too much text")


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
    ],
)
def test_the_header_refuses_what_is_no_still_of_a_pregnancy(changed: dict[str, object], reason: str) -> None:
    assert reason in refused_by_header(replace(HEADER, **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("part", ["", "HEAD", "FETUS", "ABDOMEN", "PELVIS"])
def test_pictures_of_a_pregnancy_are_looked_at(part: str) -> None:
    assert refused_by_header(replace(HEADER, body_part=part, age_years=31.0)) == ""


def test_only_the_region_of_the_image_is_looked_at() -> None:
    colour = UltrasoundRegion((100, 60, 400, 300), None, 1, 2)
    assert image_area(replace(HEADER, ultrasound_regions=(colour, WHOLE))) == (0, 0, 512, 345)
    assert image_area(replace(HEADER, ultrasound_regions=(colour,))) == (100, 60, 400, 300)
    assert image_area(HEADER) == (0, 0, 512, 345)


def test_lengths_are_millimetres_only_where_the_image_says_how_large_its_pixels_are(
    fetal: FetalHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "clean", fails)  # which takes seconds, and is of no matter here
    picture = drawn_head()[0][None]
    for image, unit, factor in (
        (ArrayImage(picture, attributes={"PixelSpacing": "0.2\\0.2"}), "mm", 0.2),
        (ArrayImage(picture, regions=(WHOLE,)), "mm", 0.2),
        (ArrayImage(picture), "{pixels}", 1.0),
        # calibrated, but not where the head is
        (
            ArrayImage(picture, regions=(UltrasoundRegion((0, 0, 60, 60), (0.2, 0.2), 1, 1),)),
            "{pixels}",
            1.0,
        ),
    ):
        fetal._analysed.clear()
        measured = fetal.run([image], silent, {}).measurements
        assert [one.name for one in measured] == [
            "Head circumference",
            "Biparietal diameter",
            "Occipitofrontal diameter",
        ]
        assert [one.quantity.value for one in measured] == ["11984-2", "11820-8", "11851-3"]
        assert {one.unit.value for one in measured} == {unit}
        wanted = [HEAD.circumference * factor, HEAD.short * factor, HEAD.long * factor]
        assert [one.value for one in measured] == pytest.approx(wanted, rel=0.03)
        assert (measured[0].closed, len(measured[0].lines[0])) == (True, 72)
        assert math.dist(*measured[2].lines[0]) * factor == pytest.approx(measured[2].value, rel=0.01)


def test_pixels_that_are_not_square_are_measured_in_millimetres() -> None:
    flat = biometry.in_millimetres(HEAD, (0.1, 0.2))
    points = np.array(HEAD.polygon(720)) * [0.2, 0.1]
    around = np.linalg.norm(np.diff(np.vstack([points, points[:1]]), axis=0), axis=1).sum()
    assert flat.circumference == pytest.approx(around, rel=1e-3)


def test_a_head_of_an_impossible_size_is_refused(fetal: FetalHead) -> None:
    picture = drawn_head()[0][None]
    for spacing in ("0.01\\0.01", "2\\2"):
        verdict = fetal.accepts([ArrayImage(picture, attributes={"PixelSpacing": spacing})])
        assert isinstance(verdict, Refuse)
        assert "between 40 and 400 mm" in verdict.reason


def test_pictures_without_a_head_are_refused_and_counted(fetal: FetalHead) -> None:
    with_head, without = ArrayImage(drawn_head()[0][None]), ArrayImage(np.full((1, 345, 512), 60, np.uint8))
    without.uid = "1.2.4"

    verdict = fetal.accepts([with_head, without])

    assert isinstance(verdict, Accept)
    assert verdict.source_uids == ("1.2.3",)
    assert [(refused.source_uid, refused.by.value) for refused in verdict.refused] == [("1.2.4", "pixels")]
    assert isinstance(fetal.accepts([without]), Refuse)


def test_the_result_has_the_head_as_a_mask_and_is_drawn_on_cleaned_pixels(fetal: FetalHead) -> None:
    picture, mask = drawn_head()

    result = fetal.run([ArrayImage(picture[None])], silent, {})

    kinds = {image.kind.value: image for image in result.images}
    assert set(kinds) == {"organs", "cleaned", "mask"}
    assert kinds["organs"].organs[0].value == "69536005"
    assert ((kinds["organs"].frames[0] > 0) == mask).mean() > 0.98
    assert result.drawn_on == "cleaned"
    assert result.models[0] == fetal._model().ref, "what runs is named"
    assert {"fetal head", "not assessed"} <= {note.name for note in result.quality}


def test_where_cleaning_fails_there_is_a_measurement_but_no_picture(
    fetal: FetalHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "clean", fails)

    result = fetal.run([ArrayImage(drawn_head()[0][None])], silent, {})

    assert len(result.measurements) == 3
    assert [image.kind.value for image in result.images] == ["organs"]
    assert result.drawn_on == "cleaned"
    assert "cleaning_failed" in {note.name for note in result.quality}


@pytest.mark.data
def test_a_real_head_on_the_command_line_and_what_is_none(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    data: Path = pytestconfig.getoption("--data")
    if "fetal_head" not in pipelines.PIPELINES:
        pytest.skip("the installed package is older than the pipeline fetal_head: install it again")
    folder = data / "us_fetal_head"
    with (folder / "manifest.csv").open() as file:
        heads = (row for row in csv.DictReader(file) if row["split"] == "val")
        row = next(row for row in heads if float(row["head_circumference_mm"]) > 150)
    given = ["--pipeline", "fetal_head", "--modality", "US", "--body-part", "HEAD", "--json"]
    spaced = [*given, "--pixel-mm", row["pixel_mm_at_512"], "--out", str(tmp_path)]

    files = [str(folder / row["file"]), str(next((data / "us_breast" / "images").glob("*.png")))]
    done = CliRunner().invoke(app, ["run", *files, *spaced])

    assert done.exit_code == 0, done.output
    head, breast = (json.loads(line) for line in done.stdout.splitlines())
    values = {one["name"]: one for one in head["measurements"]}
    assert values["Head circumference"]["value"] == pytest.approx(float(row["head_circumference_mm"]), abs=8)
    assert values["Head circumference"]["unit"] == "mm"
    assert len(values["Head circumference"]["points"]) == 72
    assert {"annotated", "organs"} <= {image["kind"] for image in head["images"]}
    assert (breast["accepted"], breast["measurements"]) == (False, [])
    assert "no fetal head" in breast["reason"]
