"""MONAI application packages: what their manifests ask for, from a folder and from an image."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ai_pipeline.errors import ProgramFailed
from ai_pipeline.images.decode import DicomImage
from ai_pipeline.pipelines import create, option_faults
from ai_pipeline.programs import container, package
from ai_pipeline.programs.package import Package
from tests.unit.ai_pipeline.programs.program_lab import NAMED

pytestmark = pytest.mark.usefixtures("scratch")

# As holoscan-cli 4.0.0 writes them.
APP: dict[str, Any] = {
    "apiVersion": "1.0.0",
    "command": '["python3", "/opt/holoscan/app"]',
    "environment": {
        "HOLOSCAN_APPLICATION": "/opt/holoscan/app",
        "HOLOSCAN_INPUT_PATH": "/var/holoscan/input",
        "HOLOSCAN_MODEL_PATH": "/opt/holoscan/models",
        "HOLOSCAN_CONFIG_PATH": "/var/holoscan/app.yaml",
    },
    "input": {"path": "input/", "formats": None},
    "output": {"path": "output/", "formats": None},
    "liveness": None,
    "sdk": "monai-deploy",
    "timeout": 0,
    "workingDirectory": "/var/holoscan",
}
PKG: dict[str, Any] = {
    "apiVersion": "1.0.0",
    "applicationRoot": "/opt/holoscan/app",
    "modelRoot": "/opt/holoscan/models",
    "models": {"spleen": "/opt/holoscan/models/spleen"},
    "resources": {"cpu": 1, "gpu": 0, "memory": "1Gi", "gpuMemory": "0", "sharedMemory": "64Mi"},
}
MAIN = """
import json, os, resource
from pathlib import Path
assert Path(os.environ["HOLOSCAN_APPLICATION"], "__main__.py").samefile(__file__)
assert "HOLOSCAN_CONFIG_PATH" not in os.environ, "the folder has none"
model = Path(os.environ["HOLOSCAN_MODEL_PATH"], "weights").read_text()
stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
assert (model, stack) == ("w", 32 << 20), (model, stack)
assert [str(file.relative_to(os.environ["HOLOSCAN_INPUT_PATH"]))
        for file in Path(os.environ["HOLOSCAN_INPUT_PATH"]).rglob("*.dcm")] == ["series1/1.dcm"]
Path(os.environ["HOLOSCAN_OUTPUT_PATH"], "findings.json").write_text('{"findings": []}')
"""
Unpacked = Callable[..., Path]


def bytes_of(manifest: dict[str, Any], **changes: object) -> bytes:
    return json.dumps(manifest | changes).encode()


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpacked:
    """Makes the folder of a package, with an interpreter beside it."""

    def make(
        place: str = "etc/holoscan", app: bytes = bytes_of(APP), pkg: bytes | None = bytes_of(PKG)
    ) -> Path:
        root = tmp_path / "package"
        for folder in (place, "opt/holoscan/app", "opt/holoscan/models", "bin"):
            (root / folder).mkdir(parents=True)
        (root / place / "app.json").write_bytes(app)
        if pkg is not None:
            (root / place / "pkg.json").write_bytes(pkg)
        (root / "opt/holoscan/app/__main__.py").write_text(MAIN)
        (root / "opt/holoscan/models/weights").write_text("w")
        (root / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (root / "bin/python3").chmod(0o755)
        return root

    return make


def run(root: Path, image: DicomImage, **options: object) -> Any:
    chosen = {"package": str(root), "layout": "map", **NAMED, **options}
    return create("command").run([image], lambda *_: None, chosen)


@pytest.mark.parametrize("place", ["etc/holoscan", "etc/monai", "."])
def test_a_package_runs_from_its_folder_as_its_manifests_say(
    unpacked: Unpacked, image: DicomImage, place: str
) -> None:
    assert run(unpacked(place), image).models


def test_other_weights_or_another_application_are_another_model(
    unpacked: Unpacked, image: DicomImage
) -> None:
    root = unpacked()
    hashes = [run(root, image).models[0].sha256]
    hashes.append(run(root, image).models[0].sha256)
    (root / "opt/holoscan/models/further").write_text("x")
    hashes.append(run(root, image).models[0].sha256)
    assert hashes[0] == hashes[1]
    assert hashes[1] != hashes[2]


def faults(root: Path, **options: object) -> dict[str, str]:
    return option_faults(create("command"), {"package": str(root), "layout": "map", **NAMED, **options})


NEEDS = {
    "a GPU": ({"gpu": 1}, {}, "layout", "the package needs 1 GPU, and this machine has none"),
    "many processors": ({"cpu": 4096}, {}, "layout", "the package needs 4096 processors"),
    "memory": ({"memory": "7Gi"}, {}, "memory_mib", "must be at least 7168 MiB: the package needs them"),
    "memory in digits": ({"memory": 4 << 30}, {}, "memory_mib", "must be at least 4096 MiB"),
    "memory that is none": ({"memory": "a lot"}, {}, "layout", "resources.memory is no size"),
    "memory that it has": ({"memory": "7Gi"}, {"memory_mib": 8000}, "", ""),
}


@pytest.mark.parametrize("case", NEEDS)
def test_check_says_what_a_package_needs_and_does_not_get(
    unpacked: Unpacked, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    resources, options, option, told = NEEDS[case]
    monkeypatch.setattr(package, "_GPU", Path("/no/such/gpu"))
    root = unpacked(pkg=bytes_of(PKG, resources=resources))
    found = faults(root, **options)
    assert [*found] == [option] * bool(option)
    assert told in found.get(option, "")


HOSTILE = {
    "no JSON": (b"{", "app.json is no JSON"),
    "deep": (b"[" * 10**5, "app.json is no JSON"),
    "a list": (b"[]", "app.json: "),
    "no command": (b"{}", "app.json: command: Field required"),
    "a list that is none": (bytes_of(APP, command='["python3"'), "app.json: command: "),
    "an empty command": (bytes_of(APP, command=""), "app.json: command: "),
    "an open quote": (bytes_of(APP, command='python3 "'), "app.json: command: "),
    "very many words": (bytes_of(APP, command=["x"] * 300), "app.json: command: "),
    "numbers": (bytes_of(APP, command=[1]), "app.json: command: "),
    "a variable that is none": (bytes_of(APP, environment={"A=B": ""}), "app.json: environment: "),
    "an option in a path": (
        bytes_of(APP, input={"path": "/x,source=/etc"}),
        "app.json: input: String should match pattern",
    ),
    "a way out": (bytes_of(APP, output={"path": "../../etc"}), "app.json: output: "),
    "an endless run": (bytes_of(APP, timeout=-1), "app.json: timeout: "),
    "large": (b" " * (1 << 20) + b"{}", "app.json is larger than 1024 KiB"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_manifest_that_is_none_is_refused_in_one_line(unpacked: Unpacked, case: str) -> None:
    app, told = HOSTILE[case]
    root = unpacked(app=app)
    said = faults(root)["layout"]
    assert said.startswith(told)
    assert len(said) < 250


def test_a_folder_without_a_package_is_named(tmp_path: Path) -> None:
    assert "has no app.json" in faults(tmp_path)["layout"]


def test_a_package_without_its_layout_is_a_mistake(unpacked: Unpacked) -> None:
    assert faults(unpacked(app=bytes_of(APP, command="python3")), layout="numbered") == {
        "package": 'needs layout = "map"'
    }


def test_the_run_ends_by_the_shorter_limit(unpacked: Unpacked, image: DicomImage) -> None:
    root = unpacked(app=bytes_of(APP, command="python3 /opt/holoscan/app", timeout=1.5))
    (root / "opt/holoscan/app/__main__.py").write_text("import time; time.sleep(60)")
    with pytest.raises(ProgramFailed, match=r"took longer than its 1\.5 s"):
        run(root, image)


ENGINE = """#!{python}
import io, json, sys, tarfile
from pathlib import Path
words, place = sys.argv[1:], Path({place!r})
with open(place / "lines", "a") as lines: lines.write(json.dumps(words) + "\\n")
match words:
    case ["image", "inspect", *_]: print("sha256:" + "a" * 64)
    case ["create", *_]: print("c0ffee")
    case ["cp", path, "-"]:
        file = place / path.partition(":")[2].lstrip("/")
        if not file.exists(): sys.exit(1)
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as packed: packed.add(file, file.name)
    case ["run", *_]:
        ends = "target=/var/holoscan/output", "target=/tmp/output"
        [target] = [word for word in words if word.endswith(ends)]
        source = target.partition("source=")[2].partition(",")[0]
        Path(source, "findings.json").write_text('{{"findings": []}}')
"""


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """A stand-in for podman, which has one image; returns the command lines that it got."""
    place = tmp_path / "engine"
    (place / "bin").mkdir(parents=True)
    script = place / "bin" / "podman"
    script.write_text(ENGINE.format(python=sys.executable, place=str(place)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    container.package_of.cache_clear()
    return lambda: [json.loads(line) for line in (place / "lines").read_text().splitlines()]


def image_with(tmp_path: Path, place: str, app: bytes, pkg: bytes) -> None:
    folder = tmp_path / "engine" / place
    folder.mkdir(parents=True)
    (folder / "app.json").write_bytes(app)
    (folder / "pkg.json").write_bytes(pkg)


Lines = Callable[[], list[list[str]]]
CONTAINER = {"image": "spleen:1", "engine": "podman", **NAMED}


@pytest.mark.parametrize("place", ["etc/holoscan", "etc/monai"])
def test_an_image_runs_as_its_manifests_say(
    tmp_path: Path, image: DicomImage, lines: Lines, place: str
) -> None:
    image_with(tmp_path, place, bytes_of(APP), bytes_of(PKG))
    create("container").run([image], lambda *_: None, {**CONTAINER, "layout": "map"})
    [line] = [words for words in lines() if words[0] == "run"]
    assert line[-2:] == [f"sha256:{'a' * 64}", "/opt/holoscan/app"]
    assert {
        "--entrypoint=python3",
        f"--ulimit=stack={32 << 20}:{32 << 20}",
        "--env=HOLOSCAN_APPLICATION=/opt/holoscan/app",
        "--env=HOLOSCAN_INPUT_PATH=/var/holoscan/input",
        "--env=HOLOSCAN_MODEL_PATH=/opt/holoscan/models",
        "--network=none",
    } <= set(line)
    assert [word for word in line if word.endswith("target=/var/holoscan/input,readonly")]
    assert ["rm", "--force", "c0ffee"] in lines(), "the container that was made to look into the image"


def test_an_image_that_needs_a_gpu_is_refused_by_check(tmp_path: Path, lines: Lines) -> None:
    app = bytes_of(APP, command="python3")
    image_with(tmp_path, "etc/holoscan", app, bytes_of(PKG, resources={"gpu": 1}))
    found = option_faults(create("container"), {**CONTAINER, "layout": "map"})
    assert found == {"layout": "the package needs 1 GPU, and a container gets none here"}
    assert lines()


def test_an_image_without_manifests_is_no_package(lines: Lines) -> None:
    found = option_faults(create("container"), {**CONTAINER, "layout": "map"})
    assert "has no app.json in /etc/holoscan or /etc/monai" in found["layout"]
    assert lines()


def test_a_module_in_a_container_has_mercures_places(tmp_path: Path, image: DicomImage, lines: Lines) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    options = {**CONTAINER, "layout": "mercure", "persistence": str(kept), "environment": {"A": "b"}}
    create("container").run([image], lambda *_: None, options)
    [line] = [words for words in lines() if words[0] == "run"]
    assert {
        "--env=A=b",
        "--env=MERCURE_IN_DIR=/tmp/data",
        "--env=MERCURE_OUT_DIR=/tmp/output",
        "--env=MODULE_PERSISTENCE_DIR=/tmp/persistence",
        f"--mount=type=bind,source={kept},target=/tmp/persistence",
    } <= set(line)
    assert not [word for word in line if word.startswith("--entrypoint")]


def test_paths_of_a_package_are_looked_for_in_its_folder_alone(tmp_path: Path) -> None:
    found = Package.read(bytes_of(APP, command=["/bin/sh", "/opt/none"]), None, str(tmp_path))
    assert found.command() == ("/bin/sh", "/opt/none")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").write_text("")
    assert found.command() == (str(tmp_path / "bin" / "sh"), "/opt/none")
