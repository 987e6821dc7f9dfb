"""A box in words: sides and zones are those of the outlined lungs, and only where the header agrees."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.zones import LungPlace, lung_places
from ai_pipeline.images.coordinates import Affine

UPRIGHT = "L\\F"


def anatomy(left_lung_from: int = 20) -> Anatomy:
    """A right lung of rows 20 to 80 and a left one down to 80, on a grid of 100; the source has 1000."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[0, 50:75, 45:60] = True
    masks[1, 20:80, 10:40] = True
    masks[2, left_lung_from:80, 60:90] = True
    return Anatomy(masks, Affine(10.0, 0.0, 0.0, 0.0, 10.0, 0.0), None)


def words(box: tuple[float, float, float, float], orientation: str = UPRIGHT, **lungs: int) -> list[str]:
    return [place.words for place in lung_places(box, anatomy(**lungs), orientation)]


def test_the_right_lung_lies_on_the_left_of_a_frontal_film() -> None:
    assert lung_places((150, 650, 350, 790), anatomy(), UPRIGHT) == (LungPlace("R", "right lower zone"),)
    assert lung_places((650, 650, 850, 790), anatomy(), UPRIGHT) == (LungPlace("L", "left lower zone"),)


@pytest.mark.parametrize("orientation", ["R\\F", "F\\R", "L\\H", "", "L", "A\\F", "x\\y"])
def test_nothing_is_said_where_the_header_contradicts_the_outlines_or_says_nothing(orientation: str) -> None:
    assert words((150, 650, 350, 790), orientation) == []


def test_an_oblique_orientation_counts_by_its_main_directions() -> None:
    assert words((150, 650, 350, 790), "LA\\FP") == ["right lower zone"]


def test_zones_are_thirds_of_the_lung_not_of_the_picture() -> None:
    box = (650.0, 520.0, 850.0, 590.0)

    assert words(box) == ["left middle zone"]
    assert words(box, left_lung_from=50) == ["left upper zone"]


def test_a_tall_box_names_all_the_zones_that_it_fills() -> None:
    assert words((150, 200, 350, 800)) == ["right lung, all zones"]
    assert words((150, 420, 350, 790)) == ["right middle and lower zones"]


def test_a_box_that_reaches_below_the_lung_is_judged_by_what_lies_in_it() -> None:
    assert words((150, 700, 350, 990)) == ["right lower zone"]


def test_a_box_over_both_lungs_has_both_and_no_side_of_its_own() -> None:
    assert words((150, 650, 850, 790)) == ["right lower zone", "left lower zone"]


def test_what_hardly_touches_the_other_lung_does_not_name_it() -> None:
    assert words((150, 650, 640, 790)) == ["right lower zone"]


def test_a_box_beside_the_lungs_has_no_words() -> None:
    assert words((420, 300, 580, 400)) == []
