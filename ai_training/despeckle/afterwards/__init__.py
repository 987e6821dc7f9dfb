"""How segmentation networks perform on frames with less speckle."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Filter = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""A picture 0 to 1 → the same with less speckle, of the same size."""
