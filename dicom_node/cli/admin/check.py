"""``dicom-node check``: every mistake of a configuration at once."""

from __future__ import annotations

import dataclasses

import typer

from dicom_node.cli.common.options import Config, JsonObject, RoleOption
from dicom_node.cli.common.output import print_json, say, say_checked
from dicom_node.errors import ConfigurationError, ExitCode
from dicom_node.model.roles import Role

app = typer.Typer()


@app.command(epilog="Example: dicom-node check --config node.toml")
def check(config: Config, role: RoleOption = Role.ALL, as_json: JsonObject = False) -> int:
    """Check configuration, folders, database, certificates, port, models and peers; exit 78 on a mistake.

    What may pass, such as a PACS that does not answer now, is a warning and changes no exit status.
    """
    from dicom_node import preflight

    checked = preflight.check_and_probe(config, role)
    if as_json:
        print_json(
            {
                "problems": [dataclasses.asdict(problem) for problem in checked.problems],
                "checks": [dataclasses.asdict(line) for line in checked.tried],
            }
        )
        return ExitCode.CONFIG if checked.problems else ExitCode.OK
    for line in checked.tried:
        say_checked(line.subject, line.text, ok=line.ok)
    if checked.problems:
        raise ConfigurationError(checked.problems)
    warnings = sum(not line.ok for line in checked.tried)
    hint = f", but see the warning{'s' if warnings > 1 else ''} above" if warnings else ""
    say(f"The configuration is right{hint}.")
    return ExitCode.OK
