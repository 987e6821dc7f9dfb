"""The cleaned DICOM object: the source's header with the cleaned pixels, and what was done with them.

It keeps SOP class, patient and study. It has UIDs of its own, derived from the source's: the same input gives
the same object. All that may hold another picture goes: overlays, curves, icons, private attributes, and
attributes that the standard does not know. The header is not de-identified.
"""

import hashlib
import re
import uuid
from tempfile import TemporaryFile
from typing import IO, BinaryIO

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from ai_pipeline.burnin.card import CARD
from ai_pipeline.burnin.cleaning import CleaningResult
from ai_pipeline.contract import ModelRef
from ai_pipeline.distribution import version
from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import DicomImage
from ai_pipeline.images.numbers import value_of

DISCLAIMER = "AI result - not for diagnostic use"
_COLOURS = ("Red", "Green", "Blue")
_OF_OTHER_SAMPLES = (
    *(f"{colour}PaletteColorLookupTableDescriptor" for colour in _COLOURS),
    *(f"{colour}PaletteColorLookupTableData" for colour in _COLOURS),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in _COLOURS),
    "PaletteColorLookupTableUID", "SmallestImagePixelValue", "LargestImagePixelValue",
    "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "PlanarConfiguration",
    "InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID",
)  # fmt: skip
"""Attributes that describe the source's samples, or the making of its object."""
_PICTURE_GROUPS = (0x7FE0, *range(0x5000, 0x5100), *range(0x6000, 0x6100))
"""Pixel data, curves (retired) and overlays, PS3.6."""
_ICON = 0x00880200
_TABLES = frozenset({0x00282000, 0x00283006})
"""ICC Profile and LUT Data."""
_OF_BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN", "UR"})


def write_cleaned(image: DicomImage, result: CleaningResult, target: BinaryIO) -> str:
    """Write the cleaned object of ``image`` to ``target`` as Part 10, in Explicit VR Little Endian; returns
    its SOP Instance UID. Changes ``image.dataset``. Raises PixelError for samples that no image object can
    hold.
    """
    dataset, frames = image.dataset, result.image.frames
    if not image.header.sop_class_uid:
        raise PixelError("SOP Class UID (0008,0016) is missing")
    if frames.dtype.kind not in "iu" or frames.dtype.itemsize > 2:
        raise PixelError(f"samples of type {frames.dtype} cannot be handed back: send 16 bits or less")
    _remove_other_pictures(dataset)
    for keyword in _OF_OTHER_SAMPLES:
        if keyword in dataset:
            delattr(dataset, keyword)
    with TemporaryFile() as samples:
        digest = _copy_samples(result, samples)
        uid = _derived_uid(image.uid, digest)
        _describe_samples(image, result, samples)
        _describe_cleaning(image, result)
        dataset.SOPInstanceUID = uid
        if image.series_uid:
            dataset.SeriesInstanceUID = _derived_uid("series", image.series_uid)
        _save(dataset, target, was_big_endian=image.transfer_syntax == ExplicitVRBigEndian)
    return uid


def model_texts(models: tuple[ModelRef, ...]) -> list[str]:
    """The models in words: name and version of each."""
    return [f"{model.id} {model.version}" for model in models]


def _remove_other_pictures(dataset: Dataset) -> None:
    """Remove, at every depth, all that may hold another picture than the cleaned one."""
    for tag in list(dataset.keys()):
        known = dictionary_has_tag(tag) and tag.group not in _PICTURE_GROUPS and tag != _ICON
        value = value_of(dataset, tag) if known else None
        if isinstance(value, Sequence):
            for item in value:
                _remove_other_pictures(item)
        elif not known or _may_hold_a_picture(dataset, tag):
            del dataset[tag]


def _may_hold_a_picture(dataset: Dataset, tag: BaseTag) -> bool:
    """Whether an element that is no sequence may hold a picture, or the address of one: bytes, also those of
    a sequence that was not read.
    """
    representations = {*re.split(" or ", dictionary_VR(tag)), dataset.get_item(tag).VR or "UN"}
    return tag not in _TABLES and not representations.isdisjoint(_OF_BYTES)


def _copy_samples(result: CleaningResult, target: IO[bytes]) -> str:
    """Write the cleaned samples, one frame after the other, little endian; returns their SHA-256."""
    digest, frames = hashlib.sha256(), result.image.frames
    for frame in frames:
        samples = np.ascontiguousarray(frame, frames.dtype.newbyteorder("<")).tobytes()
        digest.update(samples)
        target.write(samples)
    target.write(b"\0" * (frames.nbytes % 2))  # PS3.5 7.1.1
    target.seek(0)
    return digest.hexdigest()


def _derived_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that depends on ``parts`` and on what cleans alone."""
    named = "\x1f".join((CARD.name, CARD.version, *parts))
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, named).int}"


def _describe_samples(image: DicomImage, result: CleaningResult, samples: IO[bytes]) -> None:
    """Set the Image Pixel module (PS3.3 C.7.6.3) for the cleaned ``samples``."""
    dataset, frames = image.dataset, result.image.frames
    colour, allocated = result.image.photometric == "RGB", frames.dtype.itemsize * 8
    stored = 8 if image.header.photometric == "PALETTE COLOR" else min(image.header.bits_stored, allocated)
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = result.image.photometric
    dataset.BitsAllocated = allocated
    dataset.BitsStored = stored
    dataset.HighBit = stored - 1
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    if colour:
        dataset.PlanarConfiguration = 0
    if image.header.lossy:
        dataset.LossyImageCompression = "01"  # it stays declared (PS3.3 C.7.6.1.1.5), though ours is lossless
    dataset.add_new("PixelData", "OW" if allocated > 8 else "OB", samples)


def _describe_cleaning(image: DicomImage, result: CleaningResult) -> None:
    """Say in the header what was done, by which models, and of which image."""
    dataset = image.dataset
    dataset.ImageType = ["DERIVED", *(image.header.image_type[1:] or ["SECONDARY"])]
    dataset.BurnedInAnnotation = "NO"
    filled = bool(np.any(result.mask.frames))
    what = f"{result.image.description} filled, not for measurement" if filled else "no pixel was changed"
    models = ", ".join(model_texts(result.image.models))
    dataset.DerivationDescription = (
        f"AI: {what}; verified that no text is left that had to go. SHA-256 outside the mask: "
        f"{result.image.outside_sha256}. {DISCLAIMER}, {CARD.name} version {CARD.version}: {models}"
    )[:1024]
    if image.uid:
        source = Dataset()
        source.ReferencedSOPClassUID = image.header.sop_class_uid
        source.ReferencedSOPInstanceUID = image.uid
        source.PurposeOfReferenceCodeSequence = [
            _code("121322", "Source image for image processing operation")
        ]
        dataset.SourceImageSequence = [source]
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109103", "Modifying Equipment")]
    equipment.Manufacturer = "DICOM AI Node project"
    equipment.ManufacturerModelName = "ai-pipeline"
    equipment.SoftwareVersions = version()
    earlier = value_of(dataset, "ContributingEquipmentSequence")
    dataset.ContributingEquipmentSequence = [*(earlier if isinstance(earlier, Sequence) else ()), equipment]


def _code(value: str, meaning: str) -> Dataset:
    """A concept of DCM (PS3.16 Annex D) as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _save(dataset: Dataset, target: BinaryIO, *, was_big_endian: bool) -> None:
    """Write the data set with a header of its own: what stood in the source's preamble is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    if isinstance(dataset, FileDataset):
        dataset.preamble = b"\0" * 128
    try:
        # save_as refuses to turn big endian (retired) around: it leaves OW as it is.
        for element in dataset.iterall() if was_big_endian else ():
            if element.VR == "OW" and isinstance(element.value, bytes):
                element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
        dcmwrite(target, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # of values that are damaged
        raise PixelError(f"its header cannot be written again ({type(error).__name__})") from error
