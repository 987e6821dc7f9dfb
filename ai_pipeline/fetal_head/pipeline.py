"""The pipeline ``fetal_head``: outline and measure the head of a fetus in a still ultrasound picture.

A picture that is sent with the outline drawn in shows cleaned pixels: burned-in text names patients.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np

from ai_pipeline import summary
from ai_pipeline.accepting import accept
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.tools import cleaning_models, shared_tools
from ai_pipeline.contract import (
    Accept,
    DerivedImage,
    ImageKind,
    Measurement,
    ModelRef,
    PipelineResult,
    Progress,
    QualityNote,
    Refuse,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.fetal_head import biometry
from ai_pipeline.fetal_head.card import CARD
from ai_pipeline.fetal_head.intended_use import fetus_of_each, image_area, refused_by_header
from ai_pipeline.images.display import mean_grey
from ai_pipeline.models.registry import find
from ai_pipeline.networks.heads import Ellipse, HeadModel, HeadOutline

MODEL: Final = "fetal-head-unet"
NOTE: Final = "fetal head"
SECOND_HEAD: Final = "the picture shows more than one head"
NOT_ASSESSED: Final = (
    "brain, skull, weight, all but the size of the head. Nor whether the plane is the standard one "
    "(trans-thalamic)."
)


@dataclass(frozen=True, slots=True, eq=False)
class _SeenImage:
    """An image with the outline that was found. ``head``: the ellipse to measure in source pixels, None
    without one; ``spacing``: mm between rows and columns; ``reason``: why the head is not measured, "" if it
    is.
    """

    image: SourceImage
    found: HeadOutline
    head: Ellipse | None
    spacing: tuple[float, float] | None
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class _CleanedImage:
    """The result of cleaning an image. ``images``: the cleaned picture and its mask, none if cleaning failed;
    ``notes`` for the reader; ``texts``: the text that was read in the image, which may be a name.
    """

    images: tuple[DerivedImage, ...]
    notes: tuple[QualityNote, ...]
    texts: tuple[str, ...] = field(default=(), repr=False)


class FetalHead:
    """The pipeline ``fetal_head``, which measures fetal heads in ultrasound images
    (:class:`ai_pipeline.contract.Pipeline`).
    """

    card = CARD

    def __init__(self, *, models_dir: Path | None = None, device_rules: Path | None = None) -> None:
        """``models_dir``, ``device_rules``: folders of a site's own models and device rules."""
        self._models_dir, self._device_rules = models_dir, device_rules
        self._loaded: HeadModel | None = None
        self._analysed: deque[_SeenImage] = deque(maxlen=32)  # those of accepts() for run()

    def warm_up(self) -> None:
        """Load the models. Raises CardError when one is missing or altered."""
        self._model()
        shared_tools(self._models_dir, self._device_rules).reader.warm_up()

    def models(self) -> tuple[ModelRef, ...]:
        """The head network and the models that clean, as results name them."""
        own = (self._loaded or find(MODEL, self._models_dir)).ref
        return own, *cleaning_models(self._models_dir, self._device_rules)

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (there is none)
    ) -> Accept | Refuse:
        """Choose the images that show a fetal head to measure. Decodes an image only if its
        header allows it.
        """
        return accept(
            images,
            lambda image: refused_by_header(image.header),
            lambda image: self._analyse(image).reason,
            lambda: self._model().ref,
        )

    def run(
        self,
        images: Sequence[SourceImage],
        report: Progress,
        options: Mapping[str, object],  # noqa: ARG002  (there is none)
    ) -> PipelineResult:
        """Measure the heads in ``images``, which ``accepts`` chose. Raises PixelError."""
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        measured: list[Measurement] = []
        began = time.perf_counter()
        cleaned: dict[str, _CleanedImage] = {}
        seen: list[_SeenImage] = []
        for number, image in enumerate(images):
            report(number / len(images), "fetal head")
            analysed = self._analyse(image)
            seen.append(analysed)
            if analysed.head is not None and not analysed.reason:
                cleaned[image.uid] = self._cleaned(image, report)
        texts = {uid: one.texts for uid, one in cleaned.items()}
        fetuses = fetus_of_each(texts, [image.header for image in images])
        for analysed in seen:
            image = analysed.image
            fetus, unknown = fetuses.get(image.uid, ("", ""))
            reason = analysed.reason or (SECOND_HEAD if analysed.found.second else unknown)
            if analysed.head is None or reason:
                notes.append(QualityNote(NOTE, f"Head not measured: {reason}.", image.uid, on_faces=True))
                continue
            model = self._model()
            measured += biometry.measurements(
                image.uid, image.header, analysed.head, analysed.spacing, model.ref, fetus, model.agreement
            )
            pictures += [_outlined(image, analysed.head, model.ref), *cleaned[image.uid].images]
            words = _how_measured(analysed, model.agreement)
            notes += [QualityNote(NOTE, words, image.uid), *cleaned[image.uid].notes]
        notes.append(QualityNote(summary.NOT_ASSESSED, NOT_ASSESSED, names=("all but the size of the head",)))
        report(1.0, "fetal head")
        return PipelineResult(
            images=tuple(pictures),
            quality=tuple(notes),
            timings={"total": time.perf_counter() - began},
            models=self.models(),
            measurements=tuple(measured),
            drawn_on="cleaned",
        )

    def _model(self) -> HeadModel:
        """The head network, loaded when first needed."""
        if self._loaded is None:
            self._loaded = HeadModel.of(find(MODEL, self._models_dir))
        return self._loaded

    def _analyse(self, image: SourceImage) -> _SeenImage:
        """Outline the head in ``image``; the result is remembered because accepts() and run() get the same
        images.
        """
        for known in self._analysed:
            if known.image is image:
                return known
        left, top, right, bottom = image_area(image.header)
        grey = mean_grey(image.display())
        found = self._model().outline(np.ascontiguousarray(grey[top:bottom, left:right]))
        head = (
            replace(found.measured, x=found.measured.x + left, y=found.measured.y + top)
            if (found.measured)
            else None
        )
        spacing = biometry.spacing_of(image.header, head) if head else None
        reason = found.fault or (biometry.impossible(head, spacing) if head else "")
        analysed = _SeenImage(image, found, head, spacing, reason)
        self._analysed.append(analysed)
        return analysed

    def _cleaned(self, image: SourceImage, report: Progress) -> _CleanedImage:
        """Clean ``image``; without pixels, and with a note, if cleaning failed."""
        try:
            result = clean(image, report, tools=shared_tools(self._models_dir, self._device_rules))
        except CleaningFailed as failure:
            why = f"no picture with the outline, because it could not be cleaned: {failure}"
            return _CleanedImage((), (QualityNote("cleaning_failed", why, image.uid, places=failure.places),))
        texts = tuple(reading.text for reading in result.readings)
        return _CleanedImage((result.image, result.mask), result.notes, texts)


def _outlined(image: SourceImage, head: Ellipse, model: ModelRef) -> DerivedImage:
    """The mask of the head in ``image`` as a derived image."""
    filled = head.mask(image.header.rows, image.header.columns)
    return DerivedImage(
        ImageKind.ORGANS,
        image.uid,
        np.where(filled, np.uint8(255), np.uint8(0))[None],
        "MONOCHROME2",
        "fetal head outlined by AI, not for diagnostic use",
        models=(model,),
        organs=(biometry.HEAD,),
    )


def _how_measured(analysed: _SeenImage, agreement: tuple[float, float] | None) -> str:
    """How a head was measured, in sentences. ``agreement``: the least and the greatest difference (mm) to a
    sonographer of 95 % of the test heads, None if the model card does not give it.
    """
    sentences = ["measured by AI along the ellipse drawn; a sonographer must check it."]
    if analysed.spacing is None:
        sentences.append("The image does not give the size of its pixels, so lengths are in pixels.")
    elif agreement:
        low, high = agreement
        sentences.append(f"95 % of test heads measured {low:+.1f} to {high:+.1f} mm from a sonographer.")
    if analysed.found.outside > 0:
        sentences.append("A part of the ellipse is outside the picture and was continued from the rest.")
    sentences.append("The biparietal diameter is from outer to outer edge of the skull.")
    return " ".join(sentences)
