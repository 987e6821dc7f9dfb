"""What becomes of a received version of an object: new, a duplicate, a revision, set aside or a conflict."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from dicom_node.base.dicom.identity import Patient, identity_sha256, issuer_parts, patient_sha256
from dicom_node.base.errors import StoreAway
from dicom_node.base.lifecycle import (
    Outcome,
)
from dicom_node.base.store.tables import (
    Instance,
    Study,
)
from dicom_node.receive.inspection import CODING, Inspected
from dicom_node.receive.spool import (
    Arrival,
)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A spooled file to be indexed, with how it arrived (``arrival``) and what its header says (``found``).
    ``size``: bytes of the file.

    By the path of an already indexed file: ``copies``: whether it has the same bytes; ``same_image``: whether
    it decodes to the same samples, None if one of the two does not decode.
    """

    path: Path
    arrival: Arrival
    found: Inspected
    size: int
    copies: dict[str, bool] = field(default_factory=dict)
    same_image: dict[str, bool | None] = field(default_factory=dict)

    @property
    def spool_name(self) -> str:
        """The spool name under which the object was acknowledged."""
        return self.path.stem


TWO_PATIENTS = "this study has images of two patients (by ID, name, birth date or sex)"
NOT_AS_REGISTERED = (
    "its images say another {differences} than the patient who is registered under this ID (`studies "
    "versions` shows both): correct the registration or the images, or release it as it is"
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of a received version; ``reason``: one sentence if it is not accepted."""

    outcome: Outcome
    reason: str = ""


def judge(item: Arrived, former: Instance, study: Study, *, is_awaited: bool = False) -> Judgement:
    """Compare a received version of an object with its current version ``former`` in ``study``, and decide
    what becomes of it. ``is_awaited``: HL7 says that the patient of the study is the one of this version.

    The pixels may be the same although the bytes differ, as in another transfer syntax. Raises StoreAway if
    the pixels were not compared ahead, because nothing is decoded while the database is locked.
    """
    found = item.found
    if (study.study_instance_uid or "") != found.study_instance_uid:
        return Judgement(Outcome.CONFLICT, "an image came again with another Study Instance UID")
    if former.pixels_sha256 != found.pixels_sha256:
        if former.path not in item.same_image:
            raise StoreAway("it was not compared yet")
        is_same_image = item.same_image[former.path]
        if is_same_image is None:
            return Judgement(Outcome.CONFLICT, "an image came again and cannot be compared with the first")
        if not is_same_image:
            return Judgement(Outcome.CONFLICT, "an image came again with other pixels")
    # The same bytes under another colour model are another picture.
    is_same_header = former.header_sha256 == found.header_sha256 and (
        former.pixels_sha256 != found.pixels_sha256
        or all(former.attributes.get(keyword) == found.attributes.get(keyword) for keyword in CODING)
    )
    if is_same_header and former.identity_sha256 == identity_sha256(found.identity):
        return Judgement(Outcome.DUPLICATE)
    is_its_sender = is_awaited or item.arrival.calling_ae == former.calling_ae
    return _compare_header(found, former, study, is_its_sender=is_its_sender)


def _compare_header(found: Inspected, former: Instance, study: Study, *, is_its_sender: bool) -> Judgement:
    """Decide what becomes of an image that arrived again with another header. ``is_its_sender``: it comes
    from the sender of the current version, or HL7 says so.

    Empty patient attributes replace nothing, and only the sender of the image can correct it.
    """
    before, issuer = Patient.parse(former.patient), study.issuer_of_patient_id
    # Whether it says the same Patient ID without its issuer, or a part of it, which is part of the hash.
    parts = zip(issuer_parts(found.issuer_of_patient_id), issuer_parts(issuer), strict=True)
    names_less = found.issuer_of_patient_id != issuer and all(mine in ("", its) for mine, its in parts)
    is_same_id = found.patient_id and before.id == patient_sha256(found.patient_id, issuer)
    lacks_issuer = bool(names_less and is_same_id)
    patient = replace(found.patient, id=before.id) if lacks_issuer else found.patient
    lacks = lacks_issuer or patient.lacks(before)
    if is_its_sender and not lacks:
        return Judgement(Outcome.REVISION)
    if patient.corrects(before):
        return Judgement(
            Outcome.CONFLICT,
            "an image came again for another patient, with a part of the identity left empty"
            if is_its_sender
            else "an image came again from another sender for another patient",
        )
    return Judgement(
        Outcome.SET_ASIDE,
        "it leaves patient attributes empty that the version in force has"
        if lacks
        else "corrections are taken from the sender of the version in force only",
    )
