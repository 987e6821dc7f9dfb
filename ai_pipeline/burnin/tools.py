"""What cleaning works with: the text reader, the mark detector, the inpainter; loaded once per process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ai_pipeline.burnin.fill.inpainters import Inpainter, Learned, on_onnx
from ai_pipeline.burnin.find.mark_network import MarkFinder
from ai_pipeline.burnin.find.text import TextReader, shared_reader
from ai_pipeline.contract import ModelRef
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime, usable_cores

TEXT, MARKS, FILL = "burnin-text", "ultrasound-marks-unet", "ultrasound-inpaint-oci-gan"
"""The models that cleaning runs, by the ids of their cards."""


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """``threshold`` 0 to 1: from which the mark detector counts. ``device_rules``: a site's own folder.

    ``models``: those of the text reader, the mark detector and, where it is learned, the inpainter.
    """

    reader: TextReader
    finder: MarkFinder
    threshold: float
    filler: Inpainter
    models: tuple[ModelRef, ...] = ()
    device_rules: Path | None = None


@cache
def shared_tools(models_dir: Path | None = None, device_rules: Path | None = None) -> Tools:
    """This process's tools; loading takes a second. Raises CardError."""
    texts, marks, fill = (registry.find(name, models_dir) for name in (TEXT, MARKS, FILL))
    registry.verify(texts)
    network = OnnxRuntime(registry.read(marks.file("mark-finder")), usable_cores())
    generator = on_onnx(registry.read(fill.file("inpainter")), usable_cores())
    return Tools(
        reader=shared_reader(),
        finder=MarkFinder(network),
        threshold=float(marks.details["detector"]["threshold"]),
        filler=Learned(fill.id, generator),
        models=(texts.ref, marks.ref, fill.ref),
        device_rules=device_rules,
    )
