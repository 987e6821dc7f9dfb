"""Pictures whose image area is known."""

import numpy as np

from ai_pipeline.burnin.find.annotation import Mask, Picture
from ai_pipeline.burnin.planning import RIM
from tests.unit.ai_pipeline.phantoms import echo, linear_echo

PICTURES = {"convex": echo(), "linear": linear_echo()}


# Width of the rim of the phantoms (pixels); what filling leaves there, at most (grey levels).
RIM_ROWS, MOST_IN_RIM = round(RIM * 360), 16


BACKGROUNDS = {"black": (0, 0, 0), "grey": (12, 12, 12), "blue": (18, 24, 48)}


def nothing(picture: Picture) -> Mask:
    return np.zeros(picture.shape[:2], np.bool_)
