"""The simulation behind the sizing of a site answers as queueing theory does."""

from __future__ import annotations

import random

import pytest

from benchmarks.site.simulation import Station, poisson, simulate


@pytest.mark.parametrize(
    ("servers", "rate", "seconds"),
    # Mean time in M/M/c with service of mean 1: 1/(1 - rate) for one server, 1/(1 - (rate/2)^2) for two.
    [(1, 0.5, 2.0), (1, 0.8, 5.0), (2, 1.6, 1 / (1 - 0.64))],
)
def test_the_mean_time_in_a_station_is_that_of_theory(servers: int, rate: float, seconds: float) -> None:
    chance = random.Random(7)
    times = poisson(rate, 60_000 / rate, chance)
    took = simulate([(at, [("one", chance.expovariate(1))]) for at in times], {"one": Station(servers)})
    assert sum(took) / len(took) == pytest.approx(seconds, rel=0.1)


def test_stations_are_passed_in_turn_and_what_comes_first_is_served_first() -> None:
    stations = {"first": Station(1), "second": Station(1)}
    slow, quick = [("first", 2.0), ("second", 5.0)], [("second", 1.0)]
    took = simulate([(0.0, slow), (1.0, quick), (2.5, quick)], stations)
    assert took == [7.0, 1.0, 5.5]
    assert (stations["first"].work, stations["second"].work) == (2.0, 7.0)
