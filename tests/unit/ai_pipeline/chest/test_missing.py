"""Films on which a part of the lungs is cut off."""

import numpy as np
import pytest

from ai_pipeline.chest import ratio
from ai_pipeline.chest.anatomy import Anatomy, Completeness, Edge, missing_notes, without_missing
from ai_pipeline.contract import Code, Decision, Finding, ModelRef
from ai_pipeline.models.registry import find
from ai_pipeline.summary import short_result
from tests.unit.ai_pipeline.chest.chest_lab import SAME
from tests.unit.ai_pipeline.phantoms import noise

pytestmark = pytest.mark.data

DRAWN_SIDE = 400
CHEST_MODEL = ModelRef("chest", "1", sha256="0" * 64, card_sha256="0" * 64)


def drawn_organs() -> np.ndarray:
    """Heart and lungs ``[3, 400, 400]`` of a drawn chest, whose lungs are half ellipses with broad bases."""
    rows, columns = np.mgrid[:DRAWN_SIDE, :DRAWN_SIDE]
    organs = np.array([(225, 55, 190, 305), (130, 60, 60, 320), (290, 60, 60, 320)])
    middle, across, top, bottom = organs.T[..., None, None]
    inside = ((columns - middle) / across) ** 2 + ((rows - bottom) / (bottom - top)) ** 2 <= 1
    return np.asarray(inside & (rows <= bottom - 25 * np.abs(columns - middle) / across * (columns > middle)))


def missing(top: int, bottom: int, left: int, right: int, border: int = 0) -> tuple[Edge, ...]:
    """The edges at which the part of the drawn chest within these limits is cut off."""
    masks = drawn_organs()[:, top:bottom, left:right]
    picture = noise(masks.shape[1:], 60, 200)
    wide = np.pad(masks, ((0, 0), (border, border), (border, border)))
    anatomy = Anatomy(wide, SAME, None)
    return Completeness.from_card(find(ratio.MODEL)).missing(np.pad(picture, border), anatomy)


@pytest.mark.parametrize("border", [0, 40])
def test_each_end_of_the_lungs_that_lies_outside_is_named(border: int) -> None:
    cut = {
        (0, DRAWN_SIDE, 0, DRAWN_SIDE): (),
        (0, 270, 0, DRAWN_SIDE): (Edge.BOTTOM,),
        (135, DRAWN_SIDE, 0, DRAWN_SIDE): (Edge.TOP,),
        (0, DRAWN_SIDE, 110, DRAWN_SIDE): (Edge.SIDE,),
        (0, DRAWN_SIDE, 0, 310): (Edge.SIDE,),
    }
    assert {limits: missing(*limits, border) for limits in cut} == cut


def finding(label: str, meaning: str, decision: Decision) -> Finding:
    return Finding(label, Code("1", "SCT", meaning), 0.2, 0.3, decision, "1.2", CHEST_MODEL)


def test_of_a_film_without_bases_no_effusion_is_excluded_and_nothing_is_not_found() -> None:
    found = [
        finding("Effusion", "Pleural effusion", Decision.ABSENT),
        finding("Mass", "Lung mass", Decision.ABSENT),
    ]
    left = without_missing(found, [Edge.BOTTOM])
    assert without_missing(found, ()) == found
    assert [(one.label, one.decision) for one in left] == [("Mass", Decision.INDETERMINATE)]
    assert short_result(left, (), missing_notes("1.2", found, [Edge.BOTTOM])) == (
        "AI: No call on lung mass.",
        "Not assessed: bases of the lungs (outside the picture), pleural effusion.",
    )


def test_what_is_suspected_stays() -> None:
    seen = finding("Effusion", "Pleural effusion", Decision.PRESENT)
    assert without_missing([seen], [Edge.BOTTOM]) == [seen]
    [note] = missing_notes("1.2", [seen], [Edge.BOTTOM, Edge.TOP])
    assert (note.text, *note.names) == (
        "Apices of the lungs and bases of the lungs: outside the picture.",
        "apices of the lungs (outside the picture)",
        "bases of the lungs (outside the picture)",
    )
