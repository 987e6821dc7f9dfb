"""The Basic Application Level Confidentiality Profile (PS3.15 E.2), by Table E.1-1 of edition 2026c.

The table is from dicom-anonymizer. The meaning of X/Z/D and similar actions depends on the attribute's type
in the object's IOD, which highdicom's tables give. The iteration is our own: the library's acts only on the
root of a data set and draws new UIDs at random.

UIDs (action U) are not changed here: objects are built from sources that have other UIDs already. Nor are the
attributes that options retain (:mod:`.retained`) kept here: the builder copies them from those sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from enum import StrEnum
from functools import cache
from typing import Any, Final

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from highdicom.sr import CodedConcept
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import BaseTag

from dicom_node.dicom.walk import items
from dicom_node.errors import ResultRefused
from dicom_node.model.deidentified import OPTIONS, Retained, is_deidentified, retained_by
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common import iods
from dicom_node.results.deidentify.retained import KEYWORDS

EDITION: Final = "2026c"
DUMMY_DATE: Final = "19000101"
BASIC_PROFILE: Final = DicomCode("113100", "DCM", "Basic Application Confidentiality Profile")
CLEAN_PIXEL_DATA: Final = DicomCode("113101", "DCM", "Clean Pixel Data Option")
CLEAN_STRUCTURED_CONTENT: Final = DicomCode("113104", "DCM", "Clean Structured Content Option")
# A mask has neither pixels of the source nor content items: the basic profile is all that was applied to it.
_OPTIONS: Final = {ResultKind.CLEANED: (CLEAN_PIXEL_DATA,), ResultKind.SR: (CLEAN_STRUCTURED_CONTENT,)}

# A non-zero value for where an IOD wants one (action D), by value representation.
_DUMMIES: Final = {
    "AE": "REMOVED", "AS": "000Y", "CS": "REMOVED", "DA": DUMMY_DATE, "DS": "0", "DT": DUMMY_DATE, "IS": "0",
    "LO": "REMOVED", "LT": "REMOVED", "PN": "REMOVED", "SH": "REMOVED", "ST": "REMOVED", "TM": "000000",
    "UC": "REMOVED", "UT": "REMOVED",
}  # fmt: skip
_CURVES, _OVERLAYS, _REPEATED = 0x5000, 0x6000, 0xFF00
_CONTENT_SEQUENCE: Final = BaseTag(0x0040A730)

# What may stand in a de-identified report; its texts: algorithm, orientation, tracker, observer, which fetus,
# conclusion, comment.
_CONTENT_OF_OURS: Final = frozenset({"CODE", "CONTAINER", "IMAGE", "NUM", "SCOORD", "TEXT", "UIDREF"})
_TEXTS_OF_OURS: Final = frozenset(
    {
        "111001", "111002", "111003", "111043", "111044", "112039", "121013", "121014", "121015", "121016",
        "121030", "121077", "121106",
    }
)  # fmt: skip
OUR_WORDS: Final = ("SeriesDescription", "DerivationDescription")
"""The profile removes what others wrote into them; the node writes its own words again, of no patient."""

Place = tuple[str, ...]


class Action(StrEnum):
    """The action for an attribute in Table E.1-1 (PS3.15 E.1.1)."""

    REMOVE = "X"
    EMPTY = "Z"
    REPLACE = "D"
    UID = "U"
    REMOVE_OR_EMPTY = "X/Z"
    REMOVE_OR_REPLACE = "X/D"
    EMPTY_OR_REPLACE = "Z/D"
    REMOVE_EMPTY_OR_REPLACE = "X/Z/D"
    REMOVE_EMPTY_OR_UID = "X/Z/U*"


def apply(dataset: Dataset, kind: ResultKind, options: Set[Retained] = frozenset()) -> None:
    """De-identify a result in place, items of sequences too, and mark it (PS3.15 E.1.1, PS3.3 C.7.1.1).

    The Content Sequence of a report stays, by the Clean Structured Content Option (E.3.4): the gate checks
    each of its items. Raises ResultRefused if a value must be replaced and cannot be.
    """
    _walk(dataset, _types(str(dataset.SOPClassUID)), ())
    retained = [DicomCode(OPTIONS[option][0], "DCM", OPTIONS[option][1]) for option in sorted(options)]
    codes = [BASIC_PROFILE, *_OPTIONS.get(kind, ()), *retained]
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [f"DICOM PS3.15 {EDITION} Table E.1-1", "DICOM AI Node"]
    dataset.DeidentificationMethodCodeSequence = [CodedConcept.from_code(code) for code in codes]
    dataset.LongitudinalTemporalInformationModified = _dates(options)


def faults(read: Dataset, options: Set[Retained] = frozenset()) -> Iterator[str]:
    """Attributes that violate the profile, because they are present or missing: one sentence each, no
    values.
    """
    kept = {keyword for option in options for keyword in KEYWORDS[option]}
    if read.get("PatientIdentityRemoved") != "YES":
        yield "PatientIdentityRemoved is not YES"
    if read.get("LongitudinalTemporalInformationModified") != _dates(options):
        yield f"LongitudinalTemporalInformationModified is not {_dates(options)}"
    if retained_by(read) != options:
        yield "the codes of what is retained are not those of the options"
    if not is_deidentified(read):
        yield "the code of the basic confidentiality profile is missing"
    yield from _structured_content(read)
    for item in items(read):
        for element in item:
            allowed = element.keyword in OUR_WORDS or (item is read and element.keyword in kept)
            if action_of(element.tag) is Action.REMOVE and not allowed:
                yield f"{element.keyword or element.tag} has to be removed"


def _dates(options: Set[Retained]) -> str:
    return "MODIFIED" if Retained.MODIFIED_DATES in options else "REMOVED"


def action_of(tag: BaseTag) -> Action | None:
    """The table's action for an attribute; None: the attribute is not listed and is kept."""
    if tag.is_private or (tag.group & _REPEATED) in {_CURVES, _OVERLAYS}:
        return Action.REMOVE  # of overlays the table names data and comments: the rest says nothing without
    return _actions().get(int(tag))


def _structured_content(read: Dataset) -> Iterator[str]:
    """The Clean Structured Content Option (PS3.15 E.3.4): content items that the node fills with its own."""
    for item in items(read):
        value_type = str(item.get("ValueType") or "")
        if not value_type:
            continue
        if value_type not in _CONTENT_OF_OURS:
            yield f"a content item is of type {value_type}"
        elif value_type == "TEXT":
            names = item.get("ConceptNameCodeSequence") or [Dataset()]
            if str(names[0].get("CodeValue")) not in _TEXTS_OF_OURS:
                yield "a text of the report is not one that the node writes"


def _walk(dataset: Dataset, types: dict[tuple[Place, str], str], place: Place) -> None:
    for element in list(dataset):
        action = action_of(element.tag)
        if action is Action.REPLACE and element.tag == _CONTENT_SEQUENCE:
            action = None
        kind = types.get((place, element.keyword), "3")
        if action is not None and action is not Action.UID:
            _act(dataset, element, action, kind)
        if element.tag in dataset and element.VR == "SQ":
            for item in dataset[element.tag].value:
                _walk(item, types, (*place, element.keyword))


def _act(dataset: Dataset, element: DataElement, action: Action, kind: str) -> None:
    """The least that the IOD bears: removed if of Type 3, emptied if of Type 2, else replaced."""
    allowed = str(action).rstrip("*").split("/")
    wanted = {"1": ("D", "U", "Z", "X"), "2": ("U", "Z", "D", "X")}.get(kind[:1], ("X", "Z", "D", "U"))
    chosen = next(letter for letter in wanted if letter in allowed)
    if chosen == "X":
        del dataset[element.tag]
    elif chosen == "Z":
        element.value = [] if element.VR == "SQ" else None
    elif chosen == "D":
        element.value = _dummy(element)


def _dummy(element: DataElement) -> Any:
    if element.VR not in _DUMMIES:
        raise ResultRefused(f"{element.keyword} has to be replaced, and there is no dummy of its VR")
    return _DUMMIES[element.VR]


@cache
def _actions() -> dict[int, Action]:
    groups: dict[Action, Sequence[tuple[int, ...]]] = {
        Action.REMOVE: table.X_TAGS,
        Action.EMPTY: table.Z_TAGS,
        Action.REPLACE: table.D_TAGS,
        Action.UID: table.U_TAGS,
        Action.REMOVE_OR_EMPTY: table.X_Z_TAGS,
        Action.REMOVE_OR_REPLACE: table.X_D_TAGS,
        Action.EMPTY_OR_REPLACE: table.Z_D_TAGS,
        Action.REMOVE_EMPTY_OR_REPLACE: table.X_Z_D_TAGS,
        Action.REMOVE_EMPTY_OR_UID: table.X_Z_U_STAR_TAGS,
    }
    return {
        (tag[0] << 16) + tag[1]: action
        for action, tags in groups.items()
        for tag in tags
        if len(tag) == 2  # repeating groups (curves, overlays) have masks too
    }


@cache
def _types(sop_class_uid: str) -> dict[tuple[Place, str], str]:
    """The strictest type of each attribute in the IOD's mandatory modules, by the sequences it stands in."""
    found: dict[tuple[Place, str], str] = {}
    for module in iods.mandatory_modules(sop_class_uid):
        for place, keyword, kind in iods.attributes(module):
            found[place, keyword] = min(kind, found.get((place, keyword), "3"))
    return found
