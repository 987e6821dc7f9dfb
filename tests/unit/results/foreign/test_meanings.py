"""What codes say in words: wordings of the standard pass, another code's meaning does not (gate.md 26)."""

import pytest

from dicom_node.results.foreign.verdict import Verdict
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import said, verdict_on
from tests.unit.results.foreign.test_reports import code


@pytest.mark.parametrize(
    ("value", "scheme", "meaning"),
    [
        pytest.param("85756007", "SCT", "Tissue", id="tissue"),
        pytest.param("85756007", "SCT", "Body tissue structure (body structure)", id="tissue by SNOMED"),
        pytest.param("272673000", "SCT", "Bone", id="bone"),
        pytest.param("123037004", "SCT", "Anatomical Structure", id="former wording"),
        pytest.param("M-80003", "SRT", "Neoplasm, Primary", id="fewer words"),
        pytest.param("T-D00F7", "SRT", "Cervico-thoracic spine", id="hyphen"),
        pytest.param("cm", "UCUM", "centimeter", id="name of a unit"),
        pytest.param("T-C5300", "SRT", "pharyngeal tonsil (adenoid)", id="more words"),
    ],
)
def test_the_wording_of_the_standard_passes(value: str, scheme: str, meaning: str) -> None:
    wrote = makers.segmentation()
    wrote.SegmentSequence[0].SegmentedPropertyTypeCodeSequence = [code(value, scheme, meaning)]
    found = verdict_on(wrote)
    assert found.verdict is Verdict.GOES, said(found)


@pytest.mark.parametrize(
    ("value", "scheme", "meaning"),
    [
        pytest.param("10200004", "SCT", "Heart", id="heart on liver"),
        pytest.param("T-62000", "SRT", "Heart", id="heart on a retired code of liver"),
        pytest.param("372087000", "SCT", "Malignant neoplasm, primary", id="a word that decides"),
        pytest.param("mm", "UCUM", "cm", id="another unit"),
        pytest.param("110855", "DCM", "Probability", id="another quantity"),
    ],
)
def test_the_meaning_of_another_code_is_refused(value: str, scheme: str, meaning: str) -> None:
    wrote = makers.segmentation()
    wrote.SegmentSequence[0].SegmentedPropertyTypeCodeSequence = [code(value, scheme, meaning)]
    found = verdict_on(wrote)
    assert "the meaning of another code" in said(found)
