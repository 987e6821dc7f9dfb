"""Structured reports of a program (PS3.3 C.17, A.35): tree, root, groups and their coordinates."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from highdicom.sr import AlgorithmIdentification, TextContentItem, UIDRefContentItem
from highdicom.sr import RelationshipTypeValues as Related
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline.images.numbers import whole
from dicom_node.base.dicom.header import listed
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.results.concepts import name_of
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.envelope import disclaimer
from dicom_node.results.equipment import device_observer
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.coordinates import (
    Frame,
    check_graphic,
    check_input_size,
    check_points_3d,
    frame_of,
    numbers_of,
)
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.planes import Vector
from dicom_node.results.foreign.references import header_of
from dicom_node.results.foreign.verdict import Remark, held, noted, refused, repaired

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.88."
_TEXTUAL: Final = frozenset(
    [
        "CONTAINER",
        "TEXT",
        "CODE",
        "DATETIME",
        "DATE",
        "TIME",
        "UIDREF",
        "PNAME",
        "COMPOSITE",
        "IMAGE",
        "WAVEFORM",
    ]
)
_ENHANCED: Final = _TEXTUAL | {"NUM", "SCOORD", "TCOORD"}
_VALUE_TYPES: Final[Mapping[str, frozenset[str]]] = {
    _STORAGE + "11": _TEXTUAL,
    _STORAGE + "22": _ENHANCED,
    _STORAGE + "33": _ENHANCED,
    _STORAGE + "34": _ENHANCED | {"SCOORD3D"},
    _STORAGE + "35": _ENHANCED | {"SCOORD3D", "TABLE"},
}
"""Value types by SOP class (PS3.3 A.35.1.3.1.1, A.35.2.3.1.1, A.35.3.3.1.1, A.35.13.3.1.1, A.35.15)."""
_NAMED: Final = frozenset({"TEXT", "CODE", "NUM", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME"})
"""Value types whose items need a concept name (PS3.3 C.17.3.1)."""
_BY_REFERENCE: Final = frozenset(_STORAGE + end for end in ("33", "34", "35"))
_HOLDS: Final[Mapping[str, frozenset[str]]] = {
    "CONTAINS": frozenset({"CONTAINER"}),
    "SELECTED FROM": frozenset({"SCOORD", "SCOORD3D", "TCOORD"}),
    "INFERRED FROM": frozenset({"TEXT", "CODE", "NUM"}),
    "HAS PROPERTIES": frozenset(
        ["TEXT", "CODE", "NUM", "CONTAINER", "PNAME", "IMAGE", "COMPOSITE", "SCOORD", "SCOORD3D"]
    ),
    "HAS CONCEPT MOD": frozenset(_ENHANCED | {"SCOORD3D", "TABLE"}),
    "HAS OBS CONTEXT": frozenset({"CONTAINER", "TEXT", "CODE", "NUM", "COMPOSITE", "UIDREF", "PNAME"}),
    "HAS ACQ CONTEXT": frozenset({"CONTAINER", "IMAGE", "WAVEFORM", "COMPOSITE", "NUM"}),
}
"""Value types of the item above, by relationship (PS3.3 Table A.35.3-2 and those of the other classes)."""
_NOT_COORDINATES: Final = frozenset({"HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD"})
"""Relationships whose lower item states a context in words, codes or numbers, never by coordinates."""
_COORDINATES: Final = frozenset({"SCOORD", "SCOORD3D", "TCOORD"})
_SELECTED: Final[Mapping[str, frozenset[str]]] = {
    "SCOORD": frozenset({"IMAGE"}),
    "SCOORD3D": frozenset({"IMAGE"}),
    "TCOORD": frozenset({"SCOORD", "IMAGE", "WAVEFORM"}),
}
_GROUP: Final = codes.DCM.MeasurementGroup.value
_TRACKING: Final = codes.DCM.TrackingIdentifier.value, codes.DCM.TrackingUniqueIdentifier.value
_PERSON: Final = codes.DCM.Person.value
_ROOT_TEMPLATES: Final = {codes.DCM.ImagingMeasurementReport.value: "1500"}
_UIDS_OF_OBJECTS: Final = frozenset({"110180", "112002", "121232"})
"""Concept names of UIDREF: Study Instance UID, Series Instance UID, source series of a segmentation."""
_WARNING: Final = "not for diagnostic use"
_PRESENT: Final = frozenset({"52101004", "121053", "260373001", "10828004"})
_ABSENT: Final = frozenset({"272519000", "121054", "2667000", "260415000", "260385009"})
_NORMAL: Final = frozenset({"17621005", "281900007", "23875004", "168734001"})
# "Nothing found", in the languages of the console: where a finding is coded beside it, a person looks.
_SAYS_NORMAL: Final = re.compile(
    r"\b("
    + "|".join(
        [
            r"normal|unremarkable|negative for",
            r"no (finding|abnormalit|evidence|sign|acute)\w*",
            r"unauffällig|regelrecht",
            r"kein(e|en)? (befund|hinweis|nachweis)\w*",
            r"sans particularité|pas d.anomalie",
            r"sin hallazgos|sin alteraciones",
            r"nella norma",
            r"geen afwijking\w*",
        ]
    )
    + r")\b",
    re.IGNORECASE,
)
_SAYS_FOUND: Final = re.compile(
    r"\b(suspicious|malignan\w+|positive for|highly suggestive|verdächtig\w*|suspect\w*)\b", re.IGNORECASE
)


def content(dataset: Dataset, depth: int = 0) -> Iterator[tuple[Dataset, int]]:
    """Yield all content items below ``dataset`` with their depth (from 1), outer ones first."""
    for item in sequence(dataset, "ContentSequence"):
        yield item, depth + 1
        yield from content(item, depth + 1)


def size_fault(dataset: Dataset, limits: AnswerLimits) -> str:
    """Why a report is too large to be judged, "" if it is not; ends its count at the limit."""
    for number, (_, depth) in enumerate(content(dataset), start=1):
        if number > limits.content_items:
            return f"the report has more than {limits.content_items} content items"
        if depth > limits.content_depth:
            return f"the report has content items within more than {limits.content_depth} others"
    return ""


def check_tree(candidate: Candidate) -> Iterator[Remark]:
    """Yield value types and relationships that the IOD does not allow, and references in a circle."""
    dataset = candidate.dataset
    listed_items = list(content(dataset))
    if not listed_items:
        yield refused("the report has no content")
    allowed = _VALUE_TYPES[candidate.sop_class_uid]
    for parent in (dataset, *(item for item, _ in listed_items)):
        for item in sequence(parent, "ContentSequence"):
            yield from _item_remarks(candidate, parent, item, allowed)
    if _is_circular(dataset):
        yield refused("content items refer to each other in a circle, or to one that is not there")


def check_root(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with the root of the document; set its flags (PS3.3 C.17.2)."""
    dataset = candidate.dataset
    if text_of(dataset, "ValueType") != "CONTAINER":
        yield refused("the root of the report is no CONTAINER")
    if not sequence(dataset, "ConceptNameCodeSequence"):
        yield refused("the report has no title (Concept Name Code Sequence)")
    dataset.setdefault("ContinuityOfContent", "SEPARATE")
    template = _ROOT_TEMPLATES.get(name_of(dataset))
    if template and not sequence(dataset, "ContentTemplateSequence"):
        named = Dataset()
        named.MappingResource, named.TemplateIdentifier = "DCMR", template
        dataset.ContentTemplateSequence = [named]
        yield repaired("the template of the report was named")
    if text_of(dataset, "CompletionFlag") not in ("COMPLETE", "PARTIAL"):
        dataset.CompletionFlag = "PARTIAL"
        dataset.CompletionFlagDescription = "the program did not state that it is complete"
        yield repaired("Completion Flag was set to PARTIAL: the program stated none")
    if text_of(dataset, "VerificationFlag") == "VERIFIED":
        yield refused("it says that a person has verified it (Verification Flag VERIFIED)")
    for keyword, value in (("VerificationFlag", "UNVERIFIED"), ("PreliminaryFlag", "PRELIMINARY")):
        if text_of(dataset, keyword) != value:
            setattr(dataset, keyword, value)
            yield repaired(f"{keyword} was set to {value}: no person has read it")
    dataset.setdefault("PerformedProcedureCodeSequence", [])
    dataset.setdefault("ReferencedPerformedProcedureStepSequence", [])


def check_observer(candidate: Candidate) -> Iterator[Remark]:
    """Yield if a person is named as observer; name this node where nobody is (TID 1002, TID 1004)."""
    types = [
        text_of(code, "CodeValue")
        for item, _ in content(candidate.dataset)
        if name_of(item) == codes.DCM.ObserverType.value
        for code in sequence(item, "ConceptCodeSequence")
    ]
    if any(text_of(item, "ValueType") == "PNAME" for item, _ in content(candidate.dataset)):
        yield refused("it names a person (PNAME): nobody observed what a program reports")
    elif _PERSON in types:
        yield refused("its observer is a person: nobody observed what a program reports")
    if not types:
        observer = device_observer(candidate.given.context)
        candidate.dataset.ContentSequence = [*observer, *sequence(candidate.dataset, "ContentSequence")]
        yield repaired("the device that observed was named")


def repair_groups(candidate: Candidate) -> Iterator[Remark]:
    """Give each measurement group (TID 1501, 1410, 1411) tracking identifiers, the program's name and
    version (TID 4019), and the sentence that viewers show beside it.
    """
    dataset, context = candidate.dataset, candidate.given.context
    warning = f"{context.pipeline} {context.pipeline_version}: {disclaimer(context)}"
    groups = [item for item, _ in content(dataset) if name_of(item) == _GROUP]
    is_named = _has(dataset, codes.DCM.AlgorithmName.value)
    for number, group in enumerate(groups, start=1):
        inner = list(sequence(group, "ContentSequence"))
        if not _has(group, _TRACKING[1]):
            inner[:0] = _tracking(candidate, number, is_identified=_has(group, _TRACKING[0]))
            yield repaired("measurement groups without a tracking identifier got one")
        if not is_named:
            inner += AlgorithmIdentification(context.pipeline, context.pipeline_version)
            yield repaired("the program was named as the algorithm of the measurements")
        if not any(_WARNING in text for text in texts_of(group)):
            inner.append(TextContentItem(codes.DCM.Comment, warning, Related.CONTAINS))
        group.ContentSequence = inner
    if not groups and not any(_WARNING in text for text in texts_of(dataset)):
        items = list(sequence(dataset, "ContentSequence"))
        at = sum(text_of(item, "RelationshipType") != "CONTAINS" for item in items)
        items.insert(at, TextContentItem(codes.DCM.Comment, warning, Related.CONTAINS))
        dataset.ContentSequence = items
        yield repaired("the sentence was added that an AI wrote it and it is not for diagnostic use")
    identifiers = [text_of(item, "UID") for item, _ in content(dataset) if name_of(item) == _TRACKING[1]]
    if len(set(identifiers)) < len(identifiers):
        yield noted("two groups have one tracking identifier: some viewers show only the first")


def check_groups(candidate: Candidate) -> Iterator[Remark]:
    """Yield measurement groups that say neither a finding nor a measurement."""
    for item, _ in content(candidate.dataset):
        if name_of(item) == _GROUP:
            inner = [one for one, _ in content(item)]
            if not any(text_of(one, "ValueType") in ("NUM", "CODE") for one in inner):
                yield refused("a measurement group has neither a finding nor a measurement")


def check_coordinates(candidate: Candidate) -> Iterator[Remark]:
    """Yield coordinates that do not lie in the image that they are selected from (PS3.3 C.18.6, C.18.9)."""
    by_path = dict(_with_paths(candidate.dataset))
    sets: list[tuple[Vector, Frame]] = []
    for item, _ in content(candidate.dataset):
        kind = text_of(item, "ValueType")
        if kind == "SCOORD":
            yield from _scoord_remarks(candidate, item, by_path, sets)
        elif kind == "SCOORD3D":
            yield from _scoord3d_remarks(candidate, item)
    yield from check_input_size(sets, candidate)


def check_words(candidate: Candidate) -> Iterator[Remark]:
    """Hold a report whose words say that nothing was found beside a code that says something was, or the
    reverse: which of them is right only a person can tell.
    """
    said = [text for text in texts_of(candidate.dataset) if _WARNING not in text]
    coded = {
        text_of(code, "CodeValue")
        for item, _ in content(candidate.dataset)
        if text_of(item, "ValueType") == "CODE"
        for code in sequence(item, "ConceptCodeSequence")
    }
    findings = {
        text_of(code, "CodeValue")
        for item, _ in content(candidate.dataset)
        if name_of(item) == codes.DCM.Finding.value
        for code in sequence(item, "ConceptCodeSequence")
    }
    is_absent = bool(coded & (_ABSENT | _NORMAL)) and not coded & _PRESENT
    is_present = bool(coded & _PRESENT or findings - _NORMAL) and not is_absent
    if is_present and any(map(_SAYS_NORMAL.search, said)):
        yield held("its words say that nothing was found, and a code says that something was")
    if is_absent and any(map(_SAYS_FOUND.search, said)):
        yield held("its words say that something was found, and a code says that nothing was")


def says_absent(dataset: Dataset) -> bool:
    """Whether a report says by code that something is absent or normal."""
    coded = [code for item, _ in content(dataset) for code in sequence(item, "ConceptCodeSequence")]
    return any(text_of(code, "CodeValue") in _ABSENT | _NORMAL for code in coded)


def check_uid_references(candidate: Candidate) -> Iterator[Remark]:
    """Yield UIDREF items that name a study or series of nobody (gate: as other references)."""
    known = candidate.given.uids | {
        text_of(one.dataset, "SeriesInstanceUID") for one in candidate.siblings.values()
    }
    for item, _ in content(candidate.dataset):
        if name_of(item) in _UIDS_OF_OBJECTS and text_of(item, "UID") not in known:
            yield refused("it names a study or series that the program was not given")


def texts_of(dataset: Dataset) -> list[str]:
    """The texts of all TEXT items below ``dataset``."""
    return [text_of(item, "TextValue") for item, _ in content(dataset) if "TextValue" in item]


def _item_remarks(
    candidate: Candidate, parent: Dataset, item: Dataset, allowed: frozenset[str]
) -> Iterator[Remark]:
    """Yield what is wrong with one content item and its relationship to ``parent``."""
    related = text_of(item, "RelationshipType")
    if related not in _HOLDS or text_of(parent, "ValueType") not in _HOLDS[related]:
        yield refused("a content item has a relationship that its parent cannot have")
    if "ReferencedContentItemIdentifier" in item:
        if candidate.sop_class_uid not in _BY_REFERENCE:
            yield refused("a content item refers to another, which its SOP class does not allow")
        return
    kind = text_of(item, "ValueType")
    if kind not in allowed:
        yield refused("a content item has a value type that its SOP class does not allow")
    if related in _NOT_COORDINATES and kind in _COORDINATES:
        yield refused("coordinates are given as a context (Relationship Type)")
    if related == "SELECTED FROM" and kind not in _SELECTED.get(text_of(parent, "ValueType"), allowed):
        yield refused("coordinates are selected from something that has none")
    if kind in _NAMED and not sequence(item, "ConceptNameCodeSequence"):
        yield refused("a content item has no name")


def _with_paths(dataset: Dataset) -> Iterator[tuple[tuple[int, ...], Dataset]]:
    """Yield all content items with their Content Item Identifiers (PS3.3 C.18.9), the root as (1,)."""

    def below(parent: Dataset, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Dataset]]:
        """The items below ``parent``."""
        yield path, parent
        for number, item in enumerate(sequence(parent, "ContentSequence"), start=1):
            yield from below(item, (*path, number))

    return below(dataset, (1,))


def _target(item: Dataset, by_path: Mapping[tuple[int, ...], Dataset]) -> Dataset | None:
    """The item that ``item`` refers to by Referenced Content Item Identifier; None if there is none."""
    return by_path.get(tuple(whole(one) or 0 for one in listed(item.get("ReferencedContentItemIdentifier"))))


def _is_circular(dataset: Dataset) -> bool:
    """Whether some item is its own descendant by references, or a reference leads nowhere."""
    by_path = dict(_with_paths(dataset))
    done: set[int] = set()

    def leads_back(item: Dataset, above: frozenset[int]) -> bool:
        """Whether one of ``above`` is reached from ``item``."""
        if "ReferencedContentItemIdentifier" in item:
            target = _target(item, by_path)
            return target is None or leads_back(target, above)
        if id(item) in above:
            return True
        if id(item) in done:
            return False
        found = any(leads_back(one, above | {id(item)}) for one in sequence(item, "ContentSequence"))
        done.add(id(item))
        return found

    return leads_back(dataset, frozenset())


def _has(item: Dataset, concept: str) -> bool:
    """Whether an item with this concept name stands below ``item``."""
    return any(name_of(one) == concept for one, _ in content(item))


def _tracking(candidate: Candidate, number: int, *, is_identified: bool) -> list[Dataset]:
    """Tracking Identifier (unless there is one) and Unique Identifier for the group ``number``."""
    dataset, context = candidate.dataset, candidate.given.context
    uid = derived_uid("foreign", "tracking", text_of(dataset, "SOPInstanceUID"), str(number))
    found: list[Dataset] = [
        UIDRefContentItem(codes.DCM.TrackingUniqueIdentifier, uid, Related.HAS_OBS_CONTEXT)
    ]
    if not is_identified:
        name = f"{context.pipeline} {number}"
        found.insert(0, TextContentItem(codes.DCM.TrackingIdentifier, name, Related.HAS_OBS_CONTEXT))
    return found


def _images_of(item: Dataset, by_path: Mapping[tuple[int, ...], Dataset]) -> list[Dataset]:
    """The references (items of Referenced SOP Sequence) of the images that coordinates are selected from."""
    below = [
        _target(one, by_path) if "ReferencedContentItemIdentifier" in one else one
        for one in sequence(item, "ContentSequence")
    ]
    return [ref for one in below if one is not None for ref in sequence(one, "ReferencedSOPSequence")]


def _scoord_remarks(
    candidate: Candidate,
    item: Dataset,
    by_path: Mapping[tuple[int, ...], Dataset],
    sets: list[tuple[Vector, Frame]],
) -> Iterator[Remark]:
    """Yield what is wrong with one SCOORD item; its points and frame are added to ``sets``."""
    references: Sequence[Dataset] = _images_of(item, by_path)
    if not references:
        yield refused("coordinates are not selected from an image")
    for reference in references:
        target = header_of(candidate, text_of(reference, "ReferencedSOPInstanceUID"))
        frame = frame_of(target) if target is not None else None
        if target is None or frame is None:
            yield refused("coordinates are selected from an object without pixels")
            continue
        if (whole(target.get("NumberOfFrames")) or 1) > 1 and not reference.get("ReferencedFrameNumber"):
            yield refused("coordinates lie on an image of several frames, and no frame is named")
        yield from check_graphic(item, frame, text_of(item, "GraphicType"), region=True)
        points = numbers_of(item)
        if points is not None and len(points) % 2 == 0:
            sets.append((points.reshape(-1, 2), frame))


def _scoord3d_remarks(candidate: Candidate, item: Dataset) -> Iterator[Remark]:
    """Yield what is wrong with one SCOORD3D item: frame of reference, points outside of the images."""
    known = candidate.given.frames_of_reference
    named = text_of(item, "ReferencedFrameOfReferenceUID")
    if not named and len(known) == 1:
        named = item.ReferencedFrameOfReferenceUID = next(iter(known))
        yield repaired("the frame of reference of the images was named")
    if named not in known:
        yield refused("coordinates are in another frame of reference than the images")
        return
    numbers = numbers_of(item)
    if numbers is None or len(numbers) % 3:
        yield refused("a coordinate is no finite number, or one of three is missing")
        return
    stack = candidate.given.stack_in(named)
    yield from check_points_3d(numbers.reshape(-1, 3), stack, text_of(item, "GraphicType"))
