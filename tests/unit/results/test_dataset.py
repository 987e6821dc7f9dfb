"""Character sets of results."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_pipeline.contract import PipelineResult
from dicom_node.base.errors import DecodedDifferently
from dicom_node.base.lifecycle import ResultForm
from dicom_node.results.build import build
from tests.result_images import (
    CARDIOMEGALY,
    context,
    film,
    finding,
    source,
)
from tests.result_reading import read_result
from tests.unit.results.report_lab import ONLY_REPORT, made_from

# Same input, same objects; anything else, other objects; which installation made them

NAMES = [  # the others: tests/unit/base/dicom/test_dicom.py
    ("ISO_IR 100", "Buc^Jérôme"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
]


@pytest.mark.parametrize(("charset", "name"), NAMES, ids=[str(charset) for charset, _ in NAMES])
@pytest.mark.parametrize("wanted", ["utf8", "source"])
def test_a_name_is_the_same_text_in_every_result(
    tmp_path: Path, charset: str | list[str], name: str, wanted: str
) -> None:
    named = {"SpecificCharacterSet": charset, "PatientName": name, "ReferringPhysicianName": name}
    for sent in map(
        read_result, made_from(context(form=ResultForm(charset=wanted)), film(tmp_path, **named))
    ):
        assert str(sent.PatientName) == str(sent.ReferringPhysicianName) == name
        assert sent.SpecificCharacterSet == ("ISO_IR 192" if wanted == "utf8" else charset)


@pytest.mark.parametrize("wrong", [b"ISO_IR 192", b"ISO_IR 999", b"ISO_IR 6  "])
def test_text_that_is_not_in_the_named_set_is_refused_not_replaced(tmp_path: Path, wrong: bytes) -> None:
    path = film(tmp_path, SpecificCharacterSet="ISO_IR 100", PatientName="Buc^Jérôme").path
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", wrong))
    with pytest.raises(DecodedDifferently) as caught:
        made_from(ONLY_REPORT, source(path))
    assert "Buc" not in str(caught.value)
    (one,) = made_from(ONLY_REPORT, source(path, assume_charset="ISO_IR 100"))
    assert str(read_result(one).PatientName) == "Buc^Jérôme"


def test_an_unknown_character_set_does_no_harm_to_plain_text(tmp_path: Path) -> None:
    path = film(tmp_path).path
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b"ISO_IR 999"))
    for made in map(read_result, made_from(context(form=ResultForm(charset="source")), source(path))):
        assert (made.PatientName, made.SpecificCharacterSet) == ("Test^CR", "ISO_IR 192")


def test_a_label_that_the_source_charset_lacks_makes_the_object_utf8(tmp_path: Path) -> None:
    one = film(tmp_path, SpecificCharacterSet="ISO_IR 100")
    named = finding(replace(CARDIOMEGALY, meaning="심장비대"), 0.8, one.image.uid, (5, 5, 50, 50))
    ctx = replace(ONLY_REPORT, form=ResultForm(charset="source"))
    report = read_result(build(ctx, [one], PipelineResult(findings=(named,)))[0])
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert "심장비대" in str(report)
