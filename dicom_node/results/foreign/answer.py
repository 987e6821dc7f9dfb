"""The gate for DICOM that a program of another maker wrote: repaired where there is one right answer, judged.

Peers send what a program writes unread; refusing every object with a fault would refuse every MONAI package
(its SDK writes an illegal Device UID and random UIDs) and mercure's own test module (its file headers name
another object). So what the node owns is repaired first: patient, study, equipment, UIDs, character set,
flags. What only the maker can know is judged: references, frames, coordinates, geometry, codes, units.

The order: bytes (``parsing``), patient and study (``identity``), UIDs of the whole answer (``uid_map``),
references, then the checks of each kind. ``results.gate`` looks at the encoded bytes afterwards; of these
objects it must not demand what only our own builders write: References to sources alone (priors and siblings
are allowed), closed polygons, a title of our reports, ImageType of our pictures, attributes of Type 1 of our
kinds, and groups with coordinates and our words.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ai_pipeline.contract import ProgramFile
from ai_pipeline.images.numbers import DAMAGE
from dicom_node.base.dicom.elements import META_BYTES, read_file_meta
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.errors import FaultyObject
from dicom_node.results.dataset import encode_in_charset_of, text_of
from dicom_node.results.foreign import (
    codes,
    copies,
    document,
    frames,
    key_objects,
    parametric_map,
    picture,
    presentation,
    report,
    segmentation,
    structure_set,
)
from dicom_node.results.foreign.candidate import Candidate, Check, Readers
from dicom_node.results.foreign.given import GivenStudy
from dicom_node.results.foreign.identity import check_identity, check_quality_control, repair_identity
from dicom_node.results.foreign.kinds import ForeignKind, kind_of
from dicom_node.results.foreign.modules import check_modules
from dicom_node.results.foreign.names import NAMES_PATIENT, check_text
from dicom_node.results.foreign.parsing import AnswerLimits, parse
from dicom_node.results.foreign.provenance import check_modality, repair_provenance
from dicom_node.results.foreign.references import (
    check_references,
    refuse_beside_refused,
    repair_lists,
)
from dicom_node.results.foreign.uid_map import UidMap, derive_uids
from dicom_node.results.foreign.verdict import (
    Effect,
    JudgedAnswer,
    JudgedObject,
    Remark,
    Verdict,
    refused,
    texts,
)

_BEFORE_UIDS: Final[tuple[Check, ...]] = (check_modality, check_identity, check_quality_control)
_AFTER_REFERENCES: Final[tuple[Check, ...]] = (repair_identity, repair_provenance)
_OF_KIND: Final[Mapping[ForeignKind, tuple[Check, ...]]] = {
    ForeignKind.REPORT: (
        report.check_tree,
        report.check_root,
        report.check_observer,
        report.check_groups,
        report.check_coordinates,
        report.check_words,
        report.check_uid_references,
        report.repair_groups,
    ),
    ForeignKind.SEGMENTATION: (
        frames.check_functional_groups,
        segmentation.check_segments,
        frames.check_frame_of_reference,
        frames.check_geometry,
        segmentation.check_samples,
    ),
    ForeignKind.PARAMETRIC_MAP: (
        frames.check_functional_groups,
        frames.check_frame_of_reference,
        frames.check_geometry,
        parametric_map.check_map,
    ),
    ForeignKind.STRUCTURE_SET: (
        structure_set.check_regions,
        structure_set.check_frames_of_reference,
        structure_set.check_contours,
    ),
    ForeignKind.PRESENTATION: (
        presentation.check_images,
        presentation.check_displayed_areas,
        presentation.check_nothing_hidden,
        presentation.check_greys,
        presentation.check_drawings,
        presentation.add_warning,
    ),
    ForeignKind.PICTURE: (
        picture.check_samples,
        copies.check_copies,
        picture.check_place,
        picture.check_burned_in,
        picture.repair_derivation,
        picture.repair_lossy,
    ),
    ForeignKind.IMAGE: (
        picture.check_samples,
        copies.check_copies,
        picture.check_place,
        picture.repair_derivation,
        picture.repair_lossy,
    ),
    ForeignKind.DOCUMENT: (document.check_document, document.repair_document),
    ForeignKind.KEY_OBJECTS: (key_objects.check_key_objects,),
}
_LAST: Final[tuple[Check, ...]] = (
    repair_lists,
    codes.check_codes,
    codes.check_numbers,
    codes.check_sides,
    check_modules,
    check_text,
)
_BULK: Final = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData", "EncapsulatedDocument"})
_NO_LIMITS_GIVEN: Final = AnswerLimits()
_NO_READERS: Final = Readers()


def judge_answer(
    files: Sequence[ProgramFile],
    given: GivenStudy,
    limits: AnswerLimits = _NO_LIMITS_GIVEN,
    readers: Readers = _NO_READERS,
) -> JudgedAnswer:
    """Judge all objects that a program returned in one run, and repair them.

    The answer is whole (gate I): where patient, study or references of one object are wrong, none goes.
    Otherwise what is sound goes, and the rest has its reasons. Never raises for what a file holds.
    """
    files = sorted(files, key=lambda file: file.name)
    if too_much := _too_much(files, limits):
        return JudgedAnswer(tuple(_unread(file, too_much) for file in files), (too_much,))
    with quiet_pydicom():
        read = [_read(file, given, limits, readers) for file in files]
        candidates = [one for one in read if isinstance(one, Candidate)]
        uids = _judge(candidates, given)
    return _answer(read, candidates, uids)


def _too_much(files: Sequence[ProgramFile], limits: AnswerLimits) -> str:
    """Why the answer is too large to be read, "" if it is not."""
    if len(files) > limits.objects:
        return f"the answer has more than {limits.objects} objects"
    if sum(len(file.content) for file in files) > limits.mebibytes * 2**20:
        return f"the answer has more than {limits.mebibytes} MiB"
    return ""


def _read(
    file: ProgramFile, given: GivenStudy, limits: AnswerLimits, readers: Readers
) -> Candidate | JudgedObject:
    """The object in a file; refused if it cannot be read, or is of no kind that the node can judge."""
    try:
        parsed = parse(file.content, limits.header)
    except FaultyObject as error:
        return _unread(file, str(error))
    except DAMAGE:
        return _unread(file, "the file is damaged")
    dataset = parsed.dataset
    kind = kind_of(text_of(dataset, "SOPClassUID"))
    if kind is ForeignKind.UNKNOWN:
        return _unread(file, "its SOP class is private, retired, or none that a program may return here")
    if kind is ForeignKind.REPORT and (fault := report.size_fault(dataset, limits)):
        return _unread(file, fault)
    candidate = Candidate(file.name, dataset, kind, given, limits, readers)
    candidate.maker_uid = text_of(dataset, "SOPInstanceUID")
    candidate.remarks.extend(parsed.remarks)
    return candidate


def _unread(file: ProgramFile, reason: str) -> JudgedObject:
    """A refused file, with the class that its header names."""
    try:
        meta = read_file_meta(file.content[:META_BYTES])
        sop_class_uid, uid = meta.sop_class_uid, meta.sop_instance_uid
    except FaultyObject:
        sop_class_uid = uid = ""
    return JudgedObject(file.name, kind_of(sop_class_uid), 0, sop_class_uid, uid, Verdict.REFUSED, (reason,))


def _judge(candidates: Sequence[Candidate], given: GivenStudy) -> UidMap:
    """Run all checks on all objects; returns the map of their UIDs."""
    for candidate in candidates:
        for check in _BEFORE_UIDS:
            candidate.apply(check)
    _refuse_repeated(candidates)
    uids = derive_uids(candidates, given)
    siblings = {text_of(one.dataset, "SOPInstanceUID"): one for one in candidates}
    for candidate in candidates:
        candidate.siblings = siblings
        candidate.apply(check_references)
    for candidate in candidates:
        for check in (*_AFTER_REFERENCES, *_OF_KIND[candidate.kind], *_LAST, check_encoding):
            candidate.apply(check)
    refuse_beside_refused(candidates)
    return uids


def check_encoding(candidate: Candidate) -> Iterator[Remark]:
    """Yield if the object cannot be encoded: a value does not fit its VR. Its bulk data is left out."""
    dataset = Dataset({one.tag: one for one in candidate.dataset if one.keyword not in _BULK})
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    try:
        encode_in_charset_of(dataset, Dataset())
    except (*DAMAGE, OSError):  # pydicom raises OSError for a number that its VR cannot hold
        yield refused("one of its values cannot be encoded")


def _refuse_repeated(candidates: Sequence[Candidate]) -> None:
    """Refuse objects that share a SOP Instance UID: no reference tells which of them it means."""
    counted = Counter(one.maker_uid for one in candidates)
    for candidate in candidates:
        if counted[candidate.maker_uid] > 1:
            candidate.remarks.append(refused("two objects of the answer have one SOP Instance UID"))


def _answer(
    read: Sequence[Candidate | JudgedObject], candidates: Sequence[Candidate], uids: UidMap
) -> JudgedAnswer:
    """The verdicts on all objects, in the order of the files."""
    reasons = tuple(
        dict.fromkeys(reason for one in candidates for reason in texts(one.remarks, Effect.ANSWER_REFUSED))
    )
    numbers = {id(one): index for index, one in enumerate(candidates)}

    def judged(candidate: Candidate) -> JudgedObject:
        """The verdict on an object that was read."""
        index = numbers[id(candidate)]
        is_refused = bool(reasons)
        return _judged(candidate, uids.positions[index], uids.contents[index], is_answer_refused=is_refused)

    objects = [judged(one) if isinstance(one, Candidate) else one for one in read]
    return JudgedAnswer(tuple(objects), reasons)


def _judged(candidate: Candidate, position: int, content: str, *, is_answer_refused: bool) -> JudgedObject:
    """The verdict on one object from its remarks."""
    reasons = texts(candidate.remarks, Effect.HELD, Effect.REFUSED, Effect.ANSWER_REFUSED)
    verdict = Verdict.GOES
    if candidate.effect >= Effect.HELD:
        verdict = Verdict.HELD if candidate.effect is Effect.HELD else Verdict.REFUSED
    if is_answer_refused and candidate.effect < Effect.ANSWER_REFUSED:
        verdict = Verdict.REFUSED
        reasons += ("the answer as a whole is refused for another of its objects",)
    return JudgedObject(
        candidate.name,
        candidate.kind,
        position,
        candidate.sop_class_uid,
        candidate.maker_uid,
        verdict,
        reasons,
        texts(candidate.remarks, Effect.REPAIRED),
        texts(candidate.remarks, Effect.NOTED),
        content,
        None if verdict is Verdict.REFUSED else candidate.dataset,
        NAMES_PATIENT in texts(candidate.remarks, Effect.NOTED),
    )
