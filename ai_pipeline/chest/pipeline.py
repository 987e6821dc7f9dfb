"""The pipeline ``chest_xray``: findings of frontal chest X-rays of adults, with probability and place.

The header is checked first, then the pixels: other images are refused with one sentence that says why.

A film that is no usual chest says that first, and then nothing but what is suspected: no ratio, no "no call",
no "not found".

A finding gets a box and a side. A view of PA or AP does not tell right from left: a picture may have been
turned over. So Patient Orientation (0020,0020; PS3.3 C.7.6.1.1.1) must say that the lung that is outlined as
the right one lies on the patient's right, and heart or marker confirm it: a wrong side is worse than none.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from ai_pipeline.accepting import accept
from ai_pipeline.chest import calls, intended_use, ratio
from ai_pipeline.chest.anatomy import (
    HEART,
    LEFT_LUNG,
    MISSING,
    ORGANS,
    RIGHT_LUNG,
    UNSURE_NOTES,
    Anatomy,
    AnatomyModel,
    Completeness,
    Edge,
    Look,
    look_at,
    missing_notes,
    without_missing,
)
from ai_pipeline.chest.calls import OperatingPoint, Words, words_of
from ai_pipeline.chest.card import CARD, CLASSIFIER, ChestOptions
from ai_pipeline.chest.classifier import (
    NETWORK,
    YOLO,
    Activation,
    Analysis,
    BoxDetector,
    Classifier,
    decide,
    probability,
)
from ai_pipeline.chest.intended_use import may_be_ill, refused_by_header, refused_by_pixels
from ai_pipeline.chest.stamps import LARGEST, StampConclusions, Stamps, follow, read_stamps
from ai_pipeline.chest.stamps import MODEL as TEXT_READER
from ai_pipeline.contract import (
    LOOK_FIRST,
    Accept,
    Code,
    Decision,
    DerivedImage,
    Finding,
    ImageHeader,
    ImageKind,
    JudgedView,
    Measurement,
    ModelRef,
    Origin,
    PipelineResult,
    Progress,
    QualityNote,
    Refuse,
    Region,
    Scores,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose, upright
from ai_pipeline.images.decode import to_full_size
from ai_pipeline.images.display import mean_grey
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.models.registry import Card, Label, find, load
from ai_pipeline.models.store.folder import active
from ai_pipeline.summary import NOT_ASSESSED, UNSURE, certainty

PRESENT, UNDECIDED = Decision.PRESENT, Decision.INDETERMINATE


@dataclass(frozen=True, slots=True, eq=False)
class _AnalysedImage:
    """An image with everything that was computed of it. ``boxes`` gives the boxes of a label, None without a
    detector. ``anatomy``: the outlines, None if the image is not like a chest film. ``stamps``: None where
    they could not be read. ``missing``: the edges at which the chest is cut off. ``look``: signs that the
    film is unusual. ``timings`` in seconds by stage.
    """

    image: SourceImage
    analysis: Analysis
    boxes: Callable[[str], tuple[Region, ...]] | None
    anatomy: Anatomy | None
    exposure: Exposure
    stamps: Stamps | None
    missing: tuple[Edge, ...]
    look: Look
    timings: Mapping[str, float]

    @property
    def rules(self) -> StampConclusions:
        """What the stamps on the film say of its projection and sides. A heart whose border is hidden says
        nothing of sides: what is white beside it may be outlined as heart.
        """
        return follow(self.image, self.stamps, None if self.look.hidden else self.anatomy, self.analysis.pose)

    @property
    def sided_anatomy(self) -> Anatomy | None:
        """The outlines if left and right are known in them; else None."""
        return self.anatomy if self.rules.sides else None


@dataclass(frozen=True, slots=True)
class _RuleOptions:
    """The options of a rule, applied to a model card. ``given``: the options; ``point``: the operating point;
    ``labels``: all labels with the thresholds to use; ``shown``: the labels that are reported, with the
    statements allowed about each; ``prevalences``: 0 to 1 by label, for the reliability of a decision.
    """

    given: ChestOptions
    point: OperatingPoint
    labels: tuple[Label, ...]
    shown: Mapping[str, Words]
    prevalences: Mapping[str, float]

    @staticmethod
    def from_card(card: Card, given: ChestOptions) -> _RuleOptions:
        """Apply the options ``given`` to the labels of ``card``."""
        point, here = calls.chosen_point(card, given.operating_point), given.prevalence
        labels = calls.labels_at(card, point)
        if here is not None:
            labels = calls.at_site(card, labels, here)
        rates = {**calls.calibrated_at(card), **(here or {})}
        words = {label.name: words_of(card, point, label.name, rates.get(label.name)) for label in labels}
        if given.all_labels:
            # Of a label without figures nobody knows what a call is worth.
            shown = {
                name: replace(one, suspected=bool(calls.figures(card, point, name)))
                for name, one in words.items()
            }
        else:
            known = [label.name for label in labels if label.supported]
            shown = {name: words[name] for name in known if words[name].assessed}
        return _RuleOptions(given, point, labels, shown, rates)


class ChestXray:
    """The pipeline ``chest_xray``, which reports findings in chest X-rays
    (:class:`ai_pipeline.contract.Pipeline`).
    """

    card = CARD

    def __init__(self, *, models_dir: Path | None = None, card: Card | None = None) -> None:
        """``models_dir``: folder of a site's own models. ``card``: the classifier to use in place of the
        active one.
        """
        self._models_dir, self._given = models_dir, card
        self._classifier: Classifier | None = None
        self._detector: BoxDetector | None = None
        self._anatomy: AnatomyModel | None = None
        self._completeness = Completeness({})
        # Those of accepts() for run(), which gets the same images.
        self._analysed: deque[_AnalysedImage] = deque(maxlen=4)

    def warm_up(self) -> None:
        """Load the models. Raises CardError when one is missing or altered."""
        self._model()
        self._anatomy_model()

    def models(self) -> tuple[ModelRef, ...]:
        """The classifier and the outline network, as results name them."""
        anatomy = (self._anatomy or find(ratio.MODEL, self._models_dir)).ref
        return self._card().ref, anatomy

    def option_faults(self, options: Mapping[str, object]) -> Mapping[str, str]:
        """What is wrong with the values of ``options`` for the active model, as remedies by option. May raise
        CardError.
        """
        given, card = ChestOptions.of(options), self._card()
        wrong = {
            "prevalence": given.prevalence and calls.prevalence_fault(card, given.prevalence),
            "operating_point": given.operating_point and calls.point_fault(card, given.operating_point),
        }
        return {option: remedy for option, remedy in wrong.items() if remedy}

    def occasions(self, options: Mapping[str, object]) -> frozenset[str]:
        """The findings that these ``options`` let the active model suspect, and the card's calls: of the
        heart only where the ratio is measured. May raise CardError.
        """
        settings = _RuleOptions.from_card(self._card(), ChestOptions.of(options))
        silent = {ratio.HEART_ENLARGED} if settings.given.ratio is ratio.Projections.OFF else set()
        suspected = {
            f"{label.code.meaning[:64]} suspected"
            for label in settings.labels
            if label.name in settings.shown and settings.shown[label.name].suspected and label.threshold < 1
        }
        return frozenset(suspected | {call.meaning for call in CARD.calls if call not in silent})

    @staticmethod
    def try_out(card_file: Path, seconds: int) -> None:
        """Run the model of the model card ``card_file`` on test pictures. Raises CardError if it fails or
        takes longer than ``seconds``.
        """
        from ai_pipeline.models import trial  # with what looks into files, which no worker needs

        trial.try_out(load(card_file), "ai_pipeline.chest.trial", seconds)

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (no option widens the scope)
    ) -> Accept | Refuse:
        """Choose the images that are frontal chest X-rays of adults. Decodes an image only if its header
        allows it.

        If an exposure was sent both for processing and for presentation, only the image for presentation is
        taken.
        """
        return accept(
            images,
            lambda image: refused_by_header(image.header),
            self._refused_by_pixels,
            lambda: self._model().card.ref,
            self._look_first,
        )

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Analyse ``images``, which ``accepts`` chose. Raises PixelError."""
        given = ChestOptions.of(options)
        stages = ["decode", "model", "stamps", "explain", *(["clean"] if given.clean else [])]
        seconds = dict.fromkeys(stages, 0.0)
        text_read = given.clean
        findings: list[Finding] = []
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        scores: list[Scores] = []
        judged = 0  # images whose ratio says how large the heart is
        measurements: list[Measurement] = []
        views: list[JudgedView] = []
        settings = _RuleOptions.from_card(self._card(), given)
        for number, image in enumerate(images):
            report(number / len(images), "chest X-ray")
            analysed = self._analyse(image)
            began = time.perf_counter()
            scores.append(self._scores(analysed))
            found, measured, said = self._judged(analysed, settings, scores[-1])
            findings += found
            measurements += measured.measurements
            judged += measured.judges_size
            text_read = text_read or analysed.stamps is not None
            if view := analysed.rules.projection:
                views.append(JudgedView(image.uid, view))
            notes += [
                *said,
                *measured.notes,
                *analysed.rules.notes,
                *intended_use.notes(image, analysed.analysis.pose, analysed.exposure),
            ]
            if given.outlines:
                pictures += self._outlines(analysed)
            explained = time.perf_counter()
            seconds["explain"] += explained - began
            for stage, value in analysed.timings.items():
                seconds[stage] += value
            if "clean" in seconds:
                cleaned, cleaning_notes = _cleaned(image, report)
                pictures += cleaned
                notes += cleaning_notes
                seconds["clean"] += time.perf_counter() - explained
        boxed = any(finding.regions for finding in findings)
        notes += self._notes_on_result(settings, boxed=boxed, size_judged=judged == len(images))
        report(1.0, "chest X-ray")
        seconds["total"] = sum(seconds.values())  # with what accepts() has decoded and analysed already
        return PipelineResult(
            findings=tuple(findings),
            images=tuple(pictures),
            quality=tuple(notes),
            timings=seconds,
            models=self.models() + ((find(TEXT_READER, self._models_dir).ref,) if text_read else ()),
            scores=tuple(scores),
            measurements=tuple(measurements),
            views=tuple(views),
        )

    def _notes_on_result(
        self, settings: _RuleOptions, *, boxed: bool, size_judged: bool
    ) -> list[QualityNote]:
        """The notes on the whole result: what the model lacks, its operating point, what was not assessed.
        ``boxed``: whether a finding has a box; ``size_judged``: whether the ratio judged each heart's size.
        """
        notes, card = [], self._model().card
        if card.gate is None:
            missing = (
                "The model has no domain gate: that this is a frontal chest X-ray, only the header says."
            )
            notes.append(QualityNote("no_gate", missing))
        if boxed:
            notes.append(QualityNote("box", BOX_NOTE))
        notes += [calls.point_note(card, settings.point), _not_assessed(settings, size_judged=size_judged)]
        if settings.given.prevalence:
            sentence = calls.prevalence_sentence(card, settings.given.prevalence)
            notes.append(QualityNote("prevalence", sentence))
        return notes

    def _card(self) -> Card:
        """The model card of the classifier in use."""
        return self._given or (
            self._classifier.card if self._classifier else active(CLASSIFIER, self._models_dir)
        )

    def _model(self) -> Classifier:
        """The classifier, loaded when first needed, with its detector."""
        if self._classifier is None:
            card = self._card()
            self._detector = BoxDetector(card) if card.plays(NETWORK) or card.plays(YOLO) else None
            self._classifier = Classifier(card)
        return self._classifier

    def _anatomy_model(self) -> AnatomyModel:
        """The outline network, loaded when first needed."""
        if self._anatomy is None:
            card = find(ratio.MODEL, self._models_dir)
            self._anatomy, self._completeness = AnatomyModel.from_card(card), Completeness.from_card(card)
        return self._anatomy

    def _judged(
        self, analysed: _AnalysedImage, settings: _RuleOptions, scores: Scores
    ) -> tuple[list[Finding], ratio.Ratio, list[QualityNote]]:
        """The findings that are reported of one film, its cardiothoracic ratio, and notes on what was left
        out. ``scores``: the probabilities of all labels.
        """
        found, anatomy, uid = self._findings(analysed, settings), analysed.anatomy, analysed.image.uid
        doubt, measured = "", ratio.Ratio()
        if anatomy is not None:
            # The heart confirms no side here: what is white may be taken for heart.
            marked = analysed.rules.marked and analysed.analysis.pose == UPRIGHT
            doubt = analysed.look.doubt(self._card(), scores.values, anatomy, marked=marked)
        if anatomy is not None and doubt in {"", *UNSURE_NOTES}:
            measured = ratio.measure(
                analysed.image,
                anatomy,
                analysed.analysis.pose,
                self._anatomy_model(),
                settings.given.ratio,
                effusion=any(one.label == ratio.EFFUSION and one.decision is PRESENT for one in found),
                projection=analysed.rules.projection,
                cut_off=[MISSING[edge] for edge in analysed.missing if edge is not Edge.TOP],
                look=analysed.look,
            )
            # The other two signs are themselves why there is no ratio.
            clouded = doubt if doubt == UNSURE_NOTES[-1] else ""
            doubt = f"{clouded} {measured.missed}".strip() if measured.missed else doubt
        if measured.judges_size and not settings.given.all_labels:  # one voice: the ratio is the better model
            found = [one for one in found if one.label != ratio.CARDIOMEGALY]
        notes = missing_notes(uid, found, analysed.missing)
        found = without_missing(found, analysed.missing)
        if doubt:
            call = LOOK_FIRST if doubt.endswith(f"{LOOK_FIRST.meaning}.") else None
            notes.append(QualityNote(UNSURE, doubt, uid, on_faces=True, call=call))
            found = [
                replace(one, decision=one.decision if one.decision is PRESENT else UNDECIDED) for one in found
            ]
        return found, measured, notes

    def _outlines(self, analysed: _AnalysedImage) -> list[DerivedImage]:
        """The masks of heart and lungs as a derived image; none if they cannot be those of a chest, or if
        left and right are not known.
        """
        anatomy = analysed.sided_anatomy
        if anatomy is None or not anatomy.is_chest:
            return []
        header = analysed.image.header
        return [
            DerivedImage(
                ImageKind.ORGANS,
                analysed.image.uid,
                anatomy.in_image(header.rows, header.columns),
                "MONOCHROME2",
                "heart and lungs outlined by AI, not for diagnostic use",
                models=(self._anatomy_model().ref,),
                organs=ORGANS,
            )
        ]

    def _refused_by_pixels(self, image: SourceImage) -> str | None:
        """Why the picture of ``image`` cannot be analysed, as a sentence; None if it can."""
        analysed = self._analyse(image)
        in_domain = self._model().in_domain(analysed.analysis)
        lateral = analysed.anatomy is not None and analysed.anatomy.is_from_the_side
        return refused_by_pixels(in_domain, analysed.analysis.kind, analysed.exposure, lateral=lateral)

    def _look_first(self, image: SourceImage) -> str:
        """Refusal.look_first of an image that ``_refused_by_pixels`` refused."""
        analysed = self._analyse(image)
        ill = may_be_ill(image.header, analysed.analysis.kind, analysed.exposure)
        return f"This film could not be read as a chest: {LOOK_FIRST.meaning.lower()}." if ill else ""

    def _analyse(self, image: SourceImage) -> _AnalysedImage:
        """Decode and analyse ``image``; the result is remembered because accepts() and run() get the same
        images.
        """
        for analysed in self._analysed:
            if analysed.image is image:
                return analysed
        model = self._model()
        start = time.perf_counter()
        # Networks and the reader of stamps reduce larger films.
        cards = model.card, find(ratio.MODEL, self._models_dir)
        inputs = [card.input for card in cards if card.input]
        suffices = max(LARGEST, *(math.ceil(given.size / given.crop) for given in inputs))
        grey = mean_grey(image.display(shorter_side=suffices))
        decoded = time.perf_counter()
        analysis = model.analyse(grey)
        boxes, anatomy, stamps, look = None, None, None, Look()
        missing: tuple[Edge, ...] = ()
        if model.in_domain(analysis):
            anatomy = self._anatomy_model().outline(grey, analysis.pose)
            if self._detector is not None:
                boxes = self._detector.boxes_in(grey, analysis)
        seen = time.perf_counter()
        if anatomy is not None:
            picture, to_upright = upright(grey, analysis.pose)
            outlines = anatomy.seen(to_upright)
            missing = self._completeness.missing(picture, outlines)
            look = look_at(picture, outlines)
            stamps = read_stamps(picture, outlines, self._models_dir)
        timings = {"decode": decoded - start, "model": seen - decoded, "stamps": time.perf_counter() - seen}
        way = to_full_size(grey.shape[0], image.header)
        analysed = _AnalysedImage(
            image,
            analysis.seen(way, image.header.rows, image.header.columns),
            boxes and _boxes_mapped(boxes, way, image.header),
            anatomy and anatomy.seen(way),
            Exposure.from_image(grey),
            stamps,
            missing,
            look,
            MappingProxyType(timings),
        )
        self._analysed.append(analysed)
        return analysed

    def _scores(self, analysed: _AnalysedImage) -> Scores:
        """The probability of every label of the classifier's card in one image."""
        model, analysis = self._model(), analysed.analysis
        labels = enumerate(model.card.labels)
        values = {label.name: model.probability(analysis, index) for index, label in labels}
        return Scores(analysed.image.uid, model.card.ref, values, reoriented=analysis.pose != UPRIGHT)

    def _findings(self, analysed: _AnalysedImage, settings: _RuleOptions) -> list[Finding]:
        """A finding for each label that is reported, with boxes and heat map if it is present."""
        model, image, analysis = self._model(), analysed.image, analysed.analysis
        found: list[Finding] = []
        for index, label in enumerate(settings.labels):
            if label.name not in settings.shown:
                continue
            value = probability(label, float(analysis.logits[index]))
            decision = settings.shown[label.name].limited(decide(label, value))
            sure, reliable = self._trust(settings, label, decision)
            regions: tuple[Region, ...] = ()
            evidence = None
            if decision is Decision.PRESENT:
                activation = model.activation(analysis, index)
                regions = self._boxes(analysed, activation, label, index)
                if activation and settings.given.heatmaps:
                    evidence = model.heatmap(activation)
            sides = {
                side_of(image, analysis.pose, analysed.sided_anatomy, label.site, box) for box in regions
            }
            found.append(
                Finding(
                    label=label.name,
                    code=label.code,
                    probability=value,
                    threshold=label.threshold,
                    decision=decision,
                    source_uid=image.uid,
                    model=model.card.ref,
                    regions=regions,
                    site=label.site,
                    side=sides.pop() if len(sides) == 1 else "",
                    evidence=evidence,
                    certainty=sure,
                    reliability=reliable,
                )
            )
        return found

    def _trust(self, settings: _RuleOptions, label: Label, decision: Decision) -> tuple[str, str]:
        """Certainty and reliability of a decision on a label, in words; "" where they are not known."""
        rate = settings.prevalences.get(label.name)
        if rate is None:
            return "", ""
        call = self._card(), settings.point, label.name, decision, rate
        right = calls.predictive(*call)
        sure = certainty(right[0]) if right and decision is Decision.PRESENT else ""
        return sure, calls.reliability(*call)

    def _boxes(
        self, analysed: _AnalysedImage, activation: Activation | None, label: Label, index: int
    ) -> tuple[Region, ...]:
        """Boxes of a finding, from the detector if there is one, else from the evidence map ``activation``.
        Boxes outside the finding's organ, or on the other side of the chest than the evidence map, are left
        out. All are left out where heart and lungs could not be outlined: a detector puts a finding of a
        white lung into the other lung.
        """
        found: tuple[Region, ...] = ()
        if analysed.boxes is not None:
            found = analysed.boxes(label.name)
        elif self._detector is None and activation and (box := self._model().box(activation, index)):
            found = (box,)
        anatomy = analysed.anatomy
        if anatomy is None or not anatomy.is_chest:
            return ()
        return tuple(
            box
            for box in found
            if on_its_organ(anatomy, label.site, box)
            and not contradicted(activation, anatomy, label.site, box)
        )


def _not_assessed(settings: _RuleOptions, *, size_judged: bool) -> QualityNote:
    """The note that names all labels that are not reported, since a label that is not reported is not absent.
    ``size_judged``: whether the heart's size was judged by the ratio.
    """
    judged = {ratio.CARDIOMEGALY} if size_judged else set()
    hidden = [one.code.meaning for one in settings.labels if one.name not in {*settings.shown, *judged}]
    untrained = "that the model was never trained for, such as bones, mediastinum, lines and tubes."
    text = f"{', '.join(hidden)}. Nor anything {untrained}" if hidden else f"Anything {untrained}"
    return QualityNote(NOT_ASSESSED, text, names=tuple(hidden))


def _cleaned(
    image: SourceImage, report: Progress
) -> tuple[tuple[DerivedImage, ...], tuple[QualityNote, ...]]:
    """The image without its text, as derived images and notes; no derived image, and a note, if cleaning
    failed.
    """
    # Loads the text networks: only where a rule asks for it.
    from ai_pipeline.burnin.cleaning import clean

    try:
        result = clean(image, report)
    except CleaningFailed as failure:
        text = f"no cleaned picture: {failure}"
        return (), (QualityNote("cleaning_failed", text, image.uid, places=failure.places),)
    return (result.image, result.mask), result.notes


def _boxes_mapped(
    boxes: Callable[[str], tuple[Region, ...]], way: Affine, header: ImageHeader
) -> Callable[[str], tuple[Region, ...]]:
    """Return the function ``boxes`` (from a label to its boxes) with its boxes mapped by ``way`` to the image
    that ``header`` describes.
    """

    def mapped(label: str) -> tuple[Region, ...]:
        """The boxes of ``label``, mapped and kept inside the image."""
        return tuple(
            replace(
                box,
                points=tuple(
                    (min(max(x, 0.0), float(header.columns)), min(max(y, 0.0), float(header.rows)))
                    for x, y in way(box.points)
                ),
            )
            for box in boxes(label)
        )

    return mapped


BOX_NOTE: Final = "A box is an approximate place, not a contour or a measurement."


def on_its_organ(anatomy: Anatomy, site: Code | None, region: Region) -> bool:
    """Whether the box ``region`` touches the organ of its finding: the heart, or a lung for any other
    ``site``.
    """
    in_heart = site is not None and site.meaning == "Heart"
    return anatomy.touches(region.bounds, (HEART,) if in_heart else (RIGHT_LUNG, LEFT_LUNG))


def contradicted(found: Activation | None, anatomy: Anatomy, site: Code | None, region: Region) -> bool:
    """Whether the evidence map ``found`` of a finding at the body ``site`` lies mostly on the other side of
    the chest than its box ``region``. The middle between the outer edges of the lungs divides the sides. A
    finding of the heart has no side.
    """
    if found is None or (site is not None and site.meaning == "Heart"):
        return False
    edges = np.flatnonzero(anatomy.masks[[RIGHT_LUNG, LEFT_LUNG]].any(axis=(0, 1)))
    middle = (int(edges[0]) + int(edges[-1]) + 1) / 2
    to_grid = anatomy.from_grid.inverse()
    left, top, right, bottom = region.bounds
    box = to_grid([((left + right) / 2, (top + bottom) / 2)])[0][0]
    down, across = np.mgrid[0.5 : found.values.shape[0], 0.5 : found.values.shape[1]]
    cell = found.size / found.values.shape[1]
    centres = list(zip((across * cell).ravel().tolist(), (down * cell).ravel().tolist(), strict=True))
    columns = np.array([x for x, _ in to_grid.after(found.to_model.inverse())(centres)])
    beside = (columns < middle) != (box < middle)
    # Share of a map on the other side of the chest from which it contradicts a box.
    return float(found.values.ravel()[beside].sum() / found.values.sum()) >= 2 / 3


def side_of(
    image: SourceImage, pose: Pose, anatomy: Anatomy | None, site: Code | None, region: Region
) -> Literal["", "L", "R"]:
    """The patient's side of a detector's box of a finding of lungs or pleurae; "" unless it lies in one lung.

    Also "" unless Patient Orientation confirms that the film lies as it was outlined: the right lung on the
    left of the film, the head on top. That of an image that had to be reoriented is not trusted.
    """
    meant = site is not None and site.meaning in {"Lung", "Pleura"} and region.origin is Origin.DETECTOR
    orientation = image.header.attributes.get("PatientOrientation", "").split("\\")
    if not meant or anatomy is None or pose != UPRIGHT or [one[:1] for one in orientation] != ["L", "F"]:
        return ""
    rows, columns = anatomy.on_grid(region.bounds)
    right, left = (int(anatomy.masks[lung, rows, columns].sum()) for lung in (RIGHT_LUNG, LEFT_LUNG))
    # Share of a box's lung pixels that must lie in one lung for its side to be named.
    if max(right, left) <= 0.75 * (right + left):
        return ""
    return "R" if right > left else "L"
