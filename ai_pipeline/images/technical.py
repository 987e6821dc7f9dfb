"""What a header says of the machine's settings, as a machine writes it on its screen too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from ai_pipeline.images.identity import identity_of
from ai_pipeline.images.numbers import decimal, value_of

MOST_VALUES, LONGEST_VALUE = 40, 32
"""Technical values of a header, and characters of one, at most."""
_TEXTS: Final = (
    "TransducerData",  # (0018,5010)
    "TransducerType",  # (0018,6031)
    "ProcessingFunction",  # (0018,5020)
    "ProtocolName",  # (0018,1030)
    "ManufacturerModelName",  # (0008,1090)
)
_TYPED: Final = frozenset({"ProcessingFunction", "ProtocolName"})
"""What persons type: figures there may be an age, a day or a number of a person."""
_INDICES: Final = (
    "MechanicalIndex",  # (0018,5022)
    "BoneThermalIndex",  # (0018,5024)
    "CranialThermalIndex",  # (0018,5026)
    "SoftTissueThermalIndex",  # (0018,5027)
    "SoftTissueFocusThermalIndex",  # (0018,5028)
    "SoftTissueSurfaceThermalIndex",  # (0018,5029)
)
_LARGEST_INDEX: Final = 10.0  # thermal indices stay below; a day and a month may not


def technical_values(dataset: Dataset) -> tuple[str, ...]:
    """What an ultrasound image says of transducer, processing function, protocol, model, mechanical and
    thermal index, depth and frequency, as texts, at most :data:`MOST_VALUES`. Left out is what equals or
    contains a part of the identity in the same header, what is longer than :data:`LONGEST_VALUE`, and a text
    without letters.
    """
    if value_of(dataset, "Modality") not in ("US", "IVUS"):
        return ()
    found = dict.fromkeys(islice(chain(_texts(dataset), _numbers(dataset)), MOST_VALUES))
    if not found or (identity := identity_of(dataset)) is None:
        return ()
    return tuple(text for text in found if not identity.is_in(text))


def _texts(dataset: Dataset) -> Iterator[str]:
    """Each value of the attributes that hold a text, with single blanks."""
    for keyword in _TEXTS:
        value = value_of(dataset, keyword)
        several = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else [value]
        for text in (" ".join(str(part or "").split()) for part in several):
            is_typed = keyword in _TYPED and re.search(r"\d", text)
            if len(text) <= LONGEST_VALUE and re.search(r"[^\W\d_]", text) and not is_typed:
                yield text


def _numbers(dataset: Dataset) -> Iterator[str]:
    """The numbers as a screen shows them: indices, centimetres of depth, megahertz; none without a point,
    which could be an age.
    """
    for keyword in _INDICES:
        index = decimal(value_of(dataset, keyword), _LARGEST_INDEX)
        if index is not None and index >= 0:
            yield from (f"{index:.1f}", f"{index:.2f}")
    depth = decimal(value_of(dataset, "DepthOfScanField"), 400.0)  # (0018,5050), in mm
    if depth is not None and depth > 0:
        yield f"{depth / 10:.1f}"
    regions = value_of(dataset, "SequenceOfUltrasoundRegions")
    for region in regions if isinstance(regions, Items) else ():
        frequency = decimal(value_of(region, "TransducerFrequency"), 60_000.0)  # (0018,6030), in kHz
        if frequency is not None and frequency > 0:
            yield f"{frequency / 1000:.1f}"
