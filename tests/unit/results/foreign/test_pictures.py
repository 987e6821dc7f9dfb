"""Presentation states (gate.md G), pictures, documents and key objects (H) of programs."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.base.dicom.header import items
from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.verdict import JudgedObject, Verdict
from tests.modality import data_set
from tests.unit.results.foreign import makers
from tests.unit.results.foreign.foreign_lab import (
    COLUMNS,
    ROWS,
    ct_slice,
    ct_study,
    derived_slice,
    said,
    verdict_on,
)

NOTHING = Readers(lambda _picture: [], lambda _document: [])


def changed(make: Callable[[], Dataset], change: Callable[[Dataset], Any], **values: Any) -> JudgedObject:
    """The verdict on an object that was changed."""
    wrote = make()
    change(wrote)
    return verdict_on(wrote, readers=NOTHING, **values)


def area(dataset: Dataset) -> Dataset:
    return dataset.DisplayedAreaSelectionSequence[0]


def annotation(dataset: Dataset) -> Dataset:
    return dataset.GraphicAnnotationSequence[0]


def graphic_of(dataset: Dataset) -> Dataset:
    return annotation(dataset).GraphicObjectSequence[0]


def put(where: Callable[[Dataset], Dataset], **attributes: Any) -> Callable[[Dataset], None]:
    """A change of some attributes of an item."""

    def change(dataset: Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(where(dataset), keyword, value)

    return change


def whole(dataset: Dataset) -> Dataset:
    return dataset


TEXT = data_set(
    BoundingBoxAnnotationUnits="PIXEL",
    BoundingBoxTopLeftHandCorner=[1.0, 1.0],
    BoundingBoxBottomRightHandCorner=[20.0, 10.0],
    BoundingBoxTextHorizontalJustification="LEFT",
    UnformattedTextValue="nodule",
)


def text(**attributes: Any) -> Dataset:
    """A text in an image."""
    drawn = Dataset(dict(TEXT.items()))
    return data_set(**{one.keyword: one.value for one in drawn} | attributes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            put(whole, ShutterShape="RECTANGULAR", ShutterLeftVerticalEdge=5), "a shutter", id="shutter"
        ),
        pytest.param(
            put(whole, MaskSubtractionSequence=[data_set(MaskOperation="AVG_SUB")]), "a mask", id="mask"
        ),
        pytest.param(put(whole, ImageRotation=90), "turns or mirrors", id="rotation"),
        pytest.param(put(whole, ImageHorizontalFlip="Y"), "turns or mirrors", id="flip"),
        pytest.param(put(whole, PresentationLUTShape="INVERSE"), "inverts", id="inverse"),
        pytest.param(put(whole, RescaleSlope=2.0), "RescaleSlope", id="other values"),
        pytest.param(
            put(whole, SoftcopyVOILUTSequence=[data_set(WindowCenter=40, WindowWidth=0)]),
            "width",
            id="no width",
        ),
        pytest.param(
            put(area, DisplayedAreaBottomRightHandCorner=[COLUMNS + 1, ROWS]),
            "reaches out",
            id="area outside",
        ),
        pytest.param(put(annotation, GraphicLayer="OTHER"), "layer that is not there", id="layer"),
        pytest.param(
            put(graphic_of, GraphicAnnotationUnits="MM"),
            "no units",
            id="units",
        ),
        pytest.param(put(graphic_of, GraphicAnnotationUnits="MATRIX"), "not tiled", id="matrix"),
        pytest.param(
            put(annotation, TextObjectSequence=[text(BoundingBoxAnnotationUnits="MATRIX")]),
            "not tiled",
            id="text in a matrix",
        ),
        pytest.param(
            put(graphic_of, NumberOfGraphicPoints=3),
            "Number of Graphic Points",
            id="count",
        ),
        pytest.param(
            put(graphic_of, GraphicData=[1, 1, 90, 90, 1, 1, 90, 90, 1, 1]),
            "outside of the referenced image",
            id="outside",
        ),
        pytest.param(
            put(annotation, TextObjectSequence=[text(BoundingBoxTopLeftHandCorner=[400.0, 1.0])]),
            "a text lies outside",
            id="text outside",
        ),
        pytest.param(
            put(annotation, TextObjectSequence=[data_set(UnformattedTextValue="x")]),
            "no place",
            id="text nowhere",
        ),
        pytest.param(
            put(
                annotation,
                GraphicObjectSequence=[],
                CompoundGraphicSequence=[data_set(CompoundGraphicType="ARROW")],
            ),
            "compound graphics",
            id="compound",
        ),
    ],
)
def test_a_presentation_state_that_hides_or_draws_elsewhere_is_refused(
    change: Callable[[Dataset], None], reason: str
) -> None:
    found = changed(makers.presentation, change)
    assert found.verdict is Verdict.REFUSED, said(found)
    assert reason in said(found)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(put(area, DisplayedAreaTopLeftHandCorner=[10, 10]), "only a part", id="zoomed"),
        pytest.param(
            put(whole, PresentationLUTSequence=[data_set(LUTDescriptor=[2, 0, 10], LUTData=b"\0\0\xff\3")]),
            "by a table",
            id="table",
        ),
    ],
)
def test_a_presentation_state_that_may_hide_is_held(change: Callable[[Dataset], None], reason: str) -> None:
    found = changed(makers.presentation, change)
    assert found.verdict is Verdict.HELD, said(found)
    assert reason in said(found)


def test_a_window_that_shows_one_grey_is_held() -> None:
    study = ct_study([ct_slice(number, WindowCenter=40, WindowWidth=400) for number in (1, 2)])
    far = put(whole, SoftcopyVOILUTSequence=[data_set(WindowCenter=4000, WindowWidth=10)])
    assert "almost one grey" in said(changed(makers.presentation, far, study=study))
    usual = put(whole, SoftcopyVOILUTSequence=[data_set(WindowCenter=50, WindowWidth=350)])
    assert changed(makers.presentation, usual, study=study).verdict is Verdict.GOES


def test_the_shutter_of_the_image_itself_goes() -> None:
    shutter: dict[str, Any] = {
        "ShutterShape": "RECTANGULAR",
        "ShutterLeftVerticalEdge": 1,
        "ShutterRightVerticalEdge": COLUMNS,
        "ShutterUpperHorizontalEdge": 1,
        "ShutterLowerHorizontalEdge": ROWS,
    }
    study = ct_study([ct_slice(1, **shutter)])
    found = changed(makers.presentation, put(whole, **shutter, ShutterPresentationValue=0), study=study)
    assert found.verdict is Verdict.GOES, said(found)


def test_an_image_without_a_displayed_area_is_shown_whole() -> None:
    found = changed(makers.presentation, lambda one: delattr(one, "DisplayedAreaSelectionSequence"))
    assert found.dataset is not None, said(found)
    assert list(area(found.dataset).DisplayedAreaBottomRightHandCorner) == [COLUMNS, ROWS]
    assert [float(one) for one in area(found.dataset).PresentationPixelSpacing] == [0.5, 0.5]


def test_an_image_with_two_displayed_areas_is_refused() -> None:
    found = changed(
        makers.presentation,
        lambda one: setattr(one, "DisplayedAreaSelectionSequence", [area(one), area(one)]),
    )
    assert "two displayed areas" in said(found)


def test_a_grayscale_state_for_a_colour_image_is_refused() -> None:
    study = ct_study([ct_slice(1, PhotometricInterpretation="RGB", SamplesPerPixel=3)])
    assert "for a colour image" in said(verdict_on(makers.presentation(), study))


def test_a_layer_says_that_an_ai_drew_it() -> None:
    found = verdict_on(makers.presentation()).dataset
    assert found is not None
    texts = [str(item.UnformattedTextValue) for item in items(found) if "UnformattedTextValue" in item]
    assert texts == ["AI, not verified, not for diagnostic use: lung tool 1.0"]
    layers = {str(one.GraphicLayer) for one in found.GraphicLayerSequence}
    assert {str(one.GraphicLayer) for one in found.GraphicAnnotationSequence} <= layers


def test_a_place_half_a_pixel_outside_is_moved_to_the_edge() -> None:
    wrote = makers.presentation()
    graphic = annotation(wrote).GraphicObjectSequence[0]
    graphic.GraphicData = [5, 5, COLUMNS + 0.5, 5, 15, 15, 5, 15, 5, 5]
    found = verdict_on(wrote).dataset
    assert found is not None
    assert max(annotation(found).GraphicObjectSequence[0].GraphicData) == COLUMNS


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"SamplesPerPixel": 1}, "Photometric", id="samples"),
        pytest.param({"BitsStored": 9}, "Bits Allocated", id="bits"),
        pytest.param({"HighBit": 6}, "Bits Allocated", id="high bit"),
        pytest.param({"Rows": 47}, "length", id="rows"),
        pytest.param({"PixelData": b""}, "", id="empty"),
        pytest.param(
            {"PhotometricInterpretation": "PALETTE COLOR", "SamplesPerPixel": 1}, "palette", id="palette"
        ),
    ],
)
def test_a_picture_whose_samples_do_not_fit_is_refused(values: dict[str, Any], reason: str) -> None:
    found = changed(makers.picture, put(whole, **values))
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


def test_planar_configuration_is_there() -> None:
    found = changed(makers.picture, lambda one: delattr(one, "PlanarConfiguration"))
    assert "Planar Configuration is missing" in said(found)


def test_a_picture_is_held_if_nobody_can_read_it() -> None:
    found = verdict_on(makers.picture())
    assert found.verdict is Verdict.HELD
    assert found.dataset is not None
    assert found.dataset.BurnedInAnnotation == "YES"


@pytest.mark.parametrize(
    ("lines", "burned_in", "verdict"),
    [
        ([], "NO", Verdict.GOES),
        (["12 cm"], "YES", Verdict.GOES),
        (["MILLER, PAUL"], "", Verdict.REFUSED),
        (["OTA, JANE"], "YES", Verdict.GOES),
    ],
    ids=["nothing", "a number", "another patient", "the patient"],
)
def test_the_text_in_a_picture_is_read(lines: list[str], burned_in: str, verdict: Verdict) -> None:
    study = replace(ct_study(), known_names=frozenset({"Miller^Paul"}))
    seen: list[tuple[int, ...]] = []

    def read(picture: np.ndarray) -> list[str]:
        seen.append(picture.shape)
        return lines

    found = verdict_on(makers.picture(), study, readers=Readers(read))
    assert found.verdict is verdict, said(found)
    assert seen == [(48, 64, 3)]
    if found.dataset is not None:
        assert found.dataset.BurnedInAnnotation == burned_in
        assert found.names_patient is ("OTA, JANE" in lines)


def test_a_picture_is_derived_and_names_its_sources() -> None:
    found = verdict_on(makers.picture(), readers=NOTHING).dataset
    assert found is not None
    assert list(found.ImageType) == ["DERIVED", "SECONDARY"]
    assert "lung tool" in found.DerivationDescription
    assert len(found.SourceImageSequence) == 4


def test_a_derived_slice_names_the_slice_in_its_place() -> None:
    found = verdict_on(derived_slice(2)).dataset
    assert found is not None
    [source] = found.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == ct_slice(2).SOPInstanceUID
    assert list(found.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]


def test_a_picture_of_another_size_has_no_millimetres() -> None:
    found = verdict_on(makers.picture(PixelSpacing=[0.1, 0.1]), readers=NOTHING).dataset
    assert found is not None
    assert "PixelSpacing" not in found


def test_what_was_lossy_stays_lossy() -> None:
    study = ct_study([ct_slice(1, LossyImageCompression="01")])
    found = verdict_on(derived_slice(LossyImageCompression="00"), study).dataset
    assert found is not None
    assert found.LossyImageCompression == "01"


PDF = bytes(makers.pdf().EncapsulatedDocument)


def with_object(content: bytes) -> Dataset:
    """A PDF with one more object."""
    added = b"99 0 obj " + content + b" endobj\nxref"
    return makers.encapsulated(PDF.rstrip(b"\0").replace(b"xref", added, 1))


def object_stream(content: bytes, described: bytes = b"/Filter /FlateDecode") -> bytes:
    """A stream of objects."""
    return b"<< /Type /ObjStm " + described + b" >> stream\n" + zlib.compress(content) + b"\nendstream"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<< /S /JavaScript /JS (app.alert(1)) >>", "a script"),
        (b"<< /S /#4aavaScript >>", "a script"),
        (b"<< /OpenAction 3 0 R >>", "an action"),
        (b"<< /AA << /O 3 0 R >> >>", "an action"),
        (b"<< /S /Launch /F (x) >>", "an action"),
        (b"<< /S /URI /URI (http://x) >>", "a link to the web"),
        (b"<< /Type /EmbeddedFile >>", "an attached file"),
        (b"<< /Encrypt 3 0 R >>", "encryption"),
        (object_stream(b"1 0 << /S /JavaScript >>"), "a script"),
        (object_stream(b"x", b"/Filter /LZWDecode"), "cannot be read"),
        (object_stream(b"x", b"/Filter /FlateDecode /DecodeParms << >>"), "cannot be read"),
        (b"<< /Type /ObjStm /Filter /FlateDecode >> stream\nnot zlib\nendstream", "cannot be read"),
    ],
    ids=[
        "script", "escaped", "open", "more actions", "launch", "web", "attachment", "encryption",
        "in a stream", "filter", "parameters", "damaged",
    ],
)  # fmt: skip
def test_a_document_that_acts_is_refused(content: bytes, reason: str) -> None:
    found = verdict_on(with_object(content), readers=NOTHING)
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


def test_a_bomb_in_a_document_is_not_inflated() -> None:
    found = verdict_on(with_object(object_stream(b"\0" * (2**26 + 1))), readers=NOTHING)
    assert "cannot be read" in said(found)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        pytest.param({"MIMETypeOfEncapsulatedDocument": "text/html"}, "application/pdf", id="type"),
        pytest.param({"EncapsulatedDocument": b"<html></html>x"}, "length that it states", id="other"),
        pytest.param({"EncapsulatedDocumentLength": 10}, "length that it states", id="length"),
    ],
)
def test_what_is_no_pdf_is_refused(values: dict[str, Any], reason: str) -> None:
    found = changed(makers.pdf, put(whole, **values))
    assert found.verdict is Verdict.REFUSED
    assert reason in said(found)


def test_a_document_of_too_many_pages_is_refused() -> None:
    found = verdict_on(makers.pdf(), readers=NOTHING, limits=AnswerLimits(pages=0))
    assert "more than 0" in said(found)


def test_the_text_of_a_document_is_read_or_it_is_held() -> None:
    study = replace(ct_study(), known_names=frozenset({"Miller^Paul"}))
    assert verdict_on(makers.pdf(), study).verdict is Verdict.HELD
    other = verdict_on(makers.pdf(), study, readers=Readers(read_document=lambda _data: ["Paul Miller"]))
    assert other.verdict is Verdict.REFUSED

    def fails(_data: bytes) -> list[str]:
        raise ValueError("damaged")

    assert "text of the document cannot be read" in said(
        verdict_on(makers.pdf(), study, readers=Readers(read_document=fails))
    )


def test_a_document_says_what_every_one_says() -> None:
    wrote = makers.pdf(BurnedInAnnotation="NO")
    del wrote.EncapsulatedDocumentLength
    wrote.DocumentTitle = ""
    found = verdict_on(wrote, readers=NOTHING).dataset
    assert found is not None
    assert (found.VerificationFlag, found.BurnedInAnnotation) == ("UNVERIFIED", "YES")
    assert found.DocumentTitle == "AI report of lung tool"
    assert found.EncapsulatedDocumentLength > 0


@pytest.mark.parametrize(
    "title",
    [codes.DCM.RejectedForQualityReasons, codes.DCM.RejectedForPatientSafetyReasons],
    ids=["quality", "safety"],
)
def test_a_rejection_note_is_refused(title: Any) -> None:
    found = verdict_on(makers.key_objects(title))
    assert "rejection note" in said(found)


def test_a_selection_of_another_title_or_of_nothing_is_refused() -> None:
    title = data_set(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning="Finding")
    found = changed(makers.key_objects, put(whole, ConceptNameCodeSequence=[title]))
    assert "CID 7010" in said(found)
    found = changed(makers.key_objects, put(whole, ContentSequence=[]))
    assert "selects nothing" in said(found)


@pytest.mark.parametrize("keyword", ["Rows", "PhotometricInterpretation", "ConversionType"])
def test_an_attribute_that_must_have_a_value(keyword: str) -> None:
    found = changed(makers.picture, lambda one: delattr(one, keyword))
    if keyword == "ConversionType":
        assert found.dataset is not None
        assert found.dataset.ConversionType == "WSD"
    else:
        assert found.verdict is Verdict.REFUSED


def test_what_is_missing_in_the_source_too_is_noted_in_a_derived_image() -> None:
    source = ct_slice(1)
    del source.RescaleSlope
    wrote = derived_slice()
    del wrote.RescaleSlope
    found = verdict_on(wrote, ct_study([source]))
    assert "RescaleSlope (Type 1) is missing, as in its source" in found.notes
    assert "RescaleSlope (Type 1) is missing" in verdict_on(wrote).reasons


def test_a_document_that_claims_to_be_verified_is_refused() -> None:
    found = verdict_on(makers.pdf(VerificationFlag="VERIFIED"), readers=NOTHING)
    assert found.verdict is Verdict.REFUSED
    assert "VERIFIED" in said(found)
