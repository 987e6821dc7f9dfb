"""Measurements over the days, as the patient's page plots them."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

from dicom_console.views.trends import LABELS_APART, DatedNumber, trends
from dicom_node.results import StatedNumber


def measured(study: int, day: str, value: float, name: str = "Ratio", model: str = "ratio 2") -> DatedNumber:
    number = StatedNumber(f"1.2.{study}", ("1", "L"), name, value, ("1", "UCUM"), model, "")
    return DatedNumber(study, date.fromisoformat(day), number)


def test_a_quantity_of_two_days_is_a_plot_and_a_higher_value_is_higher() -> None:
    [plot] = trends([measured(2, "2024-03-01", 0.56), measured(1, "2022-03-01", 0.51)])
    first, second = plot["points"]
    assert (first["study"], first["value"], first["day"]) == (1, "0.51", "2022-03-01")
    assert first["x"] < second["x"] and first["y"] > second["y"]
    assert plot["unit"] == ""


def test_another_model_version_is_another_plot_and_one_day_is_none() -> None:
    rows = [measured(1, "2022-03-01", 0.5), measured(2, "2023-03-01", 0.5, model="ratio 3")]
    assert trends(rows) == []
    assert trends([measured(1, "2022-03-01", 0.5), measured(2, "2022-03-01", 0.6)]) == []


def test_of_several_numbers_of_a_study_none_is_shown() -> None:
    days = [measured(study, f"202{study}-03-01", 0.5) for study in (1, 2, 3)]
    [plot] = trends([*days, measured(3, "2023-03-01", 0.6)])
    assert [point["study"] for point in plot["points"]] == [1, 2]


def test_labels_do_not_cover_each_other() -> None:
    days = [measured(day, f"2024-03-{day:02}", 0.5 + day / 100) for day in range(1, 29)]
    [plot] = trends(days)
    labelled = [point["x"] for point in plot["points"] if point["label"]]
    assert all(second - first >= LABELS_APART for first, second in pairwise(labelled))
    assert len(labelled) > 3
