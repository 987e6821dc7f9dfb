"""The chest pipeline on films, what is said of a chest, and the places of findings."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.chest import calls, ratio, stamps
from ai_pipeline.chest.anatomy import (
    HEART,
    LEFT_LUNG,
    RIGHT_LUNG,
    Anatomy,
    AnatomyModel,
    Completeness,
    Edge,
    Look,
    anatomy_of,
    heart_on_left,
    look_at,
    missing_notes,
    without_missing,
)
from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.classifier import (
    PARTS,
    YOLO,
    Activation,
    BoxDetector,
    BoxHead,
    BoxTemplates,
    Candidates,
    ScoredBox,
    activation,
    decide,
    heatmap,
    probability,
    region,
)
from ai_pipeline.chest.intended_use import notes, refused_by_header, refused_by_pixels
from ai_pipeline.chest.pipeline import ChestXray, contradicted, side_of
from ai_pipeline.chest.ratio import EFFUSION_NOTE, Projections, Ratio, measure
from ai_pipeline.contract import (
    Accept,
    Code,
    Decision,
    Finding,
    ImageKind,
    ModelRef,
    Origin,
    PipelineResult,
    Refuse,
    RefusedBy,
    Region,
)
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import POSES, UPRIGHT, Affine, Pose, shown, upright
from ai_pipeline.images.decode import open_dicom, open_image
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.models.registry import Card, Chain, Input, Label, Weights, find, prepare
from ai_pipeline.networks.gate import CHILD, UNKNOWN, Kind
from ai_pipeline.summary import short_result
from tests.unit.ai_pipeline.phantoms import CHEST, echo, film, silent
from tests.unit.ai_training.small_models import parsed
from tests.unit.chests import drawn_chest


@pytest.fixture(scope="module")
def chest() -> ChestXray:
    pipeline = ChestXray()
    pipeline.warm_up()
    return pipeline


NOISE = np.random.default_rng(3).integers(0, 256, (512, 512)).astype(np.uint8)


@pytest.mark.data
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


@pytest.mark.data
def test_for_presentation_is_taken_and_for_processing_of_the_same_exposure_passed_over(
    chest: ChestXray, data: Path
) -> None:
    pixels = _nih(data)
    raw = film(pixels, presentation_intent="FOR PROCESSING", uid="1.2.3.1")
    assert chest.accepts([raw, film(pixels, uid="1.2.3.2")]) == Accept(("1.2.3.2",))


@pytest.mark.data
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


@pytest.mark.data
def test_legs_teeth_necks_and_dogs_are_refused(chest: ChestXray, data: Path) -> None:
    names = (
        *("pydicom-data__RG3_J2KI", "fo-dicom__CR-ModalitySequenceLUT", "highdicom__dx_image"),
        *("pydicom__6154", "pydicom__6247", "pydicom__6278"),
    )
    answers = {name: chest.accepts([open_dicom(data / "dicom" / "files" / f"{name}.dcm")]) for name in names}
    assert [name for name, answer in answers.items() if isinstance(answer, Accept)] == []


@pytest.mark.data
@pytest.mark.parametrize("folder", ["us_ovarian", "us_fetal_head", "us_breast"])
def test_ultrasound_is_refused_by_its_pixels(chest: ChestXray, data: Path, folder: str) -> None:
    paths = sorted((data / folder / "images").iterdir())[::80]
    refused = [isinstance(chest.accepts([film(open_image(path, "DX").display())]), Refuse) for path in paths]
    assert np.mean(refused) >= 0.95


EVERYTHING = {"all_labels": True, "heatmaps": True}


@pytest.fixture(scope="module")
def plain(chest: ChestXray, data: Path) -> PipelineResult:
    """What is found on the film: not square, so that rows and columns cannot be confused."""
    return chest.run([film(_nih(data)[:480])], silent, EVERYTHING)


@pytest.mark.data
def test_a_finding_is_the_same_whatever_the_size_of_the_picture(
    chest: ChestXray, data: Path, plain: PipelineResult
) -> None:
    large = cv2.resize(_nih(data)[:480], (2048, 1920), interpolation=cv2.INTER_CUBIC)
    again = chest.run([film(np.asarray(large, np.uint8))], silent, {"all_labels": True})
    ours, theirs = ([one.probability for one in result.findings] for result in (plain, again))
    assert ours == pytest.approx(theirs, abs=0.05)


@pytest.mark.data
def test_labels_that_know_too_little_are_not_assessed_but_on_request(
    chest: ChestXray, data: Path, plain: PipelineResult
) -> None:
    result = chest.run([film(_nih(data))], silent, {})
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


@pytest.mark.data
@pytest.mark.parametrize("pose", [POSES[1], POSES[-1]], ids=lambda pose: pose.name)
def test_a_chest_in_another_pose_is_mended_and_its_places_land_in_the_picture_as_shown(
    chest: ChestXray, data: Path, plain: PipelineResult, pose: Pose
) -> None:
    turned = film(shown(_nih(data)[:480], pose))
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


@pytest.mark.data
def test_a_chest_that_is_cut_off_or_clipped_is_refused(chest: ChestXray, data: Path) -> None:
    pixels = _nih(data)
    clipped = np.asarray(np.clip((pixels.astype(np.float64) - 110) * 8, 0, 255), np.uint8)
    for wrong in (pixels[:260, :260], pixels[200:460, 20:300], clipped):
        assert isinstance(chest.accepts([film(np.ascontiguousarray(wrong))]), Refuse)


@pytest.mark.data
def test_a_rule_s_prevalence_moves_probability_and_threshold_and_is_told(
    chest: ChestXray, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = find(CLASSIFIER.shipped)
    calibration = {**card.details["calibration"], "prevalence": {"Effusion": 0.104}}
    said = replace(card, details={**card.details, "calibration": calibration})
    monkeypatch.setattr(chest._model(), "card", said)
    here, moved = (
        chest.run([film(_nih(data))], silent, {"all_labels": True, **options})
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


@pytest.mark.data
@pytest.mark.parametrize(("name", "warned"), [("00020000_000.jpg", True), ("00026402_000.jpg", False)])
def test_an_effusion_beside_the_heart_casts_doubt_on_the_ratio(
    chest: ChestXray, data: Path, name: str, warned: bool
) -> None:
    result = chest.run([film(_nih(data, name))], silent, {})
    assert any(note.text == ratio.EFFUSION_NOTE for note in result.quality) is warned
    assert "ratio 0." in short_result(result.findings, result.measurements, result.quality)[0]


@pytest.mark.data
@pytest.mark.parametrize("point", list(calls.OperatingPoint))
def test_a_white_lung_is_said_first_and_nothing_else_is(
    chest: ChestXray, data: Path, point: calls.OperatingPoint
) -> None:
    result = chest.run([film(_nih(data, "00020482_032.jpg"))], silent, {"operating_point": point})
    first, *further = short_result(result.findings, result.measurements, result.quality)
    assert first.startswith("AI: This film is not a usual chest: ")
    assert first.endswith("Look at it first.")
    assert further[-1] == "Not assessed: all else."
    assert not result.measurements
    assert not any("No call" in line or "Not found" in line for line in further)


@pytest.mark.data
def test_a_clouded_lung_is_said_before_why_there_is_no_ratio(chest: ChestXray, data: Path) -> None:
    result = result_of(chest, _nih(data, "00026050_000.jpg")[:380], "PA")
    assert texts(result, "unsure") == [
        "Unsure: a lung may be clouded. No ratio: bases of the lungs outside the picture."
    ]


@pytest.mark.data
@pytest.mark.parametrize("step", [1, -1], ids=["as it is", "mirrored"])
def test_a_heart_whose_border_is_hidden_says_nothing_of_sides(
    chest: ChestXray, data: Path, step: int
) -> None:
    # What is white of the right lung is outlined as heart, which then seems to lie on the right.
    result = result_of(chest, _nih(data, "00013461_011.jpg")[:, ::step], "AP")
    assert not texts(result, "sides")
    assert not any(one.side for one in result.findings)


@pytest.mark.data
def test_a_film_and_its_mirrored_copy_have_the_same_ratio(chest: ChestXray, data: Path) -> None:
    pixels = _nih(data, "00026402_000.jpg")
    films = [film(np.ascontiguousarray(one), view_position="PA") for one in (pixels, pixels[:, ::-1])]
    as_it_is, mirrored = (chest.run([one], silent, {}).measurements[0] for one in films)
    assert as_it_is.value == pytest.approx(mirrored.value, abs=0.005)
    assert as_it_is.value > 0.3


def _nih(data: Path, name: str = "00000032_037.jpg") -> np.ndarray:
    """An image of ``cxr_nih``; by default with cardiomegaly in both label and box."""
    return np.asarray(cv2.imread(str(data / "cxr_nih" / "images" / name), cv2.IMREAD_GRAYSCALE), np.uint8)


LYING = {"PatientOrientation": "L\\F"}


@pytest.fixture(scope="module")
def sick(chest: ChestXray, data: Path) -> PipelineResult:
    """Of films with an effusion or an atelectasis, whose header says how they lie."""
    names = ("00000181_061.jpg", "00004387_000.jpg", "00010828_039.jpg")
    films = [film(_nih(data, name), attributes=LYING, uid=f"1.2.{name[:8]}") for name in names]
    return chest.run(films, silent, {"heatmaps": True})


@pytest.mark.data
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


@pytest.mark.data
def test_a_refusal_names_the_gate_and_the_model(chest: ChestXray, data: Path) -> None:
    lateral, noise = film(NOISE, view_position="LL", uid="1"), film(NOISE, uid="2")
    answer = chest.accepts([lateral, noise])
    assert isinstance(answer, Refuse)
    told = [(refusal.source_uid, refusal.by, refusal.model) for refusal in answer.refused]
    model, _ = chest.models()
    assert told == [("1", RefusedBy.HEADER, model), ("2", RefusedBy.PIXELS, model)]
    beside = chest.accepts([film(_nih(data)), noise])
    assert isinstance(beside, Accept)
    assert [refusal.source_uid for refusal in beside.refused] == ["2"]


def result_of(chest: ChestXray, pixels: np.ndarray, view: str) -> PipelineResult:
    image = film(np.ascontiguousarray(pixels), attributes=LYING, view_position=view)
    return chest.run([image], silent, {"outlines": True})


def texts(result: PipelineResult, name: str) -> list[str]:
    return [note.text for note in result.quality if note.name == name]


@pytest.mark.data
def test_a_film_stamped_ap_is_not_measured_against_the_limit_of_pa_films(
    chest: ChestXray, data: Path
) -> None:
    image = Image.fromarray(_nih(data))
    ImageDraw.Draw(image).text((400, 480), "PORTABLE", fill=255, font=ImageFont.load_default(18))
    result = result_of(chest, np.array(image), "PA")
    assert not any(one.statement for one in result.measurements)
    [note] = texts(result, "stamps")
    assert note.startswith("Stamped ")
    assert note.endswith("while the header says PA: judged as AP.")
    assert stamps.MODEL in {model.id for model in result.models}
    assert result.timings["stamps"] > 0


@pytest.mark.data
def test_a_mirrored_film_has_no_sides(chest: ChestXray, data: Path) -> None:
    result = result_of(chest, _nih(data, "00026402_000.jpg")[:, ::-1], "AP")
    [note] = texts(result, "sides")
    assert note.endswith("sides are not given.")
    assert not any(one.side for one in result.findings)
    assert ImageKind.ORGANS not in {picture.kind for picture in result.images}


DRAWN_SIDE = 400
CHEST_MODEL = ModelRef("chest", "1", sha256="0" * 64, card_sha256="0" * 64)


def drawn_organs() -> np.ndarray:
    """Heart and lungs ``[3, 400, 400]`` of a drawn chest, whose lungs are half ellipses with broad bases."""
    rows, columns = np.mgrid[:DRAWN_SIDE, :DRAWN_SIDE]
    organs = np.array([(225, 55, 190, 305), (130, 60, 60, 320), (290, 60, 60, 320)])
    middle, across, top, bottom = organs.T[..., None, None]
    inside = ((columns - middle) / across) ** 2 + ((rows - bottom) / (bottom - top)) ** 2 <= 1
    return np.asarray(inside & (rows <= bottom - 25 * np.abs(columns - middle) / across * (columns > middle)))


def missing(top: int, bottom: int, left: int, right: int, border: int = 0) -> tuple[Edge, ...]:
    """The edges at which the part of the drawn chest within these limits is cut off."""
    masks = drawn_organs()[:, top:bottom, left:right]
    picture = np.random.default_rng(1).integers(60, 200, masks.shape[1:]).astype(np.uint8)
    wide = np.pad(masks, ((0, 0), (border, border), (border, border)))
    anatomy = Anatomy(wide, Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)
    return Completeness.from_card(find(ratio.MODEL)).missing(np.pad(picture, border), anatomy)


@pytest.mark.data
@pytest.mark.parametrize("border", [0, 40])
def test_each_end_of_the_lungs_that_lies_outside_is_named(border: int) -> None:
    cut: dict[tuple[int, int, int, int], tuple[Edge, ...]] = {
        (0, DRAWN_SIDE, 0, DRAWN_SIDE): (),
        (0, 270, 0, DRAWN_SIDE): (Edge.BOTTOM,),
        (135, DRAWN_SIDE, 0, DRAWN_SIDE): (Edge.TOP,),
        (0, DRAWN_SIDE, 110, DRAWN_SIDE): (Edge.SIDE,),
        (0, DRAWN_SIDE, 0, 310): (Edge.SIDE,),
    }
    assert {limits: missing(*limits, border) for limits in cut} == cut


def finding(label: str, meaning: str, decision: Decision) -> Finding:
    return Finding(label, Code("1", "SCT", meaning), 0.2, 0.3, decision, "1.2", CHEST_MODEL)


@pytest.mark.data
def test_of_a_film_without_bases_no_effusion_is_excluded_and_nothing_is_not_found() -> None:
    found = [
        finding("Effusion", "Pleural effusion", Decision.ABSENT),
        finding("Mass", "Lung mass", Decision.ABSENT),
    ]
    left = without_missing(found, [Edge.BOTTOM])
    assert without_missing(found, ()) == found
    assert [(one.label, one.decision) for one in left] == [("Mass", Decision.INDETERMINATE)]
    assert short_result(left, (), missing_notes("1.2", found, [Edge.BOTTOM])) == (
        "AI: No call on lung mass.",
        "Not assessed: bases of the lungs (outside the picture), pleural effusion.",
    )


@pytest.mark.data
def test_what_is_suspected_stays() -> None:
    seen = finding("Effusion", "Pleural effusion", Decision.PRESENT)
    assert without_missing([seen], [Edge.BOTTOM]) == [seen]
    [note] = missing_notes("1.2", [seen], [Edge.BOTTOM, Edge.TOP])
    assert (note.text, *note.names) == (
        "Apices of the lungs and bases of the lungs: outside the picture.",
        "apices of the lungs (outside the picture)",
        "bases of the lungs (outside the picture)",
    )


READABLE = Exposure(0.0, 120.0)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"SeriesDescription": "Chest LAT"}, "a view that is not frontal"),
        ({"AcquisitionDeviceProcessingDescription": "LATERAL THORAX 0-15cm"}, "a view that is not frontal"),
        ({"ViewCodeSequence": "399198007 SCT right lateral"}, "a view that is not frontal"),
        ({"ProtocolName": "chest_obl"}, "a view that is not frontal"),
        ({"PatientOrientation": "A\\F"}, "Patient Orientation is that of a lateral view"),
        ({"PatientOrientation": "PL\\F"}, "Patient Orientation is that of a lateral view"),
        ({"AnatomicRegionSequence": "72696002 SCT Knee"}, "another part of the body"),
        # taken
        ({"SeriesDescription": "Chest PA and LAT"}, "None"),
        ({"SeriesDescription": "CHEST", "PatientOrientation": "L\\F"}, "None"),
        ({"ViewCodeSequence": "272479007 SCT postero-anterior projection"}, "None"),
        ({"AnatomicRegionSequence": "51185008 SCT Chest"}, "None"),
        ({}, "None"),
    ],
)
def test_a_lateral_view_or_another_part_is_refused_where_free_text_tells_and_none_of_it_is_repeated(
    attributes: dict[str, str], reason: str
) -> None:
    said = str(refused_by_header(replace(CHEST, view_position="", body_part="", attributes=attributes)))
    assert reason in said
    assert not any(value in said for value in attributes.values()), "free text may hold a name"


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
        ({"attributes": {"SeriesDescription": "LAT"}}, "None"),  # View Position counts more
    ],
)
def test_other_attributes_refuse_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in str(refused_by_header(replace(CHEST, **change)))


@pytest.mark.parametrize(
    ("share", "refused", "noted"),
    [(0.0, False, False), (0.12, False, True), (0.3, True, True), (1.0, True, True)],
)
def test_grey_levels_that_are_cut_off_are_told_or_refused(share: float, refused: bool, noted: bool) -> None:
    picture = np.random.default_rng(1).integers(20, 230, (200, 200)).astype(np.uint8)
    picture[np.random.default_rng(2).random(picture.shape) < share] = 255
    found = Exposure.from_image(picture)
    assert found.clipped == pytest.approx(share, abs=0.02)
    assert (found.refusal is not None, found.note is not None) == (refused, noted)


@pytest.mark.parametrize(
    ("passed", "kind", "exposure", "said"),
    [
        (
            False,
            Kind(Pose(90).name, 0.9),
            READABLE,
            "shown turned by 90° clockwise, but put upright it does not",
        ),
        (False, Kind(CHILD, 0.9), READABLE, "small child"),
        (False, UNKNOWN, READABLE, "do not look like a frontal chest X-ray"),
        (True, UNKNOWN, READABLE, "None"),
        (True, UNKNOWN, Exposure(0.5, 200.0), "clipped"),
    ],
)
def test_a_refusal_says_what_the_gate_saw(passed: bool, kind: Kind, exposure: Exposure, said: str) -> None:
    assert said in str(refused_by_pixels(passed, kind, exposure))


@pytest.mark.parametrize(
    ("orientation", "mirrored"),
    [("L\\F", False), ("R\\F", True), ("R\\H", False), ("F\\R", False), ("", False)],
)
def test_left_and_right_exchanged_are_told_by_patient_orientation(orientation: str, mirrored: bool) -> None:
    image = film(np.zeros((20, 20), np.uint8), attributes={"PatientOrientation": orientation})
    assert ("mirrored" in {note.name for note in notes(image, UPRIGHT, READABLE)}) is mirrored


def thumbnails(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """10 × 10 pixels of each picture: a network's features for these tests."""
    small = [cv2.resize(picture, (10, 10), interpolation=cv2.INTER_AREA) for picture in pictures]
    return np.stack(small).reshape(len(pictures), -1).astype(np.float32) / 128


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The gate, on drawn chests of adults in two splits and ultrasound, and the distance that it accepts."""
    folder, lines = tmp_path_factory.mktemp("drawn"), ["file,split,patient_id,age,sex,view,Effusion"]
    (folder / "us_breast").mkdir()
    for split, seed in product(("train", "val"), range(60)):
        cv2.imwrite(str(folder / f"{split}{seed}.png"), chest_of(seed + 1000 * (split == "val")))
        lines.append(f"{split}{seed}.png,{split},{split}{seed},50,F,PA,{seed % 2}")
    for seed in range(30):
        cv2.imwrite(str(folder / "us_breast" / f"{seed}.png"), echo(seed, (96, 128)))
    others = ["file,split", *(f"{seed}.png,train" for seed in range(30))]
    for place, rows in ((folder, lines), (folder / "us_breast", others)):
        (place / "manifest.csv").write_text("\n".join(rows))
    from ai_training.chest.gate import fit_gate  # scikit-learn takes a second to load

    return fit_gate(folder, thumbnails)


def chest_of(seed: int) -> np.ndarray:
    """A drawn chest, a little moved; each seed another one."""
    random = np.random.default_rng(seed)
    picture, _ = drawn_chest(128, heart=random.uniform(0.3, 0.5))
    moved = np.roll(picture, random.integers(-4, 5, 2), (0, 1))
    return np.asarray(np.clip(moved + random.normal(0, 6, moved.shape), 0, 255), np.uint8)


def test_new_chests_pass_and_what_the_head_was_shown_or_not_is_refused(fitted: Any) -> None:
    random = np.random.default_rng(1)
    foreign = [
        *(echo(seed, (96, 128)) for seed in range(900, 920)),
        *(random.integers(0, 256, (128, 128)).astype(np.uint8) for _ in range(5)),
        np.zeros((128, 128), np.uint8),
        np.asarray((np.indices((128, 128)).sum(0) // 32 % 2) * 255, np.uint8),
    ]
    new = thumbnails([chest_of(seed) for seed in range(5000, 5100)])
    assert np.mean(fitted[0].distance(new) <= fitted[1]) >= 0.95
    assert np.all(fitted[0].distance(thumbnails(foreign)) > fitted[1])


@pytest.mark.parametrize("pose", POSES[1:], ids=[pose.name for pose in POSES[1:]])
def test_every_pose_is_named_and_refused_as_shown(fitted: Any, pose: Pose) -> None:
    features = thumbnails([shown(chest_of(seed), pose) for seed in range(5000, 5050)])
    assert np.mean(fitted[0].distance(features) > fitted[1]) >= 0.95
    assert np.mean([fitted[0].kind(row[None]).pose == pose for row in features]) >= 0.95


FILM_SIDE = 640


def stamped(*texts: tuple[str, float, float], size: int = 26) -> np.ndarray:
    """A drawn chest with white words whose top left corner is at shares of its width and height."""
    image = Image.fromarray(cv2.GaussianBlur(drawn_chest(FILM_SIDE)[0], (0, 0), 3) // 2)
    for text, x, y in texts:
        ImageDraw.Draw(image).text(
            (x * FILM_SIDE, y * FILM_SIDE), text, fill=235, font=ImageFont.load_default(size)
        )
    return np.array(image)


def read(picture: np.ndarray) -> stamps.Stamps:
    outlined = Anatomy(drawn_chest(FILM_SIDE)[1], Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)
    return stamps.stamps_in(picture, outlined, shared_reader())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AP", ("AP",)),
        ("A.P. 10:35", ("AP",)),
        ("Portable", ("PORTABLE",)),
        ("APPORTABLE", ("AP", "PORTABLE")),
        ("AP SEMI-ERECT", ("AP", "SEMIERECT")),
        ("Semi Upright", ("SEMIUPRIGHT",)),
        ("L AP", ("L", "AP")),
        ("DR ERECT", ("ERECT",)),
        ("L SMITH", ()),
        ("PITTSBURGH PA", ()),
        ("PAUL", ()),
        ("PORTABLES", ()),
        ("l", ()),
        ("", ()),
    ],
)
def test_whole_words_of_the_table_count_and_nothing_else(text: str, words: tuple[str, ...]) -> None:
    assert stamps.words_of(Line(text, 0.99, legible=True)) == words


def test_projection_position_and_side_are_read_from_the_margins() -> None:
    words = (("PORTABLE", 0.03, 0.03), ("AP", 0.9, 0.9), ("SUPINE", 0.03, 0.92), ("L", 0.93, 0.04))
    found = read(stamped(*words))
    assert (found.projection, found.position, found.portable) == ("AP", "supine", True)
    assert found.is_ap
    assert found.marker is not None
    assert found.marker.letter == "L"
    assert (found.marker.x, found.marker.y) == pytest.approx((0.94, 0.07), abs=0.03)


def test_words_between_the_lungs_and_names_are_not_read() -> None:
    picture = stamped(("PORTABLE", 0.4, 0.35))
    found = read(picture), read(stamped(("SMITH JOHN", 0.03, 0.03), ("L SMITH", 0.75, 0.92)))
    assert found == (stamps.Stamps(),) * 2
    assert stamps.stamps_in(picture, None, shared_reader()).portable


@pytest.mark.parametrize(
    ("said", "is_ap"),
    [
        (stamps.Stamps(projection="AP"), True),
        (stamps.Stamps(portable=True), True),
        (stamps.Stamps(position="supine"), True),
        (stamps.Stamps(position="semi-erect"), True),
        (stamps.Stamps(position="erect"), False),
        (stamps.Stamps(projection="PA"), False),
        (stamps.Stamps(), False),
    ],
)
def test_what_was_taken_in_bed_counts_as_ap(said: stamps.Stamps, is_ap: bool) -> None:
    assert said.is_ap is is_ap


def test_a_failing_reader_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stamps, "_reader", Mock(side_effect=FileNotFoundError("no such model")))
    assert stamps.read_stamps(stamped(), None) is None
    assert capfd.readouterr() == ("", "")


L_ON_RIGHT, L_ON_LEFT = stamps.Marker("L", 0.9, 0.1), stamps.Marker("L", 0.1, 0.1)


def anatomy(share: float = 0.7) -> Anatomy:
    """Lungs from column 10 to 90 of 100, and a heart of 40 columns of which a share lies right of 50."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[1, 20:80, 10:40] = masks[2, 20:80, 60:90] = True
    right = round(40 * share)
    masks[0, 50:75, 10 + right : 50 + right] = True
    return Anatomy(masks, Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None, turn=1 - 2 * share)


def rules(
    seen: stamps.Stamps | None, view: str = "PA", orientation: str = "", heart: float = 0.7
) -> stamps.StampConclusions:
    attributes, picture = {"PatientOrientation": orientation}, np.zeros((100, 100), np.uint8)
    image = film(picture, attributes=attributes, view_position=view)
    return stamps.follow(image, seen, anatomy(heart), UPRIGHT)


@pytest.mark.parametrize(
    ("view", "seen", "projection", "note"),
    [
        ("PA", stamps.Stamps("AP"), "AP", "Stamped AP, while the header says PA: judged as AP."),
        (
            "PA",
            stamps.Stamps(portable=True),
            "AP",
            "Stamped PORTABLE, while the header says PA: judged as AP.",
        ),
        (
            "PA",
            stamps.Stamps("PA", portable=True),
            "AP",
            "Stamped PORTABLE, while the header says PA: judged as AP.",
        ),
        ("", stamps.Stamps("PA"), "PA", "The header gives no View Position; stamped PA: judged as PA."),
        (
            "",
            stamps.Stamps(portable=True),
            "AP",
            "The header gives no View Position; stamped PORTABLE: judged as AP.",
        ),
        ("", stamps.Stamps(position="erect"), "", None),
        ("AP", stamps.Stamps("PA"), "AP", None),
        ("PA", stamps.Stamps("PA"), "PA", None),
        ("PA", stamps.Stamps(), "PA", None),
        ("PA", None, "PA", stamps.NOT_READ),
    ],
)
def test_the_projection_is_the_stamped_one_where_the_header_has_none_or_says_pa(
    view: str, seen: stamps.Stamps | None, projection: str, note: str | None
) -> None:
    found = rules(seen, view)

    assert (found.projection, found.sides) == (projection, True)
    assert [one.text for one in found.notes] == ([note] if note else [])


@pytest.mark.parametrize(
    ("seen", "heart", "orientation", "words"),
    [
        (stamps.Stamps(marker=L_ON_RIGHT), 0.7, "L\\F", None),
        (stamps.Stamps(marker=L_ON_RIGHT), 0.45, "L\\F", None),
        (stamps.Stamps(), 0.7, "R\\F", None),
        (stamps.Stamps(marker=stamps.Marker("L", 0.45, 0.1)), 0.7, "L\\F", None),
        (stamps.Stamps(marker=L_ON_LEFT), 0.7, "L\\F", "Side marker and heart disagree"),
        (stamps.Stamps(marker=L_ON_RIGHT), 0.3, "L\\F", "Side marker and heart disagree"),
        (stamps.Stamps(marker=L_ON_LEFT), 0.3, "L\\F", "Side marker and heart lie on the wrong side"),
        (
            stamps.Stamps(marker=stamps.Marker("R", 0.9, 0.1)),
            0.45,
            "",
            "The side marker lies on the wrong side",
        ),
        (stamps.Stamps(marker=L_ON_RIGHT), 0.7, "R\\F", "Side marker and Patient Orientation disagree"),
        (stamps.Stamps(), 0.3, "L\\F", "The heart lies on the wrong side"),
    ],
)
def test_no_side_is_given_where_the_film_may_be_mirrored(
    seen: stamps.Stamps, heart: float, orientation: str, words: str | None
) -> None:
    found = rules(seen, "AP", orientation, heart)
    notes = [note.text for note in found.notes if note.on_faces]
    assert (found.sides, len(notes)) == (words is None, words is not None)
    assert all(text.startswith(words or "") and text.endswith("sides are not given.") for text in notes)


def test_the_heart_is_shared_by_the_middle_of_the_thorax() -> None:
    masks = anatomy(0.7).masks
    shares = heart_on_left(masks), heart_on_left(masks[:, :, ::-1])
    assert shares == pytest.approx((0.7, 0.3), abs=0.02)
    assert heart_on_left(masks & False) is None


SPECIFIC, BALANCED, SENSITIVE = calls.OperatingPoint


CHOSEN: dict[str, Any] = {
    "specific": {"labels": {"Effusion": {"threshold": [0.5, 0.4, 0.6], "absent_below": 0.1}}},
    "sensitive": {"labels": {"Effusion": {"threshold": [0.05, 0.04, 0.06], "absent_below": 0.05}}},
}


MEASURED: dict[str, Any] = {
    "specific": {
        "without_finding_called": [0.094, 0.07, 0.12],
        "labels": {"Effusion": {"present_ratio": [9.0, 4.0, 16.0], "absent_ratio": [0.5, 0.4, 0.6]}},
    }
}


@pytest.fixture(scope="module")
def card(shipped: Card) -> Card:
    metrics = {**shipped.details["metrics"], "operating_points": MEASURED}
    return replace(shipped, details={**shipped.details, "operating_points": CHOSEN, "metrics": metrics})


@pytest.fixture(scope="module")
def without(card: Card) -> Card:
    """A card that has no operating points, as one of a site's own."""
    return replace(card, details={"metrics": {}})


def test_few_false_alarms_are_the_default_where_the_card_has_them(card: Card, without: Card) -> None:
    asked = ((card, None), (card, SENSITIVE), (without, None))
    assert [calls.chosen_point(*one) for one in asked] == [SPECIFIC, SENSITIVE, BALANCED]


def test_a_point_moves_the_thresholds_of_the_labels_that_it_has(card: Card) -> None:
    at = {
        point: {one.name: (one.threshold, one.absent_below) for one in calls.labels_at(card, point)}
        for point in calls.OperatingPoint
    }
    assert (at[SPECIFIC]["Effusion"], at[SENSITIVE]["Effusion"]) == ((0.5, 0.1), (0.05, 0.05))
    assert at[BALANCED] == {one.name: (one.threshold, one.absent_below) for one in card.labels}
    assert at[SPECIFIC] | {"Effusion": 0} == at[BALANCED] | {"Effusion": 0}


def test_every_result_says_which_point_and_how_many_false_alarms_it_brings(card: Card, without: Card) -> None:
    assert calls.point_note(card, SPECIFIC).text == (
        "specific: few false alarms, more findings missed. "
        "Of 100 films without any finding, about 9 get one (7 to 12)."
    )
    assert calls.point_note(without, BALANCED).text == "balanced: between few false alarms and few misses."


@pytest.mark.parametrize(
    ("prevalence", "said"),
    [
        (0.1, "of 10 such calls, about 5 are right (3 to 6)"),
        (0.02, "of 10 such calls, about 2 are right (1 to 2)"),
        (0.01, "of 100 such calls, about 8 are right (4 to 14)"),
        (0.0001, "of 100 such calls, fewer than 1 is right"),
        (0.999, "of 10 such calls, about 10 are right"),
    ],
)
def test_a_call_s_worth_follows_the_site_s_prevalence(card: Card, prevalence: float, said: str) -> None:
    assert calls.reliability(card, SPECIFIC, "Effusion", Decision.PRESENT, prevalence) == said


def test_nothing_is_said_of_what_was_not_measured_or_not_decided(card: Card, without: Card) -> None:
    cases = (
        (card, SENSITIVE, "Effusion", Decision.PRESENT),
        (card, SPECIFIC, "Mass", Decision.PRESENT),
        (card, SPECIFIC, "Effusion", Decision.INDETERMINATE),
        (without, SPECIFIC, "Effusion", Decision.PRESENT),
    )
    assert {calls.reliability(*case, 0.1) for case in cases} == {""}


@pytest.fixture(scope="module")
def calibrated_card(shipped: Card) -> Card:
    calibration = {"prevalence": {"Effusion": 0.104, "Mass": 0.064}}
    return replace(shipped, details={**shipped.details, "calibration": calibration})


@pytest.mark.parametrize("site", [0.001, 0.05, 0.104, 0.6])
def test_a_rarer_disease_is_less_likely_by_bayes_rule_and_no_decision_changes(
    calibrated_card: Card, site: float
) -> None:
    ours, theirs = _label(calibrated_card, {}), _label(calibrated_card, {"Effusion": site})
    for logit in np.linspace(-6, 6, 241).tolist():
        here, there = probability(ours, logit), probability(theirs, logit)
        odds = here / (1 - here) / (0.104 / 0.896) * (site / (1 - site))
        assert there == pytest.approx(odds / (1 + odds))
        assert decide(ours, here) is decide(theirs, there)


@pytest.mark.parametrize(
    ("wanted", "remedy"),
    [
        ({"Fracture": 0.05}, "has no label 'Fracture'; it has: Atelectasis"),
        ({"Effusion": 0}, "must be a share above 0 and below 1, not 0"),
        ({"Hernia": 0.01}, "does not say at which prevalence of Hernia"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(
    calibrated_card: Card, wanted: dict[str, float], remedy: str
) -> None:
    assert remedy in str(calls.prevalence_fault(calibrated_card, wanted))
    with pytest.raises(ValueError, match="option prevalence"):
        calls.at_site(calibrated_card, calibrated_card.labels, wanted)


def _label(card: Card, wanted: dict[str, float]) -> Label:
    return next(one for one in calls.at_site(card, card.labels, wanted) if one.name == "Effusion")


@pytest.fixture(scope="module")
def shipped() -> Card:
    return find(CLASSIFIER.shipped, None)


@pytest.mark.parametrize(
    ("ratio", "sensitivity", "words"),
    [
        ([9.0, 5.0, 16.0], [0.8, 0.6, 0.9], calls.Words(suspected=True, not_found=True)),
        ([9.0, 5.0, 16.0], [0.8, 0.4, 0.9], calls.Words(suspected=True, not_found=False)),
        (
            [9.0, 1.5, 16.0],
            [0.8, 0.6, 0.9],
            calls.Words(suspected=False, not_found=True),
        ),  # few calls measured
        (
            [3.0, 2.5, 4.0],
            [0.8, 0.6, 0.9],
            calls.Words(suspected=False, not_found=True),
        ),  # one in four is right
        ([3.0, 2.5, 4.0], [0.3, 0.2, 0.4], calls.Words(suspected=False, not_found=False)),
    ],
)
def test_words_follow_from_sensitivity_and_from_how_many_calls_are_right(
    shipped: Card, ratio: list[float], sensitivity: list[float], words: calls.Words
) -> None:
    figures = {"specific": {"labels": {"Effusion": {"present_ratio": ratio, "sensitivity": sensitivity}}}}
    card = replace(shipped, details={**shipped.details, "metrics": {"operating_points": figures}})
    assert calls.words_of(card, calls.OperatingPoint.SPECIFIC, "Effusion", 0.1) == words


def test_a_label_without_figures_gets_no_word(shipped: Card) -> None:
    words = calls.words_of(replace(shipped, details={}), calls.OperatingPoint.BALANCED, "Effusion", None)
    assert words == calls.Words(suspected=False, not_found=False)


def test_what_no_word_allows_cannot_be_excluded() -> None:
    words = calls.Words(suspected=False, not_found=False)
    assert {words.limited(decision) for decision in Decision} == {Decision.INDETERMINATE}
    assert [calls.Words(suspected=True, not_found=True).limited(one) for one in Decision] == list(Decision)


def test_the_shipped_model_is_silent_on_what_it_misses_or_mostly_calls_wrongly(shipped: Card) -> None:
    rates = shipped.details["calibration"]["prevalence"]
    names = [label.name for label in shipped.labels if label.supported]
    words = {
        name: calls.words_of(shipped, calls.OperatingPoint.SPECIFIC, name, rates[name]) for name in names
    }
    assert {name for name, one in words.items() if one.suspected} == {"Atelectasis", "Effusion"}
    assert not any(one.not_found for one in words.values())


# Where things are in a chest X-ray: outlines and the ratio they give, maps, boxes and sides

SIDE = 160


INPUT = Input(SIDE, 3, (127.0,), (128.0,), "MONOCHROME2", Chain(side=SIDE, blur=0, jpeg_quality=95))


def by_darkness(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that knows a drawn chest's organs by their grey, wherever they are."""
    grey = values[:, 0] * 128 + 127
    bright, dark = grey > 195, grey < 115
    right = dark & ((np.arange(SIDE) + 0.5) < SIDE / 2)
    return {"organs": np.stack([bright, right, dark & ~right], axis=1).astype(np.float32)}


MODEL = AnatomyModel(INPUT, by_darkness, 0.05, ModelRef("anatomy", "1", "a" * 64, "b" * 64), (-0.03, 0.03))


def ratio_of(
    picture: np.ndarray,
    pose: Pose = UPRIGHT,
    wanted: Projections = Projections.PA,
    attributes: dict[str, str] | None = None,
    view: str = "PA",
) -> Ratio:
    image = film(picture, attributes=attributes or {}, view_position=view)
    return measure(image, MODEL.outline(picture, pose), pose, MODEL, wanted)


def test_heart_and_thorax_are_measured_with_their_lines() -> None:
    ratio, heart, thorax = ratio_of(drawn_chest(480, heart=0.4)[0]).measurements
    assert [(one.name, one.unit.value) for one in (ratio, heart, thorax)] == [
        ("Cardiothoracic ratio", "{ratio}"),
        ("Heart width", "{pixels}"),
        ("Thoracic width", "{pixels}"),
    ]
    assert ratio.lines == heart.lines + thorax.lines
    assert heart.value == pytest.approx(0.4 * 480, abs=6)
    assert heart.value / thorax.value == pytest.approx(ratio.value, abs=0.001)
    assert ratio.value == pytest.approx(0.5, abs=0.02)
    assert (ratio.model, heart.site.meaning) == (MODEL.ref, "Heart")  # type: ignore[union-attr]


@pytest.mark.parametrize("pose", [pose for pose in POSES if not pose.inverted or pose.turned == 0])
def test_lines_lie_on_the_organs_however_the_picture_is_shown(pose: Pose) -> None:
    picture, organs = drawn_chest(480, heart=0.44)
    organ, turned = shown(organs[0].astype(np.uint8), replace(pose, inverted=False)), pose.turned in {90, 270}
    heart = ratio_of(shown(picture, pose), pose).measurements[1]
    [line] = heart.lines
    along = sorted(point[1 if turned else 0] for point in (line[0], line[-1]))
    occupied = np.flatnonzero(organ.any(axis=1 if turned else 0))
    assert along == pytest.approx([occupied[0], occupied[-1] + 1], abs=4)
    assert heart.value == pytest.approx(along[1] - along[0], abs=0.1)


@pytest.mark.parametrize(
    ("attributes", "unit", "spacing"),
    [
        ({"ImagerPixelSpacing": "0.5\\0.25"}, "mm", 0.25),
        ({"PixelSpacing": "0.5\\0.25"}, "{pixels}", 1.0),
        ({"PixelSpacing": "0.2\\0.2", "ImagerPixelSpacing": "0.5\\0.25"}, "mm", 0.25),
        (
            {
                "PixelSpacing": "0.2\\0.2",
                "PixelSpacingCalibrationType": "GEOMETRY",
                "ImagerPixelSpacing": "0.5\\0.25",
            },
            "mm",
            0.2,
        ),
        ({"ImagerPixelSpacing": "0\\0"}, "{pixels}", 1.0),
    ],
)
def test_widths_are_in_millimetres_only_where_the_header_can_be_trusted(
    attributes: dict[str, str], unit: str, spacing: float
) -> None:
    picture, _ = drawn_chest(480)
    [in_pixels, in_unit] = [ratio_of(picture, attributes=given).measurements[1] for given in ({}, attributes)]
    assert (in_unit.unit.value, in_unit.value) == (unit, pytest.approx(in_pixels.value * spacing, abs=0.1))


@pytest.mark.parametrize(
    ("heart", "view", "effusion", "statement"),
    [
        (0.62, "PA", False, "Heart enlarged, cardiothoracic ratio 0.6"),
        (0.51, "PA", False, "Heart size borderline, cardiothoracic ratio 0.5"),
        (0.42, "PA", False, "Heart not enlarged, cardiothoracic ratio 0.4"),
        (0.62, "PA", True, "Cardiothoracic ratio 0.6"),
        (0.42, "PA", True, "Heart not enlarged, cardiothoracic ratio 0.4"),
        (0.62, "AP", False, "Cardiothoracic ratio 0.6"),
    ],
)
def test_the_statement_says_what_a_reader_would_surely_agree_with(
    heart: float, view: str, effusion: bool, statement: str
) -> None:
    picture, _ = drawn_chest(480, heart=0.8 * heart)  # the lungs take .8 of the width
    image = film(picture, view_position=view)
    found = measure(image, MODEL.outline(picture), UPRIGHT, MODEL, Projections.ALL, effusion=effusion)
    said = found.measurements[0].statement
    assert said.startswith(statement)
    assert len(said) <= 110
    assert (found.judges_size, "not comparable" in said) == (view == "PA", view == "AP")
    assert ("too large" in said) is (effusion and heart > 0.5)
    assert [note.text for note in found.notes[1:]] == [EFFUSION_NOTE] * effusion


@pytest.mark.parametrize("projection", ["AP", ""])
def test_other_projections_are_measured_only_where_a_rule_wants_it_and_say_so(projection: str) -> None:
    picture, _ = drawn_chest(480)
    refused = ratio_of(picture, view=projection)
    wanted, frontal = (ratio_of(picture, wanted=Projections.ALL, view=view) for view in (projection, "PA"))
    assert refused.measurements == ()
    assert "PA" in refused.notes[0].text
    assert wanted.measurements
    assert "Not comparable" in wanted.notes[0].text
    assert "Not comparable" not in frontal.notes[0].text
    nothing = ratio_of(np.full((480, 480), 170, np.uint8))
    assert nothing.measurements == ()
    assert nothing.notes[0].text.startswith("not measured: ")


def test_a_box_is_on_an_organ_only_if_it_lies_on_its_outline() -> None:
    picture, _ = drawn_chest(480)
    for pose, left, top in ((UPRIGHT, 0, 0), (Pose(90), 440, 0), (Pose(180), 440, 440)):
        corner, anatomy = (left, top, left + 40, top + 40), MODEL.outline(shown(picture, pose), pose)
        assert not anatomy.touches(corner, (HEART, RIGHT_LUNG, LEFT_LUNG))
    upright, heart, right = MODEL.outline(picture), (220, 280, 280, 320), (-50, 150, 120, 250)
    assert upright.touches(heart, (HEART,))
    assert not upright.touches(heart, (RIGHT_LUNG,))
    assert upright.touches(right, (RIGHT_LUNG,))
    assert not upright.touches(right, (LEFT_LUNG,))


SAME = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


TOLERANCE = 0.03


def found(masks: np.ndarray, *more: np.ndarray) -> Anatomy:
    """What is made of outlines that are ``masks`` in the first variant, ``more`` in the others."""
    variants = np.stack([masks, *(more or (masks, masks))]).astype(np.float32)
    return anatomy_of(variants, [SAME] * len(variants), SAME, TOLERANCE)


def spoilt(change: str) -> list[np.ndarray]:
    """Outlines of a chest in their variants, with a fault."""
    organs = drawn_chest(SIDE)[1]
    small, tail = organs.copy(), organs.copy()
    small[1, : round(0.55 * SIDE)] = False
    tail[0, 118:124, 80:135] = True
    narrow, wide = (drawn_chest(SIDE, heart=heart)[1] for heart in (0.36, 0.44))
    return {
        "no lung": [organs * np.array([1, 0, 1], bool)[:, None, None]],
        "mirrored": [organs[:, :, ::-1]],
        "a small lung": [small],
        "cut off": [np.roll(organs, -round(0.13 * SIDE), axis=2)],
        "small changes": [narrow, narrow, wide],
        "ragged": [tail],
    }[change]


def look(heart: int = 220, left: int = 60, small: float = 1.0) -> Look:
    """At a drawn chest, whose heart and left lung are so bright, and that lung so much smaller."""
    grey, organs = drawn_chest(300)
    grey[organs[0]], grey[organs[2] & ~organs[0]], organs[2, : round(300 * (1 - small))] = heart, left, False
    return look_at(grey, Anatomy(organs, SAME, None))


def test_a_white_lung_hides_the_border_of_the_heart() -> None:
    seen, white, none = look(), look(left=215, small=0.7), look(heart=62)
    assert (seen.hidden, white.hidden, none.hidden, white.white) == (
        (),
        ("right",),
        ("left", "right"),
        "right",
    )


@pytest.mark.parametrize(
    ("seen", "chance", "is_chest", "marked", "said"),
    [
        (Look(), 0.05, True, False, ""),
        (Look(), 0.5, True, False, "Unsure: a lung may be clouded."),
        (Look(("right",)), 0.05, True, False, "Unsure: the heart's border is hidden."),
        (
            Look(("right",), "right"),
            0.5,
            True,
            False,
            "the lung on the right of the picture is opaque",
        ),
        (Look(("right",), "right"), 0.5, True, True, "the left lung is opaque or small. Look at it first."),
        (Look(("left", "right")), 0.5, True, True, "the borders of heart or lungs are hidden."),
        (Look(), 0.05, False, False, "This film is not a usual chest: "),
        (Look(("left",), gone=True), 0.05, True, False, "This film is not a usual chest: "),
    ],
)
def test_two_signs_make_an_unusual_film_and_a_side_is_the_patient_s_only_with_a_marker(
    shipped: Card, seen: Look, chance: float, is_chest: bool, marked: bool, said: str
) -> None:
    doubt = seen.doubt(
        shipped, {"Consolidation": chance}, replace(anatomy(), is_chest=is_chest), marked=marked
    )
    assert said in doubt
    assert bool(doubt) is bool(said)


@pytest.mark.parametrize(
    ("view", "seen", "fault", "cut_off", "statement", "missed"),
    [
        ("PA", Look(shallow=True), "", (), "Heart enlarged, cardiothoracic ratio 0.61, shallow breath", ""),
        ("PA", Look(("right",)), "", (), "", "No ratio: the heart's border is hidden."),
        ("PA", Look(("right",)), "", ["bases of the lungs"], "", "No ratio: the heart's border is hidden."),
        ("PA", Look(), "the heart is ragged", ["bases of the lungs"], "", "No ratio: the heart is ragged."),
        ("PA", Look(), "", ["bases of the lungs"], "", "No ratio: bases of the lungs outside the picture."),
        ("AP", Look(), "the heart is ragged", (), "", ""),
    ],
)
def test_a_pa_film_without_ratio_says_why_and_first_what_may_be_ill(
    view: str, seen: Look, fault: str, cut_off: Sequence[str], statement: str, missed: str
) -> None:
    picture = drawn_chest(480, heart=0.8 * 0.62)[0]
    found = measure(
        film(picture, view_position=view),
        replace(MODEL.outline(picture), fault=fault),
        UPRIGHT,
        MODEL,
        Projections.PA,
        cut_off=cut_off,
        look=seen,
    )
    assert ("".join(one.statement for one in found.measurements), found.missed) == (statement, missed)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        *((change, "") for change in ("no lung", "mirrored", "a small lung", "cut off")),
        *((change, change) for change in ("small changes", "ragged")),
    ],
)
def test_outlines_that_are_no_chest_are_not_measured(change: str, fault: str) -> None:
    anatomy = found(*spoilt(change))
    assert anatomy.measured is None
    assert anatomy.fault
    assert fault in anatomy.fault


def test_a_chest_with_one_white_lung_is_no_place_for_boxes() -> None:
    _, organs = drawn_chest(SIDE)
    white = organs * np.array([1, 1, 0], bool)[:, None, None]
    white[2, 30:50, 115:125] = True
    assert [found(masks).is_chest for masks in (organs, white, organs & False)] == [True, False, False]


@pytest.mark.parametrize(
    "way",
    [Affine(4.0, 0.0, 10.0, 0.0, 4.0, -6.0), Affine(0.0, -4.0, 200.0, 4.0, 0.0, 10.0)],
    ids=["larger and moved", "turned by a quarter"],
)
def test_outlines_lie_in_the_image_where_the_grid_says(way: Affine) -> None:
    masks = np.zeros((3, 40, 40), np.bool_)
    masks[1, 10:20, 5:30] = True
    corners = way([(5.0, 10.0), (30.0, 20.0)])
    (left, right), (top, bottom) = (sorted(edges) for edges in zip(*corners, strict=True))

    drawn = Anatomy(masks, way, None).in_image(180, 220)

    assert drawn.shape == (3, 180, 220)
    assert not drawn[[0, 2]].any()
    rows, columns = np.nonzero(drawn[1])
    edges = (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
    assert edges == pytest.approx((left, right, top, bottom), abs=1)
    assert (drawn[1] > 0).sum() == pytest.approx((right - left) * (bottom - top), rel=0.05)


def _head() -> BoxHead:
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.12, 0.1, 0.4, 0.42], [0.6, 0.6, 0.9, 0.9]], np.float32)
    return BoxHead({"Mass": Candidates(boxes, np.zeros(3, np.float32))})


def _maps(row: int, column: int) -> np.ndarray:
    maps = np.zeros((1, len(PARTS), 14, 14), np.float32)
    maps[0, 0, row - 2 : row + 2, column - 2 : column + 2] = 8.0
    return maps


def test_the_box_lies_where_the_maps_speak_for_it() -> None:
    low, high = (_head().find(_maps(at, at), "Mass") for at in (10, 3))
    assert low.corners == pytest.approx((0.6, 0.6, 0.9, 0.9))
    assert high.corners[0] < 0.2
    assert high.corners[0] <= high.point[0] <= high.corners[2]


def test_a_sites_yolo_locates_in_place_of_the_head_and_never_beside_it(tmp_path: Path) -> None:
    # Of label 2, effusions, that of the highest score that has an area, cut at the picture's edge.
    network = parsed("""
        same (float[1, 3, 224, 224] images) => (float[1, 3, 6] boxes) <float zero = {0}, float[1, 3, 6] box =
            {0, 0, 9, 9, 0.1, 2, -4, 112, 112, 168, 0.5, 2, 8, 8, 8, 99, 0.9, 2}>
        { most = ReduceMax <keepdims = 0> (images) nothing = Mul (most, zero) boxes = Add (box, nothing) }
    """).SerializeToString()
    (path := tmp_path / "yolo.onnx").write_bytes(network)
    yolo, shipped = Weights(YOLO, path, hashlib.sha256(network).hexdigest()), find("chest-efficientnet-lite0")
    detector = BoxDetector(replace(shipped, weights=(yolo,)))
    seen = detector.prepare(np.zeros((448, 448), np.uint8))
    assert detector.find(seen, "Effusion") == ScoredBox((0.0, 0.5, 0.5, 0.75), (0.25, 0.625), 0.5)
    (shown,) = [box for name in ("Effusion", "Cardiomegaly") if (box := detector.region(seen, name))]
    assert shown.bounds == pytest.approx((0, 224, 224, 336))
    few = BoxDetector(replace(shipped, weights=(yolo,), labels=shipped.labels[:2]))
    with pytest.raises(CardError, match="other labels"):
        few.find(few.prepare(np.zeros((448, 448), np.uint8)), "Cardiomegaly")
    with pytest.raises(CardError, match="never both"):
        BoxDetector(replace(shipped, weights=(*shipped.weights, yolo)))


def test_a_region_is_in_the_source_and_says_that_a_detector_drew_it() -> None:
    # A source of 1,000 × 800 that fills 224 × 179 of the model's square, 22 pixels from its top.
    to_model = Affine(0.224, 0, 0, 0, 0.224, 22.4)
    inside, above = (0.5, 0.05, 0.75, 0.5), (0.5, 0.0, 0.75, 0.05)
    found, none = (
        region(ScoredBox(box, (0.6, 0.3), 0.5), 224, to_model, 800, 1000) for box in (inside, above)
    )
    assert found is not None
    assert found.origin is Origin.DETECTOR
    assert none is None
    assert found.bounds == pytest.approx((500, 0, 750, 400), abs=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(512, 512), (2500, 2048), (300, 900)])
def test_the_heat_maps_peak_is_the_hot_cell_in_the_source(rows: int, columns: int) -> None:
    _, to_model = prepare(np.zeros((rows, columns), np.uint8), Chain(), SIDE)
    places = np.zeros((10, 10), np.float32)
    places[4, 6] = 8.0
    heat = heatmap(activation(places, SIDE, to_model, rows, columns)).values
    assert (heat.shape, heat.dtype) == ((rows, columns), np.float32)
    assert 0.0 <= heat.min() <= heat.max() <= 1.0
    down, across = np.unravel_index(int(heat.argmax()), heat.shape)
    (expected,) = to_model.inverse()([(6.5 * 16, 4.5 * 16)])
    assert (across + 0.5, down + 0.5) == pytest.approx(expected, abs=max(rows, columns) / 100)


def test_the_box_follows_the_hot_cell_into_source_coordinates() -> None:
    boxes = np.array([(0.1, 0.4, 0.3, 0.6), (0.6, 0.4, 0.8, 0.6)], np.float32)
    templates = BoxTemplates(np.zeros(2, np.int64), boxes, np.full(2, 0.04, np.float32))
    _, to_model = prepare(np.zeros((1000, 1000), np.uint8), Chain(), SIDE)
    places = np.zeros((10, 10), np.float32)
    places[4:6, 6:8] = 5.0
    region = templates.box(activation(places, SIDE, to_model, 1000, 1000), 0)
    assert region is not None
    assert region.bounds == pytest.approx((600, 400, 800, 600), abs=0.1)


PLEURA = Code("3120008", "SCT", "Pleura")


LEFT_IN_THE_PICTURE = Region("box", ((150.0, 650.0), (350.0, 790.0)), Origin.DETECTOR)


def half_activation(share_on_the_right: float) -> Activation:
    """A map of 4 × 4 cells over an input of 200 pixels, a share of it right of the middle."""
    values = np.full((4, 4), 1 - share_on_the_right, np.float32)
    values[:, 2:] = share_on_the_right
    return Activation(values, 200, Affine(0.2, 0.0, 0.0, 0.0, 0.2, 0.0), 1000, 1000)


@pytest.mark.parametrize(
    ("share", "site", "wrong"),
    [
        *((share, PLEURA, share > 2 / 3) for share in (0.0, 0.5, 0.6, 0.7, 1.0)),
        (1.0, ratio.HEART, False),
        (None, PLEURA, False),
    ],
)
def test_a_box_on_the_other_side_than_most_of_its_map_is_not_drawn_unless_it_is_a_hearts(
    share: float | None, site: Code, wrong: bool
) -> None:
    seen = half_activation(share) if share is not None else None
    assert contradicted(seen, drawn_lungs(), site, LEFT_IN_THE_PICTURE) is wrong


AS_USUAL = "L\\F"


def drawn_lungs() -> Anatomy:
    """A right lung of rows 20 to 80 and a left one down to 80, on a grid of 100; the source has 1000."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[0, 50:75, 45:60] = masks[1, 20:80, 10:40] = masks[2, 20:80, 60:90] = True
    return Anatomy(masks, Affine(10.0, 0.0, 0.0, 0.0, 10.0, 0.0), None)


def side(box: tuple[float, float, float, float], orientation: str = AS_USUAL) -> str:
    image = film(np.zeros((1000, 1000), np.uint8), attributes={"PatientOrientation": orientation})
    region, lung = Region("box", (box[:2], box[2:]), Origin.DETECTOR), Code("39607008", "SCT", "Lung")
    return side_of(image, UPRIGHT, drawn_lungs(), lung, region)


def test_the_right_lung_lies_on_the_left_of_a_frontal_film() -> None:
    boxes = ((150, 650, 350, 790), (650, 650, 850, 790), (150, 650, 850, 790), (420, 300, 580, 400))
    assert [side(box) for box in boxes] == ["R", "L", "", ""]


@pytest.mark.parametrize("orientation", ["R\\F", "F\\R", "L\\H", "", "L", "A\\F", "x\\y"])
def test_no_side_is_given_where_the_header_contradicts_the_outlines_or_says_nothing(orientation: str) -> None:
    assert side((150, 650, 350, 790), orientation) == ""
