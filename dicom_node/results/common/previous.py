"""Comparison with earlier studies: an earlier report's content on an earlier image, and the line on
changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

from ai_pipeline.contract import BURNED_IN, Decision, Finding, Measurement, PipelineResult, QualityNote
from ai_pipeline.summary import comparison_line, named

COMPARED: Final = "compared"
"""Name of the note on an image with the comparison."""
SAME_PREGNANCY: Final = 210
"""Days: no two examinations of one pregnancy with a measurable head (from week ten) lie further apart."""


StatedCode = tuple[str, str, str]
"""Value, scheme and meaning."""


@dataclass(frozen=True, slots=True)
class StatedFinding:
    """A finding of an earlier report. ``code``: value and scheme; ``model``: name and version.

    ``presence``: the concept of its decision. ``sites``: location and side. ``numbers``: number and unit by
    name.
    """

    image: str
    code: tuple[str, str]
    meaning: str
    decision: Decision
    model: str
    tracking_uid: str
    presence: StatedCode = ("", "", "")
    sites: tuple[StatedCode, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatedNumber:
    """A measurement of an earlier report. ``code`` and ``unit``: value and scheme.

    Other fields as in ``StatedFinding``. ``sites``: location and side of the measurement. ``fetus``: "" if
    the patient was measured.
    """

    image: str
    code: tuple[str, str]
    meaning: str
    value: float
    unit: tuple[str, str]
    model: str
    tracking_uid: str
    sites: tuple[StatedCode, ...] = ()
    fetus: str = ""


@dataclass(frozen=True, slots=True)
class EarlierObject:
    """The UIDs of an object in an earlier study."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    uid: str


@dataclass(frozen=True, slots=True)
class PreviousImage:
    """An image of an earlier study with the content of its ``report``.

    ``same_options``: whether the pipeline ran with the present options.
    """

    on: date
    report: EarlierObject
    image: EarlierObject
    findings: tuple[StatedFinding, ...]
    numbers: tuple[StatedNumber, ...]
    same_options: bool


def with_comparisons(
    result: PipelineResult, previous: Mapping[str, PreviousImage], on: date | None
) -> PipelineResult:
    """``result`` with a note for each image that has a ``previous`` one (by SOP Instance UID).

    ``on``: the day of the study. The note is shown wherever the findings are shown.
    """
    notes = [
        QualityNote(COMPARED, line, uid, on_faces=True)
        for uid, one in previous.items()
        if on is not None and one.on < on and (line := _line(result, uid, one, on))
    ]
    return replace(result, quality=(*result.quality, *notes)) if notes else result


def comparison_parts(
    result: PipelineResult, previous: Mapping[str, PreviousImage], uid: str | None = None
) -> tuple[str, ...]:
    """The parts that comparisons add to the UID of an object on the image ``uid``, or on all images.

    () without comparisons.
    """
    notes = [one for one in result.quality if one.name == COMPARED and (uid is None or one.source_uid == uid)]
    if not notes:
        return ()
    quoted = [one for note in notes if (one := previous.get(note.source_uid or ""))]
    uids = [part for one in quoted for part in (one.report.uid, one.image.uid)]
    return (COMPARED, *(note.text for note in notes), *uids)


def quoted(result: PipelineResult, previous: Mapping[str, PreviousImage]) -> list[PreviousImage]:
    """The earlier images that the comparisons use, each once."""
    noted = [note.source_uid or "" for note in result.quality if note.name == COMPARED]
    return list({previous[uid].image.uid: previous[uid] for uid in noted if uid in previous}.values())


def _line(result: PipelineResult, uid: str, previous: PreviousImage, on: date) -> str:
    """The line on one image; "" where nothing can be compared."""
    measured = [one for one in result.measurements if one.source_uid == uid]
    findings = [
        one
        for one in result.findings
        if one.source_uid == uid and one.code != BURNED_IN and not one.research_only
    ]
    numbers = list(_numbers(measured, previous, (on - previous.on).days))
    then = {one.code: one for one in previous.findings}
    known = [(one, then[code]) for one in findings if (code := (one.code.value, one.code.scheme)) in then]
    alike = [pair for pair in known if previous.same_options and _model(pair[0]) == pair[1].model]
    day = previous.on.isoformat()
    if known and not alike:
        numbers.append("findings by another model or with other options, not compared")
    if not numbers and not alike:
        return ""
    new = [named(now) for now, was in alike if _appeared(now.decision, was.decision)]
    gone = [named(now) for now, was in alike if _appeared(was.decision, now.decision)]
    return comparison_line(day, numbers, new, gone)


def _appeared(now: Decision, then: Decision) -> bool:
    return now is Decision.PRESENT and then is not Decision.PRESENT


def _numbers(measured: Sequence[Measurement], previous: PreviousImage, days: int) -> Iterator[str]:
    """What to say of each measurement with a known error. Of several of one quantity none is compared: which
    belongs to which is not known."""
    for one in measured:
        code, unit = (one.quantity.value, one.quantity.scheme), (one.unit.value, one.unit.scheme)
        then = [was for was in previous.numbers if (was.code, was.unit) == (code, unit)]
        several = len([other for other in measured if other.quantity == one.quantity]) > 1 or len(then) > 1
        if one.error is None or one.model is None or not then or several:
            continue
        [was] = then
        name = one.name.lower()
        if was.model != _model(one):
            yield f"{name} by another model version, not compared"
        elif not one.fetus:
            yield f"{name} {_changed(one, was, one.error)}"
        elif one.fetus == "1" and days <= SAME_PREGNANCY and one.value >= was.value - one.error:
            yield f"{name} was {_shown(was.value, one)}"  # a fetus grows: no judgement on the difference


def _changed(now: Measurement, then: StatedNumber, error: float) -> str:
    """Value of then, and the difference as the two shown values have it, against the method's error."""
    places = _places(now)
    difference = round(round(now.value, places) - round(then.value, places), places)
    was = f"was {_shown(then.value, now)}"
    if abs(difference) <= round(error, places):
        return f"{was}, no change (±{error:.{places}f})"
    return f"{was} ({difference:+.{places}f}, method ±{error:.{places}f})"


def _shown(value: float, like: Measurement) -> str:
    unit = "" if like.unit.value == "{ratio}" else f" {like.unit.meaning}"
    return f"{value:.{_places(like)}f}{unit}"


def _places(measurement: Measurement) -> int:
    return 2 if measurement.unit.value == "{ratio}" else 0


def _model(one: Finding | Measurement) -> str:
    return f"{one.model.id} {one.model.version}" if one.model else ""
