"""Which fetus a picture shows: if there are several, none is measured unless the picture names it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ai_pipeline.contract import ImageHeader

# Letters run together where a reader of text lost the space.
_NAMED: Final = re.compile(
    r"\b(?:FETUS|FOETUS|BABY|TWIN|TRIPLET)\s*[:#.-]?\s*([A-F]|[1-6])\b(?!\s*(?:/|OF)\s*1\b)"
)
_SEVERAL: Final = re.compile(
    r"\b(?:TWINS?|TRIPLETS?|QUADRUPLETS?|FETUSES|FOETUSES|MULTIPLE (?:GESTATION|PREGNANCY)|[DM]C[DM]A"
    r"|ZWILLINGE?|DRILLINGE?|JUMEAUX|GEMEL(?:OS|ARES?|LARE)|GEMELLI)(?:\s*[A-F1-6])?\b"
)


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """The letters or numbers by which these texts name fetuses: "TWIN B" names "B"."""
    return frozenset(name for text in texts for name in _NAMED.findall(text.upper()))


def tells_of_several(texts: Iterable[str]) -> bool:
    """Whether one of these texts mentions more than one fetus."""
    return any(_SEVERAL.search(text.upper()) for text in texts)


def fetus_of_each(
    pictures: Mapping[str, Sequence[str]], headers: Iterable[ImageHeader]
) -> dict[str, tuple[str, str]]:
    """For each image UID the name of the fetus that the image shows, and a sentence on why it is not known.

    One of the two is empty. ``pictures``: the texts read in each picture of one study.
    """
    named = {uid: names_in(texts) for uid, texts in pictures.items()}
    words = [text for texts in pictures.values() for text in texts]
    described = ("StudyDescription", "SeriesDescription", "ProtocolName")
    words += [header.attributes.get(keyword, "") for header in headers for keyword in described]
    several = tells_of_several(words) or bool(frozenset().union(*named.values()))
    return {uid: _fetus(names, several=several) for uid, names in named.items()}


def _fetus(names: frozenset[str], *, several: bool) -> tuple[str, str]:
    if len(names) > 1:
        return "", "the picture names more than one fetus"
    if not names and several:
        return "", "there is more than one fetus, and the picture does not say which this is"
    # The fetus of a pregnancy of which nothing says that there are several (PS3.16 TID 1008, Subject ID).
    return next(iter(names), "1"), ""
