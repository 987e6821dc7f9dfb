"""Source images for a de-identified destination: only the attributes that describe the picture.

Results for such a destination are built from these, by the same builders as all others: a name that is not in
the header cannot get into a result. Only listed attributes are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from copy import deepcopy
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset

from ai_pipeline.contract import DerivedImage, PipelineResult
from dicom_node.model.deidentified import Retained
from dicom_node.results.common import iods
from dicom_node.results.common.envelope import UTF8
from dicom_node.results.common.source import Source, source_of
from dicom_node.results.deidentify.pseudonyms import Pseudonyms
from dicom_node.results.deidentify.retained import retained

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
_MOST_NUMBERS: Final = 65_536  # of one attribute: what a lookup table can have
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
        if keyword in given and _is_term(given[keyword], allowed):
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


def as_cleaned(source: Source, sop_class_uid: str, sop_instance_uid: str, series_uid: str) -> Source:
    """A source that describes the cleaned image instead of the original: same size and frames, other UIDs."""
    header = deepcopy(source.header)
    header.SOPClassUID, header.SOPInstanceUID = sop_class_uid, sop_instance_uid
    header.SeriesInstanceUID = series_uid
    return source_of(source.stored, header)


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
    any_frame = np.zeros(frames.shape[1:], np.bool_)
    for frame in frames:
        any_frame |= frame != 0
    filled = np.zeros_like(any_frame)
    _fill(any_frame, filled)
    return replace(mask, frames=np.broadcast_to(filled, frames.shape))


def _harmless(element: DataElement) -> DataElement | None:
    """A copy of what its keyword promises, items with numbers only; None where it holds something else."""
    if element.VR not in dictionary_VR(element.tag).split(" or "):
        return None
    copy = deepcopy(element)
    if copy.VR != "SQ":
        return copy
    for item in copy.value:
        _as_numbers(item)
        for inner in list(item):
            if inner.keyword not in _KEPT_IN_ITEMS or not _are_numbers(inner):
                del item[inner.tag]
    if copy.keyword == "VOILUTSequence" and not all("LUTData" in item for item in copy.value):
        return None  # a table without its values is none
    return copy


def _as_numbers(item: Dataset) -> None:
    """LUT Data that came as OW (PS3.3 C.11.2.1.1), where it has as many entries as its descriptor says."""
    data, described = item.get("LUTData"), item.get("LUTDescriptor")
    if isinstance(data, bytes) and described and len(data) == 2 * (int(described[0]) or 65_536):
        item.add_new("LUTData", "US", np.frombuffer(data, "<u2").tolist())


def _are_numbers(element: DataElement) -> bool:
    """Whether the dictionary's VR and the value are numeric; bytes are not, as they may be anything."""
    values = element.value if element.VM > 1 else [element.value]
    return (
        element.VR in dictionary_VR(element.tag).split(" or ")
        and len(values) <= _MOST_NUMBERS
        and all(isinstance(value, int | float) for value in values)
    )


def _is_term(element: DataElement, allowed: re.Pattern[str]) -> bool:
    values: Sequence[object] = element.value if element.VM > 1 else [element.value]
    return all(allowed.fullmatch(str(value)) for value in values)


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
