"""The parts of ``docs/reference`` on what the console answers to programs: its REST API and its metrics."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from dicom_console.app import FACES
from dicom_console.views.metrics import Durations

ROOT = Path(__file__).resolve().parents[1]
METRICS = [ROOT / "dicom_console" / "views" / "metrics.py", *ROOT.glob("dicom_connectors/*/connector.py")]
Row = tuple[str, ...]


def rest_rows() -> list[Row]:
    """Method, address, least role and what it does, in the order of the console's own routes."""
    return [
        (
            f"`{method} {route.path}`",
            f"`{route.endpoint.needs}`",
            (route.endpoint.__doc__ or "").strip().partition("\n\n")[0].replace("``", "`"),
        )
        for faces in FACES
        for route in faces.programs.routes
        for method in sorted(route.methods)
    ]


def metric_rows() -> list[Row]:
    """Name, labels and meaning: gauges from the calls that make them, histograms from their registry."""
    return [*sorted(_gauges()), *_histograms()]


def _gauges() -> Iterator[Row]:
    for node in chain.from_iterable(
        ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in METRICS
    ):
        match node:
            case ast.Call(ast.Name("_states"), [ast.Constant(name), ast.Constant(about), *_]):
                yield f"`dicom_node_{name}`", "state", about
            case ast.Call(ast.Name("Gauge"), [ast.Constant(name), ast.Constant(about), _, *labels]):
                yield f"`dicom_node_{name}`", "machine, place, process" if labels else "", about


def _histograms() -> Iterator[Row]:
    for family in Durations().registry.collect():
        labels = "peer, rule, modality" if "turnaround" in family.name else "rule, modality"
        yield f"`{family.name}`", labels, f"{family.documentation} (histogram)"
