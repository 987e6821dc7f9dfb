"""Verbs for peers and rules that are entered in the database, not written in a configuration file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from dicom_node.cli.common.options import Config, load
from dicom_node.cli.common.output import say

Kind = Literal["peers", "rules"]
DespiteHold = Annotated[
    bool,
    typer.Option("--despite-hold", help="Save it although it sends results at once that another rule holds."),
]


def add_verbs(app: typer.Typer, kind: Kind, *, file: str) -> None:
    """Add ``put`` and ``remove`` to the verbs of peers or rules. ``file``: an example file of a peer or
    rule.
    """
    one, name = kind.removesuffix("s"), Path(file).stem

    def put(
        *,
        file: Annotated[
            Path, typer.Argument(metavar="FILE", exists=True, help=f"TOML with the keys of one {one}.")
        ],
        config: Config,
        despite_hold: DespiteHold = False,
    ) -> None:
        _put(config, kind, file, despite_hold=despite_hold)

    def remove(
        name: Annotated[
            str, typer.Argument(metavar=one.upper(), help="One that was entered, not of a file.")
        ],
        config: Config,
    ) -> None:
        _remove(config, kind, name)

    app.command(
        help=f"Add a {one}, or change one that was entered, after a check; running nodes take it over.",
        epilog=f"Example: dicom-node {kind} put {file} --config node.toml",
    )(put)
    app.command(
        help=f"Take a {one} out that was entered by page or command; running nodes take it over.",
        epilog=f"Example: dicom-node {kind} remove {name} --config node.toml",
    )(remove)


def _put(config: Sequence[Path], kind: Kind, file: Path, *, despite_hold: bool) -> None:
    """Save what stands in a file. Raises FaultyInput, NotAllowedNow, HoldUndercut."""
    from dicom_node.errors import FaultyInput
    from dicom_node.services import entered

    settings = load(config)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FaultyInput(f"{file} cannot be read: {type(error).__name__}") from None
    content = entered.parsed(kind, text)
    saved = entered.save(settings, kind, content, despite_hold=despite_hold)
    for warning in saved.warnings:
        say(f"warning: {warning}")
    say(f"{content['name']} is saved. {_taken_over(entered.apply(settings))}")


def _remove(config: Sequence[Path], kind: Kind, name: str) -> None:
    """Take one out. Raises NotFound, FaultyInput."""
    from dicom_node.services import entered

    settings = load(config)
    entered.remove(settings, kind, name)
    say(f"{name} is removed. {_taken_over(entered.apply(settings))}")


def _taken_over(nodes: int) -> str:
    return "The node takes it over (event 6010; 6011 if not)." if nodes else "No node runs here."
