"""An analysis comes back from disk as it was; what is of another version is analysed again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import TypeAdapter

from ai_pipeline.contract import (
    Meaning,
    Measurement,
    ModelRef,
    Origin,
    PipelineResult,
    QualityNote,
    Reading,
    Region,
    Scores,
)
from dicom_node.jobs.worker.kept_analyses import Analyses

MODEL = ModelRef("m", "1", "a" * 64, "b" * 64)
RESULT = PipelineResult(quality=(QualityNote("n", "t"),), scores=(Scores("1.2", MODEL, {"A": 0.5}),))
COORDINATES = st.floats(0, 1000)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    left, top = draw(COORDINATES), draw(COORDINATES)
    corners = (left, top), (left + 1, top + 2)
    if draw(st.booleans()):
        return Region("polygon", (*corners, (left, top + 2)), draw(st.sampled_from(Origin)))
    return Region("box", corners, draw(st.sampled_from(Origin)))


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    hints = get_type_hints(Measurement)
    left, top = draw(COORDINATES), draw(COORDINATES)
    closed = draw(st.booleans())  # then a line has three points at least
    between = draw(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=int(closed), max_size=2))
    line = ((left, top), *between, (left + 1, top))
    lines = draw(st.sampled_from([(line,), (line, line[::-1])]))
    names = {field.name for field in fields(Measurement)} - {"lines", "closed"}
    drawn = {name: draw(values(hints[name])) for name in sorted(names)}
    return Measurement(lines=lines, closed=closed, **drawn)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value that the annotation ``kind`` allows."""
    if kind is Region:
        return regions()
    if kind is Measurement:
        return measurements()
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: values(hints[field.name]) for field in fields(kind)})
    if get_origin(kind) is not None:
        return generic(get_origin(kind), get_args(kind))
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=3),
        bool: st.booleans(),
        int: st.integers(),
        float: st.floats(0, 1),
        type(None): st.none(),
    }
    return plain[kind]


def generic(origin: Any, inner: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if origin is tuple and inner[1:] == (...,):
        return st.lists(values(inner[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, inner))
    if origin is np.ndarray:
        dtypes = st.sampled_from([np.dtype("uint8"), np.dtype("uint16"), np.dtype("float32")])
        return arrays.arrays(dtypes, arrays.array_shapes(max_dims=4, max_side=3))
    if origin is Mapping:
        return st.dictionaries(st.text(max_size=3), values(inner[1]), max_size=2)
    return st.sampled_from(inner) if origin is Literal else st.one_of(*map(values, inner))


def plain(value: Any) -> Any:
    """For comparison, also of types that do not compare themselves."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value):
        return type(value), [(field.name, plain(getattr(value, field.name))) for field in fields(value)]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return tuple(plain(item) for item in value) if isinstance(value, tuple) else (type(value), value)


@settings(max_examples=30)
@given(result=values(PipelineResult))
def test_an_analysis_comes_back_as_it_was_kept(result: PipelineResult) -> None:
    with tempfile.TemporaryDirectory() as folder:
        analyses = Analyses(Path(folder))
        assert analyses.get("key") is None
        analyses.put("key", result)
        found = analyses.get("key")
        names = [field.name for field in fields(PipelineResult) if field.name != "readings"]
        assert [plain(getattr(found, name)) for name in names] == [
            plain(getattr(result, name)) for name in names
        ]


def test_what_was_read_is_never_written_with_an_analysis(tmp_path: Path) -> None:
    reading = Reading("1.2", None, "text", Meaning.IDENTITY, (0, 0, 1, 1), 0.9, removed=True, text="QUETZAL")
    analyses = Analyses(tmp_path)
    analyses.put("key", PipelineResult(readings=(reading,)))
    assert "QUETZAL" not in (tmp_path / "key" / "result.json").read_text(encoding="utf-8")
    found = analyses.get("key")
    assert found is not None
    assert found.readings == ()


WRITTEN: dict[str, Any] = TypeAdapter(PipelineResult).dump_python(RESULT, mode="json", context=[])


@pytest.mark.parametrize(
    "written",
    [
        {"version": 3, "result": WRITTEN},
        WRITTEN | {"future": 1},
        WRITTEN | {"quality": {}},
        WRITTEN | {"quality": [{"name": 1, "text": "", "source_uid": None}]},
        WRITTEN | {"images": [None]},
        [],
        None,
    ],
)
def test_an_analysis_of_another_version_counts_as_none_and_is_replaced(tmp_path: Path, written: Any) -> None:
    analyses = Analyses(tmp_path)
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "result.json").write_text(json.dumps(written), encoding="utf-8")
    assert analyses.get("key") is None
    analyses.put("key", RESULT)
    found = analyses.get("key")
    assert found is not None
    assert found.scores == RESULT.scores


def test_results_of_single_images_become_one_with_every_field() -> None:
    notes = QualityNote("of all", "t"), QualityNote("of one", "t", "1.2")
    one = PipelineResult(quality=notes[:1], models=(MODEL,), timings={"model": 1.0}, scores=RESULT.scores)
    two = PipelineResult(quality=notes, models=(MODEL,), timings={"model": 0.5}, drawn_on="cleaned")
    joined = PipelineResult.joined([one, two])
    assert (joined.quality, joined.models, joined.timings) == (notes, (MODEL,), {"model": 1.5})
    assert (joined.scores, joined.drawn_on) == (RESULT.scores, "cleaned")
