"""The output of ``ai-pipeline run``: pictures in a folder and one JSON record per input."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ai_pipeline.contract import (
    Decision,
    DerivedImage,
    ImageKind,
    ModelRef,
    Picture,
    PipelineResult,
    PixelArray,
    Point,
    SourceImage,
)
from ai_pipeline.images.render import annotate, heatmap_overlay
from ai_pipeline.summary import result_lines, without_research

Record = dict[str, Any]


@dataclass(slots=True)
class Folder:
    """The output folder: each input writes under its file's stem, the next of that stem under ``stem-2``."""

    path: Path
    _stems: dict[str, int] = field(default_factory=dict)

    def pictures(self, file: Path, image: SourceImage, result: PipelineResult) -> list[Record]:
        """Write all pictures of one input and return their entries for the record. No finding that is for
        research only is drawn."""
        result = without_research(result)
        self.path.mkdir(parents=True, exist_ok=True)
        count = self._stems[file.stem] = self._stems.get(file.stem, 0) + 1
        stem = file.stem if count == 1 else f"{file.stem}-{count}"
        written = [self._derived(stem, number, derived) for number, derived in enumerate(result.images)]
        shown = [finding for finding in result.findings if finding.decision is not Decision.ABSENT]
        frame = next((finding.frame for finding in shown if finding.frame), 1)
        here = [finding for finding in result.findings if finding.frame in {None, frame}]
        if (below := _below(image, result, frame - 1)) is not None:
            drawn = annotate(below, here, measurements=result.measurements, notes=result.quality)
            written.append(self._png(f"{stem}.annotated", "annotated", drawn))
        for finding in shown:
            below = _below(image, result, (finding.frame or 1) - 1)
            if finding.evidence is not None and below is not None:
                picture = heatmap_overlay(below, finding)
                label = "".join(letter if letter.isalnum() else "_" for letter in finding.label)
                written.append(self._png(f"{stem}.heatmap-{label}", "heatmap", picture))
        return written

    def _derived(self, stem: str, number: int, derived: DerivedImage) -> Record:
        name = f"{stem}.{derived.name}" + ("" if number < 2 else f"-{number + 1}")
        frames = derived.frames
        if frames.dtype != np.uint8 and not (frames.dtype == np.uint16 and frames.ndim == 3):  # no PNG
            np.save(self.path / f"{name}.npy", frames)
            return _entry(derived.name, self.path / f"{name}.npy", len(frames))
        if len(frames) == 1:
            return self._png(name, derived.name, frames[0])
        (self.path / name).mkdir(exist_ok=True)
        for index, frame in enumerate(frames, start=1):
            Image.fromarray(np.asarray(frame)).save(self.path / name / f"{index:04d}.png", compress_level=1)
        return _entry(derived.name, self.path / name, len(frames))

    def _png(self, name: str, kind: str, samples: PixelArray) -> Record:
        path = self.path / f"{name}.png"
        Image.fromarray(np.asarray(samples)).save(path)
        return _entry(kind, path, 1)


def _below(image: SourceImage, result: PipelineResult, frame: int) -> Picture | None:
    """What the result is drawn on; None where only the cleaned image may be shown and there is none."""
    if result.drawn_on == "source":
        return image.display(frame)
    cleaned = (one for one in result.images if one.kind is ImageKind.CLEANED and one.verified)
    return next((image.show(one.frames[frame], frame) for one in cleaned), None)


def empty_record(file: str, pipeline: str) -> Record:
    """The record of an input before anything is known of it."""
    return {
        "file": file,
        "pipeline": pipeline,
        "version": "",
        "accepted": False,
        "reason": None,
        "result": [],
        "findings": [],
        "measurements": [],
        "images": [],
        "quality": [],
        "seconds": {},
    }


def filled_record(result: PipelineResult, images: list[Record]) -> Record:
    """The entries that a result adds to the record; ``images``: the entries of its pictures.

    Seconds are those of ``decode``, ``model``, ``total``, and of the stages that the pipeline names besides.
    """
    timings = result.timings
    model = timings.get("model", timings.get("detect", 0.0) + timings.get("fill_and_verify", 0.0))
    stages = {"decode": 0.0, **timings, "model": model, "total": timings.get("total", 0.0)}
    return {
        "result": result_lines(result.findings, result.measurements, result.quality),
        "findings": [
            {
                "label": finding.label,
                "code": asdict(finding.code),
                "probability": _rounded(finding.probability),
                "threshold": _rounded(finding.threshold),
                "decision": finding.decision.value,
                "reliability": finding.reliability,
                "research_only": finding.research_only,
                "source_uid": finding.source_uid,
                "frame": finding.frame,
                "regions": [
                    {
                        "type": region.type,
                        "points": _points(region.points),
                        "origin": region.origin.value,
                    }
                    for region in finding.regions
                ],
                "model": _model(finding.model),
            }
            for finding in result.findings
        ],
        # ``points``: those of all lines, one after the other; ``lines`` keeps them apart.
        "measurements": [
            {
                "name": measurement.name,
                "code": asdict(measurement.quantity),
                "value": measurement.value,
                "unit": measurement.unit.value,
                "points": [point for line in measurement.lines for point in _points(line)],
                "lines": [_points(line) for line in measurement.lines],
                "closed": measurement.closed,
                "source_uid": measurement.source_uid,
                "frame": measurement.frame,
                "model": _model(measurement.model) if measurement.model else None,
            }
            for measurement in result.measurements
        ],
        "images": images,
        "quality": [{"name": note.name, "text": note.text} for note in result.quality],
        "seconds": {stage: round(value, 3) for stage, value in stages.items()},
    }


def _points(points: Sequence[Point]) -> list[list[float]]:
    return [[round(x, 2), round(y, 2)] for x, y in points]


def _model(model: ModelRef) -> Record:
    return {"id": model.id, "version": model.version, "sha256": model.sha256}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _entry(kind: str, path: Path, frames: int) -> Record:
    return {"kind": kind, "path": str(path), "frames": frames}
