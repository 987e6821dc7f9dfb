"""``ai-pipeline pipelines``: what is installed, and what each pipeline says of itself on its card."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ai_pipeline.cli.terminal import EXIT_CONFIG, print_table, print_text


def pipelines(
    name: Annotated[str, typer.Argument(help="One pipeline, with its options.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed pipelines, or show one with its options."""
    from ai_pipeline.errors import PluginError
    from ai_pipeline.pipelines import PIPELINES, card_of, cards

    if name and name not in PIPELINES:
        raise typer.BadParameter(f"choose from {', '.join(sorted(PIPELINES))}", param_hint="NAME")
    try:
        found = [card_of(name)] if name else list(cards())
    except PluginError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
    if as_json:
        records = [
            {
                "name": card.name,
                "version": card.version,
                "about": card.about,
                "intended_use": card.intended_use,
                "modalities": sorted(card.modalities),
                "options": [asdict(one) | {"kind": one.kind.__name__} for one in card.options.listed()],
                "measures": [one.name for one in card.measures],
                "outlines": [one.meaning for one in card.outlines],
                "slots": [one.name for one in card.slots],
            }
            for card in found
        ]
        print(json.dumps(records))
    elif name:
        (card,) = found
        print_text(f"{card.name} {card.version}\n{card.about}\n{card.intended_use}".rstrip())
        rows = [
            (
                one.key,
                "required" if one.required else f"{one.default} {one.unit}".strip(),
                one.label,
                one.help,
            )
            for one in card.options.listed()
        ]
        if rows:
            print_table(("option", "default", "what it is", ""), rows)
        if card.measures:
            print_text(f"Measures: {', '.join(one.name for one in card.measures)}.")
        if card.outlines:
            print_text(f"Outlines: {', '.join(one.meaning for one in card.outlines)}.")
        if card.slots:
            print_text(f"Models that can be exchanged: {', '.join(one.name for one in card.slots)}.")
        print_text("Not for diagnostic use.")
    else:
        print_table(
            ("name", "version", "what it does"), ((one.name, one.version, one.about) for one in found)
        )
