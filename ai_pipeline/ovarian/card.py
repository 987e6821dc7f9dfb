"""The card of the pipeline ``ovarian``: its description and its options.

The model is meant for single B-mode frames of the female pelvis. Header, procedure or rule must say that the
image shows the pelvis; after that the pixels are judged.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from ai_pipeline.contract import Code, ImageHeader, ModelSlot, PipelineCard, PipelineOptions, option
from ai_pipeline.terms import shown_term

MODALITIES = frozenset({"US"})
SMALLEST = 128  # pixels a side; the network sees 192
YOUNGEST = 12.0  # years; the frames that the model has seen are of women
PELVIC = frozenset({"PELVIS", "OVARY", "OVARIES", "ADNEXA"})
"""Body Part Examined (0018,0015): terms of PS3.16 Annex L, and what devices write beside them."""
UNDECIDED = frozenset({"", "ABDOMEN", "ABDOMENPELVIS", "UTERUS"})
"""Values that leave it to region and descriptions: devices call a pelvis an abdomen, a pregnancy a uterus."""
A_SPECTRUM = "a Doppler spectrum"
NOT_TISSUE = {2: "an M-mode trace", 3: A_SPECTRUM}
"""Region Spatial Format (0018,6012) of what is no picture of tissue (PS3.3 C.8.5.5.1.1)."""
SPECTRA = frozenset({3, 4})
"""Region Data Type (0018,6014): spectra by pulsed and by continuous waves (PS3.3 C.8.5.5.1.2)."""
_PELVIC_WORDS = re.compile(r"\b(PELV\w*|OVAR\w*|ADNEX\w*|TRANSVAGINAL|ENDOVAGINAL|TVUS|TVS|GYN\w*)\b")
_PREGNANCY_WORDS = re.compile(
    r"\b(F(O?)ET(US|AL|O|AUX)\w*|OBSTET\w*|PREG\w*|GRAVID\w*|TRIMEST\w*|VIABILI\w*|EMBR[YI]\w*|NUCHAL|"
    r"SCHWANGER\w*|GROSSESSE|EMBARAZ\w*|GESTA\w*|ZWANGER\w*|OB(?!\s*[/&-]?\s*GYN))\b"
)
"""English, German, French, Spanish, Portuguese and Dutch, without accents; OB/GYN may be either."""
_PREGNANCY_RESULTS = re.compile(r"\b(CRL|EDD|EDC|BPD|FHR|CUA|AUA|\d{1,2} ?(W|WKS?|SSW) ?[0-6] ?[DT])\b")
"""Names of results and gestational ages ("12w3d") that devices write into pictures of a pregnancy."""
_OTHER_WORDS = re.compile(
    r"\b(BREAST\w*|MAMM\w*|KIDNEY\w*|RENAL|LIVER|HEPAT\w*|PROSTAT\w*|TRANSRECTAL|HIP|HIPS|THYROID\w*|SCROT\w*|"
    r"TEST[IE]S\w*|CARDIAC|ECHOCARD\w*|CAROTID\w*|APPENDI\w*)\b"
)


def refused_by_header(header: ImageHeader, *, rule_says_pelvis: bool = False) -> str | None:
    """Why the header shows that the image is no frame of a pelvis to classify, as a sentence that quotes no
    free text of the header; None if it may be analysed. ``rule_says_pelvis``: the rule states that all images
    are of a pelvis.
    """
    described = ("StudyDescription", "SeriesDescription", "ProtocolName")
    words = _plain_capitals(" ".join(header.attributes.get(keyword, "") for keyword in described))
    traces = {
        A_SPECTRUM if part.data_type in SPECTRA else NOT_TISSUE[part.spatial_format]
        for part in header.ultrasound_regions
        if part.spatial_format in NOT_TISSUE or part.data_type in SPECTRA
    }
    value_of = header.attributes.get
    region = value_of("AnatomicRegionSequence", "").partition(" ")[0]
    # SNOMED CT: ovary; pelvis and its former code (CID 4031).
    elsewhere = region not in {"", "15497006", "816092008", "12921003"}
    pelvic = header.body_part in PELVIC or (
        header.body_part in UNDECIDED and bool(region or _PELVIC_WORDS.search(words))
    )
    reasons = (
        (
            header.modality not in MODALITIES,
            f"modality {shown_term('Modality', header.modality)} is not ultrasound",
        ),
        (header.frames != 1, f"{header.frames} frames: the model was made for single frames"),
        (
            value_of("PatientSex", "").upper().startswith("M"),
            "the patient's sex is male: there are no ovaries",
        ),
        (
            header.age_years is not None and header.age_years < YOUNGEST,
            f"the patient is younger than {YOUNGEST:.0f} years",
        ),
        (bool(traces), f"the image holds {', '.join(sorted(traces))}"),
        (
            value_of("PregnancyStatus", "") == "3"  # (0010,21C0): definitely pregnant
            or bool(_PREGNANCY_WORDS.search(words)),
            "the header describes an examination of a pregnancy, which the model was not made for",
        ),
        (bool(_OTHER_WORDS.search(words)), "the header names another organ"),
        (not (rule_says_pelvis or (pelvic and not elsewhere)), _not_pelvis(header)),
        (
            min(header.rows, header.columns) < SMALLEST,
            f"{header.columns} × {header.rows} pixels are fewer than {SMALLEST} a side",
        ),
    )
    return next((reason for refused, reason in reasons if refused), None)


def shows_pregnancy(texts: Iterable[str]) -> bool:
    """Whether a text that was read in the picture is one of a pregnancy."""
    words = [_plain_capitals(text) for text in texts]
    return any(_PREGNANCY_WORDS.search(word) or _PREGNANCY_RESULTS.search(word) for word in words)


def _plain_capitals(text: str) -> str:
    """``text`` in capitals, without accents, with spaces for underscores."""
    plain = unicodedata.normalize("NFKD", text.replace("œ", "oe").replace("Œ", "OE"))
    return "".join(c for c in plain if not unicodedata.combining(c)).upper().replace("_", " ")


def _not_pelvis(header: ImageHeader) -> str:
    """Why the header names another part of the body than the pelvis, as a sentence; "" if it does not."""
    if header.body_part not in UNDECIDED - {"ABDOMEN"} and header.body_part not in PELVIC:
        part = shown_term("BodyPartExamined", header.body_part)
        return f"Body Part Examined is {part}, neither pelvis nor ovary"
    if header.attributes.get("AnatomicRegionSequence"):
        return "the Anatomic Region is neither pelvis nor ovary"
    return "nothing says that this is a pelvis: neither body part, nor procedure, nor the rule"


class OvarianOptions(PipelineOptions):
    """Options of the pipeline ``ovarian``."""

    pelvis: bool = option(False, "All are of the female pelvis", "also where no header says so")
    """The images that the rule names are of the female pelvis, also where their header says nothing."""
    outlines: bool = option(True, "Outline as Segmentation")
    """The outline of the lesion as a Segmentation, for peers that take `seg`."""
    heatmaps: bool = option(False, "Heat maps", "of the class that is present")
    """The activation of the class that is present, over the cleaned picture, for peers that take
    `heatmap`."""
    malignancy: bool = option(False, "Report malignant too", "for research: seen 36 times in training")
    """Report the malignant class too. It was seen 36 times in training: for research only."""


LESION = Code("52988006", "SCT", "Lesion")  # PS3.16 CID 7151
CLASSIFIER: Final = ModelSlot("ovarian", "ovarian-efficientnet-lite0", "classifier")
CARD: Final = PipelineCard(
    name="ovarian",
    version="1.6",
    about="Ultrasound frames of the female pelvis: class and outline of a cyst. For research.",
    intended_use=(
        "Single B-mode frames of the female pelvis with an ovarian cyst or tumour, for research. No answer "
        "excludes cancer, and a radiologist reads every frame as before."
    ),
    options=OvarianOptions,
    modalities=MODALITIES,
    outlines=(LESION,),
    region=Code("816092008", "SCT", "Pelvis"),
    slots=(CLASSIFIER,),
)
