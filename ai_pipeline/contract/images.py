"""The images that a pipeline gets, and the pictures that it derives from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ai_pipeline.contract.findings import Code, ModelRef, PixelArray


@dataclass(frozen=True, slots=True)
class UltrasoundRegion:
    """One item of the Sequence of Ultrasound Regions (0018,6011), PS3.3 C.8.5.5.

    ``box``: left, top, right, bottom in pixels, the last two exclusive. ``spacing``: millimetres between rows
    and columns, None if not both are in centimetres. Format and type are 0 if the item has none.
    """

    box: tuple[int, int, int, int]
    spacing: tuple[float, float] | None = None
    spatial_format: int = 0
    data_type: int = 0


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header values of an image that a pipeline gets besides pixels: decoded, without identity.

    ``age_years``: None if the header gives no usable age. ``attributes``: further values by keyword, as text.
    ``overlay_groups``: groups 60xx whose overlay plane has pixels; ``embedded_overlay_bits``: bits of the
    pixel data, from 0 on, that hold an overlay plane. ``removed_by_hand``: boxes that a person wants removed.
    """

    modality: str
    sop_class_uid: str
    rows: int
    columns: int
    frames: int
    photometric: str
    bits_stored: int
    body_part: str = ""
    view_position: str = ""
    laterality: str = ""
    presentation_intent: str = ""
    age_years: float | None = None
    image_type: tuple[str, ...] = ()
    burned_in_annotation: str = ""
    lossy: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
    ultrasound_regions: tuple[UltrasoundRegion, ...] = ()
    overlay_groups: tuple[int, ...] = ()
    embedded_overlay_bits: tuple[int, ...] = ()
    removed_by_hand: tuple[tuple[int, int, int, int], ...] = ()


class SourceImage(Protocol):
    """One image as a pipeline sees it; ``ai_pipeline.images.decode`` makes it from DICOM, PNG or JPEG.

    Frames are decoded when asked for. ``stored(i)`` gives the samples after decoding, with YBR converted to
    RGB and palettes looked up: ``[rows, columns]`` or ``[rows, columns, 3]``. ``display(i)`` gives the
    picture that a viewer shows: uint8, bright = dense (MONOCHROME2), after modality and VOI LUT, ``[rows,
    columns]`` for grey and ``[rows, columns, 3]`` RGB for colour; with ``shorter_side`` a large picture may
    be halved, and keeps at least that many pixels on its shorter side. ``show(samples, i)`` gives such a
    picture of other samples of the stored kind. ``i`` counts from 0. All raise PixelError, which names the
    cause.
    """

    @property
    def uid(self) -> str: ...
    @property
    def series_uid(self) -> str: ...
    @property
    def header(self) -> ImageHeader: ...
    def stored(self, frame: int = 0) -> PixelArray: ...
    def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]: ...
    def show(self, samples: PixelArray, frame: int = 0) -> npt.NDArray[np.uint8]: ...


class ImageKind(StrEnum):
    """The kinds of derived pictures that a pipeline may return."""

    ANNOTATED = "annotated"
    CLEANED = "cleaned"
    PROCESSED = "processed"  # a cleaned one, changed further
    MASK = "mask"
    HEATMAP = "heatmap"
    ORGANS = "organs"


@dataclass(frozen=True, slots=True)
class Processing:
    """A further processing of a cleaned image; its pictures get a series of their own.

    ``name``: one word that tells it from the others; ``title``: a reader's words, such as "less speckle";
    ``code``: PS3.16 CID 7203; ``caution``: a use that the picture is not meant for.
    """

    name: str
    title: str
    code: Code
    caution: str


@dataclass(frozen=True, slots=True, eq=False)
class DerivedImage:
    """A picture made from one source image.

    ``frames``: ``[frames, rows, columns]`` or ``[frames, rows, columns, 3]``: in the source's stored type for
    ``cleaned``, uint8 RGB for pictures, for ``organs`` one mask (0, 255) each; may be a read-only
    ``numpy.memmap``, so that a cine need not be in memory. ``verified`` is True only when a cleaned image was
    proven to hold no legible text. ``outside_sha256`` of a cleaned image: the SHA-256 of its samples outside
    the mask, frame by frame, equal to the SHA-256 of the source's samples.
    """

    kind: ImageKind
    source_uid: str
    frames: PixelArray
    photometric: Literal["MONOCHROME1", "MONOCHROME2", "RGB"]
    description: str
    verified: bool = False
    models: tuple[ModelRef, ...] = ()
    outside_sha256: str = ""
    organs: tuple[Code, ...] = ()
    processing: Processing | None = None

    @property
    def name(self) -> str:
        """One word for the picture: its kind, or the name of its further processing."""
        return self.processing.name if self.processing else self.kind.value
