"""What is read at a place; settings that are read once, since they stand in all pictures of a device.

They are kept in this process only, by a keyed hash of the very pixels that were read: of equal pixels the
network reads equal text, so a picture is cleaned alike with and without. Whoever sends prepared pictures can
only make those very pixels be known for what they say. Of a line that is not kept, no hash is kept either.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ai_pipeline.burnin.annotation.pixels import Picture

MOST_LINES = 2000
"""Lines that are kept, at most, as of fifty devices; the one that was needed longest ago goes first."""
LONGEST_LINE = 60
"""Characters of a line that is kept, at most."""
WIDEST_CHARACTER = 1.3
"""Mean width of a character, at most (heights of the line): wider ones show that some were not read."""
LIFETIME = 3600.0
"""Time after which a line is read again (seconds)."""


@dataclass(frozen=True, slots=True)
class Line:
    """The text that is read at a place, with the recogniser's mean ``confidence`` (0 to 1).

    The text may be a name: the repr leaves it out.
    """

    text: str = field(repr=False)
    confidence: float
    legible: bool


class LineMemory:
    """The lines of which ``is_setting`` is True, by their pixels. Not for several threads at a time.

    ``is_setting`` takes a text and its confidence; True only of what is proven to be no identity. ``clock``:
    seconds, never set back.
    """

    def __init__(
        self, is_setting: Callable[[str, float], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_setting, self._clock = is_setting, clock
        self._key = secrets.token_bytes(32)
        self._lines: OrderedDict[bytes, tuple[float, Line]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lines)

    def line(self, crop: Picture, least: int, read: Callable[[Picture, int], Line]) -> Line:
        """The text in ``crop``: from memory, or as ``read`` reads it now.

        ``least`` as :meth:`ai_pipeline.burnin.find.text.TextReader.read` takes it.
        """
        pixels = hashlib.blake2b(crop.data, key=self._key, digest_size=32)
        pixels.update(repr((crop.shape, least)).encode())
        name = pixels.digest()
        since, line = self._lines.pop(name, (0.0, None))
        if line is None or self._clock() - since > LIFETIME:
            since, line = self._clock(), read(crop, least)
        if self._may_stay(line, crop):
            self._lines[name] = (since, line)
            if len(self._lines) > MOST_LINES:
                self._lines.popitem(last=False)
        return line

    def _may_stay(self, line: Line, crop: Picture) -> bool:
        """Whether a line is a setting and all that its pixels hold was read."""
        if not line.legible or len(line.text) > LONGEST_LINE:
            return False
        height, length = sorted(crop.shape[:2])
        return not is_wide(length, height, line) and self._is_setting(line.text, line.confidence)


def is_wide(length: float, height: float, line: Line) -> bool:
    """Whether a place of these sides (pixels) is too long for the characters that were read in it."""
    return length > WIDEST_CHARACTER * (len(line.text) + 1) * max(1.0, height)
