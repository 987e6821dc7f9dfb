"""The tools for cleaning: text reader, mark detector, inpainter; loaded once per process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ai_pipeline.burnin.fill import Inpainter, NetworkInpainter, on_onnx
from ai_pipeline.burnin.find.networks import LineReader, MarkFinder
from ai_pipeline.burnin.find.text import TextReader, shared_reader
from ai_pipeline.contract import ModelRef
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime, usable_cores

TEXT, LINES, MARKS, FILL = (
    "burnin-text",
    "ultrasound-line-reader",
    "ultrasound-marks-unet",
    "ultrasound-inpaint-oci-gan",
)
"""The models that cleaning runs, by the ids of their cards."""


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """The text readers, the mark detector and the inpainter, each with the model that it runs.

    ``threshold`` 0 to 1: probability from which a pixel counts as drawn. ``device_rules``: a site's folder.
    """

    reader: TextReader
    finder: MarkFinder
    threshold: float
    filler: Inpainter
    text_model: ModelRef
    line_model: ModelRef
    mark_model: ModelRef
    fill_model: ModelRef
    device_rules: Path | None = None

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """The models for text, lines, marks and filling, in the order of results."""
        return self.text_model, self.line_model, self.mark_model, self.fill_model


_LOADED: dict[tuple[Path | None, Path | None], Tools] = {}


def cleaning_models(models_dir: Path | None = None, device_rules: Path | None = None) -> tuple[ModelRef, ...]:
    """The models of the tools that this process has loaded, even if others were installed since; without
    loaded tools the models of the cards. Loads nothing. Raises CardError."""
    loaded = _LOADED.get((models_dir, device_rules))
    if loaded:
        return loaded.models
    return tuple(registry.find(name, models_dir).ref for name in (TEXT, LINES, MARKS, FILL))


def shared_tools(models_dir: Path | None = None, device_rules: Path | None = None) -> Tools:
    """This process's tools; loading takes a second. Raises CardError."""
    place = models_dir, device_rules
    if place in _LOADED:
        return _LOADED[place]
    texts, lines, marks, fill = (registry.find(name, models_dir) for name in (TEXT, LINES, MARKS, FILL))
    registry.verify(texts)
    small = LineReader(OnnxRuntime(registry.read(lines.file("line-reader")), 1))
    _LOADED[place] = Tools(
        reader=shared_reader().beside(small),
        finder=MarkFinder(OnnxRuntime(registry.read(marks.file("mark-finder")))),
        threshold=float(marks.details["detector"]["threshold"]),
        filler=NetworkInpainter(fill.id, on_onnx(registry.read(fill.file("inpainter")), usable_cores())),
        text_model=texts.ref,
        line_model=lines.ref,
        mark_model=marks.ref,
        fill_model=fill.ref,
        device_rules=device_rules,
    )
    return _LOADED[place]
