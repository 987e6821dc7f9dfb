"""A peer whose keys contradict each other, or that lacks a key that its tasks need."""

from typing import Any

import pytest
from pydantic import ValidationError

from dicom_node.base.config.peer import PeerSettings
from dicom_node.people import preflight
from tests.peers import a_peer

ADDRESS: dict[str, Any] = {"host": "pacs.example.org", "port": 104}
URL: dict[str, Any] = {"url": "https://pacs.example.org", "host": "", "port": None}


def peer(*may: str, **keys: Any) -> PeerSettings:
    return PeerSettings.model_validate(a_peer("pacs", may=may, **keys))


@pytest.mark.parametrize(
    ("may", "keys", "remedy"),
    [
        (["receive"], {"port": 104}, "host is missing: a peer that may receive"),
        (["receive"], {"transport": "orthanc"} | ADDRESS, "transport orthanc needs url"),
        (["receive"], {"mpps": True} | ADDRESS, "mpps is for peers"),
        (["receive"], {"silent_hours": 1} | ADDRESS, "silent_hours is for peers"),
        (["send"], {"missing_days": 1}, "missing_days is for peers"),
        (["query"], {"transport": "dicomweb"} | ADDRESS, "transport dicomweb needs url"),
        (["send", "query"], {"query_host": "x"}, "a peer that may be queried needs host and port"),
        (["query"], ADDRESS, "objects of a C-MOVE come to our listener"),
        (["query"], {"transport": "orthanc"} | ADDRESS, "objects of a C-MOVE come to our listener"),
        (["receive"], {"withdraw": "delete"} | ADDRESS, 'withdraw = "delete" is for peers'),
        (["send"], {"withdraw": "delete", "transport": "orthanc"} | URL, 'withdraw = "delete" is for peers'),
        (
            ["receive"],
            {"withdraw": "delete", "iocm": True, "transport": "orthanc"} | URL,
            'give iocm = true or withdraw = "delete"',
        ),
        (["send"], {"confirm": "commitment"}, 'confirm = "commitment" is for peers'),
        (
            ["receive"],
            {"confirm": "commitment", "transport": "orthanc"} | URL,
            'confirm = "commitment" is for peers',
        ),
        (["send"], {"commit_after": "delivered", "port": 104}, "commit_after is for peers"),
        (["receive"], {"commit_after": "delivered"} | ADDRESS, "commit_after is for peers"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    may: list[str], keys: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ValidationError, match=remedy):
        peer(*may, **keys)


@pytest.mark.parametrize(
    ("may", "keys"),
    [
        (["send"], {"mpps": True, "silent_hours": 1}),
        (["receive"], {"confirm": "commitment"} | ADDRESS),
        (["receive"], {"withdraw": "delete", "transport": "orthanc"} | URL),
        (["receive"], {"iocm": True} | ADDRESS),
        (["query"], {"transport": "dicomweb", "missing_days": 1} | URL),
        (["query"], {"retrieve": "get"} | ADDRESS),
        (["send", "query"], {"query_host": "x", "query_port": 104}),
        (["send"], {"commit_after": "delivered", "commitment_host": "x", "commitment_port": 104}),
    ],
)
def test_keys_that_fit_together_are_taken(may: list[str], keys: dict[str, Any]) -> None:
    assert peer(*may, **keys).may == tuple(may)


@pytest.mark.parametrize("value", [7, "x", ["x"], {"x": 1}])
def test_a_list_of_peers_or_rules_that_is_none_brings_no_second_mistake(value: Any) -> None:
    rule = {"name": "us", "when": {"modality": "US"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
    for data in ({"peers": value, "rules": [rule]}, {"rules": value}):
        assert len(preflight.check_data(data).problems) == 1
