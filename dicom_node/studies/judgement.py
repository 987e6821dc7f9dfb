"""An object whose SOP Instance UID is known: duplicate, revision or conflict, by pixels, header, sender."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dicom_node.dicom.hashes import CODING
from dicom_node.dicom.identity import Patient, identity_sha256, patient_sha256
from dicom_node.inbox.inspection import Inspected
from dicom_node.model.kinds import Outcome

TWO_PATIENTS = "this study has images of two patients (by ID, name, birth date or sex)"
OTHER_SENDER = "an image came again from another sender for another patient"
PARTLY_EMPTIED = "an image came again for another patient, with a part of the identity left empty"
SAYS_LESS = "it leaves patient attributes empty that the version in force has"
NOT_ITS_SENDER = "corrections are taken from the sender of the version in force only"


@dataclass(frozen=True, slots=True)
class Former:
    """The version in force before the new one. ``issuer``: Issuer of Patient ID of its study.

    ``attributes``: texts by DICOM keyword.
    """

    study_instance_uid: str
    pixels_sha256: str
    identity_sha256: str
    header_sha256: str
    attributes: Mapping[str, str]
    patient: Patient
    issuer: str
    calling_ae: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome for a new version; ``reason`` is one sentence if it is not accepted."""

    outcome: Outcome
    reason: str = ""


def judge(
    found: Inspected,
    calling_ae: str,
    former: Former | None,
    patients: Sequence[Patient],
    same_image: Callable[[], bool | None],
) -> Judgement:
    """Compare a valid object with its former version and with the patients of its study.

    ``calling_ae`` sent it. ``patients`` are those of the study's other objects. ``same_image`` decodes and
    compares the pixels of both versions, None if one does not decode; it is called only if their bytes
    differ, as they do in another transfer syntax.
    """
    if former is not None:
        return _compare(found, calling_ae, former, same_image)
    if any(found.patient.contradicts(other) for other in patients):
        return Judgement(Outcome.CONFLICT, TWO_PATIENTS)
    return Judgement(Outcome.NEW)


def _compare(
    found: Inspected, calling_ae: str, former: Former, same_image: Callable[[], bool | None]
) -> Judgement:
    if former.study_instance_uid != found.study_instance_uid:
        return Judgement(Outcome.CONFLICT, "an image came again with another Study Instance UID")
    if former.pixels_sha256 != found.pixels_sha256:
        same = same_image()
        if same is None:
            return Judgement(Outcome.CONFLICT, "an image came again and cannot be compared with the first")
        if not same:
            return Judgement(Outcome.CONFLICT, "an image came again with other pixels")
    if former.identity_sha256 == identity_sha256(found.identity) and _is_same_header(found, former):
        return Judgement(Outcome.DUPLICATE)
    return _compare_header(found, former, is_its_sender=calling_ae == former.calling_ae)


def _is_same_header(found: Inspected, former: Former) -> bool:
    """Whether both say the same. The same bytes under another colour model are another picture."""
    if former.header_sha256 != found.header_sha256:
        return False
    return former.pixels_sha256 != found.pixels_sha256 or all(
        former.attributes.get(keyword) == found.attributes.get(keyword) for keyword in CODING
    )


def _compare_header(found: Inspected, former: Former, *, is_its_sender: bool) -> Judgement:
    """The same image with another header: of the patient, what is empty replaces nothing; no sender corrects
    another's.
    """
    lacks_issuer = _lacks_issuer(found, former)
    patient = replace(found.patient, id=former.patient.id) if lacks_issuer else found.patient
    lacks = lacks_issuer or patient.lacks(former.patient)
    if patient.corrects(former.patient):
        if is_its_sender and not lacks:
            return Judgement(Outcome.REVISION)
        return Judgement(Outcome.CONFLICT, PARTLY_EMPTIED if is_its_sender else OTHER_SENDER)
    if lacks:
        return Judgement(Outcome.SET_ASIDE, SAYS_LESS)
    return Judgement(Outcome.REVISION) if is_its_sender else Judgement(Outcome.SET_ASIDE, NOT_ITS_SENDER)


def _lacks_issuer(found: Inspected, former: Former) -> bool:
    """Whether it says the same Patient ID without its issuer, which is part of the hash."""
    if not (found.patient_id and former.issuer) or found.issuer_of_patient_id:
        return False
    return former.patient.id == patient_sha256(found.patient_id, former.issuer)
