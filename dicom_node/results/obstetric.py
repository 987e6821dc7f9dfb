"""The obstetric report: fetal biometry by TID 5000 (PS3.16), for systems that read no TID 1500.

Filled are language, observer, Image Library, Summary (TID 5002: comments) and, for each fetus, Fetal Biometry
(TID 5005) with a Biometry Group (TID 5008) for each measurement in millimetres: the number with method and
coordinates (TID 300, TID 320), and the gestational age in days with its equation (CID 12013) and two standard
deviations. There is nothing in the other sections, such as dates, characteristics of the patient, ratios and
growth: it is not known here.
"""

from collections.abc import Iterator
from typing import Final

from highdicom.sr import (
    CodeContentItem,
    ComprehensiveSR,
    ContainerContentItem,
    ContentItem,
    LanguageOfContentItemAndDescendants,
    NumContentItem,
    ObservationContext,
    RelationshipTypeValues,
)
from highdicom.sr.templates import DEFAULT_LANGUAGE
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.contract import DerivedAge
from dicom_node.base.dicom.uids import is_image
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.anatomy import procedures_performed
from dicom_node.results.concepts import SOURCE, coded, subject_context
from dicom_node.results.content_items import (
    CONTAINS,
    INFERRED_FROM,
    all_frames,
    container,
    image_item,
    text_item,
    with_items,
)
from dicom_node.results.envelope import complete, disclaimer, header_arguments, referenced_requests
from dicom_node.results.equipment import device_observer
from dicom_node.results.located import TrackedMeasurement
from dicom_node.results.measurement_groups import biometry_number
from dicom_node.results.report import ImageReport, Report

_MEASURED: Final = frozenset({"11984-2", "11820-8", "11851-3"})
"""Code values (LN, CID 12005 Fetal Biometry Measurement) of head circumference, biparietal and
occipitofrontal diameter."""
_MILLIMETRES: Final = "mm"
_EQUATION: Final = DicomCode("121420", "DCM", "Equation")  # CID 228
_SPREAD: Final = DicomCode("121417", "DCM", "2 Sigma deviation of population")  # CID 226
_DAYS: Final = DicomCode("d", "UCUM", "days")


def has_biometry(report: Report) -> bool:
    """Whether there is a measurement for the report: one of a fetus, in millimetres."""
    return any(_biometry(image) for image in report.images)


def build_obstetric_report(report: Report, uid: str) -> Dataset:
    """Build the report on the fetal measurements of all images; ``uid``: its SOP Instance UID."""
    context, sources = report.context, report.sources
    document = ComprehensiveSR(
        evidence=[source.stand_in for source in sources],
        content=_content(report),
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=referenced_requests(sources[0]) or None,
        performed_procedure_codes=procedures_performed(sources),
        **header_arguments(context, ResultKind.OBSTETRIC, sources[0], uid, 1),
    )
    return complete(document, context, ResultKind.OBSTETRIC, sources)


def _content(report: Report) -> ContentItem:
    """The content tree, in the order of the rows of TID 5000."""
    observer = ObservationContext(observer_device_context=device_observer(report.context))
    images = [source for source in report.sources if is_image(source.sop_class_uid)]
    library = [image_item(image, all_frames(image), SOURCE, CONTAINS) for image in images]
    comments = [report.conclusion, disclaimer(report.context)]
    return with_items(
        ContainerContentItem(codes.DCM.OBGYNUltrasoundProcedureReport, template_id="5000"),
        [
            *LanguageOfContentItemAndDescendants(DEFAULT_LANGUAGE),
            *observer,
            container(codes.DCM.ImageLibrary, library),
            container(codes.DCM.Summary, [text_item(codes.DCM.Comment, text) for text in comments]),
            *_sections(report),
        ],
    )


def _sections(report: Report) -> Iterator[ContentItem]:
    """Yield the Fetal Biometry of each fetus (TID 5005), which names the fetus if there are several."""
    measured = [(image, tracked) for image in report.images for tracked in _biometry(image)]
    fetuses = list(dict.fromkeys(tracked.measurement.fetus for _, tracked in measured))
    for fetus in fetuses:
        groups = [_group(image, one) for image, one in measured if one.measurement.fetus == fetus]
        subject = subject_context(fetus) if len(fetuses) > 1 else ()
        yield container(codes.DCM.FetalBiometry, [*subject, *groups])


def _biometry(image: ImageReport) -> list[TrackedMeasurement]:
    """The measurements of an image that a model took of a fetus, in millimetres."""
    return [
        tracked
        for tracked in image.measured
        if tracked.measurement.model is not None
        and tracked.measurement.quantity.value in _MEASURED
        and tracked.measurement.unit.value == _MILLIMETRES
        and tracked.measurement.fetus
    ]


def _group(image: ImageReport, tracked: TrackedMeasurement) -> ContentItem:
    """The Biometry Group (TID 5008) of one measurement."""
    number = biometry_number(image.source, tracked)
    age = tracked.measurement.age
    return container(codes.DCM.BiometryGroup, [*number, *([_age_item(age)] if age else [])])


def _age_item(age: DerivedAge) -> ContentItem:
    """The gestational age (TID 5008, row 3), with the equation and two standard deviations of its age."""
    spread = NumContentItem(
        _SPREAD, age.spread_days, _DAYS, relationship_type=RelationshipTypeValues.HAS_PROPERTIES
    )
    return with_items(
        NumContentItem(codes.LN.GestationalAge, age.days, _DAYS, relationship_type=CONTAINS),
        [CodeContentItem(_EQUATION, coded(age.equation), INFERRED_FROM), spread],
    )
