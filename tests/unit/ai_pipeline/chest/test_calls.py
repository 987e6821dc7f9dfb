"""Operating points, prevalence, and the words of a call."""

from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.chest import calls
from ai_pipeline.chest.calls import OperatingPoint, Words
from ai_pipeline.chest.classifier import decide, probability
from ai_pipeline.contract import Decision
from ai_pipeline.models.registry import Card, Label
from tests.unit.ai_pipeline.chest.chest_lab import BALANCED, SENSITIVE, SPECIFIC, with_details

CHOSEN = {
    "specific": {"labels": {"Effusion": {"threshold": [0.5, 0.4, 0.6], "absent_below": 0.1}}},
    "sensitive": {"labels": {"Effusion": {"threshold": [0.05, 0.04, 0.06], "absent_below": 0.05}}},
}


MEASURED = {
    "specific": {
        "without_finding_called": [0.094, 0.07, 0.12],
        "labels": {"Effusion": {"present_ratio": [9.0, 4.0, 16.0], "absent_ratio": [0.5, 0.4, 0.6]}},
    }
}


@pytest.fixture(scope="module")
def without(card: Card) -> Card:
    """A card that has no operating points, as one of a site's own."""
    return replace(card, details={"metrics": {}})


def test_few_false_alarms_are_the_default_where_the_card_has_them(card: Card, without: Card) -> None:
    asked = ((card, None), (card, SENSITIVE), (without, None))
    assert [calls.chosen_point(*one) for one in asked] == [SPECIFIC, SENSITIVE, BALANCED]


def test_a_point_moves_the_thresholds_of_the_labels_that_it_has(card: Card) -> None:
    at = {
        point: {one.name: (one.threshold, one.absent_below) for one in calls.labels_at(card, point)}
        for point in OperatingPoint
    }
    assert (at[SPECIFIC]["Effusion"], at[SENSITIVE]["Effusion"]) == ((0.5, 0.1), (0.05, 0.05))
    assert at[BALANCED] == {one.name: (one.threshold, one.absent_below) for one in card.labels}
    assert at[SPECIFIC] | {"Effusion": 0} == at[BALANCED] | {"Effusion": 0}


def test_every_result_says_which_point_and_how_many_false_alarms_it_brings(card: Card, without: Card) -> None:
    assert calls.point_note(card, SPECIFIC).text == (
        "specific: few false alarms, more findings missed. "
        "Of 100 films without any finding, about 9 get one (7 to 12)."
    )
    assert calls.point_note(without, BALANCED).text == "balanced: between few false alarms and few misses."
    silent = with_details(card, metrics={"operating_points": {"sensitive": {"called": []}}})
    assert calls.point_note(silent, SENSITIVE).text == (
        "sensitive: no finding is suspected, only what was not found is reported."
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
    assert calls.reliability(card, SPECIFIC, "Effusion", Decision.PRESENT, prevalence) == said


def test_nothing_is_said_of_what_was_not_measured_or_not_decided(card: Card, without: Card) -> None:
    cases = (
        (card, SENSITIVE, "Effusion", Decision.PRESENT),
        (card, SPECIFIC, "Mass", Decision.PRESENT),
        (card, SPECIFIC, "Effusion", Decision.INDETERMINATE),
        (without, SPECIFIC, "Effusion", Decision.PRESENT),
    )
    assert {calls.reliability(*case, 0.1) for case in cases} == {""}


@pytest.fixture(scope="module")
def calibrated_card(shipped: Card) -> Card:
    calibration = {"prevalence": {"Effusion": 0.104, "Mass": 0.064}}
    return with_details(shipped, calibration=calibration)


@pytest.mark.parametrize("site", [0.001, 0.05, 0.104, 0.6])
def test_a_rarer_disease_is_less_likely_by_bayes_rule_and_no_decision_changes(
    calibrated_card: Card, site: float
) -> None:
    ours, theirs = _label(calibrated_card, {}), _label(calibrated_card, {"Effusion": site})
    for logit in np.linspace(-6, 6, 241).tolist():
        here, there = probability(ours, logit), probability(theirs, logit)
        odds = here / (1 - here) / (0.104 / 0.896) * (site / (1 - site))
        assert there == pytest.approx(odds / (1 + odds))
        assert decide(ours, here) is decide(theirs, there)


@pytest.mark.parametrize(
    ("wanted", "remedy"),
    [
        ({"Fracture": 0.05}, "has no label 'Fracture'; it has: Atelectasis"),
        ({"Effusion": 0}, "must be a share above 0 and below 1, not 0"),
        ({"Hernia": 0.01}, "does not say at which prevalence of Hernia"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(
    calibrated_card: Card, wanted: dict[str, float], remedy: str
) -> None:
    assert remedy in str(calls.prevalence_fault(calibrated_card, wanted))
    with pytest.raises(ValueError, match="option prevalence"):
        calls.at_site(calibrated_card, calibrated_card.labels, wanted)


def _label(card: Card, wanted: dict[str, float]) -> Label:
    return next(one for one in calls.at_site(card, card.labels, wanted) if one.name == "Effusion")


@pytest.mark.parametrize(
    ("ratio", "sensitivity", "words"),
    [
        ([9.0, 5.0, 16.0], [0.8, 0.6, 0.9], Words(suspected=True, not_found=True)),
        ([9.0, 5.0, 16.0], [0.8, 0.4, 0.9], Words(suspected=True, not_found=False)),
        (
            [9.0, 1.5, 16.0],
            [0.8, 0.6, 0.9],
            Words(suspected=False, not_found=True),
        ),  # few calls measured
        (
            [3.0, 2.5, 4.0],
            [0.8, 0.6, 0.9],
            Words(suspected=False, not_found=True),
        ),  # one in four is right
        ([3.0, 2.5, 4.0], [0.3, 0.2, 0.4], Words(suspected=False, not_found=False)),
    ],
)
def test_words_follow_from_sensitivity_and_from_how_many_calls_are_right(
    shipped: Card, ratio: list[float], sensitivity: list[float], words: Words
) -> None:
    figures = {"specific": {"labels": {"Effusion": {"present_ratio": ratio, "sensitivity": sensitivity}}}}
    card = with_details(shipped, metrics={"operating_points": figures})
    assert calls.words_of(card, OperatingPoint.SPECIFIC, "Effusion", 0.1) == words


def test_a_label_is_called_only_if_its_false_alarms_were_counted(shipped: Card) -> None:
    row = {"present_ratio": [9.0, 5.0, 16.0], "sensitivity": [0.8, 0.6, 0.9]}
    measured = {"specific": {"labels": {"Effusion": row, "Mass": row}}}
    card = with_details(
        shipped,
        operating_points={"specific": {"called": ["Mass"], "labels": {}}},
        metrics={"operating_points": measured},
        calibration={"prevalence": {"Effusion": 0.1, "Mass": 0.1}},
    )
    assert calls.called_labels(card, SPECIFIC, ["Effusion", "Mass"]) == ["Mass"]


def test_a_label_without_figures_gets_no_word(shipped: Card) -> None:
    words = calls.words_of(replace(shipped, details={}), OperatingPoint.BALANCED, "Effusion", None)
    assert words == Words(suspected=False, not_found=False)


def test_what_no_word_allows_cannot_be_excluded() -> None:
    words = Words(suspected=False, not_found=False)
    assert {words.limited(decision) for decision in Decision} == {Decision.INDETERMINATE}
    assert [Words(suspected=True, not_found=True).limited(one) for one in Decision] == list(Decision)


def test_the_shipped_model_is_silent_on_what_it_misses_or_mostly_calls_wrongly(shipped: Card) -> None:
    rates = shipped.details["calibration"]["prevalence"]
    names = [label.name for label in shipped.labels if label.supported]
    words = {name: calls.words_of(shipped, OperatingPoint.SPECIFIC, name, rates[name]) for name in names}
    assert {name for name, one in words.items() if one.suspected} == {"Atelectasis", "Effusion"}
    assert not any(one.not_found for one in words.values())


@pytest.fixture(scope="module")
def card(shipped: Card) -> Card:
    metrics = {**shipped.details["metrics"], "operating_points": MEASURED}
    return with_details(shipped, operating_points=CHOSEN, metrics=metrics)
