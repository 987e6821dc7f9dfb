"""The Basic Application Level Confidentiality Profile (PS3.15 E.2), by Table E.1-1 of edition 2026c.

It is applied to each built object. The table is from dicom-anonymizer. The meaning of X/Z/D and similar
actions depends on the attribute's type in the object's IOD, which highdicom's tables give. The iteration is
our own: the library's acts only on the root of a data set and draws new UIDs at random. UIDs (action U) are
not changed by it: the sources have other UIDs already.
"""

from collections.abc import Iterator, Sequence, Set
from functools import cache
from typing import Final

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from highdicom.sr import CodedConcept
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.tag import BaseTag

from dicom_node.base.dicom.header import items
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import OPTIONS, ResultKind, Retained, is_deidentified, retained_by
from dicom_node.results.concepts import name_of
from dicom_node.results.dataset import set_values, text_of
from dicom_node.results.deidentified.retained import retained_keywords
from dicom_node.results.standard import attributes_of, mandatory_modules

DUMMY_DATE: Final = "19000101"
"""In the place of a date that has to be there."""


EDITION: Final = "2026c"
# A mask has neither pixels of the source nor content items: the basic profile is all that was applied to it.
_OPTIONS: Final = {
    ResultKind.CLEANED: (DicomCode("113101", "DCM", "Clean Pixel Data Option"),),
    ResultKind.SR: (DicomCode("113104", "DCM", "Clean Structured Content Option"),),
}

# A non-zero value for where an IOD wants one (action D), by value representation.
_DUMMIES: Final = dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED") | {
    "AS": "000Y",
    "DA": DUMMY_DATE,
    "DS": "0",
    "DT": DUMMY_DATE,
    "IS": "0",
    "TM": "000000",
}
_CURVES, _OVERLAYS, _REPEATED = 0x5000, 0x6000, 0xFF00

# What may stand in a de-identified report; its texts: algorithm, orientation, tracker, observer, which fetus,
# conclusion, comment.
_CONTENT_OF_OURS: Final = frozenset({"CODE", "CONTAINER", "IMAGE", "NUM", "SCOORD", "TEXT", "UIDREF"})
_TEXTS_OF_OURS: Final = frozenset(
    {
        "111001", "111002", "111003", "111043", "111044", "112039", "121013", "121014", "121015", "121016",
        "121030", "121077", "121106", "125309",
    }
)  # fmt: skip
OUR_WORDS: Final = ("SeriesDescription", "DerivationDescription")
"""The profile removes what others wrote into them; the node writes its own words again, of no patient."""

_REMOVE, _REPLACE, _UID = "X", "D", "U"
"""Actions for an attribute in Table E.1-1 (PS3.15 E.1.1); the others stand in ``_actions``."""


def apply(dataset: Dataset, kind: ResultKind, options: Set[Retained]) -> None:
    """De-identify a result in place, items of sequences too, and mark it (PS3.15 E.1.1, PS3.3 C.7.1.1).

    The Content Sequence of a report stays, by the Clean Structured Content Option (E.3.4): the check before
    release looks at each of its items. ``options``: what is retained. Raises ResultRefused if a value must be
    replaced and no dummy value exists for its VR.
    """
    retained = [DicomCode(OPTIONS[option][0], "DCM", OPTIONS[option][1]) for option in sorted(options)]
    _apply(dataset, [*_OPTIONS.get(kind, ()), *retained], options)


def apply_basic(image: Dataset) -> None:
    """De-identify a copy of a received image in place, and mark it: the basic profile, without any option.
    Raises ResultRefused as :func:`apply` does.
    """
    _apply(image, (), frozenset())


def _apply(dataset: Dataset, of_options: Sequence[DicomCode], options: Set[Retained]) -> None:
    """Apply the actions of Table E.1-1, and mark the data set. ``of_options``: codes beside the basic
    profile's.
    """
    _apply_actions(dataset, _attribute_types(str(dataset.SOPClassUID)), ())
    named = [codes.DCM.BasicApplicationConfidentialityProfile, *of_options]
    set_values(
        dataset,
        PatientIdentityRemoved="YES",
        DeidentificationMethod=[f"DICOM PS3.15 {EDITION} Table E.1-1", "DICOM AI Node"],
        DeidentificationMethodCodeSequence=[CodedConcept.from_code(code) for code in named],
        LongitudinalTemporalInformationModified=_temporal_information(options),
    )


def faults(read: Dataset, options: Set[Retained]) -> Iterator[str]:
    """Yield one sentence, without values, for each attribute that violates the profile by being present or
    missing.

    ``read``: the object. ``options``: what is retained.
    """
    kept = retained_keywords(options)
    temporal = _temporal_information(options)
    if read.get("PatientIdentityRemoved") != "YES":
        yield "PatientIdentityRemoved is not YES"
    if read.get("LongitudinalTemporalInformationModified") != temporal:
        yield f"LongitudinalTemporalInformationModified is not {temporal}"
    if retained_by(read) != options:
        yield "the codes of what is retained are not those of the options"
    if not is_deidentified(read):
        yield "the code of the basic confidentiality profile is missing"
    yield from _structured_content(read)
    for item in items(read):
        for element in item:
            allowed = element.keyword in OUR_WORDS or (item is read and element.keyword in kept)
            if action_of(element.tag) == _REMOVE and not allowed:
                yield f"{element.keyword or element.tag} has to be removed"


def _temporal_information(options: Set[Retained]) -> str:
    """The value of Longitudinal Temporal Information Modified (0028,0303): MODIFIED if dates are retained,
    else REMOVED.
    """
    return "MODIFIED" if Retained.MODIFIED_DATES in options else "REMOVED"


def action_of(tag: BaseTag) -> str | None:
    """The action code of PS3.15 Table E.1-1 for an attribute (X, Z, D, U, X/Z ...); None if it is not listed
    and stays.
    """
    if tag.is_private or (tag.group & _REPEATED) in {_CURVES, _OVERLAYS}:
        return _REMOVE  # of overlays the table names data and comments: the rest says nothing without
    return _actions().get(int(tag))


def _structured_content(read: Dataset) -> Iterator[str]:
    """Yield faults by the Clean Structured Content Option (PS3.15 E.3.4): content items that the node does
    not write.
    """
    for item in items(read):
        value_type = text_of(item, "ValueType")
        if value_type and value_type not in _CONTENT_OF_OURS:
            yield f"a content item is of type {value_type}"
        elif value_type == "TEXT" and name_of(item) not in _TEXTS_OF_OURS:
            yield "a text of the report is not one that the node writes"


def _apply_actions(
    dataset: Dataset, types: dict[tuple[tuple[str, ...], str], str], place: tuple[str, ...]
) -> None:
    """Apply the actions of Table E.1-1 to all attributes of a data set in place, items of sequences too.

    ``types``: Type of each attribute in the IOD, by (keywords of the enclosing sequences, keyword).
    ``place``: keywords of the sequences around this data set, () for the root.
    """
    for element in list(dataset):
        action = action_of(element.tag)
        if action == _REPLACE and element.keyword == "ContentSequence":
            action = None
        if action is not None and action != _UID:
            _apply_action(dataset, element, action, types.get((place, element.keyword), "3"))
        if element.tag in dataset and element.VR == "SQ":
            for item in dataset[element.tag].value:
                _apply_actions(item, types, (*place, element.keyword))


def _apply_action(dataset: Dataset, element: DataElement, action: str, kind: str) -> None:
    """Remove, empty or replace one attribute: the least of what ``action`` allows that its Type in the IOD
    bears.

    ``kind``: that Type; 3 is removed, 2 emptied, 1 replaced. Raises ResultRefused if there is no dummy value.
    """
    allowed = action.rstrip("*").split("/")
    wanted = {"1": "DUZX", "2": "UZDX"}.get(kind[:1], "XZDU")
    chosen = next(letter for letter in wanted if letter in allowed)
    if chosen == "X":
        del dataset[element.tag]
    elif chosen == "Z":
        element.value = [] if element.VR == "SQ" else None
    elif chosen == "D":
        if element.VR not in _DUMMIES:
            raise ResultRefused(f"{element.keyword} has to be replaced, and there is no dummy of its VR")
        element.value = _DUMMIES[element.VR]


@cache
def _actions() -> dict[int, str]:
    """The action codes of PS3.15 Table E.1-1, by attribute tag."""
    groups = {
        _REMOVE: table.X_TAGS,
        "Z": table.Z_TAGS,
        _REPLACE: table.D_TAGS,
        _UID: table.U_TAGS,
        "X/Z": table.X_Z_TAGS,
        "X/D": table.X_D_TAGS,
        "Z/D": table.Z_D_TAGS,
        "X/Z/D": table.X_Z_D_TAGS,
        "X/Z/U*": table.X_Z_U_STAR_TAGS,
    }
    return {
        (tag[0] << 16) + tag[1]: action
        for action, tags in groups.items()
        for tag in tags
        if len(tag) == 2  # repeating groups (curves, overlays) have masks too
    }


@cache
def _attribute_types(sop_class_uid: str) -> dict[tuple[tuple[str, ...], str], str]:
    """The strictest Type of each attribute in the IOD's mandatory modules, by (keywords of the enclosing
    sequences, keyword).
    """
    found: dict[tuple[tuple[str, ...], str], str] = {}
    for module in mandatory_modules(sop_class_uid):
        for place, keyword, kind in attributes_of(module):
            found[place, keyword] = min(kind, found.get((place, keyword), "3"))
    return found
