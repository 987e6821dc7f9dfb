"""The short result of an image: one to three lines, the same in report, picture, console and message.

It must not mislead a person who reads nothing else: it makes only statements that the model may make, and
lists what was not assessed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Decision,
    Finding,
    Measurement,
    PipelineResult,
    QualityNote,
)

MOST: Final = 120
"""Characters of a line."""
UNSURE: Final = "unsure"
"""Name of the note on an image of which a model says no more than what it suspects. Its text, if it is for
all faces, comes first: a reader must not take silence on a sick film for comfort."""
NOT_ASSESSED: Final = "not assessed"
"""Name of the note whose ``names`` nobody looked for; one sentence stands for those of the whole result."""
NOTHING: Final = "this analysis states nothing about this image."
NO_CALL: Final = "No call on"
"""Before what was looked for, and is neither suspected nor "not found"."""
DECIDED: Final = {
    Decision.PRESENT: "suspected",
    Decision.INDETERMINATE: "not excluded",
    Decision.ABSENT: "not found",
}
"""What lists and pages say of one finding; the short result collects what is not excluded as "No call on"."""
HIGH: Final = "high certainty"
"""Certainty of calls of which at least nine of ten are right."""
RIGHT_HALF, RIGHT_MOSTLY = 0.5, 0.9
"""Shares of calls that are right from which certainty is moderate, and high."""

_SIDES: Final = {"L": "left ", "R": "right ", "": ""}


def certainty(right: float) -> str:
    """The certainty, in words, of positive calls if a share ``right`` of them, 0 to 1, is right."""
    if right >= RIGHT_MOSTLY:
        return HIGH
    return "moderate certainty" if right >= RIGHT_HALF else "low certainty"


def short_result(
    findings: Sequence[Finding], measurements: Sequence[Measurement], notes: Iterable[QualityNote]
) -> tuple[str, ...]:
    """The result of one image in words: at most three lines of at most :data:`MOST` characters. ``findings``,
    ``measurements`` and ``notes``: all of the image. First why the model is unsure, and the statements about
    measurements, then the findings by decision, then what was not assessed.
    """
    notes = list(notes)
    unsure = [note for note in notes if note.name == UNSURE]
    reasons = [note.text.rstrip(".") for note in unsure if note.on_faces]
    stated = _line([(text, []) for text in [*reasons, *_statements(measurements)]])
    of_patient = [finding for finding in findings if finding.code != BURNED_IN and not finding.research_only]
    decided = _line(_decided(of_patient, unsure=bool(unsure)))
    lines = [stated, decided] if stated or decided else [_without_patient(findings)]
    skipped = _skipped(notes)
    if skipped:
        lines.append(_line([("Not assessed:", skipped)]))
    first, *further = filter(None, lines)
    return (f"AI: {first}", *further)


def result_lines(
    findings: Sequence[Finding], measurements: Sequence[Measurement], notes: Iterable[QualityNote]
) -> list[str]:
    """The lines of :func:`short_result`, and the notes that must be read wherever the findings are."""
    notes = list(notes)
    further = [note.text for note in notes if note.on_faces and note.name != UNSURE]
    return [*short_result(findings, measurements, notes), *further]


def calls_of(measurements: Iterable[Measurement], notes: Iterable[QualityNote]) -> list[Code]:
    """What asks for a person's attention beside suspected findings, each once, in the order of the lines."""
    called = [*(note.call for note in notes), *(one.call for one in measurements)]
    return list(dict.fromkeys(filter(None, called)))


def comparison_line(on: str, numbers: Sequence[str], new: Sequence[str], gone: Sequence[str]) -> str:
    """One line of at most :data:`MOST` characters on the differences to the images of the day ``on``.

    ``numbers``: texts on measurements; ``new`` and ``gone``: names of findings that are suspected now and
    were not then, and the reverse.
    """
    said = [*numbers, *([] if new or gone or numbers else ["no change in what is suspected"])]
    head = f"Before, {on}{': ' if said else ''}{'; '.join(said)}"
    findings = [("Newly suspected:", list(new)), ("No longer suspected:", list(gone))]
    return _line([(head, []), *(one for one in findings if one[1])])


def decided_in_words(finding: Finding) -> str:
    """Side, name, decision and certainty in words: "left pleural effusion suspected, low certainty"."""
    sure = f", {finding.certainty}" if finding.certainty and finding.decision is Decision.PRESENT else ""
    if finding.exclusive and finding.decision is Decision.PRESENT:
        return f"suggested class: {named(finding)}{sure}"
    return f"{named(finding)} {DECIDED[finding.decision]}{sure}"


def named(finding: Finding) -> str:
    """A finding's side and name, in small letters: "left pleural effusion"."""
    name = finding.code.meaning
    small = name if name[:2].isupper() else name[:1].lower() + name[1:]
    return f"{_SIDES[finding.side]}{small}"


def measurement_text(measurement: Measurement) -> str:
    """A measurement's name and value in words: ``Cardiothoracic ratio 0.53``, ``Heart width 148 mm``."""
    if measurement.unit.value == "{ratio}":
        return f"{measurement.name} {measurement.value:.2f}"
    return f"{measurement.name} {measurement.value:.0f} {measurement.unit.meaning}"


_Sentence = tuple[str, list[str]]
"""A head and the names behind it; without names the head is the sentence."""


def _statements(measurements: Sequence[Measurement]) -> list[str]:
    """The statements about measurements; without any, the first two values that a model has measured."""
    return [measurement.statement for measurement in measurements if measurement.statement] or [
        measurement_text(measurement) for measurement in measurements if measurement.model is not None
    ][:2]


def _skipped(notes: Sequence[QualityNote]) -> list[str]:
    """What nobody looked for: the names of notes on this image, and "all else" for those on the result."""
    skipped = [note for note in notes if note.name == NOT_ASSESSED and note.names]
    names = [name for note in skipped if note.source_uid for name in note.names]
    return [*names, "all else"] if any(note.source_uid is None for note in skipped) else names


def _decided(findings: Sequence[Finding], *, unsure: bool) -> list[_Sentence]:
    """The sentences about findings, grouped by decision; if the model is ``unsure`` of the image, only what
    it suspects.
    """
    if any(one.exclusive for one in findings):
        # The class of classes that exclude each other: the others are not "excluded", and none may fit.
        present = [one for one in findings if one.decision is Decision.PRESENT]
        sure = f", {present[0].certainty}" if present and present[0].certainty else ""
        return [(f"Suggested class{sure}: {named(present[0])}" if present else "No class suggested", [])]
    suspected: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {NO_CALL: [], "Not found:": []}
    for one in findings:
        if one.decision is Decision.PRESENT:
            head = f"Suspected, {one.certainty}:" if one.certainty else "Suspected:"
            suspected.setdefault(head, []).append(named(one))
        elif not unsure:
            others["Not found:" if one.decision is Decision.ABSENT else NO_CALL].append(named(one))
    return [*suspected.items(), *((head, names) for head, names in others.items() if names)]


def _without_patient(findings: Sequence[Finding]) -> str:
    """The sentence for an image that has no finding about the patient."""
    if not findings:
        return NOTHING
    absent = [one.name for one in findings if one.decision is Decision.ABSENT]
    seen = f"no {absent[0].lower()} found" if absent else "burned-in annotation found"
    return f"{seen}; nothing else was looked for here."


def _line(sentences: Sequence[_Sentence]) -> str:
    """Join the sentences to one line. If it is too long, names at the end are replaced by their number."""
    line = ""
    for number, (head, names) in enumerate(sentences):
        left = sum(len(_counted(*one)) + 1 for one in sentences[number + 1 :])
        room = MOST - len("AI: ") - len(line) - (1 if line else 0) - left
        sentence = _sentence(head, names, room)
        if not line or names or len(sentence) <= room:  # a further number that does not fit is in its group
            line = f"{line} {sentence}".strip()
    return line if len(line) <= MOST - len("AI: ") else f"{line[: MOST - len('AI: ') - 3]}..."


def _sentence(head: str, names: Sequence[str], room: int) -> str:
    """Write ``head first, second and 3 more.`` in at most ``room`` characters."""
    known = list(dict.fromkeys(names))
    if not known:
        return f"{head}."
    whole = f"{head} {', '.join(known)}."
    if head == NO_CALL and len(known) > 1:
        whole = f"{head} {', '.join(known[:-1])} or {known[-1]}."
    if len(whole) <= room:
        return whole
    for count in range(len(known) - 1, 0, -1):
        text = f"{head} {', '.join(known[:count])} and {len(known) - count} more."
        if len(text) <= room:
            return text
    return _counted(head, known)


def _counted(head: str, names: Sequence[str]) -> str:
    """The shortest form of a sentence, with the number of ``names`` in place of them."""
    return f"{head} {len(names)} findings." if len(names) > 1 else f"{' '.join([head, *names])}."


def without_research(result: PipelineResult) -> PipelineResult:
    """Return the result without findings that are for research only. ``scores`` keeps those of all findings:
    the node counts them. If one of several ``exclusive`` findings of an image is removed, the others keep
    their probability only if they are present: all probabilities add up to 1, so the others would reveal the
    removed one.
    """
    hidden = {
        (one.source_uid, one.model.id) for one in result.findings if one.research_only and one.exclusive
    }
    findings = (
        replace(one, probability=None, threshold=None)
        if one.exclusive and (one.source_uid, one.model.id) in hidden and one.decision is not Decision.PRESENT
        else one
        for one in result.findings
        if not one.research_only
    )
    return replace(result, findings=tuple(findings))
