"""Which headers the fetal head model accepts: a still ultrasound picture of a pregnancy, as far as the header
says.

Which fetus a picture shows: if there are several, none is measured unless the picture names it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ai_pipeline.contract import ImageHeader, UltrasoundRegion
from ai_pipeline.terms import shown_term

MODALITIES = frozenset({"US"})
BODY_PARTS = frozenset(
    {
        "",
        "HEAD",
        "SKULL",
        "BRAIN",
        "FETUS",
        "FETAL HEAD",
        "FETALHEAD",
        "FETAL",
        "OB",
        "OBSTETRIC",
        "ABDOMEN",
        "PELVIS",
        "ABDOMENPELVIS",
        "UTERUS",
        "GRAVID UTERUS",
    }
)
"""Body Part Examined (0018,0015) of pictures of a fetus: its own, or the mother's."""
YOUNGEST = 10.0
"""Years: the patient is the mother. The head of a newborn is examined through the fontanelle."""
SMALLEST = 160
"""Pixels a side; of fewer a pixel is more than a millimetre."""
BESIDE = 0.2
"""Area of a second region, as a share of the largest, from which the picture shows two images."""


def refused_by_header(header: ImageHeader) -> str:
    """Why the image is not one of a fetal head to measure, as its header shows; a sentence that quotes no
    free text of the header, "" if the image may be analysed.
    """
    age, sex = header.age_years, header.attributes.get("PatientSex", "")
    boxes = sorted((region.box for region in _flat(header)), key=_area, reverse=True)
    reasons = (
        (header.modality not in MODALITIES, f"modality {shown_term('Modality', header.modality)} is not US"),
        (header.frames != 1, f"{header.frames} frames: biometry is done on a still picture"),
        (header.body_part not in BODY_PARTS, "Body Part Examined is not that of a pregnancy"),
        (
            age is not None and age < YOUNGEST,
            f"the patient is younger than {YOUNGEST:.0f} years, and so not the mother",
        ),
        (sex == "M", "the patient is not the mother: Patient's Sex is M"),
        (
            min(header.rows, header.columns) < SMALLEST,
            f"{header.columns} × {header.rows} pixels are fewer than {SMALLEST} a side",
        ),
        (
            any(
                _area(other) >= BESIDE * _area(boxes[0])
                and _area((*map(max, other[:2], boxes[0][:2]), *map(min, other[2:], boxes[0][2:])))
                < _area(other) / 2
                for other in boxes[1:]
            ),
            "the picture shows several images side by side",
        ),
    )
    return next((reason for refused, reason in reasons if refused), "")


def image_area(header: ImageHeader) -> tuple[int, int, int, int]:
    """The largest two-dimensional ultrasound region inside the picture, as left, top, right, bottom; the
    whole picture if the header names no regions.
    """
    regions = [
        region for region in _flat(header) if _area(region.box) >= BESIDE * header.rows * header.columns
    ]
    if not regions:
        return 0, 0, header.columns, header.rows
    left, top, right, bottom = max(regions, key=lambda region: _area(region.box)).box
    return left, top, min(right, header.columns), min(bottom, header.rows)


def _flat(header: ImageHeader) -> list[UltrasoundRegion]:
    """The two-dimensional ultrasound regions of the header that lie at least in part in the picture."""
    # Region Spatial Format (0018,6012).
    return [
        region
        for region in header.ultrasound_regions
        if region.spatial_format == 1 and region.box[0] < header.columns and region.box[1] < header.rows
    ]


def _area(box: tuple[int, ...]) -> int:
    """The area of a box in pixels."""
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


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
    """For each image UID a pair: the label of the fetus that the image shows (such as A), and a sentence on
    why it is not known; one of the two is "". ``pictures``: the texts read in each image of one study, by
    UID; ``headers``: those of the images.
    """
    named = {uid: names_in(texts) for uid, texts in pictures.items()}
    words = [text for texts in pictures.values() for text in texts]
    described = ("StudyDescription", "SeriesDescription", "ProtocolName")
    words += [header.attributes.get(keyword, "") for header in headers for keyword in described]
    several = tells_of_several(words) or bool(frozenset().union(*named.values()))
    return {uid: _fetus(names, several=several) for uid, names in named.items()}


def _fetus(names: frozenset[str], *, several: bool) -> tuple[str, str]:
    """The label of the fetus in a picture with the labels ``names``, and a sentence on why it is not known;
    one of the two is "". ``several``: whether the study mentions more than one fetus.
    """
    if len(names) > 1:
        return "", "the picture names more than one fetus"
    if not names and several:
        return "", "there is more than one fetus, and the picture does not say which this is"
    # The fetus of a pregnancy of which nothing says that there are several (PS3.16 TID 1008, Subject ID).
    return next(iter(names), "1"), ""
