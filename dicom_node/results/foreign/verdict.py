"""What the gate says of objects that a program of another maker wrote: verdicts, with reasons and repairs.

No text here repeats a value of an object: it may be PHI.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.results.foreign.kinds import ForeignKind


class Verdict(StrEnum):
    """What becomes of an object. Values are those that ``dicom-node programs try`` prints."""

    GOES = "sent"
    HELD = "held"
    """Until a person has looked at it: it may be right, and the node cannot tell."""
    REFUSED = "refused"


_FROM_BEST_TO_WORST: Final = (Verdict.GOES, Verdict.HELD, Verdict.REFUSED)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of the ``verdicts``; GOES without any."""
    return max(verdicts, key=_FROM_BEST_TO_WORST.index, default=Verdict.GOES)


class Effect(IntEnum):
    """What a remark means for its object, from the least to the worst."""

    NOTED = 0
    REPAIRED = 1
    HELD = 2
    REFUSED = 3
    ANSWER_REFUSED = 4
    """Identity or references are wrong: no object of the answer can be trusted to be of this patient."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One result of a check. ``text``: a plain sentence without a value of the object."""

    effect: Effect
    text: str


def noted(text: str) -> Remark:
    """The object passes; somebody who looks for the cause of something may want to know."""
    return Remark(Effect.NOTED, text)


def repaired(text: str) -> Remark:
    """The check changed the object; ``text`` says what."""
    return Remark(Effect.REPAIRED, text)


def held(text: str) -> Remark:
    """A person must look at the object before it goes."""
    return Remark(Effect.HELD, text)


def refused(text: str) -> Remark:
    """The object cannot go; others of the answer can."""
    return Remark(Effect.REFUSED, text)


def answer_refused(text: str) -> Remark:
    """Neither the object nor any other of the answer can go."""
    return Remark(Effect.ANSWER_REFUSED, text)


@dataclass(frozen=True, slots=True, eq=False)
class JudgedObject:
    """One object of a program's answer.

    ``name``: of its file, below the output folder; ``position``: among the objects of its kind, from 0, in an
    order that depends on their content alone. ``reasons``: why it is held or refused; ``repairs``: what was
    put right; ``notes``: what was seen and let pass. ``dataset``: repaired, to be encoded in ISO_IR 192; None
    for a refused one. ``maker_uid``: the SOP Instance UID that the program gave it, for the record of where
    it comes from. ``content_sha256``: hash of what it says, without dates, patient and the maker's own UIDs,
    by which two answers to the same input are compared. ``names_patient``: its text names the patient, so it
    must not go to a destination that may not know who that is.
    """

    name: str
    kind: ForeignKind
    position: int
    sop_class_uid: str
    maker_uid: str
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    content_sha256: str = ""
    dataset: Dataset | None = field(default=None, repr=False)
    names_patient: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class JudgedAnswer:
    """All objects of a program's answer, in the order of their files' names.

    ``reasons``: why the answer as a whole is refused, empty where only single objects are.
    """

    objects: tuple[JudgedObject, ...]
    reasons: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict on any object; REFUSED if the answer as a whole is refused."""
        return Verdict.REFUSED if self.reasons else worst(one.verdict for one in self.objects)

    @property
    def content_sha256(self) -> tuple[str, ...]:
        """The hashes of what the objects say, sorted: equal for two answers that say the same."""
        return tuple(sorted(one.content_sha256 for one in self.objects))


def texts(remarks: Sequence[Remark], *effects: Effect) -> tuple[str, ...]:
    """The texts of the remarks with one of these effects, each once."""
    return tuple(dict.fromkeys(one.text for one in remarks if one.effect in effects))
