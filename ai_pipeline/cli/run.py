"""``ai-pipeline run``: one file after another through a pipeline; findings and pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ai_pipeline.cli.report import Folder, Record
    from ai_pipeline.contract import Pipeline, Progress, SourceImage

EXIT_DATA, EXIT_CONFIG = 65, 78  # EX_DATAERR, EX_CONFIG of sysexits.h
AUTO = {
    "US": "ultrasound", "IVUS": "ultrasound", "CR": "chest_xray", "DX": "chest_xray", "DR": "chest_xray",
}  # fmt: skip
"""Which pipeline ``--pipeline auto`` takes for a modality."""


def run(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="DICOM, PNG or JPEG files, or folders of DICOM files."),
    ],
    pipeline: Annotated[
        str, typer.Option(help="ultrasound, chest_xray, another installed one, or auto (by modality).")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("ai-pipeline-output"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per input and line.")] = False,
    modality: Annotated[
        str | None, typer.Option(help="Modality of PNG and JPEG files, which say none: US or DX.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the pipeline as NAME=VALUE, e.g. clean=false.")
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of one's own cards and weights.")] = None,
    device_rules: Annotated[Path | None, typer.Option(help="Folder of one's own device rules.")] = None,
) -> None:
    """Run a pipeline on files and write findings and pictures."""
    from ai_pipeline import extras

    if lacking := extras.missing():
        typer.echo(lacking, err=True)
        raise typer.Exit(EXIT_CONFIG)
    from ai_pipeline.cli.report import Folder
    from ai_pipeline.errors import CardError, DeviceRuleError, PluginError
    from ai_pipeline.pipelines import PIPELINES

    if pipeline not in {*PIPELINES, "auto"}:
        raise typer.BadParameter(
            f"choose from {', '.join(sorted(PIPELINES))} or auto", param_hint="--pipeline"
        )
    runner = _Runner(pipeline, Folder(out), modality, _options(option or []), models_dir, device_rules)
    files, unreadable = _inputs(files), False
    try:
        with _progress(len(files)) as report_for:
            for number, file in enumerate(files):
                told, readable = runner.handle(file, report_for(number, file))
                unreadable |= not readable
                if as_json:
                    print(json.dumps(told), flush=True)
                else:
                    _print_table(told)
    except (CardError, DeviceRuleError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error
    except PluginError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    raise typer.Exit(EXIT_DATA if unreadable else 0)


def _inputs(named: Sequence[Path]) -> list[Path]:
    """The files, and of folders all DICOM files below; what else lies there is counted on standard error."""
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


def _is_dicom(file: Path) -> bool:
    """By the prefix; a DICOMDIR only lists others."""
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM" and file.name.upper() != "DICOMDIR"
    except OSError:
        return False


class _Runner:
    """Handles one input after another; each pipeline is made once."""

    def __init__(
        self, pipeline: str, folder: Folder, modality: str | None, options: Mapping[str, object],
        models_dir: Path | None, device_rules: Path | None,
    ) -> None:  # fmt: skip
        self._asked = pipeline
        self._folder = folder
        self._modality = modality
        self._options = options
        self._models_dir = models_dir
        self._device_rules = device_rules
        self._made: dict[str, Pipeline] = {}

    def handle(self, file: Path, report: Progress) -> tuple[Record, bool]:
        """Return the record of an input and whether it could be read."""
        from ai_pipeline.cli.report import findings_of, quality_of, record, seconds_of
        from ai_pipeline.contract import Refuse
        from ai_pipeline.errors import CleaningFailed, PixelError, ProgramFailed
        from ai_pipeline.images.decode import open_image

        told = record(str(file), self._asked, "")
        try:
            image = open_image(file, self._modality)
            pipeline = self._pipeline(image)
            if pipeline is None:
                told["reason"] = f"no pipeline for modality {image.header.modality or 'unknown'}"
                return told, True
            told |= {"pipeline": pipeline.name, "version": pipeline.version}
            verdict = pipeline.accepts([image], self._options)
            if isinstance(verdict, Refuse):
                told["reason"] = verdict.reason
                return told, True
            told["accepted"] = True
            result = pipeline.run([image], report, self._options)
            told |= {"findings": findings_of(result), "images": self._folder.pictures(file, image, result)}
            told |= {"quality": quality_of(result), "seconds": seconds_of(result.timings)}
        except CleaningFailed as failure:
            told["reason"] = f"no cleaned picture: {failure}"
        except (PixelError, ProgramFailed) as error:
            told |= {"accepted": False, "reason": str(error)}
            return told, False
        except OSError as error:
            told |= {"accepted": False, "reason": f"not readable: {error.strerror or type(error).__name__}"}
            return told, False
        return told, True

    def _pipeline(self, image: SourceImage) -> Pipeline | None:
        from ai_pipeline.contract import ChecksOptions
        from ai_pipeline.pipelines import create

        name = AUTO.get(image.header.modality) if self._asked == "auto" else self._asked
        if name is None:
            return None
        if name not in self._made:
            pipeline = create(name, models_dir=self._models_dir, device_rules=self._device_rules)
            unknown = sorted(set(self._options) - set(pipeline.options))
            if unknown:
                known = ", ".join(sorted(pipeline.options)) or "none"
                raise typer.BadParameter(
                    f"{name} knows no option {', '.join(unknown)} (it knows: {known})", param_hint="--option"
                )
            if isinstance(pipeline, ChecksOptions):
                for option, remedy in pipeline.option_faults(self._options).items():
                    raise typer.BadParameter(f"{option} {remedy}", param_hint="--option")
            self._made[name] = pipeline
        return self._made[name]


def _options(pairs: Sequence[str]) -> dict[str, object]:
    """Read NAME=VALUE; values are TOML scalars, as in a rule of the node."""
    import tomllib

    options: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            options |= tomllib.loads(f"{name} = {value}") if equals else {name: True}
        except tomllib.TOMLDecodeError as error:
            raise typer.BadParameter(f"{pair}: not NAME=VALUE", param_hint="--option") from error
    return options


@contextmanager
def _progress(count: int) -> Iterator[Any]:
    """Yield a maker of progress reports: a bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _number, _file: lambda _share, _what: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=count)

        def report_for(number: int, file: Path) -> Progress:
            def report(share: float, what: str) -> None:
                bar.update(task, completed=number + share, description=f"{file.name}: {what}")

            return report

        yield report_for


def _print_table(told: Record) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    head = f"{told['file']}  {told['pipeline']} {told['version']}".strip()
    if not told["accepted"]:
        console.print(f"{head}\n  not analysed: {told['reason']}", markup=False, highlight=False)
        return
    table = Table(title=head, title_justify="left")
    for column in ("finding", "probability", "decision", "place"):
        table.add_column(column)
    for finding in told["findings"]:
        probability = finding["probability"]
        places = "; ".join(_place(region["points"]) for region in finding["regions"])
        table.add_row(
            finding["label"], "" if probability is None else f"{probability:.2f}", finding["decision"], places
        )
    console.print(table)
    lines = [f"{image['kind']}: {image['path']}" for image in told["images"]]
    lines += [f"{note['name']}: {note['text']}" for note in told["quality"]]
    lines += [told["reason"]] if told["reason"] else []
    console.print("\n".join([*lines, "Not for diagnostic use."]), markup=False, highlight=False)


def _place(points: Sequence[Sequence[float]]) -> str:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return f"{min(xs):.0f},{min(ys):.0f} to {max(xs):.0f},{max(ys):.0f}"
