"""Types of the contract as JSON and arrays, and back, by their annotations; what does not fit is an error."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np


def to_json(value: Any, store: Callable[[np.ndarray], int]) -> Any:
    """``value`` as ``json`` can write it; ``store`` takes an array and gives the number that stands for it.

    Raises ValueError for what no type of the contract holds.
    """
    if isinstance(value, np.ndarray):
        return store(value)
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name), store) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(item, store) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_json(item, store) for item in value]
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ValueError(f"a {type(value).__name__} cannot be written")


def from_json(kind: Any, found: Any, load: Callable[[int], np.ndarray]) -> Any:
    """An object of the annotated type ``kind`` from what :func:`to_json` made of it.

    Raises ValueError for a field that is missing or unknown, and for a value of another type.
    """
    if is_dataclass(kind):
        return _dataclass(kind, found, load)
    if get_origin(kind) is not None:
        return _generic(get_origin(kind), get_args(kind), found, load)
    if issubclass(kind, Enum):
        return kind(found)
    return found if kind is float and type(found) is int else _checked(kind, found)


def _generic(origin: Any, inner: tuple[Any, ...], found: Any, load: Callable[[int], np.ndarray]) -> Any:
    if origin in (Union, types.UnionType):
        [given] = [item for item in inner if item is not type(None)]
        return None if found is None else from_json(given, found, load)
    if origin is tuple:
        return _tuple(inner, _checked(list, found), load)
    if origin is Mapping:
        return {key: from_json(inner[1], value, load) for key, value in _checked(dict, found).items()}
    if origin is np.ndarray:
        return load(_checked(int, found))
    if origin is Literal and found in inner:
        return found
    raise ValueError(f"none of {inner}")


def _dataclass(kind: Any, found: Any, load: Callable[[int], np.ndarray]) -> Any:
    hints = _hints(kind)
    if _checked(dict, found).keys() != {field.name for field in fields(kind)}:
        raise ValueError(f"other fields than those of {kind.__name__}")
    return kind(**{name: from_json(hints[name], value, load) for name, value in found.items()})


def _tuple(inner: tuple[Any, ...], found: list[Any], load: Callable[[int], np.ndarray]) -> tuple[Any, ...]:
    first, *rest = inner
    kinds = [first] * len(found) if rest == [...] else inner
    return tuple(from_json(kind, item, load) for kind, item in zip(kinds, found, strict=True))


def _checked(kind: Any, found: Any) -> Any:
    if type(found) is not kind:
        raise ValueError(f"a {type(found).__name__} where {kind.__name__} should stand")
    return found


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
