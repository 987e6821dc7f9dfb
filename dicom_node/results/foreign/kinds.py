"""The kinds of object that a program may return, with their SOP classes (PS3.4 B.5)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from dicom_node.base.dicom.uids import SECONDARY_CAPTURES

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."


class ForeignKind(StrEnum):
    """Kinds of a program's objects. Those of ``lifecycle.ResultKind`` that mean the same have its values."""

    REPORT = "sr"
    PRESENTATION = "gsps"
    PICTURE = "sc"
    SEGMENTATION = "seg"
    DOCUMENT = "pdf"
    IMAGE = "image"  # derived or enhanced, in the class of a modality
    PARAMETRIC_MAP = "map"
    STRUCTURE_SET = "rtstruct"
    KEY_OBJECTS = "kos"
    UNKNOWN = "unknown"


LABEL_MAP_SEGMENTATION: Final = _STORAGE + "66.7"
COLOUR_PRESENTATIONS: Final = frozenset({_STORAGE + "11.2", _STORAGE + "11.3"})
"""Color and Pseudo-Color Softcopy Presentation State."""

_BY_CLASS: Final[Mapping[str, ForeignKind]] = {
    # Basic Text, Enhanced, Comprehensive, Comprehensive 3D, Extensible SR
    **{_STORAGE + f"88.{end}": ForeignKind.REPORT for end in ("11", "22", "33", "34", "35")},
    # Grayscale, Color, Pseudo-Color
    **{_STORAGE + f"11.{end}": ForeignKind.PRESENTATION for end in ("1", "2", "3")},
    **dict.fromkeys(SECONDARY_CAPTURES, ForeignKind.PICTURE),
    _STORAGE + "66.4": ForeignKind.SEGMENTATION,
    LABEL_MAP_SEGMENTATION: ForeignKind.SEGMENTATION,
    _STORAGE + "104.1": ForeignKind.DOCUMENT,
    _STORAGE + "30": ForeignKind.PARAMETRIC_MAP,
    _STORAGE + "481.3": ForeignKind.STRUCTURE_SET,
    _STORAGE + "88.59": ForeignKind.KEY_OBJECTS,
}
# By what their SOP class UIDs begin with: classes with pixels that a modality makes (PS3.4 Table B.5-1).
_IMAGES: Final[Mapping[str, frozenset[str]]] = {
    modality: frozenset(_STORAGE + end for end in ends.split())
    for modality, ends in {
        "CR": "1", "DX": "1.1 1.1.1", "MG": "1.2 1.2.1 13.1.3 13.1.4 13.1.5", "IO": "1.3 1.3.1",
        "CT": "2 2.1 2.2", "US": "3.1 6.1 6.2 6.3", "MR": "4 4.1 4.3 4.4", "NM": "20", "PT": "128 128.1 130",
        "XA": "12.1 12.1.1 13.1.1", "RF": "12.2 12.2.1", "OP": "77.1.5.1 77.1.5.2", "OPT": "77.1.5.4",
        "XC": "77.1.4 77.1.4.1", "ES": "77.1.1 77.1.1.1", "GM": "77.1.2", "SM": "77.1.6",
    }.items()
}  # fmt: skip
_MODALITY_OF_KIND: Final = {
    ForeignKind.REPORT: frozenset({"SR"}),
    ForeignKind.PRESENTATION: frozenset({"PR"}),
    ForeignKind.SEGMENTATION: frozenset({"SEG"}),
    ForeignKind.STRUCTURE_SET: frozenset({"RTSTRUCT"}),
    ForeignKind.KEY_OBJECTS: frozenset({"KO"}),
}
WITH_PIXELS: Final = frozenset(
    {
        ForeignKind.PICTURE,
        ForeignKind.IMAGE,
        ForeignKind.SEGMENTATION,
        ForeignKind.PARAMETRIC_MAP,
    }
)


def kind_of(sop_class_uid: str) -> ForeignKind:
    """The kind of an object of this SOP class; UNKNOWN for private, retired and all other classes."""
    if any(sop_class_uid in classes for classes in _IMAGES.values()):
        return ForeignKind.IMAGE
    return _BY_CLASS.get(sop_class_uid, ForeignKind.UNKNOWN)


def modalities_of(sop_class_uid: str) -> frozenset[str]:
    """The values of Modality (0008,0060) that objects of this SOP class have; empty if the class leaves it
    open (secondary captures, parametric maps, PDF).
    """
    found = {modality for modality, classes in _IMAGES.items() if sop_class_uid in classes}
    if found == {"XA"} and sop_class_uid.endswith("12.1"):
        found.add("DSA")
    return frozenset(found) or _MODALITY_OF_KIND.get(kind_of(sop_class_uid), frozenset())
