"""Whatever is written can be read: the contrasts of WCAG 2.2, level AA, in both colour schemes."""

from __future__ import annotations

import re

import pytest

from dicom_console.web.pages import static

TEXT, SIGN = 4.5, 3.0  # WCAG 2.2, 1.4.3 and 1.4.11
PAIRS = [
    *((ink, "ground", TEXT) for ink in ("ink", "quiet", "accent", "good", "warn", "bad")),
    *((ink, "panel", TEXT) for ink in ("ink", "quiet", "accent", "good", "warn", "bad")),
    ("on-accent", "accent", TEXT),
    ("bad", "bad-ground", TEXT),
    ("ink", "bad-ground", TEXT),
    ("quiet", "bad-ground", TEXT),
    ("quiet", "panel", SIGN),  # borders of fields
]  # fmt: skip


def schemes() -> list[dict[str, str]]:
    """Colours by name: light, dark."""
    text = static("style.css").decode()
    found = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", part))
        for part in re.findall(r":root \{(.*?)\}", text, re.S)
    ]
    return [found[0], found[0] | found[1]]


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_what_is_written_can_be_read(scheme: int) -> None:
    colours = schemes()[scheme]
    for ink, ground, least in PAIRS:
        lighter, darker = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= least, (ink, ground)
