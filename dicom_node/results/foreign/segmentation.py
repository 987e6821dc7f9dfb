"""Segmentations of a program (PS3.3 C.8.20): segments, samples, and what frames say of both."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import whole
from dicom_node.base.dicom.header import listed
from dicom_node.base.dicom.uids import transfer_syntax
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.frames import shared_or_each
from dicom_node.results.foreign.kinds import LABEL_MAP_SEGMENTATION, ForeignKind
from dicom_node.results.foreign.report import says_absent
from dicom_node.results.foreign.verdict import Remark, noted, refused, repaired

_BITS: Final = {"BINARY": {1}, "FRACTIONAL": {8}, "LABELMAP": {8, 16}}
Samples = npt.NDArray[np.integer]


def check_segments(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with the segments: numbers, type, bits, compression."""
    dataset = candidate.dataset
    kind = text_of(dataset, "SegmentationType")
    bits = whole(dataset.get("BitsAllocated"))
    if kind not in _BITS or bits not in _BITS[kind]:
        yield refused("Bits Allocated does not fit its Segmentation Type")
    if (kind == "LABELMAP") != (candidate.sop_class_uid == LABEL_MAP_SEGMENTATION):
        yield refused("its Segmentation Type is not that of its SOP class")
    numbers = [whole(one.get("SegmentNumber")) for one in sequence(dataset, "SegmentSequence")]
    if kind == "LABELMAP" and len(set(numbers)) < len(numbers):
        yield refused("two segments have one number")
    if kind != "LABELMAP" and numbers != list(range(1, len(numbers) + 1)):
        yield refused("its segments are not numbered from 1 upwards")
    if kind == "FRACTIONAL" and not whole(dataset.get("MaximumFractionalValue"), least=1):
        yield refused("Maximum Fractional Value is missing")
    if text_of(dataset, "LossyImageCompression") == "01" and kind != "FRACTIONAL":
        yield refused("a mask was compressed with loss")
    yield from _repair_algorithms(candidate)
    if kind != "LABELMAP":
        named = [_segment_of(group) for group in shared_or_each(dataset, "SegmentIdentificationSequence")]
        if any(number not in numbers for number in named):
            yield refused("a frame is of a segment that is not there")


def check_samples(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with the samples: their number, values without a segment, masks of nothing."""
    dataset = candidate.dataset
    if "PixelData" not in dataset:
        yield refused("it has no Pixel Data")
        return
    syntax = transfer_syntax(text_of(dataset.file_meta, "TransferSyntaxUID"))
    if syntax is not None and syntax.is_encapsulated:
        yield noted("its samples are compressed, and were not looked at")
        return
    if not _is_whole(dataset):
        yield refused("Pixel Data has not the length that rows, columns and frames say")
        return
    kind = text_of(dataset, "SegmentationType")
    if not np.frombuffer(dataset.PixelData, np.uint8).any():
        reports = [one for one in candidate.siblings.values() if one.kind is ForeignKind.REPORT]
        if any(says_absent(one.dataset) for one in reports):
            yield noted("its masks are empty, and a report says that nothing was found")
        else:
            yield refused("its masks are empty: nothing was found, and nothing says so")
    elif kind == "LABELMAP":
        yield from _label_remarks(dataset)
    elif kind == "BINARY" and text_of(dataset, "SegmentsOverlap") == "NO" and _overlap(dataset):
        dataset.SegmentsOverlap = "YES"
        yield repaired("Segments Overlap was set to YES: they do")


def _repair_algorithms(candidate: Candidate) -> Iterator[Remark]:
    """Say that no person drew the segments, and name the program (PS3.3 C.8.20.4)."""
    for segment in sequence(candidate.dataset, "SegmentSequence"):
        if text_of(segment, "SegmentAlgorithmType") == "MANUAL":
            yield noted("a segment says that a person drew it (MANUAL)")
            continue  # Segment Algorithm Name is of the other types alone
        if not text_of(segment, "SegmentAlgorithmType"):
            segment.SegmentAlgorithmType = "AUTOMATIC"
            yield repaired("Segment Algorithm Type was set to AUTOMATIC")
        if not text_of(segment, "SegmentAlgorithmName"):
            segment.SegmentAlgorithmName = candidate.given.context.pipeline[:64]
            yield repaired("the program was named as the algorithm of the segments")


def _segment_of(group: Dataset | None) -> int | None:
    """The Referenced Segment Number of a frame."""
    return None if group is None else whole(group.get("ReferencedSegmentNumber"))


def _is_whole(dataset: Dataset) -> bool:
    """Whether Pixel Data has its exact length: bits are packed over frame borders (PS3.5 8.1.1)."""
    sizes = [
        whole(dataset.get(word), least=1) for word in ("Rows", "Columns", "NumberOfFrames", "BitsAllocated")
    ]
    rows, columns, frames, bits = (size or 0 for size in sizes)
    length = (rows * columns * frames * bits + 7) // 8
    return length > 0 and len(dataset.PixelData) == length + length % 2


def _frame(dataset: Dataset, index: int) -> npt.NDArray[np.bool_]:
    """The mask of a binary frame, from 0, as one row of samples."""
    size = int(dataset.Rows) * int(dataset.Columns)
    first, last = index * size, (index + 1) * size
    packed = np.frombuffer(dataset.PixelData, np.uint8)[first // 8 : (last + 7) // 8]
    bits = np.unpackbits(packed, bitorder="little")
    return bits[first % 8 : first % 8 + size].astype(bool)


def _overlap(dataset: Dataset) -> bool:
    """Whether a pixel is in two segments: frames of different segments in one place share one."""
    found: dict[tuple[object, ...], npt.NDArray[np.bool_]] = {}
    of_place = defaultdict[tuple[object, ...], list[int]](list)
    for index, group in enumerate(shared_or_each(dataset, "PlanePositionSequence")):
        place = listed(group.get("ImagePositionPatient")) if group is not None else ()
        of_place[tuple(map(str, place))].append(index)
    for place, indices in of_place.items():
        for index in indices if len(indices) > 1 else ():
            mask = _frame(dataset, index)
            if place in found and (found[place] & mask).any():
                return True
            found[place] = found[place] | mask if place in found else mask
    return False


def _label_remarks(dataset: Dataset) -> Iterator[Remark]:
    """Yield values of a label map that are no segment's (PS3.3 C.8.20.2.3.3): all but the background's."""
    kind = np.uint8 if int(dataset.BitsAllocated) == 8 else np.dtype("<u2")
    values = {int(value) for value in np.unique(np.frombuffer(dataset.PixelData, kind))}
    background = whole(dataset.get("PixelPaddingValue")) or 0
    numbers = {whole(one.get("SegmentNumber")) for one in sequence(dataset, "SegmentSequence")}
    if values - {background} - numbers:
        yield refused("it has values that are the number of no segment")
