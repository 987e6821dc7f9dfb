"""A detector of another project draws the boxes of chest findings, as its own post-processing would."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

from ai_pipeline.chest import card as chest
from ai_pipeline.chest.card import BOXES
from ai_pipeline.chest.detector import SiteDetector
from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import Accept, Origin
from ai_pipeline.errors import CardError
from ai_pipeline.models.card import Card
from ai_pipeline.models.detections import MOST_ROWS, detections
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import load
from ai_pipeline.models.store import folder
from tests.unit.ai_pipeline.chest.test_chest import Shown, quiet
from tests.unit.ai_pipeline.models.store_lab import add, let_make, models
from tests.unit.ai_pipeline.test_cli import pasted

CARD = """\
id = "site-yolo"
version = "1"
task = "boxes of findings on frontal chest X-rays"
architecture = "YOLO11n"
licence = "AGPL-3.0"
intended_use = "To be evaluated on this site's images. Not for diagnostic use."
limits = ["Nobody has evaluated it."]

[[weights]]
role = "detector"
file = "yolo.onnx"
sha256 = "{sha256}"

[input]
size = 320
channels = 3
mean = 0.0
scale = 255.0
photometric = "MONOCHROME2"
preprocess = "letterbox"

[box_output]
layout = "yolo"
score = 0.25
overlap = 0.45
most = 20
"""
LABEL = """
[[labels]]
name = "{name}"
code = {{ value = "60046008", scheme = "SCT", meaning = "{name}", source = "SNOMED CT" }}
supported = false
threshold = 0.5
absent_below = 0.5
detector = true
"""
NAMES = ("Effusion", "Cardiomegaly", "Pneumothorax")


def write_card(where: Path, network: Path, **changes: str) -> Path:
    text = CARD.format(sha256=hashlib.sha256(network.read_bytes()).hexdigest())
    for key, value in changes.items():
        line = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
        text = text.replace(line, f"{key} = {value}")
    path = where / "site-yolo.toml"
    path.write_text(text + "".join(LABEL.format(name=name) for name in NAMES))
    return path


def constant(where: Path, output: npt.NDArray[np.float32], side: int = 320) -> Path:
    """A network that says ``output`` of every picture."""
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["nothing"]),
        helper.make_node("Add", ["said", "nothing"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(output.shape))],
        [
            numpy_helper.from_array(output, "said"),
            numpy_helper.from_array(np.zeros((), np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = where / "yolo.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def in_source(card: Card, found: Any, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    assert card.input is not None
    _, way = network_input(np.zeros(shape, np.uint8), card.input)
    back = way.inverse()
    rows = [[*back([one.corners[:2]])[0], *back([one.corners[2:]])[0], one.score, one.label] for one in found]
    return np.array(rows)


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Ultralytics says: folders yolo11 and rtdetr."""
    where = tmp_path_factory.mktemp("ultralytics")
    let_make("detectors", where)
    return where


def test_yolo_11_draws_what_ultralytics_draws(ultralytics: Path) -> None:
    expected = np.load(ultralytics / "yolo11" / "expected.npz")
    card = load(write_card(ultralytics / "yolo11", ultralytics / "yolo11" / "yolo.onnx"))
    assert card.input is not None

    values, _ = network_input(expected["image"], card.input)
    found = SiteDetector(card, threads=1).detections(values)

    np.testing.assert_allclose(values, expected["input"], atol=1e-6)
    assert len(expected["boxes"]) == 20  # as many as may be: more were found
    theirs = expected["boxes"].copy()  # Ultralytics clips to the image
    ours = in_source(card, found, expected["image"].shape)
    ours[:, 0:4:2] = ours[:, 0:4:2].clip(0, 840)
    ours[:, 1:4:2] = ours[:, 1:4:2].clip(0, 700)
    np.testing.assert_allclose(ours[:, :4], theirs[:, :4], atol=0.05)
    np.testing.assert_allclose(ours[:, 4:], theirs[:, 4:], atol=1e-4)


def test_rt_detr_draws_what_ultralytics_draws(ultralytics: Path, tmp_path: Path) -> None:
    expected = np.load(ultralytics / "rtdetr" / "expected.npz")
    for layout, answer in (("rtdetr-rows", "rows"), ("rtdetr", "wide")):
        network = constant(tmp_path, expected[answer])
        changes = {"layout": f'"{layout}"', "preprocess": '"stretch"', "score": "0.5", "overlap": "1.0"}
        card = load(write_card(tmp_path, network, most="100", **changes))

        found = SiteDetector(card, threads=1).detections(np.zeros((1, 3, 320, 320), np.float32))

        theirs = expected["boxes"]
        if answer == "wide":  # a box has one label here, where several of a query may be above the score
            _, first = np.unique(theirs[:, :4], axis=0, return_index=True)
            theirs = theirs[np.sort(first)]
        np.testing.assert_allclose(
            in_source(card, found, expected["image"].shape), theirs, rtol=1e-4, atol=0.05
        )


def test_the_card_in_the_documentation_works_as_pasted(store: Path, tmp_path: Path) -> None:
    network = constant(tmp_path, np.zeros((1, 5, 3), np.float32), side=640).rename(
        tmp_path / "site-yolo.onnx"
    )
    card = tmp_path / "site-yolo.toml"
    text = pasted("docs/models-detector.md", "toml", 'id = "site-yolo"')
    card.write_text(text.replace("0" * 64, hashlib.sha256(network.read_bytes()).hexdigest()))

    assert add(network, card).exit_code == 0
    assert models("activate", "site-yolo@1", "--pipeline", BOXES.name).exit_code == 0


@pytest.mark.data
def test_the_chest_pipeline_draws_the_boxes_of_the_site_s_detector(
    store: Path, tmp_path: Path, data: Path
) -> None:
    boxes = np.zeros((1, 7, 3), np.float32)
    boxes[0, :, 0] = (100, 200, 60, 80, 0.9, 0, 0)  # an effusion
    boxes[0, :, 1] = (102, 201, 60, 80, 0.8, 0, 0)  # the same once more
    boxes[0, :, 2] = (180, 190, 90, 90, 0, 0.7, 0)  # the heart
    network = constant(tmp_path, boxes)
    assert add(network, write_card(tmp_path, network)).exit_code == 0
    picture = _with_effusion_and_large_heart(data)
    before = _drawn(picture)

    done = models("activate", "site-yolo@1", "--pipeline", BOXES.name)

    assert done.exit_code == 0, done.output
    factor = 512 / 320
    by_site = {
        "site-yolo",
        ("Effusion", *(factor * edge for edge in (70, 160, 130, 240))),
        ("Cardiomegaly", *(factor * edge for edge in (135, 145, 225, 235))),
    }
    assert _drawn(picture) == by_site | {"chest-anatomy-unet", "chest-efficientnet-lite0", "burnin-text"}
    assert models("rollback", "--pipeline", BOXES.name).exit_code == 0
    assert _drawn(picture) == before


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((1, 8, 5), {}),
        ((1, 7, MOST_ROWS + 1), {}),
        ((7, 5), {}),
        ((2, 7, 5), {}),
        ((1, 5, 7), {"layout": '"yolo-rows"'}),
    ],
)
def test_an_output_of_another_layout_is_refused_before_it_is_used(
    store: Path, tmp_path: Path, shape: tuple[int, ...], changes: dict[str, str]
) -> None:
    network = constant(tmp_path, np.zeros(shape, np.float32))
    assert add(network, write_card(tmp_path, network, **changes)).exit_code == 0

    done = models("activate", "site-yolo@1", "--pipeline", BOXES.name)

    assert done.exit_code == 65
    assert "name another layout in [box_output], or list its labels" in " ".join(done.output.split())


def test_a_detector_and_a_classifier_are_not_taken_for_one_another(
    store: Path, tmp_path: Path, model: tuple[Path, Path]
) -> None:
    network = constant(tmp_path, np.zeros((1, 7, 3), np.float32))
    card = write_card(tmp_path, network)
    assert add(*model).exit_code == add(network, card).exit_code == 0

    as_classifier = models("activate", "site-yolo@1")
    as_detector = models("activate", "small@1", "--pipeline", BOXES.name)

    assert "it draws boxes, with --pipeline chest_xray_boxes" in as_classifier.output
    assert "has no table [box_output]" in as_detector.output
    silent = load(card)
    silent = replace(silent, labels=tuple(replace(label, detector=False) for label in silent.labels))
    with pytest.raises(CardError, match="write detector = true at those"):
        folder.activate(chest.CARD, BOXES, silent, store)
    strange = replace(silent, labels=tuple(replace(label, name="Tube") for label in load(card).labels[:1]))
    with pytest.raises(CardError, match="finds no Tube: call the labels of site-yolo@1 as it does"):
        folder.activate(chest.CARD, BOXES, strange, store)


def test_rows_that_are_no_boxes_are_left_out() -> None:
    nan = np.nan
    rows = np.array(
        [
            [10, 10, 20, 20, 0.9, 1],
            [nan, 1, 2, 3, 0.9, 1],
            [1, 1, 2, 2, nan, 0],
            [1, 1, 2, 2, 0.9, 7],
            [1, 1, 2, 2, 0.9, -1],
            [1, 1, 2, 2, 0.1, 0],
        ],
        np.float32,
    )[None]
    card = _card("yolo-rows")

    assert [(one.corners, one.label) for one in detections(card, rows)] == [((10, 10, 20, 20), 1)]


def _card(layout: str) -> Card:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        return load(write_card(where, constant(where, np.zeros((1, 7, 3), np.float32)), layout=f'"{layout}"'))


def _with_effusion_and_large_heart(data: Path) -> Shown:
    with (data / "cxr_nih" / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Effusion"] == row["Cardiomegaly"] == "1"]
    adult = next(
        row for row in rows if row["split"] == "train" and row["view"] == "PA" and float(row["age"]) > 30
    )
    return Shown(cv2.imread(str(data / "cxr_nih" / adult["file"]), cv2.IMREAD_GRAYSCALE))


def _drawn(picture: Shown) -> set[Any]:
    """The names of the models, and each box with its label."""
    pipeline = ChestXray()
    assert pipeline.accepts([picture]) == Accept((picture.uid,))
    result = pipeline.run([picture], quiet, {"all_labels": True, "operating_point": "sensitive"})
    boxes = [(finding.label, region) for finding in result.findings for region in finding.regions]
    assert all(region.origin is Origin.DETECTOR for _, region in boxes)
    rounded = {(label, *(round(edge, 3) for edge in region.bounds)) for label, region in boxes}
    return rounded | {model.id for model in result.models}
