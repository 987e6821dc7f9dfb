"""``ai-pipeline devices …``: a typer app that ``ai_pipeline.cli`` mounts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_pipeline.cli.terminal import EXIT_CONFIG, EXIT_DATA

if TYPE_CHECKING:
    from ai_pipeline.burnin.devices.rules import DeviceBox
    from ai_pipeline.contract import SourceImage

OUTLINE = (255, 96, 0)

devices_app = typer.Typer(
    no_args_is_help=True, help="Device rules: where scanners write the patient's name into the picture."
)
Folder = Annotated[
    Path | None, typer.Option(help="Folder of one's own device rules; else AI_PIPELINE_DEVICE_RULES.")
]


@devices_app.callback()
def _devices() -> None:
    """Device rules: where scanners write the patient's name into the picture."""


@devices_app.command("try", epilog="Example:  ai-pipeline devices try image.dcm --preview preview.png")
def try_rules(
    file: Annotated[Path, typer.Argument(metavar="FILE.dcm", help="A DICOM image of the device.")],
    preview: Annotated[
        Path | None,
        typer.Option(
            help="Write the picture as PNG with the rectangles outlined. It holds the patient's picture and "
            "whatever is burned into it: treat it as patient data, and delete it afterwards."
        ),
    ] = None,
    frame: Annotated[int, typer.Option(min=1, help="Frame to preview, from 1.")] = 1,
    device_rules: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which device rules match an image, which rectangles they name, and which conditions a rule could
    use.
    """
    from ai_pipeline.burnin.devices.rules import conditions_of, device_boxes, matching_rules
    from ai_pipeline.errors import DeviceRuleError, PixelError
    from ai_pipeline.images.decode import open_dicom

    try:
        image = open_dicom(file)
        header = image.header
        rules = [rule.name for rule in matching_rules(header, device_rules)]
        boxes = device_boxes(header, (header.rows, header.columns), device_rules)
        if preview is not None:
            _draw(image, frame - 1, boxes, preview)
    except DeviceRuleError as error:
        typer.echo("\n".join(str(fault) for fault in error.faults), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    except (PixelError, OSError) as error:
        typer.echo(f"{file}: {error.strerror if isinstance(error, OSError) else error}", err=True)
        raise typer.Exit(EXIT_DATA) from error
    if as_json:
        edges = ("left", "top", "right", "bottom")
        rectangles = [
            {"rule": found.rule, "meaning": found.meaning.value} | dict(zip(edges, found.box, strict=True))
            for found in boxes
        ]
        typer.echo(json.dumps({"match": conditions_of(header), "rules": rules, "rectangles": rectangles}))
    else:
        conditions = conditions_of(header).items()
        match = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in conditions)
        typer.echo(f"match = {{ {match} }}")
        for rule in rules:
            typer.echo(f"rule {rule}")
            for found in (box for box in boxes if box.rule == rule):
                left, top, right, bottom = found.box
                typer.echo(f"  {found.meaning.value}: left {left}, top {top}, right {right}, bottom {bottom}")
        if not rules:
            typer.echo("no device rule is for this image; the line above says what one could ask for")


def _draw(image: SourceImage, frame: int, boxes: Sequence[DeviceBox], path: Path) -> None:
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image.display(frame)).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for found in boxes:
        left, top, right, bottom = found.box
        pen.rectangle((left, top, right - 1, bottom - 1), outline=OUTLINE, width=2)
    path.touch(mode=0o600)  # it shows a patient
    picture.save(path, "PNG")
