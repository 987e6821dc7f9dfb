"""Repair of attributes copied from a source: invalid values are corrected or left out.

Otherwise a source's mistake would be an error in our result. Old scanners and converters write dates with
dots (ACR-NEMA 300), times with colons, whole numbers with a fraction, and unlisted codes (PS3.5 6.2). UIDs
and what says who are kept unchanged: results belong to the patient and study of their source.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from pydicom import config
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import format_number_as_ds

from ai_pipeline.images.dates import as_da, as_dt, as_tm
from ai_pipeline.images.numbers import decimal, whole
from dicom_node.base.dicom.header import TEXT
from dicom_node.base.dicom.identity import IDENTIFYING

_UID: Final = re.compile(r"([01]\.[1-3]?\d|2\.(0|[1-9]\d*))(\.(0|[1-9]\d*))*")
_AGE: Final = re.compile(r"(\d{1,3}) ?([DWMY])")
_CODE_STRING: Final = re.compile(r"[A-Z0-9 _]{1,16}")
_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_OFFSET: Final = re.compile(r"-((0\d|1[01]):?[0-5]\d|12:?00)|\+((0\d|1[0-3]):?[0-5]\d|14:?00)")
_WHOLE: Final = re.compile(r"[+-]?\d{1,11}")

# Values that PS3.3 enumerates, of the attributes that results take over.
_ENUMERATED: Final = {
    "ImageLaterality": {"R", "L", "U", "B"},
    "Laterality": {"R", "L"},
    "LossyImageCompression": {"00", "01"},
    "PatientSex": {"M", "F", "O"},
    "PatientSexNeutered": {"ALTERED", "UNALTERED"},
    "PixelSpacingCalibrationType": {"GEOMETRY", "FIDUCIAL"},
    "QualityControlSubject": {"YES", "NO"},
    "ShutterShape": {"RECTANGULAR", "CIRCULAR", "POLYGONAL"},
    "SmokingStatus": {"YES", "NO", "UNKNOWN"},
    "SyntheticData": {"YES", "NO"},
    "VOILUTFunction": {"LINEAR", "LINEAR_EXACT", "SIGMOID"},
}
# What an item must have, by its sequence; of several alternatives one. Codes and references have their own.
_REQUIRED: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "OtherPatientIDsSequence": (("PatientID", "TypeOfPatientID"),),
    "SourcePatientGroupIdentificationSequence": (("PatientID",),),
    "GroupOfPatientsIdentificationSequence": (("PatientID",),),
    "StrainStockSequence": (("StrainStockNumber", "StrainSource", "StrainSourceRegistryCodeSequence"),),
    "GeneticModificationsSequence": (
        ("GeneticModificationsDescription", "GeneticModificationsNomenclature"),
    ),
    "BreedRegistrationSequence": (("BreedRegistrationNumber", "BreedRegistryCodeSequence"),),
    "ReferringPhysicianIdentificationSequence": (("PersonIdentificationCodeSequence",),),
    "ConsultingPhysicianIdentificationSequence": (("PersonIdentificationCodeSequence",),),
    "PhysiciansOfRecordIdentificationSequence": (("PersonIdentificationCodeSequence",),),
    "PhysiciansReadingStudyIdentificationSequence": (("PersonIdentificationCodeSequence",),),
    "OtherClinicalTrialProtocolIDsSequence": (("ClinicalTrialProtocolID",),),
    "ConsentForClinicalTrialUseSequence": (("ConsentForDistributionFlag",),),
    "ModalityLUTSequence": (("LUTDescriptor", "LUTData"),),
    "VOILUTSequence": (("LUTDescriptor", "LUTData"),),
}
_ISSUER: Final = (("LocalNamespaceEntityID",), ("UniversalEntityID", "UniversalEntityIDType"))
_OF_CODES: Final = frozenset({"AnatomicRegionSequence", "AnatomicRegionModifierSequence"})
_LENGTHS: Final = {
    "AE": 16,
    "SH": 16,
    "LO": 64,
    "ST": 1024,
    "LT": 10240,
    "UC": 2**16,
    "UR": 2**16,
    "UT": 2**16,
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_FORBIDDEN: Final = {
    **dict.fromkeys(("LT", "ST", "UT"), re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")),
    "UR": re.compile(r"[\x00-\x20\x7f]"),
}
_RANGES: Final = {
    "US": (0, 2**16 - 1), "SS": (-(2**15), 2**15 - 1), "UL": (0, 2**32 - 1), "SL": (-(2**31), 2**31 - 1),
    "UV": (0, 2**64 - 1), "SV": (-(2**63), 2**63 - 1), "FL": (-3.4e38, 3.4e38), "FD": (-1.7e308, 1.7e308),
}  # fmt: skip
_CODES: Final = (
    ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("LongCodeValue", "CodingSchemeDesignator", "CodeMeaning"),
    ("URNCodeValue", "CodeMeaning"),
)


@dataclass(frozen=True, slots=True)
class Repairs:
    """Keywords of attributes with invalid values; never the values, which may be PHI."""

    repaired: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """UIDs that are none (PS3.5 9.1), identity that is too long: they stand in the results nevertheless."""

    def __bool__(self) -> bool:
        return bool(self.repaired or self.left_out or self.kept)


def repair(header: Dataset, emptied: Collection[str] = (), unread: Collection[str] = ()) -> Repairs:
    """Correct faulty values in place; remove values that cannot be corrected, or empty those in ``emptied``.

    Each value is then what PS3.5 6.2 and PS3.6 allow, in items of sequences too. A sequence with an item that
    lacks what it must have is removed. Text that says who (``IDENTIFYING``) stays to the letter. ``unread``:
    keywords of what could not be read.
    """
    notes = _Notes(set(), set(unread), set())
    for keyword in {*emptied}.intersection(unread):
        setattr(header, keyword, None)
    for keyword in _without_meaning(header, notes):
        notes.left_out.add(keyword)
        del header[keyword]
    for element in list(header):
        keyword = element.keyword
        if element.VR == "UI" and not _are_uids(element):
            notes.kept.add(keyword)
        elif not _is_valid(header, element, notes):
            notes.left_out.add(keyword)
            if keyword in emptied:
                header[element.tag] = DataElement(element.tag, element.VR, None)
            else:
                del header[element.tag]
        elif _is_empty(element) and keyword not in emptied:
            del header[element.tag]  # it says nothing, and what is of Type 1 or 1C may not be empty
    return Repairs(*(tuple(sorted(part)) for part in (notes.repaired, notes.left_out, notes.kept)))


@dataclass(frozen=True, slots=True)
class _Notes:
    repaired: set[str]
    left_out: set[str]
    kept: set[str]


def _without_meaning(header: Dataset, notes: _Notes) -> list[str]:
    """Windows without a width (PS3.3 C.11.2.1.2), and frame times of another number of frames (C.7.6.5).

    The windows before the first one without stay.
    """
    centres, widths, times, frames = (
        _values(header[keyword]) if keyword in header else ()
        for keyword in ("WindowCenter", "WindowWidth", "FrameTimeVector", "NumberOfFrames")
    )
    pairs = zip(centres, widths, strict=False)
    sound = list(takewhile(lambda pair: decimal(pair[0]) is not None and (decimal(pair[1]) or 0) > 0, pairs))
    window = "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation"
    is_sound = len(sound) == max(len(centres), len(widths))
    found = [] if is_sound else [keyword for keyword in window if keyword in header]
    if sound and found:
        header.WindowCenter, header.WindowWidth = (list(part) for part in zip(*sound, strict=True))
        notes.repaired.update(window[:2])
        found = found[2:]
    if times and len(times) != (whole(*frames[:1]) if frames else 1):
        found.append("FrameTimeVector")
    return found


def _is_valid(dataset: Dataset, element: DataElement, notes: _Notes) -> bool:
    """Whether an attribute of ``dataset`` is fit to be repeated, after what can be put right in it was."""
    if _is_empty(element):
        return True
    if element.VR == "SQ":
        return all(_is_whole_item(element.keyword, item, notes) for item in element.value)
    if element.VR == "UI":
        return _are_uids(element)
    if _put_right(dataset, element, notes) and _fits(dataset[element.tag]):
        return True
    if element.VR in TEXT and element.keyword in IDENTIFYING:
        notes.kept.add(element.keyword)
        return True
    return False


def _is_whole_item(keyword: str, item: Dataset, notes: _Notes) -> bool:
    """Whether an item of this sequence has what it must have, without what is not valid in it.

    No attribute of a code may be empty (PS3.3 8.8).
    """
    codes = keyword.endswith("CodeSequence") or keyword in _OF_CODES
    for element in list(item):
        if not _is_valid(item, element, notes):
            notes.left_out.add(element.keyword)
            del item[element.tag]
        elif codes and _is_empty(element):
            del item[element.tag]
    if codes:
        values = [word for word in ("CodeValue", "LongCodeValue", "URNCodeValue") if word in item]
        return len(values) == 1 and any(all(word in item for word in one) for one in _CODES)
    if keyword.startswith("Referenced"):
        return "ReferencedSOPClassUID" in item and "ReferencedSOPInstanceUID" in item
    wanted = _ISSUER if keyword.startswith("Issuer") else _REQUIRED.get(keyword, ((),))
    return len(item) > 0 and any(all(item.get(word) for word in one) for one in wanted)


def _is_empty(element: DataElement) -> bool:
    return element.value in (None, "") or (element.VR == "SQ" and not element.value)


def _fits(element: DataElement) -> bool:
    """Whether the values are as many as PS3.6 allows, and each is what PS3.5 6.2 does."""
    values = _values(element)
    if not _is_allowed(dictionary_VM(element.tag), len(values)):
        return False
    # PS3.3 8.8: what fits into Code Value stands there.
    shortest = _LENGTHS["SH"] + 1 if element.keyword == "LongCodeValue" else 0
    return all(len(str(one)) >= shortest and _is_value(element.VR, one) for one in values)


def _is_value(vr: str, value: Any) -> bool:
    """Whether it is as long as it may be, without control characters; a number within its range."""
    if vr in {"DS", "IS"}:
        return value not in (None, "")
    if vr in _RANGES:
        lowest, highest = _RANGES[vr]
        return isinstance(value, type(lowest)) and lowest <= value <= highest
    if vr == "PN":
        return all(len(group) <= 64 for group in str(value).split("="))
    if vr not in _LENGTHS:
        return True
    return len(str(value)) <= _LENGTHS[vr] and not _FORBIDDEN.get(vr, _CONTROL).search(str(value))


def _is_allowed(multiplicity: str, count: int) -> bool:
    """Whether so many values are of a value multiplicity such as 1, 2, 1-n, 2-2n or 1-3."""
    least, _, most = multiplicity.partition("-")
    if not most:
        return count == int(least)
    if most.endswith("n"):
        return count >= int(least) and count % int(most[:-1] or 1) == 0
    return int(least) <= count <= int(most)


def _put_right(dataset: Dataset, element: DataElement, notes: _Notes) -> bool:
    """Whether the element has values that DICOM allows, now; its keyword is noted if it had others before."""
    right = _RIGHT.get(element.keyword, _RIGHT.get(element.VR))
    allowed = _ENUMERATED.get(element.keyword)
    if right is None or element.value in (None, ""):
        return True
    given = [str(one).strip(" \0") for one in _values(element)]
    values = [right(one) if one else "" for one in given]
    if any(one is None or (one and allowed and one not in allowed) for one in values):
        return False
    if values != given:
        notes.repaired.add(element.keyword)
        value = values if len(values) > 1 else values[0]
        dataset[element.tag] = DataElement(element.tag, element.VR, value, validation_mode=config.IGNORE)
    return True


def _are_uids(element: DataElement) -> bool:
    return all(len(str(one)) <= 64 and _UID.fullmatch(str(one)) for one in _values(element) if one)


def _values(element: DataElement) -> Sequence[Any]:
    several: bool = isinstance(element.value, MultiValue | list)
    return element.value if several else [element.value]


def _age(text: str) -> str | None:
    found = _AGE.fullmatch(text.upper())
    return found and f"{int(found[1]):03}{found[2]}"


def _code_string(text: str) -> str | None:
    return text.upper() if _CODE_STRING.fullmatch(text.upper()) else None


def _whole_number(text: str) -> str | None:
    if not _DECIMAL.fullmatch(text):
        return None
    number = float(text)
    if abs(number) >= 2**31 or not number.is_integer():
        return None
    return text if _WHOLE.fullmatch(text) else str(int(number))


def _decimal(text: str) -> str | None:
    if not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        return None
    return text if len(text) <= 16 else str(format_number_as_ds(float(text)))


def _offset(text: str) -> str | None:
    return text.replace(":", "").replace("-0000", "+0000") if _OFFSET.fullmatch(text) else None


_RIGHT: Final[dict[str, Callable[[str], str | None]]] = {
    "AS": _age,
    "CS": _code_string,
    "DA": as_da,
    "DS": _decimal,
    "DT": as_dt,
    "IS": _whole_number,
    "TM": as_tm,
    "TimezoneOffsetFromUTC": _offset,
}
"""By value representation or keyword: the text as PS3.5 6.2 wants it, None where its meaning is unclear."""
