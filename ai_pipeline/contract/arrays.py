"""Points and arrays of the contract."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
PixelArray = npt.NDArray[np.generic]
