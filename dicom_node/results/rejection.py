"""The rejection note of IHE IOCM (RAD TF-3, 4.66): a Key Object Selection that names the withdrawn
results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Final

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import ContentSequence
from pydicom import dcmread
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.dicom.header import quiet_pydicom
from dicom_node.dicom.identity import COPIED
from dicom_node.dicom.own_objects import Installation
from dicom_node.dicom.uids import derived_uid
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.results.common.context import BuiltObject, ResultContext
from dicom_node.results.common.envelope import SERIES_NUMBERS, UTF8, built_document
from dicom_node.results.common.equipment import contributing_equipment, device_observer, general_equipment
from dicom_node.results.common.fetus import fetus_of_reports, subject_context
from dicom_node.results.common.identity import document_uid
from dicom_node.results.common.source import without_identity

# CID 7011: the titles that IOCM takes for reasons of a person.
_TITLES: Final[Mapping[RejectionReason, Code]] = {
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
    """Build the rejection note for these results of one study, given as files; in the character set of the
    first.

    ``because``: its Key Object Description (TID 2010). ``at``: the time in all its attributes; ``station``:
    our AE title.
    """
    with quiet_pydicom():
        objects = [dcmread(path, stop_before_pixels=True) for path in withdrawn]
    context = ResultContext.of_person("withdrawal", at, installation, station)
    first = objects[0]
    parts = (reason, because, *sorted(str(one.SOPInstanceUID) for one in objects))
    content = KeyObjectSelection(
        document_title=_TITLES[reason],
        referenced_objects=objects,
        observer_device_context=device_observer(context),
        description=because,
    )
    if fetus := fetus_of_reports(objects):
        by_relationship = sorted(
            [*content[0].ContentSequence, *subject_context(fetus)],
            key=lambda item: item.RelationshipType != "HAS OBS CONTEXT",
        )
        content[0].ContentSequence = ContentSequence(by_relationship)
    note = KeyObjectSelectionDocument(
        evidence=[without_identity(one) for one in objects],
        content=content,
        series_instance_uid=derived_uid("rejection series", *parts),
        series_number=SERIES_NUMBERS[ResultKind.REJECTION],
        sop_instance_uid=document_uid(context, "rejection", *parts),
        instance_number=1,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=UTF8,
        contributing_equipment=contributing_equipment(
            context, str(first.get("TimezoneOffsetFromUTC") or ""), ResultKind.REJECTION
        ),
        **general_equipment(context),
    )
    for keyword in COPIED:
        if keyword in first:
            note[keyword] = deepcopy(first[keyword])
    return built_document(note, context, ResultKind.REJECTION, first)
