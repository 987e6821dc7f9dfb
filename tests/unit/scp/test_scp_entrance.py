"""Places for connections that wait, and counts of those that came to nothing."""

from __future__ import annotations

import pytest

from dicom_node.scp.connection import limits
from dicom_node.scp.entrance import OTHERS, Entrance, Failure, Failures, network


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_is_what_one_machine_cannot_choose(address: str, counts_as: str) -> None:
    assert network(address) == counts_as


def test_places_are_kept_for_peers() -> None:
    entrance = Entrance()
    entrance.know(["192.0.2.1"])
    strangers = [entrance.enter(f"10.0.{number}.1") for number in range(200)]
    assert sum(strangers) == limits.WAITING
    assert [entrance.enter("192.0.2.1") for _ in range(2)] == [True, True]
    entrance.leave("10.0.0.1")
    assert not entrance.enter("10.0.0.1")  # the peer has that place
    for _ in range(2):
        entrance.leave("192.0.2.1")
    assert entrance.enter("10.0.0.1")


def test_one_address_does_not_take_all_places() -> None:
    entrance = Entrance()
    assert sum(entrance.enter("10.0.0.1") for _ in range(200)) == limits.WAITING_OF_ONE_ADDRESS
    assert entrance.enter("10.0.0.2")


def test_failures_are_told_at_once_and_then_once_a_minute() -> None:
    now = [0.0]
    failures = Failures(lambda: now[0])
    failures.add("10.0.0.1", Failure.TOO_LATE)
    assert failures.due() == [("10.0.0.1", {Failure.TOO_LATE: 1})]
    for _ in range(3):
        failures.add("10.0.0.1", Failure.NO_PLACE)
    assert failures.due() == []
    now[0] = 60.0
    assert failures.due() == [("10.0.0.1", {Failure.NO_PLACE: 3})]
    assert failures.due() == []


def test_a_thousand_addresses_make_no_thousand_events() -> None:
    failures = Failures(lambda: 0.0)
    for number in range(5000):
        failures.add(f"10.{number >> 8}.{number & 255}.1", Failure.TOO_LATE)
    told = dict(failures.due())
    assert len(told) <= limits.ADDRESSES_A_MINUTE + 1
    assert sum(counts[Failure.TOO_LATE] for counts in told.values()) == 5000
    assert told[OTHERS][Failure.TOO_LATE] > 4000
    assert failures.due() == []


def test_an_address_is_listed_so_often_a_minute() -> None:
    now = [0.0]
    failures = Failures(lambda: now[0])
    assert sum(failures.may_list("10.0.0.1") for _ in range(200)) == limits.LISTED_A_MINUTE
    now[0] = 61.0
    assert failures.may_list("10.0.0.1")
