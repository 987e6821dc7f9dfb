"""Dates and times of a report in FHIR's format, which allows a time only with its offset from UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from dicom_node.results.common.envelope import zone_of


def date_time(document: Dataset, date: str, time: str) -> str:
    """A dateTime from two attributes.

    Without a known offset (0008,0201) or time it is only the date; without a date it is "".
    """
    day, offset = _value(DA, document, date), _offset(document)
    if day is None:
        return ""
    at = _value(TM, document, time)
    if at is None or offset is None:
        return str(day.isoformat())
    return datetime.combine(day, at, offset).isoformat(timespec="seconds")


def written(document: Dataset) -> str:
    """The instant when the content was made; this machine's zone if the report names none."""
    day, at = _value(DA, document, "ContentDate"), _value(TM, document, "ContentTime")
    if day is None or at is None:
        return ""
    moment = datetime.combine(day, at, _offset(document))
    return (moment if moment.tzinfo else moment.astimezone()).isoformat(timespec="seconds")


def _value(kind: type[DA] | type[TM], document: Dataset, keyword: str) -> Any:
    """A date or time; None where it is none."""
    try:
        return kind(document.get(keyword) or None)
    except ValueError:
        return None


def _offset(document: Dataset) -> timezone | None:
    return zone_of(str(document.get("TimezoneOffsetFromUTC") or ""))
