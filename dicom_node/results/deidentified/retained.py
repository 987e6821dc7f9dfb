"""Attributes that a peer's key ``retain`` (options of PS3.15 E.3) keeps in de-identified objects.

Their values are cleaned before anything is built: shifted dates, plausible numbers and terms. Other values
are left out.
"""

import contextlib
import re
from collections.abc import Callable, Mapping, Set
from datetime import timedelta
from typing import Final

from pydicom.dataset import Dataset

from ai_pipeline.images.dates import date_of
from ai_pipeline.images.numbers import decimal
from dicom_node.base.lifecycle import Retained
from dicom_node.results.dataset import text_of

KEYWORDS: Final[Mapping[Retained, tuple[str, ...]]] = {
    Retained.MODIFIED_DATES: ("StudyDate",),
    Retained.PATIENT_CHARACTERISTICS: ("PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
}
"""Attributes of the source that an option keeps."""
_OLDEST: Final = 90  # years: an age above it may identify a person, so it is written as this age


def retained(given: Dataset, options: Set[Retained], days: int) -> Dataset:
    """The attributes of ``given``, a decoded header, that ``options`` retain, with cleaned values.

    ``days``: the number of days by which dates are moved back.
    """
    clean: dict[str, Callable[[str], str]] = {
        "StudyDate": lambda text: _earlier(text, days),
        "PatientSex": lambda text: text if text in {"M", "F", "O"} else "",
        "PatientAge": _age,
        "PatientSize": lambda text: text if 0 < (decimal(text) or 0.0) <= 3 else "",  # metres
        "PatientWeight": lambda text: text if 0 < (decimal(text) or 0.0) <= 500 else "",  # kilograms
    }
    found = Dataset()
    for keyword in retained_keywords(options):
        # Of several values none passes: which is meant is not known.
        if value := clean[keyword](text_of(given, keyword).strip()):
            setattr(found, keyword, value)
    return found


def retained_keywords(options: Set[Retained]) -> list[str]:
    """The keywords of the attributes that these options retain."""
    return [keyword for option in sorted(options) for keyword in KEYWORDS[option]]


def _earlier(text: str, days: int) -> str:
    """The DICOM date (VR DA) moved back by ``days``; "" if the text is no date."""
    with contextlib.suppress(OverflowError):
        if day := date_of(text):
            return f"{day - timedelta(days):%Y%m%d}"
    return ""


def _age(text: str) -> str:
    """The DICOM age (VR AS), at most 90 years; "" if the text is no age."""
    if not (found := re.fullmatch(r"(\d{3})([DWMY])", text)):
        return ""
    years = int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[found[2]]
    return f"{_OLDEST:03}Y" if years > _OLDEST else text
