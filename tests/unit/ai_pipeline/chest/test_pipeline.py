"""The chest pipeline on films."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.chest import calls, ratio, stamps
from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import Accept, Decision, ImageKind, Origin, PipelineResult, Refuse, RefusedBy
from ai_pipeline.images.coordinates import POSES, Pose, shown, upright
from ai_pipeline.images.decode import open_dicom, open_image
from ai_pipeline.models.registry import find
from ai_pipeline.summary import short_result
from tests.unit.ai_pipeline.chest.chest_lab import (
    EVERYTHING,
    LYING,
    NOISE,
    SIDE,
    found,
    nih_film,
    result_of,
    texts,
    with_details,
)
from tests.unit.ai_pipeline.phantoms import film, silent
from tests.unit.chests import drawn_chest

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def chest() -> ChestXray:
    pipeline = ChestXray()
    pipeline.warm_up()
    return pipeline


@pytest.fixture(scope="module")
def plain(chest: ChestXray, data: Path) -> PipelineResult:
    """What is found on the film: not square, so that rows and columns cannot be confused."""
    return chest.run([film(nih_film(data)[:480])], silent, EVERYTHING)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (NOISE, "do not look like"),
        (np.zeros((512, 512)), "almost one grey"),
        (np.tile(np.linspace(0, 255, 512), (512, 1)), "do not look like"),
        (cv2.putText(np.zeros((512, 512), np.uint8), "SCOUT", (40, 250), 0, 3, 255, 5), "are clipped"),
    ],
    ids=["noise", "black", "gradient", "text"],
)
def test_what_is_no_chest_is_refused_by_its_pixels(
    chest: ChestXray, picture: np.ndarray, reason: str
) -> None:
    answer = chest.accepts([film(picture.astype(np.uint8))])
    assert isinstance(answer, Refuse)
    assert reason in answer.reason


def test_a_lateral_film_that_its_header_calls_frontal_is_refused(
    chest: ChestXray, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    organs = drawn_chest(SIDE)[1].copy()
    organs[2] = np.roll(organs[2], -round(0.3 * SIDE), axis=1)
    monkeypatch.setattr(chest._anatomy_model(), "outline", lambda *_: found(organs))
    refusal = chest.accepts([film(nih_film(data), view_position="PA")])
    assert isinstance(refusal, Refuse)
    assert "a view from the side" in refusal.reason


def test_for_presentation_is_taken_and_for_processing_of_the_same_exposure_passed_over(
    chest: ChestXray, data: Path
) -> None:
    pixels = nih_film(data)
    raw = film(pixels, presentation_intent="FOR PROCESSING", uid="1.2.3.1")
    assert chest.accepts([raw, film(pixels, uid="1.2.3.2")]) == Accept(("1.2.3.2",))


@pytest.mark.parametrize("name", ["pydicom-data__RG1_J2KI", "presidio__0_ORIGINAL_compressed"])
def test_real_chest_radiographs_are_analysed(chest: ChestXray, data: Path, name: str) -> None:
    image = open_dicom(data / "dicom" / "files" / f"{name}.dcm")
    assert chest.accepts([image]) == Accept((image.uid,))
    result = chest.run([image], silent, {"heatmaps": True, "all_labels": True})
    present = [finding for finding in result.findings if finding.decision is Decision.PRESENT]
    rows, columns = image.header.rows, image.header.columns
    assert present
    assert all(one.evidence and one.evidence.values.shape == (rows, columns) for one in present)
    regions = [region.bounds for finding in present for region in finding.regions]
    assert all(0 <= x < right <= columns and 0 <= y < bottom <= rows for x, y, right, bottom in regions)
    assert {"decode", "model", "total"} <= result.timings.keys()
    assert bool(texts(result, "box")) is bool(regions)
    *_, not_assessed = texts(result, "not assessed")
    assert not_assessed.startswith("Anything that the model was never trained for")


def test_legs_teeth_necks_and_dogs_are_refused(chest: ChestXray, data: Path) -> None:
    names = (
        *("pydicom-data__RG3_J2KI", "fo-dicom__CR-ModalitySequenceLUT", "highdicom__dx_image"),
        *("pydicom__6154", "pydicom__6247", "pydicom__6278"),
    )
    answers = {name: chest.accepts([open_dicom(data / "dicom" / "files" / f"{name}.dcm")]) for name in names}
    assert [name for name, answer in answers.items() if isinstance(answer, Accept)] == []


@pytest.mark.parametrize("folder", ["us_ovarian", "us_fetal_head", "us_breast"])
def test_ultrasound_is_refused_by_its_pixels(chest: ChestXray, data: Path, folder: str) -> None:
    paths = sorted((data / folder / "images").iterdir())[::80]
    refused = [isinstance(chest.accepts([film(open_image(path, "DX").display())]), Refuse) for path in paths]
    assert np.mean(refused) >= 0.95


def test_a_finding_is_the_same_whatever_the_size_of_the_picture(
    chest: ChestXray, data: Path, plain: PipelineResult
) -> None:
    large = cv2.resize(nih_film(data)[:480], (2048, 1920), interpolation=cv2.INTER_CUBIC)
    again = chest.run([film(np.asarray(large, np.uint8))], silent, {"all_labels": True})
    ours, theirs = ([one.probability for one in result.findings] for result in (plain, again))
    assert ours == pytest.approx(theirs, abs=0.05)


def test_labels_that_know_too_little_are_not_assessed_but_on_request(
    chest: ChestXray, data: Path, plain: PipelineResult
) -> None:
    result = chest.run([film(nih_film(data))], silent, {})
    found = {finding.label: finding.probability for finding in result.findings}
    assert found.keys() == {"Atelectasis", "Effusion"}
    assert len(plain.findings) == 13  # all but pneumothorax
    assert not any(one.decision is Decision.ABSENT or one.evidence for one in result.findings)
    cut_off, note = (note for note in result.quality if note.name == "not assessed")
    assert cut_off.names == ("apices of the lungs (outside the picture)",)
    assert {"Pneumothorax", "Nodule of lung", "Lung mass"} < set(note.names)
    assert len(note.names) == 12
    [scores] = result.scores
    assert found.keys() < scores.values.keys(), "the others are hidden"
    assert not scores.reoriented, "the others are hidden"
    assert {label: scores.values[label] for label in found} == pytest.approx(found)


@pytest.mark.parametrize("pose", [POSES[1], POSES[-1]], ids=lambda pose: pose.name)
def test_a_chest_in_another_pose_is_mended_and_its_places_land_in_the_picture_as_shown(
    chest: ChestXray, data: Path, plain: PipelineResult, pose: Pose
) -> None:
    turned = film(shown(nih_film(data)[:480], pose))
    assert chest.accepts([turned]) == Accept((turned.uid,))
    after = chest.run([turned], silent, EVERYTHING)
    (note,) = texts(after, "mended")
    assert pose.sentence in note
    assert [scores.reoriented for scores in after.scores] == [True]
    to_upright = upright(turned.frames[0], pose)[1]
    for one, other in zip(plain.findings, after.findings, strict=True):
        assert other.probability == pytest.approx(one.probability, abs=1e-4)
        for place, moved in zip(one.regions, other.regions, strict=True):
            back = np.sort(np.array(to_upright(moved.points)), axis=0)
            np.testing.assert_allclose(back, np.array(place.points), atol=0.5)
        if one.evidence is not None and other.evidence is not None:
            back = upright(np.asarray(other.evidence.values * 255, np.uint8), Pose(pose.turned))[0]
            np.testing.assert_allclose(back, one.evidence.values * 255, atol=4)
    assert any(finding.regions for finding in after.findings)


def test_a_chest_that_is_cut_off_or_clipped_is_refused(chest: ChestXray, data: Path) -> None:
    pixels = nih_film(data)
    clipped = np.asarray(np.clip((pixels.astype(np.float64) - 110) * 8, 0, 255), np.uint8)
    for wrong in (pixels[:260, :260], pixels[200:460, 20:300], clipped):
        assert isinstance(chest.accepts([film(np.ascontiguousarray(wrong))]), Refuse)


def test_a_rule_s_prevalence_moves_probability_and_threshold_and_is_told(
    chest: ChestXray, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = find(CLASSIFIER.shipped)
    calibration = {**card.details["calibration"], "prevalence": {"Effusion": 0.104}}
    monkeypatch.setattr(chest._model(), "card", with_details(card, calibration=calibration))
    here, moved = (
        chest.run([film(nih_film(data))], silent, {"all_labels": True, **options})
        for options in ({}, {"prevalence": {"Effusion": 0.02}})
    )
    for one, other in zip(here.findings, moved.findings, strict=True):
        same = [
            getattr(one, what) == getattr(other, what) for what in ("decision", "probability", "threshold")
        ]
        assert same == [True, *[one.label != "Effusion"] * 2]
    (note,) = texts(moved, "prevalence")
    assert "Effusion 0.02 (calibrated at 0.104)" in note
    assert here.scores == moved.scores, "drift is watched at the card's own prevalence"


@pytest.mark.parametrize(("name", "warned"), [("00020000_000.jpg", True), ("00026402_000.jpg", False)])
def test_an_effusion_beside_the_heart_casts_doubt_on_the_ratio(
    chest: ChestXray, data: Path, name: str, warned: bool
) -> None:
    result = chest.run([film(nih_film(data, name))], silent, {})
    assert any(note.text == ratio.EFFUSION_NOTE for note in result.quality) is warned
    assert "ratio 0." in short_result(result.findings, result.measurements, result.quality)[0]


@pytest.mark.parametrize("point", list(calls.OperatingPoint))
def test_a_white_lung_is_said_first_and_nothing_else_is(
    chest: ChestXray, data: Path, point: calls.OperatingPoint
) -> None:
    result = chest.run([film(nih_film(data, "00020482_032.jpg"))], silent, {"operating_point": point})
    first, *further = short_result(result.findings, result.measurements, result.quality)
    assert first.startswith("AI: This film is not a usual chest: ")
    assert first.endswith("Look at it first.")
    assert further[-1] == "Not assessed: all else."
    assert not result.measurements
    assert not any("No call" in line or "Not found" in line for line in further)


def test_a_clouded_lung_is_said_before_why_there_is_no_ratio(chest: ChestXray, data: Path) -> None:
    result = result_of(chest, nih_film(data, "00026050_000.jpg")[:380], "PA")
    assert texts(result, "unsure") == [
        "Unsure: possible consolidation. No ratio: bases of the lungs outside the picture."
    ]


@pytest.mark.parametrize("step", [1, -1], ids=["as it is", "mirrored"])
def test_a_heart_whose_border_is_hidden_says_nothing_of_sides(
    chest: ChestXray, data: Path, step: int
) -> None:
    # What is white of the right lung is outlined as heart, which then seems to lie on the right.
    result = result_of(chest, nih_film(data, "00013461_011.jpg")[:, ::step], "AP")
    assert not texts(result, "sides")
    assert not any(one.side for one in result.findings)


def test_a_film_and_its_mirrored_copy_have_the_same_ratio(chest: ChestXray, data: Path) -> None:
    pixels = nih_film(data, "00026402_000.jpg")
    films = [film(np.ascontiguousarray(one), view_position="PA") for one in (pixels, pixels[:, ::-1])]
    as_it_is, mirrored = (chest.run([one], silent, {}).measurements[0] for one in films)
    assert as_it_is.value == pytest.approx(mirrored.value, abs=0.005)
    assert as_it_is.value > 0.3


@pytest.fixture(scope="module")
def sick(chest: ChestXray, data: Path) -> PipelineResult:
    """Of films with an effusion or an atelectasis, whose header says how they lie."""
    names = ("00000181_061.jpg", "00004387_000.jpg", "00010828_039.jpg")
    films = [film(nih_film(data, name), attributes=LYING, uid=f"1.2.{name[:8]}") for name in names]
    return chest.run(films, silent, {"heatmaps": True})


def test_only_labels_that_passed_get_a_box_and_a_detector_drew_it(sick: PipelineResult) -> None:
    passed = {label.name for label in find("chest-efficientnet-lite0").labels if label.detector}
    present = [one for one in sick.findings if one.decision is Decision.PRESENT]
    labels, boxed = (
        {one.label for one in some} for some in (present, [one for one in present if one.regions])
    )
    assert labels & passed
    assert labels - passed
    assert boxed
    assert boxed <= passed
    assert {region.origin for one in present for region in one.regions} == {Origin.DETECTOR}
    assert all(one.evidence is not None for one in present)  # the heat map stays


def test_a_refusal_names_the_gate_and_the_model(chest: ChestXray, data: Path) -> None:
    lateral, noise = film(NOISE, view_position="LL", uid="1"), film(NOISE, uid="2")
    answer = chest.accepts([lateral, noise])
    assert isinstance(answer, Refuse)
    told = [(refusal.source_uid, refusal.by, refusal.model) for refusal in answer.refused]
    model, _ = chest.models()
    assert told == [("1", RefusedBy.HEADER, model), ("2", RefusedBy.PIXELS, model)]
    beside = chest.accepts([film(nih_film(data)), noise])
    assert isinstance(beside, Accept)
    assert [refusal.source_uid for refusal in beside.refused] == ["2"]


def test_a_film_stamped_ap_is_not_measured_against_the_limit_of_pa_films(
    chest: ChestXray, data: Path
) -> None:
    image = Image.fromarray(nih_film(data))
    ImageDraw.Draw(image).text((400, 480), "PORTABLE", fill=255, font=ImageFont.load_default(18))
    result = result_of(chest, np.array(image), "PA")
    assert not any(one.statement for one in result.measurements)
    [note] = texts(result, "stamps")
    assert note.startswith("Stamped ")
    assert note.endswith("while the header says PA: judged as AP.")
    assert stamps.MODEL in {model.id for model in result.models}
    assert result.timings["stamps"] > 0


def test_a_mirrored_film_has_no_sides(chest: ChestXray, data: Path) -> None:
    result = result_of(chest, nih_film(data, "00026402_000.jpg")[:, ::-1], "AP")
    [note] = texts(result, "sides")
    assert note.endswith("sides are not given.")
    assert not any(one.side for one in result.findings)
    assert ImageKind.ORGANS not in {picture.kind for picture in result.images}
