"""Did the machine get through? A real node is called in wrong ways, and says what happened and what to do."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sender import Rejected, associate
from dicom_node.events import ASSOCIATION_ACCEPTED
from tests.node_lab import Node, running, wait_until
from tests.wire.receiver import EXPLICIT, US, receiving, ultrasound

CT, MR, COMMITMENT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.20.1"
VERIFICATION = "1.2.840.10008.1.1"
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
        assert association.store(1, ultrasound(1)) == 0x0124
        association.release()
        wrong = [("us1", "AINODE"), ("US1", "OTHER"), ("CT9", "AINODE"), ("ELSEWHERE", "AINODE")]
        for calling, called in wrong:
            with pytest.raises(Rejected):
                associate(address, [(US, [EXPLICIT])], calling=calling, called=called)
        wait_until(lambda: len(node.cli("events", "list", "--number", "1004")) == 4, 60, "events")
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
    assert "4 classes refused: dicom-node peers why US1" in node.run("associations", "list").stdout


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
    calls = {(row["calling_ae"], row["called_ae"]) for row in found["rejections"]}
    assert calls == {("us1", "AINODE"), ("US1", "OTHER")}  # a title in other capitals is most likely its own
    assert {"CT9", "PACS", "ELSEWHERE"} <= set(found["others"])
    told = lines(found)
    assert f'further_storage_classes = ["{CT}", "{MR}"]' in told
    assert 'further_ae_titles = ["OTHER"]' in told
    assert any("us1, which is not US1 (case counts)" in advice["says"] for advice in found["advice"])


def test_the_lines_for_an_unknown_title_let_it_in(node: Node) -> None:
    found = node.cli("peers", "why", "CT9")
    assert (found["peer"], found["associations"], found["refused_contexts"]) == (None, [], [])
    (advice,) = found["advice"]
    assert tomllib.loads("\n".join(advice["lines"]))["peers"] == [
        {"name": "ct9", "ae_title": "CT9", "host": "127.0.0.1", "may": ["send"]}
    ]


def test_each_title_that_called_from_an_address_is_answered_for_itself(node: Node) -> None:
    found = node.cli("peers", "why", "127.0.0.1")
    callers = {caller["asked"]: caller for caller in found["callers"]}
    assert callers.keys() == {"US1", "us1", "PACS", "CT9", "ELSEWHERE"}
    for title in ("US1", "PACS"):
        assert {row["calling_ae"] for row in callers[title]["associations"]} == {title}
    assert callers["PACS"]["refused_objects"][0]["status"] == "0124"
    assert callers["US1"]["refused_objects"] == []
    assert "check_address allows 192.0.2.1 only" in str(callers["ELSEWHERE"]["advice"])
    shown = node.run("peers", "why", "127.0.0.1").stdout
    assert "PACS is the peer pacs" in shown and "CT9 is no peer" in shown


def test_an_unknown_title_is_answered_with_the_known_ones(node: Node) -> None:
    for asked, expected in (("ct9", "did you mean CT9?"), ("nobody", "CT9, ELSEWHERE, PACS")):
        refused = node.run("peers", "why", asked)
        assert (refused.returncode, refused.stdout) == (66, "")
        assert expected in refused.stderr


def test_advice_that_a_success_has_outdated_is_dropped(node: Node) -> None:
    address = ("127.0.0.1", node.port)
    with pytest.raises(Rejected):
        associate(address, [(US, [EXPLICIT])], calling="PACS", called="OLD")
    wait_until(lambda: node.cli("peers", "why", "PACS")["rejections"], 60, "rejection")
    assert 'further_ae_titles = ["OLD"]' in lines(node.cli("peers", "why", "PACS"))
    associate(address, [(US, [EXPLICIT])], calling="PACS").release()
    wait_until(lambda: node.cli("peers", "why", "PACS")["rejections"][0]["outdated"], 60, "success")
    assert "OLD" not in str(node.cli("peers", "why", "PACS")["advice"])
    assert "got through" in node.run("peers", "why", "PACS").stdout


def test_a_sender_that_offers_all_that_it_knows_is_told_to_leave_it(node: Node) -> None:
    many = [(f"1.2.840.10008.5.1.4.1.1.9999.{number}", [EXPLICIT]) for number in range(40)]
    associate(("127.0.0.1", node.port), [*many, (US, [EXPLICIT])], calling="STORESCU").release()
    wait_until(lambda: node.cli("peers", "why", "STORESCU")["refused_contexts"], 60, "association")
    found = node.cli("peers", "why", "STORESCU")
    (row,) = found["refused_contexts"]
    assert (row["classes"], row["context"].count("9999")) == (40, 3)
    assert [advice["lines"] for advice in found["advice"]] == [[]]
    assert "40 classes refused: dicom-node peers why STORESCU" in node.run("associations", "list").stdout


def test_a_machine_that_never_called_is_told_so(node: Node) -> None:
    found = node.cli("peers", "why", "192.0.2.77")
    assert found["associations"] == []
    assert "nothing of it reached this node" in found["advice"][0]["says"]
    assert 'host = "0.0.0.0"' in lines(found)
    shown = node.run("peers", "why", "192.0.2.77")
    assert shown.returncode == 0
    assert "0.0.0.0" in shown.stdout


def test_a_person_reads_the_same(node: Node) -> None:
    shown = node.run("peers", "why", "US1").stdout
    for text in ("is the peer us1", "CT Image Storage", "OTHER", "further_storage_classes", "not recognized"):
        assert text in shown


def test_an_echo_that_anybody_may_send_outdates_no_advice(node: Node) -> None:
    address = ("127.0.0.1", node.port)
    with pytest.raises(Rejected):
        associate(address, [(US, [EXPLICIT])], calling="NEW")
    associate(address, [(VERIFICATION, [EXPLICIT])], calling="NEW").release()
    wait_until(lambda: node.run("peers", "why", "NEW").returncode == 0, 60, "association")
    wait_until(lambda: node.cli("peers", "why", "NEW")["associations"], 60, "echo")
    assert 'ae_title = "NEW"' in lines(node.cli("peers", "why", "NEW"))


def test_the_names_in_an_event_have_a_limit(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        private = [(f"1.2.840.113619.4.{number}", [EXPLICIT]) for number in range(90)]
        associate(receiver.address, [*private, (US, [EXPLICIT])]).release()
        (event,) = receiver.wait_for_event(ASSOCIATION_ACCEPTED)
        assert len(event.fields["refused"]) == 3 and event.fields["refused_count"] == 90
