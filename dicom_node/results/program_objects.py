"""Objects that a program returned, after the gate judged them (``results.foreign``): encoded for release."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from dicom_node.base.lifecycle import ResultKind
from dicom_node.results import gate
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import UTF8, encode_in_charset_of
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.verdict import JudgedAnswer, JudgedObject, Verdict
from dicom_node.results.source import Source

KINDS: Final[Mapping[ForeignKind, ResultKind]] = {
    # Not SR: what reads our reports must not read those of others as ours.
    ForeignKind.REPORT: ResultKind.PROGRAM_SR,
    ForeignKind.PRESENTATION: ResultKind.GSPS,
    ForeignKind.PICTURE: ResultKind.SC,
    ForeignKind.SEGMENTATION: ResultKind.SEG,
    ForeignKind.DOCUMENT: ResultKind.PDF,
    ForeignKind.IMAGE: ResultKind.IMAGE,
    ForeignKind.PARAMETRIC_MAP: ResultKind.MAP,
    ForeignKind.STRUCTURE_SET: ResultKind.STRUCTURE_SET,
    ForeignKind.KEY_OBJECTS: ResultKind.KEY_OBJECTS,
}
"""The kind of result as which a program's object is stored; UNKNOWN ones are always refused."""


def build_program_objects(
    answer: JudgedAnswer, context: ResultContext, sources: Sequence[Source]
) -> list[BuiltObject]:
    """Encode the objects of an answer that are not refused, and check the bytes before their release.

    An object that exists already is named, not built again. ``sources``: the program's images, of one patient
    and study. Raises ResultRefused.
    """
    return [_built(one, context, sources) for one in answer.objects if one.verdict is not Verdict.REFUSED]


def _built(judged: JudgedObject, context: ResultContext, sources: Sequence[Source]) -> BuiltObject:
    """Encode and check one object."""
    dataset = judged.dataset
    assert dataset is not None, "only a refused object has no data set"
    planned = BuiltObject(
        kind=KINDS[judged.kind],
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=judged.sop_class_uid,
        series_instance_uid=str(dataset.SeriesInstanceUID),
        supersedes="",
        data=None,
        of_program=True,
        held=judged.verdict is Verdict.HELD,
    )
    if context.exists(planned.sop_instance_uid):
        return planned
    dataset.SpecificCharacterSet = UTF8
    data = encode_in_charset_of(dataset, dataset)
    gate.check_of_program(data, dataset, planned.kind, sources)
    return replace(planned, data=data)
