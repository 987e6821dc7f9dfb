#!/usr/bin/env python3
"""The console's viewer in a real browser: time to the first picture, and frames a second of a cine.

    benchmarks/viewer.py [--rounds N] [--seconds S]

    example: benchmarks/viewer.py --rounds 20

A film of 2,500 × 2,500 pixels of 16 bit and a colour cine of 640 × 480 with 60 frames, from a console of
this machine in Debian's chromium (package chromium). The first picture: from the request for the page until
the picture is decoded, each time without a cache. The cine is played once before it is timed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_node.model.roles import UserRole
from tests.browser_lab import debian_chromium, served, signed_in
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound
from tests.unit.console.illustrated import cine

FRAMES, RATE = 60, 30.0
TARGET_SECONDS = 0.3
SHOWN = """() => new Promise(done => {
  const picture = document.querySelector('.received'), seen = [];
  const watch = new MutationObserver(() => seen.push(performance.now()));
  watch.observe(picture, {attributes: true, attributeFilter: ['href']});
  document.querySelector('.play').click();
  setTimeout(() => done(seen), %d);
})"""


def main() -> int:
    """Measure and print a table in Markdown; 1 where a figure misses its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        node = Inbox(Path(folder) / "var")
        film = np.random.default_rng(1).integers(0, 4096, (2500, 2500)).astype("<u2")
        moving = cine(ultrasound("cine", size=(640, 480)))
        still = np.frombuffer(moving.PixelData, np.uint8)[: 640 * 480 * 3]
        moving.NumberOfFrames, moving.FrameTime = FRAMES, 1000 / RATE
        moving.PixelData = np.concatenate([np.roll(still, 1920 * k) for k in range(FRAMES)]).tobytes()
        node.receive(chest("film", film), moving)
        node.settle()
        with served(node) as address, debian_chromium() as chromium:
            page, _ = signed_in(chromium, address, UserRole.VIEWER)
            session = page.context.new_cdp_session(page)
            session.send("Network.setCacheDisabled", {"cacheDisabled": True})
            firsts = {
                name: _first(page, f"{address}/studies/images/{k}", given.rounds)
                for k, name in ((1, "film"), (2, "cine"))
            }
            session.send("Network.setCacheDisabled", {"cacheDisabled": False})
            rate = _played(page, f"{address}/studies/images/2", given.seconds)
        node.close()
    print("| | median | 95th percentile |\n|---|---|---|")
    for name, seconds in firsts.items():
        p95 = float(np.quantile(seconds, 0.95))
        median = statistics.median(seconds)
        print(f"| first picture of the {name} | {1000 * median:.0f} ms | {1000 * p95:.0f} ms |")
    print(f"| cine, frames a second (of {RATE:g} wanted) | {rate:.1f} | |")
    slow = max(statistics.median(seconds) for seconds in firsts.values()) > TARGET_SECONDS
    return 1 if slow or rate < RATE * 0.95 else 0


def _first(page: Page, address: str, rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        page.goto(address, wait_until="commit")
        page.wait_for_selector(".received", state="attached")
        page.evaluate("document.querySelector('.received').decode()")
        found.append(time.perf_counter() - began)
    return found


def _played(page: Page, address: str, seconds: float) -> float:
    page.goto(address)
    page.wait_for_selector(".play")
    page.evaluate(SHOWN % (1000 * (2 * FRAMES / RATE + 8)))  # all frames come
    page.click(".play")
    seen = page.evaluate(SHOWN % (1000 * seconds))
    return (len(seen) - 1) / (seen[-1] - seen[0]) * 1000


if __name__ == "__main__":
    raise SystemExit(main())
