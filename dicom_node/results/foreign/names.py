"""Names and IDs in the text of a program's objects: of other patients, and of the patient of the call.

Text of another known patient refuses the object. The patient's own name is no fault where the destination may
know the patient; the object is marked, and must not go where it may not.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.base.dicom.header import items, values
from dicom_node.base.dicom.identity import COPIED
from dicom_node.results.dataset import text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.labelled import names_others
from dicom_node.results.foreign.verdict import Remark, held, noted, refused

_TEXT: Final = frozenset({"LO", "LT", "SH", "ST", "UC", "UT", "PN"})
NAMES_PATIENT: Final = (
    "its text names the patient: it must not go to a destination that may not know who it is"
)
_SHORTEST: Final = 3
"""Characters of a name or ID below which it stands in too many words."""


def check_text(candidate: Candidate) -> Iterator[Remark]:
    """Yield names and IDs in the text attributes of an object, at any depth, beside patient and study."""
    yield from text_remarks(_texts(candidate.dataset), candidate)
    if any(element.VR == "PN" for item in _below(candidate.dataset) for element in item if element.value):
        yield held("it names a person who is not the patient")


def text_remarks(texts: Iterable[str], candidate: Candidate) -> Iterator[Remark]:
    """Yield if ``texts`` name another known patient, the patient of the call, or have labels of identity with
    another value than the study.
    """
    texts = list(texts)
    words = [_plain(text) for text in texts]
    joined = " " + " ".join(" ".join(words).split()) + " "
    given = candidate.given
    own = set(_own_names(given.source))
    others = {name for text in given.known_names if (name := _plain(text))} - own
    others |= {part for name in given.known_names if (part := _family(name))} - own
    if any(f" {name} " in joined for name in others if len(name) >= _SHORTEST):
        yield refused("its text names another patient")
    elif any(f" {name} " in joined for name in own if len(name) >= _SHORTEST):
        yield noted(NAMES_PATIENT)
    if names_others(texts, [given.source, *([given.sent_as] if given.sent_as is not None else [])]):
        yield held("its text has a labelled name, ID or birth date that is not that of the study")


def _texts(dataset: Dataset) -> Iterator[str]:
    """All text of an object but what was copied from the call, and meanings of codes."""
    for element, value in values(Dataset({one.tag: one for one in dataset if one.keyword not in COPIED})):
        if element.VR in _TEXT and element.keyword not in ("CodeMeaning", "Manufacturer"):
            yield str(value)


def _below(dataset: Dataset) -> Iterator[Dataset]:
    """The object without patient and study, and all items in it."""
    yield from items(Dataset({one.tag: one for one in dataset if one.keyword not in COPIED}))


def _own_names(source: Dataset) -> Iterator[str]:
    """The patient's name, in both orders, family name, ID, accession number and birth date as people write
    them.
    """
    name = text_of(source, "PatientName").partition("=")[0]
    parts = [_plain(part) for part in name.split("^") if part]
    yield " ".join(parts)
    yield " ".join(reversed(parts[:2]))
    yield _family(name)
    for keyword in ("PatientID", "AccessionNumber"):
        yield _plain(text_of(source, keyword))
    if re.fullmatch(r"\d{8}", born := text_of(source, "PatientBirthDate")):
        year, month, day = born[:4], born[4:6], born[6:]
        yield from (born, f"{year} {month} {day}", f"{day} {month} {year}", f"{month} {day} {year}")


def _family(name: str) -> str:
    """The family name of a name in the form of VR PN; "" of an ID."""
    return _plain(name.partition("^")[0]) if "^" in name else ""


def _plain(text: str) -> str:
    """Text without case, width, accents, marks between words, and spaces around."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(sign for sign in folded if not unicodedata.combining(sign))
    return " ".join(re.findall(r"\w+", letters))
