"""The image library of the report (TID 1600 to 1603): what was looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    RelationshipTypeValues,
)
from highdicom.sr.templates import ImageLibraryEntryDescriptors
from pydicom.sr.codedict import codes

from dicom_node.results.common import concepts
from dicom_node.results.common.source import Source
from dicom_node.results.sr.content import all_frames
from dicom_node.results.sr.examination import target_of, view_of


def image_library(sources: Sequence[Source]) -> ContainerContentItem:
    """TID 1600 with one group, one entry for each image."""
    group = _container(codes.DCM.ImageLibraryGroup, [_entry(source) for source in sources])
    return _container(codes.DCM.ImageLibrary, [group])


def _entry(source: Source) -> ContentItem:
    """TID 1601: the image, every frame of it, with its descriptors (TID 1602, 1603)."""
    item = ImageContentItem(
        name=concepts.SOURCE,
        referenced_sop_class_uid=source.stand_in.SOPClassUID,
        referenced_sop_instance_uid=source.uid,
        referenced_frame_numbers=all_frames(source),
        relationship_type=RelationshipTypeValues.CONTAINS,
    )
    item.ContentSequence = ContentSequence(_descriptors(source))
    return item


def _descriptors(source: Source) -> Iterator[ContentItem]:
    for item in ImageLibraryEntryDescriptors(source.stand_in):
        # CID 29 has no "Other": of a secondary capture the modality is left out.
        if item.ConceptNameCodeSequence[0].CodeValue != codes.DCM.Modality.value or not _is_other(item):
            yield item
    for name, value in ((concepts.TARGET_REGION, target_of(source)), (concepts.IMAGE_VIEW, view_of(source))):
        if value is not None:
            yield CodeContentItem(name, value, RelationshipTypeValues.HAS_ACQ_CONTEXT)


def _is_other(item: ContentItem) -> bool:
    return bool(item.ConceptCodeSequence[0].CodeValue == "OT")


def _container(name: object, items: Sequence[ContentItem]) -> ContainerContentItem:
    container = ContainerContentItem(name=name, relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence(items)
    return container
