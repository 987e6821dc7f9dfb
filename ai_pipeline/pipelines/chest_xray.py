"""Frontal chest X-rays of adults: findings with probability, decision and place.

The header is asked first, then the pixels: what is not a frontal chest X-ray of an adult is refused with
one sentence that says why.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ai_pipeline.classifier import Analysis, Classifier, decide
from ai_pipeline.contract import (
    Accept,
    CleaningFailed,
    Decision,
    DerivedImage,
    Finding,
    ImageHeader,
    ModelRef,
    PipelineResult,
    Progress,
    QualityNote,
    Refusal,
    Refuse,
    RefusedBy,
    Scores,
    SourceImage,
)
from ai_pipeline.explain import heatmap
from ai_pipeline.registry import find

MODEL = "chest-efficientnet-lite0"
CLEANER = "ultrasound-burnin-baseline"
YOUNGEST = 16.0  # years; no younger patient is in the training data
SMALLEST = 128  # pixels a side; the network's own resolution
MODALITIES = frozenset({"CR", "DX", "DR"})
CHEST = frozenset({"CHEST", "THORAX", "LUNG", "LUNGS", "CHEST PA", "CHEST AP", "CHEST_PA", "CHEST_AP"})
FRONTAL = frozenset({"", "AP", "PA"})  # of the View Positions (0018,5101) that PS3.3 C.8.1.1 names
BOX_NOTE = "The box comes from class activation: an approximate place, not a contour or a measurement."
KEPT = 4  # analyses remembered between accepts() and run()


class ChestXray:
    """The pipeline ``chest_xray`` (:class:`ai_pipeline.contract.Pipeline`).

    Options: ``heatmaps`` (default true) hands back the activation map of every finding that is present;
    ``all_labels`` (default false) reports also the labels whose test figures do not support them; ``clean``
    (default false) hands back the picture without the text burned into it, where that can be verified.
    """

    name = "chest_xray"
    version = "1.0"
    options: Mapping[str, type] = MappingProxyType({"heatmaps": bool, "all_labels": bool, "clean": bool})
    per_image = True

    def __init__(self, *, models_dir: Path | None = None) -> None:
        self._models_dir = models_dir
        self._classifier: Classifier | None = None
        self._seen: OrderedDict[int, tuple[SourceImage, Analysis, dict[str, float]]] = OrderedDict()

    def warm_up(self) -> None:
        """Load the model. Raises :class:`ai_pipeline.registry.CardError` when it is missing or altered."""
        self._model()

    def models(self) -> tuple[ModelRef, ...]:
        card = self._classifier.card if self._classifier else find(MODEL, self._models_dir)
        return (card.ref,)

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (no option widens the scope)
    ) -> Accept | Refuse:
        """Choose the images that are frontal chest X-rays of adults; decodes those whose header allows it.

        Of one exposure sent both for processing and for presentation only the latter is taken.
        """
        taken: list[str] = []
        reasons: list[str] = []
        refused: list[Refusal] = []
        for image in images:
            by_header = _refused_by_header(image.header)
            reason = by_header or self._refused_by_pixels(image)
            if reason is None:
                taken.append(image.uid)
                continue
            gate = RefusedBy.HEADER if by_header else RefusedBy.PIXELS
            refused.append(Refusal(image.uid, self._model().card.ref, gate))
            if reason not in reasons:
                reasons.append(reason)
        if taken:
            return Accept(tuple(taken), tuple(refused))
        return Refuse("; ".join(reasons) if reasons else "there is no image", tuple(refused))

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Analyse ``images`` (those that ``accepts`` named). May raise ``ai_pipeline.pixels.PixelError``."""
        seconds = {"decode": 0.0, "model": 0.0, "explain": 0.0}
        findings: list[Finding] = []
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        scores: list[Scores] = []
        models = self.models()
        cleaner = self._cleaner(options)
        for number, image in enumerate(images):
            report(number / len(images), "chest X-ray")
            analysis, spent = self._analysis(image)
            explaining = time.perf_counter()
            findings += self._findings(image, analysis, options)
            notes += _notes(image)
            scores.append(self._scores(image, analysis))
            seconds["explain"] += time.perf_counter() - explaining
            for stage, value in spent.items():
                seconds[stage] += value
            if cleaner is not None:
                cleaning = time.perf_counter()
                cleaned, told = _cleaned(image, cleaner, report)
                pictures += cleaned
                notes += told
                seconds["clean"] = seconds.get("clean", 0.0) + time.perf_counter() - cleaning
        if any(finding.regions for finding in findings):
            notes.append(QualityNote("box", BOX_NOTE))
        report(1.0, "chest X-ray")
        # What accepts() has decoded and analysed already counts too: it is the time this image took.
        seconds["total"] = sum(seconds.values())
        if cleaner is not None:
            models += (cleaner,)
        return PipelineResult(tuple(findings), tuple(pictures), tuple(notes), seconds, models, tuple(scores))

    def _model(self) -> Classifier:
        if self._classifier is None:
            self._classifier = Classifier.of(MODEL, self._models_dir)
        return self._classifier

    def _cleaner(self, options: Mapping[str, object]) -> ModelRef | None:
        return find(CLEANER, self._models_dir).ref if options.get("clean", False) else None

    def _refused_by_pixels(self, image: SourceImage) -> str | None:
        analysis, _ = self._analysis(image)
        if self._model().in_domain(analysis):
            return None
        return "the pixels do not look like a frontal chest X-ray of an adult"

    def _analysis(self, image: SourceImage) -> tuple[Analysis, dict[str, float]]:
        # accepts() has just decoded and analysed the image that run() is then given.
        kept = self._seen.get(id(image))
        if kept is not None and kept[0] is image:
            return kept[1], kept[2]
        start = time.perf_counter()
        grey = _grey(image.display())
        decoded = time.perf_counter()
        analysis = self._model().analyse(grey)
        spent = {"decode": decoded - start, "model": time.perf_counter() - decoded}
        self._seen[id(image)] = (image, analysis, spent)
        while len(self._seen) > KEPT:
            self._seen.popitem(last=False)
        return analysis, spent

    def _scores(self, image: SourceImage, analysis: Analysis) -> Scores:
        model = self._model()
        labels = enumerate(model.card.labels)
        values = {label.name: model.probability(analysis, index) for index, label in labels}
        return Scores(image.uid, model.card.ref, values)

    def _findings(
        self, image: SourceImage, analysis: Analysis, options: Mapping[str, object]
    ) -> list[Finding]:
        model = self._model()
        found: list[Finding] = []
        for index, label in enumerate(model.card.labels):
            if not (label.supported or options.get("all_labels", False)):
                continue
            value = model.probability(analysis, index)
            decision = decide(label, value)
            region, evidence = None, None
            if decision is Decision.PRESENT:
                activation = model.activation(analysis, index)
                region = model.box(activation, index)
                evidence = heatmap(activation) if label.box and options.get("heatmaps", True) else None
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
                    evidence=evidence,
                )
            )
        return found


def _cleaned(
    image: SourceImage, cleaner: ModelRef, report: Progress
) -> tuple[tuple[DerivedImage, ...], tuple[QualityNote, ...]]:
    from ai_pipeline.burnin.cleaning import clean  # loads the text networks: only where a rule asks for it

    try:
        result = clean(image, report, models=(cleaner,))
    except CleaningFailed as failure:
        return (), (QualityNote("cleaning_failed", f"no cleaned picture: {failure}", image.uid),)
    return (result.image, result.mask), result.notes


def _refused_by_header(header: ImageHeader) -> str | None:
    reasons = (
        (header.modality not in MODALITIES, f"modality {header.modality or 'unknown'} is not CR or DX"),
        (header.frames != 1, f"{header.frames} frames: a chest X-ray has one"),
        (
            bool(header.body_part) and header.body_part not in CHEST,
            f"Body Part Examined is {header.body_part}, not the chest",
        ),
        (header.view_position not in FRONTAL, f"View Position {header.view_position} is not frontal"),
        (
            header.age_years is not None and header.age_years < YOUNGEST,
            f"the patient is younger than {YOUNGEST:.0f} years: the model was made for adults",
        ),
        (
            header.presentation_intent == "FOR PROCESSING",
            "the image is for processing, not for presentation",
        ),
        (
            min(header.rows, header.columns) < SMALLEST,
            f"{header.columns} × {header.rows} pixels are fewer than {SMALLEST} a side",
        ),
    )
    return next((reason for refused, reason in reasons if refused), None)


def _notes(image: SourceImage) -> list[QualityNote]:
    notes: list[QualityNote] = []
    if image.header.age_years is None:
        notes.append(QualityNote("age", "The patient's age is unknown: the model is for adults.", image.uid))
    if not image.header.body_part:
        notes.append(
            QualityNote("body_part", "Body Part Examined is empty: judged by the pixels alone.", image.uid)
        )
    if image.header.lossy:
        notes.append(QualityNote("lossy", "The image was compressed with loss.", image.uid))
    return notes


def _grey(display: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if display.ndim == 2:
        return display
    return np.asarray(display.mean(axis=2), np.uint8)
