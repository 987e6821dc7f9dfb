"""Operating points: which thresholds a rule chooses, and what is said of calls at them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ai_pipeline.chest.calls import operating_points
from ai_pipeline.chest.calls.operating_points import OperatingPoint
from ai_pipeline.chest.card import ChestOptions
from ai_pipeline.contract import Decision
from ai_pipeline.models.registry import Card, find

SPECIFIC, BALANCED, SENSITIVE = OperatingPoint
CHOSEN: dict[str, Any] = {
    "specific": {"labels": {"Effusion": {"threshold": [0.5, 0.4, 0.6], "absent_below": 0.1}}},
    "sensitive": {"labels": {"Effusion": {"threshold": [0.05, 0.04, 0.06], "absent_below": 0.05}}},
}
MEASURED: dict[str, Any] = {
    "specific": {
        "without_finding_called": [0.094, 0.07, 0.12],
        "labels": {"Effusion": {"present_ratio": [9.0, 4.0, 16.0], "absent_ratio": [0.5, 0.4, 0.6]}},
    }
}


@pytest.fixture(scope="module")
def card() -> Card:
    shipped = find("chest-efficientnet-lite0")
    metrics = {**shipped.details["metrics"], "operating_points": MEASURED}
    return replace(shipped, details={**shipped.details, "operating_points": CHOSEN, "metrics": metrics})


@pytest.fixture(scope="module")
def without(card: Card) -> Card:
    """A card that has no operating points, as one of a site's own."""
    return replace(card, details={"metrics": {}})


def test_few_false_alarms_are_the_default_where_the_card_has_them(card: Card, without: Card) -> None:
    assert operating_points.chosen(card, None) is SPECIFIC
    assert operating_points.chosen(card, SENSITIVE) is SENSITIVE
    assert operating_points.chosen(without, None) is BALANCED


def test_a_point_moves_the_thresholds_of_the_labels_that_it_has(card: Card) -> None:
    at = {point: operating_points.labels_at(card, point) for point in OperatingPoint}
    effusion = {point: next(one for one in labels if one.name == "Effusion") for point, labels in at.items()}

    assert (effusion[SPECIFIC].threshold, effusion[SPECIFIC].absent_below) == (0.5, 0.1)
    assert (effusion[SENSITIVE].threshold, effusion[SENSITIVE].absent_below) == (0.05, 0.05)
    assert at[BALANCED] == card.labels
    assert [label for label in at[SPECIFIC] if label.name != "Effusion"] == [
        label for label in card.labels if label.name != "Effusion"
    ]


def test_an_unknown_point_is_refused_with_those_there_are(card: Card, without: Card) -> None:
    assert (
        "must be one of specific, balanced, sensitive"
        in ChestOptions.faults({"operating_point": "sharp"})["operating_point"]
    )
    assert operating_points.fault(card, "specific") is None
    assert "must be one of balanced for" in str(operating_points.fault(without, "specific"))


def test_every_result_says_which_point_and_how_many_false_alarms_it_brings(card: Card, without: Card) -> None:
    note = operating_points.note(card, SPECIFIC)

    assert note.text == (
        "specific: few false alarms, more findings missed. "
        "Of 100 films without any finding, about 9 get one (7 to 12)."
    )
    assert (
        operating_points.note(without, BALANCED).text == "balanced: between few false alarms and few misses."
    )


@pytest.mark.parametrize(
    ("prevalence", "said"),
    [
        (0.1, "of 10 such calls, about 5 are right (3 to 6)"),
        (0.02, "of 10 such calls, about 2 are right (1 to 2)"),
        (0.01, "of 100 such calls, about 8 are right (4 to 14)"),
        (0.0001, "of 100 such calls, fewer than 1 is right"),
        (0.999, "of 10 such calls, about 10 are right"),
    ],
)
def test_a_call_s_worth_follows_the_site_s_prevalence(card: Card, prevalence: float, said: str) -> None:
    told = operating_points.reliability(card, SPECIFIC, "Effusion", Decision.PRESENT, prevalence)

    assert told == said


def test_of_what_is_absent_it_is_said_how_many_have_it_all_the_same(card: Card) -> None:
    told = operating_points.reliability(card, SPECIFIC, "Effusion", Decision.ABSENT, 0.1)

    assert told == "of 100 such films, about 5 have it all the same (4 to 6)"


def test_an_image_is_unsure_where_nearly_all_labels_lie_between_the_points(card: Card, without: Card) -> None:
    names = [label.name for label in card.labels if label.supported]
    cuts = {"sensitive": 0.1, "specific": 0.6}
    points: dict[str, Any] = {
        point: {"labels": {name: {"threshold": [cut, cut, cut], "absent_below": 0.1} for name in names}}
        for point, cut in cuts.items()
    }
    deciding = replace(card, details={"operating_points": {**points, "unsure": {"least_between": 6}}})
    between = dict.fromkeys((label.name for label in card.labels), 0.3)

    assert len(names) == 7
    assert operating_points.unsure(deciding, between)
    assert operating_points.unsure(deciding, {**between, names[0]: 0.6})
    assert not operating_points.unsure(deciding, {**between, names[0]: 0.6, names[1]: 0.09})
    assert not operating_points.unsure(replace(card, details={"operating_points": points}), between)
    assert not operating_points.unsure(without, between)


def test_nothing_is_said_of_what_was_not_measured_or_not_decided(card: Card, without: Card) -> None:
    for case in (
        (card, SENSITIVE, "Effusion", Decision.PRESENT),
        (card, SPECIFIC, "Mass", Decision.PRESENT),
        (card, SPECIFIC, "Effusion", Decision.INDETERMINATE),
        (without, SPECIFIC, "Effusion", Decision.PRESENT),
    ):
        assert operating_points.reliability(*case, 0.1) == ""
