"""De-identified results, judged by a program of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deidentified_lab import deidentified, write_named
from tests.result_images import CR, DX, US, US_MULTI_FRAME, US_RETIRED, grey_image, speckle
from tests.validators import dciodvfy_errors

pytestmark = pytest.mark.debian("dicom3tools")

SOURCES = {
    "colour": (US, speckle()),
    "cine": (US_MULTI_FRAME, speckle(frames=3)),
    "grey cine": (US_MULTI_FRAME, speckle(frames=3, colour=False)),
    "grey": (US, speckle(colour=False)),
    "retired class": (US_RETIRED, speckle()),
    "cr": (CR, grey_image()),
    "dx": (DX, grey_image()),
}


@pytest.mark.parametrize("name", SOURCES)
def test_dciodvfy_finds_no_error(tmp_path: Path, name: str) -> None:
    sop_class, pixels = SOURCES[name]
    made = deidentified(write_named(tmp_path / "source.dcm", pixels=pixels, sop_class=sop_class))
    assert made.withheld == ()
    assert len(made.objects) == 3
    for item in made.objects:
        assert item.data is not None
        path = tmp_path / f"{item.kind}.dcm"
        path.write_bytes(item.data)
        assert dciodvfy_errors(path) == [], item.kind
