"""A list and a retry import only what they use: most of their time is imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"alembic", "numpy", "onnxruntime", "PIL", "psycopg", "pydicom", "pynetdicom", "requests", "torch"}
PROGRAM = """
import sys
from dicom_node import cli
try:
    cli.main(sys.argv[1:])
finally:
    print("LOADED", *sorted(sys.modules))
"""


@pytest.mark.parametrize(
    ("words", "noun"), [("studies list", "studies"), ("events list", "events"), ("jobs retry 3", "jobs")]
)
def test_a_list_imports_neither_pydicom_nor_other_nouns(filled: Path, words: str, noun: str) -> None:
    command = [sys.executable, "-c", PROGRAM, *words.split(), "--config", str(filled)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert HEAVY & {name.partition(".")[0] for name in loaded} == set()
    assert "dicom_node.store.tables" in loaded  # it did its work
    nouns = {name for name in loaded if name.startswith("dicom_node.cli.") and name.count(".") == 3}
    assert {name for name in nouns if ".common." not in name} == {f"dicom_node.cli.records.{noun}"}


def test_help_imports_neither_the_database_nor_a_library_of_images() -> None:
    command = [sys.executable, "-c", PROGRAM, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.rpartition("LOADED")[2].split()}
    assert "dicom_node" in loaded and (HEAVY | {"sqlalchemy", "ai_pipeline"}) & loaded == set()
