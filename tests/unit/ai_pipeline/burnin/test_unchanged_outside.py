"""The hash of what lies outside the mask: anybody can compute it, and a changed pixel shows."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.unchanged_outside import OutsideDigest
from ai_pipeline.errors import CleaningFailed
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, silent, stacked


@pytest.mark.parametrize("frames", [stacked([burn(echo())]), stacked([burn(f) for f in cine(18)])])
def test_source_and_segmentation_give_the_hash_again(frames: np.ndarray) -> None:
    result = clean(ArrayImage(frames), silent, policy=CleaningPolicy.RESEARCH)
    digest = hashlib.sha256()
    for source, mask in zip(frames, result.mask.frames, strict=True):
        digest.update(np.where(mask > 0, 0, source).astype(np.uint8).tobytes())
    assert result.image.outside_sha256 == digest.hexdigest()


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_byte_order_does_not_matter(dtype: str) -> None:
    outside, mask = OutsideDigest(), np.zeros((4, 4), np.bool_)
    samples = np.arange(16, dtype=np.uint16).reshape(4, 4)
    outside.add(samples, samples.astype(dtype), mask)
    assert outside.hexdigest() == hashlib.sha256(samples.astype("<u2").tobytes()).hexdigest()


def test_one_changed_pixel_outside_the_mask_breaks_it() -> None:
    source = echo()
    changed, mask = source.copy(), np.zeros(source.shape, np.bool_)
    mask[:10] = True
    changed[:10] = 0
    outside = OutsideDigest()
    outside.add(source, changed, mask)
    outside.hexdigest()
    changed[20, 30] ^= 1
    outside.add(source, changed, mask)
    with pytest.raises(CleaningFailed):
        outside.hexdigest()
