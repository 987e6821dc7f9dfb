"""A label may use the words that its figures allow, and no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ai_pipeline.chest.calls.operating_points import OperatingPoint
from ai_pipeline.chest.calls.words import Words, words_of
from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.contract import Decision
from ai_pipeline.models.registry import Card, find

PREVALENCE = 0.1


@pytest.fixture(scope="module")
def shipped() -> Card:
    return find(CLASSIFIER.shipped, None)


def with_figures(card: Card, **figures: list[float]) -> Card:
    table: dict[str, Any] = {"specific": {"labels": {"Effusion": figures}}}
    return replace(card, details={**card.details, "metrics": {"operating_points": table}})


@pytest.mark.parametrize(
    ("ratio", "sensitivity", "words"),
    [
        ([9.0, 5.0, 16.0], [0.8, 0.6, 0.9], Words(suspected=True, not_found=True)),
        ([9.0, 5.0, 16.0], [0.8, 0.4, 0.9], Words(suspected=True, not_found=False)),
        ([9.0, 1.5, 16.0], [0.8, 0.6, 0.9], Words(suspected=False, not_found=True)),  # few calls measured
        ([3.0, 2.5, 4.0], [0.8, 0.6, 0.9], Words(suspected=False, not_found=True)),  # one in four is right
        ([3.0, 2.5, 4.0], [0.3, 0.2, 0.4], Words(suspected=False, not_found=False)),
    ],
)
def test_words_follow_from_sensitivity_and_from_how_many_calls_are_right(
    shipped: Card, ratio: list[float], sensitivity: list[float], words: Words
) -> None:
    card = with_figures(shipped, present_ratio=ratio, sensitivity=sensitivity)
    assert words_of(card, OperatingPoint.SPECIFIC, "Effusion", PREVALENCE) == words


def test_where_a_finding_is_common_more_calls_are_right(shipped: Card) -> None:
    card = with_figures(shipped, present_ratio=[3.0, 2.5, 4.0], sensitivity=[0.3, 0.2, 0.4])
    rare, common = (words_of(card, OperatingPoint.SPECIFIC, "Effusion", share) for share in (0.05, 0.4))
    assert not rare.assessed
    assert common.suspected


def test_a_label_without_figures_is_never_not_found(shipped: Card) -> None:
    card = replace(shipped, details={})
    words = words_of(card, OperatingPoint.BALANCED, "Effusion", None)
    assert words == Words(suspected=True, not_found=False)


def test_what_no_word_allows_cannot_be_excluded() -> None:
    words = Words(suspected=False, not_found=False)
    assert {words.limited(decision) for decision in Decision} == {Decision.INDETERMINATE}
    assert [Words(suspected=True, not_found=True).limited(one) for one in Decision] == list(Decision)


def test_the_shipped_model_is_silent_on_what_it_misses_or_mostly_calls_wrongly(shipped: Card) -> None:
    rates = shipped.details["calibration"]["prevalence"]
    words = {
        label.name: words_of(shipped, OperatingPoint.SPECIFIC, label.name, rates[label.name])
        for label in shipped.labels
        if label.supported
    }
    assert {name for name, one in words.items() if one.suspected} == {"Atelectasis", "Effusion"}
    assert not any(one.not_found for one in words.values())
