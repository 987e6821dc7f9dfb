"""Pictures and derived images of a program (PS3.3 A.8, C.7.6.3, C.8.6): samples, sources, burned-in text."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ai_pipeline.errors import NoDecoder, PixelError
from ai_pipeline.images.numbers import whole
from dicom_node.base.dicom.header import listed
from dicom_node.base.dicom.uids import transfer_syntax
from dicom_node.results.dataset import sequence, set_values, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.given import GivenInstance
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.names import text_remarks
from dicom_node.results.foreign.pixels import opened
from dicom_node.results.foreign.planes import plane_of
from dicom_node.results.foreign.verdict import Remark, held, noted, refused, repaired
from dicom_node.results.standard import attributes_of, is_known, usages

_BITS: Final = frozenset({1, 8, 16, 32})
_SAMPLES: Final = {
    "MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "RGB": 3, "YBR_FULL": 3, "YBR_FULL_422": 3,
    "YBR_PARTIAL_420": 3, "YBR_ICT": 3, "YBR_RCT": 3, "XYB": 3,
}  # fmt: skip
"""Samples per Pixel by Photometric Interpretation (PS3.3 C.7.6.3.1.2)."""
_SPATIAL: Final = (
    "PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription",
    "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "PositionReferenceIndicator",
    "SliceThickness", "SliceLocation", "ImagerPixelSpacing", "NominalScannedPixelSpacing",
)  # fmt: skip
"""What states where the pixels of a picture lie, and how large they are."""
_PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"
_OF_ORIGINALS: Final = frozenset({"mr-pulse-sequence", "bulk-motion-synchronization"})
"""Modules whose attributes are required of original and mixed images and not allowed in derived ones (PS3.3
C.8.13.4, C.8.13.7), as dciodvfy says."""
_MOST_READ: Final = 16
"""Frames of a picture whose text is read, spread over all of them."""
_MOST_SOURCES: Final = 1000
"""Source images that are named where the picture names none."""


def check_samples(candidate: Candidate) -> Iterator[Remark]:
    """Yield what does not fit together in the Image Pixel module (PS3.3 C.7.6.3)."""
    dataset = candidate.dataset
    photometric = text_of(dataset, "PhotometricInterpretation")
    samples, bits, stored, high = (
        whole(dataset.get(word)) for word in ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit")
    )
    if _SAMPLES.get(photometric) != samples:
        yield refused("Samples per Pixel do not fit the Photometric Interpretation")
    elif bits not in _BITS or stored is None or not 0 < stored <= bits or high != stored - 1:
        yield refused("Bits Allocated, Bits Stored and High Bit do not fit together")
    elif samples == 3 and "PlanarConfiguration" not in dataset:
        yield refused("Planar Configuration is missing")
    elif photometric == "PALETTE COLOR" and not _has_palette(dataset):
        yield refused("the palette is not whole")
    elif "PixelData" not in dataset:
        yield refused("it has no Pixel Data")
    elif not _is_compressed(dataset) and len(dataset.PixelData) != _length(dataset):
        yield refused("Pixel Data has not the length that rows, columns and frames say")
    elif _is_compressed(dataset) and not dataset.PixelData:
        yield refused("it has no Pixel Data")


def repair_derivation(candidate: Candidate) -> Iterator[Remark]:
    """Say that the image is derived, and of which images (PS3.3 C.7.6.1.1.2, C.7.6.1.1.3)."""
    dataset = candidate.dataset
    stated = [str(one) for one in listed(dataset.get("ImageType"))]
    is_picture = candidate.kind is ForeignKind.PICTURE
    wanted = (
        ["DERIVED", *(stated[1:] or ["SECONDARY"])] if stated or not is_picture else ["DERIVED", "SECONDARY"]
    )
    if stated[:1] == ["ORIGINAL"]:
        yield noted("Image Type was ORIGINAL on a program's image")
    if stated != wanted:
        dataset.ImageType = wanted
        yield repaired("Image Type was set to DERIVED")
        yield from _repair_frames(dataset)
    if is_picture and not text_of(dataset, "Modality"):  # of Type 3 here, but lists ask for it (C.8.6.1)
        dataset.Modality = "OT"
        yield repaired("Modality was set to OT (other)")
    if is_picture and not text_of(dataset, "ConversionType"):
        dataset.ConversionType = "WSD"
        yield repaired("Conversion Type was set to WSD (workstation)")
    if not text_of(dataset, "DerivationDescription"):
        context = candidate.given.context
        said = f"AI, not for diagnostic use: {context.pipeline} {context.pipeline_version}"
        dataset.DerivationDescription = said[:1024]
        yield repaired("Derivation Description names the program")
    dataset.setdefault("PatientOrientation", None)
    if not sequence(dataset, "SourceImageSequence"):
        dataset.SourceImageSequence = [_source_item(one) for one in _sources(candidate)]
        yield repaired("the images that the program got were named as its sources")


def _repair_frames(dataset: Dataset) -> Iterator[Remark]:
    """Say that the frames are derived, too (PS3.3 C.8.16.1); leave out what only original ones have."""
    groups = (*sequence(dataset, "SharedFunctionalGroupsSequence"), *sequence(dataset, _PER_FRAME))
    for group in groups:
        for element in group:
            if element.keyword.endswith("FrameTypeSequence") and element.value:
                stated = [str(one) for one in listed(element.value[0].get("FrameType"))]
                element.value[0].FrameType = ["DERIVED", *stated[1:]]
    sop_class_uid = text_of(dataset, "SOPClassUID")
    modules = _OF_ORIGINALS & usages(sop_class_uid).keys() if is_known(sop_class_uid) else frozenset[str]()
    named = {keyword for module in modules for path, keyword, _ in attributes_of(module) if not path}
    if found := [keyword for keyword in sorted(named) if keyword in dataset]:
        for keyword in found:
            del dataset[keyword]
        yield repaired("how it was acquired, which only original images state, was left out")


def check_place(candidate: Candidate) -> Iterator[Remark]:
    """Yield a derived image that lies elsewhere than its sources; drop a picture's place unless it has the
    size of its source: a secondary capture of a screen has no millimetres.
    """
    dataset = candidate.dataset
    if candidate.kind is ForeignKind.PICTURE:
        sizes = {(one.rows, one.columns) for one in candidate.given.given.values()}
        named = [word for word in _SPATIAL if word in dataset]
        if named and (whole(dataset.get("Rows")), whole(dataset.get("Columns"))) not in sizes:
            for word in named:
                del dataset[word]
            yield repaired("size and place were left out: the picture has not the size of a source")
        return
    plane, known = plane_of(dataset), candidate.given.frames_of_reference
    if plane is not None and not plane.is_orthonormal:
        yield refused("the directions of rows and columns are not at right angles")
    elif plane is not None and known and text_of(dataset, "FrameOfReferenceUID") not in known:
        yield noted("it lies in a frame of reference of its own: no viewer shows it beside its source")


def check_burned_in(candidate: Candidate) -> Iterator[Remark]:
    """Read the text in a picture: another patient's refuses it. Burned In Annotation is NO only if the node's
    reader finds none.
    """
    dataset = candidate.dataset
    try:
        found = _lines(candidate)
        yield from text_remarks(found, candidate)
    except (PixelError, NoDecoder):
        yield held("its picture could not be searched for names: look at it before it goes")
        found = ["?"]
    wanted = "YES" if found else "NO"
    if text_of(dataset, "BurnedInAnnotation") != wanted:
        dataset.BurnedInAnnotation = wanted
        yield repaired(f"Burned In Annotation was set to {wanted}")


def _lines(candidate: Candidate) -> list[str]:
    """The text in a picture, line by line. Raises PixelError, NoDecoder if nothing here can read it."""
    if candidate.readers.read_text is None:
        raise PixelError("there is no reader of text")
    read = (candidate.readers.read_text(frame) for frame in _frames(candidate))
    return [line for lines in read for line in lines if line.strip()]


def repair_lossy(candidate: Candidate) -> Iterator[Remark]:
    """Complete the lossy flag, which every image has once it was lossy (PS3.3 C.7.6.1.1.5)."""
    dataset = candidate.dataset
    is_lossy = "01" in candidate.given.stated("LossyImageCompression")
    if text_of(dataset, "LossyImageCompression") not in ("00", "01") or (
        is_lossy and text_of(dataset, "LossyImageCompression") == "00"
    ):
        set_values(dataset, LossyImageCompression="01" if is_lossy else "00")
        yield repaired("Lossy Image Compression was set as in its sources")


def _has_palette(dataset: Dataset) -> bool:
    """Whether all three tables are there, of the stated length (PS3.3 C.7.6.3.1.5)."""
    for colour in ("Red", "Green", "Blue"):
        descriptor = [whole(one) for one in listed(dataset.get(f"{colour}PaletteColorLookupTableDescriptor"))]
        table = dataset.get(f"{colour}PaletteColorLookupTableData")
        if len(descriptor) != 3 or not table:
            return False
        if len(table) < ((descriptor[0] or 2**16) * (descriptor[2] or 16)) // 8:
            return False
    return True


def _is_compressed(dataset: Dataset) -> bool:
    """Whether Pixel Data is in fragments."""
    syntax = transfer_syntax(text_of(dataset.file_meta, "TransferSyntaxUID"))
    return syntax is not None and syntax.is_encapsulated


def _length(dataset: Dataset) -> int:
    """The bytes that uncompressed Pixel Data must have, padded to even (PS3.5 8.1.1)."""
    words = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    rows, columns, samples, bits = (whole(dataset.get(word)) or 0 for word in words)
    frames = whole(dataset.get("NumberOfFrames"), least=1) or 1
    if text_of(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    length = (rows * columns * samples * bits * frames + 7) // 8
    return length + length % 2


def _sources(candidate: Candidate) -> Sequence[GivenInstance]:
    """The inputs that a picture shows: that in its place, else all of the study."""
    plane = plane_of(candidate.dataset)
    at_place = candidate.given.by_place.get(plane.place, ()) if plane is not None else ()
    return at_place if len(at_place) == 1 else list(candidate.given.given.values())[:_MOST_SOURCES]


def _source_item(source: GivenInstance) -> Dataset:
    """An item of Source Image Sequence."""
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class_uid, source.uid
    set_values(
        purpose,
        CodeValue="121322",
        CodingSchemeDesignator="DCM",
        CodeMeaning="Source image for image processing operation",
    )
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _frames(candidate: Candidate) -> Iterator[npt.NDArray[np.uint8]]:
    """Some frames of a picture, spread over all of it, as they are shown. Raises PixelError, NoDecoder."""
    with opened(candidate.dataset) as image:
        each = max(1, -(-image.header.frames // _MOST_READ))
        for frame in range(0, image.header.frames, each):
            yield _legible(image.stored(frame), image.header.photometric)


def _legible(frame: npt.NDArray[np.generic], photometric: str) -> npt.NDArray[np.uint8]:
    """A frame in 8 bits, grey or RGB; text is legible in it whatever the window."""
    numbers = np.asarray(frame, np.float32)
    low, high = float(numbers.min()), float(numbers.max())
    scaled = (numbers - low) * (255 / (high - low or 1))
    return np.asarray(255 - scaled if photometric == "MONOCHROME1" else scaled, np.uint8)
