"""Which boxes are drawn: none that the map of its finding contradicts."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.explain import Activation
from ai_pipeline.chest.places import contradicted
from ai_pipeline.contract import Code, Origin, Region
from ai_pipeline.images.coordinates import Affine

PLEURA = Code("3120008", "SCT", "Pleura")
HEART = Code("80891009", "SCT", "Heart")
LEFT_IN_THE_PICTURE = Region("box", ((150.0, 650.0), (350.0, 790.0)), Origin.DETECTOR)


def anatomy() -> Anatomy:
    """Two lungs on a grid of 100, the middle between them at 50; the source image has 1000 pixels a side."""
    masks = np.zeros((3, 100, 100), np.bool_)
    masks[1, 20:80, 10:40] = True
    masks[2, 20:80, 60:90] = True
    return Anatomy(masks, Affine(10.0, 0.0, 0.0, 0.0, 10.0, 0.0), None)


def activation(share_on_the_right: float) -> Activation:
    """A map of 4 × 4 cells over an input of 200 pixels, a share of it right of the middle."""
    values = np.full((4, 4), 1 - share_on_the_right, np.float32)
    values[:, 2:] = share_on_the_right
    return Activation(values, 200, Affine(0.2, 0.0, 0.0, 0.0, 0.2, 0.0), 1000, 1000)


@pytest.mark.parametrize(
    ("share", "wrong"), [(0.0, False), (0.5, False), (0.6, False), (0.7, True), (1.0, True)]
)
def test_a_box_on_the_other_side_than_most_of_its_map_is_not_drawn(share: float, wrong: bool) -> None:
    assert contradicted(activation(share), anatomy(), PLEURA, LEFT_IN_THE_PICTURE) is wrong


def test_a_heart_lies_on_both_sides_and_a_finding_without_a_map_is_not_contradicted() -> None:
    assert not contradicted(activation(1.0), anatomy(), HEART, LEFT_IN_THE_PICTURE)
    assert not contradicted(None, anatomy(), PLEURA, LEFT_IN_THE_PICTURE)
