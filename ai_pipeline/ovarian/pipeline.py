"""The pipeline ``ovarian``: class of a cyst or tumour in ultrasound frames of the pelvis, and its outline.

An image is cleaned first; the cleaned picture is classified, outlined and drawn on. An image that cannot be
cleaned gets no result.
"""

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ai_pipeline import summary
from ai_pipeline.accepting import accept
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.devices.rules import device_rules
from ai_pipeline.burnin.tools import cleaning_models, shared_tools
from ai_pipeline.contract import (
    Accept,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    ModelRef,
    PipelineResult,
    Progress,
    QualityNote,
    Reading,
    Refuse,
    Scores,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.models.registry import Card, find
from ai_pipeline.ovarian.card import CARD, LESION, OvarianOptions, refused_by_header
from ai_pipeline.ovarian.classifier import (
    NORMAL,
    LesionOutline,
    Outliner,
    OvarianAnalysis,
    OvarianClassifier,
    PixelGate,
    decisions,
    heatmap,
)

MODEL = "ovarian-efficientnet-lite0"
UNSURE_NOTE = "The model suggests no class and excludes none"
NOT_ASSESSED = (
    "size, blood flow, the other ovary, uterus, free fluid, and every kind of lesion that is no class of it"
)


@dataclass(frozen=True, slots=True, eq=False)
class _AnalysedFrame:
    """An image as it came; ``refused``: why its pixels forbid an answer."""

    image: SourceImage
    analysis: OvarianAnalysis
    refused: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _CleanedFrame:
    """What the networks say of a cleaned picture. ``filled``: the share of the lesion, as outlined before or
    after cleaning, that was filled."""

    analysis: OvarianAnalysis
    outline: LesionOutline
    filled: float

    @property
    def lesion_is_there(self) -> bool:
        # Share of the outline that may be filled: calipers and their lines take less.
        return self.filled <= 0.1


class Ovarian:
    """The pipeline ``ovarian`` (:class:`ai_pipeline.contract.Pipeline`)."""

    card = CARD

    def __init__(
        self, *, models_dir: Path | None = None, device_rules: Path | None = None, card: Card | None = None
    ) -> None:
        """``card``: of another model than the shipped one."""
        self._models_dir, self._device_rules, self._given = models_dir, device_rules, card
        self._networks: tuple[OvarianClassifier, Outliner, PixelGate] | None = None
        self._analysed: deque[_AnalysedFrame] = deque(maxlen=4)  # those of accepts() for run()

    def warm_up(self) -> None:
        """Load the models. Raises CardError, DeviceRuleError."""
        self._models()
        device_rules(self._device_rules)
        shared_tools(self._models_dir, self._device_rules).reader.warm_up()

    def models(self) -> tuple[ModelRef, ...]:
        return self._card().ref, *cleaning_models(self._models_dir, self._device_rules)

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        """Choose the frames of a pelvis in which an ovary may be. Decodes a frame only if its header allows
        it.
        """
        pelvis = OvarianOptions.of(options).pelvis
        return accept(
            images,
            lambda image: refused_by_header(image.header, rule_says_pelvis=pelvis),
            lambda image: self._analyse(image).refused,
            lambda: self._card().ref,
        )

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Clean and analyse ``images``, which ``accepts`` chose. An image that cannot be cleaned is left out,
        with a note. Raises CleaningFailed if none can be cleaned, and PixelError.
        """
        wanted = OvarianOptions.of(options)
        findings: list[Finding] = []
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        scores: list[Scores] = []
        readings: list[Reading] = []
        failures: list[CleaningFailed] = []
        seconds: defaultdict[str, float] = defaultdict(float)
        began = time.perf_counter()
        for number, image in enumerate(images):
            report(number / len(images), "ovary")
            start = time.perf_counter()
            try:
                cleaned = clean(image, report, tools=shared_tools(self._models_dir, self._device_rules))
            except CleaningFailed as failure:
                failures.append(failure)
                text = f"no cleaned picture: {failure}"
                notes.append(QualityNote("cleaning_failed", text, image.uid, places=failure.places))
                continue
            seen = time.perf_counter()
            seconds["clean"] += seen - start
            # Where nothing was filled the picture is the cleaned one.
            classifier, outliner, _ = self._models()
            analysis = self._analyse(image).analysis
            before = outline = outliner.outline(analysis)
            removed = np.asarray(cleaned.mask.frames[0]) > 0
            if removed.any():
                analysis = classifier.analyse(image.show(cleaned.image.frames[0]))
                outline = outliner.outline(analysis)
            shares = [float(removed[one.mask].mean()) for one in (before, outline) if one.mask is not None]
            frame = _CleanedFrame(analysis, outline, max(shares, default=0.0))
            seconds["model"] += time.perf_counter() - seen
            found = self._findings(image, frame, wanted)
            findings += found
            pictures += [cleaned.image, cleaned.mask, *self._outlines(image, found, frame.outline, wanted)]
            notes += [*cleaned.notes, *_notes(image, found, frame)]
            readings += cleaned.readings
            values = zip(self._card().labels, frame.analysis.probabilities.tolist(), strict=True)
            scores.append(Scores(image.uid, self._card().ref, {label.name: value for label, value in values}))
        if failures and len(failures) == len(images):
            raise failures[0]
        notes.append(QualityNote("cancer", "No answer excludes cancer.", on_faces=True))
        names = ("whether a lesion is benign", "size", "blood flow")
        notes.append(QualityNote(summary.NOT_ASSESSED, f"{NOT_ASSESSED}.", names=names))
        report(1.0, "ovary")
        seconds["total"] = time.perf_counter() - began
        return PipelineResult(
            tuple(findings),
            tuple(pictures),
            tuple(notes),
            dict(seconds),
            self.models(),
            scores=tuple(scores),
            readings=tuple(readings),
            drawn_on="cleaned",
        )

    def _card(self) -> Card:
        return self._given or (self._networks[0].card if self._networks else find(MODEL, self._models_dir))

    def _models(self) -> tuple[OvarianClassifier, Outliner, PixelGate]:
        if self._networks is None:
            card = self._card()
            classifier = OvarianClassifier(card)
            self._networks = classifier, Outliner(card), PixelGate(classifier, self._models_dir)
        return self._networks

    def _analyse(self, image: SourceImage) -> _AnalysedFrame:
        """Decode and analyse ``image``, unless that was just done: run() gets the images of accepts()."""
        for seen in self._analysed:
            if seen.image is image:
                return seen
        classifier, _, gate = self._models()
        picture = image.display()
        analysis = classifier.analyse(picture)
        self._analysed.append(_AnalysedFrame(image, analysis, gate.refused(picture, analysis)))
        return self._analysed[-1]

    def _findings(self, image: SourceImage, frame: _CleanedFrame, options: OvarianOptions) -> list[Finding]:
        """One for each class; the likeliest one bears the outline unless it is the normal ovary, and if it is
        present the heat map. None where the cleaned picture is no longer what the model was made for."""
        analysis, outline = frame.analysis, frame.outline
        if not self._models()[0].in_domain(analysis):
            return []
        card, hidden = self._card(), not options.malignancy
        decided = decisions(analysis.probabilities, card.labels, hidden=hidden)
        if not frame.lesion_is_there:
            decided = (Decision.INDETERMINATE,) * len(card.labels)
        found = [
            Finding(
                label=label.name,
                code=label.code,
                probability=min(float(value), 1.0),
                threshold=label.threshold,
                decision=decision,
                source_uid=image.uid,
                model=card.ref,
                site=label.site,
                research_only=hidden and not label.supported,
                exclusive=True,
            )
            for label, value, decision in zip(card.labels, analysis.probabilities, decided, strict=True)
        ]
        best = int(np.argmax(analysis.probabilities))
        if outline.region is not None and frame.lesion_is_there and found[best].label != NORMAL:
            found[best] = replace(found[best], regions=(outline.region,))
        if options.heatmaps and found[best].decision is Decision.PRESENT:
            found[best] = replace(found[best], evidence=heatmap(analysis, best))
        return found

    def _outlines(
        self,
        image: SourceImage,
        found: Sequence[Finding],
        outline: LesionOutline,
        options: OvarianOptions,
    ) -> list[DerivedImage]:
        outlined = next((one for one in found if one.regions and not one.research_only), None)
        if outline.mask is None or outlined is None or not options.outlines:
            return []
        return [
            DerivedImage(
                ImageKind.ORGANS,
                image.uid,
                np.where(outline.mask, np.uint8(255), np.uint8(0))[None],
                "MONOCHROME2",
                "outlined by AI, not for diagnostic use",
                models=(self._card().ref,),
                organs=(LESION,),
            )
        ]


def _notes(image: SourceImage, found: Sequence[Finding], frame: _CleanedFrame) -> list[QualityNote]:
    present = any(finding.decision is Decision.PRESENT for finding in found)
    note = UNSURE_NOTE if found else "The cleaned picture does not look like an ultrasound frame of an ovary"
    if not frame.lesion_is_there:
        note = f"{frame.filled:.0%} of what was outlined was filled or blacked out"
    fault = frame.outline.fault
    notes = (
        (not present, summary.UNSURE, f"{note}.", note != UNSURE_NOTE),  # the result has that line already
        (bool(fault), "no_outline", f"{fault}: none is drawn.", False),
        (image.header.lossy, "lossy", "The image was compressed with loss.", False),
    )
    return [QualityNote(name, text, image.uid, faces) for applies, name, text, faces in notes if applies]
