"""The most probable findings of a study on its page, from the report that a job made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint

from ai_pipeline import pipelines
from ai_pipeline.contract import Code, Decision, Finding, PipelineResult, Progress, SourceImage
from dicom_node.model.roles import UserRole
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import Obedient, configuration, work

PRESENT, UNSURE, ABSENT = Decision.PRESENT, Decision.INDETERMINATE, Decision.ABSENT
SCORES = {  # by the image's columns
    240: {"Mass": (0.31, ABSENT), "Nodule": (0.9, PRESENT), "Hernia": (0.05, ABSENT), "<b>": (0.45, UNSURE)},
    200: {"Mass": (0.62, PRESENT), "Nodule": (0.2, ABSENT), "Hernia": (0.04, ABSENT), "<b>": (0.3, ABSENT)},
}


class Ranked(Obedient):
    """Scores four findings in each image."""

    card = replace(Obedient.card, name="ranked")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        found = super().run(images, report, options)
        pairs = zip(images, found.findings, strict=True)
        return replace(found, findings=tuple(row for pair in pairs for row in _scored(*pair)))


def _scored(image: SourceImage, mark: Finding) -> Iterator[Finding]:
    for name, (score, decision) in SCORES[image.header.columns].items():
        code = Code(name[:3].upper().strip("<>"), "99TEST", name)
        regions = mark.regions if decision is PRESENT else ()
        yield replace(mark, label=name, code=code, probability=score, decision=decision, regions=regions)


def test_the_page_shows_the_three_highest_scores_with_their_cut_offs(inbox: Inbox) -> None:
    pipelines.PIPELINES["ranked"] = EntryPoint("ranked", f"{__name__}:Ranked", pipelines.GROUP)
    made = configuration()
    made["rules"][0] |= {"pipeline": "ranked", "options": {}}
    node = Inbox(inbox.folder, made)
    node.opened("one")
    node.receive(ultrasound("one"), ultrasound("one", number=2, size=(200, 180)), association="one")
    node.released("one")
    node.settle()
    work(node)
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    browser.get("/studies/1")
    [shown] = re.findall(r"<p>Highest scores of (.*?)</p>", browser.text, re.DOTALL)
    assert re.sub(r"</?(?:b|small)>", "", shown) == (
        "obedient 1: Nodule 0.9 suspected, cut-off 0.5 · Mass 0.62 suspected, cut-off 0.5 · "
        "&lt;b&gt; 0.45 not excluded, cut-off 0.5"
    )
