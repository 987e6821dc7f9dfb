"""What follows from stamps: the projection, and no left or right where a film may be mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.stamp_rules import NOT_READ, StampRules, follow, heart_on_left
from ai_pipeline.chest.stamps import Marker, Stamps
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.images.orientation import UPRIGHT, Pose
from ai_pipeline.summary import MOST
from tests.unit.ai_pipeline.phantoms import ArrayImage

TURNED = Pose(turned=180)
L_ON_RIGHT, L_ON_LEFT = Marker("L", 0.9, 0.1), Marker("L", 0.1, 0.1)


def anatomy(share: float = 0.7) -> Anatomy:
    """Lungs from column 10 to 90 of 100, and a heart of 40 columns of which a share lies right of 50."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[1, 20:80, 10:40] = masks[2, 20:80, 60:90] = True
    right = round(40 * share)
    masks[0, 50:75, 10 + right : 50 + right] = True
    return Anatomy(masks, Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)


def rules(
    stamps: Stamps | None,
    view: str = "PA",
    orientation: str = "",
    heart: float = 0.7,
    pose: Pose = UPRIGHT,
) -> StampRules:
    attributes = {"PatientOrientation": orientation}
    picture = np.zeros((1, 100, 100), np.uint8)
    image = ArrayImage(picture, modality="DX", attributes=attributes, view_position=view)
    return follow(image, stamps, anatomy(heart), pose)


@pytest.mark.parametrize(
    ("view", "stamps", "projection", "note"),
    [
        ("PA", Stamps("AP"), "AP", "Stamped AP, while the header says PA: judged as AP."),
        ("PA", Stamps(portable=True), "AP", "Stamped PORTABLE, while the header says PA: judged as AP."),
        (
            "PA",
            Stamps("PA", portable=True),
            "AP",
            "Stamped PORTABLE, while the header says PA: judged as AP.",
        ),
        ("", Stamps("PA"), "PA", "The header gives no View Position; stamped PA: judged as PA."),
        (
            "",
            Stamps(portable=True),
            "AP",
            "The header gives no View Position; stamped PORTABLE: judged as AP.",
        ),
        ("", Stamps(position="erect"), "", None),
        ("AP", Stamps("PA"), "AP", None),
        ("PA", Stamps("PA"), "PA", None),
        ("PA", Stamps(), "PA", None),
        ("PA", None, "PA", NOT_READ),
    ],
)
def test_the_projection_is_the_stamped_one_where_the_header_has_none_or_says_pa(
    view: str, stamps: Stamps | None, projection: str, note: str | None
) -> None:
    found = rules(stamps, view)

    assert found.projection == projection
    assert [one.text for one in found.notes] == ([note] if note else [])
    assert found.sides


def test_supine_is_a_note() -> None:
    assert [note.text for note in rules(Stamps("AP", "supine"), "AP").notes] == ["Stamped SUPINE."]


@pytest.mark.parametrize(
    ("stamps", "heart", "orientation", "words"),
    [
        (Stamps(marker=L_ON_RIGHT), 0.7, "L\\F", None),
        (Stamps(marker=L_ON_RIGHT), 0.45, "L\\F", None),
        (Stamps(), 0.7, "R\\F", None),
        (Stamps(marker=Marker("L", 0.45, 0.1)), 0.7, "L\\F", None),
        (Stamps(marker=L_ON_LEFT), 0.7, "L\\F", "Side marker and heart disagree"),
        (Stamps(marker=L_ON_RIGHT), 0.3, "L\\F", "Side marker and heart disagree"),
        (Stamps(marker=L_ON_LEFT), 0.3, "L\\F", "Side marker and heart lie on the wrong side"),
        (Stamps(marker=Marker("R", 0.9, 0.1)), 0.45, "", "The side marker lies on the wrong side"),
        (Stamps(marker=L_ON_RIGHT), 0.7, "R\\F", "Side marker and Patient Orientation disagree"),
        (Stamps(), 0.3, "L\\F", "The heart lies on the wrong side"),
        (Stamps("AP", mirrored=True), 0.7, "L\\F", "The stamps are mirrored"),
    ],
)
def test_no_side_is_given_where_the_film_may_be_mirrored(
    stamps: Stamps, heart: float, orientation: str, words: str | None
) -> None:
    found = rules(stamps, "AP", orientation, heart)
    notes = [note for note in found.notes if note.on_faces]

    assert found.sides is (words is None)
    assert len(notes) == (words is not None)
    for note in notes:
        assert note.text.startswith(words or "")
        assert note.text.endswith("sides are not given.")
        assert len(note.text) <= MOST


def test_of_a_film_that_was_turned_less_is_needed_to_doubt_the_side() -> None:
    assert rules(Stamps(), heart=0.45).sides
    assert not rules(Stamps(), heart=0.45, pose=TURNED).sides
    assert rules(Stamps(), heart=0.6, pose=TURNED).sides


def test_the_heart_is_shared_by_the_middle_of_the_thorax() -> None:
    assert heart_on_left(anatomy(0.7).masks) == pytest.approx(0.7, abs=0.02)
    assert heart_on_left(anatomy(0.7).masks[:, :, ::-1]) == pytest.approx(0.3, abs=0.02)
    assert heart_on_left(np.zeros((3, 8, 8), np.bool_)) is None
