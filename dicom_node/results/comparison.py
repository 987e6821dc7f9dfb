"""The comparison of an image with an earlier one of the same patient, in words."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final

from ai_pipeline.contract import (
    BURNED_IN,
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
from dicom_node.results.stated_report import StatedNumber

COMPARED: Final = "compared"
"""Name of the note on an image with the comparison."""
SAME_PREGNANCY: Final = 210
"""Days: no two examinations of one pregnancy with a measurable head (from week ten) lie further apart."""


def compared_images(context: ResultContext, compared: Sequence[QualityNote]) -> list[PreviousImage]:
    """The earlier images that these notes on comparisons are about."""
    return [context.previous[note.source_uid] for note in compared if note.source_uid]


def comparison_parts(context: ResultContext, compared: Sequence[QualityNote]) -> tuple[str, ...]:
    """The texts that comparisons (``compared``) add to the UIDs of an object; () without comparisons."""
    uids = [
        one.SOPInstanceUID for pair in compared_images(context, compared) for one in (pair.report, pair.image)
    ]
    return (COMPARED, *(note.text for note in compared), *uids) if compared else ()


def comparison_of(result: PipelineResult, uid: str, previous: PreviousImage, on: date) -> str:
    """The sentence that compares an image (``uid``) with a previous one; "" if nothing can be compared.

    ``on``: the date of the present study.
    """
    measured = [one for one in result.measurements if one.source_uid == uid]
    numbers = list(_number_changes(measured, previous, (on - previous.on).days))
    # Silence on a film of which the model is unsure is no change, and nothing that is gone.
    then = {
        one.code: one
        for one in previous.findings
        if not any(note.name == UNSURE and note.source_uid == uid for note in result.quality)
    }
    known = [
        (one, was)
        for one in result.findings
        if one.source_uid == uid and one.code != BURNED_IN and not one.research_only
        if (was := then.get((one.code.value, one.code.scheme)))
    ]
    alike = [pair for pair in known if previous.same_options and _model_name(pair[0]) == pair[1].model]
    if known and not alike:
        numbers.append("findings by another model or with other options, not compared")
    if not numbers and not alike:
        return ""
    present = [
        (named(now), now.decision is Decision.PRESENT, was.decision is Decision.PRESENT) for now, was in alike
    ]
    new = [name for name, now, was in present if now and not was]
    gone = [name for name, now, was in present if was and not now]
    return comparison_line(previous.on.isoformat(), numbers, new, gone)


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
