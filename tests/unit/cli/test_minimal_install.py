"""``pip install .`` without extras: what is missing is said in one sentence, and a listener works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.ai_pipeline.phantoms import echo, write_dicom

HIDE = """
from importlib.machinery import PathFinder
HIDDEN = {"cv2", "onnxruntime", "rapidocr", "onnx", "safetensors", "torch", "sklearn", "skimage", "scipy"}
HIDDEN |= {"psycopg", "psycopg_binary", "psycopg2", "procrastinate"}
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *where: None if name.split(".")[0] in HIDDEN else find(name, *where)
)
"""


@pytest.fixture
def without_extras(tmp_path: Path) -> dict[str, str]:
    """The environment of an interpreter that does not find what the extras bring."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(HIDE)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "hide")}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def configuration(folder: Path, processes: int) -> Path:
    file = folder / "node.toml"
    file.write_text(
        f"""
node.data_dir = "{folder / "var"}"
listener.port = 0
spool.minimum_free_mib = 0
workers.processes = {processes}
peers = [{{ name = "pacs", ae_title = "PACS", host = "127.0.0.1", port = 9, may = ["send"] }}]
""".replace("listener.port = 0\n", "")
    )
    return file


@pytest.mark.parametrize("verb", ["check", "serve"])
def test_a_node_with_workers_says_what_to_install(
    tmp_path: Path, without_extras: dict[str, str], verb: str
) -> None:
    done = run(without_extras, "dicom_node", verb, "--config", str(configuration(tmp_path, 1)))
    assert done.returncode == 78
    assert "install '.[ai]'" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 6


def test_a_machine_without_workers_needs_no_extras(tmp_path: Path, without_extras: dict[str, str]) -> None:
    done = run(without_extras, "dicom_node", "check", "--config", str(configuration(tmp_path, 0)))
    assert "Traceback" not in done.stderr and "[ai]" not in done.stdout + done.stderr


def test_a_worker_and_the_pipelines_say_what_to_install(
    tmp_path: Path, without_extras: dict[str, str]
) -> None:
    worker = run(without_extras, "dicom_node.jobs.worker", "--config", str(configuration(tmp_path, 1)))
    image = write_dicom(tmp_path / "image.dcm", echo()[None])
    alone = run(without_extras, "ai_pipeline", "run", str(image), "--out", str(tmp_path / "out"))
    for done in (worker, alone):
        assert done.returncode == 78
        assert "install '.[ai]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["check", "serve", "db upgrade", "studies list"])
@pytest.mark.parametrize(
    ("scheme", "remedy"),
    [
        ("postgresql+psycopg", "pip install 'dicom-ai-node[postgres]'"),
        ("postgresql", "must begin with postgresql+psycopg://"),
    ],
)
def test_a_node_with_postgresql_says_what_to_install(
    tmp_path: Path, without_extras: dict[str, str], verb: str, scheme: str, remedy: str
) -> None:
    file = configuration(tmp_path, 0)
    url = f"node.database_url = '{scheme}://node:hunter2@127.0.0.1:9/node'\n"
    file.write_text(url + file.read_text())
    done = run(without_extras, "dicom_node", *verb.split(), "--config", str(file))
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert remedy in said and "Traceback" not in said and "hunter2" not in said


@pytest.mark.parametrize("page", ["docs/start/first-study.md", "docs/site.md"])
def test_the_extra_of_postgresql_is_named_where_it_is_needed(page: str) -> None:
    assert "postgres]'" in (Path(__file__).parents[3] / page).read_text(encoding="utf-8")
