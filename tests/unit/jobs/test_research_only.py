"""What a pipeline calls research only neither leaves the node nor is shown by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ai_pipeline.contract import (
    Accept,
    Code,
    Decision,
    Finding,
    ModelRef,
    PipelineCard,
    PipelineResult,
    SourceImage,
)
from dicom_node.jobs.worker.analyse import ImageAnalysis
from tests.result_images import US, source, speckle, write_image

MODEL = ModelRef("m", "1", "a" * 64, "b" * 64)


class Says:
    """Finds two things in every image, one for research only."""

    card = PipelineCard(name="says", version="1", per_image=False)

    def warm_up(self) -> None:
        """Nothing to load."""

    def models(self) -> tuple[ModelRef, ...]:
        return (MODEL,)

    def accepts(self, images: Sequence[SourceImage], options: Mapping[str, object] = {}) -> Accept:
        return Accept(tuple(image.uid for image in images))

    def run(
        self, images: Sequence[SourceImage], report: Any, options: Mapping[str, object]
    ) -> PipelineResult:
        code = Code("1", "99TEST", "a finding")
        found = [
            Finding(
                label, code, 0.9, 0.5, Decision.PRESENT, image.uid, MODEL, research_only=label == "hidden"
            )
            for image in images
            for label in ("shown", "hidden")
        ]
        return PipelineResult(tuple(found), models=(MODEL,))


class KeepsNothing:
    """Takes no readings away."""

    def take(self, *asked: Any) -> Any:
        return asked[-1]


def test_findings_for_research_only_stay_in_the_worker(tmp_path: Path) -> None:
    image = source(write_image(tmp_path / "us.dcm", US, speckle()))
    nothing: Any = KeepsNothing()
    analysed = ImageAnalysis(nothing, nothing, nothing).run(Says(), [image], {}, lambda share, what: None)
    assert [finding.label for finding in analysed.result.findings] == ["shown"]
