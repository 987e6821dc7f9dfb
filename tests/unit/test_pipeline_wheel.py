"""The distribution dicom-ai-pipeline: what lies in it, what it needs, and that it cleans without the node.

``make licences`` installs it into an empty environment; these tests need no network.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.empty_environment import VIRAL
from tests.unit.ai_pipeline.images.images_lab import SOURCE
from tests.unit.ai_pipeline.phantoms import write_dicom
from tests.wheels import ROOT, build, install

OWN = tomllib.loads((ROOT / "ai_pipeline" / "pyproject.toml").read_text("utf-8"))["project"]
NODE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEEDED = [Requirement(text) for text in [*OWN["dependencies"], *OWN["optional-dependencies"]["serve"]]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, of a copy of the folder."""
    return build(ROOT / "ai_pipeline", tmp_path_factory.mktemp("wheel"))


def closure() -> set[str]:
    """The names of all packages that an environment with it and its service holds."""
    found: set[str] = set()
    waiting = [(one.name, one.extras) for one in NEEDED]
    while waiting:
        name, extras = waiting.pop()
        if (name := canonicalize_name(name)) in found:
            continue
        found.add(name)
        for needed in map(Requirement, metadata.requires(name) or ()):
            environments = [{"extra": extra} for extra in (*extras, "")]
            if not needed.marker or any(needed.marker.evaluate(one) for one in environments):
                waiting.append((needed.name, needed.extras))
    return found


def licence(name: str) -> str:
    about = metadata.metadata(name)
    classes = [text for text in about.get_all("Classifier", []) if "License ::" in text]
    return about.get("License-Expression") or " ".join(classes) or (about.get("License") or "UNKNOWN")[:40]


def test_it_is_apache_as_its_weights_and_rules_are(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as inside:
        [about] = [name for name in inside.namelist() if name.endswith("METADATA")]
        assert "License-Expression: Apache-2.0\n" in inside.read(about).decode()
        texts = [name for name in inside.namelist() if name.endswith(".toml")]
        assert [name for name in texts if "GPL" in inside.read(name).decode()] == []
        [terms] = [name for name in inside.namelist() if name.endswith("licenses/LICENSE")]
        assert b"Apache License" in inside.read(terms)


def test_it_carries_every_module_card_rule_and_weight_and_nothing_of_the_node(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folder = ROOT / "ai_pipeline"
    kinds = ("**/*.py", "cards/*.toml", "weights/*", "burnin/devices/*.toml", "images/fonts/*", "py.typed")
    wanted = {str(path.relative_to(ROOT)) for kind in kinds for path in folder.glob(kind) if path.is_file()}
    assert inside == wanted


def test_its_version_command_and_pipelines_are_the_node_s() -> None:
    assert OWN["version"] == NODE["version"]
    assert OWN["scripts"]["ai-pipeline"] == NODE["scripts"]["ai-pipeline"]
    name = "ai_pipeline.pipelines"
    of_node = NODE["entry-points"][name].items()
    # Pipelines of connectors need the node.
    assert OWN["entry-points"][name] == {key: one for key, one in of_node if one.startswith("ai_pipeline.")}


def test_it_asks_for_packages_as_the_node_does() -> None:
    extras = NODE["optional-dependencies"]
    theirs = [Requirement(text) for text in [*NODE["dependencies"], *extras["ai"], *extras["serve"]]]
    known = {one.name: str(one.specifier) for one in theirs}
    assert {one.name: str(one.specifier) for one in NEEDED} == {one.name: known[one.name] for one in NEEDED}


def test_it_asks_for_all_that_it_imports() -> None:
    graph = grimp.build_graph("ai_pipeline", include_external_packages=True, cache_dir=None)
    tops = {name.partition(".")[0] for name in graph.modules} - {"ai_pipeline"} - sys.stdlib_module_names
    owners = metadata.packages_distributions()
    brought = closure()
    lacking = [top for top in tops if not brought & {canonicalize_name(name) for name in owners[top]}]
    assert lacking == []


def test_nothing_that_it_needs_is_under_a_gpl() -> None:
    brought = closure()
    assert len(brought) > 30
    assert {name: licence(name) for name in brought if VIRAL.search(licence(name))} == {}


ALONE = """
import sys
from importlib import metadata

found = metadata.Distribution.discover.__func__
metadata.Distribution.discover = classmethod(
    lambda cls, **how: (one for one in found(cls, **how) if not one.name.startswith("dicom-ai-node"))
)

class Refused:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {REFUSED}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refused())
"""
"""Nothing of the node is installed, as far as the process can see, and no module in REFUSED."""


def test_it_cleans_a_file_without_the_node_and_without_what_is_gpl(wheel: Path, tmp_path: Path) -> None:
    install(wheel, tmp_path / "packages")
    refused = {"dicom_node", "dicom_connectors", "pylibjpeg", "libjpeg", "ultralytics"}
    (tmp_path / "packages" / "sitecustomize.py").write_text(ALONE.replace("{REFUSED}", repr(refused)))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "packages")}

    def run(*words: str) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = run("-c", "import ai_pipeline; print(ai_pipeline.__file__)")
    assert place.startswith(str(tmp_path)), "it is the wheel that runs"
    source = write_dicom(tmp_path / "us.dcm", SOURCE[None])
    assert run("-m", "ai_pipeline", "--version") == f"ai-pipeline {OWN['version']}\n"
    row = json.loads(run("-m", "ai_pipeline", "run", str(source), "--out", "results", "--json"))
    assert row["reason"] is None
    assert "cleaned" in {image["kind"] for image in row["images"]}


def test_its_page_has_no_link_that_needs_a_checkout_and_names_its_extra() -> None:
    page = (ROOT / "ai_pipeline" / OWN["readme"]).read_text("utf-8")
    assert re.findall(r"\]\((?!https://)", page) == []
    assert "pip install 'dicom-ai-pipeline[serve]'" in page
