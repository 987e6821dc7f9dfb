"""De-identified results: their folder, the data that they may retain, and their marks in the data set."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DEIDENTIFIED_FOLDER: Final = "deidentified"
"""Under ``data_dir``: de-identified results; all others lie in ``results``."""
BASIC_PROFILE: Final = ("113100", "DCM")


class Retained(StrEnum):
    """Data that de-identified results retain: options of PS3.15 E.3, the words of a peer's ``retain``."""

    MODIFIED_DATES = "modified_dates"
    PATIENT_CHARACTERISTICS = "patient_characteristics"
    DEVICE = "device"


OPTIONS: Final = {
    Retained.MODIFIED_DATES: (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    Retained.PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    Retained.DEVICE: ("113109", "Retain Device Identity Option"),
}
"""Code value and meaning (PS3.16 CID 7050) by which an object says that it keeps this."""


def is_deidentified(dataset: Dataset) -> bool:
    """Whether a data set states that the basic profile (PS3.15 E.2) was applied to it.

    Never raises on a faulty header.
    """
    return dataset.get("PatientIdentityRemoved") == "YES" and BASIC_PROFILE in _methods(dataset)


def retained_by(dataset: Dataset) -> frozenset[Retained]:
    """The options that a data set states it retains. Never raises on a faulty header."""
    codes = _methods(dataset)
    return frozenset(option for option, (code, _) in OPTIONS.items() if (code, "DCM") in codes)


def _methods(dataset: Dataset) -> set[tuple[object, object]]:
    items = dataset.get("DeidentificationMethodCodeSequence") or []
    if isinstance(items, (str, bytes)):
        return set()
    return {(item.get("CodeValue"), item.get("CodingSchemeDesignator")) for item in items}
