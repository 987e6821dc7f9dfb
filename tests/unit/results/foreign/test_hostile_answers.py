"""No bytes of a program stop the gate, and none leave it that cannot be encoded."""

import random
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import ProgramFile
from dicom_node.results.dataset import encode_in_charset_of
from dicom_node.results.foreign.answer import judge_answer
from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.verdict import Verdict
from tests.modality import data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import ct_study, derived_slice, part10, said, verdict_on

READERS = Readers(lambda _picture: [], lambda _document: [])
TRIES = 40


@pytest.mark.parametrize(
    "make",
    [
        makers.segmentation,
        makers.label_map,
        makers.parametric_map,
        makers.report,
        makers.text_report,
        makers.presentation,
        makers.picture,
        makers.key_objects,
        makers.pdf,
        makers.structure_set,
        derived_slice,
    ],
    ids=lambda make: make.__name__,
)
def test_damaged_bytes_are_judged_and_what_goes_is_of_the_patient(make: Callable[[], Dataset]) -> None:
    whole, drawn, study = part10(make()), random.Random(1), ct_study()
    for _ in range(TRIES):
        content = bytearray(whole)
        for _ in range(drawn.randint(1, 6)):
            content[drawn.randrange(132, len(content))] = drawn.randrange(256)
        [found] = judge_answer([ProgramFile("a.dcm", bytes(content))], study, readers=READERS).objects
        if found.dataset is not None:
            data = encode_in_charset_of(found.dataset, Dataset())
            assert b"PID-1" in data
        else:
            assert found.verdict is Verdict.REFUSED
            assert found.reasons


def test_a_value_that_cannot_be_encoded_refuses_the_object() -> None:
    wrote = derived_slice()
    wrote.add_new("SliceLocation", "DS", "1")
    content = part10(wrote).replace(b"\x20\x00\x41\x10DS\x02\x001 ", b"\x20\x00\x41\x10DS\x02\x00x ")
    [found] = judge_answer([ProgramFile("a.dcm", content)], ct_study()).objects
    assert found.verdict is Verdict.REFUSED or found.dataset is not None


def test_an_item_in_the_place_of_a_code_is_judged_and_not_raised() -> None:
    found = verdict_on(makers.report(ConceptNameCodeSequence=[Dataset()]))
    assert found.verdict is Verdict.REFUSED, said(found)


def test_ten_thousand_content_items_are_refused_in_words() -> None:
    item = data_set(RelationshipType="CONTAINS", ValueType="TEXT", TextValue="x")
    wrote = makers.text_report()
    wrote.ContentSequence = [item] * 10_001
    found = verdict_on(wrote)
    assert "the report has more than 10000 content items" in found.reasons
