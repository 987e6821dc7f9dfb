"""The report of a job: findings and measurements ranked, located, worded and coded, once for all results.

SR, presentation states, pictures and summary page are written from it and compute nothing of their own;
messages and pages read it back from the SR (``results/stated_report.py``). So one finding has the same words,
the same tracking UID and the same coordinates wherever it is shown.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.contract import (
    BURNED_IN,
    LOOK_FIRST,
    Code,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    Measurement,
    PipelineResult,
    QualityNote,
)
from ai_pipeline.images.render import assesses
from ai_pipeline.summary import (
    UNSURE,
    calls_of,
    decided_in_words,
    measurement_text,
    result_lines,
)
from dicom_node.base.errors import ResultRefused
from dicom_node.results.comparison import compared_images, comparison_notes, comparison_parts
from dicom_node.results.concepts import CAUSES, OURS, Cause
from dicom_node.results.context import PreviousImage, ResultContext
from dicom_node.results.located import (
    Outline,
    ReportedFinding,
    TrackedMeasurement,
    coded_finding,
    findings_by_place,
    outlines_of,
    patient_findings,
    tracked_measurement,
)
from dicom_node.results.source import Source
from dicom_node.results.stated_report import BURNED_IN_HEAD

NOT_HERE: Final = "no longer here"
"""Name of the note on images of the study that were purged, so that the result is without them."""
NOT_TAKEN: Final = "not taken"
"""Name of the note on images of the study that the pipeline refused by their pixels."""
NOT_READ: Final = "not read"
"""Name of the note on what may belong to the study: objects that cannot be read, or what an association that
broke off did not bring.
"""
NOT_ANALYSED: Final = "not analysed"
"""Name of the note on images of the study that could not be analysed, for a fault of theirs."""
_UNCOVERED: Final = (NOT_HERE, NOT_READ, NOT_TAKEN, NOT_ANALYSED)
"""Names of the notes on images that the results are without. Whoever reads only the conclusion, or the
summary page, has to know of them: they stand there, not among the remarks.
"""
_RANK: Final = {Decision.PRESENT: 0, Decision.INDETERMINATE: 1, Decision.ABSENT: 2}
# Notes on the cleaning of an image that a reader has to know: what went, what stayed, what to beware of.
_OF_CLEANING: Final = frozenset(
    {
        "burned_in", "kept", "in_doubt", "blacked_out", "side_marker", "cleaning_failed",
        "overlay_planes",
    }
)  # fmt: skip

# Notes on images that are not in the results.
_MISSING: Final = frozenset({"cleaning_failed", NOT_ANALYSED, NOT_HERE, NOT_READ})


@dataclass(frozen=True, slots=True, eq=False)
class ImageReport:
    """What all results say of one image.

    ``name``: the title of its result. ``lines``: the short result, and sentences that must stand wherever it
    is shown. ``answers``: the outcome of the analysis as coded (name, value). ``findings``: all findings,
    ranked; ``located``: those that are reported and not absent, one for each place; ``absent``: those that
    were looked for and not found. ``measured``: the measurements. ``remarks``: quality notes for a person who
    reads the whole report. ``images``: pictures that the pipeline made of it. ``parts``: texts that its
    comparison with earlier images adds to the UIDs of its objects. ``outlines``: of organs, if the report
    shows them. ``has_call``: whether a person should look
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
    outlines: Sequence[Outline] = ()
    has_call: bool = True

    def of_kind(self, kind: ImageKind) -> list[DerivedImage]:
        """The pictures of this kind that the pipeline made of the image."""
        return [one for one in self.images if one.kind is kind]

    @property
    def cleaned(self) -> DerivedImage | None:
        """The cleaned image; None if there is none or its cleaning was not verified."""
        return next((one for one in self.of_kind(ImageKind.CLEANED) if one.verified), None)

    @property
    def placed(self) -> list[ReportedFinding]:
        """The findings at a place of the image."""
        return [finding for finding in self.located if finding.region is not None]

    @property
    def has_place(self) -> bool:
        """Whether there is anything to draw on the image."""
        return bool(self.placed or self.measured or self.outlines)

    @property
    def speaking_finding(self) -> ReportedFinding | None:
        """The finding beside which the lines of the image stand too, in viewers that show words only at
        shapes: the first with a place, where something else is said of the image than at its places and no
        measurement has the lines; else None.
        """
        calls = [value for _, value in self.answers if value not in OURS.values()]
        says_more = bool(calls) or len(self.placed) < len(self.located)
        return next(iter(self.placed), None) if says_more and not self.measured else None

    @property
    def lines_to_show(self) -> list[str]:
        """The lines as they stand beside a shape. The warning is in front: viewers cut long lines off."""
        first, *lines = self.lines
        return [f"AI, not for diagnostic use: {first.removeprefix('AI: ')}", *lines]

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
    def has_place(self) -> bool:
        """Whether there is anything to draw on an image."""
        return any(image.has_place for image in self.images)

    @property
    def is_in_words(self) -> bool:
        """Whether it is words alone (TID 2000): it has no place, and its readers use OHIF."""
        return self.context.form.viewer == "ohif" and not self.has_place

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
    by_uid = {source.uid: source for source in sources}
    named_uids = {one.source_uid for one in result.findings} | {one.source_uid for one in result.images}
    if not by_uid.keys() >= named_uids | {one.source_uid for one in result.measurements}:
        raise ResultRefused("the pipeline names an image that is not a source of this job")
    located = findings_by_place(context, by_uid, ranked(result.findings))
    compared = comparison_notes(context, result)
    said = replace(result, quality=(*result.quality, *compared))
    images = [_image_report(context, source, sources, said, located, compared) for source in sources]
    uncovered = uncovered_notes(result)
    return Report(
        context,
        images,
        "\r\n".join([*in_words(images), *uncovered, *_cleaning_in_words(sources, said.quality)]),
        located,
        uncovered,
        list({one.image.SOPInstanceUID: one for one in compared_images(context, compared)}.values()),
        (*uncovered, *comparison_parts(context, compared)),
        result.drawn_on,
        any(note.name in _MISSING for note in said.quality),
    )


def has_call(
    findings: Sequence[Finding], measured: Sequence[Measurement], notes: Sequence[QualityNote]
) -> bool:
    """Whether a person should look at an image, by its findings, measurements and notes: without a call only
    the kinds of ``ResultContext.no_call`` leave.

    Something is suspected, a measurement or note is a call or stands alone, or the model is in a doubt that
    people shall see.
    """
    suspected = any(finding.decision is Decision.PRESENT for finding in patient_findings(findings))
    only_measured = assesses((), measured) and not assesses(findings)
    in_doubt = any(note.name == UNSURE and note.on_faces for note in notes)
    return suspected or bool(calls_of(measured, notes)) or only_measured or in_doubt


def _image_report(
    context: ResultContext,
    source: Source,
    sources: Sequence[Source],
    said: PipelineResult,
    located: Sequence[ReportedFinding],
    compared: Sequence[QualityNote],
) -> ImageReport:
    """What all results say of one image of a job, of whose images the pipeline said ``said``.

    ``located``: the findings of all images at their places; ``compared``: the notes with comparisons.
    """
    own = _of_image(said, source.uid)
    findings = ranked(own.findings)
    unsure = any(note.name == UNSURE for note in own.quality)
    absence = codes.SCT.Undetermined if unsure else codes.SCT.Absent
    absent = [finding for finding in patient_findings(findings) if finding.decision is Decision.ABSENT]
    answers = [(OURS["RESULT"], answer) for answer in _answers(findings, own, unsure=unsure)]
    return ImageReport(
        source=source,
        name="AI summary",
        lines=result_lines(own.findings, own.measurements, own.quality),
        answers=answers,
        findings=findings,
        located=[finding for finding in located if finding.source is source],
        absent=[coded_finding(context, source, finding, absence) for finding in absent],
        measured=[
            tracked_measurement(context, source, measurement, place)
            for place, measurement in enumerate(own.measurements, start=1)
        ],
        remarks=[*_reliability(findings, unsure=unsure), *_remarks(source, sources, said.quality)],
        images=own.images,
        parts=comparison_parts(context, [note for note in compared if note.source_uid == source.uid]),
        outlines=_outlines(context, source, own.images),
        has_call=has_call(findings, own.measurements, own.quality),
    )


def _outlines(context: ResultContext, source: Source, images: Sequence[DerivedImage]) -> list[Outline]:
    """The outlines among the pictures of one image, if the destinations want them in the report."""
    if context.form.outlines != "sr":
        return []
    masks = [image for image in images if image.kind is ImageKind.ORGANS]
    return [outline for image in masks for outline in outlines_of(context, source, image)]


def _of_image(said: PipelineResult, uid: str) -> PipelineResult:
    """What the pipeline said of one image; notes without an image are of each."""
    findings = tuple(finding for finding in said.findings if finding.source_uid == uid)
    images = tuple(image for image in said.images if image.source_uid == uid)
    notes = tuple(note for note in said.quality if note.source_uid in {None, uid})
    measurements = tuple(one for one in said.measurements if one.source_uid == uid)
    return PipelineResult(findings, images, notes, measurements=measurements)


def _cleaning_in_words(sources: Sequence[Source], notes: Sequence[QualityNote]) -> list[str]:
    """The conclusion's paragraph on burned-in text; [] without notes on cleaning."""
    cleaning = [note for note in notes if note.name in _OF_CLEANING]
    texts = _texts_by_images(
        (source, "; ".join(note.text.rstrip(".") for note in cleaning if note.source_uid == source.uid))
        for source in sources
    )
    return [f"{BURNED_IN_HEAD}{'. '.join(texts)}."] if texts else []


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


def failure_of(
    context: ResultContext,
    sources: Sequence[Source],
    reason: str,
    cause: Cause,
    look_first: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Make the report that the AI did not run, with the reason in words and the coded cause. ``look_first``:
    the sentence, by UID, of an image that is to be looked at first: it comes first, and is the image's
    result.
    """
    images = []
    for source in sources:
        told = look_first.get(source.uid)
        answers = [
            (OURS["RESULT"], _coded(LOOK_FIRST) if told else OURS["NOTRUN"]),
            (OURS["NOTRUNBECAUSE"], CAUSES[cause]),
        ]
        lines = [*([f"AI: {told}"] if told else []), f"AI did not run: {reason}"]
        images.append(ImageReport(source, "AI did not run", lines, answers))
    words = in_words(images) if look_first else images[0].lines
    return Report(context, images, "\r\n".join(words))


def uncovered_notes(result: PipelineResult) -> tuple[str, ...]:
    """The sentences on images that are deleted, refused, cannot be read or analysed, or never came. The
    report's UID is derived from them too.
    """
    return tuple(note.text for note in result.quality if note.name in _UNCOVERED)


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


def _answers(findings: Sequence[Finding], said: PipelineResult, *, unsure: bool) -> list[DicomCode]:
    """The outcome of the analysis of one image as codes: its calls, and what else is true beside them.

    ``findings``: ranked; ``said``: all that the pipeline said of the image; ``unsure``: the model cannot
    exclude anything on this image.
    """
    calls = [_coded(call) for call in calls_of(said.measurements, said.quality)]
    if assesses(findings) and findings[0].decision is Decision.PRESENT:
        return [*calls, OURS["FINDINGS"]]
    if calls:
        return calls
    if not assesses(findings):
        return [OURS["MEASURED"] if assesses((), said.measurements) else OURS["ONLYCLEANED"]]
    open_ = unsure or findings[0].decision is Decision.INDETERMINATE
    return [OURS["NOCALL" if open_ else "NONEFOUND"]]


def _coded(call: Code) -> DicomCode:
    """A call as a value of the concept RESULT."""
    return DicomCode(call.value, call.scheme, call.meaning[:64])


def _remarks(source: Source, sources: Sequence[Source], notes: Iterable[QualityNote]) -> Iterator[str]:
    """Yield the quality notes on an image as texts, without those that stand elsewhere in the report: notes
    that every result shows, notes on cleaning and on what was not assessed. Notes without an image belong to
    the first of ``sources``.
    """
    mine = {source.uid, None} if source is sources[0] else {source.uid}
    for note in notes:
        if note.source_uid in mine and not note.on_faces and note.name not in _OF_CLEANING.union(_UNCOVERED):
            yield f"{note.name}: {note.text}"


def _texts_by_images(sentences: Iterable[tuple[Source, str]]) -> list[str]:
    """Each text once, preceded by the numbers of its images if there are several images; "" is left out.
    Images of several series may have one number: then it says how many have it.

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
        f"image{'s' if len(numbers) > 1 else ''} {_counted(numbers)}: {text}"
        for text, numbers in images.items()
    ]


def _counted(numbers: Sequence[int]) -> str:
    """Instance Numbers, each once, such as "1, 3 (2 images)"."""
    counts = Counter(numbers)
    return ", ".join(
        f"{number} ({count} images)" if count > 1 else f"{number}" for number, count in counts.items()
    )
