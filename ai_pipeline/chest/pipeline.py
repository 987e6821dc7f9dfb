"""The pipeline ``chest_xray``: findings of frontal chest X-rays of adults, with probability and place.

The header is checked first, then the pixels: other images are refused with one sentence that says why.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt

from ai_pipeline.chest import intended_use, prevalence, ratio
from ai_pipeline.chest.anatomy import HEART, LEFT_LUNG, RIGHT_LUNG, Anatomy, AnatomyModel
from ai_pipeline.chest.classifier import Analysis, Classifier, decide, probability
from ai_pipeline.chest.detector import BoxDetector, DetectorInput
from ai_pipeline.chest.explain import Activation
from ai_pipeline.chest.intended_use import refused_by_header, refused_by_pixels
from ai_pipeline.chest.zones import side_of, zone_words
from ai_pipeline.contract import (
    Accept,
    Code,
    Decision,
    DerivedImage,
    Finding,
    Measurement,
    ModelRef,
    Origin,
    PipelineResult,
    Progress,
    QualityNote,
    Refusal,
    Refuse,
    RefusedBy,
    Region,
    Scores,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.images.orientation import UPRIGHT, Pose
from ai_pipeline.models.registry import Card, Label, find
from ai_pipeline.models.store.folder import SHIPPED_MODELS, active

MODEL = SHIPPED_MODELS["chest_xray"]
CLEANER = "burnin-text"
BOX_NOTE = "The box comes from class activation: an approximate place, not a contour or a measurement."
DETECTOR_NOTE = (
    "The box comes from a detector taught by radiologists' boxes: an approximate place, not a contour or a "
    "measurement."
)
ZONED = ("Lung", "Pleura")  # meanings of the sites whose boxes are described as zones of a side
NO_PLACE = "no reliable location"
NO_GATE_NOTE = "The model has no domain gate: that this is a frontal chest X-ray, only the header says."
REMEMBERED = 4  # analyses kept between accepts() and run(), which get the same images


@dataclass(frozen=True, slots=True, eq=False)
class _AnalysedImage:
    """An image with its analysis; without outlines where it is none of a chest. ``timings`` in seconds."""

    image: SourceImage
    analysis: Analysis
    detector_input: DetectorInput | None
    anatomy: Anatomy | None
    exposure: Exposure
    timings: Mapping[str, float]


class ChestXray:
    """The pipeline ``chest_xray`` (:class:`ai_pipeline.contract.Pipeline`).

    Options: ``heatmaps`` (default false) returns the activation map of every finding that is present;
    ``all_labels`` (default false) reports also the labels whose test figures do not support them; ``clean``
    (default false) returns the picture without the text burned into it, where that can be verified;
    ``prevalence`` (``{ Effusion = 0.05 }``) shifts probabilities and thresholds to a site's prevalence;
    ``ratio`` (default PA) says on which images the cardiothoracic ratio is measured: PA, all, off.
    """

    name = "chest_xray"
    version = "1.1"
    options: Mapping[str, type] = MappingProxyType(
        {"heatmaps": bool, "all_labels": bool, "clean": bool, prevalence.OPTION: dict, ratio.OPTION: str}
    )
    modalities = intended_use.MODALITIES
    """Modalities and View Positions of the images that are accepted."""
    views = intended_use.FRONTAL - {""}
    per_image = True

    def __init__(self, *, models_dir: Path | None = None) -> None:
        self._models_dir = models_dir
        self._classifier: Classifier | None = None
        self._detector: BoxDetector | None = None
        self._anatomy: AnatomyModel | None = None
        self._analysed: deque[_AnalysedImage] = deque(maxlen=REMEMBERED)

    def warm_up(self) -> None:
        """Load the models. Raises CardError when one is missing or altered."""
        self._model()
        self._anatomy_model()

    def models(self) -> tuple[ModelRef, ...]:
        return (self._card().ref, find(ratio.MODEL, self._models_dir).ref)

    def option_faults(self, options: Mapping[str, object]) -> Mapping[str, str]:
        """What is wrong with the values of ``options``, by option. May raise CardError."""
        given = options.get(prevalence.OPTION)
        wrong = {
            prevalence.OPTION: None if given is None else prevalence.fault(self._card(), given),
            ratio.OPTION: ratio.fault(options.get(ratio.OPTION, ratio.Projections.PA)),
        }
        return {option: remedy for option, remedy in wrong.items() if remedy is not None}

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (no option widens the scope)
    ) -> Accept | Refuse:
        """Choose the images that are frontal chest X-rays of adults; decodes those whose header allows it.

        Of one exposure sent both for processing and for presentation only the latter is taken.
        """
        taken: list[str] = []
        reasons: dict[str, None] = {}
        refused: list[Refusal] = []
        for image in images:
            by_header = refused_by_header(image.header)
            reason = by_header or self._refused_by_pixels(image)
            if reason is None:
                taken.append(image.uid)
                continue
            gate = RefusedBy.HEADER if by_header else RefusedBy.PIXELS
            refused.append(Refusal(image.uid, self._model().card.ref, gate))
            reasons[reason] = None
        if taken:
            return Accept(tuple(taken), tuple(refused))
        return Refuse("; ".join(reasons) or "there is no image", tuple(refused))

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Analyse ``images`` (those that ``accepts`` named). Raises PixelError."""
        seconds = {"decode": 0.0, "model": 0.0, "explain": 0.0}
        findings: list[Finding] = []
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        scores: list[Scores] = []
        measurements: list[Measurement] = []
        labels = self._labels(options)
        models = self.models()
        if options.get("clean", False):
            models += (find(CLEANER, self._models_dir).ref,)
            seconds["clean"] = 0.0
        for number, image in enumerate(images):
            report(number / len(images), "chest X-ray")
            analysed = self._analyse(image)
            began = time.perf_counter()
            found = self._findings(analysed, labels, options)
            findings += found
            notes += self._no_place_notes(found)
            notes += _place_notes(image, found, analysed.analysis.pose)
            notes += intended_use.notes(image, analysed.analysis.pose, analysed.exposure)
            scores.append(self._scores(analysed))
            measured = self._ratio(analysed, options)
            measurements += measured.measurements
            notes += measured.notes
            explained = time.perf_counter()
            seconds["explain"] += explained - began
            for stage, value in analysed.timings.items():
                seconds[stage] += value
            if "clean" in seconds:
                cleaned, cleaning_notes = _cleaned(image, report)
                pictures += cleaned
                notes += cleaning_notes
                seconds["clean"] += time.perf_counter() - explained
        if not self._model().has_gate:
            notes.append(QualityNote("no_gate", NO_GATE_NOTE))
        notes += _box_notes(findings)
        notes += self._prevalence_note(options)
        report(1.0, "chest X-ray")
        # Includes what accepts() has decoded and analysed already.
        seconds["total"] = sum(seconds.values())
        return PipelineResult(
            findings=tuple(findings),
            images=tuple(pictures),
            quality=tuple(notes),
            timings=seconds,
            models=models,
            scores=tuple(scores),
            measurements=tuple(measurements),
        )

    def _card(self) -> Card:
        return self._classifier.card if self._classifier else active(self.name, self._models_dir)

    def _labels(self, options: Mapping[str, object]) -> tuple[Label, ...]:
        """The card's labels, shifted to the site's prevalence where a rule gives one."""
        wanted, card = options.get(prevalence.OPTION), self._card()
        return card.labels if wanted is None else prevalence.at_site(card, wanted)

    def _prevalence_note(self, options: Mapping[str, object]) -> list[QualityNote]:
        wanted = options.get(prevalence.OPTION)
        if not isinstance(wanted, Mapping) or not wanted:
            return []
        return [QualityNote("prevalence", prevalence.sentence(self._card(), wanted))]

    def _model(self) -> Classifier:
        if self._classifier is None:
            card = active(self.name, self._models_dir)
            self._classifier, self._detector = Classifier(card), BoxDetector.of(card)
        return self._classifier

    def _anatomy_model(self) -> AnatomyModel:
        if self._anatomy is None:
            self._anatomy = AnatomyModel.of(find(ratio.MODEL, self._models_dir))
        return self._anatomy

    def _ratio(self, analysed: _AnalysedImage, options: Mapping[str, object]) -> ratio.Ratio:
        wanted = ratio.Projections(str(options.get(ratio.OPTION, ratio.Projections.PA)))
        if analysed.anatomy is None:
            return ratio.Ratio()
        pose = analysed.analysis.pose
        return ratio.measure(analysed.image, analysed.anatomy, pose, self._anatomy_model(), wanted)

    def _refused_by_pixels(self, image: SourceImage) -> str | None:
        analysed = self._analyse(image)
        in_domain = self._model().in_domain(analysed.analysis)
        return refused_by_pixels(in_domain, analysed.analysis.kind, analysed.exposure)

    def _analyse(self, image: SourceImage) -> _AnalysedImage:
        """Decode and analyse ``image``, unless that was just done: run() gets the images of accepts()."""
        for analysed in self._analysed:
            if analysed.image is image:
                return analysed
        start = time.perf_counter()
        grey = _grey(image.display())
        decoded = time.perf_counter()
        model = self._model()
        analysis = model.analyse(grey)
        detector_input, anatomy = None, None
        if model.in_domain(analysis):
            anatomy = self._anatomy_model().outline(grey, analysis.pose)
            if self._detector is not None:
                size = analysis.rows, analysis.columns
                detector_input = self._detector.take(analysis.values, analysis.to_model, *size)
        timings = {"decode": decoded - start, "model": time.perf_counter() - decoded}
        analysed = _AnalysedImage(image, analysis, detector_input, anatomy, Exposure.of(grey), timings)
        self._analysed.append(analysed)
        return analysed

    def _scores(self, analysed: _AnalysedImage) -> Scores:
        model, analysis = self._model(), analysed.analysis
        labels = enumerate(model.card.labels)
        values = {label.name: model.probability(analysis, index) for index, label in labels}
        return Scores(analysed.image.uid, model.card.ref, values, reoriented=analysis.pose != UPRIGHT)

    def _findings(
        self, analysed: _AnalysedImage, labels: Sequence[Label], options: Mapping[str, object]
    ) -> list[Finding]:
        model, image, analysis = self._model(), analysed.image, analysed.analysis
        found: list[Finding] = []
        for index, label in enumerate(labels):
            if not (label.supported or options.get("all_labels", False)):
                continue
            value = probability(label, float(analysis.logits[index]))
            decision = decide(label, value)
            region, evidence = None, None
            if decision is Decision.PRESENT:
                activation = model.activation(analysis, index)
                region = self._box(analysed, activation, index)
                if region is not None and not _on_its_organ(analysed.anatomy, label.site, region):
                    region = None
                if activation and options.get("heatmaps", False):
                    evidence = model.heatmap(activation)
            found.append(
                Finding(
                    label=label.name,
                    code=label.code,
                    probability=value,
                    threshold=label.threshold,
                    decision=decision,
                    source_uid=image.uid,
                    model=model.card.ref,
                    regions=(region,) if region else (),
                    site=label.site,
                    side=_side(analysed, label, region),
                    evidence=evidence,
                )
            )
        return found

    def _box(self, analysed: _AnalysedImage, activation: Activation | None, index: int) -> Region | None:
        """The detector's box where the card has a detector, else the box of the activation map."""
        model = self._model()
        if self._detector is None:
            return model.box(activation, index) if activation else None
        if analysed.detector_input is None:
            return None
        return self._detector.region(analysed.detector_input, model.card.labels[index].name)

    def _no_place_notes(self, findings: Sequence[Finding]) -> list[QualityNote]:
        """Which findings are present without a box that is reliable enough to be shown."""
        names = [f.code.meaning for f in findings if f.decision is Decision.PRESENT and not f.regions]
        if self._detector is None or not names:
            return []
        return [QualityNote(NO_PLACE, f"{', '.join(names)}.", findings[0].source_uid)]


def _box_notes(findings: Sequence[Finding]) -> list[QualityNote]:
    origins = {region.origin for finding in findings for region in finding.regions}
    notes = [QualityNote("box", BOX_NOTE)] if Origin.ACTIVATION in origins else []
    return [*notes, QualityNote("box", DETECTOR_NOTE)] if Origin.DETECTOR in origins else notes


def _place_notes(image: SourceImage, findings: Sequence[Finding], pose: Pose) -> list[QualityNote]:
    """The detector's boxes in lungs and pleurae in words, where Patient Orientation gives the sides.

    Of an image that had to be reoriented Patient Orientation is not trusted.
    """
    size = image.header.columns, image.header.rows
    orientation = _orientation(image, pose)
    places = [
        f"{finding.code.meaning}: {words}"
        for finding in findings
        for region in finding.regions
        if _has_a_side(finding.site, region) and (words := zone_words(region.bounds, size, orientation))
    ]
    if not places:
        return []
    return [QualityNote("place", f"{'; '.join(places)} (approximate).", image.uid)]


def _side(analysed: _AnalysedImage, label: Label, region: Region | None) -> Literal["", "L", "R"]:
    """The side of a box, under the same conditions as its place in words."""
    if region is None or not _has_a_side(label.site, region):
        return ""
    header = analysed.image.header
    orientation = _orientation(analysed.image, analysed.analysis.pose)
    return side_of(region.bounds, (header.columns, header.rows), orientation)


def _orientation(image: SourceImage, pose: Pose) -> str:
    return image.header.attributes.get("PatientOrientation", "") if pose == UPRIGHT else ""


def _on_its_organ(anatomy: Anatomy | None, site: Code | None, region: Region) -> bool:
    """Whether a box lies on the organ of its finding; never where heart and lungs could not be outlined.

    A white lung leaves a detector the other one: it would point to the wrong side.
    """
    if anatomy is None or not anatomy.is_chest:
        return False
    in_heart = site is not None and site.meaning == "Heart"
    return anatomy.touches(region.bounds, (HEART,) if in_heart else (RIGHT_LUNG, LEFT_LUNG))


def _has_a_side(site: Code | None, region: Region) -> bool:
    return site is not None and site.meaning in ZONED and region.origin is Origin.DETECTOR


def _cleaned(
    image: SourceImage, report: Progress
) -> tuple[tuple[DerivedImage, ...], tuple[QualityNote, ...]]:
    # Loads the text networks: only where a rule asks for it.
    from ai_pipeline.burnin.cleaning import clean

    try:
        result = clean(image, report)
    except CleaningFailed as failure:
        return (), (QualityNote("cleaning_failed", f"no cleaned picture: {failure}", image.uid),)
    return (result.image, result.mask), result.notes


def _grey(display: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if display.ndim == 2:
        return display
    return np.asarray(display.mean(axis=2), np.uint8)
