"""What was examined, as codes: body part and side, region, view, procedure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from dicom_node.results.common import concepts, envelope
from dicom_node.results.common.source import ResultContext, Source

_RADIOGRAPHS: Final = frozenset({"CR", "DX", "MG"})
# Body parts that have no side (PS3.16 Annex L), as far as dciodvfy knows them too.
_UNPAIRED: Final = frozenset(
    {
        "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BACK", "BLADDER", "BRAIN", "CEREBELLUM", "CERVIX", "CHEST",
        "CHESTABDOMEN", "CHESTABDPELVIS", "CIRCLEOFWILLIS", "COCCYX", "COLON", "CORONARYARTERY", "CSPINE",
        "CTSPINE", "DUODENUM", "ESOPHAGUS", "FACE", "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "ILEUM",
        "JAW", "JEJUNUM", "LARYNX", "LIVER", "LSPINE", "LSSPINE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK",
        "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "PANCREAS", "PELVIS", "PENIS",
        "PHARYNX", "PROSTATE", "RECTUM", "SCALP", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM",
        "STOMACH", "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRACHEA", "TSPINE", "URETHRA", "UTERUS",
        "VAGINA", "VULVA", "WHOLEBODY",
    }
)  # fmt: skip


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


def side_of(source: Source) -> str:
    """L or R if the image shows one side of a body part that is known to be paired, else empty."""
    part = body_part_of(source)
    return stated_side(source) if part and not is_unpaired(part) else ""


def stated_side(source: Source) -> str:
    """L or R, as Image Laterality (0020,0062) or else Laterality (0020,0060) says; "" where they disagree."""
    given = [source.header.get(keyword) for keyword in ("ImageLaterality", "Laterality")]
    sides = {str(side).upper() for side in given if side}
    return sides.pop() if len(sides) == 1 and sides <= {"L", "R"} else ""


def is_unpaired(part: str) -> bool:
    """Whether a Body Part Examined (PS3.16 Annex L, any case) has no left and right."""
    return part.upper() in _UNPAIRED


def body_part_of(source: Source) -> str:
    """Body Part Examined (0018,0015), else Anatomic Region Sequence (0008,2218) in words of PS3.16 Annex L;
    "" where the two name different regions of the body.
    """
    return _body_part(source)[0]


def _body_part(source: Source) -> tuple[str, bool]:
    """The body part, and whether header attributes name two regions of the body."""
    today = {former.value: value for value, former in concepts.FORMER_REGIONS.items()}
    regions = _codes(source.header, "AnatomicRegionSequence")
    words = (envelope.body_part(today.get(code.value, code.value)) for code in regions)
    parts = [str(source.header.get("BodyPartExamined") or ""), next(filter(None, words), "")]
    named = {(_of_organs().get(code.value) or code).value for code in map(envelope.region, parts) if code}
    return ("", True) if len(named) > 1 else (next(filter(None, parts), ""), False)


def regions_of(context: ResultContext, source: Source) -> Iterator[CodedConcept | DicomCode]:
    """Anatomic Region Sequence (0008,2218), Body Part Examined (PS3.16 Annex L), the pipeline's region.

    The pipeline's alone where the two contradict each other.
    """
    if not _body_part(source)[1]:
        yield from _codes(source.header, "AnatomicRegionSequence")
        if named := envelope.region(source.header.get("BodyPartExamined")):
            yield named
    if context.region is not None:
        yield concepts.coded(context.region)


def target_of(context: ResultContext, source: Source) -> CodedConcept | None:
    """The body region for TID 1602: the first region of CID 4031 that image or pipeline name, else the one
    in which an organ lies that the image names; None without any.
    """
    for one in regions_of(context, source):
        if found := common_region(region_of(one) or one):
            return found
    return None


def region_of(part: CodedConcept | DicomCode) -> CodedConcept | None:
    """The region in which an organ lies, also of one whose meaning begins with its side or with "entire",
    such as "Left kidney"; None for other codes.
    """
    region = _of_organs().get(part.value)
    if region is None and _BEFORE.match(str(part.meaning)):
        whole = envelope.region(_BEFORE.sub("", str(part.meaning)))
        return whole and (_of_organs().get(whole.value) or whole)
    return region


def common_region(region: CodedConcept | DicomCode) -> CodedConcept | None:
    """The member of CID 4031 with this code, in words of the standard; None for other codes."""
    given = DicomCode(region.value, region.scheme_designator, region.meaning)
    former = concepts.FORMER_REGIONS
    known = (code for code in _common_regions() if given in (code, former.get(code.value, code)))
    member = next(known, None)
    if member is None or member.value not in former:
        return member and CodedConcept.from_code(member)
    return concepts.with_equivalent(former[member.value], member)


@cache
def _common_regions() -> tuple[DicomCode, ...]:
    """CID 4031, as far as validators of 2022 know it."""
    group = codes.cid4031
    members = [getattr(group, word) for word in group.dir()]
    return tuple(code for code in members if code.value not in concepts.NEW_REGIONS)


@cache
def _of_organs() -> dict[str, CodedConcept]:
    """The region in which an organ lies, by the SNOMED CT code of the organ."""
    found: dict[str, CodedConcept] = {}
    for region, words in _ORGANS.items():
        found |= {
            organ.value: envelope.body_parts()[region] for word in words if (organ := envelope.region(word))
        }
    return found


def view_of(source: Source) -> CodedConcept | DicomCode | None:
    """The code of the view as which it was judged, or of View Position (0018,5101), else View Code Sequence
    (0054,0220); for radiographs only.
    """
    if source.header.get("Modality") not in _RADIOGRAPHS:
        return None
    given = [] if source.view else _codes(source.header, "ViewCodeSequence")
    return given[0] if given else concepts.VIEWS.get(source.view)


def procedure_reported(source: Source) -> DicomCode:
    """The kind of the view, in a code of CID 100."""
    radiograph = source.header.get("Modality") in _RADIOGRAPHS
    return codes.LN.XRUnspecifiedBodyRegion if radiograph else codes.SCT.ImagingProcedure


def procedures_performed(sources: Sequence[Source]) -> list[CodedConcept]:
    """(0040,A372): the source's Procedure Code Sequence (0008,1032), else the examination that its views
    show.
    """
    return each_once(
        code
        for source in sources
        for code in _codes(source.header, "ProcedureCodeSequence") or [_examination(source)]
    )


def _examination(source: Source) -> DicomCode:
    modality = source.header.get("Modality")
    if modality in {"US", "IVUS"}:
        return codes.SCT.DiagnosticUltrasonography
    if modality not in _RADIOGRAPHS:
        return codes.SCT.ImagingProcedure
    return (
        concepts.CHEST_RADIOGRAPHY if body_part_of(source).upper() == "CHEST" else codes.SCT.PlainRadiography
    )


def each_once(given: Iterable[CodedConcept | DicomCode]) -> list[CodedConcept]:
    """The codes without repeats."""
    found = {(code.scheme_designator, code.value): code for code in given}
    return [CodedConcept(code.value, code.scheme_designator, code.meaning) for code in found.values()]


def _codes(header: Dataset, keyword: str) -> list[CodedConcept]:
    """The codes of a sequence; a content item cannot state one without its scheme (a URN)."""
    items = [concepts.code_alone(item) for item in header.get(keyword) or []]
    return [CodedConcept.from_dataset(item) for item in items if "CodingSchemeDesignator" in item]
