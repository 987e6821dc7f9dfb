"""In which region of CID 4031 the organs of PS3.16 Annex L lie that are none of its members."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from highdicom.sr import CodedConcept

from dicom_node.results.common import iods

_BEFORE: Final = re.compile("(left|right|entire) ", re.IGNORECASE)
# Body Part Examined (0018,0015) of the region, and those of its organs.
_ORGANS: Final = {
    "HEAD": (
        "ACA", "ANTCOMMA", "BASILARA", "BRAIN", "CEREBELLUM", "CEREBRALA", "CEREBHEMISPHERE", "CHEEK",
        "CHOROIDPLEXUS", "CIRCLEOFWILLIS", "CORNEA", "EAR", "ENDONASAL", "EAC", "EYELID", "FACE",
        "FACIALA", "FONTANEL", "4THVENTRICLE", "INTRACRANIAL", "LACRIMALA", "LATVENTRICLE", "MCA",
        "MOUTH", "NOSE", "OCCPITALA", "OCCIPTALV", "OPHTHALMICA", "PCA", "POSCOMMA", "SCALP", "SCLERA",
        "THALAMUS", "3RDVENTRICLE", "TONGUE",
    ),
    "HEADNECK": ("ENDONASOPHARYNYX", "NASOPHARYNX", "PHARYNX", "PHARYNXLARYNX", "VERTEBRALA"),
    "NECK": (
        "CAROTID", "BULB", "CCA", "ECA", "EXTJUGV", "HYPOPHARYNX", "ICA", "INTJUGULARV", "LINGUALA",
        "PARATHYROID", "SUPRACLAVICULAR", "SUPTHYROIDA", "THYROID",
    ),
    "CHEST": (
        "ANTCARDIACV", "AORTICARCH", "ASCAORTA", "AZYGOSVEIN", "CORONARYARTERY", "CORONARYSINUS",
        "DESCAORTA", "INNOMINATEA", "INNOMINATEV", "INTMAMMARYA", "LATRIUM", "LPULMONARYA", "LVENTRICLE",
        "LUNG", "PARASTERNAL", "PULMONARYA", "PULMONARYV", "RATRIUM", "RPULMONARYA", "RVENTRICLE",
        "SUBCLAVIANA", "SUBCLAVIANV", "LSUPPULMONARYV", "RSUPPULMONARYV", "SVC", "THORACICAORTA",
        "THYMUS", "TRACHEABRONCHUS",
    ),
    "CHESTABDOMEN": ("AORTA", "INFVENACAVA", "UPPERTRUNK"),
    "ABDOMEN": (
        "ABDOMENPELVIS", "ABDOMINALAORTA", "ADRENAL", "APPENDIX", "ASCENDINGCOLON", "BILIARYTRACT",
        "CELIACA", "COMMONBILEDUCT", "DESCENDINGCOLON", "ENDORENAL", "EPIGASTRIC", "FLANK", "GASTRICV",
        "HEPATICA", "HEPATICV", "INFMESA", "KIDNEY", "LOWERTRUNK", "LHEPATICV", "LHYPOCHONDRIAC", "LLQ",
        "LLUMBAR", "LPORTALV", "LUQ", "LIVER", "LUMBARA", "LUMBAR", "MESENTRICA", "MESENTRICV",
        "MIDHEPATICV", "MORISONSPOUCH", "PANCREAS", "PANCREATICDUCT", "PORTALV", "RENALA", "RENALV",
        "RETROPERITONEUM", "RHEPATICV", "RHYPOCHONDRIAC", "RLQ", "RLUMBAR", "RPORTALV", "RUQ", "SPLEEN",
        "SPLENICA", "SPLENICV", "SUBCOSTAL", "SMA", "TRANSVERSECOLON", "UMBILICAL",
    ),
    "PELVIS": (
        "AMNIOTICFLUID", "ANUSRECTUMSIGMD", "BLADDERURETHRA", "CERVIX", "COMILIACA", "COMILIACV",
        "ENDOMETRIUM", "ENDOVAGINAL", "ENDOVESICAL", "EPIDIDYMIS", "EXTILIACA", "EXTILIACV", "GESTSAC",
        "HYPOGASTRIC", "ILIACA", "ILIACV", "INGUINAL", "INTILIACA", "LINGUINAL", "OVARY", "PENILEA",
        "PENIS", "PERINEUM", "PLACENTA", "CULDESAC", "RINGUINAL", "SCROTUM", "SEMVESICLE", "SIGMOID",
        "SUPRAPUBIC", "TESTIS", "UMBILICALA", "UMBILICALV", "UTERUS", "VAGINA", "VULVA",
    ),
    "SPINE": ("ANTSPINALA", "BACK", "CTSPINE", "LSSPINE", "SPINALCORD", "TLSPINE"),
    "UPPERARM": ("AXILLARYA", "AXILLARYV", "BRACHIALA", "BRACHIALV"),
    "FOREARM": ("RADIALA", "RADIUS", "RADIUSULNA", "ULNA", "ULNARA"),
    "UPPERLIMB": ("ANTECUBITALV", "AXILLA", "CEPHALICV"),
    "LOWERLIMB": (
        "BUTTOCK", "CFA", "CFV", "FEMORALA", "FEMORALV", "GENICULARA", "GLUTEAL", "GSV", "HIP",
        "LFEMORALA", "PELVISLOWEXTREMT", "PERONEALA", "POPLITEALA", "POPLITEALFOSSA", "POPLITEALV",
        "PROFFEMA", "PROFFEMV", "RFEMORALA", "SFJ", "SAPHENOUSV", "SFA", "SFV",
    ),
    "LOWERLEG": ("ANTTIBIALA", "CALF", "POSTIBIALA", "TIBIA", "TIBIAFIBULA"),
    "CHESTABDPELVIS": ("TRUNK",),
}  # fmt: skip


def region_of(code_value: str) -> CodedConcept | None:
    """The region in which the organ with this SNOMED CT code lies; None for other codes."""
    return _regions().get(code_value)


def region_in_words(meaning: str) -> CodedConcept | None:
    """The region of a part whose meaning begins with its side or with "entire", such as "Left kidney"."""
    part = iods.region(_BEFORE.sub("", meaning)) if _BEFORE.match(meaning) else None
    return part and (_regions().get(part.value) or part)


@cache
def _regions() -> dict[str, CodedConcept]:
    found: dict[str, CodedConcept] = {}
    for region, organs in _ORGANS.items():
        code = iods.region(region)
        assert code is not None
        found |= {organ.value: code for word in organs if (organ := iods.region(word)) is not None}
    return found
