"""The report's conclusion: the short result of each image, and how burned-in text was handled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ai_pipeline.contract import Finding, PipelineResult, QualityNote
from ai_pipeline.summary import UNSURE, decided_in_words, result_lines
from dicom_node.results.common.context import BURNED_IN_HEAD, NOT_HERE
from dicom_node.results.common.source import Source
from dicom_node.results.common.tracked import ranked

# Notes on the cleaning of an image that a reader has to know: what went, what stayed, what to beware of.
_OF_CLEANING: Final = frozenset(
    {
        "burned_in",
        "kept",
        "in_doubt",
        "blacked_out",
        "over_lesion",
        "side_marker",
        "cleaning_failed",
        "overlay_planes",
    }
)


def conclusion(sources: Sequence[Source], result: PipelineResult) -> str:
    """The lines on all images of the report; images with identical lines are named together."""
    found = results_in_words(sources, result)
    cleaned = _grouped((source, _cleaning(source, result.quality)) for source in sources)
    burned_in = [f"{BURNED_IN_HEAD}{'. '.join(cleaned)}."] if cleaned else []
    parts = [*found, *purged_images(result), *burned_in]
    return "\r\n".join(parts)


def results_in_words(sources: Sequence[Source], result: PipelineResult) -> list[str]:
    """The short result of each image, with its lines; images with identical lines are named together."""
    return _grouped((source, _result(source, result)) for source in sources)


def purged_images(result: PipelineResult) -> list[str]:
    """Remarks on images of earlier jobs that have been deleted here since."""
    return [f"No longer here: {note.text}" for note in result.quality if note.name == NOT_HERE]


def remarks(source: Source, sources: Sequence[Source], notes: Iterable[QualityNote]) -> tuple[str, ...]:
    """Quality notes on an image; notes without an image belong to the first of ``sources``."""
    mine = {source.uid, None} if source is sources[0] else {source.uid}
    elsewhere = _OF_CLEANING | {NOT_HERE}
    behind = [note for note in notes if note.source_uid in mine and not note.on_faces]
    return tuple(f"{note.name}: {note.text}" for note in behind if note.name not in elsewhere)


def is_unsure(source: Source, result: PipelineResult) -> bool:
    """Whether the model cannot exclude any finding on this image."""
    return any(note.name == UNSURE and note.source_uid == source.uid for note in result.quality)


def reliabilities(findings: Sequence[Finding]) -> tuple[str, ...]:
    """One remark on how reliable these findings are (how many in 10 such calls are right).

    Empty if no reliability was measured.
    """
    parts = [
        f"{decided_in_words(finding)}: {finding.reliability}."
        for finding in ranked(findings)
        if finding.reliability
    ]
    return (f"reliability: {' '.join(parts)}",) if parts else ()


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


def _result(source: Source, result: PipelineResult) -> str:
    findings = [one for one in result.findings if one.source_uid == source.uid]
    measured = [one for one in result.measurements if one.source_uid == source.uid]
    notes = [one for one in result.quality if one.source_uid in {None, source.uid}]
    return "\r\n".join(result_lines(findings, measured, notes))


def _cleaning(source: Source, notes: Sequence[QualityNote]) -> str:
    mine = [note.text for note in notes if note.source_uid == source.uid and note.name in _OF_CLEANING]
    return "; ".join(text.rstrip(".") for text in mine)
