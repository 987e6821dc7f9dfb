"""A box in words: the side comes from Patient Orientation, and without it nothing is said."""

from __future__ import annotations

import pytest

from ai_pipeline.chest.zones import side_of, zone_words

SIZE = (1000, 1200)  # columns, rows


def test_the_patients_right_is_on_the_left_of_a_frontal_film() -> None:
    assert zone_words((150, 800, 350, 1000), SIZE, "L\\F") == "right lower zone"


def test_a_film_that_was_turned_over_has_its_sides_the_other_way() -> None:
    assert zone_words((150, 800, 350, 1000), SIZE, "R\\F") == "left lower zone"


def test_a_film_that_was_turned_by_90_degrees_is_read_by_its_axes() -> None:
    # Rows run towards the feet, columns towards the patient's right: the head is at the left edge.
    assert zone_words((750, 150, 900, 350), SIZE, "F\\R") == "left lower zone"


@pytest.mark.parametrize("orientation", ["", "L", "A\\F", "L\\R", "x\\y", "P\\H"])
def test_nothing_is_said_where_the_header_does_not_say_how_the_film_lies(orientation: str) -> None:
    assert zone_words((150, 800, 350, 1000), SIZE, orientation) is None


def test_a_box_over_the_midline_has_no_side() -> None:
    assert zone_words((300, 800, 700, 1000), SIZE, "L\\F") == "lower zone, across the midline"


def test_a_tall_box_names_all_the_zones_that_it_fills() -> None:
    assert zone_words((150, 100, 350, 1000), SIZE, "L\\F") == "right lung, all zones"
    assert zone_words((650, 450, 850, 900), SIZE, "LA\\FP") == "left middle and lower zones"
    assert zone_words((300, 100, 700, 1000), SIZE, "L\\F") == "all zones, across the midline"


def test_a_side_is_told_only_where_the_header_says_how_the_picture_lies_and_the_box_lies_on_one() -> None:
    assert side_of((150, 800, 350, 1000), SIZE, "L\\F") == "R"
    assert side_of((150, 800, 350, 1000), SIZE, "R\\F") == "L"
    assert side_of((300, 800, 700, 1000), SIZE, "L\\F") == ""
    assert side_of((150, 800, 350, 1000), SIZE, "") == ""
