"""The hand-drawn masks of burned-in marks are complete and agree with their list of objects."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

MARKS = Path(__file__).resolve().parents[3] / "data" / "marks"
CLASSES = {"text": 1, "caliper": 2, "marker": 3, "scale": 4, "logo": 5}


def rows(table: str) -> list[dict[str, str]]:
    with (MARKS / table).open(newline="") as source:
        return list(csv.DictReader(source))


def mask_of(row: dict[str, str]) -> np.ndarray:
    return cv2.imread(str(MARKS / f"{row['set']}__{Path(row['file']).stem}.png"), cv2.IMREAD_UNCHANGED)


def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_marks", MARKS / "draw.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sixty_frames_are_drawn_and_fifteen_of_them_without_yellow_marks() -> None:
    frames = rows("frames.csv")
    assert len(frames) >= 60
    assert sum(frame["stratum"] != "yellow" for frame in frames) >= 15
    for frame in frames:
        assert set(np.unique(mask_of(frame))) <= {0, *CLASSES.values()}, frame["file"]


def test_every_listed_object_is_in_its_mask() -> None:
    objects = rows("objects.csv")
    assert {row["class"] for row in objects} == set(CLASSES)
    for row in objects:
        left, top, right, bottom = (int(row[side]) for side in ("left", "top", "right", "bottom"))
        part = mask_of(row)[top:bottom, left:right]
        assert part.shape == (bottom - top, right - left), row
        assert part.any(), row


def test_every_pixel_of_a_mask_belongs_to_one_listed_object() -> None:
    objects = rows("objects.csv")
    for frame in rows("frames.csv"):
        listed = {int(row["object_id"]) for row in objects if row["file"] == frame["file"]}
        owners = cv2.imread(
            str(MARKS / "owners" / f"{frame['set']}__{Path(frame['file']).stem}.png"), cv2.IMREAD_UNCHANGED
        )
        assert np.array_equal(owners > 0, mask_of(frame) > 0), frame["file"]
        assert set(np.unique(owners)) == {0, *listed}, frame["file"]


@pytest.mark.data
def test_masks_and_list_are_what_the_shapes_give(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = drawing()
    for name in ("frames.csv", "shapes"):
        (tmp_path / name).symlink_to(MARKS / name)
    monkeypatch.setattr(draw, "HERE", tmp_path)
    draw.make(data)
    assert (tmp_path / "objects.csv").read_text() == (MARKS / "objects.csv").read_text()
    for made in tmp_path.rglob("*.png"):
        again = cv2.imread(str(made), cv2.IMREAD_UNCHANGED)
        there = cv2.imread(str(MARKS / made.relative_to(tmp_path)), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(again, there), made.name
