"""UIDs of a whole answer: programs draw them anew in each run; here they are derived, for all at once.

An object's UID comes from study, program, version, kind and content. Content is what the object says without
dates, patient, equipment and UIDs that the program drew, so that two runs with equal content give equal UIDs.
References between objects of the answer follow their objects (PS3.3 C.12.1, C.17.2.1).
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import whole_of
from dicom_node.base.dicom.header import items
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.results.dataset import text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.given import GivenStudy
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.uids import shaping_texts

VERSION: Final = "1"
"""Raised with every change that makes other objects from the same answer."""
_OF_THE_STANDARD: Final = "1.2.840.10008."
# Not content: what the node sets, and what programs draw at random (MONAI: Series Number).
_NOT_CONTENT: Final = frozenset(COPIED) | {
    "SpecificCharacterSet", "SeriesNumber", "SeriesDescription", "ContributingEquipmentSequence",
    "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "DeviceUID",
    "InstanceCreatorUID", "DataSetTrailingPadding",
}  # fmt: skip
_TIMES: Final = frozenset({"DA", "TM", "DT"})
_MADE_ANEW: Final = re.compile(rb"/(CreationDate|ModDate)\s*\([^)]*\)|/ID\s*\[[^\]]*\]")
"""In a PDF: what its writer draws anew in each run (ISO 32000-1, 14.3.3, 14.4)."""
# UIDs that name no object of the answer, but a vocabulary or a maker's software.
_NAMES_SOMETHING_ELSE: Final = frozenset(
    {
        "CodingSchemeUID", "ContextUID", "MappingResourceUID", "ContextGroupExtensionCreatorUID",
        "SOPClassUID", "ReferencedSOPClassUID", "DeviceUID", "InstanceCreatorUID", "TargetUID",
        "StudyInstanceUID", "ReferencedStudyInstanceUID", "UniversalEntityID",
    }
)  # fmt: skip
_REFERENCES: Final = frozenset({"ReferencedSOPInstanceUID", "SeriesInstanceUID"})


@dataclass(frozen=True, slots=True, eq=False)
class UidMap:
    """The new UIDs of an answer. ``positions`` and ``contents``: of the objects, in their order: their place
    among the objects of their kind, and the hash of what they say.
    """

    positions: tuple[int, ...]
    contents: tuple[str, ...]


def derive_uids(objects: Sequence[Candidate], given: GivenStudy) -> UidMap:
    """Give all objects derived UIDs in place, and rewrite every reference between them.

    SOP Instance UIDs that two objects share are made different; a reference to such a UID cannot be resolved
    and stays as it is. References to what is not of the answer stay, for ``references`` to judge.
    """
    contents = _contents(objects, given)
    positions = _positions(objects, contents)
    shaping = (VERSION, *shaping_texts(given.context), given.rule, given.study_uid, given.identity_sha256)
    known = given.uids

    def new(what: str, *parts: str) -> str:
        """The derived UID of something of this answer."""
        return derived_uid("foreign", what, *shaping, *parts)

    times = Counter[tuple[ForeignKind, str]]()
    instances: dict[str, str] = {}
    shared = {uid for uid, count in Counter(map(_uid, objects)).items() if count > 1}
    new_uids = []
    for candidate, content in zip(objects, contents, strict=True):
        number = times[candidate.kind, content]
        times[candidate.kind, content] += 1
        new_uids.append(new("object", candidate.kind, content, str(number)))
        if _uid(candidate) not in shared | known:  # else a reference means the input of that UID
            instances[_uid(candidate)] = new_uids[-1]
    series = _series(objects, positions, new)
    series_of = dict(zip(new_uids, series, strict=True))
    instances |= _series_names(objects, series, known)
    local = _local(objects, known | instances.keys(), contents, new)
    for candidate in objects:
        _rewrite(candidate.dataset, instances | local)
    for candidate, uid, series_uid in zip(objects, new_uids, series, strict=True):
        candidate.dataset.SOPInstanceUID = uid
        candidate.dataset.SeriesInstanceUID = series_uid
        candidate.dataset.file_meta.MediaStorageSOPInstanceUID = uid
        _name_series(candidate.dataset, series_of)
    return UidMap(positions, contents)


def _uid(candidate: Candidate) -> str:
    """The SOP Instance UID that the program gave the object."""
    return text_of(candidate.dataset, "SOPInstanceUID")


def _contents(objects: Sequence[Candidate], given: GivenStudy) -> tuple[str, ...]:
    """The hash of what each object says. In a first pass all UIDs that the program drew are numbered in the
    order in which they appear; in the second, a reference to a sibling is the sibling's first hash.
    """
    known = given.uids
    first = [_digest(one.dataset, lambda uid: uid if uid in known else None) for one in objects]
    siblings = {_uid(one): content for one, content in zip(objects, first, strict=True)}

    def named(uid: str) -> str | None:
        """A text for a UID that is the same in every run; None if there is none."""
        return uid if uid in known else siblings.get(uid)

    return tuple(_digest(one.dataset, named) for one in objects)


def _digest(dataset: Dataset, named: Callable[[str], str | None]) -> str:
    """The hash of what a data set says; ``named``: what stands for a UID, None for its number."""
    digest, numbers = hashlib.sha256(), dict[str, int]()

    def said(element: DataElement, value: object) -> bytes:
        """A value as bytes that are the same in every run."""
        if isinstance(value, bytes):
            return _MADE_ANEW.sub(b"", value) if element.keyword == "EncapsulatedDocument" else value
        written = str(value)
        if element.VR == "UI" and not written.startswith(_OF_THE_STANDARD):
            written = named(written) or f"#{numbers.setdefault(written, len(numbers))}"
        return written.encode()

    def add(item: Dataset) -> None:
        """Add all elements of a data set, in the order of their tags."""
        for element in item:
            if element.keyword in _NOT_CONTENT or element.VR in _TIMES:
                continue
            digest.update(f"\x1e{element.tag:08x}".encode())
            if element.VR == "SQ":
                for inner in element.value or ():
                    digest.update(b"\x1d")
                    add(inner)
                continue
            for value in _values(element):
                digest.update(b"\x1f" + said(element, value))

    add(dataset)
    return digest.hexdigest()


def _values(element: DataElement) -> Iterable[Any]:
    """The values of an element, none if it is empty."""
    if element.value is None:
        return ()
    return element.value if element.VM > 1 and not isinstance(element.value, bytes) else (element.value,)


def _positions(objects: Sequence[Candidate], contents: Sequence[str]) -> tuple[int, ...]:
    """The place of each object among those of its kind, by Instance Number and content, not by file name."""
    order: dict[ForeignKind, list[tuple[int, str, int]]] = defaultdict(list)
    for index, (candidate, content) in enumerate(zip(objects, contents, strict=True)):
        number = whole_of(candidate.dataset, "InstanceNumber", 0)
        order[candidate.kind].append((number, content, index))
    places = {index: place for kind in order for place, (*_, index) in enumerate(sorted(order[kind]))}
    return tuple(places[index] for index in range(len(objects)))


def _series(
    objects: Sequence[Candidate], positions: Sequence[int], new: Callable[..., str]
) -> tuple[str, ...]:
    """The new Series Instance UID of each object: one for each series of the maker, kind, modality and frame
    of reference (PS3.3 C.7.3.1, C.7.4.1), numbered by the first object of each.
    """
    groups: dict[tuple[str, ...], int] = {}
    keys = []
    for candidate, position in zip(objects, positions, strict=True):
        dataset = candidate.dataset
        words = ("SeriesInstanceUID", "Modality", "FrameOfReferenceUID")
        key = (candidate.kind, *(text_of(dataset, word) for word in words))
        keys.append(key)
        groups[key] = min(position, groups.get(key, position))
    ranks = {key: rank for rank, (key, _) in enumerate(sorted(groups.items(), key=lambda pair: pair[1]))}
    by_kind = Counter[str]()
    numbers = {}
    for key in sorted(groups, key=ranks.__getitem__):
        numbers[key] = by_kind[key[0]]
        by_kind[key[0]] += 1
    return tuple(new("series", key[0], key[2], str(numbers[key])) for key in keys)


def _series_names(
    objects: Sequence[Candidate], series: Sequence[str], known: frozenset[str]
) -> dict[str, str]:
    """The new UIDs of the maker's series, but of those that became several, or that are an input's."""
    found = defaultdict[str, set[str]](set)
    for candidate, series_uid in zip(objects, series, strict=True):
        found[text_of(candidate.dataset, "SeriesInstanceUID")].add(series_uid)
    return {old: new.pop() for old, new in found.items() if len(new) == 1 and old and old not in known}


def _local(
    objects: Sequence[Candidate],
    kept: Iterable[str],
    contents: Sequence[str],
    new: Callable[..., str],
) -> dict[str, str]:
    """The new UIDs for all others that the program drew: tracking, dimensions, frames of reference."""
    kept, found = frozenset(kept), dict[str, str]()
    ordered = sorted(zip(contents, range(len(objects)), strict=True))
    for content, index in ordered:
        for number, value in enumerate(_drawn(objects[index].dataset)):
            if value not in kept and value not in found:
                found[value] = new("local", content, str(number))
    return found


def _drawn(dataset: Dataset) -> Iterator[str]:
    """All UIDs of a data set that may be drawn by its program, in the order of their tags."""
    left_alone = _NAMES_SOMETHING_ELSE | _REFERENCES | {"SOPInstanceUID"}
    for item in items(dataset):
        for element in item:
            if element.VR == "UI" and element.keyword not in left_alone:
                yield from (str(one) for one in _values(element) if not str(one).startswith(_OF_THE_STANDARD))


def _rewrite(dataset: Dataset, new: Mapping[str, str]) -> None:
    """Replace UIDs by ``new`` everywhere in a data set, but for the study's and those of vocabularies."""
    for item in items(dataset):
        for element in item:
            if element.VR != "UI" or element.keyword in _NAMES_SOMETHING_ELSE:
                continue
            values = [new.get(str(one), str(one)) for one in _values(element)]
            if values:
                element.value = values if len(values) > 1 else values[0]


def _name_series(dataset: Dataset, series_of: Mapping[str, str]) -> None:
    """Put the new series into the items that list references to objects of the answer by series."""
    for item in items(dataset):
        if item is dataset or "SeriesInstanceUID" not in item:
            continue
        inner = (text_of(one, "ReferencedSOPInstanceUID") for one in items(item))
        if found := next((series_of[uid] for uid in inner if uid in series_of), ""):
            item.SeriesInstanceUID = found
