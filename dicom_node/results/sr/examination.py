"""The examination in a header as codes for the report: body part and side, view, procedure.

The image library of the report (TID 1600 to 1603) states them for each analysed image.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Final

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    RelationshipTypeValues,
)
from highdicom.sr.templates import ImageLibraryEntryDescriptors
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from dicom_node.results.common import concepts, iods
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.envelope import body_part_of, has_two_regions
from dicom_node.results.common.source import Source

_RADIOGRAPHS: Final = frozenset({"CR", "DX", "MG"})


def target_of(context: ResultContext, source: Source) -> CodedConcept:
    """The body region for TID 1602: the first region of CID 4031 that image or pipeline name, else the one
    in which an organ lies that the image names. Without any, the whole body.
    """
    return _target(context, source) or CodedConcept.from_code(concepts.ENTIRE_BODY)


def view_of(source: Source) -> CodedConcept | DicomCode | None:
    """The code of the view as which it was judged, or of View Position (0018,5101), else View Code Sequence
    (0054,0220); for radiographs only.
    """
    if source.header.get("Modality") not in _RADIOGRAPHS:
        return None
    given = [] if source.view else _codes(source.header, "ViewCodeSequence")
    return given[0] if given else concepts.VIEWS.get(source.view)


def procedures_reported(sources: Sequence[Source]) -> list[CodedConcept]:
    """(121058, DCM): the kind of the views, in codes of CID 100.

    The codes of the source are in Performed Procedure Code Sequence: validators take no others than those
    of CID 100 here, though it is a baseline (TID 1207).
    """
    return _once(sources, _reported)


def procedure_sites(
    context: ResultContext, sources: Sequence[Source], procedure: CodedConcept
) -> list[ContentItem]:
    """The regions that the procedure reported was of: its code names none."""
    same_kind = (source for source in sources if _reported(source)[0] == procedure)
    known = filter(None, (_target(context, source) for source in same_kind))
    sites = {region.value: region for region in known}.values()
    modifies = RelationshipTypeValues.HAS_CONCEPT_MOD
    return [CodeContentItem(concepts.PROCEDURE_SITE, region, modifies) for region in sites]


def procedures_performed(sources: Sequence[Source]) -> list[CodedConcept]:
    """(0040,A372): the source's Procedure Code Sequence (0008,1032), else the examination that its views
    show.
    """
    return _once(
        sources, lambda source: _codes(source.header, "ProcedureCodeSequence") or _examination(source)
    )


def _reported(source: Source) -> Sequence[CodedConcept | DicomCode]:
    radiograph = source.header.get("Modality") in _RADIOGRAPHS
    return [concepts.RADIOGRAPH if radiograph else concepts.IMAGING_PROCEDURE]


def _examination(source: Source) -> Sequence[CodedConcept | DicomCode]:
    modality = source.header.get("Modality")
    if modality in {"US", "IVUS"}:
        return [concepts.ULTRASONOGRAPHY]
    if modality not in _RADIOGRAPHS:
        return [concepts.IMAGING_PROCEDURE]
    return [concepts.CHEST_RADIOGRAPHY if body_part_of(source).upper() == "CHEST" else concepts.RADIOGRAPHY]


def _once(
    sources: Sequence[Source], codes_of: Callable[[Source], Sequence[CodedConcept | DicomCode]]
) -> list[CodedConcept]:
    found = {(code.scheme_designator, code.value): code for source in sources for code in codes_of(source)}
    return [CodedConcept(code.value, code.scheme_designator, code.meaning) for code in found.values()]


def regions_of(context: ResultContext, source: Source) -> Iterator[CodedConcept | DicomCode]:
    """Anatomic Region Sequence (0008,2218), Body Part Examined (PS3.16 Annex L), the pipeline's region.

    The pipeline's alone where the two contradict each other.
    """
    if not has_two_regions(source):
        yield from _codes(source.header, "AnatomicRegionSequence")
        if named := iods.region(source.header.get("BodyPartExamined")):
            yield named
    if context.region is not None:
        yield concepts.coded(context.region)


def _target(context: ResultContext, source: Source) -> CodedConcept | None:
    named = (
        concepts.region_of(one.value) or concepts.region_in_words(str(one.meaning)) or one
        for one in regions_of(context, source)
    )
    return next(filter(None, map(_common_region, named)), None)


def _common_region(region: CodedConcept | DicomCode) -> CodedConcept | None:
    """The member of CID 4031 with this code, in words of the standard."""
    given = DicomCode(region.value, region.scheme_designator, region.meaning)
    former = concepts.FORMER_REGIONS
    known = (code for code in _common_regions() if given in (code, former.get(code.value, code)))
    member = next(known, None)
    if member is None:
        return None
    if member.value in former:
        return concepts.with_equivalent(former[member.value], member)
    return CodedConcept.from_code(member)


@cache
def _common_regions() -> tuple[DicomCode, ...]:
    """CID 4031, as far as validators of 2022 know it."""
    group = codes.cid4031
    members = [getattr(group, word) for word in group.dir()]
    return tuple(code for code in members if code.value not in concepts.NEW_REGIONS)


def _codes(header: Dataset, keyword: str) -> list[CodedConcept]:
    """The codes of a sequence; a content item cannot state one without its scheme (a URN)."""
    items = [concepts.code_alone(item) for item in header.get(keyword) or []]
    return [CodedConcept.from_dataset(item) for item in items if "CodingSchemeDesignator" in item]


_HAS_ACQ_CONTEXT: Final = RelationshipTypeValues.HAS_ACQ_CONTEXT


def all_frames(source: Source) -> list[int] | None:
    """Numbers (from 1) of all frames of a cine, because PixelMed expects them in references; None for a
    still.
    """
    return list(range(1, source.frames + 1)) if source.frames > 1 else None


def image_library(context: ResultContext, sources: Sequence[Source]) -> ContainerContentItem:
    """TID 1600 with one group, one entry for each image."""
    group = _container(codes.DCM.ImageLibraryGroup, [_entry(context, source) for source in sources])
    return _container(codes.DCM.ImageLibrary, [group])


def _entry(context: ResultContext, source: Source) -> ContentItem:
    """TID 1601: the image, every frame of it, with its descriptors (TID 1602, 1603)."""
    item = ImageContentItem(
        name=concepts.SOURCE,
        referenced_sop_class_uid=source.stand_in.SOPClassUID,
        referenced_sop_instance_uid=source.uid,
        referenced_frame_numbers=all_frames(source),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    item.ContentSequence = ContentSequence(_descriptors(context, source))
    return item


def _descriptors(context: ResultContext, source: Source) -> Iterator[ContentItem]:
    for item in ImageLibraryEntryDescriptors(source.stand_in):
        # CID 29 has no "Other": of a secondary capture the modality is left out.
        name = item.ConceptNameCodeSequence[0].CodeValue
        if name != codes.DCM.Modality.value or item.ConceptCodeSequence[0].CodeValue != "OT":
            yield item
    yield CodeContentItem(concepts.TARGET_REGION, target_of(context, source), _HAS_ACQ_CONTEXT)
    if (view := view_of(source)) is not None:
        yield CodeContentItem(concepts.IMAGE_VIEW, view, _HAS_ACQ_CONTEXT)


def _container(name: object, items: Sequence[ContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(name=name, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container
