"""Content items of an SR (PS3.3 C.17.3) that several parts of a report are made of."""

from collections.abc import Iterable
from typing import Final

from highdicom.sr import (
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    FindingSite,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.sr.coding import Code as DicomCode

from dicom_node.results.located import Number, ReportedFinding
from dicom_node.results.source import Source

CONTAINS: Final = RelationshipTypeValues.CONTAINS
INFERRED_FROM: Final = RelationshipTypeValues.INFERRED_FROM


def text_item(
    name: DicomCode, value: str, related: RelationshipTypeValues = RelationshipTypeValues.CONTAINS
) -> TextContentItem:
    """A TEXT content item with this concept name; ``related``: its relationship to the parent item."""
    return TextContentItem(name, value, related)


def container(name: object, items: Iterable[ContentItem], *, separate: bool = False) -> ContentItem:
    """A CONTAINER content item with this concept name that contains ``items``.

    ``separate``: Continuity Of Content is SEPARATE, so that each item is shown on a line of its own, with its
    name (PS3.3 C.18.8).
    """
    item = ContainerContentItem(name, is_content_continuous=not separate, relationship_type=CONTAINS)
    return with_items(item, items)


def with_items(item: ContentItem, items: Iterable[ContentItem]) -> ContentItem:
    """The content item with ``items`` directly below it."""
    item.ContentSequence = ContentSequence(list(items))  # which iterates three times
    return item


def frame_numbers(source: Source, frame: int | None) -> list[int] | None:
    """The frame number to state in a reference to an image, as a list; None for a still. ``frame`` None: the
    first.
    """
    return [frame or 1] if source.frames > 1 else None


def all_frames(source: Source) -> list[int] | None:
    """The numbers (from 1) of all frames of a cine, because PixelMed expects them in references; None for a
    still.
    """
    return list(range(1, source.frames + 1)) if source.frames > 1 else None


def image_item(source: Source, frames: list[int] | None, name: object, related: object) -> ImageContentItem:
    """An IMAGE content item that refers to ``source``; ``frames``: numbers from 1, None for a still.

    ``name``: its concept name; ``related``: its relationship to the parent item.
    """
    return ImageContentItem(
        name=name,
        referenced_sop_class_uid=source.stand_in.SOPClassUID,
        referenced_sop_instance_uid=source.uid,
        referenced_frame_numbers=frames,
        relationship_type=related,
    )


def number_items(number: Number | None, related: object) -> list[ContentItem]:
    """The NUM content item with a finding's number or cut-off; an empty list without one. ``related``: its
    relationship to the parent item.
    """
    return [NumContentItem(*number, relationship_type=related)] if number else []


def finding_sites(finding: ReportedFinding) -> list[FindingSite]:
    """The content item with location and side of a finding; an empty list if no location is known."""
    return [FindingSite(*finding.sites)] if finding.sites else []
