"""What the whole package shares: errors, and reports on the progress of long calculations."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ai_pipeline.errors import ModelError


class UnreadableCheckpoint(ModelError):
    """A file is no readable checkpoint. The text says what kind of file it is, or what it lacks."""


class CannotAdapt(ModelError):
    """A checkpoint cannot be turned into a model of this project. The text says why and what would help."""


class DataMissing(OSError):
    """The folder or manifest does not hold the images that training and evaluation need."""


class ExperimentError(ValueError):
    """An experiment file that cannot be used, or a run that belongs to another experiment or recipe."""


Report = Callable[[float, str], None]
"""Called with the share done (0 to 1) and a line for a person; a milestone's line ends with a line feed."""


T = TypeVar("T")


def followed(things: Sequence[T], report: Report, what: str) -> Iterator[T]:
    """Yield ``things`` one by one, and report the share done before each. ``what``: the word for
    the report.
    """
    for number, thing in enumerate(things):
        report(number / len(things), what)
        yield thing


def silent(_share: float, _what: str) -> None:
    """A function for ``report`` that ignores all progress."""


def part_of(report: Report, number: int, count: int, name: str) -> Report:
    """A report function for part ``number`` (from 0) of ``count`` parts, which adds the part's ``name``."""

    def part(share: float, what: str) -> None:
        """Report the share done of this part."""
        report((number + share) / count, f"{name}: {what}")

    return part
