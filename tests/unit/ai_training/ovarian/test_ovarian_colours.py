"""Colours of a frame are counted as they are, and tell a class only where the classes differ in colour."""

import json
from pathlib import Path

import cv2
import numpy as np
import ovarian_colours
import pytest
from typer.testing import CliRunner

from ai_training.ovarian.frames import LABELS, ovarian_frames
from ai_training.ovarian.predictions import HeldOut
from tests.unit.ai_pipeline.models.store_lab import ended
from tests.unit.ai_training import published_lab as lab

GREY = np.full((80, 100, 3), 90, np.uint8)


@pytest.mark.parametrize(
    ("colour", "hue"),
    [((200, 40, 30), 0), ((230, 220, 40), 6), ((30, 50, 200), 2)],
    ids=["flow towards the probe", "caliper", "flow away from it"],
)
def test_the_share_of_a_colour_is_counted_in_its_hue(colour: tuple[int, int, int], hue: int) -> None:
    picture = GREY.copy()
    picture[:20] = colour
    shares = 10 ** ovarian_colours.statistics(picture)[4:12] - ovarian_colours.FLOOR
    assert shares == pytest.approx(0.25 * np.eye(8)[hue], abs=1e-9)


def test_brightness_is_no_colour() -> None:
    dark, bright = (ovarian_colours.statistics(GREY // divisor) for divisor in (3, 1))
    assert dark[:14] == pytest.approx(bright[:14], abs=1e-4)
    assert (dark[14:] != bright[14:]).any()


def test_what_only_the_tint_tells_is_found_in_the_tint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for number in range(2 * len(LABELS)):
        label, turn = number % len(LABELS), 2 * np.pi * number / len(LABELS)
        tint = (90 + 9 * np.cos(turn), 90, 90 + 9 * np.sin(turn))
        picture = np.full((96, 128, 3), tint, np.uint8)
        if label == 0:
            cv2.line(picture, (20, 40), (100, 40), (40, 230, 240), 2)  # BGR
        rows.append((picture, picture[..., 0], LABELS[label], f"g{number}", "train", 0))
    columns = ("label", "group", "split", "yellow_overlay_px")
    data = lab.public(tmp_path / "us_ovarian", columns, rows).parent
    frames = ovarian_frames(data)
    blind = HeldOut(frames, np.arange(len(rows)) // len(LABELS), np.zeros((1, len(rows), len(LABELS))))
    monkeypatch.setattr(ovarian_colours, "read_predictions", lambda _: blind)
    command = CliRunner().invoke(ovarian_colours.app, ["--data", str(data), "--json"])
    ended(0, command)
    found = {name: value[0] for name, value in json.loads(command.stdout)["macro_auc"].items()}
    assert found["tint, original"] == 1.0
    assert found["network"] == 0.5
    assert found["yellow, original"] > found["yellow, cleaned"]
