"""The values of a header that may stay where they are burned in, because they cannot be a name.

Anybody may type into Protocol Name or Transducer Data. So a text counts only if each of its words has a
technical form or is a word of the field, and one of them is no name as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ai_pipeline.burnin.decide.vocabulary import (
    ALSO_NAMES,
    CODES,
    LABELS,
    MAKERS,
    NOUNS,
    PLANES,
    PRESETS,
    PROBE,
    PROBES,
    SIDES,
    VIEWS,
)

_OF_THE_FIELD: Final = NOUNS | VIEWS | SIDES | PLANES | {"SECTOR", "PHASED", "CURVED", "ENDOCAV"}
_FAMILIES: Final = frozenset(
    {"AFFINITI", "LOGIQ", "VOLUSON", "EPIQ", "ACUSON", "APLIO", "XARIO", "ACCUVIX", "SONOACE"}
)
"""Families of scanners, of which none is a surname as Philips, Canon and Ge are."""
_KNOWN: Final = frozenset(word.upper() for word in (*_OF_THE_FIELD, *MAKERS, *PROBES))
_BESIDE_THESE: Final = ALSO_NAMES | {
    word.upper() for phrase in (*PRESETS, *LABELS) for word in re.split(r"[ /]", phrase) if len(word) > 1
}
"""Words that are names as well, or of no sort alone: they count beside a word of the field."""
_NUMBER: Final = re.compile(r"\d{1,2}[.,]\d{1,2}")
_CODE: Final = re.compile(
    r"(?![FMWJ]\d{2,3}[A-Z]?$|\d{1,3}[AFJMWY]$)"  # sex and age
    r"(?:[A-Z]\d{1,3}|[A-Z]{2}\d|\d{1,2}[A-Z]{1,2}\d{0,2})(?:-\d{1,2})?[A-Z]{0,2}(?:-[A-Z]{1,2})?",
    re.IGNORECASE,
)
"""The form of transducers and models, such as "12L-RS", "E10", "S70N"."""


def harmless_values(values: Iterable[str]) -> frozenset[str]:
    """Those of the technical ``values`` of a header that cannot be a name, in small letters."""
    return frozenset(value.casefold() for value in values if is_technical(value))


def is_technical(value: str) -> bool:
    """Whether a value of a header cannot be a name: a decimal number, or words of the field and of a
    technical form.
    """
    big = value.upper()
    if _NUMBER.fullmatch(value) or big in PRESETS or big in PROBES or PROBE.fullmatch(big):
        return True
    written = list(filter(None, re.split(r"[ /,;_()+&]+", value)))
    words = [word.upper() for word in written]
    # "Affiniti 70" is a model; "Thyroid 45" and "Philips 67" may have an age.
    is_model = bool(words) and words[0] in _FAMILIES
    figures = 3 if is_model else 1
    sure = [
        word.upper() in _KNOWN
        or word in CODES  # in capitals alone: "Lov" is a name
        or PROBE.fullmatch(word) is not None
        or ((is_model or len(written) == 1) and _CODE.fullmatch(word) is not None)
        for word in written
    ]
    # "Small Parts Thyroid" is a protocol; "C5-1 Long" may have a name.
    also = frozenset() if _OF_THE_FIELD.isdisjoint(words) else _BESIDE_THESE
    return any(sure) and all(
        known or word in also or (word.isdecimal() and len(word) <= figures)
        for known, word in zip(sure, words, strict=True)
    )
