"""Another prevalence changes the numbers, not the decisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.chest.calls import prevalence
from ai_pipeline.chest.card import ChestOptions
from ai_pipeline.chest.classifier import decide, probability
from ai_pipeline.models.registry import Card, Label, find

AT = {"Effusion": 0.104, "Mass": 0.064}


@pytest.fixture(scope="module")
def card() -> Card:
    shipped = find("chest-efficientnet-lite0")
    return replace(shipped, details={**shipped.details, "calibration": {"prevalence": AT}})


def test_a_rarer_disease_is_less_likely_by_bayes_rule(card: Card) -> None:
    effusion = _label(card, {})
    there = _label(card, {"Effusion": 0.02})

    for logit in (-3.0, 0.0, 2.5):
        here = probability(effusion, logit)
        odds = here / (1 - here) / (0.104 / 0.896) * (0.02 / 0.98)
        assert probability(there, logit) == pytest.approx(odds / (1 + odds))


@pytest.mark.parametrize("site", [0.001, 0.05, 0.104, 0.6])
def test_no_decision_changes(card: Card, site: float) -> None:
    here, there = _label(card, {}), _label(card, {"Effusion": site})

    for logit in np.linspace(-6, 6, 241):
        value = float(logit)
        assert decide(here, probability(here, value)) is decide(there, probability(there, value))


def test_other_labels_stay_as_they_are(card: Card) -> None:
    shifted = prevalence.at_site(card, card.labels, {"Effusion": 0.02})

    assert [one for one, other in zip(shifted, card.labels, strict=True) if one != other] == [
        label for label in shifted if label.name == "Effusion"
    ]


def test_thresholds_of_never_stay_never(card: Card) -> None:
    never = replace(card.labels[0], threshold=1.0, absent_below=1.0)

    assert prevalence.shifted(never, 0.1, 0.5).threshold == 1.0


@pytest.mark.parametrize(
    ("wanted", "remedy"),
    [
        ({"Fracture": 0.05}, "has no label 'Fracture'; it has: Atelectasis"),
        ({"Effusion": 0}, "must be a share above 0 and below 1, not 0"),
        ({"Hernia": 0.01}, "does not say at which prevalence of Hernia"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(
    card: Card, wanted: dict[str, float], remedy: str
) -> None:
    assert remedy in str(prevalence.fault(card, wanted))
    with pytest.raises(ValueError, match="option prevalence"):
        prevalence.at_site(card, card.labels, wanted)


@pytest.mark.parametrize("wanted", [0.05, {"Effusion": "5 %"}, {"Effusion": True}])
def test_what_is_no_table_of_shares_is_told_before_anything_runs(wanted: object) -> None:
    assert "a table of label = share" in ChestOptions.faults({"prevalence": wanted})["prevalence"]


def test_a_card_that_tells_its_prevalence_as_text_cannot_be_shifted(card: Card) -> None:
    text = replace(card, details={"calibration": {"prevalence": "Effusion 0.104"}})

    assert "does not say at which prevalence" in str(prevalence.fault(text, {"Effusion": 0.02}))


def test_the_reader_is_told_both_prevalences(card: Card) -> None:
    assert "Effusion 0.02 (calibrated at 0.104)" in prevalence.sentence(card, {"Effusion": 0.02})


def _label(card: Card, wanted: dict[str, float]) -> Label:
    return next(label for label in prevalence.at_site(card, card.labels, wanted) if label.name == "Effusion")
