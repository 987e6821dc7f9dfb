"""Parametric maps of a program (PS3.3 C.8.32, C.7.6.16.2.11): samples, and what they mean."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import whole
from dicom_node.base.dicom.uids import transfer_syntax
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.frames import shared_or_each
from dicom_node.results.foreign.verdict import Remark, noted, refused

_SAMPLES: Final = {"PixelData": 2, "FloatPixelData": 4, "DoubleFloatPixelData": 8}
"""Bytes of a sample by attribute."""


def check_map(candidate: Candidate) -> Iterator[Remark]:
    """Yield what is wrong with a map: samples twice or not at all, no unit, no quantity, no numbers."""
    dataset = candidate.dataset
    stated = [word for word in _SAMPLES if word in dataset]
    if len(stated) != 1:
        yield refused("a map needs its samples once, as whole numbers, floats or doubles")
        return
    yield from _sample_remarks(dataset, stated[0])
    for group in shared_or_each(dataset, "RealWorldValueMappingSequence"):
        if fault := _mapping_fault(group):
            yield refused(fault)
            return


def _sample_remarks(dataset: Dataset, keyword: str) -> Iterator[Remark]:
    """Yield if the samples have another length than stated, or are no numbers without a padding value."""
    syntax = transfer_syntax(text_of(dataset.file_meta, "TransferSyntaxUID"))
    if syntax is not None and syntax.is_encapsulated:
        yield noted("its samples are compressed, and were not looked at")
        return
    value, size = dataset[keyword].value, _SAMPLES[keyword]
    if keyword == "PixelData":
        size = (whole(dataset.get("BitsAllocated")) or 16) // 8
    shape = [whole(dataset.get(word), least=1) or 0 for word in ("Rows", "Columns", "NumberOfFrames")]
    length = int(np.prod(shape)) * size
    if not length or len(value) != length + length % 2:
        yield refused("its samples have not the length that rows, columns and frames say")
    elif keyword != "PixelData":
        numbers = np.frombuffer(value, f"<f{size}")
        is_padded = any(f"{kind}PixelPaddingValue" in dataset for kind in ("Float", "DoubleFloat"))
        if not np.isfinite(numbers).any():
            yield refused("none of its samples is a number")
        elif not np.isfinite(numbers).all() and not is_padded:
            yield noted("some of its samples are no numbers, and no padding value says so")


def _mapping_fault(group: Dataset | None) -> str:
    """Why the samples of a frame have no meaning, "" if they have one."""
    if group is None:
        return "a frame has no Real World Value Mapping: nothing says what its samples mean"
    units = sequence(group, "MeasurementUnitsCodeSequence")
    if len(units) != 1 or text_of(units[0], "CodingSchemeDesignator") != "UCUM":
        return "its samples have no unit of UCUM"
    if not sequence(group, "QuantityDefinitionSequence"):
        return "nothing says which quantity its samples are (Quantity Definition Sequence)"
    return ""
