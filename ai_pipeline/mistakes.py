"""Put pydantic's errors about data from a file into words for the person who wrote the file.

Used for device rules, model cards and experiments. The node's configuration has remedies of its own
(``dicom_node.base.config.loading``).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

_REMEDIES = {"extra_forbidden": "unknown key: look for a typing error", "missing": "is missing"}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a settings file. ``place``: the path of keys and positions to the value; ``key``: that
    path as text, ``rule[0].rectangles``; ``remedy``: what to do.
    """

    place: tuple[int | str, ...]
    key: str
    remedy: str


def mistakes(error: ValidationError) -> Iterator[Mistake]:
    """List every mistake that pydantic found, without the values, which may be secret."""
    for found in error.errors(include_input=False, include_url=False):
        place = found["loc"]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:]
        remedy = _REMEDIES.get(
            found["type"], found["msg"].removeprefix("Value error, ").removeprefix("Input ")
        )
        yield Mistake(place, key, remedy)
