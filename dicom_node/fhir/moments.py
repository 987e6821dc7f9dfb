"""Dates and times of a report in FHIR's format, which allows a time only with its offset from UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

_OFFSET_LENGTH: Final = len("+0100")


def date_time(document: Dataset, date: str, time: str) -> str:
    """A dateTime from two attributes.

    Without a known offset (0008,0201) or time it is only the date; without a date it is "".
    """
    day, offset = _day(document, date), _offset(document)
    if day is None:
        return ""
    at = _time(document, time)
    if at is None or offset is None:
        return str(day.isoformat())
    return datetime.combine(day, at, offset).isoformat(timespec="seconds")


def written(document: Dataset) -> str:
    """The instant when the content was made; this machine's zone if the report names none."""
    day, at = _day(document, "ContentDate"), _time(document, "ContentTime")
    if day is None or at is None:
        return ""
    moment = datetime.combine(day, at, _offset(document))
    return (moment if moment.tzinfo else moment.astimezone()).isoformat(timespec="seconds")


def _day(document: Dataset, keyword: str) -> DA | None:
    try:
        return DA(document.get(keyword) or None)
    except ValueError:
        return None


def _time(document: Dataset, keyword: str) -> TM | None:
    try:
        return TM(document.get(keyword) or None)
    except ValueError:
        return None


def _offset(document: Dataset) -> timezone | None:
    """Timezone Offset From UTC (0008,0201), such as ``+0100``."""
    given = str(document.get("TimezoneOffsetFromUTC") or "")
    if len(given) != _OFFSET_LENGTH or given[0] not in "+-" or not given[1:].isdecimal():
        return None
    shift = timedelta(hours=int(given[1:3]), minutes=int(given[3:]))
    return timezone(-shift if given[0] == "-" else shift) if shift < timedelta(hours=24) else None
