"""De-identified results: where they lie, and how their bytes show what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DEIDENTIFIED_FOLDER: Final = "deidentified"
"""Under ``data_dir``: de-identified results; all others lie in ``results``."""
BASIC_PROFILE: Final = ("113100", "DCM")


def is_deidentified(dataset: Dataset) -> bool:
    """Whether a data set says that the basic profile (PS3.15 E.2) was applied to it.

    Never raises on a faulty header.
    """
    items = dataset.get("DeidentificationMethodCodeSequence") or []
    if isinstance(items, (str, bytes)) or dataset.get("PatientIdentityRemoved") != "YES":
        return False
    codes = {(item.get("CodeValue"), item.get("CodingSchemeDesignator")) for item in items}
    return BASIC_PROFILE in codes
