"""Storage SOP classes by their role in the node (PS3.4 B.5)."""

from dicom_node.model.kinds import ObjectRole

_STORAGE = "1.2.840.10008.5.1.4.1.1."

# Ultrasound and Ultrasound Multi-frame, each with its retired predecessor.
ULTRASOUND = frozenset(_STORAGE + end for end in ("6.1", "3.1", "6", "3"))
# Computed Radiography; Digital X-Ray For Presentation and For Processing.
X_RAY = frozenset(_STORAGE + end for end in ("1", "1.1", "1.1.1"))
SOURCES = ULTRASOUND | X_RAY
SECONDARY_CAPTURES = frozenset(_STORAGE + suffix for suffix in ("7", "7.1", "7.2", "7.3", "7.4"))

# Images by their SOP class name, but made by a reader or a program: they never start a job.
_MADE = ("11.", "30", "66", "67", "68", "77.1.5.4", "88.", "104.", "481.", "9.")


def role_of(
    sop_class_uid: str, further_sources: frozenset[str], *, takes_secondary_captures: bool
) -> ObjectRole:
    """The role that an object of this class has in the node, unless it is an own result.

    ``further_sources`` are classes that a site added; ``takes_secondary_captures``: whether a rule accepts
    secondary captures of this sender as images (a frame grabber).
    """
    if sop_class_uid in SOURCES:
        return ObjectRole.SOURCE
    if sop_class_uid in SECONDARY_CAPTURES:
        return ObjectRole.SOURCE if takes_secondary_captures else ObjectRole.NON_SOURCE
    # Presentation state, segmentation, registration, document, radiotherapy or waveform.
    is_made = sop_class_uid.removeprefix(_STORAGE).startswith(_MADE)
    return ObjectRole.SOURCE if sop_class_uid in further_sources and not is_made else ObjectRole.NON_SOURCE
