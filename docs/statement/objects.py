"""Annex A.A, A.B, A.D and A.E: what is in the objects that the node makes, and where it comes from."""
# ruff: noqa: E501 - the lines are those of the document

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Final

from generate import table
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.uid import UID
from statement.golden import ContentRow, Dump, dumps

from ai_pipeline import pipelines
from ai_pipeline.contract import Code
from ai_pipeline.models.registry import cards
from dicom_node.dicom.identity import COPIED
from dicom_node.dicom.own_objects import MANUFACTURER, MODEL_NAME
from dicom_node.results.common import iods
from dicom_node.results.common.concepts import CERTAINTY, PRIVATE, SCHEME, SCHEME_UID
from dicom_node.results.common.envelope import (
    OUTLINES_SERIES_NUMBER,
    PROCESSED_SERIES_NUMBER,
    SERIES_NUMBERS,
)

CREATED: Final = (
    ("Comprehensive 3D SR: report of findings", "*-sr", "1.2.840.10008.5.1.4.1.1.88.34"),
    ("Comprehensive 3D SR: assessment of a report", "assessment", "1.2.840.10008.5.1.4.1.1.88.34"),
    ("Grayscale Softcopy Presentation State", "*-gsps", "1.2.840.10008.5.1.4.1.1.11.1"),
    ("Color Softcopy Presentation State", "*-gsps", "1.2.840.10008.5.1.4.1.1.11.2"),
    ("Secondary Capture: picture with findings", "*-sc", "1.2.840.10008.5.1.4.1.1.7"),
    ("Secondary Capture: heat map", "*-heatmap", "1.2.840.10008.5.1.4.1.1.7"),
    ("Secondary Capture: summary page", "*-summary", "1.2.840.10008.5.1.4.1.1.7"),
    ("Encapsulated PDF: summary page", "*-pdf", "1.2.840.10008.5.1.4.1.1.104.1"),
    ("Secondary Capture: cleaned image", "*-cleaned", "1.2.840.10008.5.1.4.1.1.7"),
    ("Multi-frame True Color Secondary Capture: cleaned cine", "*-cleaned", "1.2.840.10008.5.1.4.1.1.7.4"),
    ("Segmentation", "*-seg*", "1.2.840.10008.5.1.4.1.1.66.4"),
    ("Key Object Selection Document: rejection note", "rejection", "1.2.840.10008.5.1.4.1.1.88.59"),
)
"""Title, dumps and SOP Class UID of each kind of object that the node makes."""

_FIXED, _AUTO, _COPY, _CONFIG, _ANALYSIS = "FIXED", "AUTO", "COPY(source)", "CONFIG", "ANALYSIS"
_TIME = "time of the analysis"
_MADE_TIMES = ("InstanceCreation", "Content", "PresentationCreation")
SOURCES: Final[dict[str, tuple[str, str]]] = {
    "SOPClassUID": (_FIXED, "by kind of result and image"),
    "SpecificCharacterSet": (_CONFIG, "ISO_IR 192, or the source's (`charset`)"),
    **{f"{name}{part}": (_AUTO, _TIME) for name in _MADE_TIMES for part in ("Date", "Time")},
    "DateOfSecondaryCapture": (_AUTO, _TIME),
    "TimeOfSecondaryCapture": (_AUTO, _TIME),
    "SeriesDate": (_AUTO, "time of the first analysis with a result in the series"),
    "SeriesTime": (_AUTO, "as Series Date"),
    "SOPInstanceUID": (_AUTO, "derived from all that shapes the object"),
    "SeriesInstanceUID": (_AUTO, "derived; one series for each kind and study"),
    "SeriesNumber": (_FIXED, "by kind, 9001 and more"),
    "InstanceNumber": (_AUTO, "the source's for pictures, states and segmentations; else 1, or the rank"),
    "SeriesDescription": (_FIXED, 'by kind, with "AI" and the name of the pipeline'),
    "Modality": (_FIXED, "SR, PR, SEG, KO, DOC, OT; of a cleaned image the source's"),
    "Manufacturer": (_FIXED, MANUFACTURER),
    "ManufacturerModelName": (_FIXED, MODEL_NAME),
    "DeviceSerialNumber": (_AUTO, "of the installation"),
    "DeviceUID": (_AUTO, "of the installation"),
    "SoftwareVersions": (_FIXED, "version of the builders; pipeline with its version"),
    "StationName": (_CONFIG, "`node.station_name`"),
    "ContributingEquipmentSequence": (_AUTO, "equipment of the source (109101), node and models (109102)"),
    "CodingSchemeIdentificationSequence": (_FIXED, "the private coding scheme"),
    "BodyPartExamined": (_COPY, "or of Anatomic Region Sequence"),
    "Laterality": (_COPY, "or of Image Laterality; empty where a part with sides has none"),
    "RequestAttributesSequence": (_COPY, "what identifies request and procedure step"),
    "ReferencedRequestSequence": (_COPY, "of Request Attributes Sequence, else Accession Number"),
    "PerformedProcedureCodeSequence": (_COPY, "Procedure Code Sequence, else the examination of its views"),
    "ReferencedPerformedProcedureStepSequence": (_FIXED, "empty: the node has no MPPS"),
    "PatientOrientation": (_COPY, "empty where it has none"),
    "SequenceOfUltrasoundRegions": (_COPY, "regions in which no pixel was filled"),
    "LossyImageCompression": (_AUTO, "00, or 01 where the source's pixels were once compressed with loss"),
    "LossyImageCompressionRatio": (_COPY, "or measured"),
    "LossyImageCompressionMethod": (_COPY, "or of its transfer syntax"),
    "RescaleIntercept": (_COPY, "else the identity"),
    "RescaleSlope": (_COPY, "else the identity"),
    "RescaleType": (_COPY, "else US"),
    "SoftcopyVOILUTSequence": (_COPY, "window or VOI LUT, else the whole range"),
    "PresentationLUTShape": (_FIXED, "IDENTITY, for MONOCHROME1 INVERSE"),
    "FrameIncrementPointer": (_COPY, "to Frame Time or its vector, else to page numbers"),
    "FrameTime": (_COPY, "or of its rate"),
    "NumberOfFrames": (_COPY, "of a cleaned cine; of a segmentation one for each segment"),
    "PixelSpacing": (_COPY, "where no pixel was filled"),
    "PixelAspectRatio": (_COPY, "where pixels are no squares, and there is no Pixel Spacing"),
    "ValueType": (_FIXED, "CONTAINER"),
    "ConceptNameCodeSequence": (_FIXED, "title of the document"),
    "ContinuityOfContent": (_FIXED, "CONTINUOUS or SEPARATE"),
    "ContentTemplateSequence": (_FIXED, "1500 or 2010 of DCMR"),
    "CompletionFlag": (_FIXED, "COMPLETE"),
    "VerificationFlag": (_FIXED, "UNVERIFIED"),
    "PreliminaryFlag": (_FIXED, "PRELIMINARY"),
    "CurrentRequestedProcedureEvidenceSequence": (_AUTO, "every object that is referred to"),
    "ReferencedInstanceSequence": (_AUTO, "the assessed report"),
    "ReferencedSeriesSequence": (_AUTO, "the source images"),
    "SourceImageSequence": (_AUTO, "the source images, of a cine with frames"),
    "ContentLabel": (_FIXED, "AI_FINDINGS, AI_REMOVED_TEXT, AI_ORGANS"),
    "ContentDescription": (_FIXED, "in words"),
    "ContentCreatorName": (_FIXED, "empty: no person"),
    "GraphicAnnotationSequence": (_ANALYSIS, "boxes, lines and texts with the report's tracking UIDs"),
    "GraphicLayerSequence": (_FIXED, "AI_LINES and AI_TEXTS, and OVERLAYS where the image has some"),
    "DisplayedAreaSelectionSequence": (_AUTO, "the whole image"),
    "ICCProfile": (_FIXED, "sRGB"),
    "ImageType": (_FIXED, "DERIVED and SECONDARY; of a segmentation DERIVED and PRIMARY"),
    "ConversionType": (_FIXED, "WSD"),
    "DerivationDescription": (_ANALYSIS, "what was done, by which model"),
    "DerivationCodeSequence": (_FIXED, "(113047, DCM), and what a pipeline names besides"),
    "SyntheticData": (_ANALYSIS, "YES where pixels were filled"),
    "BurnedInAnnotation": (_ANALYSIS, "NO on verified cleaned images, else YES"),
    "DocumentTitle": (_FIXED, "AI summary - not for diagnostic use"),
    "MIMETypeOfEncapsulatedDocument": (_FIXED, "application/pdf"),
    "EncapsulatedDocument": (_ANALYSIS, "one sheet with text and picture"),
    "EncapsulatedDocumentLength": (_AUTO, "without the byte of padding"),
    "AcquisitionDateTime": (_COPY, "or Acquisition Date and Time; of the first image"),
    "SourceInstanceSequence": (_AUTO, "the source images"),
    "SegmentationType": (_FIXED, "BINARY"),
    "SegmentSequence": (_ANALYSIS, "what was outlined, with tracking UIDs"),
    "SegmentsOverlap": (_ANALYSIS, "whether they do"),
    "DimensionOrganizationSequence": (_AUTO, "derived UID"),
    "DimensionIndexSequence": (_AUTO, "by segment"),
    "SharedFunctionalGroupsSequence": (_AUTO, "of the source image"),
    "PerFrameFunctionalGroupsSequence": (_AUTO, "segment and source image of each frame"),
    **dict.fromkeys(
        (
            "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription", "WindowCenter", "WindowWidth",
            "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence", "PixelPaddingValue",
            "ModalityLUTSequence", "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
            "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter",
            "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter", "ShutterPresentationColorCIELabValue",
            "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "FrameDelay", "ActualFrameDuration",
            "StartTrim", "StopTrim", "PreferredPlaybackSequencing",
        ),
        (_COPY, "as it is"),
    ),
    "ShutterPresentationValue": (_COPY, "black, where it has none"),
    "PageNumberVector": (_AUTO, "where the source tells no time of its frames"),
    **dict.fromkeys(
        (
            "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns",
            "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
        ),
        (_ANALYSIS, "of the picture"),
    ),
}  # fmt: skip
"""Where each attribute of a created object comes from, apart from those of patient and study (A.D)."""

# The template that has a row of this concept, by the concept of the item above it.
_REPORT = "TID 1500"
TEMPLATES: Final = {
    "370129005": "TID 300",
    "121049": "TID 1204", "121005": "TID 1002", "121008": "TID 1003", "128774": "TID 1003",
    "121012": "TID 1004", "121013": "TID 1004", "121014": "TID 1004", "121015": "TID 1004",
    "121016": "TID 1004", "121024": "TID 1006", "121030": "TID 1008", "121058": _REPORT,
    "121077": "extension of TID 1500", "121106": "extension: a comment", "111028": "TID 1600",
    "126200": "TID 1600", "260753009": "TID 1601, 320", "121139": "TID 1602", "110910": "TID 1602",
    "110911": "TID 1602", "111044": "TID 1602", "111043": "TID 1602", "111026": "TID 1602",
    "111066": "TID 1602", "123014": "TID 1602", "111031": "TID 1603", "126010": _REPORT,
    "125007": "TID 1410, 1501", "112039": "TID 4108 in 1410, 1501", "112040": "TID 4108 in 1410, 1501",
    "121071": "TID 1410, 1501", "363698007": "TID 1410, 1501", "272741003": "TID 1410, 1501",
    "111001": "TID 4019", "111002": "TID 4019", "111003": "TID 4019",
    "705057003": "TID 1410, 1501: qualitative evaluation", "CUTOFF": "extension: what presence is inferred from",
    "130400": "TID 1410", "111030": "TID 1410", "121112": "TID 1501", "C0034375": _REPORT,
    "RESULT": "TID 1500, 1501: qualitative evaluation",
    "NOTRUNBECAUSE": "TID 1501: qualitative evaluation",
    "121068": "extension of TID 1500: CID 7001", "121001": "TID 1000", "121002": "TID 1000",
    "C2348792": "TID 1502",
    "ASSESSEDREPORT": "extension of TID 1500", "ASSESSMENT": "TID 1501: qualitative evaluation",
    "the finding": "TID 1500: qualitative evaluation", "the measured quantity": "TID 300 in 1501",
    "AI estimated probability, or score, of the finding (private)": "TID 300 in 1410, 1501",
}  # fmt: skip


def dumps_of(pattern: str, sop_class_uid: str) -> list[Dump]:
    """The dumps of one kind of object."""
    return [one for one in dumps() if fnmatch(one.name, pattern) and one.sop_class_uid == sop_class_uid]


def presence(keyword: str, made: list[Dump], kind: str) -> str:
    """Presence of Value as PS3.2 Annex N names it, of an attribute that is of Type ``kind`` in its IOD.

    What comes from the source is as its Type allows, since other sources say more or less; what the node
    makes is as it was written.
    """
    values = [one.attributes.get(keyword) for one in made]
    if SOURCES[keyword][0] == _COPY:
        if kind == "2C" and None not in values:
            return "VNAP"
        return {"1": "ALWAYS", "2": "VNAP"}.get(kind, "ANAP")
    if None in values or keyword in _SOMETIMES:
        return "ANAP"
    filled = [value not in ("", "0") or keyword in _ZERO for value in values]
    return "ALWAYS" if all(filled) else "VNAP" if any(filled) else "EMPTY"


_SOMETIMES = frozenset({"StationName", "PlanarConfiguration"})  # unless it is ""; of colour pictures
_ZERO = frozenset({"PixelRepresentation", "PlanarConfiguration", "HighBit"})  # of which 0 is a value


def created() -> str:
    """Annex A.A."""
    parts = [
        f"""\
## Annex A.A Information Object Definitions of created instances

Results for destinations that may know the patient; what de-identified ones lack is in 8.4. Presence: ALWAYS, ANAP (not
always present), VNAP (value not always present), EMPTY. Source: FIXED, AUTO (made by the node), ANALYSIS (what a
pipeline reported), CONFIG, COPY(source) (of the source image). Attributes of patient and study are copied to the letter,
by A.D; each kind of result has a series of its own:

{_series()}
"""
    ]
    for number, (title, pattern, uid) in enumerate(CREATED, start=1):
        made = dumps_of(pattern, uid)
        parts.append(
            f"### A.A.{number} {title}\n\n{UID(uid).name}, {uid}.\n\n{_modules(uid, made)}\n{_attributes(title, uid, made)}"
        )
    parts.append("""\
Multi-frame Grayscale Byte and Word Secondary Capture, for cleaned grey cines, have the attributes of A.A.9 with one sample
per pixel, and Rescale Intercept 0, Rescale Slope 1, Rescale Type US, Presentation LUT Shape IDENTITY.

UIDs are derived (UUIDv5 under 2.25): in one installation the same images and models give the same UIDs. By Manufacturer and
Manufacturer's Model Name in Contributing Equipment Sequence results that come back are recognised and start nothing.
Timezone Offset From UTC (0008,0201) is the source's; where it has none there is none, and times are in the node's zone.
Measurements of a fetus have Subject Class (121024, DCM) Fetus and as Subject ID its letter or number in the picture. No
private attributes are in results.
""")
    return "\n".join(parts)


def _series() -> str:
    rows = [(f"`{kind}`", number) for kind, number in SERIES_NUMBERS.items()]
    rows.append(("`seg`: outlines of organs", OUTLINES_SERIES_NUMBER))
    rows.append(("`cleaned`: processed further by a pipeline", PROCESSED_SERIES_NUMBER))
    return table(("result", "Series Number"), rows)


def _modules(uid: str, made: list[Dump]) -> str:
    rows = [
        (module.replace("-", " ").title(), usage, use_of(module, usage, made))
        for module, usage in iods.usages(uid).items()
    ]
    return table(("module", "usage in the IOD", "present"), rows)


def use_of(module: str, usage: str, made: list[Dump]) -> str:
    """Whether the objects have a module: what it demands, and anything of it."""
    own = {keyword: kind for path, keyword, kind in iods.attributes(module) if not path}
    demanded = {keyword for keyword, kind in own.items() if kind in ("1", "2")}
    held = [demanded <= one.attributes.keys() and bool(own.keys() & one.attributes.keys()) for one in made]
    if usage == "M" or all(held):
        return "ALWAYS"
    return "ANAP" if any(held) or module in _OF_SOURCES else "not used"


_OF_SOURCES = frozenset({"patient-study", "clinical-trial-subject", "clinical-trial-study"})
"""Modules of which all is copied: whether they are there is the source's to say."""


def _attributes(title: str, uid: str, made: list[Dump]) -> str:
    kinds = types(uid, made)
    keywords = sorted(
        {keyword for one in made for keyword in one.attributes if keyword in SOURCES} | _of_sources(title),
        key=lambda keyword: tag_for_keyword(keyword) or 0,
    )
    rows = [
        (
            dictionary_description(keyword), _tag(keyword), dictionary_VR(keyword),
            kinds.get(keyword, "3"), presence(keyword, made, kinds.get(keyword, "3")), *SOURCES[keyword],
        )
        for keyword in keywords
    ]  # fmt: skip
    return table(("attribute", "tag", "VR", "Type", "presence", "source", "value"), rows)


def _of_sources(title: str) -> set[str]:
    """What a source may bring that no drawn image has."""
    return {keyword for titles, keywords in _FURTHER for keyword in keywords if title.startswith(titles)}


_STATES = ("Grayscale", "Color")
_DRAWN = ("Secondary Capture: picture", "Secondary Capture: heat")
_CLEANED = ("Secondary Capture: cleaned", "Multi-frame")
_FURTHER: Final = (
    (("Secondary", "Multi-frame", "Segmentation", *_STATES), ("RequestAttributesSequence", "BodyPartExamined")),
    (("Secondary", "Multi-frame", *_STATES), ("Laterality",)),
    (("Secondary", "Multi-frame"), ("LossyImageCompressionRatio", "LossyImageCompressionMethod", "SyntheticData")),
    (
        (*_DRAWN, *_CLEANED),
        ("PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription", "PixelAspectRatio"),
    ),
    (
        _CLEANED,
        ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
         "SequenceOfUltrasoundRegions"),
    ),
    (
        ("Secondary Capture: cleaned",),
        ("PixelPaddingValue", "ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType"),
    ),
    (("Grayscale",), ("ModalityLUTSequence",)),
    (
        _STATES,
        ("ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
         "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
         "VerticesOfThePolygonalShutter", "ShutterPresentationValue", "ShutterPresentationColorCIELabValue"),
    ),
    (
        ("Multi-frame",),
        ("FrameTimeVector", "PageNumberVector", "CineRate", "RecommendedDisplayFrameRate", "FrameDelay",
         "ActualFrameDuration", "StartTrim", "StopTrim", "PreferredPlaybackSequencing"),
    ),
)  # fmt: skip
"""Beginnings of titles, and attributes."""
FURTHER_ROWS: Final[tuple[ContentRow, ...]] = (
    ("the finding", "HAS OBS CONTEXT", "TEXT", '(112039, DCM, "Tracking Identifier")'),
    ("the finding", "HAS OBS CONTEXT", "UIDREF", '(112040, DCM, "Tracking Unique Identifier")'),
    ("the finding", "INFERRED FROM", "NUM", '(CUTOFF, 99AINODE, "AI cut-off")'),
    ("the measured quantity", "HAS CONCEPT MOD", "CODE", '(370129005, SCT, "Measurement Method")'),
)
"""What is written of images that no golden dump is of: several findings with and without a place, burned-in lengths."""


def types(uid: str, made: list[Dump]) -> dict[str, str]:
    """The strictest Type of each root attribute in the modules that the objects have."""
    found: dict[str, str] = {}
    for module, usage in iods.usages(uid).items():
        if use_of(module, usage, made) != "not used":
            for path, keyword, kind in iods.attributes(module):
                if not path:
                    found[keyword] = min(kind, found.get(keyword, "3"))
    return found


def _tag(keyword: str) -> str:
    tag = tag_for_keyword(keyword) or 0
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def content_rows() -> dict[ContentRow, None]:
    """Every row of content in the reports that the builders wrote, in order."""
    return {
        row: None
        for one in sorted(dumps(), key=lambda one: one.name != "chest_xray-sr")
        if one.sop_class_uid == "1.2.840.10008.5.1.4.1.1.88.34"
        for row in one.content
    } | dict.fromkeys(FURTHER_ROWS)


def template_of(concept: str) -> str:
    """The template with a row of this concept."""
    value = concept[1:].split(",", maxsplit=1)[0] if concept.startswith("(") else concept
    return TEMPLATES[value]


def sr_content() -> str:
    """Annex A.B."""
    rows = [
        (parent or "root", relationship, kind, concept, template_of(concept))
        for parent, relationship, kind, concept in content_rows()
    ]
    return f"""\
## Annex A.B Structured Report content encoding

Reports and assessments: (126000, DCM, "Imaging Measurement Report"), TID 1500 of DCMR, Comprehensive 3D SR. Each row below is
written by a builder; "below" names the concept of the item above it. UNVERIFIED, COMPLETE, PRELIMINARY.

{table(("below", "relationship", "value type", "concept", "template"), rows)}
Finding's probability: in % from calibrated models only, a private code of the finding with (111012, DCM,
"{CERTAINTY.meaning}") as its Equivalent Code where the finding is not absent; any other number is called a score. Presence:
Suspected (415684004, SCT), Absent, Undetermined or Present (CID 240). Of what several findings share, TID 1501 groups on the image
say what was looked for and not found. Only where a rule compares (`compare`): a container (121068, DCM, "Previous Findings") for each earlier
image, with the quoted report (TID 1000), its day as Time Point (TID 1502), and findings and measurements with their tracking UIDs
there, inferred from the earlier image; both objects are in Pertinent Other Evidence Sequence. Procedure reported: the source's codes of public schemes. What a model measured:
{_measures()}. What a pipeline outlines in segmentations: {_outlines()}.

Rejection note: Key Object Selection, TID 2010, (113001, DCM, "Rejected for Quality Reasons") or (113037, DCM, "Rejected for
Patient Safety Reasons") with the person's words as description (113012, DCM), as IHE IOCM has it (RAD TF-3, 4.66).
"""


def mapping() -> str:
    """Annex A.D."""
    rows = [(dictionary_description(word), _tag(word), "as it is, absent or empty too") for word in COPIED]
    return f"""\
## Annex A.D Mapping of attributes

From the source image into every result, for destinations that may know the patient:

{table(("attribute", "tag", "value"), rows)}
Of several images of one job the first, by series and Instance Number, is the source. Faulty values (a date of ACR-NEMA, text in
a number) are repaired where that is certain, else left out or emptied, with event 4020.
"""


def code_sets() -> str:
    """Annex A.E."""
    own = [(code.value, code.scheme_designator, code.meaning) for code in PRIVATE]
    own += [(code.value, code.scheme, code.meaning) for code in _private_classes()]
    return f"""\
## Annex A.E Code set usage

SNOMED CT, DCM, LOINC, RadLex and UCUM, as the model cards name them with their source; target regions of CID 4031, views of
CID 4010, presence of CID 240, reasons of CID 9300 and 9303, equipment of CID 7005. Private codes, coding scheme designator
`{SCHEME}`, UID `{SCHEME_UID}` in Coding Scheme Identification Sequence (0008,0110):

{table(("value", "scheme", "meaning"), own)}
Names of scores and probabilities of single findings are codes of the same scheme, hashes of the finding's code and the name.
"""


def _private_classes() -> Iterator[Code]:
    """The codes of our own scheme on the cards of pipelines and models, but for those of all results."""
    codes = [code for card in pipelines.cards() for code in card.private_codes]
    codes += [label.code for card in cards() for label in card.labels]
    common = {code.value for code in PRIVATE}
    return (code for code in codes if code.scheme == SCHEME and code.value not in common)


def _measures() -> str:
    """What each pipeline measures, with its codes."""
    found = []
    for card in pipelines.cards():
        codes = dict.fromkeys(one.code for one in card.measures)
        named = [f"{code.meaning} ({code.value}, {code.scheme})" for code in codes]
        found += [f"{', '.join(named)} by `{card.name}`"] if named else []
    return "; ".join(found)


def _outlines() -> str:
    """What each pipeline outlines."""
    found = [(card.name, ", ".join(one.meaning for one in card.outlines)) for card in pipelines.cards()]
    return "; ".join(f"{structures} by `{name}`" for name, structures in found if structures)
