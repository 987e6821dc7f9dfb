"""Of several fetuses none is measured unless the picture says which."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.contract import ImageHeader, PipelineResult
from ai_pipeline.fetal_head import pipeline
from ai_pipeline.fetal_head.ellipse import Ellipse
from ai_pipeline.fetal_head.fetuses import fetus_of_each, names_in, tells_of_several
from ai_pipeline.fetal_head.pipeline import FetalHead, _CleanedImage
from tests.unit.ai_pipeline.fetal_head.test_outline import model
from tests.unit.ai_pipeline.phantoms import ArrayImage
from tests.unit.heads import drawn_head

PLAIN = ImageHeader("US", "", 345, 512, 1, "MONOCHROME2", 8)


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
    "text", ["TWINS", "Twin pregnancy", "TWINA", "OB multiple gestation", "Triplets", "MCDA", "Zwillinge"]
)
def test_words_tell_of_several(text: str) -> None:
    assert tells_of_several([text])


@pytest.mark.parametrize("text", ["FETUS 1", "GE TWINKLE", "OB 2nd trimester", "single gestation", ""])
def test_other_words_do_not(text: str) -> None:
    assert not tells_of_several([text])


def test_one_picture_that_names_a_fetus_says_of_all_that_there_are_several() -> None:
    found = fetus_of_each({"1": ["TWIN A"], "2": ["HC 24.1 cm"], "3": ["TWIN A TWIN B"]}, [PLAIN])
    assert found["1"] == ("A", "")
    assert "does not say which" in found["2"][1]
    assert "more than one fetus" in found["3"][1]


class Study:
    """Pictures of drawn heads, and the text that is read in each."""

    def __init__(self, fetal: FetalHead, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fetal, self._patch = fetal, monkeypatch

    def run(self, *texts: str, picture: np.ndarray | None = None, **attributes: str) -> PipelineResult:
        drawn = drawn_head()[0] if picture is None else picture
        images = [ArrayImage(drawn[None], attributes=attributes) for _ in texts]
        said = {}
        for number, (image, text) in enumerate(zip(images, texts, strict=True), start=1):
            image.uid = f"1.2.{number}"
            said[image.uid] = text
        self._patch.setattr(
            self._fetal, "_cleaned", lambda image, _report: _CleanedImage((), (), (said[image.uid],))
        )
        return self._fetal.run(images, lambda _share, _what: None, {})


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    fetal = FetalHead()
    monkeypatch.setattr(fetal, "_loaded", model())
    return Study(fetal, monkeypatch)


def measured(result: PipelineResult) -> dict[str, str]:
    """Which fetus was measured, by image."""
    return {one.source_uid: one.fetus for one in result.measurements}


def reasons(result: PipelineResult) -> list[str]:
    return [
        note.text for note in result.quality if note.name == pipeline.NOTE and "not measured" in note.text
    ]


def test_the_only_fetus_is_number_one(study: Study) -> None:
    assert measured(study.run("HC 24.1 cm")) == {"1.2.1": "1"}


def test_twins_are_measured_where_the_picture_says_which(study: Study) -> None:
    result = study.run("TWIN A", "TWIN B", "")
    assert measured(result) == {"1.2.1": "A", "1.2.2": "B"}
    assert reasons(result) == [
        "Head not measured: there is more than one fetus, and the picture does not say which this is."
    ]


def test_a_header_that_tells_of_twins_is_enough(study: Study) -> None:
    assert measured(study.run("", StudyDescription="OB Twin follow-up")) == {}
    assert measured(study.run("TWIN B", StudyDescription="OB Twin follow-up")) == {"1.2.1": "B"}


def test_two_heads_in_one_picture_are_not_measured(study: Study) -> None:
    left, right = (Ellipse(x, 170.0, 150.0, 120.0, 0.0) for x in (130.0, 380.0))
    study._fetal._loaded = model(of_columns_apart, spread=1.0)
    result = study.run("TWIN A", picture=np.maximum(drawn_head(head=left)[0], drawn_head(head=right)[0]))
    assert measured(result) == {}
    assert reasons(result) == ["Head not measured: the picture shows more than one head."]


def test_what_lies_beside_the_head_and_is_none_does_not_matter(study: Study) -> None:
    study._fetal._loaded = model(of_head_and_bar, spread=1.0)
    assert measured(study.run("")) == {"1.2.1": "1"}


def of_columns_apart(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that outlines an ellipse in each half of the picture."""
    count, _, rows, columns = values.shape
    half = Ellipse(columns / 4, rows / 2, 75.0, 60.0, 0.0).mask(rows, columns // 2)
    heads = np.tile(np.concatenate([half, half], axis=1).astype(np.float32), (count, 1, 1))
    return {"head": heads, "present": np.ones(count, np.float32)}


def of_head_and_bar(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that outlines an ellipse, the same in all variants, and a long bar below it."""
    count, _, rows, columns = values.shape
    head = Ellipse(columns / 2, 70.0, 110.0, 85.0, 0.0).mask(rows, columns).astype(np.float32)
    head[150:175, 10:-10] = 1
    return {"head": np.tile(head, (count, 1, 1)), "present": np.ones(count, np.float32)}
