"""One image, and programs of test lines that run on it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_pipeline.contract import PipelineResult
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.ai_pipeline.programs.program_lab import FINDING, PROGRAM, Run


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where folders for programs are made; none is left, whatever happened."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def image(tmp_path: Path) -> DicomImage:
    return open_dicom(write_dicom(tmp_path / "image.dcm", echo()[None]))


@pytest.fixture
def run(tmp_path: Path, image: DicomImage) -> Run:
    """Runs a program of these lines on one image."""

    def run(code: str, report: Any = lambda _share, _what: None, **options: object) -> PipelineResult:
        script = tmp_path / "program.py"
        script.write_text(f"GIVEN = {dict(FINDING, source_uid=image.uid)!r}\n{PROGRAM}\n{code}")
        command = [sys.executable, str(script), "{input}", "{output}"]
        chosen = {"command": command, "model": "bright", "version": "2", **options}
        return create("command").run([image], report, chosen)

    return run
