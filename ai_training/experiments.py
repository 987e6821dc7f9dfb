"""Experiments as typed TOML files: a key left out has its default, an unknown key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_pipeline.mistakes import mistakes
from ai_training.errors import ExperimentError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


class ExperimentPart(BaseModel):
    """Base of the models for tables in experiment files: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Part = TypeVar("Part", bound=ExperimentPart)


def read_table(path: Path) -> dict[str, Any]:
    """Read the TOML file at ``path``. Raises ExperimentError if it is not TOML, OSError if
    there is no file.
    """
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path} is not TOML: {error}") from error


def checked(kind: type[Part], table: Mapping[str, Any], where: str) -> Part:
    """``table`` as a model of the class ``kind``. Raises ExperimentError, which names every wrong key of
    ``where``.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        faults = "; ".join(f"{where}: {one.key}: {one.remedy}" for one in mistakes(error))
        raise ExperimentError(faults) from error


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The nested table ``below`` with its values replaced by those of ``above``."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = (
            laid_over(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
        )
    return result
