"""A node without any connector: it serves, and knows no setting of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.modality import ultrasound
from tests.node_lab import Node, running, site_config, store

# Python runs it at its start, in the node and in all its child processes.
_NONE_INSTALLED = """
from importlib import metadata
found = metadata.entry_points
metadata.entry_points = lambda **which: metadata.EntryPoints(
    point for point in found(**which) if not point.value.startswith("dicom_connectors.")
)
"""


def test_a_node_serves_without_any_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NONE_INSTALLED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    node = Node(tmp_path / "node", site_config(104), alone=True)
    with running(node):
        assert store(node.port, [ultrasound("one", size=(48, 40))], "US1") == [0x0000]
    node.config.write_text(node.config.read_text() + '[telemetry]\nendpoint = "http://127.0.0.1"\n')
    refused = node.run("check")
    assert "telemetry" in refused.stderr + refused.stdout and refused.returncode == 78
