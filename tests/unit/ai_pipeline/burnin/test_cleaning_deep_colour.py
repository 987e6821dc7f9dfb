"""Colour of more than 8 bits: the brightest decides how dark the rest is shown; filling it shows the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.writing import FAINT, FINEST, surroundings
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.phantoms import burn, echo, silent, write_dicom


@pytest.mark.parametrize("bits", [12, 16])
def test_a_name_that_appears_when_brighter_text_is_filled_goes_too(bits: int, tmp_path: Path) -> None:
    full = 2**bits - 1
    black = np.zeros((768, 1024), np.uint8)
    tissue = echo(size=(540, 1024))
    samples = np.zeros((768, 1024, 3), np.uint16)
    samples[90:630] = (tissue[..., None] / 255 * 0.02 * full).astype(np.uint16)
    samples[burn(black, "GENERAL HOSPITAL 12.03.1970", (20, 20), 255, 40) > 100] = full
    name = burn(black, "KIM MINJUN 1970-01-02", (560, 680), 255, 24) > 100
    samples[name] = int(0.02 * full)
    path = write_dicom(tmp_path / "deep.dcm", samples[None], BitsStored=bits, HighBit=bits - 1)

    result = clean(open_dicom(path), silent, policy=CleaningPolicy.CLINICAL)

    assert result.image.verified
    assert (np.asarray(result.mask.frames[0]) > 0)[name].mean() > 0.99


def test_with_enhanced_contrast_all_is_read_again_that_a_change_shows_otherwise() -> None:
    changed = np.zeros((768, 1024), np.bool_)
    changed[384, 512] = True

    [(left, top, right, bottom)] = surroundings(changed, FAINT)
    assert (left, right) == (512 - 192, 512 + 193)
    assert (top, bottom) == (384 - 192, 384 + 193)
    [(left, top, right, bottom)] = surroundings(changed, FINEST)
    assert right - left == bottom - top == 129
