"""The summary page as a PDF: words as text, the same bytes, and only for who may know the patient."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import PipelineResult
from ai_pipeline.images.page import MARGIN, PageLayout, PagePicture, PlacedText, lay_out_page
from dicom_node import preflight, results
from dicom_node.config.settings import PeerSettings
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import Pseudonyms, ResultContext, SourceObject, gate, pdf
from dicom_node.results.common.envelope import encode
from dicom_node.results.common.source import read_sources
from dicom_node.results.document import build_document
from dicom_node.results.pdf import as_pdf
from dicom_node.results.sc.page import summary_of
from tests.deidentified_lab import HERE, result_of, write_named
from tests.result_images import (
    ANALYSED_AT,
    CARDIOMEGALY,
    CR,
    US,
    context,
    finding,
    grey_image,
    source,
    speckle,
    write_image,
)
from tests.result_reading import read_result

TITLE = "AI summary - not for diagnostic use"
ONE_STUDY = {"StudyInstanceUID": "2.25.7", "SeriesInstanceUID": "2.25.8"}
SAME = """
import hashlib, sys
from datetime import datetime, UTC
from tests.unit.results.test_document import page
from dicom_node.results.pdf import as_pdf
print(hashlib.sha256(as_pdf(page("Müller, Änne"), "x", datetime(2025, 1, 2, tzinfo=UTC))).hexdigest())
"""


def film(folder: Path, number: int = 1, **attributes: Any) -> SourceObject:
    given = {"InstanceNumber": number, **ONE_STUDY, **attributes}
    return source(write_image(folder / f"film{number}.dcm", CR, grey_image(), **given))


def made(*images: SourceObject, ctx: ResultContext | None = None, **result: Any) -> Dataset:
    [one] = results.build(ctx or context(kinds=[ResultKind.PDF]), images, PipelineResult(**result))
    assert one.kind is ResultKind.PDF
    return read_result(one)


def pdf_in(document: Dataset) -> bytes:
    return bytes(document.EncapsulatedDocument)[: document.EncapsulatedDocumentLength]


def words(data: bytes) -> str:
    done = subprocess.run(["pdftotext", "-layout", "-", "-"], input=data, capture_output=True, check=True)
    return done.stdout.decode()


def page(name: str, picture: bool = True) -> PageLayout:
    shown = PagePicture(speckle()) if picture else "no picture"
    return lay_out_page(TITLE, [name, "ID: 1"], shown, ["View: PA"], ["AI: nothing"], ["foot"])


def test_it_is_an_encapsulated_pdf_on_all_images(tmp_path: Path) -> None:
    images = [film(tmp_path, 1), film(tmp_path, 2)]
    document = made(*images)
    assert document.SOPClassUID == "1.2.840.10008.5.1.4.1.1.104.1"
    assert (document.Modality, document.SeriesNumber, document.InstanceNumber) == ("DOC", 9012, 2)
    assert document.SeriesDescription == "AI summary (PDF) - not for diagnostic use - chest_xray"
    [title] = document.ConceptNameCodeSequence
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("18748-4", "LN")
    assert (document.DocumentTitle, document.VerificationFlag) == (TITLE, "UNVERIFIED")
    assert (document.BurnedInAnnotation, document.ConversionType) == ("YES", "WSD")
    assert document.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert "HL7InstanceIdentifier" not in document  # only of CDA documents (PS3.3 C.24.2)
    assert (document.PatientName, document.StudyInstanceUID) == ("Test^CR", "2.25.7")
    sources = [one.ReferencedSOPInstanceUID for one in document.SourceInstanceSequence]
    assert sources == [image.image.uid for image in images]
    assert len(document.EncapsulatedDocument) % 2 == 0


@pytest.mark.parametrize(
    ("given", "began"),
    [
        ({"AcquisitionDate": "20250102", "AcquisitionTime": "101500.5"}, "20250102101500.5"),
        ({"AcquisitionDateTime": "20250102101501"}, "20250102101501"),
        ({"AcquisitionDate": "20250102", "AcquisitionTime": None}, ""),
        ({"AcquisitionDate": None, "AcquisitionTime": None}, ""),
    ],
)
def test_its_acquisition_is_that_of_the_images(tmp_path: Path, given: dict[str, Any], began: str) -> None:
    assert (made(film(tmp_path, **given)).get("AcquisitionDateTime") or "") == began


@pytest.mark.debian("poppler-utils")
def test_its_words_are_text(tmp_path: Path) -> None:
    image = film(tmp_path, PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 192")
    found = finding(CARDIOMEGALY, 0.83, image.image.uid, (10, 10, 40, 40))
    text = words(pdf_in(made(image, findings=(found,))))
    for said in (TITLE, "Müller, Änne", "ID: PID-CR", "Suspected: cardiomegaly", "Model: chest-lite0 1"):
        assert said in text


@pytest.mark.debian("poppler-utils", "qpdf")
@pytest.mark.parametrize(
    "name", [r"a) Tj ET %%EOF \(x\) endstream endobj", "Ξενοφών, Жанна", "洪吉洞", "a" * 5000, "<script>"]
)
def test_no_name_breaks_it(tmp_path: Path, name: str) -> None:
    data = as_pdf(page(name), TITLE, ANALYSED_AT)
    (tmp_path / "page.pdf").write_bytes(data)
    done = subprocess.run(["qpdf", "--check", tmp_path / "page.pdf"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    if (len(name) < 100 and name.isascii()) or name.startswith("Ξ"):
        assert name in words(data)
    assert data.count(b"%%EOF") == 1 and data.count(b"/Type /Page\n") == 1


@pytest.mark.parametrize("picture", [True, False])
def test_nothing_is_outside_of_the_sheet(picture: bool) -> None:
    """Widths of reportlab are not rounded to pixels as Pillow's are."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    laid = page("Name " * 60, picture)
    as_pdf(laid, TITLE, ANALYSED_AT)  # registers the font
    for one in laid.texts:
        assert one.left + stringWidth(one.text, "DejaVuSansCondensed", one.size) < laid.width - MARGIN / 2
        assert 0 < one.baseline < laid.height
    assert len(laid.pictures) == picture


def test_the_same_page_is_the_same_bytes(tmp_path: Path) -> None:
    image = film(tmp_path)
    assert pdf_in(made(image)) == pdf_in(made(image))
    at = datetime(2025, 1, 2, tzinfo=UTC)
    mine = as_pdf(page("Müller, Änne"), "x", at)
    assert b"D:20250102000000Z" in mine
    for number, zone in enumerate(("America/Lima", "Asia/Tokyo"), start=1):
        others = {"PYTHONHASHSEED": str(number), "TZ": zone}
        done = subprocess.run(
            [sys.executable, "-c", SAME], env=os.environ | others, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == hashlib.sha256(mine).hexdigest()
    assert as_pdf(page("Meier"), "x", at) != mine


def test_the_information_of_the_file_has_no_patient(tmp_path: Path) -> None:
    data = pdf_in(made(film(tmp_path, PatientName="SECRET^NAME", PatientID="HIDDEN")))
    assert b"SECRET" not in data and b"HIDDEN" not in data  # the words are compressed
    assert f"/Title ({TITLE})".encode() in data


def test_a_picture_that_may_name_somebody_is_not_in_it(tmp_path: Path) -> None:
    image = source(write_image(tmp_path / "us.dcm", US, speckle()))
    assert b"/Subtype /Image" not in pdf_in(made(image, ctx=context(kinds=[ResultKind.PDF], pipeline="us")))
    assert b"/Subtype /Image" in pdf_in(made(film(tmp_path)))


def test_a_failure_has_its_document_too(tmp_path: Path) -> None:
    ctx = context(kinds=[ResultKind.PDF, ResultKind.SUMMARY])
    kinds = [one.kind for one in results.build_failure(ctx, [film(tmp_path)], "the model file is missing")]
    assert kinds == [ResultKind.SUMMARY, ResultKind.PDF]


def test_a_destination_that_may_not_know_the_patient_gets_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pdf may identify the patient"):
        PeerSettings.model_validate(
            {"name": "x", "ae_title": "X", "results": ["cleaned", "pdf"], "deidentify": True}
        )
    image = source(write_named(tmp_path / "us.dcm"))
    ctx = context(kinds=tuple(ResultKind), pipeline="ultrasound", rule="ultrasound")
    found = results.build_deidentified(ctx, [image], result_of(image, verified=True), Pseudonyms.of(HERE, ""))
    assert found.objects and ResultKind.PDF not in {one.kind for one in found.objects}
    assert ResultKind.PDF not in PeerSettings(name="x", ae_title="X").results


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"EncapsulatedDocument": b"%PDF-1.3 cut"}, "no whole PDF"),
        ({"EncapsulatedDocument": b"<html></html>\0"}, "no whole PDF"),
        ({"EncapsulatedDocumentLength": 12}, "has not the length"),
        ({"BurnedInAnnotation": "NO"}, "BurnedInAnnotation is YES"),
        ({"MIMETypeOfEncapsulatedDocument": "text/html"}, "is not application/pdf"),
        ({"VerificationFlag": "VERIFIED"}, "must be UNVERIFIED"),
        ({"SourceInstanceSequence": []}, "SourceInstanceSequence is missing"),
        ({"PatientName": "Other^Name"}, "PatientName is not that of the source"),
    ],
)
def test_the_gate_lets_no_faulty_document_out(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    sources = read_sources([film(tmp_path)])
    ctx = context(kinds=[ResultKind.PDF])
    document = build_document(ctx, sources, summary_of(ctx, sources, PipelineResult()), "2.25.9")
    for keyword, value in change.items():
        setattr(document, keyword, value)
    with pytest.raises(ResultRefused, match=why):
        gate.check(encode(document, ctx, sources[0]), document, ctx, ResultKind.PDF, sources)


def test_without_the_library_check_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "reportlab" else find(name, package)

    monkeypatch.setattr(preflight, "find_spec", without)
    monkeypatch.setattr(pdf, "find_spec", without)
    peer = {"name": "ehr", "ae_title": "EHR", "host": "127.0.0.1", "port": 9, "may": ["receive"]}
    checked = preflight.check_data(
        {"node": {"data_dir": str(tmp_path)}, "peers": [peer | {"results": ["pdf"]}]}
    )
    assert ["dicom-ai-node[pdf]" in str(one) for one in checked.problems] == [True]
    checked = preflight.check_data({"node": {"data_dir": str(tmp_path)}, "peers": [peer]})
    assert not checked.problems
    with pytest.raises(ResultRefused, match="dicom-ai-node"):
        as_pdf(PageLayout(10, 10, [PlacedText("a", 1, 1, 9)]), "x", ANALYSED_AT)
