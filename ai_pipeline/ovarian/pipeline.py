"""The pipeline ``ovarian``: class of a cyst or tumour in ultrasound frames of the pelvis, and its outline.

An image is cleaned first; the cleaned picture is classified, outlined and drawn on. An image that cannot be
cleaned gets no result.

The lesion (the ovary if it is normal) is outlined if the network is sure. The network outlines the picture
and its mirror image. If the two disagree, or the outline is not a single place in the picture, there is no
outline: a wrong one is worse than none. ``ai-pipeline evaluate`` runs the same classifier, so that the
evaluation measures what runs.
"""

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from ai_pipeline import summary
from ai_pipeline.accepting import accept
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.devices.rules import device_rules
from ai_pipeline.burnin.tools import cleaning_models, shared_tools
from ai_pipeline.contract import (
    Accept,
    Bools,
    Decision,
    DerivedImage,
    Finding,
    Floats,
    Grey,
    Heatmap,
    ImageKind,
    ModelRef,
    Origin,
    PipelineResult,
    Progress,
    QualityNote,
    Reading,
    Refuse,
    Region,
    Scores,
    SourceImage,
)
from ai_pipeline.errors import CardError, CleaningFailed
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.models import engine
from ai_pipeline.models.engine import Engine
from ai_pipeline.models.registry import Card, Input, Label, find, load, network_input, read
from ai_pipeline.models.store.folder import active
from ai_pipeline.networks.gate import FeatureGate
from ai_pipeline.networks.heads import HeadModel
from ai_pipeline.ovarian.card import (
    CARD,
    CLASSIFIER,
    LESION,
    OvarianOptions,
    refused_by_header,
    shows_pregnancy,
)

METHOD = "class activation, coarse"
NORMAL = "Ovary_Normal"
"""Never called present: in five folds two of three such answers were right, and five cancers got it."""


@dataclass(frozen=True, slots=True, eq=False)
class OvarianAnalysis:
    """The classifier's output for a picture of ``rows`` × ``columns``. ``values [1, 3, size, size]``: the
    network's input; ``probabilities [labels]`` 0 to 1 with the sum 1; ``places [labels, h, w]``: class
    activation; ``distance`` to the training frames, accepted up to the model card's threshold; ``to_model``:
    the map from source to model coordinates.
    """

    values: Floats
    probabilities: Floats
    places: Floats
    distance: float
    to_model: Affine
    rows: int
    columns: int


class OvarianClassifier:
    """The classifier of ovarian lesions, loaded from its model card. Raises CardError when the card or its
    weights are not usable.
    """

    def __init__(self, card: Card) -> None:
        """Load the network and the domain gate of ``card``."""
        if card.input is None or not card.labels or card.gate is None:
            raise CardError(f"{card.path.name}: the ovarian model needs input, labels and gate")
        self.card = card
        self.input: Input = card.input
        self._gate, self._limit = FeatureGate.from_bytes(read(card.file(card.gate.role))), card.gate.threshold
        self._engine = engine.load(card, "classifier")

    def analyse(self, picture: Grey) -> OvarianAnalysis:
        """Run the networks on ``picture``: as displayed, uint8, RGB or grey, any size."""
        grey = grey_of(picture)
        values, to_model = network_input(grey, self.input)
        outputs = self._engine(values)
        pooled = np.asarray(outputs[self.card.outputs.features].mean((2, 3)), np.float32)
        return OvarianAnalysis(
            values,
            probabilities(outputs[self.card.outputs.scores], self.card.labels)[0],
            np.asarray(outputs[self.card.outputs.places][0], np.float32),
            float(self._gate.distance(pooled)[0]),
            to_model,
            *grey.shape,
        )

    def in_domain(self, found: OvarianAnalysis) -> bool:
        """Whether the picture looks like the frames that the model was made for."""
        return found.distance <= self._limit


def grey_of(picture: Grey) -> Grey:
    """Convert a displayed picture, RGB or grey, to grey levels ``[rows, columns]``."""
    return picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def probabilities(logits: Floats, labels: Sequence[Label]) -> Floats:
    """Convert ``logits [N, labels]`` to calibrated probabilities of the same shape with the sum 1: the
    softmax of slope · logit + intercept (vector scaling, C. Guo et al., ICML 2017).
    """
    slopes, intercepts = ([getattr(label, key) for label in labels] for key in ("slope", "intercept"))
    scaled = logits.astype(np.float64) * slopes + intercepts
    scaled -= scaled.max(1, keepdims=True)
    odds = np.exp(scaled)
    return np.asarray(odds / odds.sum(1, keepdims=True), np.float32)


def decisions(found: Floats, labels: Sequence[Label], *, hidden: bool) -> tuple[Decision, ...]:
    """Decide for each label from the probabilities ``found [labels]``. The likeliest label is present from
    its threshold on. No label is present if the likeliest one is below its threshold, is :data:`NORMAL`, or
    is not supported and ``hidden`` (not to be reported). A label that is not supported is never absent. If
    such a label is the likeliest and hidden, no label is absent: the others would reveal it.
    """
    best = int(np.argmax(found))
    named = labels[best].supported or not hidden
    sure = named and found[best] >= labels[best].threshold and labels[best].name != NORMAL
    return tuple(
        Decision.PRESENT
        if sure and index == best
        else Decision.ABSENT
        if named and label.supported and value < label.absent_below
        else Decision.INDETERMINATE
        for index, (value, label) in enumerate(zip(found.tolist(), labels, strict=True))
    )


def heatmap(found: OvarianAnalysis, label: int) -> Heatmap:
    """The evidence for label number ``label`` at the source's size: its class activation above zero, the peak
    set to 1.
    """
    activation = np.maximum(found.places[label], 0.0)
    # To the input's size by a cubic: linear interpolation of six cells shows as diamonds.
    fine = cv2.resize(activation, found.values.shape[:1:-1], interpolation=cv2.INTER_CUBIC)
    # Activation up to which a map says nothing of a place: it is not stretched to 1.
    fine = np.clip(fine / max(float(fine.max()), 1e-6), 0.0, 1.0)
    return Heatmap(in_source(fine, found.to_model, found.rows, found.columns), METHOD)


def in_source(layer: Floats, to_model: Affine, rows: int, columns: int) -> Floats:
    """Transform a map on the network's input, ``[size, size]``, to the source image: ``[rows, columns]``."""
    way, flags = to_model.between_centres(), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(layer, way, (columns, rows), flags=flags), np.float32)


NOT_LIKE = "the pixels do not look like an ultrasound frame of an ovary"


class PixelGate:
    """Refuses pictures that must not be classified: those unlike the training frames, and fetal heads, since
    a round head may look like a large cyst.
    """

    def __init__(self, classifier: OvarianClassifier, models_dir: Path | None = None) -> None:
        """Load the model of fetal heads. Raises CardError where it is missing or altered."""
        self.classifier = classifier
        self._heads = HeadModel.of(find("fetal-head-unet", models_dir))

    def refused(self, picture: Grey, analysis: OvarianAnalysis) -> str | None:
        """Why ``picture``, uint8, RGB or grey, must not be classified; None if it may be."""
        if not self.classifier.in_domain(analysis):
            return NOT_LIKE
        return None if self._heads.outline(grey_of(picture)).fault else "the pixels show a fetal head"


SURE = 0.5
"""Probability from which a pixel belongs to the lesion."""
AREA = (0.005, 0.8)
"""Share of the picture that a lesion takes: that of all masks of the training frames but the extremes."""


@dataclass(frozen=True, slots=True, eq=False)
class LesionOutline:
    """The outline of a lesion: its ``mask [rows, columns]`` of the source image and its polygon ``region``;
    both None if ``fault`` says why.
    """

    mask: Bools | None
    region: Region | None
    fault: str = ""


class Outliner:
    """The outline network of the ovarian model card. Raises CardError."""

    def __init__(self, card: Card) -> None:
        """Load the network of ``card``."""
        self._engine: Engine = engine.load(card, "outline")

    def outline(self, seen: OvarianAnalysis) -> LesionOutline:
        """The outline of the lesion in the picture of the analysis ``seen``."""
        twice = np.concatenate([seen.values, seen.values[..., ::-1]])
        (found,) = self._engine(np.ascontiguousarray(twice)).values()
        shown, mirrored = found[0, 0], found[1, 0, :, ::-1]
        # Least Dice of the outlines of the picture and of its mirror image.
        if dice(shown >= SURE, mirrored >= SURE) < 0.85:
            return LesionOutline(None, None, "the outline changes when the picture is mirrored")
        mean = np.asarray((shown + mirrored) / 2, np.float32)
        return of_mask(in_source(mean, seen.to_model, seen.rows, seen.columns) >= SURE)


RAGGED = 0.9
"""Area of an outline over that of its convex hull below which it is refused. On the 133 validation frames 4 %
of the outlines drawn by hand are below it, and 5 of 103 of the network's: their mean Dice is .68, that of the
others .84."""
ANECHOIC = 1 / 3
"""Median grey level inside a cyst over that around it, at most, of a cyst that is called simple: 7 of the 8
on validation frames are below, the eighth is full of echoes; chocolate cysts have .36, the median."""
SIMPLE = "Simple_Cyst"


def is_anechoic(grey: Grey, lesion: Bools) -> bool:
    """Whether the outlined pixels ``lesion`` of the picture ``grey`` are black (without echoes) compared with
    their surroundings.
    """
    reach = max(1, round(0.075 * math.sqrt(lesion.sum())))
    across = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    inside = cv2.erode(lesion.astype(np.uint8), across) > 0
    around = (cv2.dilate(lesion.astype(np.uint8), across, iterations=2) > 0) & ~lesion
    return bool(np.median(grey[inside]) <= ANECHOIC * np.median(grey[around]))


def of_mask(mask: Bools) -> LesionOutline:
    """Make the outline of the largest part of ``mask``; without an outline, and with the reason, if it cannot
    be a lesion.
    """
    count, parts, sizes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return LesionOutline(None, None, "no lesion was outlined")
    largest = 1 + int(sizes[1:, cv2.CC_STAT_AREA].argmax())
    area = int(sizes[largest, cv2.CC_STAT_AREA])
    # Least share of the outlined pixels that lies in the largest part.
    if area < 0.8 * mask.sum():
        return LesionOutline(None, None, "the outline falls apart into several places")
    if not AREA[0] <= area / mask.size <= AREA[1]:
        return LesionOutline(None, None, "the outline is too small or too large for a lesion")
    part = parts == largest
    lines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = max(lines, key=cv2.contourArea)
    # How far the polygon may leave the outline, as a share of the outline's length.
    if cv2.contourArea(line) < RAGGED * cv2.contourArea(cv2.convexHull(line)):
        return LesionOutline(None, None, "the outline is ragged")
    polygon = cv2.approxPolyDP(line, 0.0025 * cv2.arcLength(line, True), True)[:, 0]
    points = tuple((float(x) + 0.5, float(y) + 0.5) for x, y in polygon.tolist())  # from pixels' centres
    return LesionOutline(np.asarray(part, np.bool_), Region("polygon", points, Origin.DETECTOR))


def dice(one: Bools, other: Bools) -> float:
    """The Dice coefficient of two masks: twice the common pixels over the sum of both; 0 if both are
    empty.
    """
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 0.0


UNSURE_NOTE = "The model suggests no class and excludes none"
NOT_ASSESSED = (
    "size, blood flow, the other ovary, uterus, free fluid, and every kind of lesion that is no class of it"
)


@dataclass(frozen=True, slots=True, eq=False)
class _AnalysedFrame:
    """An image as received, with its analysis. ``refused``: why its pixels must not be classified, None if
    they may be.
    """

    image: SourceImage
    analysis: OvarianAnalysis
    refused: str | None


@dataclass(frozen=True, slots=True, eq=False)
class _CleanedFrame:
    """A cleaned ``picture`` with the networks' output for it. ``filled``: the share of the lesion, as
    outlined before or after cleaning, that cleaning filled. ``pregnancy``: whether a text in the picture is
    one of a pregnancy.
    """

    picture: Grey
    analysis: OvarianAnalysis
    outline: LesionOutline
    filled: float
    pregnancy: bool

    @property
    def lesion_is_there(self) -> bool:
        """Whether cleaning has left at least nine tenths of the lesion."""
        # Share of the outline that may be filled: calipers and their lines take less.
        return self.filled <= 0.1

    @property
    def is_black(self) -> bool:
        """Whether the outlined lesion is without echoes, as a simple cyst; False without an outline."""
        return self.outline.mask is not None and is_anechoic(self.picture, self.outline.mask)


class Ovarian:
    """The pipeline ``ovarian``, which classifies ovarian lesions in ultrasound frames
    (:class:`ai_pipeline.contract.Pipeline`).
    """

    card = CARD

    def __init__(
        self, *, models_dir: Path | None = None, device_rules: Path | None = None, card: Card | None = None
    ) -> None:
        """``models_dir``, ``device_rules``: folders of a site's own models and device rules. ``card``: the
        model to use in place of the shipped one.
        """
        self._models_dir, self._device_rules, self._given = models_dir, device_rules, card
        self._networks: tuple[OvarianClassifier, Outliner, PixelGate] | None = None
        self._analysed: deque[_AnalysedFrame] = deque(maxlen=4)  # those of accepts() for run()

    def warm_up(self) -> None:
        """Load the models. Raises CardError, DeviceRuleError."""
        self._models()
        device_rules(self._device_rules)
        shared_tools(self._models_dir, self._device_rules).reader.warm_up()

    def models(self) -> tuple[ModelRef, ...]:
        """The classifier and the models that clean, as results name them."""
        return self._card().ref, *cleaning_models(self._models_dir, self._device_rules)

    def occasions(self, options: Mapping[str, object]) -> frozenset[str]:
        """The classes that these ``options`` let the model suggest. May raise CardError."""
        hidden = not OvarianOptions.of(options).malignancy
        return frozenset(
            f"{label.code.meaning[:64]} suspected"
            for label in self._card().labels
            if label.name != NORMAL and (label.supported or not hidden)
        )

    @staticmethod
    def try_out(card_file: Path, seconds: int) -> None:
        """Run the models of the card ``card_file`` on test pictures. Raises CardError if one fails or takes
        longer than ``seconds``.
        """
        from ai_pipeline.models import trial  # with what looks into files, which no worker needs

        trial.try_out(load(card_file), "ai_pipeline.ovarian.trial", seconds)

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
        began = time.perf_counter()
        for number, image in enumerate(images):
            report(number / len(images), "ovary")
            try:
                cleaned = clean(image, report, tools=shared_tools(self._models_dir, self._device_rules))
            except CleaningFailed as failure:
                failures.append(failure)
                text = f"no cleaned picture: {failure}"
                notes.append(QualityNote("cleaning_failed", text, image.uid, places=failure.places))
                continue
            # Where nothing was filled the picture is the cleaned one.
            classifier, outliner, _ = self._models()
            analysis = self._analyse(image).analysis
            before = outline = outliner.outline(analysis)
            removed = np.asarray(cleaned.mask.frames[0]) > 0
            picture = image.show(cleaned.image.frames[0])
            if removed.any():
                analysis = classifier.analyse(picture)
                outline = outliner.outline(analysis)
            shares = [float(removed[one.mask].mean()) for one in (before, outline) if one.mask is not None]
            pregnancy = shows_pregnancy(reading.text for reading in cleaned.readings)
            frame = _CleanedFrame(grey_of(picture), analysis, outline, max(shares, default=0.0), pregnancy)
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
        return PipelineResult(
            tuple(findings),
            tuple(pictures),
            tuple(notes),
            {"total": time.perf_counter() - began},
            self.models(),
            scores=tuple(scores),
            readings=tuple(readings),
            drawn_on="cleaned",
        )

    def _card(self) -> Card:
        """The model card of the classifier."""
        return self._given or (
            self._networks[0].card if self._networks else active(CLASSIFIER, self._models_dir)
        )

    def _models(self) -> tuple[OvarianClassifier, Outliner, PixelGate]:
        """The networks, loaded when first needed."""
        if self._networks is None:
            card = self._card()
            classifier = OvarianClassifier(card)
            self._networks = classifier, Outliner(card), PixelGate(classifier, self._models_dir)
        return self._networks

    def _analyse(self, image: SourceImage) -> _AnalysedFrame:
        """Analyse ``image`` as received; the result is remembered because accepts() and run() get the same
        images.
        """
        for seen in self._analysed:
            if seen.image is image:
                return seen
        classifier, _, gate = self._models()
        picture = image.display()
        analysis = classifier.analyse(picture)
        self._analysed.append(_AnalysedFrame(image, analysis, gate.refused(picture, analysis)))
        return self._analysed[-1]

    def _findings(self, image: SourceImage, frame: _CleanedFrame, options: OvarianOptions) -> list[Finding]:
        """One finding for each class; none if the cleaned picture does not look like the training frames, or
        shows a pregnancy. The finding of the likeliest class has the outline and the heat map if it is called
        present: a class that is not suggested is drawn nowhere.
        """
        analysis, outline = frame.analysis, frame.outline
        if frame.pregnancy or not self._models()[0].in_domain(analysis):
            return []
        card, hidden = self._card(), not options.malignancy
        best = int(np.argmax(analysis.probabilities))
        decided = decisions(analysis.probabilities, card.labels, hidden=hidden)
        if not frame.lesion_is_there or (card.labels[best].name == SIMPLE and not frame.is_black):
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
        if found[best].decision is Decision.PRESENT:
            regions = (outline.region,) if outline.region else ()
            evidence = heatmap(analysis, best) if options.heatmaps else None
            found[best] = replace(found[best], regions=regions, evidence=evidence)
        return found

    def _outlines(
        self,
        image: SourceImage,
        found: Sequence[Finding],
        outline: LesionOutline,
        options: OvarianOptions,
    ) -> list[DerivedImage]:
        """The mask of the lesion as a derived image; empty if no finding has the outline, or the option is
        off.
        """
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
    """The notes for the reader: why the model is unsure of a frame, why no outline is drawn, and that the
    image was compressed with loss.
    """
    present = any(finding.decision is Decision.PRESENT for finding in found)
    note = UNSURE_NOTE if found else "The cleaned picture does not look like an ultrasound frame of an ovary"
    if frame.pregnancy:
        note = "The picture's text is that of a pregnancy, which the model was not made for"
    elif not frame.lesion_is_there:
        note = f"{frame.filled:.0%} of what was outlined was filled or blacked out"
    fault = frame.outline.fault
    notes = (
        (not present, summary.UNSURE, f"{note}.", note != UNSURE_NOTE),  # the result has that line already
        (bool(fault), "no_outline", f"{fault}: none is drawn.", False),
        (image.header.lossy, "lossy", "The image was compressed with loss.", False),
    )
    return [QualityNote(name, text, image.uid, faces) for applies, name, text, faces in notes if applies]
