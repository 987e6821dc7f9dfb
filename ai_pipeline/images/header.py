"""Header values of a DICOM image as a pipeline may know them: decoded, checked, without identity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import config
from pydicom.datadict import dictionary_description, dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag, TagType
from pydicom.uid import UID

from ai_pipeline.contract import ImageHeader, PixelArray, UltrasoundRegion
from ai_pipeline.errors import HeaderError
from ai_pipeline.images.dates import date_of
from ai_pipeline.images.numbers import LARGEST_WHOLE, decimal, decimal_of, is_empty, value_of, whole, whole_of
from ai_pipeline.images.technical import technical_values

AGE_UNITS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}

# Keywords copied as text into ``ImageHeader.attributes``: nothing that names a person or a place.
COPIED = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "PatientOrientation",
    "PatientSex",
    "PregnancyStatus",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "ImagerPixelSpacing",
    "PixelAspectRatio",
    "ConversionType",
    "PresentationLUTShape",
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
    "AcquisitionDeviceProcessingDescription",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "FrameTime",
    "CineRate",
    "PlanarConfiguration",
    "PixelRepresentation",
    "BitsAllocated",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "RescaleType",
    "PixelIntensityRelationship",
)
LOSSY = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in (50, 51, 81, 91, 203))
# Even groups from 6000 on; PS3.5 7.6 stops at 601E, but what stands behind it may say a name just as well.
OVERLAY_GROUPS = range(0x6000, 0x6100, 2)


@dataclass(frozen=True, slots=True)
class StatedAttributes:
    """Attributes that a person states for a picture, which has no header. ``pixel_mm``: side of a pixel
    in millimetres.
    """

    view_position: str = ""
    body_part: str = ""
    pixel_mm: float | None = None


NO_ATTRIBUTES = StatedAttributes()


@dataclass(frozen=True, slots=True)
class PixelAttributes:
    """What the header says of the samples of a frame (PS3.3 C.7.6.3). ``samples``: samples of a pixel;
    ``signed``: whether they have a sign (Pixel Representation).
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    signed: bool
    photometric: str

    @staticmethod
    def of(dataset: Dataset) -> PixelAttributes:
        """Read the attributes from ``dataset``. Raises :class:`HeaderError`, which names the attribute that
        is missing or wrong.
        """
        named = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
        rows, columns, samples, allocated, _, representation = (_required(dataset, one) for one in named)
        photometric = _text(dataset, "PhotometricInterpretation")
        if not photometric:
            raise HeaderError("Photometric Interpretation (0028,0004) is missing")
        if not photometric.startswith((*_OF_ONE_SAMPLE, *_OF_MORE)) or "\\" in photometric:
            raise HeaderError("Photometric Interpretation (0028,0004) is no term of PS3.3 C.7.6.3.1.2")
        if samples != (1 if photometric in _OF_ONE_SAMPLE else 3):
            raise HeaderError(
                f"Samples per Pixel (0028,0002) is {samples}, which Photometric Interpretation contradicts"
            )
        return PixelAttributes(rows, columns, samples, allocated, representation == 1, photometric)


GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOURED = frozenset({"COLOR", "MIXED", "COLOR_RANGE", "COLOR_REF"})
"""Pixel Presentation (0008,9205) of grey samples of which some stand for colours (PS3.3 C.7.6.23)."""
_COLOURS = ("Red", "Green", "Blue")
_OF_ONE_SAMPLE = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_OF_MORE = ("RGB", "YBR", "XYB", "HSV", "ARGB", "CMYK")  # how their terms begin


@dataclass(frozen=True, slots=True)
class Calibration:
    """A part of an image in which a pixel's size is known. ``box``: left, top, right, bottom in pixels; right
    and bottom exclusive. ``row_spacing``: distance between rows (down), ``column_spacing``: between columns;
    both in millimetres, above 0.
    """

    box: tuple[int, int, int, int]
    row_spacing: float
    column_spacing: float

    def contains(self, point: tuple[float, float]) -> bool:
        """Whether the point (column, row) lies in the calibrated region."""
        left, top, right, bottom = self.box
        return left <= point[0] <= right and top <= point[1] <= bottom


def normalise_terms(dataset: Dataset) -> None:
    """Normalise the terms (VR CS) in ``dataset``: capitals, without the spaces around them, which mean
    nothing (PS3.5 6.2).
    """
    for tag in list(dataset.keys()):
        if dictionary_has_tag(tag) and dictionary_VR(tag) == "CS":
            terms = [one.upper() for one in _values(dataset, tag)]
            value = terms[0] if len(terms) == 1 else terms
            dataset[tag] = DataElement(tag, "CS", value, validation_mode=config.IGNORE)


def read_header(dataset: Dataset) -> ImageHeader:
    """Collect the header values that pipelines use; call :func:`normalise_terms` first. Raises
    :class:`HeaderError`, which names the attribute that is unusable.
    """
    rows, columns = (_positive(dataset, keyword) for keyword in ("Rows", "Columns"))
    bits_allocated = _positive(dataset, "BitsAllocated")
    frames = whole(value_of(dataset, "NumberOfFrames"))
    if frames is None and not is_empty(dataset, "NumberOfFrames"):
        raise HeaderError("Number of Frames (0028,0008) is not a number")
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric in GREY and (_text(dataset, "PixelPresentation") in _COLOURED or _has_palette(dataset)):
        raise HeaderError("its colours are in a supplemental palette (0008,9205), which is not shown here")
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
    return ImageHeader(
        modality=_text(dataset, "Modality"),
        sop_class_uid=_text(dataset, "SOPClassUID"),
        rows=rows,
        columns=columns,
        frames=max(frames or 1, 1),
        photometric=photometric,
        bits_stored=whole_of(dataset, "BitsStored", bits_allocated, least=1, most=64),
        body_part=_text(dataset, "BodyPartExamined"),
        view_position=_text(dataset, "ViewPosition"),
        laterality=_text(dataset, "ImageLaterality") or _text(dataset, "Laterality"),
        presentation_intent=_text(dataset, "PresentationIntentType"),
        age_years=age_years(dataset),
        image_type=tuple(_values(dataset, "ImageType")),
        burned_in_annotation=_text(dataset, "BurnedInAnnotation"),
        lossy=_text(dataset, "LossyImageCompression") == "01" or syntax in LOSSY,
        attributes=_attributes(dataset, syntax),
        ultrasound_regions=_regions(dataset),
        overlay_groups=tuple(
            group
            for group in OVERLAY_GROUPS  # of which pixels are set in Overlay Data (60xx,3000)
            if isinstance(value := value_of(dataset, (group, 0x3000)), bytes) and value.count(0) < len(value)
        ),
        embedded_overlay_bits=embedded_overlays(dataset),
        technical=technical_values(dataset),
    )


def picture_header(
    samples: PixelArray, modality: str, lossy: bool, given: StatedAttributes = NO_ATTRIBUTES
) -> ImageHeader:
    """Make the header of a picture (PNG, JPEG …), from its samples and the ``given`` attributes. ``lossy``:
    whether it was compressed with loss.
    """
    spacing = given.pixel_mm
    return ImageHeader(
        modality=modality,
        sop_class_uid="",
        rows=samples.shape[0],
        columns=samples.shape[1],
        frames=1,
        photometric="RGB" if samples.ndim == 3 else "MONOCHROME2",
        bits_stored=samples.dtype.itemsize * 8,
        body_part=given.body_part.upper(),
        view_position=given.view_position.upper(),
        lossy=lossy,
        attributes={"PixelSpacing": f"{spacing}\\{spacing}"} if spacing else {},
    )


def age_years(dataset: Dataset) -> float | None:
    """The patient's age in years: Patient's Age (VR AS), else the time between birth and study, else None."""
    text = _text(dataset, "PatientAge")
    if (number := whole(text[:-1], most=999)) is not None and text[-1] in AGE_UNITS:
        return number * AGE_UNITS[text[-1]]
    born, studied = (date_of(_text(dataset, keyword)) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or studied is None or studied < born:
        return None
    years = (studied - born).days / 365.25
    # A birth date of 1860 is a de-identifier's, not a patient's.
    return years if years <= 120.0 else None


def embedded_overlays(dataset: Dataset) -> tuple[int, ...]:
    """The bits of the pixel data that hold overlay planes (retired, PS3.5-2004 8.1.2), from 0 on."""
    bits = []
    for group in OVERLAY_GROUPS:
        own = (group, 0x3000) in dataset  # Overlay Data
        numbers = (whole(value_of(dataset, (group, element))) or 0 for element in (0x0100, 0x0102))
        allocated, position = numbers  # 0 where it is missing or none
        if not own and (allocated > 1 or position > 0):
            bits.append(position)
    return tuple(bits)


def _has_palette(dataset: Dataset) -> bool:
    """Whether the image has palettes of red, green and blue that are not the same grey."""
    kinds = ("{}PaletteColorLookupTableData", "Segmented{}PaletteColorLookupTableData")
    return any(len({repr(dataset.get(kind.format(one))) for one in _COLOURS}) > 1 for kind in kinds)


def check_palette(dataset: Dataset, syntax: UID) -> None:
    """Raise :class:`HeaderError` for a palette without its tables, and for segmented ones that expand to more
    than 65,536 colours, the most that exist. Indirect segments, which repeat others (PS3.3 C.7.9.2), are
    refused: they could expand without end.
    """
    for colour in _COLOURS:
        table, segmented = f"{colour}PaletteColorLookupTable", f"Segmented{colour}PaletteColorLookupTableData"
        if f"{table}Descriptor" not in dataset or (
            f"{table}Data" not in dataset and segmented not in dataset
        ):
            raise HeaderError(f"the {colour} Palette Color Lookup Table or its descriptor is missing")
        data = dataset.get(segmented)
        if not isinstance(data, bytes):
            continue
        wide = str(dataset.get(f"{table}Descriptor") or "").endswith("16]")
        kind_of_word = ("<u2" if syntax.is_little_endian else ">u2") if wide else "u1"
        words = np.frombuffer(data[: len(data) // 2 * 2], kind_of_word)
        place = colours = 0
        while place + 1 < len(words):
            kind, count = int(words[place]), int(words[place + 1])
            colours += count
            if kind not in {0, 1} or colours > 65_536:
                raise HeaderError("a segmented colour palette is not one of at most 65,536 plain colours")
            place += 2 + (count if kind == 0 else 1)


def calibrated_regions(header: ImageHeader) -> tuple[Calibration, ...]:
    """The parts of an image in which a length can be measured, the smallest first.

    These are the regions of (0018,6011) whose Physical Units X and Y Direction are both cm (3), with their
    Physical Delta. In an image without that sequence, Pixel Spacing (0028,0030), if given, holds for the
    whole image. A region that is calibrated in other units is left out: a spectrum's axes are seconds and
    cm/s.
    """
    if header.ultrasound_regions:
        found = [Calibration(one.box, *one.spacing) for one in header.ultrasound_regions if one.spacing]
        return tuple(sorted(found, key=lambda one: (one.box[2] - one.box[0]) * (one.box[3] - one.box[1])))
    spacing = _pixel_spacing(header.attributes.get("PixelSpacing", ""))
    return (Calibration((0, 0, header.columns, header.rows), *spacing),) if spacing else ()


def radiograph_spacing(header: ImageHeader) -> tuple[float, float] | None:
    """Millimetres between rows and between columns of a projection radiograph (PS3.3 10.7.1.3).

    Pixel Spacing (0028,0030) if it is calibrated, which corrects the magnification; else Imager Pixel Spacing
    (0018,1164), in the plane of the detector. None without either: an uncalibrated Pixel Spacing may be that
    of a digitised film.
    """
    keyword = "PixelSpacing" if is_calibrated(header) else "ImagerPixelSpacing"
    return _pixel_spacing(header.attributes.get(keyword, ""))


def is_calibrated(header: ImageHeader) -> bool:
    """Whether Pixel Spacing of a projection radiograph was calibrated (0028,0A02)."""
    return header.attributes.get("PixelSpacingCalibrationType") in {"GEOMETRY", "FIDUCIAL"}


def _pixel_spacing(text: str) -> tuple[float, float] | None:
    """The spacing of rows and columns that a text as "0.1\\0.1" states; None if it states no two numbers."""
    parts = text.split("\\")
    return _spacing(*map(decimal, parts)) if len(parts) == 2 else None


def _spacing(rows: float | None, columns: float | None) -> tuple[float, float] | None:
    """Both spacings in millimetres; None unless both are numbers greater than 0."""
    return (rows, columns) if rows and columns and rows > 0.0 and columns > 0.0 else None


def _attributes(dataset: Dataset, syntax: UID) -> dict[str, str]:
    """The values that a pipeline gets as text, by keyword; empty values are left out."""
    found = {keyword: "\\".join(_values(dataset, keyword)) for keyword in COPIED}
    for keyword in ("AnatomicRegionSequence", "ViewCodeSequence"):
        for item in _items(dataset, keyword)[:1]:
            found[keyword] = " ".join(
                _text(item, part) for part in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
            )
    found["TransferSyntaxUID"] = str(syntax)
    return {keyword: text for keyword, text in found.items() if text}


def _regions(dataset: Dataset) -> tuple[UltrasoundRegion, ...]:
    """The ultrasound regions that have an area; X1 and Y1 are inside the region (PS3.3 C.8.5.5). Regions
    beyond the picture are included.
    """
    regions = []
    for item in _items(dataset, "SequenceOfUltrasoundRegions"):
        corners = (value_of(item, f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1"))
        given = (whole(corner, least=-LARGEST_WHOLE) for corner in corners)
        edges = [edge for edge in given if edge is not None]
        if len(edges) < 4:
            continue
        x0, y0, x1, y1 = edges
        if x0 < x1 and y0 < y1:
            box = max(x0, 0), max(y0, 0), x1 + 1, y1 + 1
            kind = (whole_of(item, keyword, 0) for keyword in ("RegionSpatialFormat", "RegionDataType"))
            regions.append(UltrasoundRegion(box, _region_spacing(item), *kind))
    return tuple(regions)


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence, none if it is missing or faulty."""
    value = value_of(dataset, keyword)
    return value if isinstance(value, Items) else []


def _region_spacing(item: Dataset) -> tuple[float, float] | None:
    """Millimetres between rows and between columns in a region. A delta may be negative if its axis runs the
    other way (PS3.3 C.8.5.5).
    """
    # Physical Units X/Y Direction (0018,6024), (0018,6026)
    if any(whole_of(item, f"PhysicalUnits{axis}Direction", 0) != 3 for axis in "XY"):
        return None
    rows, columns = (abs(decimal_of(item, f"PhysicalDelta{axis}", 0.0)) * 10.0 for axis in "YX")
    return _spacing(rows, columns)


def _positive(dataset: Dataset, keyword: str) -> int:
    """A whole number of the Image Pixel module that is at least 1. Raises HeaderError."""
    value = whole(value_of(dataset, keyword), least=-LARGEST_WHOLE)
    if value is None:
        state = "missing: this is no image" if is_empty(dataset, keyword) else "not a number"
        raise HeaderError(f"{keyword} is {state}")
    if value <= 0:
        raise HeaderError(f"{keyword} is {value}")
    return value


def _required(dataset: Dataset, keyword: str) -> int:
    """A whole number of the Image Pixel module, 0 to 65535. Raises HeaderError if it is missing or no
    number.
    """
    value = whole(value_of(dataset, keyword), most=0xFFFF)
    if value is None:
        tag = BaseTag(tag_for_keyword(keyword) or 0)
        state = "is missing" if is_empty(dataset, keyword) else "is not a number"
        raise HeaderError(f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X}) {state}")
    return value


def _text(dataset: Dataset, keyword: str) -> str:
    """All values of an attribute as one text; "" without a value."""
    return "\\".join(_values(dataset, keyword)).strip()


def _values(dataset: Dataset, tag: TagType) -> list[str]:
    """The values of an attribute as texts; none if it is missing or empty."""
    value = value_of(dataset, tag)
    if value is None:
        return []
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [str(one).strip() for one in value]
    return [str(value).strip()]
