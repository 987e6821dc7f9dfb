"""The rejection note of IHE IOCM (RAD TF-3, 4.66): a Key Object Selection that names withdrawn results."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from highdicom.ko import KeyObjectSelectionDocument
from pydicom import dcmread
from pydicom.sr.coding import Code

from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import Installation, derived_uid
from dicom_node.base.lifecycle import RejectionReason, ResultKind
from dicom_node.results.built_object import BuiltObject, built_document
from dicom_node.results.concepts import fetus_of_reports
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import copy_attributes
from dicom_node.results.envelope import object_arguments
from dicom_node.results.key_objects import selection
from dicom_node.results.series import series_number_beside
from dicom_node.results.source import (
    without_identity,
)
from dicom_node.results.uids import statement_uid

# CID 7011: the titles that IOCM takes for reasons of a person.
_TITLES: Final = {
    RejectionReason.QUALITY: Code("113001", "DCM", "Rejected for Quality Reasons"),
    RejectionReason.SAFETY: Code("113037", "DCM", "Rejected for Patient Safety Reasons"),
}


def build_rejection(
    withdrawn: Sequence[Path],
    reason: RejectionReason,
    because: str,
    at: datetime,
    station: str,
    installation: Installation,
) -> BuiltObject:
    """Build the rejection note (IHE IOCM) that withdraws these result files, all of one study.

    Its character set is that of the first file. ``because``: the person's reason, its Key Object Description
    (TID 2010). ``at``: the time in all its attributes; ``station``: our AE title.
    """
    with quiet_pydicom():
        objects = [dcmread(path, stop_before_pixels=True) for path in withdrawn]
    context = ResultContext.of_person("withdrawal", at, installation, station)
    first = objects[0]
    parts = (reason, because, *sorted(str(one.SOPInstanceUID) for one in objects))
    note = KeyObjectSelectionDocument(
        evidence=[without_identity(one) for one in objects],
        content=selection(_TITLES[reason], objects, context, because, fetus_of_reports(objects)),
        series_instance_uid=derived_uid("rejection series", *parts),
        series_number=series_number_beside(first, ResultKind.REJECTION),
        **object_arguments(context, ResultKind.REJECTION, statement_uid(context, "rejection", *parts)),
    )
    copy_attributes(note, first, *COPIED)
    return built_document(note, context, ResultKind.REJECTION, first)
