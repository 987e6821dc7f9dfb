"""``dicom-node tokens``: what programs show instead of a password."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import Config, group, load, number_argument
from dicom_node.cli.common.output import say

app = group("Tokens of the REST API.")


@app.command(epilog='Example: dicom-node tokens add anna --for "the dashboard" --config node.toml')
def add(
    user: Annotated[str, typer.Argument(metavar="USER", help="The token gets the rights of this user.")],
    config: Config,
    purpose: Annotated[str, typer.Option("--for", metavar="TEXT", help="Purpose of the token.")],
    days: Annotated[int, typer.Option("--days", help="How long it is good for.")] = 365,
) -> None:
    """Make a token for a program and print it, once: the node keeps only its hash."""
    from dicom_node.services import users

    say(users.add_token(load(config), user, purpose, days))


@list_verb(app, "tokens", none="No tokens.")
def list_tokens(settings: Any) -> Rows:
    """List the tokens."""
    from dicom_node.services import users

    return users.list_tokens(settings)


@app.command(epilog="Example: dicom-node tokens remove 3 --config node.toml")
def remove(
    token: Annotated[
        int, number_argument("token", "tokens list", "TOKEN", "Its number, as `tokens list` shows it.")
    ],
    config: Config,
) -> None:
    """Take a token back: from now on it opens nothing."""
    from dicom_node.services import users

    users.remove_token(load(config), token)
    say(f"Token {token} is removed.")
