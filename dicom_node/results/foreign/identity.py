"""Patient and study of a program's object: compared with those of the call, then copied from the call.

What contradicts refuses the whole answer: it is of another patient (PS3.3 C.7.1.1, C.7.2.1). What is missing,
or what stands for nobody (a pseudonym that the program was sent, ANONYMOUS), is not a contradiction.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final

from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from ai_pipeline.images.dates import as_da, as_tm
from dicom_node.base.dicom.header import CharacterSet, character_sets, quiet_pydicom
from dicom_node.base.dicom.identity import (
    COPIED,
    REQUIRED_MAYBE_EMPTY,
    identity_texts,
    issuer_of,
    issuers_differ,
)
from dicom_node.results.dataset import copy_attributes, sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.verdict import Remark, answer_refused, noted, refused, repaired

_OF_PATIENT: Final = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs", "OtherPatientNames",
)  # fmt: skip
_OF_STUDY: Final = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
_TIMES_OF_STUDY: Final = frozenset({"StudyDate", "StudyTime"})
# Written in the place of a value that was taken out, or that nobody knew.
_NOBODY: Final = re.compile(
    r"[\W_]*(anon\w*|de-?identified|pseudonym\w*|removed|redacted|unknown|none|null|n\W?a)?[\W_]*",
    re.IGNORECASE,
)
# Whoever stands here did not take part, or stands in the copied patient and study.
_PEOPLE: Final = (
    "OperatorsName", "OperatorIdentificationSequence", "RequestingPhysician",
    "RequestingPhysicianIdentificationSequence", "InterpretationAuthor", "PerformingPhysicianName",
    "PerformingPhysicianIdentificationSequence", "VerifyingObserverSequence", "AuthorObserverSequence",
    "ParticipantSequence", "ContentCreatorIdentificationCodeSequence", "ReviewerName", "ReviewDate",
    "ReviewTime", "OriginalAttributesSequence", "DigitalSignaturesSequence", "MACParametersSequence",
    "EncryptedAttributesSequence", "PatientIdentityRemoved", "DeidentificationMethod",
    "DeidentificationMethodCodeSequence", "OtherPatientIDs", "ReferencedPerformedProcedureStepSequence",
    "PerformedProcedureStepID", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
    "PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedProcedureStepDescription",
)  # fmt: skip
_TYPE_2: Final = tuple(word for word in REQUIRED_MAYBE_EMPTY if not word.startswith("ClinicalTrial"))


def check_identity(candidate: Candidate) -> Iterator[Remark]:
    """Yield where patient or study contradicts the call, after trimming, in normal form of the VR."""
    dataset, given = candidate.dataset, candidate.given
    ours = [given.source, *([given.sent_as] if given.sent_as is not None else [])]
    their_study = text_of(dataset, "StudyInstanceUID")
    if their_study and all(their_study != text_of(one, "StudyInstanceUID") for one in ours):
        yield answer_refused("it is of another study: Study Instance UID contradicts that of the call")
    for keyword in _OF_PATIENT:
        if _contradicts(keyword, dataset, ours):
            yield answer_refused(f"it is of another patient: {keyword} contradicts that of the call")
    theirs, *issuers = (issuer_of(identity_texts(one)) for one in (dataset, *ours))
    if theirs and all(issuer and issuers_differ(theirs, issuer) for issuer in issuers):
        yield answer_refused("it is of another patient: IssuerOfPatientID contradicts that of the call")
    if _other_ids(dataset) - set().union(*map(_other_ids, ours)):
        yield answer_refused(
            "it is of another patient: OtherPatientIDsSequence has IDs that the call has not"
        )
    for keyword in _OF_STUDY:
        if _contradicts(keyword, dataset, ours):
            yield answer_refused(f"it is of another study: {keyword} contradicts that of the call")


def repair_identity(candidate: Candidate) -> Iterator[Remark]:
    """Replace all attributes of patient and study by those of the call; drop people who took no part."""
    dataset, given = candidate.dataset, candidate.given
    differing = [word for word in COPIED if _texts(dataset, word) != _texts(given.source, word)]
    if differing:
        yield repaired("patient and study were copied from the call")
    for keyword in COPIED:
        if keyword in dataset:
            del dataset[keyword]
    copy_attributes(dataset, given.source, *COPIED)
    yield from _drop_empty_references(dataset)
    for keyword in _TYPE_2:
        dataset.setdefault(keyword, None)
    with quiet_pydicom():
        for element in dataset:
            if element.VR == "PN" and element.value:
                # As text: pydicom would keep the bytes of the source's character set.
                names = element.value if element.VM > 1 else [element.value]
                element.value = [PersonName(str(name)) for name in names]
    dropped = [word for word in _PEOPLE if word in dataset]
    for keyword in dropped:
        del dataset[keyword]
    if dropped:
        yield repaired("people, steps and signatures that the program took over or made up were left out")
    if text_of(dataset, "ContentCreatorName"):
        dataset.ContentCreatorName = None
        yield repaired("ContentCreatorName was emptied: no person made it")


def _drop_empty_references(dataset: Dataset) -> Iterator[Remark]:
    """Leave out items of the source that refer to a patient or study by no UID (seen of scanners): both UIDs
    are of Type 1.
    """
    for keyword in ("ReferencedPatientSequence", "ReferencedStudySequence"):
        items = sequence(dataset, keyword)
        kept = [
            item
            for item in items
            if text_of(item, "ReferencedSOPClassUID") and text_of(item, "ReferencedSOPInstanceUID")
        ]
        if len(kept) < len(items):
            del dataset[keyword]
            if kept:
                setattr(dataset, keyword, kept)
            yield repaired(f"{keyword} of the call was left out: it names nothing")


def check_quality_control(candidate: Candidate) -> Iterator[Remark]:
    """Yield if the object says of a patient's study that it is synthetic, or is of a phantom."""
    dataset, given = candidate.dataset, candidate.given
    if text_of(dataset, "SyntheticData") == "YES" and text_of(given.source, "SyntheticData") != "YES":
        yield noted("it says that its content is synthetic")
    if text_of(dataset, "QualityControlSubject") == "YES" != text_of(given.source, "QualityControlSubject"):
        yield refused("it says that its subject is a phantom (Quality Control Subject)")


def _contradicts(keyword: str, dataset: Dataset, ours: list[Dataset]) -> bool:
    """Whether the object has a value that neither the call nor what was sent to the program has."""
    if keyword not in dataset:
        return False
    value = _normal(keyword, text_of(dataset, keyword))
    if not value or _NOBODY.fullmatch(value):
        return False
    if keyword in _TIMES_OF_STUDY and text_of(dataset, "StudyInstanceUID"):
        return False  # the UID names the study; GDCM and SimpleITK write the day on which they run
    own = [(one, text) for one in ours if (text := text_of(one, keyword).strip())]
    if not own:  # what the call does not say, nobody contradicts; but an ID or a name it would have
        return keyword in ("PatientID", "PatientName")
    is_name = keyword.endswith(("Name", "Names"))
    return not any(
        value == _normal(keyword, text) or (is_name and value in _damaged(text, one)) for one, text in own
    )


def _normal(keyword: str, text: str) -> str:
    """The value in a form in which two spellings of the same are equal (PS3.5 6.2)."""
    text = text.strip(" \0")
    if keyword.endswith("Date"):
        return as_da(text) or text
    if keyword == "StudyTime" and text:
        return (as_tm(text) or text).partition(".")[0].ljust(6, "0")
    if keyword.endswith(("Name", "Names")):
        folded = unicodedata.normalize("NFKC", text).casefold()
        groups = [
            "^".join(" ".join(part.split()) for part in group.split("^")) for group in folded.split("=")
        ]
        return "=".join(group.rstrip("^") for group in groups).rstrip("=")
    return text


def _spaced(group: str) -> str:
    """One group of a name with single spaces, without trailing delimiters."""
    return "^".join(" ".join(component.split()) for component in group.split("^")).rstrip("^")


def _damaged(name: str, source: Dataset) -> set[str]:
    """A name as programs write it that force another character set than the source's (MONAI's SDK: ISO_IR
    100): with "?" for what the set lacks, or its bytes read as ISO 8859-1.
    """
    found = {name.encode(codec, "replace").decode(codec) for codec in ("ascii", "latin-1")}
    for codec in ("utf-8", *CharacterSet.from_terms(character_sets(source)).codecs):
        try:
            found.add(name.encode(codec).decode("latin-1"))
        except UnicodeError:
            continue
    return {_normal("PatientName", one) for one in found}


def _other_ids(dataset: Dataset) -> set[str]:
    """The Patient IDs in Other Patient IDs Sequence (0010,1002)."""
    items = dataset.get("OtherPatientIDsSequence") or []
    return {text for item in items if (text := text_of(item, "PatientID").strip())}


def _texts(dataset: Dataset, keyword: str) -> Mapping[str, str]:
    """What an attribute says, without padding; empty if it says nothing."""
    return identity_texts(dataset, (keyword,))
