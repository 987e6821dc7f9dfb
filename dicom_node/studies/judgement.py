"""The same SOP Instance UID again: duplicate, revision or conflict, by pixels and identity. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicom_node.dicom.identity import Patient, is_same_identity
from dicom_node.inbox.inspection import Inspected
from dicom_node.model.kinds import Outcome

TWO_PATIENTS = "images of two patients (by ID, name, birth date or sex) stand in this study"


@dataclass(frozen=True, slots=True)
class Former:
    """The version that is in force so far."""

    study_instance_uid: str
    pixels_sha256: str
    identity_sha256: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the new version is; ``reason`` is one sentence where a person has to choose."""

    outcome: Outcome
    reason: str = ""


def judge(
    found: Inspected,
    former: Former | None,
    patients: Sequence[Patient],
    same_image: Callable[[], bool | None],
) -> Judgement:
    """Compare a sound object with its former version and with the patients of its study.

    ``patients`` are those of the study's other objects. ``same_image`` decodes and compares
    the pixels of both versions, None when one does not decode; it is asked only when their bytes differ,
    as they do in another transfer syntax.
    """
    if former is not None:
        return _compare(found, former, same_image)
    if any(found.patient.contradicts(other) for other in patients):
        return Judgement(Outcome.CONFLICT, TWO_PATIENTS)
    return Judgement(Outcome.NEW)


def _compare(found: Inspected, former: Former, same_image: Callable[[], bool | None]) -> Judgement:
    if former.study_instance_uid != found.study_instance_uid:
        return Judgement(Outcome.CONFLICT, "an image came again with another Study Instance UID")
    if former.pixels_sha256 != found.pixels_sha256:
        same = same_image()
        if same is None:
            return Judgement(Outcome.CONFLICT, "an image came again and cannot be compared with the first")
        if not same:
            return Judgement(Outcome.CONFLICT, "an image came again with other pixels")
    if not is_same_identity(former.identity_sha256, found.identity):
        return Judgement(Outcome.REVISION)
    return Judgement(Outcome.DUPLICATE)
