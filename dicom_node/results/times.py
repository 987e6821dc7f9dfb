"""Times in results: always the time of the analysis, in the zone of the source image.

Functions take an aware time and an offset as from ``source.offset_of`` (``+0100`` or empty).
"""

import re
from datetime import datetime, timedelta, timezone
from typing import Final

_OFFSET: Final = re.compile(r"([+-])([01]\d)([0-5]\d)")


def zone_of(offset: str) -> timezone | None:
    """The time zone with this Timezone Offset From UTC (0008,0201); None for a text that is no offset."""
    match = _OFFSET.fullmatch(offset)
    if match is None:
        return None
    shift = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-shift if match[1] == "-" else shift)


def local(moment: datetime, offset: str) -> datetime:
    """The moment in the zone of the Timezone Offset From UTC (0008,0201) ``offset``; for "" in this machine's
    zone.

    An offset of our own choice would be a lie about the copied Study Date and Time, which it also governs.
    """
    return moment.astimezone(zone_of(offset))
