"""Which parts of a result may be shown and sent: all but findings for research only."""

from __future__ import annotations

from dataclasses import replace

from ai_pipeline.contract import Decision, Finding, PipelineResult


def without_research(result: PipelineResult) -> PipelineResult:
    """The result without findings that are for research only. ``scores`` stay whole: the node counts them.

    If one of several ``exclusive`` findings of an image is removed, the others keep their probability only if
    they are present: as all probabilities add up to 1, the rest would reveal the hidden one.
    """
    hidden = {
        (one.source_uid, one.model.id) for one in result.findings if one.research_only and one.exclusive
    }
    shown = (one for one in result.findings if not one.research_only)
    return replace(result, findings=tuple(_without_number(one, hidden) for one in shown))


def _without_number(finding: Finding, hidden: set[tuple[str, str]]) -> Finding:
    tells = finding.exclusive and (finding.source_uid, finding.model.id) in hidden
    if not tells or finding.decision is Decision.PRESENT:
        return finding
    return replace(finding, probability=None, threshold=None)
