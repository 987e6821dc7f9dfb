"""The AE policy by itself: its decisions, and its way through a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.settings import Settings
from dicom_node.scp import statuses
from dicom_node.scp.contexts import VERIFICATION
from dicom_node.scp.policy import AEPolicy, Permission, PolicyFile, Proposal

US = "1.2.840.10008.5.1.4.1.1.6.1"


def policy(peers: tuple[dict[str, Any], ...] = (), **listener: Any) -> AEPolicy:
    return AEPolicy.from_settings(Settings.model_validate({"listener": listener, "peers": peers}))


def proposal(
    calling: str = "US1", called: str = "AINODE", address: str = "192.0.2.7", classes: tuple[str, ...] = (US,)
) -> Proposal:
    return Proposal(calling, called, address, classes)


US1 = {"name": "us1", "ae_title": "US1"}
EVERYTHING = {
    "tls": {"certificate": "c.pem", "private_key": "k.pem", "trusted": "ca.pem"},
    "further_ae_titles": ["AI2"],
    "further_storage_classes": ["1.2.3"],
}


@pytest.mark.parametrize("one", [policy(), policy((US1,), **EVERYTHING)])
def test_a_policy_comes_back_from_json_as_it_was(one: AEPolicy) -> None:
    assert AEPolicy.from_json(one.to_json()) == one


def test_a_new_file_is_read_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    policy().write(path)
    file = PolicyFile(path)
    policy((US1,)).write(path)
    assert file.current() == policy((US1,))
    path.write_text("{", encoding="utf-8")
    assert file.current() == policy((US1,))
    path.unlink()
    assert file.current() == policy((US1,))
    policy().write(path)
    assert file.current() == policy()
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]


def test_no_stranger_sends_under_the_title_of_the_console() -> None:
    one = policy(unknown_callers="accept")
    assert one.decide(proposal("STRANGER")) == Permission("", may_send=True)
    for title in ("CONSOLE", " CONSOLE "):
        assert one.decide(proposal(title)) == statuses.CALLING_AE_NOT_RECOGNISED
        assert one.decide(proposal(title, classes=(VERIFICATION,))) == Permission("", may_send=False)


def test_no_stranger_sends_under_the_title_of_a_peer_with_another_address() -> None:
    us1 = {**US1, "host": "192.0.2.1", "check_address": True}
    one = policy((us1,), unknown_callers="accept")
    assert one.decide(proposal("US1", address="192.0.2.1")) == Permission("us1", may_send=True)
    assert one.decide(proposal("US1", address="192.0.2.7")) == statuses.CALLING_AE_NOT_RECOGNISED


def test_a_peer_may_send_only_if_configured_to() -> None:
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104, "may": ["receive"]}
    one = policy((US1, pacs))
    assert one.decide(proposal("US1")) == Permission("us1", may_send=True)
    assert one.decide(proposal("PACS")) == Permission("pacs", may_send=False)


def test_of_peers_with_one_title_the_one_that_may_send_counts() -> None:
    receiver = {"name": "r", "ae_title": "US1", "host": "h", "port": 104, "may": ["receive"]}
    assert policy((receiver, US1)).decide(proposal("US1")) == Permission("us1", may_send=True)


def test_padding_of_titles_does_not_count() -> None:
    assert policy((US1,)).decide(proposal("US1 ")) == Permission("us1", may_send=True)


@pytest.mark.parametrize(
    ("host", "address", "accepted"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("localhost", "127.0.0.1", True),
        ("no.such.host.invalid", "192.0.2.7", False),
        ("2001:db8::1", "2001:db8:0::1", True),
    ],
)
def test_the_address_counts_where_it_is_asked_for(host: str, address: str, accepted: bool) -> None:
    peer = US1 | {"host": host, "check_address": True}
    verdict = policy((peer,)).decide(proposal(address=address))
    assert isinstance(verdict, Permission) == accepted
    assert isinstance(policy((US1 | {"host": host},)).decide(proposal(address=address)), Permission)


@pytest.mark.parametrize(
    ("classes", "echo_from", "accepted"),
    [
        ((VERIFICATION,), "anyone", True),
        ((VERIFICATION,), "peers", False),
        ((VERIFICATION, US), "anyone", False),
        ((US,), "anyone", False),
        ((), "anyone", False),
    ],
)
def test_an_unknown_caller_may_at_most_verify(
    classes: tuple[str, ...], echo_from: str, accepted: bool
) -> None:
    verdict = policy(echo_from=echo_from).decide(proposal("STRANGER", classes=classes))
    assert verdict == (Permission("", may_send=False) if accepted else statuses.CALLING_AE_NOT_RECOGNISED)


def test_limits_hold_per_peer_and_for_all() -> None:
    one = replace(policy((US1 | {"maximum_associations": 2},)), maximum_associations=3)
    us1, unknown = Permission("us1", may_send=True), Permission("", may_send=False)
    assert one.has_room(us1, {"us1": 1}, 0)
    assert not one.has_room(us1, {"us1": 2}, 0)
    assert one.has_room(unknown, {"us1": 2}, 0)
    assert not one.has_room(unknown, {"us1": 2, "": 1}, 0)


@pytest.mark.parametrize(("may_send", "of_one_address", "of_all"), [(False, 3, 10), (True, 20, 50)])
def test_strangers_leave_places_to_peers_and_to_each_other(
    may_send: bool, of_one_address: int, of_all: int
) -> None:
    one, stranger = policy((US1,)), Permission("", may_send=may_send)
    assert one.has_room(stranger, {"": of_all - 1}, of_one_address - 1)
    assert not one.has_room(stranger, {"": of_one_address}, of_one_address)
    assert not one.has_room(stranger, {"": of_all}, 0)
    assert one.has_room(Permission("us1", may_send=True), {"": of_all}, 0)
