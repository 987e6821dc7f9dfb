"""An object of a program's answer while it is judged: what every check gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import DAMAGE
from dicom_node.results.dataset import text_of
from dicom_node.results.foreign.given import GivenStudy
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.verdict import Effect, Remark, refused

ReadText = Callable[[npt.NDArray[np.uint8]], Sequence[str]]
"""Reads the text in a picture ``[rows, columns]`` or ``[rows, columns, 3]`` (uint8): its lines."""
ReadDocument = Callable[[bytes], Sequence[str]]
"""Reads the text of a PDF, all pages; raises ValueError for one that it cannot read."""


@dataclass(frozen=True, slots=True)
class Readers:
    """What reads text in pictures and documents; without one, such objects are held for a person."""

    read_text: ReadText | None = None
    read_document: ReadDocument | None = None


@dataclass(slots=True, eq=False)
class Candidate:
    """An object of an answer. ``dataset`` is changed by repairs; ``maker_uid``: its SOP Instance UID before.

    ``siblings``: the objects of the answer by their new SOP Instance UIDs, this one among them;
    ``refers_to``: those that it refers to.
    """

    name: str
    dataset: Dataset
    kind: ForeignKind
    given: GivenStudy
    limits: AnswerLimits
    readers: Readers = field(default_factory=Readers)
    maker_uid: str = ""
    siblings: Mapping[str, Candidate] = field(default_factory=dict)
    refers_to: set[str] = field(default_factory=set)
    remarks: list[Remark] = field(default_factory=list)

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016)."""
        return text_of(self.dataset, "SOPClassUID")

    @property
    def effect(self) -> Effect:
        """The worst effect of all remarks so far."""
        return max((one.effect for one in self.remarks), default=Effect.NOTED)

    def apply(self, check: Check) -> None:
        """Add the remarks of a check. A value that it cannot take refuses the object: it was not judged."""
        try:
            self.remarks.extend(check(self))
        except DAMAGE:
            what = getattr(check, "__name__", "").replace("_", " ")
            self.remarks.append(refused(f"it has a damaged value ({what})"))


Check = Callable[[Candidate], Iterator[Remark]]
