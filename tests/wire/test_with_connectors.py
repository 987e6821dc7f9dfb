"""A node without any connector, and with one of the examples."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import ROOT
from tests.modality import ultrasound
from tests.node_lab import Node, running, site_config, store

# Connectors

# Python runs it at its start, in the node and in all its child processes.
_NONE_INSTALLED = """
from importlib import metadata
found = [point for one in metadata.distributions() for point in one.entry_points]
others = metadata.EntryPoints(point for point in found if not point.value.startswith("dicom_connectors."))
metadata.entry_points = lambda **which: others.select(**which)
"""


def test_a_node_serves_without_any_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NONE_INSTALLED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    node = Node(tmp_path / "node", site_config(104), alone=True)
    with running(node):
        assert store(node.port, [ultrasound("one", size=(48, 40))], "US1") == [0x0000]
    node.config.write_text(node.config.read_text() + '[telemetry]\nendpoint = "http://127.0.0.1"\n')
    command = [sys.executable, "-m", "dicom_node", "check", "--config", str(node.config)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "telemetry" in refused.stdout + refused.stderr
    assert refused.returncode == 78


_SEND = """
import sys
from pathlib import Path
from dicom_node.base.config.settings import PeerSettings, Settings
from dicom_node.deliver.scu import open_destination
from dicom_node.deliver.scu import Outgoing
folder, uid = Path(sys.argv[1]), "2.25.1"
peer = PeerSettings(name="x", ae_title="X", transport="folder", may=["receive"], folder=folder)
destination = open_destination(peer, Settings())
item = Outgoing("1.2", uid, "2.25.2", "2.25.3", Path(__file__), "")
print(destination.test(), destination.confirm([item]), destination.send([item]), destination.confirm([item]))
assert (folder / f"{uid}.dcm").read_bytes() == Path(__file__).read_bytes()
"""


def test_the_connector_of_the_examples_copies_to_a_folder(tmp_path: Path) -> None:
    root = ROOT
    example, facts = root / "examples" / "connectors" / "folder", tmp_path / "folder_connector-1.0.dist-info"
    facts.mkdir()
    groups = tomllib.loads((example / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in own.items()) for group, own in groups.items()
    ]
    (facts / "entry_points.txt").write_text("".join(lines))
    for file in example.glob("*.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "send.py").write_text(_SEND)
    command = [sys.executable, str(tmp_path / "send.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [word in done.stdout for word in ("ok=True", "NOT_FOUND", "STORED", "FOUND: 'found'")] == [
        True
    ] * 4


@pytest.mark.parametrize(
    ("group", "module", "why"),
    [
        ("settings", None, "ModuleNotFoundError"),
        ("settings.peers", "import a_library_that_is_missing", "a_library_that_is_missing"),
        ("destinations", "def (", "SyntaxError"),
        ("services", "raise SystemExit(3)", "SystemExit"),
        ("checks", "", "AttributeError"),
        ("checks", "import asyncio\nraise asyncio.CancelledError('cut')", "CancelledError: cut"),
        ("checks", "class Mute(Exception):\n    __str__ = None\nraise Mute", "Mute"),
        ("settings", "class Thing:\n    x: int = 1", "no model of pydantic 2"),
        ("settings.peers", "Thing = 7", "must be a class"),
        ("settings", "from pydantic import BaseModel\nclass Thing(BaseModel):\n    x: 'Y'", "Y"),
        ("settings", "from pydantic import BaseModel\nclass Thing(BaseModel):\n    node: int", "is taken"),
    ],
    ids=[
        "no module",
        "a missing library",
        "no Python",
        "an end",
        "another name",
        "cancelled",
        "without text",
        "no model",
        "no class",
        "no annotation",
        "a key of ours",
    ],
)
def test_a_connector_that_cannot_be_imported_is_a_mistake_with_its_package(
    tmp_path: Path, group: str, module: str | None, why: str
) -> None:
    facts = tmp_path / "strange_connector-2.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-connector\nVersion: 2.1\n")
    (facts / "entry_points.txt").write_text(f"[dicom_node.{group}]\nstrange = strange_connector:Thing\n")
    if module is not None:
        (tmp_path / "strange_connector.py").write_text(module)
    node = Node(tmp_path / "node", site_config(104), alone=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for words, told in ((["check"], ["strange-connector 2.1", why]), (["studies", "list"], ["mistakes (1)"])):
        command = [sys.executable, "-m", "dicom_node", *words, "--config", str(node.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        shown = done.stdout + done.stderr
        assert done.returncode == 78, shown
        assert [word for word in told if word not in shown] == []
        assert "Traceback" not in shown
