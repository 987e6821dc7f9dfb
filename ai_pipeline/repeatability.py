"""How far two measurements of an unchanged patient may lie apart, from measured agreement with a reader."""

import math


def repeatability(limits: tuple[float, float], step: float) -> float:
    """The largest difference between two measurements at which they count as unchanged, rounded up to
    ``step``.

    ``limits``: the range that holds 95 % of the differences from a reader on test images. Half its width is
    1.96 standard deviations of one measurement (a constant bias cancels out), and a difference of two has √2
    of it (J. Bland, D. Altman, Stat Methods Med Res 1999).
    """
    low, high = limits
    return math.ceil(math.sqrt(2) * (high - low) / 2 / step) * step
