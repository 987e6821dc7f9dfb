"""Key object selections of a program (PS3.3 A.35.4, TID 2010): a title that hides nothing, given images."""

from collections.abc import Iterator
from typing import Final

from dicom_node.results.concepts import name_of
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.report import content
from dicom_node.results.foreign.verdict import Remark, refused, repaired

_REJECTIONS: Final = frozenset({"113001", "113010", "113037", "113038", "113039"})
"""Rejected for quality or safety reasons, quality issue, incorrect worklist entry, expired (CID 7011)."""
_TITLES: Final = frozenset(
    {
        "113000", "113002", "113003", "113004", "113005", "113006", "113007", "113008", "113009", "113013",
        "113018", "113020", "113021", "113030", "113031", "113032", "113033", "113034", "113035", "113036",
    }
)  # fmt: skip
"""Other titles of CID 7010 Key Object Selection Document Title."""


def check_key_objects(candidate: Candidate) -> Iterator[Remark]:
    """Yield a title by which a PACS hides images (IHE IOCM), one that is none, or a selection of nothing."""
    dataset = candidate.dataset
    title = name_of(dataset)
    if title in _REJECTIONS:
        yield refused("it is a rejection note: a program may not hide images")
    elif title not in _TITLES:
        yield refused("its title is none of a key object selection (CID 7010)")
    if text_of(dataset, "ValueType") != "CONTAINER":
        yield refused("the root of the selection is no CONTAINER")
    if not any(sequence(item, "ReferencedSOPSequence") for item, _ in content(dataset)):
        yield refused("it selects nothing")
    if not sequence(dataset, "ContentTemplateSequence"):
        template = type(dataset)()
        template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
        dataset.ContentTemplateSequence = [template]
        yield repaired("the template of the selection was named")
    dataset.setdefault("ReferencedPerformedProcedureStepSequence", [])
