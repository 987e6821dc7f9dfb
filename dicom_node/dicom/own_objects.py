"""Own results start nothing: how the node recognises them when a PACS sends them back. Light to import."""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from dicom_node.dicom.uids import derived_uid

MANUFACTURER: Final = "DICOM AI Node project"
MODEL_NAME: Final = "DICOM AI Node"

# Device UID (0018,1002) of the product: the same in every installation and for ever, so that results of
# an older version or of a second node at the site are known too.
DEVICE_UID: Final = derived_uid("dicom-ai-node", "device")


def is_own_result(dataset: Dataset) -> bool:
    """Whether an item of Contributing Equipment (0018,A001) bears our Device UID.

    Image Type, series numbers and descriptions decide nothing: PACSs change them. Never raises on a
    faulty header.
    """
    items = dataset.get("ContributingEquipmentSequence") or []
    if isinstance(items, (str, bytes)):
        return False
    return any(isinstance(item, Dataset) and _device_uid(item) == DEVICE_UID for item in items)


def _device_uid(item: Dataset) -> str:
    return str(item.get("DeviceUID") or "").strip("\0 ")
