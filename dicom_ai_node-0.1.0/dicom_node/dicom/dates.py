"""Values of VR DA (PS3.5 6.2)."""

from __future__ import annotations

from datetime import date, datetime


def date_of(text: str) -> date | None:
    """The day that eight digits name; None for anything else."""
    try:
        digits = len(text) == 8 and text.isascii() and text.isdigit()
        return datetime.strptime(text, "%Y%m%d").date() if digits else None
    except ValueError:
        return None
