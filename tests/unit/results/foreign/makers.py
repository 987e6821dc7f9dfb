"""Objects of honest programs for the study of ``foreign_lab``, written by highdicom and from templates."""

import io
from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from reportlab.pdfgen.canvas import Canvas

from dicom_node.base.dicom.header import quiet_pydicom
from tests.modality import assign, data_set
from tests.unit.results.foreign.foreign_lab import (
    BETWEEN,
    COLUMNS,
    FRAME_OF_REFERENCE,
    ROWS,
    SC,
    SERIES,
    SLICES,
    STORAGE,
    STUDY,
    ct_slice,
    part10,
    with_meta,
)

LUNG = codes.SCT.Lung
NODULE = hd.sr.CodedConcept("27925004", "SCT", "Nodule")
ALGORITHM = hd.AlgorithmIdentificationSequence(
    "Maker's net", codes.cid7162.ArtificialIntelligence, "2.1", source="Maker"
)
MAKER: dict[str, Any] = {
    "series_number": 77,
    "instance_number": 1,
    "manufacturer": "Maker",
    "manufacturer_model_name": "Tool",
    "software_versions": "2.1",
    "device_serial_number": "1",
}


def slices() -> list[Dataset]:
    """The images that the program got."""
    return [ct_slice(number) for number in range(1, SLICES + 1)]


def finish(dataset: Dataset, **attributes: Any) -> Dataset:
    """The object as a plain data set, with changed attributes."""
    with quiet_pydicom():
        plain = dcmread(io.BytesIO(part10(with_meta(dataset))))
    assign(plain, **attributes)
    return with_meta(plain)


def uids() -> dict[str, str]:
    """New UIDs, as programs draw them."""
    return {"series_instance_uid": generate_uid(), "sop_instance_uid": generate_uid()}


def mask() -> np.ndarray:
    """A mask on all slices: (slices, rows, columns)."""
    drawn = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    drawn[1:3, 10:20, 5:15] = 1
    return drawn


def segmentation(pixels: np.ndarray | None = None, **attributes: Any) -> Dataset:
    """A binary segmentation of one segment on all slices."""
    described = hd.seg.SegmentDescription(
        1, "Lung", codes.SCT.Organ, LUNG, hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, ALGORITHM
    )
    made = hd.seg.Segmentation(
        slices(),
        mask() if pixels is None else pixels,
        hd.seg.SegmentationTypeValues.BINARY,
        [described],
        omit_empty_frames=False,
        content_label="LUNG",
        **MAKER,
        **uids(),
    )
    return finish(made, **attributes)


def label_map(**attributes: Any) -> Dataset:
    """A label map segmentation of one segment."""
    described = hd.seg.SegmentDescription(
        1, "Lung", codes.SCT.Organ, LUNG, hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC, ALGORITHM
    )
    made = hd.seg.Segmentation(
        slices(),
        mask(),
        hd.seg.SegmentationTypeValues.LABELMAP,
        [described],
        omit_empty_frames=False,
        **MAKER,
        **uids(),
    )
    return finish(made, **attributes)


def parametric_map(**attributes: Any) -> Dataset:
    """A map of floats on all slices."""
    mapping = hd.pm.RealWorldValueMapping(
        "prob", "probability", codes.UCUM.NoUnits, (0.0, 1.0), 0.0, 1.0,
        quantity_definition=codes.DCM.Probability,
    )  # fmt: skip
    made = hd.pm.ParametricMap(
        slices(),
        mask().astype(np.float32)[..., None] / 2,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[[mapping]],
        voi_lut_transformations=[hd.VOILUTTransformation(0.5, 1.0)],
        **MAKER,
        **uids(),
    )
    return finish(made, **attributes)


def region(points: Sequence[Sequence[float]], image: Dataset) -> hd.sr.ImageRegion:
    """A closed polygon on an image."""
    return hd.sr.ImageRegion(
        hd.sr.GraphicTypeValues.POLYLINE,
        np.asarray(points, float),
        hd.sr.SourceImageForRegion.from_source_image(image),
    )


SQUARE = ((5.0, 5.0), (15.0, 5.0), (15.0, 15.0), (5.0, 15.0), (5.0, 5.0))


def report(
    points: Sequence[Sequence[float]] = SQUARE,
    unit: Any = codes.UCUM.SquareMillimeter,
    finding: Any = NODULE,
    tracked: bool = True,
    image: Dataset | None = None,
    **attributes: Any,
) -> Dataset:
    """An SR (TID 1500) with one region that is measured."""
    image = image if image is not None else ct_slice(1)
    observer = hd.sr.ObserverContext(
        codes.DCM.Device, hd.sr.DeviceObserverIdentifyingAttributes(generate_uid(), name="Tool")
    )
    group = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(generate_uid(), "nodule 1"),
        referenced_region=region(points, image),
        finding_type=finding,
        measurements=[hd.sr.Measurement(codes.SCT.Area, 25.0, unit)],
    )
    if not tracked:
        inner = [item for item in group[0].ContentSequence if item.name.value not in ("112039", "112040")]
        group[0].ContentSequence = hd.sr.ContentSequence(inner)
    content = hd.sr.MeasurementReport(
        hd.sr.ObservationContext(observer_device_context=observer),
        codes.LN.CTUnspecifiedBodyRegion,
        [group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    made = hd.sr.Comprehensive3DSR(
        evidence=[image],
        content=content[0],
        is_complete=True,
        is_verified=False,
        institution_name="Maker",
        **{key: value for key, value in MAKER.items() if key != "software_versions"},
        **uids(),
    )
    return finish(made, **attributes)


def text_report(text: str = "Nodule in the right upper lobe", **attributes: Any) -> Dataset:
    """A Basic Text SR without references, as MONAI's SDK writes it."""
    title = data_set(
        CodeValue="18748-4", CodingSchemeDesignator="LN", CodeMeaning="Diagnostic imaging report"
    )
    name = data_set(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning="Finding")
    item = data_set(
        RelationshipType="CONTAINS", ValueType="TEXT", ConceptNameCodeSequence=[name], TextValue=text
    )
    values = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "?ta^Jane"} | attributes
    return written(
        STORAGE + "88.11",
        Modality="SR",
        ValueType="CONTAINER",
        ConceptNameCodeSequence=[title],
        ContinuityOfContent="SEPARATE",
        ContentSequence=[item],
        VerificationFlag="UNVERIFIED",
        SeriesDescription="CAUTION: Not for Diagnostic Use, for research use only.",
        DeviceUID="0.0.1",
        **values,
    )


def written(sop_class_uid: str, **attributes: Any) -> Dataset:
    """An object with the patient and study of the call, and other attributes as given."""
    source = ct_slice(1)
    words = (
        "SpecificCharacterSet", "StudyInstanceUID", "PatientID", "IssuerOfPatientID", "PatientName",
        "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
        "ReferringPhysicianName",
    )  # fmt: skip
    dataset = Dataset({source[word].tag: source[word] for word in words})
    assign(
        dataset,
        SOPClassUID=sop_class_uid,
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=7341,
        InstanceNumber=1,
        Manufacturer="Maker",
        ContentDate="20250102",
        ContentTime="101700",
    )
    assign(dataset, **attributes)
    return with_meta(dataset)


def reference(image: Dataset, **attributes: Any) -> Dataset:
    """An item that refers to an image."""
    return data_set(
        ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID, **attributes
    )


def presentation(points: Sequence[Sequence[float]] = SQUARE, **attributes: Any) -> Dataset:
    """A grayscale presentation state with one polygon on the first slice."""
    image = ct_slice(1)
    graphic = hd.pr.GraphicObject(
        hd.pr.GraphicTypeValues.POLYLINE, np.asarray(points, float), hd.pr.AnnotationUnitsValues.PIXEL
    )
    layer = hd.pr.GraphicLayer("FINDINGS", 1)
    made = hd.pr.GrayscaleSoftcopyPresentationState(
        [image],
        content_label="FINDINGS",
        concept_name=codes.DCM.PresentationState if hasattr(codes.DCM, "PresentationState") else None,
        graphic_layers=[layer],
        graphic_annotations=[hd.pr.GraphicAnnotation([image], layer, graphic_objects=[graphic])],
        **MAKER,
        **uids(),
    )
    return finish(made, **attributes)


def picture(pixels: np.ndarray | None = None, **attributes: Any) -> Dataset:
    """A secondary capture in colour of a screen, without references."""
    drawn = np.full((48, 64, 3), 40, np.uint8) if pixels is None else pixels
    return written(
        SC,
        Modality="OT",
        ConversionType="WSD",
        Rows=drawn.shape[0],
        Columns=drawn.shape[1],
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        PixelData=drawn.tobytes(),
        **attributes,
    )


def key_objects(title: Any = None, **attributes: Any) -> Dataset:
    """A key object selection of the second slice."""
    image = ct_slice(2)
    content = hd.ko.KeyObjectSelection(title or codes.DCM.OfInterest, [image])
    numbers = {key: MAKER[key] for key in ("series_number", "instance_number", "manufacturer")}
    made = hd.ko.KeyObjectSelectionDocument([image], content, **numbers, **uids())
    return finish(made, **attributes)


def pdf(text: str = "AI report", **attributes: Any) -> Dataset:
    """An encapsulated PDF of one page."""
    buffer = io.BytesIO()
    page = Canvas(buffer)
    page.drawString(100, 700, text)
    page.showPage()
    page.save()
    return encapsulated(buffer.getvalue(), **attributes)


def encapsulated(data: bytes, **attributes: Any) -> Dataset:
    """An encapsulated PDF of these bytes."""
    return written(
        STORAGE + "104.1",
        Modality="DOC",
        MIMETypeOfEncapsulatedDocument="application/pdf",
        EncapsulatedDocument=data + b"\0" * (len(data) % 2),
        EncapsulatedDocumentLength=len(data),
        DocumentTitle="AI report",
        **attributes,
    )


def contour(number: int = 2, off: float = 0.0, **attributes: Any) -> Dataset:
    """A square on a slice, ``off`` millimetres beside it."""
    z = BETWEEN * number + off
    corners = [(-8.0, -6.0), (-4.0, -6.0), (-4.0, -2.0), (-8.0, -2.0)]
    drawn = data_set(
        ContourImageSequence=[reference(ct_slice(number))],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=4,
        ContourData=[f"{value:g}" for x, y in corners for value in (x, y, z)],
    )
    assign(drawn, **attributes)
    return drawn


def structure_set(contours: Sequence[Dataset] | None = None, **attributes: Any) -> Dataset:
    """An RT structure set of one region, from a template of pydicom's."""
    images = [reference(one) for one in slices()]
    study = data_set(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=STUDY,
        RTReferencedSeriesSequence=[data_set(SeriesInstanceUID=SERIES, ContourImageSequence=images)],
    )
    frame = data_set(FrameOfReferenceUID=FRAME_OF_REFERENCE, RTReferencedStudySequence=[study])
    roi = data_set(
        ROINumber=1,
        ReferencedFrameOfReferenceUID=FRAME_OF_REFERENCE,
        ROIName="Lung",
        ROIGenerationAlgorithm="AUTOMATIC",
    )
    of_roi = data_set(ReferencedROINumber=1, ContourSequence=contours or [contour()])
    observation = data_set(
        ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="ORGAN", ROIInterpreter=""
    )
    return written(
        STORAGE + "481.3",
        Modality="RTSTRUCT",
        StructureSetLabel="LUNG",
        StructureSetDate="20250102",
        StructureSetTime="101700",
        ReferencedFrameOfReferenceSequence=[frame],
        StructureSetROISequence=[roi],
        ROIContourSequence=[of_roi],
        RTROIObservationsSequence=[observation],
        ApprovalStatus="UNAPPROVED",
        OperatorsName="",
        **attributes,
    )
