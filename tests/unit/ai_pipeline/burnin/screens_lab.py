"""Screens of devices as readings: what stands where, for one patient after another."""

from collections.abc import Callable, Sequence
from typing import Any

from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.burnin.screens.counting import ScreenCounts
from ai_pipeline.burnin.screens.offers import Choice, Offer
from ai_pipeline.contract import Meaning, Reading
from ai_pipeline.images.identity import HeaderIdentity, identity_of
from tests.unit.ai_pipeline.phantoms import data_set

KEY = b"key of a site" * 3
ROWS, HIGH, LEFT = 600, 16, 20
Written = Sequence[tuple[str, int, int]]
"""Texts with the left and top edge of each."""


def reading(
    text: str, left: int = LEFT, top: int = 100, confidence: float = 0.97, high: int = HIGH
) -> Reading:
    bounds = (float(left), float(top), float(left + 9 * len(text)), float(top + high))
    return Reading("1.2.3", None, "text", Meaning.IDENTITY, bounds, confidence, True, text)


def place(text: str, left: int = LEFT, top: int = 100) -> Box:
    return (left, top, left + 9 * len(text), top + HIGH)


def identity(number: int = 0, **more: Any) -> HeaderIdentity:
    """The identity in the header of patient ``number``."""
    known = {"PatientName": f"{name_of(number)}^Mia", "PatientID": f"98{number:05}", "StudyDate": "20261130"}
    found = identity_of(data_set(**known | more))
    assert found is not None
    return found


def name_of(number: int) -> str:
    """A name that no other patient has, nor a like one."""
    letters = "bdfgklmnprst"
    return "".join(letters[number * step % 12] + "aeiou"[number * step % 5] for step in (1, 5, 7)).title()


def learnt(
    screen: Callable[[int], Written], patients: int = 30, *, counts: ScreenCounts | None = None, **header: Any
) -> ScreenCounts:
    """The counts of a screen that so many patients had."""
    counts = counts or ScreenCounts(KEY, ROWS)
    for number in range(patients):
        readings = [reading(text, left, top) for text, left, top in screen(number)]
        counts.add(f"patient {number}", readings, identity(number, **header))
    return counts


def offered(counts: ScreenCounts) -> dict[str, Choice]:
    """What is proposed for each text that is shown."""
    return {offer.text: offer.choice for offer in counts.offers() if offer.text}


def boxes_that_go(offers: Sequence[Offer]) -> list[Box]:
    return [offer.box for offer in offers if offer.choice is Choice.GOES]


def block(*texts: str, left: int = LEFT, top: int = 200) -> list[tuple[str, int, int]]:
    """Texts below each other."""
    return [(text, left, top + 24 * row) for row, text in enumerate(texts)]
