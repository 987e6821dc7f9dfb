"""The chest X-ray pipeline: what it takes, what it refuses and why, and where its findings lie."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from ai_pipeline.chest import ratio
from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.chest.places import NO_PLACE
from ai_pipeline.contract import Accept, Decision, ImageHeader, Origin, PixelArray, Refuse
from ai_pipeline.images.decode import open_dicom, open_image
from ai_pipeline.images.orientation import POSES, Pose, shown, upright
from ai_pipeline.models.registry import find
from ai_pipeline.pipelines import create, pipeline_class

CHEST = ImageHeader(
    modality="DX",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    rows=512,
    columns=512,
    frames=1,
    photometric="MONOCHROME2",
    bits_stored=8,
    body_part="CHEST",
    view_position="PA",
    presentation_intent="FOR PRESENTATION",
    age_years=50.0,
)


@dataclass(frozen=True, slots=True)
class Shown:
    """An image in memory."""

    pixels: npt.NDArray[np.uint8]
    header: ImageHeader = field(default=CHEST)
    uid: str = "1.2.3"
    series_uid: str = "1.2"

    def __post_init__(self) -> None:
        if (self.header.rows, self.header.columns) == (CHEST.rows, CHEST.columns):
            rows, columns = self.pixels.shape[:2]
            object.__setattr__(self, "header", replace(self.header, rows=rows, columns=columns))

    def stored(self, frame: int = 0) -> PixelArray:
        return self.pixels

    def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]:
        return self.pixels


@pytest.fixture(scope="module")
def chest() -> ChestXray:
    pipeline = ChestXray()
    pipeline.warm_up()
    return pipeline


def quiet(share: float, what: str) -> None:
    """A progress report that nobody reads."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "CT"}, "modality CT"),
        ({"body_part": "KNEE"}, "Body Part Examined is KNEE"),
        ({"view_position": "LL"}, "View Position LL is not frontal"),
        ({"age_years": 9.0}, "younger than 16"),
        ({"presentation_intent": "FOR PROCESSING"}, "for processing"),
        ({"rows": 64, "columns": 64}, "64 × 64 pixels"),
        ({"frames": 12}, "12 frames"),
    ],
)
def test_the_header_alone_refuses_with_a_reason(
    chest: ChestXray, change: dict[str, object], reason: str
) -> None:
    header = replace(CHEST, **change)  # type: ignore[arg-type]
    answer = chest.accepts([Shown(np.zeros((512, 512), np.uint8), header)])

    assert isinstance(answer, Refuse)
    assert reason in answer.reason


@pytest.mark.parametrize("kind", ["noise", "black", "gradient", "text"])
def test_what_is_no_chest_is_refused_by_its_pixels(chest: ChestXray, kind: str) -> None:
    random = np.random.default_rng(3)
    pictures = {
        "noise": random.integers(0, 256, (512, 512)),
        "black": np.zeros((512, 512)),
        "gradient": np.tile(np.linspace(0, 255, 512), (512, 1)),
        "text": cv2.putText(np.zeros((512, 512), np.uint8), "SCOUT", (40, 250), 0, 3, 255, 5),
    }

    answer = chest.accepts([Shown(np.asarray(pictures[kind], np.uint8))])

    assert isinstance(answer, Refuse)
    reasons = {"black": "almost one grey", "text": "grey levels are clipped"}
    assert reasons.get(kind, "do not look like") in answer.reason


@pytest.mark.data
def test_for_presentation_is_taken_and_for_processing_of_the_same_exposure_passed_over(
    chest: ChestXray, data: Path
) -> None:
    pixels = _nih(data)
    raw = Shown(pixels, replace(CHEST, presentation_intent="FOR PROCESSING"), uid="1.2.3.1")

    assert chest.accepts([raw, Shown(pixels, uid="1.2.3.2")]) == Accept(("1.2.3.2",))


@pytest.mark.data
@pytest.mark.parametrize("name", ["pydicom-data__RG1_J2KI", "presidio__0_ORIGINAL_compressed"])
def test_real_chest_radiographs_are_analysed(chest: ChestXray, data: Path, name: str) -> None:
    image = open_dicom(data / "dicom" / "files" / f"{name}.dcm")

    assert chest.accepts([image]) == Accept((image.uid,))
    result = chest.run([image], quiet, {"heatmaps": True, "all_labels": True})

    present = [finding for finding in result.findings if finding.decision is Decision.PRESENT]
    assert present
    for finding in present:
        for region in finding.regions:
            left, top, right, bottom = region.bounds
            assert region.origin is Origin.DETECTOR
            assert 0 <= left < right <= image.header.columns
            assert 0 <= top < bottom <= image.header.rows
        assert finding.evidence is not None
        assert finding.evidence.values.shape == (image.header.rows, image.header.columns)
    assert {"decode", "model", "total"} <= result.timings.keys()
    told = {note.name for note in result.quality}
    assert ("box" in told) is any(finding.regions for finding in present)
    assert (NO_PLACE in told) is any(not finding.regions for finding in present)


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "pydicom-data__RG3_J2KI",
        "fo-dicom__CR-ModalitySequenceLUT",
        "pydicom__6154",
        "pydicom__6247",
        "pydicom__6278",
        "highdicom__dx_image",
    ],
)
def test_legs_teeth_necks_and_dogs_are_refused(chest: ChestXray, data: Path, name: str) -> None:
    answer = chest.accepts([open_dicom(data / "dicom" / "files" / f"{name}.dcm")])

    assert isinstance(answer, Refuse)


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["pydicom-data__RG3_J2KI", "fo-dicom__CR-ModalitySequenceLUT", "highdicom__dx_image"]
)
def test_their_pixels_alone_would_be_refused_too(chest: ChestXray, data: Path, name: str) -> None:
    picture = open_dicom(data / "dicom" / "files" / f"{name}.dcm").display()

    assert isinstance(chest.accepts([Shown(picture)]), Refuse)


@pytest.mark.data
@pytest.mark.parametrize("folder", ["us_ovarian", "us_fetal_head", "us_breast"])
def test_ultrasound_is_refused_by_its_pixels(chest: ChestXray, data: Path, folder: str) -> None:
    paths = sorted((data / folder / "images").iterdir())[::40]
    refused = [isinstance(chest.accepts([Shown(open_image(path, "DX").display())]), Refuse) for path in paths]

    assert np.mean(refused) >= 0.95


@pytest.mark.data
def test_a_finding_is_the_same_whatever_the_size_of_the_picture(chest: ChestXray, data: Path) -> None:
    pixels = _nih(data)
    plain = chest.run([Shown(pixels)], quiet, {"heatmaps": False}).findings
    large = cv2.resize(pixels, (2000, 2000), interpolation=cv2.INTER_CUBIC)
    again = chest.run([Shown(large)], quiet, {"heatmaps": False}).findings

    for one, other in zip(plain, again, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=0.05)


@pytest.mark.data
def test_boxes_scale_with_the_picture(chest: ChestXray, data: Path) -> None:
    pixels = _nih(data)
    doubled = cv2.resize(pixels, (1024, 1024), interpolation=cv2.INTER_NEAREST)

    def boxes(picture: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float64]]:
        found = chest.run([Shown(picture)], quiet, {"all_labels": True}).findings
        return {finding.label: np.array(finding.regions[0].bounds) for finding in found if finding.regions}

    small, large = boxes(pixels), boxes(doubled)

    assert small and small.keys() == large.keys()
    for label in small:
        np.testing.assert_allclose(large[label], small[label] * 2, atol=1.0)


@pytest.mark.data
def test_labels_that_know_too_little_are_not_assessed_but_on_request(chest: ChestXray, data: Path) -> None:
    image = Shown(_nih(data))
    result = chest.run([image], quiet, {})

    assert {finding.label for finding in result.findings} == {"Atelectasis", "Effusion"}
    assert not any(finding.decision is Decision.ABSENT for finding in result.findings)
    cut_off, note = (note for note in result.quality if note.name == "not assessed")
    assert cut_off.names == ("apices of the lungs (outside the picture)",)
    assert note.names[:3] == ("pneumothorax", "nodule of lung", "lung mass")
    assert len(note.names) == 12
    assert not any(finding.evidence for finding in result.findings)
    assert len(chest.run([image], quiet, {"all_labels": True}).findings) == 13  # all but pneumothorax


@pytest.mark.data
@pytest.mark.parametrize("pose", POSES[1:], ids=[pose.name for pose in POSES[1:]])
def test_a_chest_in_another_pose_is_mended_and_its_places_land_in_the_picture_as_shown(
    chest: ChestXray, data: Path, pose: Pose
) -> None:
    plain = Shown(_nih(data)[:480])  # not square, so that rows and columns cannot be confused
    turned = Shown(shown(plain.pixels, pose))

    assert chest.accepts([turned]) == Accept((turned.uid,))
    before = chest.run([plain], quiet, {"all_labels": True, "heatmaps": True})
    after = chest.run([turned], quiet, {"all_labels": True, "heatmaps": True})

    (note,) = (note for note in after.quality if note.name == "mended")
    assert pose.sentence in note.text
    assert [scores.reoriented for scores in after.scores] == [True]
    to_upright = upright(turned.pixels, pose)[1]
    for one, other in zip(before.findings, after.findings, strict=True):
        assert other.probability == pytest.approx(one.probability, abs=1e-4)
        for region, moved in zip(one.regions, other.regions, strict=True):
            back = np.sort(np.array(to_upright(moved.points)), axis=0)
            np.testing.assert_allclose(back, np.array(region.points), atol=0.5)
        if one.evidence is not None and other.evidence is not None:
            back = upright(np.asarray(other.evidence.values * 255, np.uint8), Pose(pose.turned))[0]
            np.testing.assert_allclose(back, one.evidence.values * 255, atol=4)
    assert any(finding.regions for finding in after.findings)


@pytest.mark.data
def test_what_is_turned_but_no_chest_is_refused_although_it_may_be_turned(
    chest: ChestXray, data: Path
) -> None:
    picture = open_dicom(data / "dicom" / "files" / "pydicom-data__RG3_J2KI.dcm").display()

    for pose in POSES:
        assert isinstance(chest.accepts([Shown(shown(picture, pose))]), Refuse)


@pytest.mark.data
def test_a_chest_that_is_cut_off_or_clipped_is_refused(chest: ChestXray, data: Path) -> None:
    pixels = _nih(data)
    clipped = np.asarray(np.clip((pixels.astype(np.float64) - 110) * 8, 0, 255), np.uint8)

    for wrong in (pixels[:260, :260], pixels[200:460, 20:300], clipped):
        assert isinstance(chest.accepts([Shown(np.ascontiguousarray(wrong))]), Refuse)


@pytest.mark.data
def test_a_rule_s_prevalence_moves_probability_and_threshold_and_is_told(
    chest: ChestXray, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Shown(_nih(data))
    card = find(CLASSIFIER.shipped)
    calibration = {**card.details["calibration"], "prevalence": {"Effusion": 0.104}}
    said = replace(card, details={**card.details, "calibration": calibration})
    monkeypatch.setattr(chest._model(), "card", said)
    options = {"prevalence": {"Effusion": 0.02}, "heatmaps": False, "all_labels": True}

    plain = chest.run([image], quiet, {"heatmaps": False, "all_labels": True})
    moved = chest.run([image], quiet, options)

    for one, other in zip(plain.findings, moved.findings, strict=True):
        assert one.decision is other.decision
        assert (one.probability == other.probability) is (one.label != "Effusion")
        assert (one.threshold == other.threshold) is (one.label != "Effusion")
    (note,) = (note for note in moved.quality if note.name == "prevalence")
    assert "Effusion 0.02 (calibrated at 0.104)" in note.text
    assert plain.scores == moved.scores, "drift is watched at the card's own prevalence"


def test_unknown_pipelines_are_named_together_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="chest_xray"):
        pipeline_class("mammography")
    assert create("chest_xray").card.name == "chest_xray"


@pytest.mark.data
@pytest.mark.parametrize(("name", "warned"), [("00020000_000.jpg", True), ("00026402_000.jpg", False)])
def test_an_effusion_beside_the_heart_casts_doubt_on_the_ratio(
    chest: ChestXray, data: Path, name: str, warned: bool
) -> None:
    image = Shown(_nih(data, name), replace(CHEST, view_position="PA"))
    assert chest.accepts([image]) == Accept((image.uid,))

    result = chest.run([image], quiet, {})

    assert result.measurements
    assert any(note.text == ratio.EFFUSION_NOTE for note in result.quality) is warned


@pytest.mark.data
@pytest.mark.parametrize(("name", "usual"), [("00020482_032.jpg", False), ("00000032_037.jpg", True)])
def test_nothing_is_excluded_on_a_chest_with_a_white_lung(
    chest: ChestXray, data: Path, name: str, usual: bool
) -> None:
    image = Shown(_nih(data, name), replace(CHEST, view_position="AP"))
    assert chest.accepts([image]) == Accept((image.uid,))

    notes = chest.run([image], quiet, {}).quality

    white = [note.on_faces for note in notes if note.name == "unsure" and "usual chest" in note.text]
    assert white == [True] * (not usual)


def _nih(data: Path, name: str = "00000032_037.jpg") -> npt.NDArray[np.uint8]:
    """An image of ``cxr_nih``; by default with cardiomegaly in both label and box."""
    picture = cv2.imread(str(data / "cxr_nih" / "images" / name), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    return np.asarray(picture, np.uint8)
