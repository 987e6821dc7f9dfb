"""Further attributes for a de-identified destination, by its peer's options of PS3.15 E.3.

Values are cleaned here, before anything is built: shifted dates, plausible numbers and terms, known words.
Other values are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from datetime import timedelta
from functools import cache
from typing import Final

from pydicom.datadict import dictionary_VM
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes

from ai_pipeline.images.dates import date_of
from ai_pipeline.images.numbers import decimal
from dicom_node.model.deidentified import Retained

KEYWORDS: Final[Mapping[Retained, tuple[str, ...]]] = {
    Retained.MODIFIED_DATES: ("StudyDate",),
    Retained.PATIENT_CHARACTERISTICS: ("PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
    Retained.DEVICE: ("DeviceSerialNumber", "StationName", "SoftwareVersions"),
    Retained.DESCRIPTORS: ("StudyDescription",),
}
"""Attributes of the source that an option keeps. Those of the device stand in Contributing Equipment."""
_OLDEST: Final = 90  # years: an age above it may identify a person, so it is written as this age
_LARGEST: Final = {"PatientSize": 3.0, "PatientWeight": 500.0}  # metres, kilograms
_ONE_WORD: Final = re.compile(r"[^\W\d_]+")
_WORDS_OF_EXAMINATIONS: Final = (
    "abdo and ap bedside beside bilateral biopsy bladder bone breast cardiac carotid chest complete "
    "contrast control cyst decubitus doppler duplex echo echocardiography erect exam examination "
    "expiration fetal first follow for frontal guided gynecology heart inspiration kidney kidneys knee "
    "lat lateral left limited liver lung lungs lying mobile musculoskeletal neck no obstetric "
    "obstetrics of or ovarian ovaries pa pediatric pelvic pelvis portable post postoperative pre "
    "pregnancy preoperative projection prone radiograph ray right scan screening second series single "
    "sitting soft standing study supine third thorax thyroid tissue transabdominal transvaginal "
    "trimester tube two ultrasonography ultrasound up upright us vascular venous view views with "
    "without x xr xray "
)


def retained(given: Dataset, options: Set[Retained], days: int) -> Dataset:
    """The values of ``given``, a decoded header, that ``options`` retain, cleaned; dates are ``days``
    earlier.
    """
    clean: dict[str, Callable[[str], object]] = {
        "StudyDate": lambda text: _earlier(text, days),
        "PatientSex": lambda text: text if text in {"M", "F", "O"} else None,
        "PatientAge": _age,
        "StudyDescription": known_words,
    }
    found = Dataset()
    for keyword in (keyword for option in sorted(options) for keyword in KEYWORDS[option]):
        value = given.get(keyword)
        if keyword in _LARGEST:
            value = value if 0 < _number(value) <= _LARGEST[keyword] else None
        elif isinstance(value, MultiValue) and dictionary_VM(keyword) == "1":
            value = None  # which of them is meant is not known, and no such object may be built
        elif keyword in clean:
            value = clean[keyword](str(value or "").strip())
        if value:
            setattr(found, keyword, value)
    return found


def known_words(text: str) -> str:
    """Only the words of ``text`` that name anatomy, side or kind of an examination.

    Known words are in PS3.16 CID 4 (anatomic region), CID 4031 (common anatomic regions) and CID 244
    (laterality), and in a list of ours; a word with a digit is never kept.
    """
    words = re.split(r"[^\w]+", text)
    kept = [word for word in words if _ONE_WORD.fullmatch(word) and word.casefold() in _known()]
    return " ".join(kept)[:64]


@cache
def _known() -> frozenset[str]:
    """The known words of code meanings: the first word of each and words in lower case.

    Other words with a capital are names of people (circle of Willis).
    """
    contexts = (codes.cid4, codes.cid4031, codes.cid244)
    meanings = [getattr(context, name).meaning for context in contexts for name in context.dir()]
    words = [re.findall(r"[^\W\d_]+(?:'s)?", meaning) for meaning in meanings]
    first = {found[0].casefold() for found in words if "'" not in found[0]}
    others = {word for found in words for word in found if word.islower()}
    return frozenset({*first, *others, *_WORDS_OF_EXAMINATIONS.split()})


def _earlier(text: str, days: int) -> str:
    """A DA, shifted; "" for what is none."""
    try:
        day = date_of(text)
        return f"{day - timedelta(days):%Y%m%d}" if day else ""
    except OverflowError:
        return ""


def _number(value: object) -> float:
    """A DS of one value; not a number for what is none."""
    number = decimal(value)
    return float("nan") if number is None else number


def _age(text: str) -> str:
    """An AS; "" for what is none."""
    found = re.fullmatch(r"(\d{3})([DWMY])", text)
    if found is None:
        return ""
    years = int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[found[2]]
    return f"{_OLDEST:03}Y" if years > _OLDEST else text
