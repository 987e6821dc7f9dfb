"""Points and arrays of the contract, and how an array is written beside JSON."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import PlainSerializer, PlainValidator, ValidationInfo

Point = tuple[float, float]
PixelArray = npt.NDArray[np.generic]


def _array(number: Any, info: ValidationInfo) -> Any:
    return info.context[number]  # type: ignore[index]


def _number(array: Any, info: Any) -> int:
    info.context.append(array)
    return len(info.context) - 1


BY_NUMBER: Final = (PlainValidator(_array, json_schema_input_type=int), PlainSerializer(_number))
"""Annotations of a field that JSON holds as a place in a list of arrays: the context of a
``pydantic.TypeAdapter``, to which writing appends and from which reading takes."""
