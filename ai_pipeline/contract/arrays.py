"""Points and arrays of the contract."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
PixelArray = npt.NDArray[np.generic]
Picture = npt.NDArray[np.uint8]
"""As displayed, ``[rows, columns]`` or RGB ``[rows, columns, 3]``."""
Grey = npt.NDArray[np.uint8]
"""As displayed, ``[rows, columns]``."""
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
