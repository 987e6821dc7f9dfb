"""Mutated data sets in the spool: each is indexed or quarantined, and the index goes on."""

from __future__ import annotations

import logging
import random
import resource
from pathlib import Path

import pytest

from dicom_node.model.kinds import Outcome
from tests.hostile.mutation import mutated
from tests.inbox_lab import Inbox, encoded
from tests.unit.inbox.objects import small_xray

_SEED = 20261121
_AT_ONCE = 100


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what it reads; the node logs none of it
def test_each_mutated_object_is_indexed_or_quarantined(
    tmp_path: Path, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dicom_node"), "disabled", True)
    monkeypatch.setattr(logging.getLogger("dicom_node.events"), "disabled", True)  # pytest would keep all
    chance = random.Random(_SEED)
    inbox = Inbox(tmp_path)
    good = small_xray("good")
    data, syntax = encoded(good), str(good.file_meta.TransferSyntaxUID)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for first in range(0, rounds, _AT_ONCE):
        count = min(_AT_ONCE, rounds - first)
        for number in range(first, first + count):
            # Only the header: what follows it is compared, not read.
            wrong = mutated(data[:1500], chance) + data[1500:]
            inbox.receive_bytes(wrong, str(good.SOPClassUID), f"1.2.826.0.1.{number}", syntax)
        inbox.index()
        assert inbox.spool.pending() == []
    inbox.receive(good)
    inbox.index()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 256 * 1024  # KiB
    outcomes = inbox.outcomes()
    assert len(outcomes) == rounds + 1
    assert set(outcomes) <= {outcome.value for outcome in Outcome}
    assert Outcome.QUARANTINED.value in outcomes
    inbox.close()
