"""The attributes that the IOD of a program's object must have (PS3.3 Annex A): empty ones are added.

A missing attribute of Type 2 has one right value, none. One of Type 1 has to come from the program; in a
derived image it may lack because its source lacks it.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.verdict import Remark, noted, refused, repaired
from dicom_node.results.standard import attributes_of, is_known, mandatory_modules

# Their tables list alternatives as if all were wanted at once; ``report`` and ``frames`` stand for them.
_NOT_BY_TABLE: Final = frozenset(
    {
        "sr-document-content", "key-object-document", "segmentation-multi-frame-functional-groups",
        "parametric-map-multi-frame-functional-groups", "common-instance-reference",
    }
)  # fmt: skip


def check_modules(candidate: Candidate) -> Iterator[Remark]:
    """Yield attributes of Type 1 that are missing or empty; add those of Type 2, empty."""
    sop_class_uid = candidate.sop_class_uid
    if not is_known(sop_class_uid):
        yield refused("its SOP class has no IOD that is known here")
        return
    if candidate.kind is ForeignKind.IMAGE:
        yield from _drop_incomplete(candidate.dataset)
    added = False
    for path, wanted in _required(sop_class_uid):
        for item in _items_at(candidate.dataset, path):
            for keyword, kind in wanted:
                if kind == "2" and keyword not in item:
                    setattr(item, keyword, None)
                    added = True
                elif kind == "1" and (keyword not in item or item[keyword].is_empty):
                    yield _taken_over(candidate, path, keyword) or _missing(candidate, path, keyword)
    if added:
        yield repaired("attributes that may be empty (Type 2) were added")


def _drop_incomplete(dataset: Dataset) -> Iterator[Remark]:
    """Leave out what a derived image took over from its scanner and may do without: sequences of Type 3 with
    an item that lacks an attribute of Type 1, such as a Real World Value Mapping without a unit.
    """
    sop_class_uid = text_of(dataset, "SOPClassUID")
    for path, wanted in _required(sop_class_uid):
        if len(path) != 1 or path[0] not in _optional(sop_class_uid):
            continue
        needed = [keyword for keyword, kind in wanted if kind == "1"]
        items = sequence(dataset, path[0])
        if any(keyword not in item or item[keyword].is_empty for item in items for keyword in needed):
            del dataset[path[0]]
            yield repaired(f"{path[0]} was left out: an item of it is not complete")


@cache
def _optional(sop_class_uid: str) -> frozenset[str]:
    """The attributes of Type 3 at the root of the mandatory modules, unless another of them needs them."""
    kinds: dict[str, set[str]] = {}
    for module in mandatory_modules(sop_class_uid):
        for path, keyword, kind in attributes_of(module):
            if not path:
                kinds.setdefault(keyword, set()).add(kind)
    return frozenset(keyword for keyword, found in kinds.items() if found == {"3"})


@cache
def _required(sop_class_uid: str) -> tuple[tuple[tuple[str, ...], tuple[tuple[str, str], ...]], ...]:
    """The attributes (keyword, Type 1 or 2) of the mandatory modules, by the sequences that hold them."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for module in mandatory_modules(sop_class_uid):
        if module in _NOT_BY_TABLE or module.endswith("functional-groups"):
            continue
        for path, keyword, kind in attributes_of(module):
            if kind in ("1", "2"):
                found.setdefault(path, {})[keyword] = kind
    return tuple((path, tuple(wanted.items())) for path, wanted in found.items())


def _taken_over(candidate: Candidate, path: Sequence[str], keyword: str) -> Remark | None:
    """Take what a writer left out of a derived image from its inputs, where all of its class state the same
    of how they were acquired (SimpleITK writes no Scanning Sequence); None where it may not be.
    """
    inputs = [one for one in candidate.given.given.values() if one.sop_class_uid == candidate.sop_class_uid]
    stated = [
        one.header[keyword] for one in inputs if keyword in one.header and not one.header[keyword].is_empty
    ]
    is_acquisition = (
        candidate.kind is ForeignKind.IMAGE and not path and tag_for_keyword(keyword) >> 16 == 0x18
    )
    if (
        not is_acquisition
        or not stated
        or len(stated) < len(inputs)
        or any(one != stated[0] for one in stated)
    ):
        return None
    candidate.dataset[keyword] = deepcopy(stated[0])
    return repaired(f"{keyword} was taken from the images that the program got")


def _missing(candidate: Candidate, path: Sequence[str], keyword: str) -> Remark:
    """The remark on a missing attribute of Type 1."""
    sources = list(candidate.given.given.values())[:1]
    if candidate.kind is ForeignKind.IMAGE and not path and any(keyword not in one.header for one in sources):
        return noted(f"{keyword} (Type 1) is missing, as in its source")
    return refused(f"{keyword} (Type 1) is missing")


def _items_at(dataset: Dataset, path: Sequence[str]) -> list[Dataset]:
    """The items in the sequences of ``path``, outermost first; the data set itself for an empty path."""
    found = [dataset]
    for keyword in path:
        found = [inner for item in found for inner in sequence(item, keyword)]
    return found
