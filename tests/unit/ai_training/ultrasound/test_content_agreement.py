"""Two annotators of the same frames: what both drew, what one did, what they call it, and which pixels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("HersheyFonts")

from ai_training.errors import DataMissing
from ai_training.sets.files import rows
from ai_training.ultrasound.content.agreement import evaluate_agreement
from ai_training.ultrasound.content.marked import Content

CONTENT = Path(__file__).resolve().parents[3] / "data" / "content"
HEAD = "set,file,frame,class,left,top,right,bottom"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two frames with a bar, two words and a number; a third that is drawn once."""
    picture = np.zeros((60, 120), np.uint8)
    picture[5:55, 2:10] = 128
    for left in (30, 60, 90):
        picture[20:30, left : left + 2] = 200
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    (tmp_path / "frames.csv").write_text("set,file,frame\n.,a.png,1\n.,b.png,1\n.,c.png,1\n")
    return tmp_path


def write(folder: Path, first: list[str], second: list[str]) -> None:
    objects = [f".,{row}," for row in [*first, "c.png,1,place,0,0,9,9"]]
    (folder / "objects.csv").write_text("\n".join([f"{HEAD},owner", *objects]))
    (folder / "again.csv").write_text("\n".join([HEAD, *(f".,{row}" for row in second)]))


def test_words_and_the_line_that_joins_them_have_the_same_pixels(folder: Path) -> None:
    """Which objects are counted depends on the splitting, the pixels do not."""
    words = ["a.png,1,setting,28,18,34,32", "a.png,1,setting,58,18,64,32"]
    write(folder, words, ["a.png,1,setting,28,18,64,32"])
    result = evaluate_agreement(folder, folder)
    assert result["frames"] == 1
    row = result["content"]["setting"]
    assert (row["both"], row["only_first"], row["only_second"], row["dice"][0]) == (0, 2, 1, 1.0)
    assert result["kappa"] is None
    assert row["overlap"] is None


def test_a_box_counts_once_and_the_best_pair_first(folder: Path) -> None:
    """Of two boxes over one the nearer is matched, the other is the second annotator's alone."""
    write(
        folder,
        ["a.png,1,grey bar,2,5,10,55", "b.png,1,grey bar,2,5,10,55"],
        ["a.png,1,grey bar,2,5,10,45", "a.png,1,grey bar,2,5,10,55", "b.png,1,grey bar,2,5,10,30"],
    )
    row = evaluate_agreement(folder, folder)["content"]["grey bar"]
    assert (row["both"], row["only_first"], row["only_second"], row["overlap"]) == (2, 0, 1, 0.75)
    assert row["dice"][0] == round(2 * (400 + 200) / (800 + 600), 4)


def test_kappa_is_of_the_class_of_matched_objects(folder: Path) -> None:
    """Three of four are called alike: seen 3/4, by chance 3/8."""
    first = ["grey bar,2,5,10,55", "setting,28,18,34,32", "setting,58,18,64,32", "number,88,18,94,32"]
    second = [first[0], first[1], "place,58,18,64,32", first[3]]
    write(folder, [f"a.png,1,{row}" for row in first], [f"a.png,1,{row}" for row in second])
    result = evaluate_agreement(folder, folder)
    chance = (1 + 2 * 1 + 1) / 16
    assert result["kappa"] == round((0.75 - chance) / (1 - chance), 4)
    assert result["other_class"] == [{"first": "setting", "second": "place", "objects": 1}]
    assert (result["all"]["both"], result["all"]["other_class"]) == (3, 1)
    assert result["content"]["place"]["dice"][0] == 0.0
    assert result["all"]["dice"][0] == 1.0


def test_a_missing_picture_is_told(folder: Path) -> None:
    """Figures of fewer frames than were drawn would pass for those of all."""
    write(folder, [], ["a.png,1,place,0,0,9,9"])
    (folder / "a.png").unlink()
    with pytest.raises(DataMissing, match=r"a\.png"):
        evaluate_agreement(folder, folder)


def test_what_was_drawn_again_lies_in_listed_frames_and_has_a_class() -> None:
    """As for the first drawing."""
    again = rows(CONTENT / "again.csv")
    frames = {(row["set"], row["file"], row["frame"]) for row in again}
    assert len(frames) == 25
    assert frames <= {tuple(row.values()) for row in rows(CONTENT / "frames.csv")}
    assert {row["class"] for row in again} <= set(Content)
    assert all(int(row["left"]) < int(row["right"]) and int(row["top"]) < int(row["bottom"]) for row in again)
