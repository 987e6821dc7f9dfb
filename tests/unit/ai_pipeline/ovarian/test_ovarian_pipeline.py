"""Frames of the pelvis: which are taken, cleaned, classified and outlined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.contract import (
    Accept,
    Code,
    Decision,
    ImageHeader,
    ImageKind,
    PixelArray,
    Refuse,
    UltrasoundRegion,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_image
from ai_pipeline.images.header import GivenAttributes
from ai_pipeline.models.registry import Label
from ai_pipeline.ovarian import pipeline as module
from ai_pipeline.ovarian.classifier import NORMAL, decisions, probabilities
from ai_pipeline.ovarian.intended_use import refused_by_header
from ai_pipeline.ovarian.outline import dice, of_mask
from ai_pipeline.ovarian.pipeline import Ovarian
from ai_pipeline.ovarian.pixel_gate import NOT_LIKE
from ai_pipeline.shown import without_research
from tests.unit.ai_pipeline.phantoms import image_header

HIDDEN = "High-grade_Serous_Cystadenoma"


PELVIS = image_header(body_part="PELVIS")


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


@pytest.mark.parametrize("picture", ["noise", "black"])
def test_what_looks_like_no_frame_is_refused_by_its_pixels(ovarian: Ovarian, picture: str) -> None:
    pixels = np.zeros((480, 640, 3), np.uint8)
    if picture == "noise":
        pixels[:] = np.random.default_rng(0).integers(0, 256, (480, 640, 1))
    answer = ovarian.accepts([Frame(pixels)])
    assert isinstance(answer, Refuse)
    assert answer.reason == NOT_LIKE
    assert [one.by.value for one in answer.refused] == ["pixels"]


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


LABELS = tuple(
    Label(name, Code(name, "99TEST", name), "test", None, name != "Malignant", 0.6, 0.05, 1.5, intercept)
    for name, intercept in (("Cyst", 0.0), ("Teratoma", 0.5), ("Malignant", -1.0), (NORMAL, 0.0))
)
PRESENT, ABSENT, UNCLEAR = Decision.PRESENT, Decision.ABSENT, Decision.INDETERMINATE


@pytest.mark.parametrize(
    ("found", "hidden", "wanted"),
    [
        ((0.88, 0.08, 0.02, 0.02), True, (PRESENT, UNCLEAR, UNCLEAR, ABSENT)),
        ((0.48, 0.46, 0.04, 0.02), True, (UNCLEAR, UNCLEAR, UNCLEAR, ABSENT)),
        ((0.10, 0.02, 0.86, 0.02), True, (UNCLEAR, UNCLEAR, UNCLEAR, UNCLEAR)),  # hidden: nothing is said
        ((0.10, 0.02, 0.86, 0.02), False, (UNCLEAR, ABSENT, PRESENT, ABSENT)),
        ((0.90, 0.08, 0.01, 0.01), False, (PRESENT, UNCLEAR, UNCLEAR, ABSENT)),  # no cancer is excluded
        ((0.02, 0.06, 0.02, 0.90), True, (ABSENT, UNCLEAR, UNCLEAR, UNCLEAR)),  # no ovary is called normal
    ],
)
def test_one_class_is_present_or_none(
    found: tuple[float, ...], hidden: bool, wanted: tuple[Decision, ...]
) -> None:
    assert decisions(np.array(found, np.float32), LABELS, hidden=hidden) == wanted


def test_probabilities_are_the_scaled_softmax() -> None:
    logits = np.array([[2.0, 1.0, -3.0], [800.0, -800.0, 0.0]], np.float32)
    found = probabilities(logits, LABELS[:3])
    odds = np.exp(np.array([3.0, 2.0, -5.5]))
    assert np.allclose(found[0], odds / odds.sum(), atol=1e-6)
    assert np.allclose(found.sum(1), 1.0)
    assert np.isfinite(found).all()


def test_the_outline_follows_the_mask() -> None:
    mask = np.zeros((120, 160), np.bool_)
    cv2.ellipse(view := mask.view(np.uint8), (80, 60), (40, 25), 20.0, 0, 360, 1, -1)
    assert view.any()
    found = of_mask(mask)
    assert found.region is not None and found.mask is not None
    drawn = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(drawn, [np.floor(np.array(found.region.points)).astype(np.int32)], 1)
    assert dice(drawn > 0, mask) > 0.97
    assert len(found.region.points) < 60


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (np.zeros((64, 64), np.bool_), "no lesion"),
        (np.ones((64, 64), np.bool_), "too small or too large"),
        (np.indices((64, 64)).sum(0) % 32 < 4, "falls apart"),
    ],
)
def test_what_cannot_be_a_lesion_has_no_outline(mask: np.ndarray, fault: str) -> None:
    found = of_mask(np.asarray(mask))
    assert found.region is None and found.mask is None
    assert fault in found.fault


def said(**change: object) -> str:
    return refused_by_header(replace(PELVIS, **change)) or ""  # type: ignore[arg-type]


def test_a_single_frame_of_a_pelvis_is_taken() -> None:
    assert refused_by_header(PELVIS) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "CT"}, "modality CT is not ultrasound"),
        ({"frames": 40}, "40 frames"),
        ({"body_part": "BREAST"}, "Body Part Examined is BREAST"),
        ({"body_part": ""}, "nothing says that this is a pelvis"),
        ({"body_part": "ABDOMEN", "attributes": {"StudyDescription": "Liver"}}, "another organ"),
        ({"body_part": "ABDOMEN", "attributes": {"StudyDescription": "Upper"}}, "neither pelvis nor ovary"),
        ({"rows": 90}, "fewer than 128"),
        ({"attributes": {"PatientSex": "M"}}, "male"),
        ({"attributes": {"PatientSex": "male"}}, "male"),
        ({"age_years": 3.0}, "younger than 12"),
        ({"attributes": {"StudyDescription": "Fetal biometry"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "US OB TRANSVAGINAL"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "OB/GYN early preg"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "Échographie obstétrique"}}, "pregnancy"),
        ({"attributes": {"SeriesDescription": "1. Trimester"}}, "pregnancy"),
        ({"attributes": {"PregnancyStatus": "3"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "US BREAST LEFT"}}, "another organ"),
        ({"attributes": {"StudyDescription": "KIDNEY, RENAL PELVIS"}}, "another organ"),
        ({"attributes": {"AnatomicRegionSequence": "76752008 SCT Breast"}}, "Anatomic Region is neither"),
        ({"body_part": "UTERUS"}, "nothing says that this is a pelvis"),
        ({"body_part": "ABDOMENPELVIS"}, "nothing says that this is a pelvis"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 3, 3),)}, "a Doppler spectrum"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 1, 3),)}, "a Doppler spectrum"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 2, 1),)}, "an M-mode trace"),
    ],
)
def test_the_header_alone_refuses_with_a_reason(change: dict[str, object], reason: str) -> None:
    assert reason in said(**change)


@pytest.mark.parametrize(
    "attributes",
    [
        {"AnatomicRegionSequence": "15497006 SCT Ovary"},
        {"StudyDescription": "OB/GYN, US pelvis"},
        {"ProtocolName": "Transvaginal"},
    ],
)
@pytest.mark.parametrize("body_part", ["", "ABDOMEN"])
def test_region_or_procedure_may_say_that_it_is_a_pelvis(body_part: str, attributes: dict[str, str]) -> None:
    assert said(body_part=body_part, attributes=attributes) == ""


def test_a_rule_may_say_it_but_not_that_a_pregnancy_is_none() -> None:
    unknown = replace(PELVIS, body_part="")
    assert refused_by_header(unknown, rule_says_pelvis=True) is None
    fetus = replace(unknown, attributes={"SeriesDescription": "obstetric"})
    assert "pregnancy" in str(refused_by_header(fetus, rule_says_pelvis=True))
