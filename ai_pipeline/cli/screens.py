"""``ai-pipeline learn-screen``: the profiles of the screens in a folder of images, as device rules."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ai_pipeline.cli.run import dicom_files
from ai_pipeline.cli.terminal import EXIT_CONFIG, EXIT_DATA, print_table, progress_bar
from ai_pipeline.errors import CardError, DeviceRuleError

if TYPE_CHECKING:
    from ai_pipeline.burnin.devices.rules import DeviceRule
    from ai_pipeline.burnin.screens.learning import Learnt


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

    Names of persons and places, dates, head lines and what stands beside them are in no rule. Look at what is
    asked about before you keep it.
    """
    from ai_pipeline import extras

    if lacking := extras.missing():
        typer.echo(lacking, err=True)
        raise typer.Exit(EXIT_CONFIG)
    from ai_pipeline.burnin.screens.learning import learn
    from ai_pipeline.burnin.screens.rule_file import file_text
    from ai_pipeline.burnin.tools import shared_tools

    files = dicom_files([folder])
    try:
        with progress_bar(len(files)) as update:
            learnt = learn(files, shared_tools(models_dir), lambda number: update(completed=number))
    except (CardError, DeviceRuleError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error
    for reason, count in learnt.skipped.items():
        typer.echo(f"{count} files not counted: {reason}", err=True)
    rules = _rules(learnt, keep or [])
    if not rules:
        typer.echo("no text was seen for 20 patients of one device: nothing is written", err=True)
        raise typer.Exit(EXIT_DATA)
    source = f"learnt by ai-pipeline learn-screen, {datetime.now(UTC):%Y-%m-%d}"
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(file_text(source, rules))
    except OSError as error:
        typer.echo(f"{out} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(EXIT_DATA) from error
    typer.echo(f"{out}: {len(rules)} device rule{'s' * (len(rules) > 1)}")


def _rules(learnt: Learnt, keep: list[str]) -> list[DeviceRule]:
    """The device rules of the screens that were learnt; a table says what was found of each."""
    from ai_pipeline.burnin.screens.offers import Choice
    from ai_pipeline.burnin.screens.rule_file import screen_rule

    rules, rows = [], []
    for device, counts in learnt.screens.items():
        offers = counts.offers()
        stays = {offer.text for offer in offers if offer.choice is Choice.STAYS} | {*keep}
        asked = sorted({offer.text for offer in offers if offer.choice is Choice.ASK} - stays)
        if any(offer.text in stays for offer in offers):
            rules.append(screen_rule(device, offers, stays))
        kept = len(rules[-1].texts) if rules and rules[-1].name == device.rule_name else 0
        rows.append((device.rule_name, f"{counts.patients}", f"{kept}", ", ".join(asked)))
    print_table(("device rule", "patients at least", "texts that stay", "asked about, and go"), rows)
    return rules
