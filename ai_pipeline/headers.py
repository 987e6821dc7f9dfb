"""Header values of a DICOM image as a pipeline may know them: decoded, checked, without identity."""

from __future__ import annotations

from datetime import date, datetime

from pydicom.dataset import Dataset
from pydicom.uid import UID

from ai_pipeline.contract import ImageHeader, PixelArray

OLDEST_YEARS = 120.0  # a birth date of 1860 is a de-identifier's, not a patient's
AGE_UNITS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}

# Keywords copied as text into ``ImageHeader.attributes``: nothing that names a person or a place.
KEPT = (
    "Manufacturer", "ManufacturerModelName", "PatientOrientation", "PatientSex", "PixelSpacing",
    "ImagerPixelSpacing", "PixelAspectRatio", "ConversionType", "PresentationLUTShape",
    "SeriesDescription", "StudyDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription",
    "FrameTime", "CineRate", "PlanarConfiguration", "PixelRepresentation", "BitsAllocated",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod", "RescaleType", "PixelIntensityRelationship",
)  # fmt: skip
KEPT_CODES = ("AnatomicRegionSequence", "ViewCodeSequence")


class HeaderError(Exception):
    """The header does not describe an image that can be decoded."""


def read_header(dataset: Dataset) -> ImageHeader:
    """Collect the header values; raises :class:`HeaderError` naming the attribute that is unusable."""
    rows, columns = (_positive(dataset, keyword) for keyword in ("Rows", "Columns"))
    bits_allocated = _positive(dataset, "BitsAllocated")
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID") or ""))
    return ImageHeader(
        modality=_text(dataset, "Modality"),
        sop_class_uid=_text(dataset, "SOPClassUID"),
        rows=rows,
        columns=columns,
        frames=_frames(dataset),
        photometric=_text(dataset, "PhotometricInterpretation"),
        bits_stored=int(dataset.get("BitsStored") or bits_allocated),
        body_part=_text(dataset, "BodyPartExamined").upper(),
        view_position=_text(dataset, "ViewPosition").upper(),
        laterality=_text(dataset, "ImageLaterality").upper() or _text(dataset, "Laterality").upper(),
        presentation_intent=_text(dataset, "PresentationIntentType").upper(),
        age_years=age_years(dataset),
        image_type=tuple(_values(dataset, "ImageType")),
        burned_in_annotation=_text(dataset, "BurnedInAnnotation").upper(),
        lossy=_text(dataset, "LossyImageCompression") == "01" or _is_lossy(syntax),
        attributes=_attributes(dataset, syntax),
    )


def picture_header(samples: PixelArray, modality: str, lossy: bool) -> ImageHeader:
    """Describe a PNG or JPEG as far as its samples do."""
    return ImageHeader(
        modality=modality,
        sop_class_uid="",
        rows=samples.shape[0],
        columns=samples.shape[1],
        frames=1,
        photometric="RGB" if samples.ndim == 3 else "MONOCHROME2",
        bits_stored=samples.dtype.itemsize * 8,
        lossy=lossy,
    )


def age_years(dataset: Dataset) -> float | None:
    """Return Patient's Age (VR AS), else the years between birth and study, else None."""
    text = _text(dataset, "PatientAge")
    if len(text) >= 2 and text[:-1].isdigit() and text[-1] in AGE_UNITS:
        return int(text[:-1]) * AGE_UNITS[text[-1]]
    born, studied = (_date(_text(dataset, keyword)) for keyword in ("PatientBirthDate", "StudyDate"))
    if born is None or studied is None or studied < born:
        return None
    years = (studied - born).days / 365.25
    return years if years <= OLDEST_YEARS else None


def ultrasound_regions(header: ImageHeader) -> tuple[tuple[int, int, int, int], ...]:
    """Return the boxes (left, top, right, bottom; right and bottom exclusive) of (0018,6011)."""
    text = header.attributes.get("SequenceOfUltrasoundRegions", "")
    boxes = []
    for item in filter(None, text.split(";")):
        left, top, right, bottom = (int(number) for number in item.split())
        boxes.append((left, top, right, bottom))
    return tuple(boxes)


def _attributes(dataset: Dataset, syntax: UID) -> dict[str, str]:
    found = {keyword: "\\".join(_values(dataset, keyword)) for keyword in KEPT}
    for keyword in KEPT_CODES:
        for item in (dataset.get(keyword) or [])[:1]:
            found[keyword] = " ".join(
                _text(item, part) for part in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
            )
    found["TransferSyntaxUID"] = str(syntax)
    found["SequenceOfUltrasoundRegions"] = _regions_text(dataset)
    return {keyword: text for keyword, text in found.items() if text}


def _regions_text(dataset: Dataset) -> str:
    """Write the regions as ``left top right bottom;…``; X1 and Y1 are inside the region (PS3.3 C.8.5.5)."""
    boxes = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or []:
        x0, y0, x1, y1 = (item.get(f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1"))
        if all(isinstance(edge, int) for edge in (x0, y0, x1, y1)) and x0 < x1 and y0 < y1:
            boxes.append(f"{max(x0, 0)} {max(y0, 0)} {x1 + 1} {y1 + 1}")
    return ";".join(boxes)


def _is_lossy(syntax: UID) -> bool:
    lossy_syntaxes = {"50", "51", "81", "91", "203"}
    return syntax.startswith("1.2.840.10008.1.2.4.") and syntax.rsplit(".", 1)[1] in lossy_syntaxes


def _positive(dataset: Dataset, keyword: str) -> int:
    value = dataset.get(keyword)
    if not isinstance(value, int):
        raise HeaderError(f"{keyword} is missing: this is no image")
    if value <= 0:
        raise HeaderError(f"{keyword} is {value}")
    return value


def _frames(dataset: Dataset) -> int:
    text = str(dataset.get("NumberOfFrames") or 1)
    if not text.isdigit():
        raise HeaderError("Number of Frames (0028,0008) is not a number")
    return max(int(text), 1)


def _text(dataset: Dataset, keyword: str) -> str:
    return "\\".join(_values(dataset, keyword)).strip()


def _values(dataset: Dataset, keyword: str) -> list[str]:
    if keyword not in dataset:
        return []
    value = dataset[keyword].value
    if value is None:
        return []
    several = not isinstance(value, (str, bytes, int, float)) and hasattr(value, "__iter__")
    return [str(one) for one in value] if several else [str(value)]


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
