"""The notebook of examples/ runs, and what it reads is what the node builds."""

import io
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from pydicom import dcmread

from tests import example_lab
from tests.golden_lab import dump

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_notebook_draws_the_findings_of_the_report() -> None:
    notebook = nbformat.read(EXAMPLES / "read_sr.ipynb", as_version=4)
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}}
    ).execute()
    shown = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    printed = "".join(one.text for one in shown if one.output_type == "stream" and one.name == "stdout")
    assert "Suspected: nodule of lung. Not found: cardiomegaly." in printed
    assert "AI Nodule of lung 1, image 1 | Suspected | AI estimated probability" in printed
    assert "Cardiothoracic ratio: 0.41" in printed
    assert sum("image/png" in one.get("data", {}) for one in shown) == 1


def test_the_report_that_the_notebook_reads_is_what_the_node_builds() -> None:
    """Else: ``python -m tests.example_lab``."""
    assert dump(dcmread(example_lab.REPORT)) == dump(dcmread(io.BytesIO(example_lab.report())))
