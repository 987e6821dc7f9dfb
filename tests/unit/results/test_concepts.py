"""Codes in results: each is in a dictionary by its words, or ours alone."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydicom.sr._concepts_dict import concepts as dictionary
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline import pipelines
from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
)
from dicom_node.results import anatomy, concepts, standard
from dicom_node.results.deidentified import profile
from tests.result_images import (
    CARDIOMEGALY,
    UNCALIBRATED,
    finding,
)
from tests.unit.results.report_lab import (
    CENTIMETRES,
    LENGTH,
)

# In no dictionary of pydicom or highdicom; their sources stand beside them.
CHECKED_BY_HAND = {("UMLS", "C0034375")} | {
    ("SCT", value)
    for value in (
        "705057003", "399208008", "309529002", "786838002", "46621007", "8186001", "233604007", "95436008",
        "87433001", "51615001", "39839004",
    )
}  # fmt: skip


FORMER = {(code.scheme_designator, code.value) for code in anatomy.FORMER_REGIONS.values()}


def _codes(value: object) -> Iterator[DicomCode]:
    if isinstance(value, DicomCode):
        yield value
    elif isinstance(value, Mapping | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _codes(part)


def _known_meanings(scheme: str, value: str) -> set[str]:
    words = {
        meaning
        for values in dictionary.get(scheme, {}).values()
        for code, (meaning, _cids) in values.items()
        if code == value
    }
    regions = standard.body_parts().values()
    words |= {code.meaning for code in regions if (code.scheme_designator, code.value) == (scheme, value)}
    return {word.lower().split(" (")[0] for word in words}


def _is_right(scheme: str, value: str, meaning: str) -> bool:
    """Ours, in a dictionary by these words, or CHECKED_BY_HAND, where its source is named."""
    if scheme == concepts.SCHEME or (scheme, value) in CHECKED_BY_HAND | FORMER:
        return True
    return meaning.lower() in _known_meanings(scheme, value)


def test_the_dictionaries_know_our_codes_and_those_of_cards_by_the_same_words() -> None:
    ours = {
        f"{name} {code.value}": code
        for module in (anatomy, concepts, profile)
        for name, value in vars(module).items()
        for code in _codes(value)
    }
    for one in (LENGTH, CENTIMETRES):
        ours[f"{one.meaning} {one.value}"] = DicomCode(one.value, one.scheme, one.meaning)
    cards = {
        f"{path.stem} {label['name']} {role}": label[role]
        for path in (Path(pipelines.__file__).parent / "cards").glob("*.toml")
        for label in tomllib.loads(path.read_text(encoding="utf-8")).get("labels", ())
        for role in ("code", "site")
        if role in label
    }
    assert len(ours) > 45
    assert len(cards) > 20
    wrong = {
        name for name, code in ours.items() if not _is_right(code.scheme_designator, code.value, code.meaning)
    }
    wrong |= {
        name
        for name, code in cards.items()
        if not (code["source"] and _is_right(code["scheme"], code["value"], code["meaning"]))
    }
    assert (wrong, {code for code in CHECKED_BY_HAND if _known_meanings(*code)}) == (set(), set())


def test_no_private_code_means_two_things_and_the_decision_is_no_part_of_its_name() -> None:
    calibrated = finding(CARDIOMEGALY, 0.5, "1.2")
    text = finding(BURNED_IN, 0.9, "1.2", label="Burned-in text", model=UNCALIBRATED)
    said = (
        text,
        replace(text, label="Burned-in banner"),
        calibrated,
        replace(calibrated, model=UNCALIBRATED),
    )
    numbers = [concepts.number_of(one) for one in said]
    assert len({number.value for number in numbers}) == len({number.meaning for number in numbers}) == 4
    assert all(len(number.value) <= 16 for number in numbers)
    values = [code.value for code in concepts.OURS.values()]
    assert len(set(values)) == len(values)
    assert {code.scheme_designator for code in concepts.OURS.values()} == {concepts.SCHEME}
    decided = [replace(calibrated, decision=decision) for decision in Decision]
    assert len({concepts.number_of(one).value for one in decided}) == 1
