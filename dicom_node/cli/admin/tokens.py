"""``dicom-node tokens``: what programs show instead of a password."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common.options import Config, Json, group, load, number_of
from dicom_node.cli.common.output import Column, fields, local, print_rows, say

app = group("Tokens of the REST API.")

_COLUMNS: list[Column] = [
    *fields("token", "user", "role", "purpose"),
    ("since", lambda row: local(row["created_at"])),
    ("until", lambda row: local(row["expires_at"])),
    ("used", lambda row: local(row["used_at"]) if row["used_at"] else "never"),
]


@app.command(epilog='Example: dicom-node tokens add anna --for "the dashboard" --config node.toml')
def add(
    user: Annotated[str, typer.Argument(metavar="USER", help="It may what this user may.")],
    config: Config,
    purpose: Annotated[str, typer.Option("--for", metavar="TEXT", help="What it is for.")],
    days: Annotated[int, typer.Option("--days", help="How long it is good for.")] = 365,
) -> None:
    """Make a token for a program and print it, once: the node keeps only its hash."""
    from dicom_node.services import tokens

    say(tokens.add_token(load(config), user, purpose, days))


@app.command("list", epilog="Example: dicom-node tokens list --config node.toml")
def list_tokens(config: Config, as_json: Json = False) -> None:
    """List the tokens."""
    from dicom_node.services import tokens

    print_rows(tokens.list_tokens(load(config)), _COLUMNS, as_json=as_json, none="No tokens.")


@app.command(epilog="Example: dicom-node tokens remove 3 --config node.toml")
def remove(
    token: Annotated[
        int,
        typer.Argument(
            parser=number_of("token", "tokens list"),
            metavar="TOKEN",
            help="Its number, as `tokens list` shows it.",
        ),
    ],
    config: Config,
) -> None:
    """Take a token back: from now on it opens nothing."""
    from dicom_node.services import tokens

    tokens.remove_token(load(config), token)
    say(f"Token {token} is removed.")
