"""Marks of real frames are counted as drawn, and what a masker misses is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tomlkit

pytest.importorskip("torch")
pytest.importorskip("HersheyFonts")

from dataclasses import replace

from ai_pipeline.models.registry import find
from ai_training.cards import add_figures
from ai_training.pages import PAGES, figure_lines
from ai_training.ultrasound import removal
from ai_training.ultrasound.legible import EngineCount, LegibleOutcome, counted
from ai_training.ultrasound.overlays import CleanFrame, MarkClass, clean_frames
from ai_training.ultrasound.removal import (
    NETWORK,
    NO_YELLOW,
    NODE,
    NOT_CLEAN,
    YELLOW,
    MarkedFrame,
    Masker,
    RealMark,
    coloured_frames,
    drawn_frames,
    legible_figures,
    marks_figures,
)

MARKS = Path(__file__).resolve().parents[3] / "data" / "marks"
PICTURE = np.zeros((60, 80, 3), np.uint8)


def frame(name: str, stratum: str) -> MarkedFrame:
    """A text of 100 pixels and a caliper of 20."""
    owners = np.zeros(PICTURE.shape[:2], np.uint8)
    owners[10:20, 10:20] = 1
    owners[40:44, 60:65] = 2
    marks = (RealMark(1, MarkClass.TEXT, (10, 10, 20, 20)), RealMark(2, MarkClass.CALIPER, (60, 40, 65, 44)))
    return MarkedFrame(name, stratum, PICTURE, owners, np.ones(owners.shape, np.bool_), marks)


def half_of_the_text(_picture: np.ndarray) -> np.ndarray:
    mask = np.zeros(PICTURE.shape[:2], np.bool_)
    mask[10:20, 10:15] = True
    mask[50:54, 5:10] = True  # 20 pixels of picture
    return mask


def test_a_mark_is_found_from_half_of_its_pixels_on() -> None:
    frames = [frame("a", YELLOW), frame("b", NO_YELLOW)]
    tallies = removal.score_frames(frames, [Masker(NETWORK, half_of_the_text)])
    row = removal.summary(frames, tallies)["rows"][NETWORK]

    assert row["recall"][0] == 0.5
    assert row["by_class"]["text"] == {"objects": 2, "recall": [1.0, pytest.approx(0.158, abs=1e-3), 1.0]}
    assert row["by_class"]["caliper"]["recall"][0] == 0.0
    assert set(row["by_stratum"]) == {YELLOW, NO_YELLOW}
    assert row["precision"][0] == pytest.approx(50 / 70, abs=1e-4)
    around = 16 * 16 + 10 * 11  # both marks with three pixels around them
    assert row["false_area"][0] == pytest.approx(20 / (60 * 80 - around), abs=1e-4)
    assert [missed.mark.kind for missed in tallies[NETWORK].missed] == [MarkClass.CALIPER] * 2


def test_a_frame_that_the_node_refuses_counts_as_nothing_found() -> None:
    frames = [frame("a", YELLOW)]
    tallies = removal.score_frames(frames, [Masker(NODE, lambda _picture: None)])
    row = removal.summary(frames, tallies)["rows"][NODE]

    assert row["recall"][0] == 0.0
    assert row["refused"] == ["a"]


def test_the_target_needs_the_lower_end_of_the_interval_too() -> None:
    rows = {"wide": {"recall": [0.96, 0.90, 1.0]}, "good": {"recall": [0.96, 0.93, 0.98]}}

    assert removal.met(rows) == {"wide": False, "good": True}


def test_clean_frames_are_measured_for_the_network_and_the_node_alone() -> None:
    clean = [(CleanFrame("set", f"{name}.png", "test", (0, 0, 80, 60)), PICTURE) for name in "ab"]
    ways = [Masker(NETWORK, half_of_the_text), Masker("text boxes", half_of_the_text)]
    result = removal.clean_areas(clean, ways)

    assert list(result["rows"]) == [NETWORK]
    assert result["rows"][NETWORK]["area"][0] == pytest.approx(70 / 4800, abs=1e-4)
    assert result["rows"][NETWORK]["frames_touched"] == 2


def test_every_missed_mark_gets_a_picture(tmp_path: Path) -> None:
    tallies = removal.score_frames([frame("a", YELLOW)], [Masker(NETWORK, half_of_the_text)])
    removal.show_missed(tmp_path / "marks", tallies[NETWORK])

    assert [path.name for path in (tmp_path / "marks").iterdir()] == ["a-2.png"]


def test_figures_are_added_to_a_card_and_the_rest_of_it_stays(tmp_path: Path) -> None:
    card = tmp_path / "card.toml"
    card.write_text('# why\nid = "x"\n\n[metrics.validation]\ndice = 0.9\n')
    add_figures(card, {"drawn": {"network": {"recall": [0.9, 0.8, 1.0]}}})
    add_figures(card, {"drawn": {"network": {"recall": [0.8, 0.7, 0.9]}}})
    read = tomlkit.parse(card.read_text()).unwrap()

    assert card.read_text().startswith("# why")
    assert read["metrics"]["validation"]["dice"] == 0.9
    assert read["metrics"]["drawn"]["network"]["recall"] == [0.8, 0.7, 0.9]


@pytest.mark.data
def test_the_hand_drawn_frames_hold_all_listed_marks(data: Path) -> None:
    frames = list(drawn_frames(data, MARKS))

    assert len(frames) >= 60
    assert sum(len(found.marks) for found in frames) == 617
    assert {found.stratum for found in frames} == {YELLOW, NO_YELLOW}
    for found in frames:
        assert {mark.number for mark in found.marks} == set(np.unique(found.owners)) - {0}


def test_every_part_that_turned_out_to_be_marked_is_a_listed_one() -> None:
    listed = {part.file for split in ("val", "test") for part in clean_frames(split)}

    assert listed >= NOT_CLEAN


@pytest.mark.data
def test_coloured_marks_are_known_on_validation_frames_only(data: Path) -> None:
    found = next(coloured_frames(data))

    assert found.marks
    assert found.known[found.owners > 0].all()
    assert found.known.mean() < 1


def test_the_page_about_the_models_shows_what_the_evaluations_wrote_into_the_card(tmp_path: Path) -> None:
    frames = [frame("a", YELLOW), frame("b", NO_YELLOW)]
    ways = [Masker(NETWORK, half_of_the_text), Masker(NODE, half_of_the_text)]
    drawn = removal.summary(frames, removal.score_frames(frames, ways))
    parts = [CleanFrame("set", f"{name}.png", "test", (0, 0, 80, 60)) for name in "ab"]
    clean = removal.clean_areas([(part, PICTURE) for part in parts], ways)
    outcome = LegibleOutcome(
        0, "a", 4, released=True, seconds=1.0, counts={"rapidocr": EngineCount(4)}, texts=3
    )
    card = tmp_path / "card.toml"
    card.write_text('id = "x"\n')
    add_figures(card, marks_figures({"split": "test", "drawn": drawn, "clean": clean}))
    add_figures(card, legible_figures(counted([outcome], "test", "clinical")))
    metrics = tomlkit.parse(card.read_text()).unwrap()["metrics"]
    shown = replace(
        find("ultrasound-marks-unet"), details={"detector": {"threshold": 0.4}, "metrics": metrics}
    )
    page = "\n".join(figure_lines(next(p for p in PAGES if p.file == "ultrasound.md"), shown))
    assert "| network | 0.500 [" in page
    assert "* marks: 4" in page
    assert "| network | 0.01458" in page
    assert "| rapidocr | 4 | 0 | 0.5271 | 0 |" in page
