"""What cleaning takes of hand-marked content is counted as it is, and what it makes up is seen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_training.sets.images import rows
from ai_training.ultrasound import content
from ai_training.ultrasound.content import (
    Content,
    FrameOutcome,
    MarkedContent,
    MarkedObject,
    ObjectOutcome,
    ink,
    summary,
)

DATA = Path(__file__).resolve().parents[3] / "data"
TOOLS: Any = SimpleNamespace(models=())


def outcome(name: str, *objects: tuple[Content, int, int], **more: Any) -> FrameOutcome:
    return FrameOutcome(name, tuple(ObjectOutcome(*one) for one in objects), **more)


def test_every_marked_object_lies_in_a_listed_frame_and_has_a_class() -> None:
    """A box beyond its frame, or of a frame that is not judged, would be lost without a word."""
    frames = {(row["set"], row["file"]) for row in rows(DATA / "content" / "frames.csv")}
    objects = list(rows(DATA / "content" / "objects.csv"))
    assert len(frames) >= 120 and {Content(row["class"]) for row in objects} == set(Content)
    for row in objects:
        left, top, right, bottom = (int(row[side]) for side in ("left", "top", "right", "bottom"))
        assert (row["set"], row["file"]) in frames and left < right and top < bottom, row


def test_shares_cut_lines_and_identity_are_counted() -> None:
    """A line of which half went is cut; identity that is covered is neither cut nor lost."""
    frames = [
        outcome("set__A_Plane3_1", (Content.WAVEFORM, 100, 0), (Content.SETTING, 40, 20)),
        outcome("set__A_Plane3_2", (Content.WAVEFORM, 100, 10), (Content.IDENTITY, 50, 50)),
        outcome("set__b", (Content.SETTING, 40, 40), (Content.IDENTITY, 50, 30), made_up=3, background=9),
        outcome("set__c", withheld="too much"),
    ]
    result = summary(frames, CleaningPolicy.CLINICAL, TOOLS)
    content = result["content"]
    assert [content[name]["share"][0] for name in ("waveform", "all")] == [0.05, 0.25]
    assert content["setting"] | {"share": 0} == {"objects": 2, "share": 0, "gone": 1, "in_part": 1}
    assert (
        result.items()
        >= {
            "patients": 3,
            "withheld": {"frames": 1, "reasons": ["too much"]},
            "identity": {"objects": 2, "left": 1},
            "cut": {"lines": 4, "cut": 2},
            "background": {"filled": 9, "made_up": 3, "frames_with_any": 1},
        }.items()
    )


def test_what_is_made_up_beside_plain_background_is_seen() -> None:
    """Grey where the source is flat black counts; the same hole in speckle does not."""
    picture, mask = np.zeros((120, 240, 3), np.uint8), np.zeros((120, 240), np.bool_)
    picture[:, 120:] = np.random.default_rng(1).integers(40, 200, (120, 120, 1))
    mask[50:60, 40:60] = mask[50:60, 180:200] = True
    frame = MarkedContent("x", source=None, frame=1, picture=picture, objects=())  # type: ignore[arg-type]
    grey, black = (np.where(mask[..., None], level, picture).astype(np.uint8) for level in (90, 0))
    background, made_up = content._made_up(frame, grey, mask)
    assert int(background.sum()) == int(made_up.sum()) == 200
    assert not content._made_up(frame, black, mask)[1].any()


def test_ink_is_what_the_class_says() -> None:
    """Letters are thin, flow is coloured, a bar is all of its box, a ruler's line of tissue is no tick."""
    picture, within = np.zeros((60, 60, 3), np.uint8), np.ones((60, 60), np.bool_)
    picture[10:20, 10:12] = 200  # a stroke
    picture[30:50, 30:50, 0] = 200  # a coloured patch
    letters = ink(Content.SETTING, picture, within)
    assert letters[15, 10] and not letters[40, 40]
    assert int(ink(Content.FLOW, picture, within).sum()) == 400
    assert ink(Content.GREY_BAR, picture, within).all()
    picture[:, 55:57] = 200
    ticks = ink(Content.RULER, picture, within)
    assert ticks[15, 10] and not ticks[30, 55]


def test_a_frame_that_is_withheld_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is an outcome, not an end."""
    monkeypatch.setattr(
        content, "clean", Mock(side_effect=content.CleaningFailed("too much would be filled"))
    )
    picture = np.zeros((20, 20, 3), np.uint8)
    objects = (MarkedObject(Content.PLACE, (0, 0, 5, 5), np.ones((20, 20), np.bool_)),)
    frame = MarkedContent("x", source=None, frame=1, picture=picture, objects=objects)  # type: ignore[arg-type]
    found = content._outcome(frame, TOOLS, CleaningPolicy.CLINICAL, None)
    assert (found.withheld, found.objects) == ("too much would be filled", ())
