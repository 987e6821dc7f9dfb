"""An object whose SOP Instance UID is known: duplicate, revision or conflict, by pixels, header, sender."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dicom_node.dicom.hashes import CODING
from dicom_node.dicom.identity import Patient, identity_sha256, patient_sha256
from dicom_node.inbox.inspection import Inspected
from dicom_node.model.kinds import Outcome
from dicom_node.store.tables import Instance, Study

TWO_PATIENTS = "this study has images of two patients (by ID, name, birth date or sex)"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome for a new version; ``reason`` is one sentence if it is not accepted."""

    outcome: Outcome
    reason: str = ""


def judge(
    found: Inspected, calling_ae: str, former: Instance, study: Study, same_image: Callable[[], bool | None]
) -> Judgement:
    """Compare a valid object with the version in force before it, which is in ``study``.

    ``calling_ae`` sent it. ``same_image`` decodes and compares the pixels of both versions, None if one does
    not decode; it is called only if their bytes differ, as they do in another transfer syntax.
    """
    if (study.study_instance_uid or "") != found.study_instance_uid:
        return Judgement(Outcome.CONFLICT, "an image came again with another Study Instance UID")
    if former.pixels_sha256 != found.pixels_sha256:
        same = same_image()
        if same is None:
            return Judgement(Outcome.CONFLICT, "an image came again and cannot be compared with the first")
        if not same:
            return Judgement(Outcome.CONFLICT, "an image came again with other pixels")
    # The same bytes under another colour model are another picture.
    is_same_header = former.header_sha256 == found.header_sha256 and (
        former.pixels_sha256 != found.pixels_sha256
        or all(former.attributes.get(keyword) == found.attributes.get(keyword) for keyword in CODING)
    )
    if is_same_header and former.identity_sha256 == identity_sha256(found.identity):
        return Judgement(Outcome.DUPLICATE)
    return _compare_header(found, former, study, is_its_sender=calling_ae == former.calling_ae)


def _compare_header(found: Inspected, former: Instance, study: Study, *, is_its_sender: bool) -> Judgement:
    """The same image with another header: of the patient, what is empty replaces nothing; no sender corrects
    another's.
    """
    before, issuer = Patient.parse(former.patient), study.issuer_of_patient_id
    # Whether it says the same Patient ID without its issuer, which is part of the hash.
    names_no_issuer = found.patient_id and issuer and not found.issuer_of_patient_id
    lacks_issuer = names_no_issuer and before.id == patient_sha256(found.patient_id, issuer)
    patient = replace(found.patient, id=before.id) if lacks_issuer else found.patient
    lacks = lacks_issuer or patient.lacks(before)
    if patient.corrects(before):
        if is_its_sender and not lacks:
            return Judgement(Outcome.REVISION)
        emptied = "an image came again for another patient, with a part of the identity left empty"
        other = "an image came again from another sender for another patient"
        return Judgement(Outcome.CONFLICT, emptied if is_its_sender else other)
    if lacks:
        return Judgement(
            Outcome.SET_ASIDE, "it leaves patient attributes empty that the version in force has"
        )
    if is_its_sender:
        return Judgement(Outcome.REVISION)
    return Judgement(Outcome.SET_ASIDE, "corrections are taken from the sender of the version in force only")
