"""What a node tells of its callers: refused contexts, strangers, and the lines that let them in."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.sender import Rejected, associate
from tests.node_lab import Node, running
from tests.peers import a_peer
from tests.waiting import wait_until
from tests.wire.receiver import EXPLICIT, US
from tests.wire.receiver import ultrasound as small_object

CT, MR, COMMITMENT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.20.1"
CONFIG = """
[spool]
minimum_free_mib = 1
[workers]
processes = 0
[[peers]]
name = "us1"
ae_title = "US1"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "192.0.2.9"
port = 104
may = ["receive"]
[[peers]]
name = "elsewhere"
ae_title = "ELSEWHERE"
host = "192.0.2.1"
check_address = true
[[peers]]
name = "storescu"
ae_title = "STORESCU"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with running(Node(tmp_path_factory.mktemp("node"), CONFIG)) as node:
        address = ("127.0.0.1", node.port)
        contexts = [(CT, [EXPLICIT]), (MR, [EXPLICIT]), (US, ["1.2.3"]), (COMMITMENT, [EXPLICIT])]
        for _ in range(2):
            associate(address, contexts, calling="US1").release()
        association = associate(address, [(US, [EXPLICIT])], calling="PACS")
        assert association.store(1, small_object(1)) == 0x0124
        association.release()
        for calling, called in [
            ("us1", "AINODE"),
            ("US1", "OTHER"),
            ("CT9", "AINODE"),
            ("ELSEWHERE", "AINODE"),
        ]:
            with pytest.raises(Rejected):
                associate(address, [(US, [EXPLICIT])], calling=calling, called=called)
        wait_until(lambda: len(node.events(1004)) == 4, 60, "events")
        yield node


def lines(found: dict[str, Any]) -> str:
    return "\n".join(line for advice in found["advice"] for line in advice["lines"])


def test_refused_contexts_leave_a_trace(node: Node) -> None:
    rows = [row for row in node.cli("associations", "list") if row["calling_ae"] == "US1"]
    assert [row["objects"] for row in rows] == [0, 0]
    for row in rows:
        assert row["refused"][:2] == [f"CT Image Storage ({CT})", f"MR Image Storage ({MR})"]
        assert "Ultrasound Image Storage" in row["refused"][2]
        assert "1.2.3" in row["refused"][2]
    assert "refused classes" in node.run("associations", "list").stdout


def test_a_peer_is_told_what_it_was_refused_and_which_lines_let_it_in(node: Node) -> None:
    found = node.cli("peers", "why", "us1")
    assert found["peer"] == "us1"
    assert len(found["associations"]) >= 2
    assert {row["context"].partition(" (")[0]: row["count"] for row in found["refused_contexts"]} == {
        "CT Image Storage": 2,
        "MR Image Storage": 2,
        "Ultrasound Image Storage": 2,
        "Storage Commitment Push Model SOP Class": 2,
    }
    assert {(row["calling_ae"], row["called_ae"]) for row in found["rejections"]} == {
        ("us1", "AINODE"),  # a title in other capitals is most likely its own
        ("US1", "OTHER"),
    }
    assert {"CT9", "PACS", "ELSEWHERE"} <= set(found["others"])
    told = lines(found)
    assert f'further_storage_classes = ["{CT}", "{MR}"]' in told
    assert 'further_ae_titles = ["OTHER"]' in told
    assert any("us1, which is not US1 (case counts)" in advice["says"] for advice in found["advice"])


def test_an_unknown_title_gets_the_lines_that_let_it_in_and_who_never_called_hears_so(node: Node) -> None:
    found = node.cli("peers", "why", "CT9")
    assert (found["peer"], found["associations"], found["refused_contexts"]) == (None, [], [])
    assert tomllib.loads(lines(found))["peers"] == [a_peer("ct9", host="127.0.0.1", may=["send"])]
    never = node.cli("peers", "why", "192.0.2.77")
    assert never["associations"] == []
    assert "nothing of it reached this node" in never["advice"][0]["says"]
    assert 'host = "0.0.0.0"' in lines(never)
    assert "0.0.0.0" in node.run("peers", "why", "192.0.2.77").stdout
