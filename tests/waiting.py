"""The one way in which tests wait: for a condition, and as long as something moves."""

import subprocess
import time
from collections.abc import Callable

import requests


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


def wait_until_served(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the server ``process`` answers at ``url``; fail at once if the process has ended."""

    def answers() -> bool:
        assert process.poll() is None, f"the server of {url} has ended"
        try:
            return requests.get(url, timeout=5).ok
        except requests.ConnectionError:
            return False

    wait_until(answers, 60, f"{url} answers")
