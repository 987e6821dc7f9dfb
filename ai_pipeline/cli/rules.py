"""``ai-pipeline rules``: device rules, made of the pixel scripts of other programs."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ai_pipeline.cli.terminal import EXIT_DATA
from ai_pipeline.errors import DeviceRuleError

rules_app = typer.Typer(no_args_is_help=True, help="Device rules: where a scanner writes the patient's name.")


@rules_app.command(
    "import",
    epilog="Example:  ai-pipeline rules import DicomPixelAnonymizer.script --out device-rules/ctp.toml",
)
def import_script(
    file: Annotated[Path, typer.Argument(help="A pixel script of CTP, or a recipe of deid.")],
    out: Annotated[
        Path | None, typer.Option(help="A new file of a folder of device rules; else it is printed.")
    ] = None,
) -> None:
    """Make device rules of a pixel script of CTP (DicomPixelAnonymizer) or of a recipe of deid.

    Names each part that cannot be taken, with its line and the reason; then the exit status is 65, and the
    rest is written all the same. An imported rule only removes more: nothing that is read stays because of
    it. Look at each rule before you use it: its places are for one layout of one device.
    """
    from ai_pipeline.burnin.devices.importing import import_rules

    try:
        imported = import_rules(file)
        if imported.rules and out is not None:
            _write_new(out, imported.toml)
    except DeviceRuleError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_DATA) from error
    except FileExistsError as error:
        typer.echo(f"{out}: is there already: name a new file", err=True)
        raise typer.Exit(EXIT_DATA) from error
    except OSError as error:
        typer.echo(f"{out}: cannot be written: {error.strerror}", err=True)
        raise typer.Exit(EXIT_DATA) from error
    if imported.rules and out is None:
        typer.echo(imported.toml, nl=False)
    for part in imported.left:
        typer.echo(f"not taken: {part}", err=True)
    typer.echo(
        f"signatures taken: {imported.taken}; device rules: {len(imported.rules)}; "
        f"parts not taken: {len(imported.left)}",
        err=True,
    )
    if imported.left or not imported.rules:
        raise typer.Exit(EXIT_DATA)


def _write_new(path: Path, text: str) -> None:
    """Write a new file, whole or not at all: of half a file the other rules would be missing. Raises
    OSError, FileExistsError if it is there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new file of a name that nobody can guess: in a shared folder a link could lie at any other.
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".", suffix=".part", encoding="utf-8"
    ) as part:
        part.write(text)
        part.flush()
        os.fchmod(part.fileno(), 0o644)  # no patient's data, and the node may be another user
        os.link(part.name, path)
