"""A detector of chest findings: its boxes, its training, its scores."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tomlkit
import typer
from typer.testing import CliRunner

from ai_pipeline.chest.classifier import PARTS, ScoredBox
from ai_pipeline.models.registry import find
from ai_training import cli, commands, detect, yolo
from ai_training.base import DataMissing
from ai_training.metrics import overlap
from ai_training.sets.files import rows
from ai_training.sets.images import LABELS, SetImage, TruthBox, corners
from tests.unit.ai_pipeline.models.store_lab import run_quietly


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A manifest of two images of two patients, without boxes."""
    (tmp_path / "manifest.csv").write_text(
        "file,patient_id,age,split,labels\n"
        "00000042_006.png,00000042,50,train,Fibrosis\n"
        "00000043_000.png,00000043,50,val,Nodule|Effusion\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text", "found", "last"),
    [
        (
            "det.json",
            json.dumps(
                [
                    {
                        "file_name": "00000042_006.png",
                        "syms": ["Fibrosis", "Fibrosis", "Fracture"],
                        "boxes": [[632, 721, 909, 969], [129, 611, 474, 909], [1, 2, 3, 4]],
                    },
                    {"file_name": "99999999_000.png", "syms": ["Mass"], "boxes": [[1, 2, 30, 40]]},
                ]
            ),
            [("Fibrosis", "train", "00000042")] * 2,
            (129, 611, 474, 909),
        ),
        (
            "BBox_List_2017.csv",
            "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
            "00000043_000.png,Infiltrate,225.08,547.02,86.78,79.19,,,\n"
            "00000043_000.png,Nodule,100,100,50,50,,,\n",
            [("Infiltration", "val", "00000043"), ("Nodule", "val", "00000043")],
            (100, 100, 150, 150),
        ),
    ],
    ids=["ChestX-Det, several of one label", "the whole NIH list"],
)
def test_boxes_of_a_list_that_is_named_alone_are_those_of_our_labels_and_images(
    images: Path, file: str, text: str, found: list[tuple[str, str, str]], last: tuple[int, ...]
) -> None:
    (images / file).write_text(text)
    boxes = detect.detection_boxes(images, [images / file])
    assert [(box.label, box.image.split, box.image.patient) for box in boxes] == found
    assert corners(boxes[-1]) == pytest.approx(tuple(edge / 1024 for edge in last))


@pytest.mark.parametrize(
    "text", ["{}", '[{"file_name": "x"}]', "no json", '[{"file_name":"x","syms":["Mass"],"boxes":[]}]']
)
def test_a_list_that_cannot_be_read_says_so(images: Path, text: str) -> None:
    (images / "det.json").write_text(text)

    with pytest.raises(DataMissing, match=r"det\.json|no boxes"):
        detect.detection_boxes(images, [images / "det.json"])


def test_overlap_is_intersection_over_union_and_a_box_over_the_edge_is_cut() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0
    box = TruthBox(LABELS[0], (-5.0, 500.0, 100.0, 520.0), 512.0, SetImage("a", Path(), ""))
    assert corners(box) == pytest.approx((0.0, 500 / 512, 100 / 512, 1.0))


CELLS = 14


def _box(number: int, side: str) -> TruthBox:
    left = (60.0 if side == "left" else 300.0) + 10.0 * (number % 3)
    edges = (left, 200.0, left + 140.0, 330.0)
    return TruthBox("Mass", edges, 512.0, SetImage(f"{number}.png", Path(), str(number), "train", age=50.0))


def _planted(count: int = 40) -> tuple[list[TruthBox], np.ndarray]:
    """Boxes on either side, and maps of which one channel lights up inside the box."""
    random, boxes = np.random.default_rng(3), [_box(n, "left" if n % 2 else "right") for n in range(count)]
    maps = random.normal(0, 0.3, (count, 6, CELLS, CELLS)).astype(np.float32)
    for box, own in zip(boxes, maps, strict=True):
        left, top, right, bottom = (round(edge * CELLS) for edge in corners(box))
        own[2, top:bottom, left:right] += 3.0
    return boxes, maps


def test_no_patient_is_in_two_folds_and_every_label_is_in_each() -> None:
    boxes = [
        replace(_box(number // 3, "left"), label=("Mass", "Nodule")[number % 2]) for number in range(120)
    ]
    fold = detect.folds(boxes)
    assert len({(box.image.patient, number) for box, number in zip(boxes, fold, strict=True)}) == 40
    counts = Counter((box.label, number) for box, number in zip(boxes, fold, strict=True))
    assert len(counts) == 2 * detect.FOLDS
    assert min(counts.values()) >= 0.5 * max(counts.values())
    assert (detect.folds(boxes) == fold).all()


@pytest.fixture(scope="module")
def fitted() -> tuple[list[TruthBox], detect.FittedHead]:
    boxes, maps = _planted()
    return boxes, detect.fit(
        boxes[:30], range(30), maps, detect.BoxHeadRecipe(components=4, moved=2, shown=30, steps=60)
    )


def placed(head: Any, row: int) -> ScoredBox:
    return head.place(row, "Mass")


def test_boxes_lie_where_unseen_images_light_up_and_the_head_as_one_convolution_says_the_same(
    fitted: tuple[list[TruthBox], detect.FittedHead],
) -> None:
    boxes, made = fitted
    assert min(overlap(placed(made, row).corners, corners(boxes[row])) for row in range(30, 40)) > 0.5
    weights, bias = made.layer()
    maps = np.einsum("kc,chw->khw", weights, made.maps[31]) + bias
    found, place = made.head.find(maps.reshape(1, len(PARTS), CELLS, CELLS), "Mass"), placed(made, 31)
    assert found == ScoredBox(place.corners, place.point, pytest.approx(place.score, abs=1e-4))


def test_a_fixed_box_knows_no_image_and_can_only_be_right_on_one_side() -> None:
    boxes, _ = _planted()
    assert sum(overlap(detect.constant(boxes)["Mass"].corners, corners(box)) > 0.1 for box in boxes) == 20
    assert detect.centre(boxes)["Mass"].point == pytest.approx((0.5, 0.5))


def _entry(low: float, pointing: float, touched: float) -> dict[str, object]:
    difference = {"mean T": [0.1, low, 0.2], "pointing": [pointing, -1.0, 1.0]}
    return {
        "differences": {"head - constant": difference, "head - centre": difference},
        "arms": {"head": {"T(IoU.1)": [touched, 0.0, 1.0]}},
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
    verdict = detect.passes(entry)

    assert verdict["passes"] is passed
    assert why in verdict["why"]


def test_folds_find_what_is_planted_and_learn_from_the_other_folds_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, maps = _planted()
    placed = tuple(replace(box, image=replace(box.image, path=tmp_path / box.image.name)) for box in boxes)
    case = detect.LabelledBoxes(
        placed, tuple(range(len(boxes))), tuple(box.image.path for box in placed), maps
    )
    fold, drawn_from = detect.folds(case.boxes), []

    def drawn(boxes: Sequence[TruthBox], *_how: object) -> object:
        drawn_from.extend({number for box, number in zip(case.boxes, fold, strict=True) if box not in boxes})
        return SimpleNamespace(place=lambda *_: None)

    recipe = detect.BoxHeadRecipe(components=4, moved=2, shown=30, steps=40)
    monkeypatch.setattr(detect, "BoxHeadRecipe", lambda: recipe)
    monkeypatch.setattr(detect, "trained", drawn)
    card = find("chest-efficientnet-lite0")
    predictions = detect.cross_validated(
        case, card, (tmp_path, yolo.YoloRecipe()), lambda _share, _what: None
    )
    figures = detect.figures_of(case, predictions, decide=True)
    assert drawn_from == [0, 1, 2, 3, 4]
    assert list(figures["arms"]) == ["yolo", "head", "constant", "centre"]
    assert [row["passes"] for row in figures["labels"]] == [False]  # the YOLO is judged, which finds nothing
    figures = detect.figures_of(
        case, {arm: predictions[arm] for arm in ("head", "constant", "centre")}, decide=True
    )
    (row,) = figures["labels"]
    assert (row["label"], row["boxes"], row["passes"]) == ("Mass", 40, True)
    assert figures["arms"]["head"]["pointing"][0] > 0.9
    assert figures["arms"]["constant"]["pointing"][0] < 0.6


def test_the_radiologists_nearest_opacity_judges_films_of_patients_without_a_learned_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cxr_labels").mkdir()
    (tmp_path / "cxr_labels" / "rsna_boxes.csv").write_text(
        "nih_name,x,y,w,h\n0.png,0,0,9,9\n1.png,300,200,140,130\n1.png,70,200,140,130\nother.png,0,0,9,9\n"
    )
    learned, asked = (
        replace(_box(n, "left"), image=SetImage("", tmp_path / f"{n}.png", str(n))) for n in (0, 1)
    )
    at = ScoredBox(corners(asked), (0.25, 0.5), 1.0), ScoredBox((0.0, 0.0, 0.1, 0.1), (0.05, 0.05), 1.0)
    monkeypatch.setattr(detect, "chest_set", lambda _: SimpleNamespace(images=[learned.image, asked.image]))
    monkeypatch.setattr(
        detect, "_shipped_locators", lambda *_: {"head": lambda *_: at[0], "constant": lambda *_: at[1]}
    )
    (found,) = detect.opacities(tmp_path, find("chest-efficientnet-lite0"), [learned]).values()
    assert (found["films"], found["boxes"], found["differences"]["head - constant"]["IoU"][0]) == (
        1,
        2,
        pytest.approx(1.0),
    )


def test_a_yolo_that_is_there_is_taken_only_if_it_is_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Mock(side_effect=lambda _boxes, _card, out, _recipe: (out / yolo.FILE).write_bytes(b"network"))
    monkeypatch.setattr(detect, "train_yolo", training)
    monkeypatch.setattr(detect, "OnnxRuntime", lambda data, threads: (data, threads))
    card, (boxes, _) = find("chest-efficientnet-lite0"), _planted()
    for threads in (1, 2):
        detect.trained(boxes, card, tmp_path / "one", yolo.YoloRecipe(threads=threads), ())
    assert training.call_count == 1
    for others, recipe in ((boxes[1:], yolo.YoloRecipe()), (boxes, yolo.YoloRecipe(epochs=3))):
        with pytest.raises(FileExistsError, match="other boxes or settings"):
            detect.trained(others, card, tmp_path / "one", recipe, ())


@pytest.mark.parametrize(
    ("app", "options"), [(cli.train_app, ("--yolo", "--out")), (cli.evaluate_app, ("--yolos",))]
)
def test_without_ultralytics_it_is_said_at_once_which_extra_is_missing(
    app: typer.Typer, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda _package: None)
    result = CliRunner().invoke(app, ["detect", "--data", str(tmp_path), *options, str(tmp_path)])
    assert result.exit_code == commands.EXIT_CONFIG
    assert "extra 'yolo'" in result.output


def test_the_test_figures_stand_in_the_card(tmp_path: Path) -> None:
    shipped, values = find("chest-efficientnet-lite0"), {"mean T": [0.5, 0.4, 0.6]}
    path = shutil.copy(shipped.path, tmp_path / shipped.path.name)
    figures = {
        "boxes": 7,
        "patients": 3,
        "arms": {"head": values, "constant": values},
        "differences": {"head - constant": {"mean T": [0.0, -0.1, 0.1]}},
        "labels": [],
    }
    detect.write_test_figures(replace(shipped, path=path), figures)
    before, card = (tomlkit.parse(one.read_text()).unwrap() for one in (shipped.path, path))
    test, _ = card["detection"].pop("test"), before["detection"].pop("test")
    assert (test["boxes"], test["head"], test["difference"]["mean T"]) == (7, values, [0.0, -0.1, 0.1])
    assert card == before


def test_a_box_reaches_the_cuts_that_it_overlaps_enough() -> None:
    said = [
        ScoredBox((0.0, 0.0, 0.2, 0.2), (0.1, 0.1), 1.0),
        ScoredBox((0.1, 0.0, 0.3, 0.2), (0.25, 0.1), 1.0),  # a third
        None,
    ]
    found = detect.place_figures([(0.0, 0.0, 0.2, 0.2)] * 3, said)
    wanted = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 2 / 3, 1 / 3, 0], [0] * len(detect.PLACE_NAMES)])
    assert found == pytest.approx(wanted)


# The program that a node runs has neither.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["ultralytics"] = None
from pathlib import Path
import numpy as np
from ai_pipeline.models.engine import OnnxRuntime
folder = Path(sys.argv[1])
with np.load(folder / "said.npz") as said:
    values = said["values"]
np.save(folder / "boxes.npy", OnnxRuntime((folder / "yolo.onnx").read_bytes(), 1)(values)["boxes"])
"""


def test_one_epoch_on_ten_pictures_becomes_a_file_that_runs_without_torch(tmp_path: Path) -> None:
    run_quietly("-m", "tests.unit.ai_training.detect.tiny_yolo", tmp_path)
    run_quietly("-c", WITHOUT_TORCH, tmp_path)
    (epoch,) = rows(tmp_path / "run" / "results.csv")
    losses = [float(epoch[f"train/{name}_loss"]) for name in ("box", "cls", "l1")]
    assert np.isfinite(losses).all()
    assert min(losses) > 0  # the boxes were found and learned from
    with np.load(tmp_path / "said.npz") as said:
        in_torch, found = said["boxes"][0], np.load(tmp_path / "boxes.npy")[0]
    assert found.shape == in_torch.shape == (100, 6)
    # Boxes whose scores are all but equal may change places.
    apart = (np.abs(found[:, None] - in_torch[None]) / (*[0.05] * 4, 1e-4, 0.5)).max(
        axis=2
    )  # pixels, score, label
    assert apart.min(axis=0).max() < 1
    assert apart.min(axis=1).max() < 1
    assert set(found[:, 5]) <= {2.0, 4.0}  # as in the card
    assert np.ptp(found[:, 4]) > 1e-3  # else the comparison says nothing
