"""What a header says of the examination: body part and side, view, procedure; in codes for the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

from highdicom._standard_utils import get_anatomic_region_map
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from dicom_node.results.common import concepts
from dicom_node.results.common.envelope import is_unpaired
from dicom_node.results.common.source import Source

_RADIOGRAPHS: Final = frozenset({"CR", "DX", "MG"})


def region_of(source: Source) -> CodedConcept | DicomCode | None:
    """Anatomic Region Sequence (0008,2218), else what Body Part Examined says (PS3.16 Annex L)."""
    given = _codes(source.header, "AnatomicRegionSequence")
    if given:
        return given[0]
    known = get_anatomic_region_map().get(str(source.header.get("BodyPartExamined") or "").upper())
    return known[0] if known else None


def side_of(source: Source) -> str:
    """L or R where the image shows one side of a paired body part, else empty."""
    part = str(source.header.get("BodyPartExamined") or "")
    letter = str(source.header.get("ImageLaterality") or source.header.get("Laterality") or "").upper()
    return letter if part and not is_unpaired(part) and letter in concepts.SIDES else ""


def target_of(source: Source) -> CodedConcept | None:
    """The body region as TID 1602 wants it (CID 4031); None where that has no such region."""
    region = region_of(source)
    if region is None or region.scheme_designator != "SCT" or region.value in concepts.NEW_REGIONS:
        return None
    code = DicomCode(region.value, "SCT", region.meaning)
    if region.value in concepts.FORMER_REGIONS:
        return concepts.with_equivalent(concepts.FORMER_REGIONS[region.value], code)
    return CodedConcept.from_code(code) if region.value in _common_regions() else None


def view_of(source: Source) -> CodedConcept | DicomCode | None:
    """View Code Sequence (0054,0220), else what View Position (0018,5101) says; of radiographs only."""
    if source.header.get("Modality") not in _RADIOGRAPHS:
        return None
    given = _codes(source.header, "ViewCodeSequence")
    return given[0] if given else concepts.VIEWS.get(str(source.header.get("ViewPosition") or ""))


def procedures_reported(sources: Sequence[Source]) -> list[CodedConcept]:
    """(121058, DCM), by CID 100: the codes of the source that it has, else the kind of its views."""
    return _once(sources, _reported)


def procedures_performed(sources: Sequence[Source]) -> list[CodedConcept]:
    """(0040,A372): the source's Procedure Code Sequence (0008,1032), else the examination of its views."""
    return _once(
        sources, lambda source: _codes(source.header, "ProcedureCodeSequence") or _examination(source)
    )


def _reported(source: Source) -> Sequence[CodedConcept | DicomCode]:
    given = _codes(source.header, "ProcedureCodeSequence")
    known = [code for code in given if (code.scheme_designator, code.value) in _imaging_procedures()]
    radiograph = source.header.get("Modality") in _RADIOGRAPHS
    return known or [concepts.RADIOGRAPH if radiograph else concepts.IMAGING_PROCEDURE]


def _examination(source: Source) -> Sequence[CodedConcept | DicomCode]:
    modality = source.header.get("Modality")
    if modality in {"US", "IVUS"}:
        return [concepts.ULTRASONOGRAPHY]
    if modality not in _RADIOGRAPHS:
        return [concepts.IMAGING_PROCEDURE]
    chest = str(source.header.get("BodyPartExamined") or "").upper() == "CHEST"
    return [concepts.CHEST_RADIOGRAPHY if chest else concepts.RADIOGRAPHY]


def _once(
    sources: Sequence[Source], codes_of: Callable[[Source], Sequence[CodedConcept | DicomCode]]
) -> list[CodedConcept]:
    found = {(code.scheme_designator, code.value): code for source in sources for code in codes_of(source)}
    return [CodedConcept(code.value, code.scheme_designator, code.meaning) for code in found.values()]


@cache
def _imaging_procedures() -> frozenset[tuple[str, str]]:
    group = codes.cid100
    members = [getattr(group, word) for word in group.dir()]
    return frozenset((code.scheme_designator, code.value) for code in members)


@cache
def _common_regions() -> frozenset[str]:
    group = codes.cid4031
    return frozenset(getattr(group, word).value for word in group.dir())


def _codes(header: Dataset, keyword: str) -> list[CodedConcept]:
    return [CodedConcept.from_dataset(_one_code(item)) for item in header.get(keyword) or []]


def _one_code(item: Dataset) -> Dataset:
    """The code alone: modifiers and private attributes of the source have no place in a content item."""
    wanted = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion")
    code = Dataset()
    for keyword in (*wanted, "CodeMeaning"):
        if keyword in item:
            code[keyword] = item[keyword]
    return code
