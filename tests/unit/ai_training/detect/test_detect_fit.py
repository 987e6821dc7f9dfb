"""The box head learns where layers light up, becomes a convolution, ships only where it beats the priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomlkit

pytest.importorskip("torch")

from typer.testing import CliRunner

from ai_pipeline.chest.boxes import PARTS, ScoredBox
from ai_pipeline.models.registry import find
from ai_training.cli import console
from ai_training.cli.train import train_app
from ai_training.detect.locating import yolo, yolo_locator
from ai_training.detect.locating.cross_validation import (
    LabelledBoxes,
    cross_validated,
    figures_of,
    passes,
)
from ai_training.detect.locating.fusion import BoxHeadRecipe, FittedHead, fit
from ai_training.detect.locating.locators import FixedLocator, Locator, centre, constant
from ai_training.detect.locating.scores import Place
from ai_training.detect.locating.stacking import TRUSTS, settled
from ai_training.detect.locating.trunk import TrunkFeatures
from ai_training.detect.locating.truth import corners
from ai_training.detect.ship import write_test_figures
from ai_training.metrics import overlap
from ai_training.sets.images import LABELS, ChestImage, TruthBox

CELLS = 14


def _box(number: int, side: str) -> TruthBox:
    left = 60.0 if side == "left" else 300.0
    moved = 10.0 * (number % 3)
    return TruthBox(
        f"{number}.png",
        "Mass",
        left + moved,
        200.0,
        left + moved + 140.0,
        330.0,
        "train",
        patient=str(number),
    )


def _planted(count: int = 40) -> tuple[list[TruthBox], np.ndarray]:
    """Boxes on either side, and maps of which one channel lights up inside the box."""
    random = np.random.default_rng(3)
    boxes = [_box(n, "left" if n % 2 else "right") for n in range(count)]
    maps = random.normal(0, 0.3, (count, 6, CELLS, CELLS)).astype(np.float32)
    for box, own in zip(boxes, maps, strict=True):
        left, top, right, bottom = (round(edge * CELLS) for edge in corners(box))
        own[2, top:bottom, left:right] += 3.0
    return boxes, maps


@pytest.fixture(scope="module")
def fitted() -> tuple[list[TruthBox], FittedHead]:
    boxes, maps = _planted()
    known = boxes[:30]
    recipe = BoxHeadRecipe(components=4, moved=2, shown=30, steps=60)
    made = fit(known, range(30), maps, recipe)
    return boxes, made


def test_boxes_of_images_that_were_not_learned_from_lie_where_the_layers_light_up(
    fitted: tuple[list[TruthBox], FittedHead],
) -> None:
    boxes, made = fitted

    for row in range(30, 40):
        place = made.place(row, "Mass")
        assert place is not None
        assert overlap(place.corners, corners(boxes[row])) > 0.5


def test_the_head_as_one_convolution_says_the_same(fitted: tuple[list[TruthBox], FittedHead]) -> None:
    _, made = fitted
    weights, bias = made.layer()

    maps = np.einsum("kc,chw->khw", weights, made.maps[31]) + bias
    found = made.head.find(maps.reshape(1, len(PARTS), CELLS, CELLS), "Mass")

    place = made.place(31, "Mass")
    assert place is not None
    assert found == ScoredBox(place.corners, place.point, pytest.approx(place.score, abs=1e-4))


def test_a_fixed_box_knows_no_image_and_can_only_be_right_on_one_side() -> None:
    boxes, _ = _planted()

    fixed = constant(boxes)
    hits = sum(
        overlap(place.corners, corners(box)) > 0.1
        for box in boxes
        if (place := fixed.place(0, "Mass")) is not None
    )

    assert hits == 20
    middle = centre(boxes).place(0, "Mass")
    assert middle is not None
    assert middle.point == pytest.approx((0.5, 0.5))


def _entry(low: float, pointing: float, touched: float) -> dict[str, object]:
    difference = {"mean T": [0.1, low, 0.2], "pointing": [pointing, -1.0, 1.0]}
    return {
        "differences": {"fusion - constant": difference, "fusion - centre": difference},
        "arms": {"fusion": {"T(IoU.1)": [touched, 0.0, 1.0]}},
    }


@pytest.mark.parametrize(
    ("entry", "passed", "why"),
    [
        (_entry(0.01, 0.0, 0.5), True, ""),
        (_entry(-0.01, 0.1, 0.9), False, "not surely above"),
        (_entry(0.01, -0.1, 0.9), False, "points worse"),
        (_entry(0.01, 0.1, 0.4), False, "misses more than half"),
    ],
)
def test_a_label_gets_boxes_only_when_they_surely_beat_the_priors_and_hit_more_often_than_not(
    entry: dict[str, object], passed: bool, why: str
) -> None:
    verdict = passes(entry)

    assert verdict["passes"] is passed
    assert why in verdict["why"]


def _planted_case(folder: Path) -> LabelledBoxes:
    boxes, maps = _planted()
    placed = tuple(replace(box, path=folder / box.file) for box in boxes)
    chances = np.full((len(boxes), len(LABELS)), 0.5, np.float32)
    return LabelledBoxes(
        placed, tuple(range(len(boxes))), tuple(box.path for box in placed), TrunkFeatures(maps, chances)
    )


def test_another_arm_learns_from_the_other_folds_alone(tmp_path: Path) -> None:
    case = _planted_case(tmp_path)
    known: dict[int, set[int]] = {}

    def more_locators(
        number: int, may_learn: Sequence[int], arms: Mapping[str, Locator]
    ) -> dict[str, Locator]:
        assert "fusion" in arms
        known[number] = set(may_learn)
        return {"told": FixedLocator({"Mass": Place((0.0, 0.0, number / 10 + 0.1, 1.0), (0.0, 0.0), 1.0)})}

    recipe = BoxHeadRecipe(components=4, moved=2, shown=30, steps=2)
    predictions = cross_validated(case, recipe, lambda _share, _what: None, more_locators=more_locators)

    assert set(predictions) == {"fusion", "activation", "constant", "centre", "told"}
    for index, place in enumerate(case.of_boxes(predictions["told"])):
        assert place is not None
        answered_by = round(place.corners[2] * 10 - 1)
        assert index not in known[answered_by]
        assert all(index in others for fold, others in known.items() if fold != answered_by)


def test_the_trust_in_drawn_boxes_is_learned_on_the_other_folds(tmp_path: Path) -> None:
    case = _planted_case(tmp_path)
    right = tuple(Place(corners(box), (0.0, 0.0), 1.0) for box in case.boxes)
    wrong = tuple(Place((0.0, 0.9, 0.1, 1.0), (0.0, 0.0), 1.0) for _ in case.boxes)
    arms = {f"trust {trust}": right if trust == 2.0 else wrong for trust in TRUSTS}
    arms |= dict.fromkeys(("fusion", "yolo", "activation", "constant", "centre"), wrong)
    every = {arm: {(row, "Mass"): told[row] for row in case.rows} for arm, told in arms.items()}

    predictions, trust = settled(case, every)

    assert trust == 2.0
    assert case.of_boxes(predictions["fusion"]) == right
    assert case.of_boxes(predictions["head"]) == wrong
    assert list(predictions) == ["fusion", "head", "yolo", "activation", "constant", "centre"]
    assert predictions["fusion"] == every["trust 2.0"]

    # Where only one box is answered well, the fold that holds it cannot know.
    spoiled = {**every, "trust 2.0": every["yolo"], "trust 3.0": every["yolo"] | {(0, "Mass"): right[0]}}
    alone, _ = settled(case, spoiled)
    assert case.of_boxes(alone["fusion"])[0] == wrong[0]


def test_folds_find_what_is_planted_and_tell_it(tmp_path: Path) -> None:
    case = _planted_case(tmp_path)
    placed = case.boxes
    labels = tuple(int(label == "Mass") for label in LABELS)
    images = [
        ChestImage(box.path, labels, None, box.patient, "train", "made", "made", 50.0, "F", "PA")
        for box in placed
    ]

    predictions = cross_validated(
        case, BoxHeadRecipe(components=4, moved=2, shown=30, steps=40), lambda _share, _what: None
    )
    figures = figures_of(case, predictions, images, find("chest-efficientnet-lite0"), decide=True)

    (row,) = figures["labels"]
    assert row["passes"]
    assert figures["arms"]["fusion"]["pointing"][0] > 0.9
    assert figures["arms"]["constant"]["pointing"][0] < 0.6
    assert figures["detection"]["fusion"]["mAP@.4"][0] > figures["detection"]["constant"]["mAP@.4"][0]
    assert (row["label"], row["boxes"]) == ("Mass", 40)


def test_a_yolo_that_is_there_is_taken_only_if_it_is_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def train(boxes: Sequence[TruthBox], card: object, out: Path, recipe: object) -> Path:
        made.append(len(boxes))
        (out / yolo.FILE).write_bytes(b"network")
        return out / yolo.FILE

    monkeypatch.setattr(yolo_locator, "train_yolo", train)
    monkeypatch.setattr(yolo_locator, "OnnxRuntime", lambda data, threads: (data, threads))
    card, (boxes, _) = find("chest-efficientnet-lite0"), _planted()

    for threads in (1, 2):
        drawn = yolo_locator.trained(boxes, card, tmp_path / "one", yolo.YoloRecipe(threads=threads), ())
        assert drawn.labels == ("Mass",)
    assert made == [40]
    for others, recipe in ((boxes[1:], yolo.YoloRecipe()), (boxes, yolo.YoloRecipe(size=320))):
        with pytest.raises(FileExistsError, match="other boxes or settings"):
            yolo_locator.trained(others, card, tmp_path / "one", recipe, ())


@pytest.mark.parametrize("command", ["detect", "yolo"])
def test_without_ultralytics_it_is_said_at_once_which_extra_is_missing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "find_spec", lambda _package: None)
    result = CliRunner().invoke(train_app, [command, "--data", str(tmp_path), "--out", str(tmp_path)])
    assert result.exit_code == console.EXIT_CONFIG
    assert "extra 'yolo'" in result.output


def test_the_test_figures_stand_in_the_card(tmp_path: Path) -> None:
    shipped = find("chest-efficientnet-lite0")
    path = tmp_path / shipped.path.name
    path.write_text(shipped.path.read_text())
    values = {"mean T": [0.5, 0.4, 0.6]}
    figures = {
        "boxes": 7,
        "patients": 3,
        "arms": {"fusion": values, "constant": values},
        "differences": {"fusion - constant": {"mean T": [0.0, -0.1, 0.1]}},
        "labels": [],
    }

    write_test_figures(replace(shipped, path=path), figures)

    card = tomlkit.parse(path.read_text()).unwrap()
    test = card["detection"].pop("test")
    assert (test["boxes"], test["fusion"], test["difference"]["mean T"]) == (7, values, [0.0, -0.1, 0.1])
    before = tomlkit.parse(shipped.path.read_text()).unwrap()
    before["detection"].pop("test")
    assert card == before
