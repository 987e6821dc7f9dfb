"""A pipeline that fails while it is asked whether it takes a study: the PACS gets "AI did not run"."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.modality import ultrasound
from tests.node_lab import Node, rule, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.inbox.objects import changed
from tests.wire.test_foreign_packages import installed
from tests.wire.test_pipeline_packages import held, told

LIMITS = "attempts = 2\ntime_limit_seconds = 5\nmemory_mib = 1024"
PACKAGE = """
import os, time
from ai_pipeline.contract import PipelineCard

class P:
    card = PipelineCard(name="theirs", version="1", per_image=False)
    def warm_up(self): ...
    def models(self): return ()
    def accepts(self, images, options):
        getattr(self, images[0].header.body_part.lower())()
    def run(self, images, report, options): ...
    def ear(self): raise ValueError("Secret^Name")
    def eye(self): time.sleep(1000)
    def knee(self): self.hoard = [bytearray(2**26) for _ in range(2**10)]
    def hip(self): os._exit(7)
"""
REASONS = {
    "EAR": "ValueError in the pipeline",
    "EYE": "took longer than 5 s",
    "KNEE": "the analysis takes more memory than workers.memory_mib allows",
    "HIP": "its worker was lost",
}


def test_every_way_to_fail_before_the_acceptance_is_reported_to_the_pacs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed(tmp_path / "site", "theirs:P", PACKAGE)))
    pacs = Pacs(free_port())
    images = [changed(ultrasound(part), BodyPartExamined=part) for part in REASONS]
    config = site_config(pacs.port, rule("theirs"), processes=2, workers=LIMITS)
    with run_pacs(pacs), running(Node(tmp_path / "node", config)) as node:
        for image in images:
            assert store(node.port, [image], "US1") == [0x0000]
        node.wait_for(["delivered", "failed"], count=len(images))
        assert {job["state"] for job in node.cli("jobs", "list")} == {"failed"}
    reports = {str(report.StudyInstanceUID): told(report) for report in held(pacs)}
    for image, reason in zip(images, REASONS.values(), strict=True):
        text = reports[image.StudyInstanceUID]
        assert "AI did not run" in text and reason in text
        assert "Secret" not in text
