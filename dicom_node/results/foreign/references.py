"""What a program's object refers to: each is an input of the call or an object of the same answer.

Dangling references are the most common fault of programs (test data whose UIDs were replaced). Found at any
depth by Referenced SOP Instance UID (0008,1155), with the series and study in whose items it stands.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import whole
from dicom_node.base.dicom.header import listed
from dicom_node.base.dicom.identity import COPIED, are_one_patient
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.verdict import Effect, Remark, answer_refused, held, noted, refused, repaired
from dicom_node.results.source import patient_of
from dicom_node.results.standard import has_frames, is_known

_OF_STUDIES: Final = "1.2.840.10008.3.1.2.3."  # retired classes of studies and steps, which RT objects name
_MUST_REFER: Final = frozenset(
    {
        ForeignKind.SEGMENTATION, ForeignKind.PRESENTATION, ForeignKind.PARAMETRIC_MAP,
        ForeignKind.STRUCTURE_SET, ForeignKind.KEY_OBJECTS,
    }
)  # fmt: skip
_IN_EVIDENCE: Final = frozenset({ForeignKind.REPORT, ForeignKind.KEY_OBJECTS})
_BY_SERIES: Final = frozenset({ForeignKind.SEGMENTATION, ForeignKind.PARAMETRIC_MAP})
# Lists of what is referred to elsewhere; they are built anew from what is found.
_EVIDENCE: Final = "CurrentRequestedProcedureEvidenceSequence"
_OTHER_EVIDENCE: Final = "PertinentOtherEvidenceSequence"
_STUDIES: Final = "StudiesContainingOtherReferencedInstancesSequence"
_LISTS: Final = (_EVIDENCE, _OTHER_EVIDENCE, _STUDIES)
_NOT_OURS: Final = frozenset(COPIED) | {
    "ReferencedPerformedProcedureStepSequence", "ReferencedRequestSequence", "RequestAttributesSequence",
}  # fmt: skip
"""Sequences of patient, study, step and request, which are copied from the call or left out."""
_FORMER_DOCUMENTS: Final = ("PredecessorDocumentsSequence", "IdenticalDocumentsSequence")


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A reference to an instance. ``item``: the item with its UIDs; ``series_uid`` and ``study_uid``: of the
    items around it, "" without; ``path``: keywords of the sequences around it, outermost first.
    """

    item: Dataset
    uid: str
    series_uid: str
    study_uid: str
    path: tuple[str, ...]

    @property
    def sop_class_uid(self) -> str:
        """Referenced SOP Class UID."""
        return text_of(self.item, "ReferencedSOPClassUID")

    @property
    def frames(self) -> tuple[object, ...]:
        """Referenced Frame Number."""
        return listed(self.item.get("ReferencedFrameNumber"))


def references(
    dataset: Dataset, path: tuple[str, ...] = (), series_uid: str = "", study_uid: str = ""
) -> Iterator[Reference]:
    """Yield all references in a data set, but those of patient and study, which are the source's."""
    if path:
        series_uid = text_of(dataset, "SeriesInstanceUID") or series_uid
        study_uid = text_of(dataset, "StudyInstanceUID") or study_uid
        if uid := text_of(dataset, "ReferencedSOPInstanceUID"):
            yield Reference(dataset, uid, series_uid, study_uid, path)
    for element in dataset:
        if element.VR == "SQ" and (path or element.keyword not in _NOT_OURS):
            for item in element.value or ():
                yield from references(item, (*path, element.keyword), series_uid, study_uid)


def check_references(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with references; drop those that only repeat the source's own."""
    yield from _drop_repeated(candidate)
    found = list(references(candidate.dataset))
    for reference in found:
        if not reference.sop_class_uid.startswith(_OF_STUDIES):
            yield from _reference_remarks(candidate, reference)
        elif reference.uid != candidate.given.study_uid:
            yield answer_refused("it refers to another study")
    candidate.refers_to = {one.uid for one in found if one.uid in candidate.siblings}
    if candidate.kind in _MUST_REFER and not found:
        yield refused("it refers to no image")
    elif not found:
        yield noted("it refers to no image: it is bound to the study by the call alone")


def repair_lists(candidate: Candidate) -> Iterator[Remark]:
    """Build the lists of referenced objects anew: evidence of documents (PS3.3 C.17.2.3), Common Instance
    Reference (C.12.2) of segmentations and maps, and of others that have one.
    """
    dataset = candidate.dataset
    known = [place for uid in _each_uid(dataset) if (place := _place_of(candidate, uid))]
    here = [one for one in known if one.study_uid == candidate.given.study_uid]
    others = [one for one in known if one.study_uid != candidate.given.study_uid]
    built: dict[str, list[Dataset]] = {_STUDIES: list(_by_study(others))}
    if candidate.kind in _IN_EVIDENCE:
        built = {_EVIDENCE: list(_by_study(here)), _OTHER_EVIDENCE: list(_by_study(others))}
    elif candidate.kind in _BY_SERIES or (
        "ReferencedSeriesSequence" in dataset and candidate.kind is not ForeignKind.PRESENTATION
    ):
        built["ReferencedSeriesSequence"] = list(_by_series(here, "ReferencedInstanceSequence"))
    before = {keyword: sequence(dataset, keyword) for keyword in {*_LISTS, *built}}
    for keyword in before:
        if keyword in dataset:
            del dataset[keyword]
    for keyword, items in built.items():
        if items:
            setattr(dataset, keyword, items)
    if any(_uids(before[keyword]) != _uids(sequence(dataset, keyword)) for keyword in before):
        yield repaired("the lists of referenced objects name what the object refers to")


def refuse_beside_refused(candidates: Sequence[Candidate]) -> None:
    """Refuse (or hold) objects that refer to one of the answer that is refused (or held), and so on."""
    changed = True
    while changed:
        changed = False
        for candidate in candidates:
            worst = max((candidate.siblings[uid].effect for uid in candidate.refers_to), default=Effect.NOTED)
            if worst >= Effect.HELD and candidate.effect < min(worst, Effect.REFUSED):
                make = held if worst is Effect.HELD else refused
                candidate.remarks.append(make("it refers to an object of the answer that does not go"))
                changed = True


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a referenced object is: its UIDs."""

    uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str


def _drop_repeated(candidate: Candidate) -> Iterator[Remark]:
    """Drop former documents that were not given, and root references of a picture that its source has
    itself, such as to a scout image, unless they were given too: the program did not look there.
    """
    dataset, given = candidate.dataset, candidate.given
    for keyword in _FORMER_DOCUMENTS:
        named = [one.uid for item in sequence(dataset, keyword) for one in references(item, (keyword,))]
        if keyword in dataset and not (named and all(map(given.instance, named))):
            del dataset[keyword]
            yield repaired(f"{keyword} was left out: those documents were not given")
    if candidate.kind not in (ForeignKind.IMAGE, ForeignKind.PICTURE):
        return
    for keyword in [element.keyword for element in dataset if element.VR == "SQ"]:
        items = sequence(dataset, keyword)
        kept = [item for item in items if not _is_repeated(item, keyword, candidate)]
        if len(kept) < len(items):
            dataset[keyword].value = kept
            if not kept:
                del dataset[keyword]
            yield repaired(f"{keyword} was left out: the source refers to it, but the program did not get it")


def _is_repeated(item: Dataset, keyword: str, candidate: Candidate) -> bool:
    """Whether all references of an item are its source's, and one of them was not given."""
    uids = {one.uid for one in references(item, (keyword,))} if keyword not in COPIED else set()
    return bool(uids) and uids <= candidate.given.referred_to and not all(map(candidate.given.instance, uids))


def _reference_remarks(candidate: Candidate, reference: Reference) -> Iterator[Remark]:
    """Yield what is wrong with one reference to an instance."""
    place = _place_of(candidate, reference.uid)
    if place is None:
        yield answer_refused("it refers to an object that the program was not given")
        return
    prior = candidate.given.priors.get(reference.uid)
    if prior and not are_one_patient([patient_of(prior.header), patient_of(candidate.given.source)]):
        yield answer_refused("it refers to an earlier study of another patient")
    if reference.sop_class_uid != place.sop_class_uid:
        yield answer_refused("it names another SOP class for an object than that has")
    if reference.series_uid not in ("", place.series_uid):
        yield answer_refused("it names another series for an object than that is in")
    if reference.study_uid not in ("", place.study_uid):
        yield answer_refused("it names another study for an object than that is in")
    yield from _frame_remarks(candidate, reference)
    yield from _segment_remarks(candidate, reference)


def _frame_remarks(candidate: Candidate, reference: Reference) -> Iterator[Remark]:
    """Yield frame numbers that the referenced object has not (PS3.3 Table 10-3)."""
    target = header_of(candidate, reference.uid)
    if target is None:
        return
    most = whole(target.get("NumberOfFrames"), least=1) or 1
    numbers = [whole(frame, least=1, most=most) for frame in reference.frames]
    if None in numbers:
        yield refused("it names a frame that the referenced object has not")
    elif numbers and not _may_have_frames(target):
        del reference.item["ReferencedFrameNumber"]
        yield repaired("frame numbers were left out of references to images of one frame")
    elif not numbers and most > 1:
        yield noted("it refers to all frames of an image")


def _segment_remarks(candidate: Candidate, reference: Reference) -> Iterator[Remark]:
    """Yield segment numbers that the referenced segmentation has not."""
    wanted = {str(number) for number in listed(reference.item.get("ReferencedSegmentNumber"))}
    target = header_of(candidate, reference.uid)
    there = {text_of(one, "SegmentNumber") for one in sequence(target or Dataset(), "SegmentSequence")}
    if wanted - there:
        yield refused("it names a segment that the referenced object has not")


def header_of(candidate: Candidate, uid: str) -> Dataset | None:
    """The data set of an input or an object of the answer; None if ``uid`` is neither's."""
    if uid in candidate.siblings:
        return candidate.siblings[uid].dataset
    found = candidate.given.instance(uid)
    return found.header if found else None


def _may_have_frames(target: Dataset) -> bool:
    """Whether the class of a referenced object may have several frames."""
    sop_class_uid = text_of(target, "SOPClassUID")
    return "NumberOfFrames" in target or (is_known(sop_class_uid) and has_frames(sop_class_uid))


def _place_of(candidate: Candidate, uid: str) -> _Place | None:
    """Where an input or another object of the answer is; None if ``uid`` is neither's."""
    header = header_of(candidate, uid)
    if header is None or header is candidate.dataset:
        return None
    study_uid = text_of(header, "StudyInstanceUID")
    if uid in candidate.siblings:
        study_uid = candidate.given.study_uid
    return _Place(uid, text_of(header, "SOPClassUID"), text_of(header, "SeriesInstanceUID"), study_uid)


def _each_uid(dataset: Dataset) -> list[str]:
    """The referenced instances, each once, in the order in which they are named."""
    return list(dict.fromkeys(one.uid for one in references(dataset)))


def _uids(items: Sequence[Dataset]) -> set[str]:
    """The instances that a list names."""
    return {one.uid for item in items for one in references(item, ("",))}


def _by_study(places: Sequence[_Place]) -> Iterator[Dataset]:
    """Items of evidence (PS3.3 C.17.2.1): studies with their series with their instances."""
    by_study = sorted(places, key=lambda place: place.study_uid)
    for study_uid, of_study in groupby(by_study, key=lambda place: place.study_uid):
        item = Dataset()
        item.StudyInstanceUID = study_uid
        item.ReferencedSeriesSequence = list(_by_series(list(of_study), "ReferencedSOPSequence"))
        yield item


def _by_series(places: Sequence[_Place], keyword: str) -> Iterator[Dataset]:
    """Items of series with their instances in the sequence ``keyword``."""
    in_series = sorted(places, key=lambda place: place.series_uid)
    for series_uid, of_series in groupby(in_series, key=lambda place: place.series_uid):
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        setattr(item, keyword, [_instance_item(place) for place in of_series])
        yield item


def _instance_item(place: _Place) -> Dataset:
    """An item with Referenced SOP Class and Instance UID."""
    item = Dataset()
    item.ReferencedSOPClassUID = place.sop_class_uid
    item.ReferencedSOPInstanceUID = place.uid
    return item
