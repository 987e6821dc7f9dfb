"""The comparison of an image with an earlier one of the same patient, in words."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final

from ai_pipeline.contract import (
    Decision,
    Finding,
    Measurement,
    PipelineResult,
    QualityNote,
)
from ai_pipeline.summary import (
    UNSURE,
    comparison_line,
    named,
)
from dicom_node.results.context import PreviousImage, ResultContext
from dicom_node.results.located import patient_findings
from dicom_node.results.stated_report import StatedFinding, StatedNumber

COMPARED: Final = "compared"
"""Name of the note on an image with the comparison."""
SAME_PREGNANCY: Final = 210
"""Days: no two examinations of one pregnancy with a measurable head (from week ten) lie further apart."""


def comparison_notes(context: ResultContext, result: PipelineResult) -> list[QualityNote]:
    """A note for each image that can be compared with an earlier one; it is shown wherever the findings are
    shown.
    """
    day = context.study_day
    if day is None:
        return []
    return [
        QualityNote(COMPARED, line, uid, on_faces=True)
        for uid, previous in context.previous.items()
        if previous.on < day and (line := _comparison(result, uid, previous, day))
    ]


def compared_images(context: ResultContext, compared: Sequence[QualityNote]) -> list[PreviousImage]:
    """The earlier images that these notes on comparisons are about."""
    return [context.previous[note.source_uid] for note in compared if note.source_uid]


def comparison_parts(context: ResultContext, compared: Sequence[QualityNote]) -> tuple[str, ...]:
    """The texts that comparisons (``compared``) add to the UIDs of an object; () without comparisons."""
    uids = [
        one.SOPInstanceUID for pair in compared_images(context, compared) for one in (pair.report, pair.image)
    ]
    return (COMPARED, *(note.text for note in compared), *uids) if compared else ()


def _comparison(result: PipelineResult, uid: str, previous: PreviousImage, on: date) -> str:
    """The sentence that compares an image (``uid``) with a previous one; "" if nothing can be compared.

    ``on``: the date of the present study.
    """
    measured = [measurement for measurement in result.measurements if measurement.source_uid == uid]
    numbers = list(_number_changes(measured, previous, (on - previous.on).days))
    known = list(_findings_of_both(result, uid, previous))
    alike = [(now, was) for now, was in known if previous.same_options and _model_name(now) == was.model]
    if known and not alike:
        numbers.append("findings by another model or with other options, not compared")
    if not numbers and not alike:
        return ""
    new = [named(now) for now, was in alike if _is_suspected(now) and not _is_suspected(was)]
    gone = [named(now) for now, was in alike if _is_suspected(was) and not _is_suspected(now)]
    return comparison_line(previous.on.isoformat(), numbers, new, gone)


def _findings_of_both(
    result: PipelineResult, uid: str, previous: PreviousImage
) -> Iterator[tuple[Finding, StatedFinding]]:
    """Yield each finding of an image (``uid``) with that of the same name in the earlier report.

    None of a film of which the model is unsure: its silence is no change, and nothing that is gone.
    """
    if any(note.name == UNSURE and note.source_uid == uid for note in result.quality):
        return
    then = {finding.code: finding for finding in previous.findings}
    for now in patient_findings(result.findings):
        was = then.get((now.code.value, now.code.scheme))
        if was and now.source_uid == uid and not now.research_only:
            yield now, was


def _is_suspected(finding: Finding | StatedFinding) -> bool:
    """Whether the finding was reported as present."""
    return finding.decision is Decision.PRESENT


def _number_changes(measured: Sequence[Measurement], previous: PreviousImage, days: int) -> Iterator[str]:
    """Yield a text on each measurement that can be compared with the previous image: its error must be known,
    and no other measurement may have the same quantity.

    ``days``: days between the two studies.
    """
    for one in measured:
        code, unit = (one.quantity.value, one.quantity.scheme), (one.unit.value, one.unit.scheme)
        then = [was for was in previous.numbers if (was.code, was.unit) == (code, unit)]
        several = len([other for other in measured if other.quantity == one.quantity]) > 1 or len(then) > 1
        if one.error is None or one.model is None or not then or several:
            continue
        [was] = then
        name = one.name.lower()
        if was.model != _model_name(one):
            yield f"{name} by another model version, not compared"
        elif not one.fetus or (
            one.fetus == "1" and days <= SAME_PREGNANCY and one.value >= was.value - one.error
        ):
            yield f"{name} {_change_in_words(one, was)}"


def _change_in_words(now: Measurement, then: StatedNumber) -> str:
    """The previous value in words and, if the method's error is known, the difference of the values as shown.

    There is no judgement on the difference for a fetus, because it grows.
    """
    places, unit = (2, "") if now.unit.value == "{ratio}" else (0, f" {now.unit.meaning}")
    was = f"was {then.value:.{places}f}{unit}"
    if now.fetus or now.error is None:
        return was
    difference = round(round(now.value, places) - round(then.value, places), places)
    if abs(difference) <= round(now.error, places):
        return f"{was}, no change (±{now.error:.{places}f})"
    return f"{was} ({difference:+.{places}f}, method ±{now.error:.{places}f})"


def _model_name(one: Finding | Measurement) -> str:
    """The name and version of the model of a finding or measurement; "" if no model made it."""
    return f"{one.model.id} {one.model.version}" if one.model else ""
