"""Ovaries: which pictures are classified, and what is told of them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from ai_pipeline.contract import Accept, Code, Decision, ImageKind, PipelineResult, Refuse, UltrasoundRegion
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_image
from ai_pipeline.images.header import StatedAttributes
from ai_pipeline.models.registry import Label, find
from ai_pipeline.ovarian import card as ovarian_card
from ai_pipeline.ovarian import pipeline as ovaries
from ai_pipeline.ovarian.card import shows_pregnancy
from ai_pipeline.ovarian.pipeline import NORMAL, NOT_LIKE, decisions, dice, of_mask, probabilities
from ai_pipeline.summary import without_research
from tests.unit.ai_pipeline.models.store_lab import add, ended, models
from tests.unit.ai_pipeline.phantoms import ArrayImage, image_header, noise, rgb, silent

PELVIS = image_header(body_part="PELVIS")


@pytest.fixture(scope="module")
def ovarian() -> ovaries.Ovarian:
    return ovaries.Ovarian()


@pytest.fixture(scope="module")
def frame(data: Path) -> Path:
    """A frame of the manifest's test split with a large cyst, without yellow marks."""
    return data / "us_ovarian" / "images" / "otu_0001.jpg"


@pytest.fixture(scope="module")
def found(ovarian: ovaries.Ovarian, frame: Path) -> PipelineResult:
    return ovarian.run([open_image(frame, "US", AS_PELVIS)], silent, {})


AS_PELVIS = StatedAttributes(body_part="PELVIS")


@pytest.mark.parametrize("highest", [256, 1], ids=["noise", "black"])
def test_what_looks_like_no_frame_is_refused_by_its_pixels(ovarian: ovaries.Ovarian, highest: int) -> None:
    answer = ovarian.accepts([ArrayImage(rgb(noise((1, 480, 640), 0, highest)), like=PELVIS)])
    assert isinstance(answer, Refuse)
    assert answer.reason == NOT_LIKE
    assert [one.by.value for one in answer.refused] == ["pixels"]


def test_an_image_that_cannot_be_cleaned_gets_no_result(
    ovarian: ovaries.Ovarian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovaries, "clean", Mock(side_effect=CleaningFailed("text may be left")))
    with pytest.raises(CleaningFailed):
        ovarian.run([ArrayImage(np.zeros((1, 200, 200, 3), np.uint8), like=PELVIS)], silent, {})


@pytest.mark.data
def test_a_frame_is_cleaned_classified_and_outlined(
    ovarian: ovaries.Ovarian, frame: Path, found: PipelineResult
) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    assert isinstance(ovarian.accepts([image]), Accept)
    assert found.drawn_on == "cleaned"
    kinds = {picture.kind: picture for picture in found.images}
    assert ImageKind.MASK in kinds
    assert kinds[ImageKind.CLEANED].verified
    assert len(found.findings) == 8
    assert sum(one.probability or 0.0 for one in found.findings) == pytest.approx(1.0, abs=1e-3)
    assert sum(one.decision is Decision.PRESENT for one in found.findings) <= 1
    bounds = [region.bounds for one in found.findings for region in one.regions]
    assert len(bounds) == (ImageKind.ORGANS in kinds)
    drawn = [one for one in found.findings if one.regions or one.evidence]
    assert all(one.decision is Decision.PRESENT for one in drawn), "a class that is not suggested"
    assert all(0 <= x < right <= image.header.columns for x, _, right, _ in bounds)
    assert "not assessed" in {note.name for note in found.quality}


@pytest.mark.data
def test_nothing_is_called_or_outlined_where_the_lesion_was_blacked_out(
    ovarian: ovaries.Ovarian, frame: Path
) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    rows, columns = image.header.rows, image.header.columns
    box = (columns // 4, rows // 4, columns * 3 // 4, rows * 3 // 4)
    hidden = ArrayImage(image.display()[None], like=image.header, removed_by_hand=(box,))
    result = ovarian.run([hidden], silent, {"heatmaps": True})
    assert {one.decision for one in result.findings} <= {Decision.INDETERMINATE}
    assert not any(one.regions or one.evidence for one in result.findings)
    assert not any(one.kind is ImageKind.ORGANS for one in result.images)
    told = next(note for note in result.quality if note.name == "unsure")
    assert told.on_faces
    assert "blacked out" in told.text or "does not look like" in told.text


@pytest.mark.data
def test_a_picture_whose_text_is_of_a_pregnancy_gets_no_class(ovarian: ovaries.Ovarian, frame: Path) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    written = np.ascontiguousarray(image.display())
    cv2.putText(written, "CRL 5.81 cm 12w3d", (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
    result = ovarian.run([ArrayImage(written[None], like=image.header)], silent, {})
    assert result.findings == ()
    said = next(note for note in result.quality if note.name == "unsure")
    assert "pregnancy" in said.text
    assert said.on_faces


@pytest.mark.parametrize(
    ("text", "pregnancy"),
    [
        ("CRL 5.81 cm", True),
        ("GA 12w3d", True),
        ("EDD: 03.05.2025", True),
        ("8 SSW 2T", True),
        ("Fœtus 1", True),
        ("FETAL HR 151 bpm", True),
        ("RT OVARY", False),
        ("LO 3.2 x 2.1 cm", False),
        ("Gn 12 Fr 23 Hz", False),
        ("UTERUS TRV", False),
        ("MI 1.2 TIS 0.4", False),
    ],
)
def test_words_and_results_of_a_pregnancy_are_known(text: str, pregnancy: bool) -> None:
    assert shows_pregnancy([text]) is pregnancy


@pytest.mark.data
def test_what_a_site_gets_does_not_tell_the_malignant_class_unless_a_rule_asks_for_it(
    ovarian: ovaries.Ovarian, frame: Path, found: PipelineResult
) -> None:
    shown = without_research(found).findings
    assert {one.label for one in found.findings} - {one.label for one in shown} == {
        "High-grade_Serous_Cystadenoma"
    }
    assert all((one.probability is None) == (one.decision is not Decision.PRESENT) for one in shown)
    asked = ovarian.run([open_image(frame, "US", AS_PELVIS)], silent, {"malignancy": True, "outlines": False})
    assert not any(one.research_only for one in asked.findings)
    assert not any(one.kind is ImageKind.ORGANS for one in asked.images)


@pytest.mark.data
def test_fetal_heads_are_not_classified_also_where_they_look_like_a_cyst(
    ovarian: ovaries.Ovarian, data: Path
) -> None:
    heads = data / "us_fetal_head"
    like_a_cyst, reasons = [next(heads.rglob(name)) for name in ("019_HC.jpg", "019_2HC.jpg")], []
    for file in (*sorted((heads / "images").glob("*.jpg"))[:8], *like_a_cyst):
        answer = ovarian.accepts([open_image(file, "US", AS_PELVIS)])
        assert isinstance(answer, Refuse), file.name
        reasons.append(answer.reason)
    assert all("fetal head" in reason for reason in reasons[-2:])


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
    found = probabilities(np.array([[2.0, 1.0, -3.0], [800.0, -800.0, 0.0]], np.float32), LABELS[:3])
    odds = np.exp(np.array([3.0, 2.0, -5.5]))
    assert np.allclose(found[0], odds / odds.sum(), atol=1e-6)
    assert np.allclose(found.sum(1), 1.0)
    assert np.isfinite(found).all()


def test_the_outline_follows_the_mask() -> None:
    mask, drawn = np.zeros((2, 120, 160), np.uint8)
    cv2.ellipse(mask, (80, 60), (40, 25), 20.0, 0, 360, 1, -1)
    region = of_mask(mask > 0).region
    assert region is not None
    assert len(region.points) < 60
    cv2.fillPoly(drawn, [np.floor(np.array(region.points)).astype(np.int32)], 1)
    assert dice(drawn > 0, mask > 0) > 0.97


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (np.zeros((64, 64), np.bool_), "no lesion"),
        (np.ones((64, 64), np.bool_), "too small or too large"),
        (np.indices((64, 64)).sum(0) % 32 < 4, "falls apart"),
        (np.abs(np.indices((64, 64)) - 32).min(0) < 4, "ragged"),
    ],
)
def test_what_cannot_be_a_lesion_has_no_outline(mask: np.ndarray, fault: str) -> None:
    found = of_mask(np.asarray(mask))
    assert (found.region, found.mask, fault in found.fault) == (None, None, True)


@pytest.mark.parametrize(("inside", "simple"), [(10, True), (60, False)])
def test_a_cyst_is_simple_only_where_it_is_black_inside(inside: int, simple: bool) -> None:
    across, down = np.indices((200, 200)) - 100
    lesion = np.asarray((across**2 + down**2) < 60**2)
    assert ovaries.is_anechoic(np.where(lesion, np.uint8(inside), np.uint8(90)), lesion) is simple


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
        *(
            ({"attributes": {"StudyDescription": examination}}, "pregnancy")
            for examination in (
                *("Fetal biometry", "US OB TRANSVAGINAL", "OB/GYN early preg"),
                "Échographie obstétrique",
            )
        ),
        ({"attributes": {"SeriesDescription": "1. Trimester"}}, "pregnancy"),
        ({"attributes": {"PregnancyStatus": "3"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "US BREAST LEFT"}}, "another organ"),
        ({"attributes": {"StudyDescription": "KIDNEY, RENAL PELVIS"}}, "another organ"),
        ({"attributes": {"AnatomicRegionSequence": "76752008 SCT Breast"}}, "Anatomic Region is neither"),
        ({"body_part": "UTERUS"}, "nothing says that this is a pelvis"),
        ({"body_part": "ABDOMENPELVIS"}, "nothing says that this is a pelvis"),
        *(
            ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, *kind),)}, reason)
            for kind, reason in (
                *(((3, 3), "a Doppler spectrum"), ((1, 3), "a Doppler spectrum")),
                ((2, 1), "an M-mode trace"),
            )
        ),
    ],
)
def test_the_header_alone_refuses_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in str(ovarian_card.refused_by_header(replace(PELVIS, **change)))


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
    assert ovarian_card.refused_by_header(replace(PELVIS, body_part=body_part, attributes=attributes)) is None


def test_a_rule_may_say_it_but_not_that_a_pregnancy_is_none() -> None:
    unknown = replace(PELVIS, body_part="")
    assert ovarian_card.refused_by_header(unknown, rule_says_pelvis=True) is None
    fetus = replace(unknown, attributes={"SeriesDescription": "obstetric"})
    assert "pregnancy" in str(ovarian_card.refused_by_header(fetus, rule_says_pelvis=True))


def test_a_model_of_the_site_s_own_is_tried_and_then_used(tmp_path: Path, ovarian: ovaries.Ovarian) -> None:
    shipped, made, store = find(ovarian_card.CLASSIFIER.shipped), tmp_path / "made", tmp_path / "models"
    made.mkdir()
    for weights in shipped.weights:
        shutil.copy(weights.path, made)
    (made / "own.toml").write_text(shipped.path.read_text().replace(f'"{shipped.id}"', '"ovarian-own"', 1))
    ended(0, add(made / shipped.weights[0].path.name, made / "own.toml", "--models-dir", store))
    ended(0, models("activate", "ovarian-own", "--pipeline", "ovarian", "--models-dir", store))
    assert ovaries.Ovarian(models_dir=store).models()[0].id == "ovarian-own"
    assert ovarian.models()[0].id == shipped.id
    ended(0, models("rollback", "--pipeline", "ovarian", "--models-dir", store))
    assert ovaries.Ovarian(models_dir=store).models()[0].id == shipped.id


@pytest.mark.parametrize(
    ("model", "slot", "why"),
    [
        ("ovarian-efficientnet-lite0", "chest_xray", "is no chest model: it outlines lesions"),
        ("chest-efficientnet-lite0", "ovarian", "names no weights with role 'outline'"),
    ],
)
def test_a_model_of_another_organ_is_not_used(model: str, slot: str, why: str, tmp_path: Path) -> None:
    said = ended(65, models("activate", model, "--pipeline", slot, "--models-dir", tmp_path))
    assert why in " ".join(said.split())
