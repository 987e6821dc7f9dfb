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


# Group of the entry point, text of the module, what is said of it.
STRANGE: dict[str, tuple[str, str | None, str]] = {
    "no-module": ("settings", None, "ModuleNotFoundError"),
    "a-missing-library": ("settings.peers", "import a_library_that_is_missing", "a_library_that_is_missing"),
    "no-python": ("destinations", "def (", "SyntaxError"),
    "an-end": ("services", "raise SystemExit(3)", "SystemExit"),
    "another-name": ("checks", "", "AttributeError"),
    "cancelled": (
        "checks",
        "import asyncio\nraise asyncio.CancelledError('cut')",
        "CancelledError: cut",
    ),
    "without-text": ("checks", "class Mute(Exception):\n    __str__ = None\nraise Mute", "Mute"),
    "no-model": ("settings", "class Thing:\n    x: int = 1", "no model of pydantic 2"),
    "no-class": ("settings.peers", "Thing = 7", "must be a class"),
    "no-annotation": ("settings", "from pydantic import BaseModel\nclass Thing(BaseModel):\n    x: 'Y'", "Y"),
    "a-key-of-ours": (
        "settings",
        "from pydantic import BaseModel\nclass Thing(BaseModel):\n    node: int",
        "is taken",
    ),
}


def install_strange(folder: Path, package: str) -> None:
    """Put the package's files where ``PYTHONPATH`` finds them."""
    group, text, _ = STRANGE[package]
    module = f"strange_{package.replace('-', '_')}"
    facts = folder / f"{module}-2.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.1\n")
    (facts / "entry_points.txt").write_text(f"[dicom_node.{group}]\n{module} = {module}:Thing\n")
    if text is not None:
        (folder / f"{module}.py").write_text(text)


@pytest.fixture(scope="module")
def said_of_strange(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What ``check`` and another command say where all strange connectors are installed."""
    folder = tmp_path_factory.mktemp("strange")
    for package in STRANGE:
        install_strange(folder, package)
    node = Node(folder / "node", site_config(104), alone=True)
    environment, said = {**os.environ, "PYTHONPATH": str(folder)}, []
    for words in (["check"], ["studies", "list"]):
        command = [sys.executable, "-m", "dicom_node", *words, "--config", str(node.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 78, done.stdout + done.stderr
        said.append(done.stdout + done.stderr)
    return said


@pytest.mark.parametrize("package", STRANGE)
def test_a_connector_that_cannot_be_imported_is_a_mistake_with_its_package(
    package: str, said_of_strange: list[str]
) -> None:
    [line] = [line for line in said_of_strange[0].splitlines() if f"{package} 2.1" in line]
    assert STRANGE[package][2] in line


def test_connectors_that_cannot_be_imported_stop_each_command_without_a_traceback(
    said_of_strange: list[str],
) -> None:
    assert f"mistakes ({len(STRANGE)})" in said_of_strange[1]
    assert [text for text in said_of_strange if "Traceback" in text] == []
