"""Karnak's side of its contract, by the rules of its code (nroduit/karnak, commit 3cfa6eb2, in own words).

``DeidentifyImageService`` makes the form and reads the answer, ``Profile.applyCleanPixelData`` decides
whether the image goes on, ``RectangleListConverter`` and ``ActionTags`` read rectangles and colours. There
every exception, and an answer without a mask, means that the image is not forwarded.
"""

import json
from dataclasses import dataclass
from typing import Any

import requests
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments

ACCEPT = "application/json;version=1"
SENSITIVE = (
    "AccessionNumber", "InstitutionName", "OperatorsName", "PatientAge", "PatientBirthDate", "PatientID",
    "PatientName", "PatientSex", "PerformingPhysicianName", "PerformedProcedureStepID",
    "ReferringPhysicianName", "StudyDate",
)  # fmt: skip
"""``SensitiveTagDefinition``."""
_JPEG = "1.2.840.10008.1.2.4."
_FILES = {
    **dict.fromkeys((f"{_JPEG}{end}" for end in (50, 51, 53, 55, 57, 70)), ("image.jpg", "image/jpeg")),
    **dict.fromkeys((f"{_JPEG}{end}" for end in (80, 81)), ("image.jls", "image/jls")),
    **dict.fromkeys((f"{_JPEG}{end}" for end in (90, 91)), ("image.jp2", "image/jp2")),
    **dict.fromkeys((f"{_JPEG}{end}" for end in (92, 93)), ("image.jpx", "image/jpx")),
    **dict.fromkeys((f"{_JPEG}{end}" for end in (110, 111, 112)), ("image.jxl", "image/jxl")),
    **dict.fromkeys((f"{_JPEG}{end}" for end in (201, 202, 203)), ("image.jphc", "image/jphc")),
}
_RAW = ("image.raw", "application/octet-stream")
_MASK = {"stationName", "imageWidth", "imageHeight", "color", "rectangles"}
"""``MaskBody``: Jackson refuses any other field."""


class NotForwardedError(Exception):
    """Karnak does not forward the image."""


@dataclass(frozen=True)
class MaskArea:
    """Rectangles (x, y, width, height in pixels) of one colour (red, green, blue)."""

    rectangles: list[tuple[int, int, int, int]]
    colour: tuple[int, int, int]


def form_of(dataset: Dataset, **fields: str) -> dict[str, str]:
    """The text fields of the form; ``fields`` replace some."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    form = {
        "sensitive_data_list": json.dumps(
            {name: str(dataset[name].value) for name in SENSITIVE if dataset.get(name)}
        ),
        "sop_instance_uid": str(dataset.get("SOPInstanceUID", "null")),  # Java's String.valueOf
        "transfer_syntax_uid": syntax,
        "photometric_interpretation": str(dataset.get("PhotometricInterpretation", "null")),
    }
    for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel"):
        form["".join("_" + letter.lower() if letter.isupper() else letter for letter in name)[1:]] = str(
            dataset.get(name, 0)
        )
    if syntax not in _FILES:
        form |= _fields_of_raw(dataset)
    return form | fields


def _fields_of_raw(dataset: Dataset) -> dict[str, str]:
    """The fields that only come with an image that is no file of its own."""
    decimals = {
        "rescale_slope": "RescaleSlope",
        "rescale_intercept": "RescaleIntercept",
        "window_center": "WindowCenter",
        "window_width": "WindowWidth",
    }
    form = {name: repr(float(dataset[tag].value)) for name, tag in decimals.items() if dataset.get(tag)}
    if dataset.PhotometricInterpretation != "PALETTE COLOR":
        return form
    palette: dict[str, list[int]] = {}
    for colour in ("Red", "Green", "Blue"):
        bits = dataset[f"{colour}PaletteColorLookupTableDescriptor"].value[2]
        content = dataset[f"{colour}PaletteColorLookupTableData"].value
        wide = 1 if bits == 8 else 2
        palette[colour.lower()] = [
            int.from_bytes(content[start : start + wide], "little") for start in range(0, len(content), wide)
        ]
    return form | {"palette_color_lut": json.dumps(palette)}


def image_of(dataset: Dataset) -> bytes:
    """What is sent as the image: all uncompressed samples, or the first fragment."""
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        _offsets, first, *_ = generate_fragments(dataset.PixelData)
        return first
    return bytes(dataset.PixelData)


def ask(url: str, dataset: Dataset, path: str = "/deidentify-image", **fields: str) -> requests.Response:
    """Send the form."""
    name, media_type = _FILES.get(str(dataset.file_meta.TransferSyntaxUID), _RAW)
    return requests.post(
        url + path,
        data=form_of(dataset, **fields),
        files={"image": (name, image_of(dataset), media_type)},
        headers={"Accept": ACCEPT},
        timeout=120,
    )


def masks_of(answer: requests.Response, sop_instance_uid: str) -> list[MaskArea]:
    """The masks with which Karnak forwards the image. Raises NotForwardedError."""
    if answer.status_code >= 400:
        raise NotForwardedError(f"status {answer.status_code}")
    try:
        said = answer.json()
    except ValueError:
        raise NotForwardedError("no JSON") from None
    if said.get("sop_instance_uid") != sop_instance_uid:
        raise NotForwardedError("another SOP Instance UID, or none")
    bodies: list[dict[str, Any]] = said.get("masks") or []
    if any(body.keys() - _MASK for body in bodies):
        raise NotForwardedError("a mask has a field that Karnak does not know")
    masks = [_area(body) for body in bodies if body.get("rectangles")]
    if not masks:
        raise NotForwardedError("Clean pixel is not applied: mask not defined in station name")
    return masks


def _area(body: dict[str, Any]) -> MaskArea:
    """One mask. Raises NotForwardedError."""
    try:
        rectangles = [tuple(int(edge) for edge in text.split()) for text in body["rectangles"]]
        number = int(body["color"], 16)
    except ValueError:
        raise NotForwardedError("NumberFormatException") from None
    return MaskArea(
        [edges for edges in rectangles if len(edges) == 4],
        (number >> 16 & 255, number >> 8 & 255, number & 255),
    )
