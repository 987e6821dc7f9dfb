"""The intended use of the ovarian model: single B-mode frames of the female pelvis.

Header, procedure or rule must say that it is the pelvis; the pixels are judged after that.
"""

from __future__ import annotations

import re

from ai_pipeline.contract import ImageHeader

MODALITIES = frozenset({"US"})
SMALLEST = 128  # pixels a side; the network sees 192
PELVIC = frozenset({"PELVIS", "OVARY", "OVARIES", "ADNEXA", "UTERUS", "ABDOMENPELVIS"})
"""Body Part Examined (0018,0015): terms of PS3.16 Annex L, and what devices write beside them."""
UNDECIDED = frozenset({"", "ABDOMEN"})
"""Values that leave it to region and descriptions: devices call a pelvis an abdomen."""
REGIONS = frozenset({"15497006", "816092008", "12921003", "35039007"})
"""Anatomic Region Sequence (0008,2218), SNOMED CT: ovary; pelvis and its former code (CID 4031); uterus."""
NOT_TISSUE = {2: "an M-mode trace", 3: "a Doppler spectrum"}
"""Region Spatial Format (0018,6012) of what is no picture of tissue (PS3.3 C.8.5.5.1.1)."""
DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName")
_PELVIC_WORDS = re.compile(r"\b(PELV\w*|OVAR\w*|ADNEX\w*|TRANSVAGINAL|ENDOVAGINAL|TVUS|TVS|GYN\w*)\b")
_PREGNANCY_WORDS = re.compile(r"\b(F(O?)ET(US|AL)\w*|OBSTETRIC\w*|PREGNAN\w*)\b")


def refused_by_header(header: ImageHeader, *, rule_says_pelvis: bool = False) -> str | None:
    """Why the header forbids an analysis, as a sentence without free text; None when it does not."""
    words = _words(header)
    traces = [
        NOT_TISSUE[part.spatial_format]
        for part in header.ultrasound_regions
        if part.spatial_format in NOT_TISSUE
    ]
    reasons = (
        (header.modality not in MODALITIES, f"modality {header.modality or 'unknown'} is not ultrasound"),
        (header.frames != 1, f"{header.frames} frames: the model was made for single frames"),
        (header.attributes.get("PatientSex") == "M", "the patient's sex is male: there are no ovaries"),
        (bool(traces), f"the image holds {', '.join(sorted(set(traces)))}"),
        (
            bool(_PREGNANCY_WORDS.search(words)),
            "the header describes an examination of a pregnancy, which the model was not made for",
        ),
        (not (rule_says_pelvis or _is_pelvis(header, words)), _not_pelvis(header)),
        (
            min(header.rows, header.columns) < SMALLEST,
            f"{header.columns} × {header.rows} pixels are fewer than {SMALLEST} a side",
        ),
    )
    return next((reason for refused, reason in reasons if refused), None)


def _is_pelvis(header: ImageHeader, words: str) -> bool:
    if header.body_part not in UNDECIDED:
        return header.body_part in PELVIC
    if region := header.attributes.get("AnatomicRegionSequence", "").partition(" ")[0]:
        return region in REGIONS
    return bool(_PELVIC_WORDS.search(words))


def _not_pelvis(header: ImageHeader) -> str:
    if header.body_part:
        return f"Body Part Examined is {header.body_part}, neither pelvis nor ovary"
    return "nothing says that this is a pelvis: neither body part, nor procedure, nor the rule"


def _words(header: ImageHeader) -> str:
    found = " ".join(header.attributes.get(keyword, "") for keyword in DESCRIPTIONS)
    return found.upper().replace("_", " ")
