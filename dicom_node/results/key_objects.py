"""Key objects: a selection (PS3.3 A.35.4, PS3.16 TID 2010) that names the results of one analysis."""

from collections.abc import Iterable, Sequence
from typing import Final

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import ContentSequence
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_node.base.lifecycle import PICTURES, ResultKind
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.concepts import subject_context
from dicom_node.results.context import ResultContext
from dicom_node.results.envelope import complete, header_arguments, models_of, referenced_requests
from dicom_node.results.equipment import device_observer
from dicom_node.results.report import Report
from dicom_node.results.source import stand_in_of, without_identity

OF_INTEREST: Final = Code("113000", "DCM", "Of Interest")
"""Document title (CID 7010)."""


def selection(
    title: Code, objects: Sequence[Dataset], context: ResultContext, description: str, fetus: str
) -> KeyObjectSelection:
    """The content tree (TID 2010) that names ``objects``, with this node as observer.

    ``title``: of CID 7010. ``description``: the Key Object Description. ``fetus``: its letter or number if
    the objects are about a fetus, "" for the patient.
    """
    content = KeyObjectSelection(
        document_title=title,
        referenced_objects=objects,
        observer_device_context=device_observer(context),
        description=description,
    )
    if fetus:
        content[0].ContentSequence = ContentSequence(
            sorted(
                [*content[0].ContentSequence, *subject_context(fetus)],
                key=lambda item: item.RelationshipType != "HAS OBS CONTEXT",
            )
        )
    return content


def build_key_objects(report: Report, named: Iterable[BuiltObject], uid: str) -> Dataset:
    """Build the selection of the results ``named`` of the job of ``report``; ``uid``: its SOP Instance UID.

    All that it names is in Current Requested Procedure Evidence Sequence (PS3.3 C.17.6.2.1).
    """
    context, sources = report.context, report.sources
    objects = [_referenced(one, sources[0].study_uid) for one in named]
    description = f"AI results of this study: {models_of(context)}; not for diagnostic use"
    document = KeyObjectSelectionDocument(
        evidence=[without_identity(one) for one in objects],
        content=selection(OF_INTEREST, objects, context, description, report.fetus),
        requested_procedures=referenced_requests(sources[0]) or None,
        **header_arguments(context, ResultKind.KEY_OBJECTS, sources[0], uid, 1),
    )
    return complete(document, context, ResultKind.KEY_OBJECTS, sources)


def _referenced(one: BuiltObject, study_uid: str) -> Dataset:
    """What highdicom reads of a result that is referenced; one with rows and columns is named as an image."""
    found = stand_in_of(one.sop_class_uid, one.sop_instance_uid, study_uid, one.series_instance_uid)
    if one.kind in PICTURES | {ResultKind.SEG}:
        found.Rows = found.Columns = 1
    return found
