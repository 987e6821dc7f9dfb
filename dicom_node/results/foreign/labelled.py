"""Labelled identity in text: "Name: …", "Patient ID: …", "DOB: …" whose value is not that of the study.

A node knows few names of other patients, and ``programs try`` none; but what stands behind such a label must
be the patient of the call. The reader of pictures misreads letters: what differs is for a person to look at.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.base.dicom.header import items
from dicom_node.results.dataset import text_of

_ALONE: Final = r"(?:^|[,;|/(\n]\s*)"  # "Model name" and "Lesion ID" are no patient's
_NAME: Final = "|".join(
    [
        r"patient(?:'?s)?[ _]?name",
        r"name of (?:the )?patient",
        r"patienten?name",
        r"nom du patient",
        r"nombre del paciente",
        r"(?:family|last|first|given)[ _]?name|surname|nachname|vorname",
        _ALONE + r"(?:name|patient(?:in)?|pat\.?|nom|nombre)",
    ]
)
_ID: Final = "|".join(
    [
        r"pat(?:ient(?:en)?)?(?:'?s)?[ ._-]*(?:id|no|nr|number|nummer)\b\.?",
        r"\b(?:mrn|pid)\b",
        _ALONE + r"id\b(?=[:=#\s]*[a-z-]*\d{4})",
    ]
)
_BIRTH: Final = "|".join(
    [
        r"\bd\.?o\.?b\b\.?",
        r"\bdate of birth\b",
        r"\bbirth[ _]?date\b",
        r"\bborn\b(?: on)?",
        r"\bgeb(?:oren)?\b\.?(?: am)?",
        r"\bgeburtsdatum\b",
        r"\bdate de naissance\b",
        r"\bfecha de nacimiento\b",
    ]
)
_LABEL: Final = re.compile(
    rf"(?P<name>{_NAME})\s*[:=]|(?P<id>{_ID})[\s:=#]|(?P<birth>{_BIRTH})[\s:=]", re.IGNORECASE
)
_DATE: Final = re.compile(r"\d{1,4}[\s./-]?\d{1,2}[\s./-]?\d{2,4}")
_NOT_OF_NAME: Final = frozenset(
    ["mr", "mrs", "ms", "dr", "prof", "herr", "frau", "anonymous", "anonymized", "unknown", "none", "na"]
)
"""Titles, and what stands for nobody."""


def names_others(texts: Iterable[str], studies: Sequence[Dataset]) -> bool:
    """Whether a labelled name, ID or birth date in ``texts`` is that of none of ``studies`` (headers of the
    study of the call, as it is and as it was sent). A label that ends its text belongs to the next text.
    """
    return any(_differs(kind, value, studies) for kind, value in _fields([_folded(text) for text in texts]))


def _fields(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (kind of label, value) for each label in some lines."""
    for number, line in enumerate(lines):
        # A space at the end lets a label without colon end its line.
        found = list(_LABEL.finditer(line + " "))
        ends = [*(label.start() for label in found), len(line)][1:]
        for label, end in zip(found, ends, strict=True):
            value = line[label.end() : end].strip()
            following = lines[number + 1] if number + 1 < len(lines) else ""
            if not value and not _LABEL.search(following + " "):
                value = following
            yield label.lastgroup or "", value


def _differs(kind: str, value: str, studies: Sequence[Dataset]) -> bool:
    """Whether a labelled value says something, and nothing that one of the studies says."""
    match kind:
        case "name":
            letters = re.findall(r"[^\W\d_]{2,}", _first_part(value))
            words = set(letters) - _NOT_OF_NAME
            return bool(words) and not any(words <= _name_words(study) for study in studies)
        case "id":
            word = next(iter(re.findall(r"[\w./-]*\d[\w./-]*", value)), "").strip("./-")
            return bool(word) and not any(word in _ids(study) for study in studies)
        case _:
            date = _DATE.search(value)
            if date is None:
                return False
            return not any(_is_birth_date(date[0], study) for study in studies)


def _first_part(value: str) -> str:
    """The value up to the next sign that ends a field."""
    return re.split(r"[;|\n/(]|\s{3,}", value.strip(), maxsplit=1)[0]


def _name_words(study: Dataset) -> set[str]:
    """The words of the patient's name."""
    return set(re.findall(r"[^\W\d_]+", _folded(text_of(study, "PatientName"))))


def _ids(study: Dataset) -> set[str]:
    """Patient IDs and numbers of the study."""
    words = [text_of(item, "PatientID") for item in items(study)]
    words += [text_of(study, keyword) for keyword in ("AccessionNumber", "StudyID")]
    return {_folded(word).strip() for word in words if word}


def _is_birth_date(written: str, study: Dataset) -> bool:
    """Whether a date is the patient's birth date, in any order of its parts."""
    born = text_of(study, "PatientBirthDate")
    year, month, day = born[:4], born[4:6], born[6:8]
    parts = [part.zfill(2) for part in re.findall(r"\d+", written)]
    orders = ([year, month, day], [day, month, year], [month, day, year])
    short = [[part[-2:] for part in order] for order in orders]
    return bool(born) and (parts in orders or parts in short or "".join(parts) in map("".join, orders))


def _folded(text: str) -> str:
    """Text in small letters without accents."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(sign for sign in folded if not unicodedata.combining(sign))
