"""Every code that we write is the standard's or says where it comes from; none means two things."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.sr._concepts_dict import concepts as dictionary
from pydicom.sr.coding import Code as DicomCode

import ai_pipeline
from ai_pipeline.burnin.decide.measurements import LENGTH, UNITS
from ai_pipeline.contract import BURNED_IN, Decision
from dicom_node.results.common import concepts, iods
from dicom_node.results.deidentify import profile
from tests.result_images import CARDIOMEGALY, UNCALIBRATED, finding

# In no dictionary of pydicom or highdicom; their sources stand beside them.
CHECKED_BY_HAND = {("UMLS", "C0034375")} | {
    ("SCT", value)
    for value in (
        "705057003", "399208008", "309529002", "786838002", "46621007", "8186001", "233604007", "95436008",
        "87433001", "51615001", "39839004",
    )
}  # fmt: skip
FORMER = {(code.scheme_designator, code.value) for code in concepts.FORMER_REGIONS.values()}


def _codes(value: object) -> Iterator[DicomCode]:
    if isinstance(value, DicomCode):
        yield value
    elif isinstance(value, Mapping | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _codes(part)


def _ours() -> dict[str, DicomCode]:
    named = [
        (name, code)
        for module in (concepts, profile)
        for name, value in vars(module).items()
        for code in _codes(value)
    ]
    written = (LENGTH, *UNITS.values())
    named += [(code.meaning, DicomCode(code.value, code.scheme, code.meaning)) for code in written]
    return {f"{name} {code.value}": code for name, code in named}


def _cards() -> dict[str, dict[str, Any]]:
    found = {}
    for path in (Path(ai_pipeline.__file__).parent / "cards").glob("*.toml"):
        for label in tomllib.loads(path.read_text(encoding="utf-8")).get("labels", ()):
            for role in ("code", "site"):
                if role in label:
                    found[f"{path.stem} {label['name']} {role}"] = label[role]
    return found


def _known_meanings(scheme: str, value: str) -> set[str]:
    words = {
        meaning
        for values in dictionary.get(scheme, {}).values()
        for code, (meaning, _cids) in values.items()
        if code == value
    }
    regions = iods.regions()
    words |= {code.meaning for code in regions if (code.scheme_designator, code.value) == (scheme, value)}
    return {word.lower().split(" (")[0] for word in words}


def _is_right(scheme: str, value: str, meaning: str) -> bool:
    """Ours, in a dictionary by these words, or CHECKED_BY_HAND, where its source is named."""
    if scheme == concepts.SCHEME or (scheme, value) in CHECKED_BY_HAND | FORMER:
        return True
    return meaning.lower() in _known_meanings(scheme, value)


def test_the_dictionaries_know_our_codes_by_the_same_words() -> None:
    ours = _ours()
    assert len(ours) > 50
    assert {
        name: code
        for name, code in ours.items()
        if not _is_right(code.scheme_designator, code.value, code.meaning)
    } == {}


def test_each_code_of_a_card_has_its_source_beside_it_and_the_dictionarys_words() -> None:
    cards = _cards()
    assert len(cards) > 20
    assert {
        name: code
        for name, code in cards.items()
        if not (code["source"] and _is_right(code["scheme"], code["value"], code["meaning"]))
    } == {}


def test_what_was_checked_by_hand_is_what_no_dictionary_has() -> None:
    wrongly = {code for code in CHECKED_BY_HAND if _known_meanings(*code)}
    assert wrongly == set()


def test_no_private_code_means_two_things() -> None:
    numbers = [
        concepts.number_of(finding(BURNED_IN, 0.9, "1.2", label=label, model=UNCALIBRATED))
        for label in ("Burned-in text", "Burned-in banner")
    ]
    calibrated = finding(CARDIOMEGALY, 0.5, "1.2")
    numbers += [concepts.number_of(calibrated), concepts.number_of(replace(calibrated, model=UNCALIBRATED))]
    assert len({number.value for number in numbers}) == len({number.meaning for number in numbers}) == 4
    assert all(len(number.value) <= 16 for number in numbers)
    values = [code.value for code in concepts.PRIVATE]
    assert len(set(values)) == len(values)
    assert {code.scheme_designator for code in concepts.PRIVATE} == {concepts.SCHEME}


def test_the_decision_is_no_part_of_the_numbers_name() -> None:
    values = [finding(CARDIOMEGALY, 0.5, "1.2", decision=decision) for decision in Decision]
    assert len({concepts.number_of(value).value for value in values}) == 1
