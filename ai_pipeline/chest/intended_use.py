"""The intended use of the chest models: frontal, chest, adult, complete, and displayed legibly.

The header is checked first, then the pixels. Faults that neither shows (a lateral view or a limb whose header
does not say so, a mirrored image) are listed in docs/read/chest.md.
"""

import re

from ai_pipeline.contract import ImageHeader, QualityNote, SourceImage
from ai_pipeline.images.coordinates import POSES, UPRIGHT, Pose
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.networks.gate import ASKEW, CHILD, CLIPPED, CUT_OFF, OTHER, Kind
from ai_pipeline.terms import shown_term

YOUNGEST = 16.0  # years; no younger patient is in the training data
SMALLEST = 128  # pixels a side; the network's own resolution
MODALITIES = frozenset({"CR", "DX", "DR"})
CHEST = frozenset({"CHEST", "THORAX", "LUNG", "LUNGS", "CHEST PA", "CHEST AP", "CHEST_PA", "CHEST_AP"})
FRONTAL = frozenset({"", "AP", "PA"})  # of the View Positions (0018,5101) that PS3.3 C.8.1.1 names

# What devices write where View Position is empty. A description that names both views decides nothing.
_NOT_FRONTAL = re.compile(r"\b(LAT|LATERAL|OBL|OBLIQUE|DECUB\w*|LORDOTIC|LL|RL|LLD|RLD)\b")
_VIEW_CODES = {
    "272479007 SCT": "PA",
    "R-10214 SRT": "PA",
    "R-10214 SNM3": "PA",
    "399348003 SCT": "AP",
    "R-10206 SRT": "AP",
    "R-10206 SNM3": "AP",
}
"""View Code Sequence (0054,0220), PS3.16 CID 4010, with the codes before 2017."""
_IS_FRONTAL = re.compile(r"\b(AP|PA|FRONTAL|A\.P\.|P\.A\.)\b")
_CHEST_WORDS = re.compile(r"CHEST|THORAX|THORACIC|LUNG|RIB|HEART")
_NOT_LIKE = "the pixels do not look like a frontal chest X-ray of an adult"
_KIND_SENTENCES = {
    ASKEW: "they look like a chest that is tilted",
    CUT_OFF: "they look like a chest that is cut off, or another part of the body",
    CLIPPED: "the grey levels look clipped",
    CHILD: "they look like those of a small child, or a lung is white or gone",
    OTHER: "they look like no X-ray",
}


def refused_by_header(header: ImageHeader) -> str | None:
    """Why the header shows that the image is none the model is made for, as a sentence that quotes no free
    text of the header; None if the image may be analysed.
    """
    region = header.attributes.get("AnatomicRegionSequence", "").upper()
    described = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")
    words = _words(header, "ViewCodeSequence", *described)
    reasons = (
        (
            header.modality not in MODALITIES,
            f"modality {shown_term('Modality', header.modality)} is not CR or DX",
        ),
        (header.frames != 1, f"{header.frames} frames: a chest X-ray has one"),
        (
            bool(header.body_part) and header.body_part not in CHEST,
            f"Body Part Examined is {shown_term('BodyPartExamined', header.body_part)}, not the chest",
        ),
        (
            bool(region) and not _CHEST_WORDS.search(region),
            "Anatomic Region Sequence names another part of the body than the chest",
        ),
        (
            header.view_position not in FRONTAL,
            f"View Position {shown_term('ViewPosition', header.view_position)} is not frontal",
        ),
        (not {"A", "P"}.isdisjoint(_orientation(header)), "Patient Orientation is that of a lateral view"),
        (
            not header.view_position  # which says it better than a description
            and bool(_NOT_FRONTAL.search(words))
            and not _IS_FRONTAL.search(words),
            "the header describes a view that is not frontal",
        ),
        (
            header.age_years is not None and header.age_years < YOUNGEST,
            f"the patient is younger than {YOUNGEST:.0f} years: the model was made for adults",
        ),
        (
            header.presentation_intent == "FOR PROCESSING",
            "the image is for processing, not for presentation",
        ),
        (
            min(header.rows, header.columns) < SMALLEST,
            f"{header.columns} × {header.rows} pixels are fewer than {SMALLEST} a side",
        ),
    )
    return next((reason for refused, reason in reasons if refused), None)


def refused_by_pixels(inside: bool, kind: Kind, exposure: Exposure, *, lateral: bool = False) -> str | None:
    """Why the picture cannot be analysed, as a sentence; None if it can. ``inside``: whether the domain gate
    finds it like the training images; ``kind``: what the domain gate takes it for; ``lateral``: whether the
    outlined lungs are those of a view from the side.
    """
    if exposure.refusal is not None:
        is_other = kind.name == OTHER and not inside
        return f"{_NOT_LIKE}: {_KIND_SENTENCES[OTHER]}; {exposure.refusal}" if is_other else exposure.refusal
    if inside:
        return f"{_NOT_LIKE}: the lungs lie over each other, as in a view from the side" if lateral else None
    pose = next((pose for pose in POSES if pose.name == kind.name and pose != UPRIGHT), None)
    if pose is not None:
        return f"{_NOT_LIKE}: it may be {pose.sentence}, but put upright it does not look like one either"
    sentence = _KIND_SENTENCES.get(kind.name)
    return f"{_NOT_LIKE}: {sentence or 'they show something else, or a lung is white or gone'}"


def may_be_ill(header: ImageHeader, kind: Kind, exposure: Exposure) -> bool:
    """Whether a picture that :func:`refused_by_pixels` refused may be the chest of a gravely ill patient: a
    lung is white or gone, or grey levels are clipped. What looks like no chest at all may be one only where
    the header says so: else each hand without a Body Part Examined would be one.
    """
    if kind.name in {CHILD, CLIPPED}:
        return True
    said = _words(header, "AnatomicRegionSequence", "StudyDescription", "SeriesDescription", "ProtocolName")
    is_chest = header.body_part in CHEST or bool(_CHEST_WORDS.search(said))
    return is_chest and (exposure.refusal is not None or kind.name not in _KIND_SENTENCES)


def _words(header: ImageHeader, *keywords: str) -> str:
    """The values of these attributes in capitals, with spaces for underscores."""
    return " ".join(header.attributes.get(key, "") for key in keywords).upper().replace("_", " ")


def projection_of(header: ImageHeader) -> str:
    """The View Position (0018,5101) such as PA or AP, else the view of View Code Sequence; ""
    without either.
    """
    view = " ".join(header.attributes.get("ViewCodeSequence", "").split()[:2])
    return header.view_position or _VIEW_CODES.get(view, "")


def notes(image: SourceImage, pose: Pose, exposure: Exposure) -> list[QualityNote]:
    """Notes for the reader of an accepted image on what may make its result less certain. ``pose``: how the
    image was shown.
    """
    header = image.header
    # "mended" is the stored name of what is called reoriented elsewhere.
    found = (
        (pose != UPRIGHT, "mended", f"The image was {pose.sentence}: it was analysed upright."),
        (
            seen_from_behind(header),
            "mirrored",
            "Patient Orientation says that the image is seen from behind: left and right may be exchanged. "
            "It was analysed as it is stored.",
        ),
        (exposure.note is not None, "clipped", exposure.note or ""),
        (header.age_years is None, "age", "The patient's age is unknown: the model is for adults."),
        (not header.body_part, "body_part", "Body Part Examined is empty: judged by the pixels alone."),
        (header.lossy, "lossy", "The image was compressed with loss."),
    )
    return [QualityNote(name, text, image.uid) for applies, name, text in found if applies]


def _orientation(header: ImageHeader) -> tuple[str, str]:
    """The main direction of rows and of columns in Patient Orientation, one letter each; "" where unknown
    (PS3.3 C.7.6.1.1.1).
    """
    row, _, column = header.attributes.get("PatientOrientation", "").partition("\\")
    return row.strip()[:1], column.strip()[:1]


def seen_from_behind(header: ImageHeader) -> bool:
    """Whether the header's directions of rows and columns are those of a mirrored image, however it is
    turned.

    A mirrored image is noted, not corrected: devices turn and mirror pictures and leave the header as it was.
    """
    directions = {"L": (1, 0), "R": (-1, 0), "F": (0, 1), "H": (0, -1)}
    row, column = (directions.get(letter, (0, 0)) for letter in _orientation(header))
    return row[0] * column[1] - row[1] * column[0] < 0
