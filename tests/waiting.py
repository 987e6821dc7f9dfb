"""The one way in which tests wait: for a condition, and as long as something moves."""

import time
from collections.abc import Callable


def wait_until(
    holds: Callable[[], bool],
    seconds: float = 60,
    what: str = "",
    step: float = 0.05,
    shown: Callable[[], object] = lambda: "",
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Poll until ``holds``. Fail, naming ``what``, when ``progress`` has stayed the same for ``seconds``.

    Without ``progress`` that is a limit on the whole wait: make it generous, a slow machine is no fault.
    """
    seen, end = progress(), time.monotonic() + seconds
    while not holds():
        if time.monotonic() >= end:
            now = progress()
            assert now != seen, f"nothing moved for {seconds:.0f} s: {what} {shown()}"
            seen, end = now, time.monotonic() + seconds
        time.sleep(step)
