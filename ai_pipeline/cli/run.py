"""``ai-pipeline run``: one file after another through a pipeline; pictures in a folder, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from ai_pipeline.cli.terminal import EXIT_CONFIG, EXIT_DATA, print_table, print_text, progress_bar
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
from ai_pipeline.errors import (
    CardError,
    CleaningFailed,
    DeviceRuleError,
    NoDecoder,
    NoNumber,
    PixelError,
    PluginError,
    ProgramFailed,
)
from ai_pipeline.images.render import annotate, heatmap_overlay
from ai_pipeline.summary import result_lines, without_research
from ai_pipeline.terms import shown_term

Record = dict[str, Any]


@dataclass(slots=True)
class Folder:
    """The output folder of ``run``: pictures of an input are named after its file's stem; a second input of
    that stem gets ``stem-2``.
    """

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
        if (below := _picture_to_draw_on(image, result, frame - 1)) is not None:
            drawn = annotate(below, here, measurements=result.measurements, notes=result.quality)
            written.append(self._png(f"{stem}.annotated", "annotated", drawn))
        for finding in shown:
            below = _picture_to_draw_on(image, result, (finding.frame or 1) - 1)
            if finding.evidence is not None and below is not None:
                picture = heatmap_overlay(below, finding)
                label = "".join(letter if letter.isalnum() else "_" for letter in finding.label)
                written.append(self._png(f"{stem}.heatmap-{label}", "heatmap", picture))
        return written

    def _derived(self, stem: str, number: int, derived: DerivedImage) -> Record:
        """Write derived picture number ``number`` as PNG, or as a NumPy array if PNG cannot hold it; return
        its entry for the record.
        """
        name = f"{stem}.{derived.kind}" + ("" if number < 2 else f"-{number + 1}")
        frames = derived.frames
        if frames.dtype != np.uint8 and not (frames.dtype == np.uint16 and frames.ndim == 3):  # no PNG
            np.save(self.path / f"{name}.npy", frames)
            return _entry(derived.kind, self.path / f"{name}.npy", len(frames))
        if len(frames) == 1:
            return self._png(name, derived.kind, frames[0])
        (self.path / name).mkdir(exist_ok=True)
        for index, frame in enumerate(frames, start=1):
            Image.fromarray(np.asarray(frame)).save(self.path / name / f"{index:04d}.png", compress_level=1)
        return _entry(derived.kind, self.path / name, len(frames))

    def _png(self, name: str, kind: str, samples: PixelArray) -> Record:
        """Write ``samples`` as ``name``.png; return its entry for the record."""
        path = self.path / f"{name}.png"
        Image.fromarray(np.asarray(samples)).save(path)
        return _entry(kind, path, 1)


def _picture_to_draw_on(image: SourceImage, result: PipelineResult, frame: int) -> Picture | None:
    """The picture of frame ``frame`` (from 0) on which the result is drawn; None if only a cleaned image may
    be shown and there is none.
    """
    if result.drawn_on == "source":
        return image.display(frame)
    cleaned = (one for one in result.images if one.kind is ImageKind.CLEANED and one.verified)
    return next((image.show(one.frames[frame], frame) for one in cleaned), None)


def filled_record(result: PipelineResult, images: list[Record]) -> Record:
    """The entries that a result adds to the output record (JSON object) of its input; ``images``: the entries
    of its pictures. Seconds are those of ``decode``, ``model``, ``total``, and of the other stages that the
    pipeline names.
    """
    timings = result.timings
    model = timings.get("model", timings.get("detect", 0.0) + timings.get("fill_and_verify", 0.0))
    stages = {"decode": 0.0, **timings, "model": model, "total": timings.get("total", 0.0)}
    return {
        "result": result_lines(result.findings, result.measurements, result.quality),
        "findings": [_finding(finding) for finding in result.findings],
        "measurements": [_measurement(measurement) for measurement in result.measurements],
        "images": images,
        "quality": [{"name": note.name, "text": note.text} for note in result.quality],
        "seconds": {stage: round(value, 3) for stage, value in stages.items()},
    }


def _finding(finding: Finding) -> Record:
    """The entry of a finding in the record."""
    return {
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
            {"type": region.type, "points": _points(region.points), "origin": region.origin.value}
            for region in finding.regions
        ],
        "model": _model(finding.model),
    }


def _measurement(measurement: Measurement) -> Record:
    """The entry of a measurement in the record. ``points``: those of all lines, one after the other;
    ``lines`` keeps them apart.
    """
    lines = [_points(line) for line in measurement.lines]
    return {
        "name": measurement.name,
        "code": asdict(measurement.quantity),
        "value": measurement.value,
        "unit": measurement.unit.value,
        "points": list(chain.from_iterable(lines)),
        "lines": lines,
        "closed": measurement.closed,
        "source_uid": measurement.source_uid,
        "frame": measurement.frame,
        "model": _model(measurement.model) if measurement.model else None,
    }


def _points(points: Sequence[Point]) -> list[list[float]]:
    """The coordinates of points in the record, rounded."""
    return [[round(x, 2), round(y, 2)] for x, y in points]


def _model(model: ModelRef) -> Record:
    """The entry of a model in the record."""
    return {"id": model.id, "version": model.version, "sha256": model.sha256}


def _rounded(value: float | None) -> float | None:
    """A number in the record, rounded to four decimals; None stays None."""
    return None if value is None else round(float(value), 4)


def _entry(kind: str, path: Path, frames: int) -> Record:
    """The entry of a written picture in the record."""
    return {"kind": kind, "path": str(path), "frames": frames}


if TYPE_CHECKING:
    from ai_pipeline.burnin.find.annotation import Mark
    from ai_pipeline.contract import Finding, Measurement, Pipeline, Progress, SourceImage
    from ai_pipeline.images.header import StatedAttributes


def run(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="DICOM files or pictures (PNG, JPEG, TIFF), or folders of DICOM files.",
        ),
    ],
    pipeline: Annotated[
        str,
        typer.Option(help="Its name (`ai-pipeline pipelines` lists them), or auto: by modality."),
    ] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("ai-pipeline-output"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per input and line.")] = False,
    modality: Annotated[
        str | None, typer.Option(help="Modality of pictures, which say none: US or DX.")
    ] = None,
    view: Annotated[str, typer.Option(help="View Position of pictures, which say none: PA or AP.")] = "",
    body_part: Annotated[
        str, typer.Option(help="Body Part Examined of pictures, which say none, e.g. HEAD.")
    ] = "",
    pixel_mm: Annotated[
        float | None,
        typer.Option(min=0.001, max=10, help="Millimetres of a picture's pixel."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the pipeline as NAME=VALUE, e.g. clean=false.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of every mark why it goes or stays (ultrasound).")
    ] = False,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of one's own cards and weights.")] = None,
    device_rules: Annotated[Path | None, typer.Option(help="Folder of one's own device rules.")] = None,
) -> None:
    """Run a pipeline on files and write findings and pictures."""
    from ai_pipeline import extras

    if lacking := extras.missing():
        typer.echo(lacking, err=True)
        raise typer.Exit(EXIT_CONFIG)
    from ai_pipeline.images.header import StatedAttributes
    from ai_pipeline.pipelines import PIPELINES

    if pipeline not in {*PIPELINES, "auto"}:
        raise typer.BadParameter(
            f"choose from {', '.join(sorted(PIPELINES))} or auto", param_hint="--pipeline"
        )
    runner = _Runner(
        pipeline,
        Folder(out),
        modality,
        StatedAttributes(view, body_part, pixel_mm),
        _options(option or []),
        models_dir,
        device_rules,
        explain,
    )
    files, unreadable = dicom_files(files), False
    try:
        with progress_bar(len(files)) as update:
            for number, file in enumerate(files):
                record, readable = runner.handle(file, _reporter(update, number, file))
                unreadable |= not readable
                if as_json:
                    print(json.dumps(record), flush=True)
                else:
                    _print_record(record)
    except (CardError, DeviceRuleError, NoDecoder, PluginError) as error:
        typer.echo(str(error), err=True)
        missing = isinstance(error, (NoDecoder, PluginError))
        raise typer.Exit(EXIT_CONFIG if missing else EXIT_DATA) from error
    raise typer.Exit(EXIT_DATA if unreadable else 0)


def dicom_files(named: Sequence[Path]) -> list[Path]:
    """The files in ``named``, and all DICOM files below the folders in it; a line on standard error counts
    the other files.
    """
    found: list[Path] = []
    for path in named:
        if not path.is_dir():
            found.append(path)
            continue
        below = sorted(file for file in path.rglob("*") if file.is_file())
        dicom = [file for file in below if _is_dicom(file)]
        found += dicom
        if len(dicom) < len(below):
            typer.echo(f"{path}: {len(below) - len(dicom)} files skipped: not DICOM (Part 10)", err=True)
    return found


def _reporter(update: Callable[..., None], number: int, file: Path) -> Progress:
    """Return a function that moves the progress bar (by ``update``) while file number ``number`` is
    analysed.
    """

    def report(share: float, what: str) -> None:
        """Show the share done of this file, 0 to 1, and the step ``what``."""
        update(completed=number + share, description=f"{file.name}: {what}")

    return report


def _is_dicom(file: Path) -> bool:
    """Whether a file has the prefix of DICOM Part 10 and is no DICOMDIR, which only lists other files."""
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM" and file.name.upper() != "DICOMDIR"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Runner:
    """Analyses one input file after another for the command ``run``; each pipeline is created once.
    ``pipeline``: a pipeline's name, or ``auto`` (chosen by modality). ``given``: attributes stated for PNG
    and JPEG files. ``explain``: whether to say of every burned-in mark why it goes or stays; ``explained``
    collects these marks. ``made``: the created pipelines by name.
    """

    pipeline: str
    folder: Folder
    modality: str | None
    given: StatedAttributes
    options: Mapping[str, object]
    models_dir: Path | None
    device_rules: Path | None
    explain: bool
    explained: list[Mark] = field(default_factory=list)
    made: dict[str, Pipeline] = field(default_factory=dict)

    def handle(self, file: Path, report: Progress) -> tuple[Record, bool]:
        """Analyse one file; return its output record, and whether the file could be read."""
        from ai_pipeline.contract import Refuse
        from ai_pipeline.images.decode import open_image

        record: Record = {
            "file": str(file),
            "pipeline": self.pipeline,
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
        self.explained.clear()
        try:
            image = open_image(file, self.modality, self.given)
            pipeline = self._pipeline(image)
            if pipeline is None:
                record["reason"] = f"no pipeline for modality {shown_term('Modality', image.header.modality)}"
                return record, True
            record |= {"pipeline": pipeline.card.name, "version": pipeline.card.version}
            verdict = pipeline.accepts([image], self.options)
            if isinstance(verdict, Refuse):
                told = [f"AI: {one.look_first}" for one in verdict.refused if one.look_first]
                record |= {"reason": verdict.reason, "result": told}
                return record, True
            record["accepted"] = True
            result = pipeline.run([image], report, self.options)
            record |= filled_record(result, self.folder.pictures(file, image, result))
            if self.explain:
                record["marks"] = [mark.explained() for mark in self.explained]
        except CleaningFailed as failure:
            record["reason"] = f"no cleaned picture: {failure}"
        except (NoNumber, PixelError, ProgramFailed) as error:
            record |= {"accepted": False, "reason": str(error)}
            return record, False
        except OSError as error:
            record |= {"accepted": False, "reason": f"not readable: {error.strerror or type(error).__name__}"}
            return record, False
        return record, True

    def _pipeline(self, image: SourceImage) -> Pipeline | None:
        """The pipeline for an image, created when first needed; None if no pipeline takes its modality.
        Raises typer.BadParameter for options that it does not know.
        """
        from ai_pipeline.pipelines import option_faults

        name = _by_modality(image.header.modality) if self.pipeline == "auto" else self.pipeline
        if name is None:
            return None
        if name not in self.made:
            pipeline = self._create(name)
            known = pipeline.card.options
            if unknown := sorted(self.options.keys() - known.model_fields.keys()):
                there = ", ".join(sorted(known.model_fields)) or "none"
                instead = [known.former[one] for one in unknown if one in known.former]
                text = f"{name} knows no option {', '.join(unknown)} (it knows: {there})"
                raise typer.BadParameter("; ".join([text, *instead]), param_hint="--option")
            for option, remedy in option_faults(pipeline, self.options).items():
                raise typer.BadParameter(f"{option} {remedy}", param_hint="--option")
            self.made[name] = pipeline
        return self.made[name]

    def _create(self, name: str) -> Pipeline:
        """Create the pipeline ``name``; with ``explain``, one that explains its cleaning."""
        from ai_pipeline.pipelines import create, pipeline_class

        if not self.explain:
            return create(name, models_dir=self.models_dir, device_rules=self.device_rules)
        from ai_pipeline.burnin.pipeline import Ultrasound

        if pipeline_class(name) is not Ultrasound:
            raise typer.BadParameter(f"{name} has no marks to explain", param_hint="--explain")
        explain = self.explained.append
        return Ultrasound(models_dir=self.models_dir, device_rules=self.device_rules, explain=explain)


@cache
def _by_modality(modality: str) -> str | None:
    """The pipeline that ``auto`` takes for images of a modality, None if there is none."""
    from ai_pipeline.pipelines import cards

    return next((card.name for card in cards() if modality in card.auto_for), None)


def _options(pairs: Sequence[str]) -> dict[str, object]:
    """Read options of the form NAME=VALUE. Raises typer.BadParameter."""
    from ai_pipeline.pipelines import read_options

    try:
        return read_options(pairs)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--option") from error


def _print_record(record: Record) -> None:
    """Print the output record of one input for a person."""
    head = f"{record['file']}  {record['pipeline']} {record['version']}".strip()
    if not record["accepted"]:
        print_text(f"{head}\n  not analysed: {record['reason']}")
        return
    print_text("\n".join([head, *record["result"]]))
    rows = [
        (
            finding["label"],
            "" if finding["probability"] is None else f"{finding['probability']:.2f}",
            finding["decision"] + (" (research only)" if finding["research_only"] else ""),
            "; ".join(_place(region["points"]) for region in finding["regions"]),
        )
        for finding in record["findings"]
    ]
    print_table(("finding", "probability", "decision", "place"), rows)
    measured = [(one["name"], f"{one['value']:g} {one['unit']}") for one in record["measurements"]]
    if measured:
        print_table(("measurement", "value"), measured)
    lines = [f"{image['kind']}: {image['path']}" for image in record["images"]]
    lines += [f"{note['name']}: {note['text']}" for note in record["quality"]]
    lines += [*record.get("marks", ()), *([record["reason"]] if record["reason"] else [])]
    print_text("\n".join([*lines, "Not for diagnostic use."]))


def _place(points: Sequence[Sequence[float]]) -> str:
    """The box around points as "left,top to right,bottom"."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return f"{min(xs):.0f},{min(ys):.0f} to {max(xs):.0f},{max(ys):.0f}"
