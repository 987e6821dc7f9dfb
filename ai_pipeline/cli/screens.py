"""``ai-pipeline learn-screen``: the profiles of the screens in a folder of images, as device rules."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ai_pipeline.cli.run import dicom_files
from ai_pipeline.cli.terminal import EXIT_CONFIG, EXIT_DATA, print_text, progress_bar
from ai_pipeline.errors import CardError


def learn_screen(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of DICOM files.")],
    out: Annotated[Path, typer.Option(help="File of device rules to write; it must not exist.")],
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="TEXT", help="A text that is asked about and stays; repeatable."),
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of one's own cards and weights.")] = None,
) -> None:
    """Learn which texts stand on a device's screen for 20 patients or more, and write device rules by which
    they stay when images are cleaned.

    Names of persons and places, dates, head lines and what is beside them are in no rule. Look at what is
    asked about before you keep it.
    """
    from ai_pipeline import extras

    if lacking := extras.missing():
        typer.echo(lacking, err=True)
        raise typer.Exit(EXIT_CONFIG)
    from ai_pipeline.burnin.screens.learning import learn
    from ai_pipeline.burnin.screens.offers import Choice
    from ai_pipeline.burnin.screens.rule_file import file_text, screen_rule
    from ai_pipeline.burnin.tools import shared_tools

    files, rules = dicom_files([folder]), []
    try:
        with progress_bar(len(files)) as update:
            learnt = learn(files, shared_tools(models_dir), lambda number: update(completed=number))
        for reason, count in learnt.skipped.items():
            typer.echo(f"{count} files not counted: {reason}", err=True)
        for device, counts in learnt.screens.items():
            offers = counts.offers()
            texts = {choice: {one.text for one in offers if one.choice is choice} for choice in Choice}
            stays = texts[Choice.STAYS].union(keep or ())
            with suppress(ValueError):  # none stays
                rules.append(screen_rule(device, offers, stays))
            asked = ", ".join(sorted(texts[Choice.ASK] - stays)) or "nothing"
            print_text(
                f"{device.rule_name}: {counts.patients} patients at least; asked about, and gone: {asked}"
            )
        if rules:
            with out.open("x", encoding="utf-8") as file:
                source = f"learnt by ai-pipeline learn-screen, {datetime.now(UTC):%Y-%m-%d}"
                file.write(file_text(source, rules))
    except (CardError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error
    if not rules:
        typer.echo("no text was seen for 20 patients of one device: nothing is written", err=True)
        raise typer.Exit(EXIT_DATA)
    typer.echo(f"{out}: {len(rules)} device rule{'s' * (len(rules) > 1)}")
