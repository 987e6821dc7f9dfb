"""The pipeline ``fetal_head``: outline and measure the head of a fetus in a still ultrasound picture.

Every picture that is sent with the outline drawn in shows cleaned pixels: burned-in text names patients.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from ai_pipeline.accepting import accept
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.tools import Tools, cleaning_models, shared_tools
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
from ai_pipeline.fetal_head.ellipse import Ellipse
from ai_pipeline.fetal_head.intended_use import MODALITIES, image_area, refused_by_header
from ai_pipeline.fetal_head.outline import HeadModel, HeadOutline
from ai_pipeline.models.registry import find

MODEL: Final = "fetal-head-unet"
REMEMBERED: Final = 32
"""Analyses of ``accepts`` that are kept for ``run``."""
NOTE: Final = "fetal head"
NOT_ASSESSED: Final = (
    "brain, skull, gestational age, weight, all but the size of the head; whether the plane is the standard "
    "one (trans-thalamic)."
)


@dataclass(frozen=True, slots=True, eq=False)
class _SeenImage:
    image: SourceImage
    found: HeadOutline
    head: Ellipse | None
    spacing: tuple[float, float] | None
    reason: str
    seconds: Mapping[str, float]


class FetalHead:
    """The pipeline ``fetal_head`` (:class:`ai_pipeline.contract.Pipeline`). No options."""

    name = "fetal_head"
    version = "1.0"
    options: Mapping[str, type] = MappingProxyType({})
    modalities = MODALITIES
    """Modalities and View Positions of the images that are accepted; no view position: any."""
    views = frozenset[str]()
    per_image = True

    def __init__(self, *, models_dir: Path | None = None, device_rules: Path | None = None) -> None:
        self._models_dir, self._device_rules = models_dir, device_rules
        self._loaded: HeadModel | None = None
        self._analysed: deque[_SeenImage] = deque(maxlen=REMEMBERED)

    def warm_up(self) -> None:
        """Load the models. Raises CardError when one is missing or altered."""
        self._model()
        self._tools().reader.warm_up()

    def models(self) -> tuple[ModelRef, ...]:
        own = (self._loaded or find(MODEL, self._models_dir)).ref
        return own, *cleaning_models(self._models_dir, self._device_rules)

    def accepts(
        self,
        images: Sequence[SourceImage],
        options: Mapping[str, object] = MappingProxyType({}),  # noqa: ARG002  (there is none)
    ) -> Accept | Refuse:
        """Choose the images that show a fetal head to measure; decodes those whose header allows it."""
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
        """Measure the heads in ``images`` (those that ``accepts`` named). Raises PixelError."""
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        measured: list[Measurement] = []
        seconds = {"decode": 0.0, "model": 0.0, "clean": 0.0}
        for number, image in enumerate(images):
            report(number / len(images), "fetal head")
            analysed = self._analyse(image)
            for stage, value in analysed.seconds.items():
                seconds[stage] += value
            if analysed.head is None or analysed.reason:
                notes.append(QualityNote(NOTE, f"not measured: {analysed.reason}.", image.uid))
                continue
            header, model = image.header, self._model()
            measured += biometry.measurements(image.uid, header, analysed.head, analysed.spacing, model.ref)
            pictures.append(_mask(image, analysed.head, model.ref))
            notes.append(QualityNote(NOTE, self._caution(analysed), image.uid))
            began = time.perf_counter()
            cleaned, of_cleaning = self._cleaned(image, report)
            seconds["clean"] += time.perf_counter() - began
            pictures += cleaned
            notes += of_cleaning
        notes.append(QualityNote("not assessed", NOT_ASSESSED))
        report(1.0, "fetal head")
        return PipelineResult(
            images=tuple(pictures),
            quality=tuple(notes),
            timings={**seconds, "total": sum(seconds.values())},
            models=self.models(),
            measurements=tuple(measured),
            drawn_on="cleaned",
        )

    def _model(self) -> HeadModel:
        if self._loaded is None:
            self._loaded = HeadModel.of(find(MODEL, self._models_dir))
        return self._loaded

    def _tools(self) -> Tools:
        return shared_tools(self._models_dir, self._device_rules)

    def _analyse(self, image: SourceImage) -> _SeenImage:
        """Decode and analyse ``image``, unless that was just done: run() gets the images of accepts()."""
        for known in self._analysed:
            if known.image is image:
                return known
        began = time.perf_counter()
        left, top, right, bottom = image_area(image.header)
        grey = _grey(image.display())[top:bottom, left:right]
        decoded = time.perf_counter()
        found = self._model().outline(np.ascontiguousarray(grey))
        head = (
            replace(found.measured, x=found.measured.x + left, y=found.measured.y + top)
            if (found.measured)
            else None
        )
        spacing = biometry.spacing_of(image.header, head) if head else None
        reason = found.fault or (biometry.impossible(head, spacing) if head else "")
        seconds = {"decode": decoded - began, "model": time.perf_counter() - decoded}
        analysed = _SeenImage(image, found, head, spacing, reason, seconds)
        self._analysed.append(analysed)
        return analysed

    def _caution(self, analysed: _SeenImage) -> str:
        what = "measured by AI along the ellipse drawn, which a sonographer must check"
        if analysed.spacing is None:
            what += "; the image does not say how large its pixels are, so lengths are in pixels"
        elif agreement := self._model().agreement:
            low, high = agreement
            what += (
                f"; 95 % of the circumferences of test heads lay {low:+.1f} to {high:+.1f} mm from a "
                "sonographer's"
            )
        if analysed.found.outside > 0:
            what += "; a part of the ellipse lies outside the picture and was continued from the rest"
        return f"{what}; the biparietal diameter is from outer to outer edge of the skull."

    def _cleaned(
        self, image: SourceImage, report: Progress
    ) -> tuple[tuple[DerivedImage, ...], tuple[QualityNote, ...]]:
        try:
            result = clean(image, report, tools=self._tools())
        except CleaningFailed as failure:
            why = f"no picture with the outline, because it could not be cleaned: {failure}"
            return (), (QualityNote("cleaning_failed", why, image.uid, places=failure.places),)
        return (result.image, result.mask), result.notes


def _mask(image: SourceImage, head: Ellipse, model: ModelRef) -> DerivedImage:
    filled = head.mask(image.header.rows, image.header.columns)
    what = "fetal head outlined by AI, not for diagnostic use"
    frames = np.where(filled, np.uint8(255), np.uint8(0))[None]
    organs = (biometry.HEAD,)
    return DerivedImage(
        ImageKind.ORGANS, image.uid, frames, "MONOCHROME2", what, models=(model,), organs=organs
    )


def _grey(display: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return display if display.ndim == 2 else np.asarray(display.mean(axis=2), np.uint8)
