"""The shipped pipeline: what it says of frames, what it refuses, and that nothing goes round the cleaning."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from ai_pipeline.cli import app
from ai_pipeline.contract import Accept, Decision, ImageHeader, ImageKind, PixelArray, Refuse
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_image
from ai_pipeline.images.header import GivenAttributes
from ai_pipeline.ovarian import pipeline as module
from ai_pipeline.ovarian.pipeline import Ovarian
from ai_pipeline.ovarian.pixel_gate import NOT_LIKE
from ai_pipeline.pipelines import PIPELINES, pipeline_class
from ai_pipeline.shown import without_research
from tests.unit.ai_pipeline.ovarian.test_intended_use import PELVIS

HIDDEN = "High-grade_Serous_Cystadenoma"


@dataclass(frozen=True, slots=True)
class Frame:
    """An image in memory."""

    pixels: npt.NDArray[np.uint8]
    header: ImageHeader = field(default=PELVIS)
    uid: str = "1.2.3"
    series_uid: str = "1.2"

    def stored(self, frame: int = 0) -> PixelArray:
        return self.pixels

    def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]:
        return self.pixels

    def show(self, samples: PixelArray, frame: int = 0) -> npt.NDArray[np.uint8]:
        return np.asarray(samples, np.uint8)


@pytest.fixture(scope="module")
def ovarian() -> Ovarian:
    return Ovarian()


@pytest.fixture(scope="module")
def frame(request: pytest.FixtureRequest) -> Path:
    """A frame of the manifest's test split with a large cyst, without yellow marks."""
    path = Path(request.config.getoption("--data")) / "us_ovarian" / "images" / FRAME
    if not path.is_file():
        pytest.skip(f"{path} is not there: the public image sets are fetched apart (--data)")
    return path


FRAME = "otu_0001.jpg"
AS_PELVIS = GivenAttributes(body_part="PELVIS")


def quiet(share: float, what: str) -> None:
    """A progress report that nobody reads."""


def installed() -> None:
    """Skip where the package was installed before it had this pipeline: entry points are of that time."""
    if "ovarian" not in PIPELINES:
        pytest.skip("the installed package names no pipeline 'ovarian': run `pip install` again")


def test_it_is_installed_under_its_name() -> None:
    installed()
    assert pipeline_class("ovarian") is Ovarian


@pytest.mark.parametrize("picture", ["noise", "black"])
def test_what_looks_like_no_frame_is_refused_by_its_pixels(ovarian: Ovarian, picture: str) -> None:
    pixels = np.zeros((480, 640, 3), np.uint8)
    if picture == "noise":
        pixels[:] = np.random.default_rng(0).integers(0, 256, (480, 640, 1))
    answer = ovarian.accepts([Frame(pixels)])
    assert isinstance(answer, Refuse)
    assert answer.reason == NOT_LIKE
    assert [one.by.value for one in answer.refused] == ["pixels"]


def test_an_image_of_another_part_of_the_body_is_not_even_decoded(ovarian: Ovarian) -> None:
    class Unread(Frame):
        def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]:
            raise AssertionError("decoded")

    breast = Unread(np.zeros((1, 1), np.uint8), replace(PELVIS, body_part="BREAST"))
    answer = ovarian.accepts([breast])
    assert isinstance(answer, Refuse) and "BREAST" in answer.reason


def test_an_image_that_cannot_be_cleaned_gets_no_result(
    ovarian: Ovarian, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise CleaningFailed("text may be left")

    monkeypatch.setattr(module, "clean", failing)
    with pytest.raises(CleaningFailed):
        ovarian.run([Frame(np.zeros((200, 200, 3), np.uint8))], quiet, {})


@pytest.mark.data
def test_a_frame_is_cleaned_classified_and_outlined(ovarian: Ovarian, frame: Path) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    assert isinstance(ovarian.accepts([image]), Accept)
    result = ovarian.run([image], quiet, {})
    assert result.drawn_on == "cleaned"
    assert {picture.kind for picture in result.images} >= {ImageKind.CLEANED, ImageKind.MASK}
    assert next(one for one in result.images if one.kind is ImageKind.CLEANED).verified
    assert len(result.findings) == 8
    assert sum(one.probability or 0.0 for one in result.findings) == pytest.approx(1.0, abs=1e-3)
    assert [one.label for one in result.findings if one.research_only] == [HIDDEN]
    assert sum(one.decision is Decision.PRESENT for one in result.findings) <= 1
    outlined = [one for one in result.findings if one.regions]
    organs = [one for one in result.images if one.kind is ImageKind.ORGANS]
    assert len(outlined) == len(organs) <= 1
    for one in outlined:
        left, top, right, bottom = one.regions[0].bounds
        assert 0 <= left < right <= image.header.columns and 0 <= top < bottom <= image.header.rows
    assert "not assessed" in {note.name for note in result.quality}


@pytest.mark.data
def test_nothing_is_called_or_outlined_where_the_lesion_was_blacked_out(
    ovarian: Ovarian, frame: Path
) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    header = image.header
    box = (header.columns // 4, header.rows // 4, header.columns * 3 // 4, header.rows * 3 // 4)
    hidden = Frame(image.display(), replace(header, removed_by_hand=(box,)))
    result = ovarian.run([hidden], quiet, {"heatmaps": True})
    assert all(one.decision is Decision.INDETERMINATE for one in result.findings)
    assert not any(one.regions or one.evidence for one in result.findings)
    assert not any(one.kind is ImageKind.ORGANS for one in result.images)
    told = next(note for note in result.quality if note.name == "unsure")
    assert told.on_faces and ("blacked out" in told.text or "does not look like" in told.text)


@pytest.mark.data
def test_what_a_site_gets_does_not_tell_the_malignant_class(ovarian: Ovarian, frame: Path) -> None:
    found = ovarian.run([open_image(frame, "US", AS_PELVIS)], quiet, {})
    shown = without_research(found).findings
    assert {one.label for one in found.findings} - {one.label for one in shown} == {HIDDEN}
    for one in shown:
        assert (one.probability is None) == (one.decision is not Decision.PRESENT)


@pytest.mark.data
def test_the_malignant_class_is_reported_where_a_rule_asks_for_it(ovarian: Ovarian, frame: Path) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    result = ovarian.run([image], quiet, {"malignancy": True, "outlines": False})
    assert not any(one.research_only for one in result.findings)
    assert not any(one.kind is ImageKind.ORGANS for one in result.images)


@pytest.mark.data
def test_fetal_heads_are_not_classified(ovarian: Ovarian, request: pytest.FixtureRequest) -> None:
    folder = Path(request.config.getoption("--data")) / "us_fetal_head" / "images"
    files = sorted(folder.glob("*.jpg"))[:8]
    if not files:
        pytest.skip(f"{folder} is not there: the public image sets are fetched apart (--data)")
    answers = [ovarian.accepts([open_image(file, "US", AS_PELVIS)]) for file in files]
    assert all(isinstance(answer, Refuse) for answer in answers)


@pytest.mark.data
@pytest.mark.parametrize("name", ["019_HC.jpg", "019_2HC.jpg"])
def test_a_head_that_looks_like_a_cyst_is_not_classified(
    ovarian: Ovarian, request: pytest.FixtureRequest, name: str
) -> None:
    found = sorted((Path(request.config.getoption("--data")) / "us_fetal_head").rglob(name))
    if not found:
        pytest.skip(f"us_fetal_head/{name} is not there: the public image sets are fetched apart (--data)")
    answer = ovarian.accepts([open_image(found[0], "US", AS_PELVIS)])
    assert isinstance(answer, Refuse)
    assert "fetal head" in answer.reason


@pytest.mark.data
def test_the_command_line_prints_eight_classes_or_why_not(frame: Path, tmp_path: Path) -> None:
    installed()
    command = [
        "run",
        str(frame),
        "--pipeline",
        "ovarian",
        "--modality",
        "US",
        "--json",
        "--out",
        str(tmp_path),
    ]
    done = [CliRunner().invoke(app, [*command, *more]) for more in ([], ["--body-part", "pelvis"])]
    assert [one.exit_code for one in done] == [0, 0]
    without, told = (json.loads(one.stdout) for one in done)
    assert (without["accepted"], without["findings"]) == (False, [])
    assert "nothing says that this is a pelvis" in without["reason"]
    assert told["accepted"] and len(told["findings"]) == 8
    assert {row["label"] for row in told["findings"] if row["research_only"]} == {HIDDEN}
