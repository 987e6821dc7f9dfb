"""Times in results: always the time of the analysis, in the zone of the source image.

Each function takes an aware time and an offset as from ``envelope.offset_of`` (``+0100`` or empty).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Final

_OFFSET: Final = re.compile(r"([+-])([01]\d)([0-5]\d)")


def dicom_date(moment: datetime, offset: str) -> str:
    """The date as VR DA."""
    return _local(moment, offset).strftime("%Y%m%d")


def dicom_time(moment: datetime, offset: str) -> str:
    """The time as VR TM, with microseconds."""
    return _local(moment, offset).strftime("%H%M%S.%f")


def dicom_datetime(moment: datetime, offset: str) -> str:
    """Date and time as VR DT, without an offset.

    (0008,0201) gives the offset (PS3.3 C.12.1), and DCMTK refuses "+0000".
    """
    return _local(moment, offset).strftime("%Y%m%d%H%M%S.%f")


def zone_of(offset: str) -> timezone | None:
    """The time zone with this Timezone Offset From UTC (0008,0201); None for a text that is no offset."""
    match = _OFFSET.fullmatch(offset)
    if match is None:
        return None
    shift = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-shift if match[1] == "-" else shift)


def _local(moment: datetime, offset: str) -> datetime:
    """In the source's Timezone Offset From UTC (0008,0201); without one, in this machine's zone.

    An offset of our own choice would be a lie about the copied Study Date and Time, which it also governs.
    """
    return moment.astimezone(zone_of(offset))
