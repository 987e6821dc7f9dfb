"""Codes, units and sides in a program's objects (PS3.3 8, PS3.16): whole, of a known scheme, and meant.

Codes of retired SNOMED schemes are mapped by pydicom's table of PS3.16 Annex O. A code is never guessed: one
that is incomplete refuses the object where it says what was found, and is left out elsewhere.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

from ai_pipeline.images.numbers import decimal
from dicom_node.base.dicom.header import items
from dicom_node.results.concepts import SCHEME
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.verdict import Remark, noted, refused, repaired

_VALUES: Final = ("CodeValue", "LongCodeValue", "URNCodeValue")
_WORDS: Final = (*_VALUES, "CodeMeaning", "CodingSchemeDesignator")
# What an object says by codes: incomplete ones refuse it.
_SAYS: Final = frozenset(
    {
        "ConceptNameCodeSequence", "ConceptCodeSequence", "MeasurementUnitsCodeSequence",
        "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence",
        "SegmentedPropertyTypeModifierCodeSequence", "AnatomicRegionSequence",
        "AnatomicRegionModifierSequence", "RTROIIdentificationCodeSequence",
        "NumericValueQualifierCodeSequence",
    }
)  # fmt: skip
_NOT_NAMED_CODE: Final = frozenset({"AnatomicRegionSequence", "AnatomicRegionModifierSequence"})
_RETIRED: Final = frozenset({"SRT", "SNM3", "99SDM"})
_OTHER_KNOWN: Final = frozenset(
    {
        "ACR", "BI", "C4", "CTV3", "DCMUID", "HPC", "HL7", "I9", "I9C", "I10P", "I11", "ICDO", "ISO3166_1",
        "ISO639_1", "ISO639_2", "LN", "NCDR", "POS", "RFC3066", "RFC5646", "UCUM", "UNS",
    }
)  # fmt: skip
"""Designators of PS3.16 Table 8-1 beside those whose codes pydicom knows."""
_LONGEST: Final = 64  # characters of Code Meaning, VR LO
_LONGEST_VALUE: Final = 16  # characters of Code Value, VR SH
RIGHT, LEFT, BILATERAL = "24028007", "7771000", "51440002"
_SIDES: Final = {RIGHT: "R", LEFT: "L", "G-A100": "R", "G-A101": "L"}
_WORDS_OF_SIDES: Final = (("R", re.compile(r"\bright\b", re.I)), ("L", re.compile(r"\bleft\b", re.I)))
# Words of which one cannot stand for the other.
_OPPOSITES: Final = (
    ("right", "left"), ("benign", "malignant"), ("present", "absent"), ("positive", "negative"),
    ("upper", "lower"), ("anterior", "posterior"), ("superior", "inferior"), ("medial", "lateral"),
    ("normal", "abnormal"),
)  # fmt: skip
_DECISIVE: Final = frozenset(word for pair in _OPPOSITES for word in pair)
# Words of SNOMED's descriptions that make no difference to what is meant.
_EMPTY_WORDS: Final = frozenset(
    {
        "a", "an", "and", "the", "of", "in", "structure", "structures", "region", "entire", "body", "system",
        "tissue", "physical", "object", "morphologic", "abnormality", "finding", "disorder", "procedure",
        "qualifier", "value", "substance", "observable", "entity", "attribute",
    }
)  # fmt: skip
# Wordings of former editions of PS3.16, which writers copy from its example files.
_FORMER_WORDINGS: Final = {("SCT", "123037004"): "anatomical structure"}
_DIMENSIONS: Final[Mapping[str, frozenset[str]]] = {
    "length": frozenset({"nm", "um", "mm", "cm", "dm", "m", "[in_i]", "{pixels}", "{pixel}"}),
    "area": frozenset({"um2", "mm2", "cm2", "m2", "{pixels}", "{pixel}"}),
    "volume": frozenset({"mm3", "cm3", "ml", "mL", "dm3", "l", "L", "{voxels}", "{pixels}"}),
    "angle": frozenset({"deg", "rad"}),
    "ratio": frozenset({"1", "%", "{ratio}", "{0:1}", "[0:1]"}),
}
_OF_QUANTITY: Final = {
    **dict.fromkeys(
        ("410668003", "103339001", "103340004", "103355008", "81827009", "131187009", "131186000", "121211"),
        "length",
    ),
    **dict.fromkeys(("42798000", "131184002"), "area"),
    **dict.fromkeys(("118565006", "121216", "121217"), "volume"),
    **dict.fromkeys(("1483009", "111046"), "angle"),
    **dict.fromkeys(("118586006", "246205007", "111047", "112240"), "ratio"),
}
"""Dimension by code value of a quantity (SCT, DCM): length, long, short and perpendicular axis, width,
diameter; area; volume; angle; ratio, probability. Quantities that are not here may have any unit."""


@dataclass(frozen=True, slots=True)
class _CodeItem:
    """A coded concept in an object. ``owner``: the item that has it in its sequence ``keyword``."""

    owner: Dataset
    keyword: str
    item: Dataset

    @property
    def value(self) -> str:
        """The code."""
        return next((text for word in _VALUES if (text := text_of(self.item, word))), "")

    @property
    def scheme(self) -> str:
        """Coding Scheme Designator."""
        return text_of(self.item, "CodingSchemeDesignator")

    @property
    def meaning(self) -> str:
        """Code Meaning."""
        return text_of(self.item, "CodeMeaning")

    @property
    def says(self) -> bool:
        """Whether the object says something by it that nothing else says."""
        return self.keyword in _SAYS


def check_codes(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with codes; map retired ones, and leave out incomplete ones that say nothing."""
    used: set[str] = set()
    for code in list(_codes(candidate.dataset)):
        yield from _repair_code(code)
        fault = _fault(code)
        if fault and code.says:
            yield refused(fault)
        elif fault:
            if code.keyword in code.owner:
                del code.owner[code.keyword]
            yield repaired(f"{code.keyword} was left out: {fault}")
        else:
            yield from _meaning_remarks(code)
            used.add(code.scheme)
    yield from _identify_schemes(candidate, used)


def check_numbers(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with the numbers of a report (PS3.3 C.18.1): no number, no unit, a unit of another
    dimension than the quantity, pixels where the image has a size.
    """
    has_spacing = bool(candidate.given.stated("PixelSpacing"))
    for item in items(candidate.dataset):
        if text_of(item, "ValueType") != "NUM":
            continue
        measured = sequence(item, "MeasuredValueSequence")
        if not measured and not sequence(item, "NumericValueQualifierCodeSequence"):
            yield refused("a number has neither a value nor a reason why it has none")
        for value in measured:
            yield from _number_remarks(item, value, has_spacing=has_spacing)


def check_sides(candidate: Candidate) -> Iterator[Remark]:
    """Yield sides that contradict each other, or the image: of codes, of text beside them, and of Laterality
    (0020,0060) and Image Laterality (0020,0062).
    """
    dataset = candidate.dataset
    stated = candidate.given.stated("ImageLaterality") or candidate.given.stated("Laterality")
    given = stated & {"R", "L"}
    own = _side_of(dataset)
    coded = {side for item in items(dataset) if (side := _SIDES.get(text_of(item, "CodeValue")))}
    wrong = {own, *coded} - {""}
    if len(stated) == 1 and given and wrong and not wrong & given:
        yield refused("it speaks of the other side than the images show")
    if candidate.kind is ForeignKind.REPORT:
        parts = [one for one in items(dataset) if _name_value(one) == "125007"]
    else:
        parts = list(sequence(dataset, "SegmentSequence"))
    if any(_contradicts_itself(part) for part in parts):
        yield refused("its words name the other side than its codes")


def side_of_text(text: str) -> str:
    """The one side that a text names, R or L; "" for none or both."""
    found = [side for side, words in _WORDS_OF_SIDES if words.search(text)]
    return found[0] if len(found) == 1 else ""


@cache
def official_meanings() -> dict[tuple[str, str], tuple[str, ...]]:
    """The meanings of all codes that pydicom knows, by (scheme, code): the wording of PS3.16 first, then that
    of the scheme.
    """
    found: dict[tuple[str, str], list[tuple[bool, str]]] = {}
    for scheme, by_keyword in concepts.items():
        for by_value in by_keyword.values():
            for value, (meaning, context_groups) in by_value.items():
                found.setdefault((scheme, value), []).append((not context_groups, meaning))
    return {code: tuple(meaning for _, meaning in sorted(meanings)) for code, meanings in found.items()}


@cache
def _codes_by_words() -> dict[tuple[str, frozenset[str]], frozenset[str]]:
    """Codes by scheme and the words of a meaning."""
    found: dict[tuple[str, frozenset[str]], set[str]] = {}
    for (scheme, value), meanings in official_meanings().items():
        for meaning in meanings:
            found.setdefault((scheme, _words(meaning)), set()).add(value)
    return {words: frozenset(values) for words, values in found.items()}


def _codes(dataset: Dataset) -> Iterator[_CodeItem]:
    """Yield all coded concepts of an object, at any depth."""
    for owner in items(dataset):
        for element in owner:
            is_code = element.keyword.endswith("CodeSequence") or element.keyword in _NOT_NAMED_CODE
            if element.VR == "SQ" and (is_code or element.keyword in _SAYS):
                for item in element.value or ():
                    has_code = any(
                        word in item for word in (*_VALUES, "CodeMeaning", "CodingSchemeDesignator")
                    )
                    if has_code or element.keyword in _SAYS:
                        yield _CodeItem(owner, element.keyword, item)


def _repair_code(code: _CodeItem) -> Iterator[Remark]:
    """Map a retired code, move a long one to its attribute, and complete a known one's meaning."""
    if code.scheme in _RETIRED and (value := mapping["SRT"].get(code.value)):
        for word in _VALUES:
            code.item.pop(word, None)
        code.item.CodeValue, code.item.CodingSchemeDesignator = value, "SCT"
        code.item.pop("CodingSchemeVersion", None)
        yield repaired("codes of a retired SNOMED scheme were mapped to SNOMED CT (PS3.16 Annex O)")
    value = text_of(code.item, "CodeValue")
    if len(value) > _LONGEST_VALUE and "LongCodeValue" not in code.item:
        del code.item["CodeValue"]
        code.item.LongCodeValue = value
        yield repaired("a code of more than 16 characters was moved to Long Code Value")
    meanings = official_meanings().get((code.scheme, code.value))
    if meanings and not code.meaning:
        code.item.CodeMeaning = meanings[0][:_LONGEST]
        yield repaired("the meaning of a known code was added")


def _fault(code: _CodeItem) -> str:
    """Why a code is none, "" if it is one (PS3.3 8.1 to 8.3)."""
    values = [word for word in _VALUES if text_of(code.item, word)]
    if len(values) != 1:
        return "a code has no value, or several"
    if not code.scheme and values != ["URNCodeValue"]:
        return "a code has no coding scheme"
    if not code.meaning or len(code.meaning) > _LONGEST:
        return "a code has no meaning of at most 64 characters"
    if code.scheme == SCHEME:
        return "it uses this node's private coding scheme"
    if not (code.scheme.startswith("99") or _is_known_scheme(code.scheme) or not code.scheme):
        return "a code is of an unknown coding scheme"
    return ""


def _is_known_scheme(scheme: str) -> bool:
    """Whether PS3.16 Table 8-1 has the designator."""
    return scheme in _OTHER_KNOWN or scheme in concepts or scheme in _RETIRED


def _meaning_remarks(code: _CodeItem) -> Iterator[Remark]:
    """Yield if a known code is given the meaning of another concept; other words for the same are noted."""
    official = official_meanings().get((code.scheme, code.value), ())
    stated = code.meaning.casefold()
    known = {*map(str.casefold, official), _FORMER_WORDINGS.get((code.scheme, code.value))}
    if not official or stated in known:
        return
    if _is_of_another(code, official):
        yield refused("a code has the meaning of another code")
    else:
        yield noted("a code has another wording than in the standard")


def _is_of_another(code: _CodeItem, official: Sequence[str]) -> bool:
    """Whether the stated meaning is that of another concept than the ``official`` ones of the code: a word
    stands for its opposite, or the words are those of another code. Fewer words for the same are its own
    ("Neoplasm, primary" of a malignant one); so are more, unless one of them decides.
    """
    if code.scheme == "UCUM":  # its codes are symbols, whose names everybody writes otherwise
        return code.meaning != code.value and ("UCUM", code.meaning) in official_meanings()
    stated, others = _words(code.meaning), [_words(meaning) for meaning in official]
    if any(_are_opposite(words, stated) for words in others):
        return True
    if any(stated <= words or (words <= stated and not (stated - words) & _DECISIVE) for words in others):
        return False
    return bool(_codes_by_words().get((code.scheme, stated), frozenset()) - {code.value})


def _are_opposite(ours: frozenset[str], theirs: frozenset[str]) -> bool:
    """Whether one text has a word whose opposite the other has instead."""
    only_ours, only_theirs = ours - theirs, theirs - ours
    pairs = (*_OPPOSITES, *((second, first) for first, second in _OPPOSITES))
    return any(first in only_ours and second in only_theirs for first, second in pairs)


def _words(text: str) -> frozenset[str]:
    """The words of a text that say what is meant, in small letters; all where no such word is among them."""
    found = frozenset(re.findall(r"\w+", text.casefold().replace("-", "")))
    return found - _EMPTY_WORDS or found


def _identify_schemes(candidate: Candidate, used: set[str]) -> Iterator[Remark]:
    """Name the program as the owner of private schemes that the object does not identify (C.12.1.1.7)."""
    dataset = candidate.dataset
    identified = sequence(dataset, "CodingSchemeIdentificationSequence")
    known = {text_of(one, "CodingSchemeDesignator") for one in identified}
    added = []
    for scheme in sorted(one for one in used - known if one.startswith("99") and one not in _RETIRED):
        item = Dataset()
        item.CodingSchemeDesignator = scheme
        item.CodingSchemeName = f"private scheme of {candidate.given.context.pipeline}"[:_LONGEST]
        added.append(item)
    if added:
        dataset.CodingSchemeIdentificationSequence = [*identified, *added]
        yield repaired("a private coding scheme was identified as the program's")


def _number_remarks(item: Dataset, value: Dataset, *, has_spacing: bool) -> Iterator[Remark]:
    """Yield what is wrong with one measured value of the NUM item ``item``."""
    number = decimal(value.get("NumericValue"))
    if number is None:
        yield refused("a number is none (Numeric Value)")
        return
    exact = decimal(value.get("FloatingPointValue"))
    if exact is not None and abs(exact - number) > 1e-3 * max(abs(number), 1e-9):
        yield refused("Numeric Value and Floating Point Value are two numbers")
    units = [
        (text_of(one, "CodingSchemeDesignator"), text_of(one, "CodeValue"))
        for one in sequence(value, "MeasurementUnitsCodeSequence")
    ]
    if len(units) != 1 or units[0][0] != "UCUM":
        yield refused("a number has no unit of UCUM")
        return
    unit = units[0][1]
    dimension = _OF_QUANTITY.get(_name_value(item))
    if dimension and unit not in _DIMENSIONS[dimension]:
        yield refused("a number has a unit of another dimension than its quantity")
    if unit.startswith("{pixel") and has_spacing:
        yield noted("a length is in pixels, though the image states their size")


def _name_value(item: Dataset) -> str:
    """The code value of a content item's concept name, "" without one."""
    return next((text_of(one, "CodeValue") for one in sequence(item, "ConceptNameCodeSequence")), "")


def _side_of(header: Dataset) -> str:
    """The side that an image says it shows, R or L; "" for none or both."""
    side = text_of(header, "ImageLaterality") or text_of(header, "Laterality")
    return side if side in ("R", "L") else ""


def _contradicts_itself(part: Dataset) -> bool:
    """Whether a group of content items, or a segment, names one side in words and the other by code."""
    coded = {side for item in items(part) if (side := _SIDES.get(text_of(item, "CodeValue")))}
    words = [
        text_of(item, word)
        for item in items(part)
        if text_of(item, "CodeValue") not in _SIDES  # their meaning says the same once more
        for word in ("TextValue", "SegmentLabel", "SegmentDescription", "CodeMeaning")
    ]
    said = {side for text in words if (side := side_of_text(text))}
    return len(coded) == 1 and bool(said) and not said & coded
