"""The report of a job: findings and measurements ranked, located, worded and coded, once for all results.

SR, presentation states, pictures and summary page are written from it and compute nothing of their own;
messages and pages read it back from the SR (``results/sr.py``). So one finding has the same words, the same
tracking UID and the same coordinates wherever it is shown.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

import numpy as np
import numpy.typing as npt
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    Measurement,
    PipelineResult,
    Point,
    QualityNote,
    Region,
)
from ai_pipeline.images.render import assesses
from ai_pipeline.summary import (
    UNSURE,
    comparison_line,
    decided_in_words,
    measurement_text,
    named,
    result_lines,
)
from dicom_node.base.errors import ResultRefused
from dicom_node.results.envelope import (
    BURNED_IN_HEAD,
    CAUSES,
    NOT_HERE,
    NOT_READ,
    NOT_TAKEN,
    OURS,
    SIDES,
    Cause,
    PreviousImage,
    ResultContext,
    Source,
    StatedNumber,
    coded,
    number_of,
    presence_of,
    regions_of,
    side_of,
    tracking_uid,
)

COMPARED: Final = "compared"
"""Name of the note on an image with the comparison."""
SAME_PREGNANCY: Final = 210
"""Days: no two examinations of one pregnancy with a measurable head (from week ten) lie further apart."""
_RANK: Final = {Decision.PRESENT: 0, Decision.INDETERMINATE: 1, Decision.ABSENT: 2}
# Notes on the cleaning of an image that a reader has to know: what went, what stayed, what to beware of.
_OF_CLEANING: Final = frozenset(
    {
        "burned_in", "kept", "in_doubt", "blacked_out", "side_marker", "cleaning_failed",
        "overlay_planes",
    }
)  # fmt: skip

# Words of a measurement's statement that is a call by itself.
_CALLS: Final = ("Heart enlarged", "perhaps")
# Notes on images that are not in the results.
_MISSING: Final = frozenset({"cleaning_failed", "not_analysed", NOT_HERE, NOT_READ})

Number = tuple[CodedConcept | DicomCode, float, DicomCode]
"""Concept, value and unit."""


@dataclass(frozen=True, slots=True, eq=False)
class ReportedFinding:
    """One finding at one place of an image, or in the image as a whole (``region`` None).

    ``finding`` has no region but this one. ``presence``: the code of its decision. ``number``: its
    probability or score, ``cut_off``: the threshold; None without one. ``sites``: codes of the location and
    the side (None for no side); () if no location is known. ``outline``: the place as a closed polyline
    ``[points, 2]`` in SCOORD and PIXEL coordinates. ``identifier``: Tracking Identifier (112039), which names
    the finding, unique within one report. Absent findings have no tracking UID ("").
    """

    source: Source
    finding: Finding
    presence: DicomCode
    number: Number | None
    cut_off: Number | None
    sites: tuple[CodedConcept | DicomCode | None, ...]
    tracking_uid: str = ""
    identifier: str = ""
    region: Region | None = None
    outline: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrackedMeasurement:
    """A measurement with its tracking UID.

    ``identifier``: Tracking Identifier (112039). ``lines``: the measured lines, each ``[points, 2]`` in
    SCOORD coordinates.
    """

    measurement: Measurement
    tracking_uid: str
    identifier: str
    lines: tuple[npt.NDArray[np.float64], ...]


@dataclass(frozen=True, slots=True, eq=False)
class ImageReport:
    """What all results say of one image.

    ``name``: the title of its result. ``lines``: the short result, and sentences that must stand wherever it
    is shown. ``answers``: the outcome of the analysis as coded (name, value). ``findings``: all findings,
    ranked; ``located``: those that are reported and not absent, one for each place; ``absent``: those that
    were looked for and not found. ``measured``: the measurements. ``remarks``: quality notes for a person who
    reads the whole report. ``images``: pictures that the pipeline made of it. ``parts``: texts that its
    comparison with earlier images adds to the UIDs of its objects. ``has_call``: whether a person should look
    at it: something is suspected, or measured where nothing else was looked for, or the radiograph is
    unusual.
    """

    source: Source
    name: str
    lines: Sequence[str]
    answers: Sequence[tuple[DicomCode, DicomCode]]
    findings: Sequence[Finding] = ()
    located: Sequence[ReportedFinding] = ()
    absent: Sequence[ReportedFinding] = ()
    measured: Sequence[TrackedMeasurement] = ()
    remarks: Sequence[str] = ()
    images: Sequence[DerivedImage] = ()
    parts: tuple[str, ...] = ()
    has_call: bool = True

    def of_kind(self, kind: ImageKind) -> list[DerivedImage]:
        """The pictures of this kind that the pipeline made of the image."""
        return [one for one in self.images if one.kind is kind]

    @property
    def cleaned(self) -> DerivedImage | None:
        """The cleaned image; None if there is none or its cleaning was not verified."""
        return next((one for one in self.of_kind(ImageKind.CLEANED) if one.verified), None)

    @property
    def measurements(self) -> list[Measurement]:
        """The measurements without their tracking UIDs."""
        return [one.measurement for one in self.measured]


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What all results of a job say. ``located``: the findings of all images, ranked.

    ``uncovered``: sentences on images of the study that the result is without. ``compared``: the
    earlier images that the comparisons use. ``parts``: texts from which the report's UID is derived too.
    ``drawn_on``: the pixels on which pictures may be drawn, "source" or "cleaned"; "" if on none.
    ``incomplete``: images of the study are missing in the results.
    """

    context: ResultContext
    images: Sequence[ImageReport]
    conclusion: str
    located: Sequence[ReportedFinding] = ()
    uncovered: Sequence[str] = ()
    compared: Sequence[PreviousImage] = ()
    parts: tuple[str, ...] = ()
    drawn_on: str = ""
    incomplete: bool = False

    @property
    def sources(self) -> list[Source]:
        """The source images of the report, in their order."""
        return [one.source for one in self.images]

    @property
    def fetus(self) -> str:
        """The letter or number of the fetus that all measurements are of; "" if one is of the patient or of
        another fetus.
        """
        fetuses = {one.fetus for image in self.images for one in image.measurements}
        return fetuses.pop() if len(fetuses) == 1 else ""


def report_of(context: ResultContext, sources: Sequence[Source], result: PipelineResult) -> Report:
    """Make the report on all images of a job from the pipeline's result.

    Raises ResultRefused for a finding or a measurement that does not lie in its image, and for an image that
    is no source of the job.
    """
    of = {source.uid: source for source in sources}
    named_uids = {one.source_uid for one in result.findings} | {one.source_uid for one in result.images}
    if not of.keys() >= named_uids | {one.source_uid for one in result.measurements}:
        raise ResultRefused("the pipeline names an image that is not a source of this job")
    findings = ranked(result.findings)
    located = _findings_by_place(context, of, findings)
    # A note for each image that has a previous one; it is shown wherever the findings are shown.
    compared = [
        QualityNote(COMPARED, line, uid, on_faces=True)
        for uid, one in context.previous.items()
        if context.study_day and one.on < context.study_day
        if (line := _comparison(result, uid, one, context.study_day))
    ]
    notes = [*result.quality, *compared]
    images = []
    for source in sources:
        known = [one for one in findings if one.source_uid == source.uid]
        measured = [one for one in result.measurements if one.source_uid == source.uid]
        here = [one for one in notes if one.source_uid in {None, source.uid}]
        unsure = any(one.name == UNSURE for one in here)
        absence = codes.SCT.Undetermined if unsure else codes.SCT.Absent
        absent = [one for one in patient_findings(known) if one.decision is Decision.ABSENT]
        images.append(
            ImageReport(
                source=source,
                name="AI summary",
                lines=result_lines(
                    [one for one in result.findings if one.source_uid == source.uid], measured, here
                ),
                answers=[(OURS["RESULT"], _answer(known, measured, unsure=unsure))],
                findings=known,
                located=[one for one in located if one.source is source],
                absent=[_coded(context, source, one, absence) for one in absent],
                measured=[
                    _with_tracking(context, source, one, place) for place, one in enumerate(measured, start=1)
                ],
                remarks=[*_reliability(known, unsure=unsure), *_remarks(source, sources, notes)],
                images=[one for one in result.images if one.source_uid == source.uid],
                parts=_parts(context, [one for one in compared if one.source_uid == source.uid]),
                # A suspected finding, a measurement that is a call or stands alone, or a doubt that people
                # shall see.
                has_call=any(one.decision is Decision.PRESENT and one.code != BURNED_IN for one in known)
                or any(word in one.statement for one in measured for word in _CALLS)
                or (not assesses(known) and assesses((), measured))
                or any(one.name == UNSURE and one.on_faces for one in here),
            )
        )
    cleaning = [note for note in notes if note.name in _OF_CLEANING]
    cleaned = _texts_by_images(
        (source, "; ".join(note.text.rstrip(".") for note in cleaning if note.source_uid == source.uid))
        for source in sources
    )
    uncovered = [note.text for note in notes if note.name in {NOT_HERE, NOT_TAKEN}]
    return Report(
        context,
        images,
        "\r\n".join(
            [
                *in_words(images),
                *uncovered,
                *([f"{BURNED_IN_HEAD}{'. '.join(cleaned)}."] if cleaned else []),
            ]
        ),
        located,
        uncovered,
        list({one.image.SOPInstanceUID: one for one in _compared_images(context, compared)}.values()),
        (*not_here(result), *_parts(context, compared)),
        result.drawn_on,
        any(note.name in _MISSING for note in notes),
    )


def _reliability(findings: Sequence[Finding], *, unsure: bool) -> list[str]:
    """The remark that says how often calls such as these ``findings`` of an image are right; none if that was
    not measured. Of an ``unsure`` image it says nothing of absent findings: their figures are of usual films.
    """
    rated = [
        f"{decided_in_words(one)}: {one.reliability}."
        for one in findings
        if one.reliability and not (unsure and one.decision is Decision.ABSENT)
    ]
    return [f"reliability: {' '.join(rated)}"] if rated else []


def failure_of(context: ResultContext, sources: Sequence[Source], reason: str, cause: Cause) -> Report:
    """Make the report that the AI did not run, with the reason in words and the coded cause."""
    name, words = "AI did not run", f"AI did not run: {reason}"
    answers = [(OURS["RESULT"], OURS["NOTRUN"]), (OURS["NOTRUNBECAUSE"], CAUSES[cause])]
    return Report(context, [ImageReport(source, name, [words], answers) for source in sources], words)


def not_here(result: PipelineResult) -> tuple[str, ...]:
    """The texts on images that are deleted, cannot be read or were refused; the report's UID is derived from
    them too.
    """
    return tuple(note.text for note in result.quality if note.name in (NOT_HERE, NOT_READ, NOT_TAKEN))


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, sorted: those about the patient before burned-in annotation; then present, indeterminate,
    absent.

    Findings with the same decision are sorted by probability, the highest first.
    """
    return sorted(
        findings,
        key=lambda f: (
            f.code == BURNED_IN,
            _RANK[f.decision],
            -(f.probability or 0.0),
            f.label,
            f.code.value,
        ),
    )


def patient_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The findings about the patient: all except burned-in annotation, which the report mentions in a
    sentence instead.
    """
    return [finding for finding in findings if finding.code != BURNED_IN]


def in_words(images: Sequence[ImageReport]) -> list[str]:
    """The short results of the images as texts, one for each group of images with identical lines.

    If there are several images, a text begins with their numbers.
    """
    return _texts_by_images((one.source, "\r\n".join(one.lines)) for one in images)


def first_frame(located: Sequence[ReportedFinding]) -> int:
    """The frame (from 1) of the first finding that names one; 1 if none does."""
    return next((one.finding.frame for one in located if one.finding.frame), 1)


def further_numbers(image: ImageReport) -> list[str]:
    """Texts of the numbers that a model measured and that the first line of the short result does not
    contain.
    """
    numbers = [
        measurement_text(one)
        for one in image.measurements
        if one.model is not None and not one.statement and one.unit.value != "{pixels}"
    ]
    return [line for line in numbers if line not in image.lines[0]]


def _findings_by_place(
    context: ResultContext, sources: Mapping[str, Source], findings: Sequence[Finding]
) -> list[ReportedFinding]:
    """The findings that are reported and not absent, in the order of ``findings``, one for each place.

    ``sources``: the images by UID. Each gets its tracking UID. Raises ResultRefused for a frame that the
    image does not have, or a tracking UID that two findings share.
    """
    located: list[ReportedFinding] = []
    seen: Counter[tuple[str, ...]] = Counter()
    numbers: Counter[str] = Counter()
    for finding in patient_findings(findings):
        source, code = sources[finding.source_uid], finding.code
        if not 1 <= (1 if finding.frame is None else finding.frame) <= source.frames:
            raise ResultRefused(f"a finding in frame {finding.frame} of an image of {source.frames}")
        # One of several classes is suggested or none: "undetermined" of each says nothing.
        if finding.decision is Decision.ABSENT or (
            finding.exclusive and finding.decision is Decision.INDETERMINATE
        ):
            continue
        anywhere = _coded(context, source, finding, presence_of(finding))
        key = (code.scheme, code.value, finding.label, finding.model.id, str(finding.frame or 0))
        for place, region in enumerate(finding.regions or (None,)):
            uid = (finding.tracking_uid if place == 0 else "") or tracking_uid(
                context, source, *key, str(seen[(source.uid, *key)])
            )
            seen[(source.uid, *key)] += 1
            numbers[source.uid] += 1
            located.append(
                replace(
                    anywhere,
                    finding=replace(finding, regions=(region,) if region else (), tracking_uid=uid),
                    tracking_uid=uid,
                    identifier=f"AI {finding.name} {numbers[source.uid]}, image {source.number}"[:64],
                    region=region,
                    outline=_outline(region, source) if region else None,
                )
            )
    if len({(one.source.uid, one.tracking_uid) for one in located}) < len(located):
        raise ResultRefused("two findings of one image bear the same tracking UID: viewers show only one")
    return located


def _coded(context: ResultContext, source: Source, finding: Finding, presence: DicomCode) -> ReportedFinding:
    """The finding with its codes and numbers, without a place; ``presence``: the code of its decision.

    Probability is a claim about how often such a finding is there: only a calibrated model gives per cent.
    The score of any other is a number of its own kind, without unit. The cut-off is the one by which presence
    was inferred; an absent finding has none. The site is the model's, else the region of image or pipeline,
    with the side on which the finding lies. That is the side of its regions, or of an image that shows one
    side: an image of both lungs (Image Laterality B) does not make a finding bilateral.
    """

    def in_its_unit(name: CodedConcept | DicomCode, value: float) -> Number:
        """The number (name, value, unit): per cent of a calibrated model, else a score without unit."""
        if finding.model.calibrated:
            return name, round(value * 100, 1), codes.UCUM.Percent
        return name, round(value, 4), codes.UCUM.Ratio

    number = cut_off = None
    if finding.probability is not None:
        number = in_its_unit(number_of(finding), finding.probability)
        if finding.threshold is not None and finding.decision is not Decision.ABSENT:
            cut_off = in_its_unit(OURS["CUTOFF"], finding.threshold)
    site = coded(finding.site) if finding.site else next(regions_of(context, source), None)
    side = SIDES.get(finding.side or side_of(source))
    return ReportedFinding(source, finding, presence, number, cut_off, (site, side) if site else ())


def _outline(region: Region, source: Source) -> npt.NDArray[np.float64]:
    """The region as a closed polyline ``[points, 2]``, clipped to the image (PS3.3 C.18.6.1.2, C.10.5.1.2).

    Raises ResultRefused if no part lies inside.
    """
    corners = list(region.points)
    if region.type == "box":
        left, top, right, bottom = region.bounds
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    closed, size = [*corners, corners[0]], [float(source.columns), float(source.rows)]
    points = np.clip(np.asarray(closed, np.float64), 0.0, size)
    points = points.astype(np.float32).astype(np.float64)  # Graphic Data has VR FL
    if (np.ptp(points, axis=0) < 1.0).any():
        raise ResultRefused("a region lies outside its image or has no area in it")
    return points


def _with_tracking(
    context: ResultContext, source: Source, measurement: Measurement, place: int
) -> TrackedMeasurement:
    """The measurement with its tracking UID and lines; ``place``: its number among those of the image, from
    1.

    Raises ResultRefused if its frame or a line is not in the image.
    """
    if not 1 <= (measurement.frame or 1) <= source.frames:
        raise ResultRefused(f"a measurement in frame {measurement.frame} of an image of {source.frames}")
    name = measurement.name
    if measurement.model is None:
        how = OURS["READFROMIMAGE"].meaning.lower()
        parts, identifier = [str(place)], f"{name} {place}, image {source.number}: {how}"
    else:
        parts = [measurement.model.id, name, str(measurement.frame or 0), *filter(None, [measurement.fetus])]
        whose = f" of fetus {measurement.fetus}" if measurement.fetus else ""
        identifier = f"AI {name}{whose}, image {source.number}"
    return TrackedMeasurement(
        measurement,
        tracking_uid(context, source, "measurement", *parts),
        identifier[:64],
        tuple(_line_points(source, line, closed=measurement.closed) for line in measurement.lines),
    )


def _line_points(source: Source, line: Sequence[Point], *, closed: bool) -> npt.NDArray[np.float64]:
    """A measured line as ``[points, 2]``; ``closed``: it is an outline, so the first point is repeated at its
    end.

    Raises ResultRefused if a point lies outside the image or the ends coincide.
    """
    points = np.asarray(line, np.float32).astype(np.float64)  # Graphic Data has VR FL
    inside = (points >= 0.0).all() and (points <= [float(source.columns), float(source.rows)]).all()
    if not inside or (points[0] == points[-1]).all():
        raise ResultRefused("a measurement whose ends do not lie apart in its image")
    return np.concatenate([points, points[:1]]) if closed else points


def _answer(findings: Sequence[Finding], measured: Sequence[Measurement], *, unsure: bool) -> DicomCode:
    """The outcome of the analysis of one image as one code; ``findings`` must be ranked.

    ``measured``: its measurements; ``unsure``: the model cannot exclude anything on this image.
    """
    if not assesses(findings):
        return OURS["MEASURED"] if assesses((), measured) else OURS["ONLYCLEANED"]
    if findings[0].decision is Decision.PRESENT:
        return OURS["FINDINGS"]
    return OURS["NOCALL" if unsure or findings[0].decision is Decision.INDETERMINATE else "NONEFOUND"]


def _remarks(source: Source, sources: Sequence[Source], notes: Iterable[QualityNote]) -> Iterator[str]:
    """Yield the quality notes on an image as texts, without those that stand elsewhere in the report: notes
    that every result shows, notes on cleaning and on what was not assessed. Notes without an image belong to
    the first of ``sources``.
    """
    mine = {source.uid, None} if source is sources[0] else {source.uid}
    for note in notes:
        if (
            note.source_uid in mine
            and not note.on_faces
            and note.name not in _OF_CLEANING | {NOT_HERE, NOT_TAKEN}
        ):
            yield f"{note.name}: {note.text}"


def _texts_by_images(sentences: Iterable[tuple[Source, str]]) -> list[str]:
    """Each text once, preceded by the numbers of its images if there are several images; "" is left out.

    ``sentences``: pairs of an image and its text.
    """
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


def _compared_images(context: ResultContext, compared: Sequence[QualityNote]) -> list[PreviousImage]:
    """The earlier images that these notes on comparisons are about."""
    return [context.previous[note.source_uid] for note in compared if note.source_uid]


def _parts(context: ResultContext, compared: Sequence[QualityNote]) -> tuple[str, ...]:
    """The texts that comparisons (``compared``) add to the UIDs of an object; () without comparisons."""
    uids = [
        one.SOPInstanceUID
        for pair in _compared_images(context, compared)
        for one in (pair.report, pair.image)
    ]
    return (COMPARED, *(note.text for note in compared), *uids) if compared else ()


def _comparison(result: PipelineResult, uid: str, previous: PreviousImage, on: date) -> str:
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
