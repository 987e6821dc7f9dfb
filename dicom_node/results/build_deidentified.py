"""Results for a destination that must not know the patient: PS3.15 Annex E, Basic Profile, Clean Pixel Data.

The peer's key ``retain`` lists further values that such a destination gets. These objects are built in
addition to those for other destinations, by the same builders from pseudonymised sources, with UIDs of their
own. Mask and report refer to the cleaned image instead of its source. Images that were not cleaned and
verified are left out, with all findings in them.

Source images for a de-identified destination: only the attributes that describe the picture.
Results for such a destination are built from these, by the same builders as all others: a name that is not in
the header cannot get into a result. Only listed attributes are kept.
"""

import re
from collections.abc import Callable, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from ai_pipeline.contract import DerivedImage, ImageKind, PipelineResult
from dicom_node.dicom.own_objects import NO_INSTALLATION
from dicom_node.errors import ResultRefused
from dicom_node.model.deidentified import Retained
from dicom_node.model.kinds import ResultKind
from dicom_node.results import gate
from dicom_node.results.common import iods
from dicom_node.results.common.context import BuiltObject, ResultContext, SourceObject
from dicom_node.results.common.envelope import UTF8, acquisition_equipment, encode, node_equipment
from dicom_node.results.common.identity import described
from dicom_node.results.common.source import Source, read_sources, source_of
from dicom_node.results.deidentify import profile
from dicom_node.results.deidentify.leaks import KnownIdentity
from dicom_node.results.deidentify.profile import KEYWORDS, Pseudonyms, retained
from dicom_node.results.report import not_here, report_of
from dicom_node.results.sc.cleaned import (
    build_cleaned,
    build_segmentation,
    cleaned_class,
    is_empty,
    modality_of,
)
from dicom_node.results.sr.document import build_document


@dataclass(frozen=True, slots=True)
class Deidentified:
    """The de-identified objects, and the reasons why others were not built (one sentence each, without
    PHI).
    """

    objects: tuple[BuiltObject, ...]
    withheld: tuple[str, ...]


def build_deidentified(
    context: ResultContext,
    sources: Sequence[SourceObject],
    result: PipelineResult,
    pseudonyms: Pseudonyms,
    options: Set[Retained] = frozenset(),
) -> Deidentified:
    """Build the cleaned images with their masks, and the report on them, for de-identified destinations.

    ``options``: the attributes to retain. An object that the gate refuses is left out, and with a cleaned
    image all objects that would refer to it; the other destinations of the job do not wait for it. Raises
    ResultRefused and DecodedDifferently for faulty sources, as ``build`` does.
    """
    read = read_sources(sources)
    return _Builder(context, read, result, pseudonyms, options).built()


class _Builder:
    def __init__(
        self,
        context: ResultContext,
        sources: Sequence[Source],
        result: PipelineResult,
        pseudonyms: Pseudonyms,
        options: Set[Retained],
    ) -> None:
        self._context = replace(
            context,
            station_name="",
            installation=NO_INSTALLATION,
            charset="utf8",
            previous={},
            study_day=None,
        )
        self._sources = sources
        self._result = result
        self._pseudonyms = pseudonyms
        self._options = options
        self._identity = KnownIdentity.from_sources(sources, options)
        self._objects: list[BuiltObject] = []
        self._withheld: list[str] = []

    def built(self) -> Deidentified:
        cleaned_sources = {}
        for source in self._sources:
            mask = next(iter(self._images(source, ImageKind.MASK)), None)
            for image in self._images(source, ImageKind.CLEANED):
                known = pseudonymised(source, self._pseudonyms, self._options)
                cleaned = self._cleaned(known, image, mask)
                if cleaned is None:
                    continue
                cleaned_sources[source.uid] = cleaned
                for one in self._images(source, ImageKind.MASK):
                    if ResultKind.SEG in self._context.kinds and not is_empty(one):
                        make = partial(build_segmentation, self._context, cleaned, in_boxes(one))
                        self._add((ResultKind.SEG, SegmentationStorage), [cleaned], make)
        if cleaned_sources and ResultKind.SR in self._context.kinds:
            sources = list(cleaned_sources.values())
            result = of_cleaned(self._result, cleaned_sources)
            self._add(
                (ResultKind.SR, Comprehensive3DSRStorage),
                sources,
                lambda uid: build_document(report_of(self._context, sources, result), uid),
                not_here(self._result),
            )
        return Deidentified(tuple(self._objects), tuple(self._withheld))

    def _cleaned(self, source: Source, image: DerivedImage, mask: DerivedImage | None) -> Source | None:
        """The source as the destination knows it: by its cleaned image. None when that is withheld."""
        try:
            sop_class_uid = cleaned_class(source, image)
        except ResultRefused as refused:
            self._withheld.append(str(refused))
            return None
        made = self._add(
            (ResultKind.CLEANED, sop_class_uid),
            [source],
            partial(build_cleaned, self._context, source, image, mask),
            series_parts=(modality_of(source),),
        )
        if made is None:
            return None
        header = deepcopy(source.header)  # of the same size and frames
        header.SOPClassUID, header.SOPInstanceUID = sop_class_uid, made.sop_instance_uid
        header.SeriesInstanceUID = made.series_instance_uid
        return source_of(source.stored, header)

    def _add(
        self,
        kind: tuple[ResultKind, str],
        sources: Sequence[Source],
        make: Callable[[str], Dataset],
        parts: tuple[str, ...] = (),
        series_parts: tuple[str, ...] = (),
    ) -> BuiltObject | None:
        """Build and check an object, or name it where it exists already; None when it is withheld."""
        built = replace(
            described(self._context, *kind, sources, parts, series_parts),
            deidentified=True,
            pseudonym_domain=self._pseudonyms.domain,
            burned_in_boxes=None,
        )
        try:
            if not self._context.exists(built.sop_instance_uid):
                data = self._checked(built.kind, sources, make(built.sop_instance_uid))
                built = replace(built, data=data)
        except ResultRefused as refused:
            self._withheld.append(str(refused))
            return None
        self._objects.append(built)
        return built

    def _checked(self, kind: ResultKind, sources: Sequence[Source], dataset: Dataset) -> bytes:
        ours = {keyword: dataset[keyword].value for keyword in profile.OUR_WORDS if keyword in dataset}
        dataset.ContributingEquipmentSequence.append(
            node_equipment(
                self._context,
                "",
                "AI node: applied the confidentiality profile",
                codes.DCM.DeIdentifyingEquipment,
            )
        )
        profile.apply(dataset, kind, self._options)
        for keyword, value in ours.items():
            setattr(dataset, keyword, value)
        given = sources[0].header
        dataset.PatientID, dataset.PatientName = given.PatientID, given.PatientName
        for option in self._options - {Retained.DEVICE}:
            for keyword in KEYWORDS[option]:
                if keyword in given:
                    dataset[keyword] = given[keyword]
        if Retained.DEVICE in self._options:
            dataset.ContributingEquipmentSequence.append(acquisition_equipment(given))
        data = encode(dataset, self._context, sources[0])
        gate.check_deidentified(data, dataset, self._context, kind, sources, self._identity, self._options)
        return data

    def _images(self, source: Source, kind: ImageKind) -> list[DerivedImage]:
        return [
            image for image in self._result.images if image.source_uid == source.uid and image.kind is kind
        ]


# Type 2 in the Patient and General Study modules: present, and empty (action Z of PS3.15 Table E.1-1).
_EMPTIED: Final = (
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName",
)  # fmt: skip
_KEPT: Final = (
    "InstanceNumber", "Manufacturer", "ManufacturerModelName",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "Rows", "Columns", "NumberOfFrames",
    "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "NominalScannedPixelSpacing",
    "WindowCenter", "WindowWidth", "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "PixelPaddingValue",
    "SequenceOfUltrasoundRegions",
    "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate", "FrameDelay",
    "ActualFrameDuration", "StartTrim", "StopTrim", "PreferredPlaybackSequencing",
    "LossyImageCompressionRatio",
)  # fmt: skip
# Of the items of kept sequences: numbers that say what a pixel is worth (PS3.3 C.8.5.5.1, C.11.2).
_KEPT_IN_ITEMS: Final = frozenset(
    {
        "RegionSpatialFormat", "RegionDataType", "RegionFlags",
        "RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1",
        "ReferencePixelX0", "ReferencePixelY0",
        "ReferencePixelPhysicalValueX", "ReferencePixelPhysicalValueY",
        "PhysicalUnitsXDirection", "PhysicalUnitsYDirection", "PhysicalDeltaX", "PhysicalDeltaY",
        "TransducerFrequency", "PulseRepetitionFrequency", "DopplerCorrectionAngle", "SteeringAngle",
        "DopplerSampleVolumeXPosition", "DopplerSampleVolumeYPosition",
        "TMLinePositionX0", "TMLinePositionY0", "TMLinePositionX1", "TMLinePositionY1",
        "PixelComponentOrganization", "PixelComponentMask",
        "PixelComponentRangeStart", "PixelComponentRangeStop",
        "PixelComponentPhysicalUnits", "PixelComponentDataType",
        "NumberOfTableBreakPoints", "TableOfXBreakPoints", "TableOfYBreakPoints",
        "NumberOfTableEntries", "TableOfPixelValues", "TableOfParameterValues",
        "LUTDescriptor", "LUTData",
    }
)  # fmt: skip
# Code strings, kept where they are what the standard lets them be: a console may let people type.
_TERMS: Final = {
    "Modality": re.compile(r"US|IVUS|CR|DX|MG|XA|RF|OT"),
    "PatientOrientation": re.compile(r"[RLAPHF]{1,3}"),
    "Laterality": re.compile(r"[RLBU]"),
    "ImageLaterality": re.compile(r"[RLBU]"),
    "VOILUTFunction": re.compile(r"LINEAR|LINEAR_EXACT|SIGMOID"),
    "LossyImageCompression": re.compile(r"0[01]"),
    "SyntheticData": re.compile(r"YES|NO"),
    "LossyImageCompressionMethod": re.compile(r"ISO_\d{5}_\d{1,2}"),
}
_GAP: Final = 16  # pixels without a mark that part two boxes: wider than between letters of a caption


def pseudonymised(source: Source, pseudonyms: Pseudonyms, options: Set[Retained] = frozenset()) -> Source:
    """The image with pseudonym, other UIDs, the attributes of its pixels, and those that ``options``
    retain.
    """
    given = source.header
    header = Dataset()
    header.SpecificCharacterSet = UTF8
    header.SOPClassUID = source.sop_class_uid
    header.SOPInstanceUID = pseudonyms.uid(source.uid)
    header.SeriesInstanceUID = pseudonyms.uid(source.series_uid)
    header.StudyInstanceUID = pseudonyms.uid(source.study_uid)
    header.PatientID = pseudonyms.patient(
        str(given.get("PatientID") or ""), str(given.get("IssuerOfPatientID") or ""), source.study_uid
    )
    header.PatientName = f"{header.PatientID}^"  # without "^" it has the retired form of ACR-NEMA
    for keyword in _EMPTIED:
        setattr(header, keyword, None)
    for keyword in _KEPT:
        if keyword in given and (kept := _harmless(given[keyword])) is not None:
            header[keyword] = kept
    for keyword, allowed in _TERMS.items():
        if keyword in given:
            values = given[keyword].value if given[keyword].VM > 1 else [given[keyword].value]
            if all(allowed.fullmatch(str(value)) for value in values):
                header[keyword] = deepcopy(given[keyword])
    if iods.region(given.get("BodyPartExamined")):
        header.BodyPartExamined = str(given.BodyPartExamined).upper()
    header.update(retained(given, options, pseudonyms.days_earlier(header.PatientID)))
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = str(given.file_meta.get("TransferSyntaxUID") or "")
    keeps = "".join(f" {option}" for option in sorted(options))
    keyed = replace(
        source.stored,
        # With what is kept: an object that says more is another one.
        pixels_sha256=pseudonyms.digest(source.stored.pixels_sha256 + keeps),
        # Whose it is, by the pseudonym: a corrected name makes no second object where no name is.
        identity_sha256=pseudonyms.digest(header.PatientID),
        by_hand=source.stored.by_hand.partition(" on ")[0],  # without a date near the patient's
    )
    return source_of(keyed, header)


def of_cleaned(result: PipelineResult, cleaned: dict[str, Source]) -> PipelineResult:
    """The findings and notes on these images (by the UIDs of their sources), moved to the cleaned images.

    Left out are measurements read from the pixels, and tracking UIDs that others know too.
    """
    return PipelineResult(
        findings=tuple(
            replace(finding, source_uid=cleaned[finding.source_uid].uid, tracking_uid="")
            for finding in result.findings
            if finding.source_uid in cleaned
        ),
        quality=tuple(
            replace(note, source_uid=cleaned[note.source_uid].uid if note.source_uid else None)
            for note in result.quality
            if note.source_uid is None or note.source_uid in cleaned
        ),
        models=result.models,
        measurements=tuple(
            replace(measurement, source_uid=cleaned[measurement.source_uid].uid)
            for measurement in result.measurements
            if measurement.model is not None and measurement.source_uid in cleaned
        ),
    )


def in_boxes(mask: DerivedImage) -> DerivedImage:
    """The mask as filled boxes, because a mask along the strokes of letters would show the removed text.

    For a cine, the boxes around pixels that were changed in any frame.
    """
    frames = mask.frames if mask.frames.ndim == 3 else mask.frames[None]
    filled = np.zeros(frames.shape[1:], np.bool_)
    _fill(np.any(frames, axis=0), filled)
    return replace(mask, frames=np.broadcast_to(filled, frames.shape))


def _harmless(element: DataElement) -> DataElement | None:
    """A copy of what its keyword promises, items with numbers only; None where it holds something else."""
    if element.VR not in dictionary_VR(element.tag).split(" or "):
        return None
    copy = deepcopy(element)
    if copy.VR != "SQ":
        return copy
    for item in copy.value:
        # LUT Data that came as OW (PS3.3 C.11.2.1.1), where it has as many entries as its descriptor says.
        data, described = item.get("LUTData"), item.get("LUTDescriptor")
        if isinstance(data, bytes) and described and len(data) == 2 * (int(described[0]) or 65_536):
            item.add_new("LUTData", "US", np.frombuffer(data, "<u2").tolist())
        for inner in list(item):
            if inner.keyword not in _KEPT_IN_ITEMS or not _are_numbers(inner):
                del item[inner.tag]
    if copy.keyword == "VOILUTSequence" and not all("LUTData" in item for item in copy.value):
        return None  # a table without its values is none
    return copy


def _are_numbers(element: DataElement) -> bool:
    """Whether the dictionary's VR and the value are numeric; bytes are not, as they may be anything."""
    values = element.value if element.VM > 1 else [element.value]
    return (
        element.VR in dictionary_VR(element.tag).split(" or ")
        and len(values) <= 65_536  # what a lookup table can have
        and all(isinstance(value, int | float) for value in values)
    )


def _fill(mask: npt.NDArray[np.bool_], filled: npt.NDArray[np.bool_]) -> None:
    """Recursive cuts along empty rows and columns (XY cut); what cannot be cut is one box."""
    for rows in _runs(mask, axis=1):
        for columns in _runs(mask[rows], axis=0):
            part = mask[rows, columns]
            inner = _runs(part, axis=1)
            if len(inner) == 1:
                filled[rows, columns][inner[0]] = True
            else:
                _fill(part, filled[rows, columns])


def _runs(mask: npt.NDArray[np.bool_], axis: int) -> list[slice]:
    """Stretches that hold anything along ``axis``, those no more than ``_GAP`` apart taken together."""
    places = np.flatnonzero(np.any(mask, axis=axis))
    if not len(places):
        return []
    cuts = np.flatnonzero(np.diff(places) > _GAP)
    starts, ends = np.append(places[0], places[cuts + 1]), np.append(places[cuts], places[-1])
    return [slice(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True)]
