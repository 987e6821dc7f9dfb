"""The report's conclusion in words: what was found and what was not, and how burned-in text was handled.

Names without numbers: each number stands once, in its measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ai_pipeline.contract import BURNED_IN, Decision, Finding, Measurement, PipelineResult, QualityNote
from ai_pipeline.images.render import CATEGORIES, UNSURE, assesses
from dicom_node.results.common.context import NOT_HERE
from dicom_node.results.common.source import Source
from dicom_node.results.common.tracked import of_source, ranked

_DECIDED: Final = {
    Decision.PRESENT: "present",
    Decision.INDETERMINATE: "undetermined",
    Decision.ABSENT: "not found",
}
# Notes on how far the findings go, of an image or of all.
_OF_FINDINGS: Final = frozenset({UNSURE, "operating point", "not assessed", NOT_HERE})
# Notes on the cleaning of an image that a reader has to know: what went, what stayed, what to beware of.
_OF_CLEANING: Final = frozenset(
    {"burned_in", "kept", "blacked_out", "over_lesion", "side_marker", "cleaning_failed", "overlay_planes"}
)


def conclusion(sources: Sequence[Source], result: PipelineResult) -> str:
    """One paragraph on all images of the report; images with the same sentence are named together."""
    found = _grouped((source, _findings(source, result)) for source in sources)
    measured = _grouped((source, _measured(source, result.measurements)) for source in sources)
    cleaned = _grouped((source, _cleaning(source, result.quality)) for source in sources)
    limits = _grouped((source, _limits(result.quality, source.uid)) for source in sources)
    parts = [f"AI: {part}." for part in found]
    parts += limits
    parts += [f"Measured: {part}." for part in measured]
    if cleaned:
        parts.append(f"Burned-in annotation: {'. '.join(cleaned)}.")
    if not assesses(result.findings, result.measurements):
        parts.append("This AI does not assess the images." if cleaned or result.findings else _NOTHING)
    return " ".join(filter(None, (*parts, _limits(result.quality, None))))


def remarks(source: Source, sources: Sequence[Source], notes: Iterable[QualityNote]) -> tuple[str, ...]:
    """Quality notes on an image; notes without an image go with the first of ``sources``."""
    mine = {source.uid, None} if source is sources[0] else {source.uid}
    elsewhere = _OF_CLEANING | _OF_FINDINGS
    return tuple(f"{n.name}: {n.text}" for n in notes if n.source_uid in mine and n.name not in elsewhere)


def is_unsure(source: Source, result: PipelineResult) -> bool:
    """Whether the model excludes nothing on this image."""
    return any(note.name == UNSURE and note.source_uid == source.uid for note in result.quality)


def reliabilities(findings: Sequence[Finding]) -> tuple[str, ...]:
    """One remark on how reliable these findings are (how many in 10 such calls are right).

    Empty where the reliability of none was measured.
    """
    parts = [
        f"{finding.name} {CATEGORIES[finding.decision]}: {finding.reliability}"
        for finding in ranked(findings)
        if finding.reliability
    ]
    return (f"reliability: {'; '.join(parts)}.",) if parts else ()


_NOTHING: Final = "AI: nothing stated about the images."


def _grouped(sentences: Iterable[tuple[Source, str]]) -> list[str]:
    """Each sentence once, with the numbers of its images where there are several."""
    images: dict[str, list[int]] = {}
    pairs = list(sentences)
    for source, text in pairs:
        if text:
            images.setdefault(text, []).append(source.number)
    if len(pairs) == 1:
        return list(images)
    return [
        f"image{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}: {text}"
        for text, numbers in images.items()
    ]


def _findings(source: Source, result: PipelineResult) -> str:
    named: dict[Decision, list[str]] = {}
    for finding in ranked(of_source(source, result.findings)):
        if finding.code != BURNED_IN:
            named.setdefault(finding.decision, []).append(finding.name)
    # "Not found" would say more than a model knows that excludes nothing on this image.
    words = {**_DECIDED, Decision.ABSENT: "not suspected"} if is_unsure(source, result) else _DECIDED
    return "; ".join(f"{words[decision]}: {', '.join(dict.fromkeys(n))}" for decision, n in named.items())


def _limits(notes: Iterable[QualityNote], uid: str | None) -> str:
    """What notes say of the findings of one image, or of all where ``uid`` is None."""
    mine = [note for note in notes if note.source_uid == uid and note.name in _OF_FINDINGS]
    return " ".join(f"{note.name.capitalize()}: {note.text}" for note in mine)


def _measured(source: Source, measurements: Sequence[Measurement]) -> str:
    return ", ".join(
        one.name for one in measurements if one.source_uid == source.uid and one.model is not None
    )


def _cleaning(source: Source, notes: Sequence[QualityNote]) -> str:
    mine = [note.text for note in notes if note.source_uid == source.uid and note.name in _OF_CLEANING]
    return "; ".join(text.rstrip(".") for text in mine)
