"""Boxes from every list: the same table, no patient in two folds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("iterstrat")

from ai_training.detect.locating.folds import FOLDS, folds
from ai_training.detect.locating.truth import corners, detection_boxes
from ai_training.errors import DataMissing
from ai_training.metrics import overlap
from ai_training.sets.chest import chest_set
from ai_training.sets.images import LABELS, TruthBox


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A manifest of two images of two patients, without boxes."""
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "patient_id", "age", "split", "labels"))
        writer.writerow(("00000042_006.png", "00000042", "50", "train", "Fibrosis"))
        writer.writerow(("00000043_000.png", "00000043", "50", "val", "Nodule|Effusion"))
    return tmp_path


def test_chestx_det_gives_several_boxes_of_one_label(images: Path) -> None:
    listed = [
        {
            "file_name": "00000042_006.png",
            "syms": ["Fibrosis", "Fibrosis", "Fracture"],
            "boxes": [[632, 721, 909, 969], [129, 611, 474, 909], [1, 2, 3, 4]],
        },
        {"file_name": "99999999_000.png", "syms": ["Mass"], "boxes": [[1, 2, 30, 40]]},
    ]
    (images / "det.json").write_text(json.dumps(listed))

    boxes = detection_boxes(images, [images / "det.json"])

    assert [(box.label, box.split, box.patient) for box in boxes] == [("Fibrosis", "train", "00000042")] * 2
    assert corners(boxes[0]) == pytest.approx((632 / 1024, 721 / 1024, 909 / 1024, 969 / 1024))


def test_the_whole_nih_list_can_be_named_alone(images: Path) -> None:
    (images / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        "00000043_000.png,Infiltrate,225.08,547.02,86.78,79.19,,,\n"
        "00000043_000.png,Nodule,100,100,50,50,,,\n"
    )

    boxes = detection_boxes(images, [images / "BBox_List_2017.csv"])

    assert [box.label for box in boxes] == ["Infiltration", "Nodule"]
    assert corners(boxes[1]) == pytest.approx((100 / 1024, 100 / 1024, 150 / 1024, 150 / 1024))


def test_a_box_that_two_lists_have_is_taken_once(images: Path) -> None:
    one = [{"file_name": "00000043_000.png", "syms": ["Nodule"], "boxes": [[100, 100, 150, 150]]}]
    other = [{"file_name": "00000043_000.png", "syms": ["Nodule"], "boxes": [[102, 100, 151, 150]]}]
    (images / "a.json").write_text(json.dumps(one))
    (images / "b.json").write_text(json.dumps(other))

    assert len(detection_boxes(images, [images / "a.json", images / "b.json"])) == 1


@pytest.mark.parametrize(
    "text", ["{}", '[{"file_name": "x"}]', "no json", '[{"file_name":"x","syms":["Mass"],"boxes":[]}]']
)
def test_a_list_that_cannot_be_read_says_so(images: Path, text: str) -> None:
    (images / "det.json").write_text(text)

    with pytest.raises(DataMissing, match=r"det\.json|no boxes"):
        detection_boxes(images, [images / "det.json"])


def test_overlap_is_intersection_over_union() -> None:
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0


@pytest.mark.data
def test_no_patient_is_in_two_folds_and_every_label_is_in_each(data: Path) -> None:
    boxes = [box for box in chest_set(data).boxes if box.split != "test"]

    fold = folds(boxes)

    assert len(boxes) == 625
    homes: dict[str, set[int]] = {}
    for box, number in zip(boxes, fold, strict=True):
        homes.setdefault(box.patient, set()).add(int(number))
    assert all(len(numbers) == 1 for numbers in homes.values())
    for label in {box.label for box in boxes}:
        counts = [
            sum(b.label == label and f == k for b, f in zip(boxes, fold, strict=True)) for k in range(FOLDS)
        ]
        assert min(counts) >= 0.5 * max(counts)
    assert (folds(boxes) == fold).all()


def test_a_box_that_hangs_over_the_edge_is_cut() -> None:
    box = TruthBox("a", LABELS[0], -5.0, 500.0, 100.0, 520.0, "train")

    assert corners(box) == pytest.approx((0.0, 500 / 512, 100 / 512, 1.0))
