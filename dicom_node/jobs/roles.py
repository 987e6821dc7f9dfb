"""The role that a received object has in the node, by its SOP class and the rules in force."""

from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.uids import is_image, role_of
from dicom_node.base.lifecycle import ObjectRole


def role_by_rules(settings: Settings, sop_class_uid: str, modality: str, sender: str) -> ObjectRole:
    """Return the role of an object that the node did not build. ``sender``: the name of the peer that sent
    it, "" if it is no peer.
    """
    image = is_image(sop_class_uid)
    return role_of(
        sop_class_uid,
        frozenset(settings.listener.further_storage_classes),
        takes_secondary_captures=any(sender in rule.secondary_captures_from for rule in settings.rules),
        goes_to_program=any(rule.gives_to_program(modality, is_image=image) for rule in settings.rules),
    )
