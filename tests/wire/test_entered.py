"""A running node takes over a peer that a person entered, without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.config import loading
from dicom_node.services import entered
from tests.modality import ultrasound
from tests.node_lab import Node, running, store, wait_until

pytestmark = pytest.mark.timeout(300)


def test_a_modality_that_was_entered_may_send_at_once_and_after_a_restart(tmp_path: Path) -> None:
    config = (
        '[spool]\nminimum_free_mib = 1\n[workers]\nprocesses = 0\n[[peers]]\nname = "a"\nae_title = "A"\n'
    )
    with running(Node(tmp_path, config)) as node:
        assert store(node.port, [ultrasound("none")], "US2") == [None]
        settings = loading.load([node.config])
        entered.save(settings, "peers", {"name": "us2", "ae_title": "US2", "may": ["send"]})
        assert entered.apply(settings) == 1
        wait_until(lambda: "[6010]" in node.log.read_text(), 60, "taken over")
        assert store(node.port, [ultrasound("one")], "US2") == [0]
        (tmp_path / "var" / "entered.toml").unlink()
        node.stop()
        node.start()
        assert store(node.port, [ultrasound("two")], "US2") == [0]
