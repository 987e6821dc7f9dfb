"""Boxes that a person drew: blacked out whole in every frame, and no way around the proof."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.banner import find_by_hand
from ai_pipeline.burnin.still import Verifier
from ai_pipeline.errors import CleaningFailed
from tests.unit.ai_pipeline.phantoms import ArrayImage, Picture, burn, cine, echo, silent, stacked

SIZE = (240, 320)
BOX = (150, 120, 210, 160)
"""In the tissue, where nothing is written."""


def with_boxes(frames: np.ndarray, *boxes: tuple[int, int, int, int]) -> ArrayImage:
    return ArrayImage(frames, by_hand=boxes)


def inside(picture: Picture) -> Picture:
    left, top, right, bottom = BOX
    return picture[top:bottom, left:right]


def test_a_box_is_black_and_the_rest_is_as_without_it() -> None:
    burned = burn(echo(3, SIZE), size=16)
    plain, drawn = clean(ArrayImage(burned[None]), silent), clean(with_boxes(burned[None], BOX), silent)
    cleaned, mask = np.asarray(drawn.image.frames[0]), drawn.mask.frames[0] > 0
    assert drawn.image.verified and not inside(cleaned).any() and inside(mask).all()
    assert np.array_equal(cleaned[~mask], burned[~mask])
    assert (mask | ~(plain.mask.frames[0] > 0)).all(), "what is found without a person goes as well"
    assert "by_hand" in {note.name for note in drawn.notes}


def test_a_box_is_black_in_every_frame_of_a_cine() -> None:
    frames = stacked(cine(2, size=SIZE))
    result = clean(with_boxes(frames, BOX), silent)
    assert not any(inside(np.asarray(frame)).any() for frame in result.image.frames)
    assert all(inside(np.asarray(frame)).all() for frame in result.mask.frames)


def test_text_beside_a_box_that_stays_withholds_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proof is asked as ever, and says where."""
    burned = burn(echo(3, SIZE), size=16)
    residue = Verifier.residue

    def stubborn(self: Verifier, *given: object, **named: object) -> object:
        filled = np.zeros_like(given[1])
        return residue(self, burned, filled, given[2], np.zeros_like(filled), *given[4:], **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Verifier, "residue", stubborn)
    with pytest.raises(CleaningFailed) as failed:
        clean(with_boxes(burned[None], BOX), silent)
    assert failed.value.places
    assert all(
        0 <= left < right <= 320 and 0 <= top < bottom <= 240
        for left, top, right, bottom in failed.value.places
    )


def test_boxes_over_half_of_the_picture_are_refused_and_clipped_to_it() -> None:
    picture = echo(3, SIZE)
    mask, marks = find_by_hand(with_boxes(picture[None], (300, 200, 999, 999)).header, picture)
    assert marks[0].box == (300, 200, 320, 240) and int(mask.sum()) == 20 * 40
    with pytest.raises(CleaningFailed, match="cover 60% of the picture"):
        find_by_hand(with_boxes(picture[None], (0, 0, 320, 144)).header, picture)
