"""A program of test lines, and a finding that it may return."""

from collections.abc import Callable

from ai_pipeline.contract import PipelineResult

Run = Callable[..., PipelineResult]
FINDING = {
    "label": "Bright image",
    "code": {"value": "BRIGHT", "scheme": "99OURS", "meaning": "Bright image"},
    "decision": "present",
    "probability": 0.9,
    "threshold": 0.5,
    "regions": [{"type": "box", "points": [[10, 10], [40, 30]]}],
}
NAMED = {"model": "m", "version": "1"}
PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
files = sorted(source.iterdir())

def finding(**other):
    return {**GIVEN, **other}

def write(*findings, **other):
    (target / "findings.json").write_text(json.dumps({"findings": findings, **other}))
"""
