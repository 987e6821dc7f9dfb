"""Values of VR DA (PS3.5 6.2)."""

from __future__ import annotations

from datetime import date, datetime


def date_of(text: str) -> date | None:
    """The date in eight digits (YYYYMMDD); None for any other text."""
    try:
        digits = len(text) == 8 and text.isascii() and text.isdigit()
        return datetime.strptime(text, "%Y%m%d").date() if digits else None
    except ValueError:
        return None
