"""A person's assessment of a report's findings: a further SR that refers to the report (IHE AIRA).

Comprehensive 3D SR, TID 1500 (PS3.16): a TID 1501 group for each finding with the finding's own tracking UID,
and the UID of the report as a UIDREF item (the template is extensible). The report itself is referenced in
the header's place for related documents, Referenced Instance Sequence (PS3.3 C.17.2) with its purpose, and in
the evidence: the content tree refers only to images, as readers of TID 1500 expect. The verdicts are codes of
our scheme.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    ContentSequence,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TrackingIdentifier,
    UIDRefContentItem,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import Installation, derived_uid
from dicom_node.base.lifecycle import ReaderVerdict, ResultKind
from dicom_node.results import gate
from dicom_node.results.built_object import BuiltObject, built_document
from dicom_node.results.concepts import (
    OURS,
    coding_schemes,
    name_of,
)
from dicom_node.results.content_items import text_item
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import copy_attributes, set_values
from dicom_node.results.envelope import object_arguments
from dicom_node.results.equipment import device_observer
from dicom_node.results.series import series_number_beside
from dicom_node.results.source import (
    stand_in_of,
    without_identity,
)
from dicom_node.results.uids import statement_uid

_DISCLAIMER: Final = "A person's assessment of an AI result - not for diagnostic use"
_IMAGE_LIBRARY, _PROCEDURE = "111028", "121058"  # PS3.16 TID 1600, TID 1500


@dataclass(frozen=True, slots=True)
class FindingAssessment:
    """One finding of a report with a person's verdict on it. ``code``: value and scheme of the finding.

    ``tracking_uid``: "" if the finding has none in the report, as absent or missing ones. ``model`` and
    ``version``: the model that reported it. ``because``: the person's reason, "" without one. ``at``: the
    time of the verdict, with time zone.
    """

    finding: str
    code: tuple[str, str]
    tracking_uid: str
    model: str
    version: str
    verdict: ReaderVerdict
    because: str
    at: datetime


def build_assessment(
    report: Path,
    said: Sequence[FindingAssessment],
    person: str,
    station: str,
    installation: Installation,
    former: str,
) -> BuiltObject:
    """Build the SR with the verdicts of ``person`` (a user name) on the findings in the SR file ``report``.

    ``said``: the verdicts. ``station``: our AE title. ``former``: SOP Instance UID of the assessment that
    this one replaces, or "". Raises ResultRefused.
    """
    with quiet_pydicom():
        about = dcmread(report)
    context = ResultContext.of_person("assessment", max(one.at for one in said), installation, station)
    shaping = [
        (one.finding, *one.code, one.tracking_uid, one.model, one.version, one.verdict, one.because, one.at)
        for one in said
    ]
    parts = (str(about.SOPInstanceUID), person, *(str(part) for one in shaping for part in one))
    series_uid = derived_uid("assessment series", str(about.StudyInstanceUID), person)
    document = Comprehensive3DSR(
        evidence=[without_identity(about)],
        content=_content(context, about, said, person),
        series_instance_uid=series_uid,
        series_number=series_number_beside(about, ResultKind.ASSESSMENT),
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=deepcopy(about.get("ReferencedRequestSequence")) or None,
        performed_procedure_codes=[
            CodedConcept.from_dataset(item) for item in about.get("PerformedProcedureCodeSequence") or []
        ],
        # The assessment that this one replaces: of the same person, so of the same series.
        previous_versions=[stand_in_of(Comprehensive3DSRStorage, former, about.StudyInstanceUID, series_uid)]
        if former
        else None,
        coding_schemes=coding_schemes(),
        **object_arguments(context, ResultKind.ASSESSMENT, statement_uid(context, "assessment", *parts)),
    )
    # Patient and study as the report has them.
    copy_attributes(document, about, *COPIED, "BodyPartExamined", "Laterality")
    _refer_to_report(document, about)
    built = built_document(document, context, ResultKind.ASSESSMENT, about, former)
    gate.check_assessment(built.data or b"", document, about)
    return built


def _content(
    context: ResultContext, about: Dataset, said: Sequence[FindingAssessment], person: str
) -> MeasurementReport:
    """The content tree (TID 1500): who says it, of which report ``about``, and a group for each finding."""
    content = MeasurementReport(
        # TID 1001 with a person (TID 1003: the account's name) and the node on which it was said (TID 1004).
        observation_context=ObservationContext(
            observer_person_context=ObserverContext(
                observer_type=codes.DCM.Person,
                observer_identifying_attributes=PersonObserverIdentifyingAttributes(
                    name=f"{person}^", login_name=person
                ),
            ),
            observer_device_context=device_observer(context),
        ),
        procedure_reported=[
            CodedConcept.from_dataset(item.ConceptCodeSequence[0])
            for item in about.ContentSequence
            if name_of(item) == _PROCEDURE
        ],
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[_finding_group(about, assessment) for assessment in said],
    )
    *first, measurements = content[0].ContentSequence
    assessed = UIDRefContentItem(
        OURS["ASSESSEDREPORT"], about.SOPInstanceUID, RelationshipTypeValues.CONTAINS
    )
    disclaimer = text_item(codes.DCM.Comment, _DISCLAIMER)
    content[0].ContentSequence = ContentSequence([*first, assessed, disclaimer, measurements])
    return content


def _finding_group(about: Dataset, one: FindingAssessment) -> MeasurementsAndQualitativeEvaluations:
    """The group (TID 1501) of a finding, with its own tracking UID, the model that found it, and the
    verdict.
    """
    own = derived_uid("assessed finding", str(about.SOPInstanceUID), one.finding, one.model, one.version)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=one.tracking_uid or own, identifier=one.finding),
        finding_type=CodedConcept(*one.code, one.finding[:64]),
        algorithm_id=AlgorithmIdentification(name=one.model, version=one.version),
        qualitative_evaluations=[QualitativeEvaluation(OURS["ASSESSMENT"], OURS[one.verdict.upper()])],
    )
    if one.because:
        group[0].ContentSequence.append(text_item(codes.DCM.Comment, one.because))
    return group


def _refer_to_report(document: Dataset, about: Dataset) -> None:
    """Add the images of the report with their series, and why the report is named (PS3.3 C.17.2)."""
    library = [deepcopy(item) for item in about.ContentSequence if name_of(item) == _IMAGE_LIBRARY]
    *first, measurements = document.ContentSequence
    document.ContentSequence = [*first, *library, measurements]
    [mine] = document.CurrentRequestedProcedureEvidenceSequence
    for study in about.CurrentRequestedProcedureEvidenceSequence:
        if study.StudyInstanceUID == mine.StudyInstanceUID:
            mine.ReferencedSeriesSequence.extend(deepcopy(study.ReferencedSeriesSequence))
    related = Dataset()
    set_values(
        related,
        ReferencedSOPClassUID=about.SOPClassUID,
        ReferencedSOPInstanceUID=about.SOPInstanceUID,
        PurposeOfReferenceCodeSequence=[CodedConcept.from_code(OURS["ASSESSEDREPORT"])],
    )
    document.ReferencedInstanceSequence = [related]
