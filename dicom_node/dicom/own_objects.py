"""The origin of a result: the product, by which the node recognizes its own results, and the installation.

A result of the node that a PACS sends back starts no job. This module is light to import.
"""

from dataclasses import dataclass
from typing import Final, Self

from pydicom.dataset import Dataset

from dicom_node.dicom.uids import derived_uid

MANUFACTURER: Final = "DICOM AI Node project"
MODEL_NAME: Final = "DICOM AI Node"


@dataclass(frozen=True, slots=True)
class Installation:
    """The equipment in a result: Device UID (0018,1002) and Device Serial Number (0018,1000).

    All machines of a site share one installation: a result is the same whichever machine builds it.
    """

    device_uid: str
    serial_number: str

    @classmethod
    def from_drawn(cls, drawn: str) -> Self:
        """The installation for the random number that was drawn when the database was made
        (``store.results``).
        """
        return cls(derived_uid("installation", drawn), drawn[:16])


NO_INSTALLATION: Final = Installation(derived_uid("dicom-ai-node", "device"), "none")
"""In results without identity, which do not say at which site they were made. Until builder version 3 all
results had this Device UID."""


def is_own_result(dataset: Dataset) -> bool:
    """Whether an item of Contributing Equipment (0018,A001) names this product as manufacturer and model.

    This recognizes results of every version and installation. Image Type, series numbers and descriptions are
    not used: PACSs change them. Never raises on a faulty header.
    """
    items = dataset.get("ContributingEquipmentSequence") or []
    if isinstance(items, (str, bytes)):
        return False
    ours = {"Manufacturer": MANUFACTURER, "ManufacturerModelName": MODEL_NAME}
    return any(
        isinstance(item, Dataset)
        and all(str(item.get(word) or "").strip("\0 ") == name for word, name in ours.items())
        for item in items
    )
