"""An event-driven simulation of a site's queues: studies pass stations that have so many servers each."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Route = Sequence[tuple[str, float]]
"""The stations that one study passes, in their order, and the seconds of work that it is for each."""


@dataclass
class Station:
    """``servers`` that take the next study of one line; first come, first served."""

    servers: int
    work: float = 0.0  # seconds that all servers together were busy, or will be
    _free_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free_at = [0.0] * self.servers

    def take(self, now: float, seconds: float) -> float:
        """A study comes; when it is done. To be called in the order of time."""
        done = max(now, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, done)
        self.work += seconds
        return done


def simulate(arrivals: Sequence[tuple[float, Route]], stations: Mapping[str, Station]) -> list[float]:
    """Let all studies pass; the seconds from the arrival to the end of each, in their order."""
    events = [(at, number, 0) for number, (at, _) in enumerate(arrivals)]
    heapq.heapify(events)
    took = [0.0] * len(arrivals)
    while events:
        now, number, step = heapq.heappop(events)
        at, route = arrivals[number]
        if step == len(route):
            took[number] = now - at
            continue
        name, seconds = route[step]
        heapq.heappush(events, (stations[name].take(now, seconds), number, step + 1))
    return took


def poisson(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Times of a Poisson process of ``rate`` a second."""
    times, now = [], chance.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += chance.expovariate(rate)
    return times
