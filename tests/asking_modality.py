"""A modality that asks the node for storage commitment (PS3.4 Annex J): pynetdicom."""

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel

from dicom_node.base.dicom import commitment
from tests.modality import ULTRASOUND, assign
from tests.raw_requests import answered, associate_for, status_of


def asked_for(transaction: str, objects: Mapping[str, str] | list[str]) -> Dataset:
    """Action Information; ``objects``: SOP classes by instance, or instances of ultrasound."""
    classes = objects if isinstance(objects, Mapping) else dict.fromkeys(objects, ULTRASOUND)
    return commitment.request(transaction, [(sop_class, uid) for uid, sop_class in classes.items()])


def associate_to_ask(port: int, calling: str = "US1") -> Association:
    """As the SCU, without role selection."""
    return associate_for(StorageCommitmentPushModel, port, calling)


def ask(
    port: int, transaction: str, objects: Mapping[str, str] | list[str], calling: str = "US1", **other: Any
) -> int | str | None:
    """N-ACTION; its status, or why there was none. ``other``: action_type, sop_instance."""
    action, instance = other.get("action_type", 1), other.get("sop_instance", commitment.SOP_INSTANCE)
    asked = (asked_for(transaction, objects), action, StorageCommitmentPushModel, instance)
    answer = answered(associate_to_ask(port, calling), lambda one: one.send_n_action(*asked))
    return answer if isinstance(answer, str) else answer.get("Status")


def ask_raw(port: int, encoded: bytes, calling: str = "US1") -> int | None:
    """N-ACTION with these bytes as Action Information; None: the association was cut."""
    request = assign(
        N_ACTION(),
        ActionTypeID=1,
        RequestedSOPClassUID=StorageCommitmentPushModel,
        RequestedSOPInstanceUID=commitment.SOP_INSTANCE,
    )
    return status_of(associate_to_ask(port, calling), request, "ActionInformation", encoded)


def encoded_request(transaction: str, objects: Mapping[str, str] | list[str]) -> bytes:
    """In Implicit VR Little Endian."""
    return encode(asked_for(transaction, objects), True, True)
