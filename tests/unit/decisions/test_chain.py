"""The file of decisions: what is changed or cut out is named, a torn end is not."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dicom_node.decisions import copies


@pytest.fixture
def chain(tmp_path: Path) -> copies.DecisionChain:
    chain = copies.DecisionChain(tmp_path / "decisions" / "host.jsonl")
    for number in range(1, 6):
        append(chain, [f"d{number}"])
    return chain


def append(chain: copies.DecisionChain, ids: Sequence[str]) -> int:
    with chain.locked() as file:
        return len(file.append([{"id": one, "what": {}} for one in ids]))


def ids(chain: copies.DecisionChain) -> list[str]:
    return [line["id"] for line in chain.read().lines]


def raw(chain: copies.DecisionChain) -> list[bytes]:
    return chain.path.read_bytes().splitlines(keepends=True)


def test_what_was_written_is_read_and_only_its_owner_reads_it(chain: copies.DecisionChain) -> None:
    content = chain.read()
    assert ids(chain) == ["d1", "d2", "d3", "d4", "d5"]
    assert content.faults == []
    assert [line["n"] for line in content.lines] == [1, 2, 3, 4, 5]
    assert chain.path.stat().st_mode & 0o777 == 0o600
    assert chain.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_decision_that_is_written_twice_is_there_once(chain: copies.DecisionChain) -> None:
    assert append(chain, ["d4", "d5", "d6"]) == 1
    assert ids(chain)[3:] == ["d4", "d5", "d6"]


@pytest.mark.parametrize("keeps_hash", [True, False], ids=["as it is", "with a hash of its own"])
def test_a_changed_line_is_named_and_those_after_it_are_read(
    chain: copies.DecisionChain, keeps_hash: bool
) -> None:
    lines = raw(chain)
    changed = json.loads(lines[2])
    changed["id"] = "dX"
    if not keeps_hash:
        changed["sha256"] = copies._digest(changed)
    lines[2] = json.dumps(changed).encode() + b"\n"
    chain.path.write_bytes(b"".join(lines))
    [fault] = chain.read().faults
    assert fault.text == (
        "host.jsonl: line 3 was changed"
        if keeps_hash
        else "host.jsonl: a line before line 4 was changed or cut out"
    )
    assert ids(chain)[-2:] == ["d4", "d5"]
    assert chain.read().faults == [fault], "the same whenever it is looked at"


def test_a_line_that_was_cut_out_is_named(chain: copies.DecisionChain) -> None:
    lines = raw(chain)
    chain.path.write_bytes(b"".join(lines[:1] + lines[2:]))
    assert [fault.text for fault in chain.read().faults] == [
        "host.jsonl: a line before line 3 was changed or cut out"
    ]


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_torn_by_a_power_cut_is_no_fault_and_the_next_takes_its_place(
    chain: copies.DecisionChain, kept: int
) -> None:
    lines = raw(chain)
    chain.path.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    content = chain.read()
    assert (content.faults, len(content.lines)) == ([], 4)
    assert append(chain, ["d5", "d6"]) == 2, "what was torn was answered to nobody, and is written anew"
    assert (chain.read().faults, ids(chain)) == ([], ["d1", "d2", "d3", "d4", "d5", "d6"])


def test_words_are_sealed_and_come_back_under_the_same_key_only(tmp_path: Path) -> None:
    sealed = copies.seal(tmp_path, "that of Nowak", "1")
    assert "Nowak" not in sealed and copies.unseal(tmp_path, sealed, "1") == "that of Nowak"
    assert copies.unseal(tmp_path, sealed, "2") == copies.LOST, "not those of another decision"
    assert copies.unseal(tmp_path, "ü", "1") == copies.LOST, "somebody changed the line"
    (tmp_path / "keys" / "site.key").write_text("ab" * 32)
    assert copies.unseal(tmp_path, sealed, "1") == copies.LOST
