"""The reference of a card, and the drift from it."""

from pathlib import Path

import numpy as np
import pytest

from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from ai_pipeline.models.reference import (
    BINS,
    Reference,
    Verdict,
    by_chance,
    reference_of,
    stability_index,
    verdict,
)

TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def a_card(reference: object = None) -> registry.Card:
    labels = tuple(
        registry.Label(n, Code("1", "99TEST", n), "test", None, True, 0.5, 0.5) for n in ("A", "B")
    )
    details = {} if reference is None else {"reference": reference}
    return registry.Card(
        "m", "1", "t", "a", "l", "i", (), Path("m.toml"), "0" * 64, labels=labels, details=details
    )


def a_reference(**changes: object) -> dict[str, object]:
    return {"set": "val", "images": 1000, "refused": 0.05, "deciles": {"A": TENTHS}, **changes}


def test_a_value_on_an_edge_belongs_to_the_upper_bin_and_a_card_without_a_reference_has_none() -> None:
    reference = reference_of(a_card(a_reference()))
    assert reference is not None
    assert reference_of(a_card()) is None
    values = {0.0: 0, 0.0999: 0, 0.1: 1, 0.55: 5, 0.9: 9, 1.0: 9}
    assert {value: reference.bin("A", value) for value in values} == values
    assert reference.bin("B", 0.5) is None


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("val", "deciles is missing"),
        (a_reference(deciles=None), "deciles is missing"),
        (a_reference(images=0), "images must be"),
        (a_reference(refused=2), "share from 0 to 1"),
        (a_reference(deciles={"C": TENTHS}), "no such label"),
        (a_reference(deciles={"A": TENTHS[1:]}), "nine rising"),
        (a_reference(deciles={"A": [*TENTHS[:8], 1.2]}), "nine rising"),
        (a_reference(deciles={"A": [0.1, *TENTHS[:8]]}), "two are the same"),
    ],
)
def test_a_faulty_reference_is_refused_with_its_place(table: object, text: str) -> None:
    with pytest.raises(CardError, match=text) as caught:
        reference_of(a_card(table))
    assert str(caught.value).startswith("m.toml: reference")


def test_the_index_is_that_of_its_definition() -> None:
    assert stability_index([20] * BINS) == pytest.approx(0.0)
    # By hand, with half an image more in each bin: 100 images in two bins of 50, shares 50.5 and .5 of 105.
    full, empty = 50.5 / 105, 0.5 / 105
    by_hand = 2 * (full - 0.1) * np.log(full / 0.1) + 8 * (empty - 0.1) * np.log(empty / 0.1)
    assert stability_index([50, 50, *[0] * 8]) == pytest.approx(by_hand)


def test_few_images_get_no_index() -> None:
    assert verdict([49, *[0] * 9]) is Verdict.TOO_FEW
    assert verdict([50, *[0] * 9]) is Verdict.DRIFTED


@pytest.mark.parametrize("images", [50, 1000])
def test_unchanged_images_are_hardly_ever_called_drifted(images: int) -> None:
    """Of 2,000 samples from the reference itself, with deciles of 1,000 images: under 2 % above chance."""
    random, above = np.random.default_rng(7), 0
    for _ in range(2000):
        edges = np.quantile(random.uniform(size=1000), TENTHS)
        binned = np.bincount(np.searchsorted(edges, random.uniform(size=images), "right"), minlength=BINS)
        above += stability_index(binned.tolist()) > by_chance(images, 1000)
    assert above / 2000 < 0.02


@pytest.mark.parametrize(
    ("shift", "expected"), [(0.0, Verdict.STABLE), (0.35, Verdict.WATCH), (1.0, Verdict.DRIFTED)]
)
def test_a_shift_of_the_logits_is_called_by_its_size(shift: float, expected: Verdict) -> None:
    random = np.random.default_rng(3)
    reference = Reference("val", 1000, 0.0, {"A": tuple(np.quantile(random.normal(size=1000), TENTHS))})
    binned = [reference.bin("A", value) for value in random.normal(size=1000) + shift]
    assert verdict(np.bincount(binned, minlength=BINS).tolist(), 1000) is expected
