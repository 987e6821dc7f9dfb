"""``dicom-node users`` and ``tokens``: who may use the console, and what programs show for a password."""

import sys
from typing import Annotated, Any

import typer

from dicom_node.cli.common import rooms
from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import Config, group, load, number_argument
from dicom_node.cli.common.output import say
from dicom_node.model.roles import UserRole

app = group("Users of the console.")
tokens = group("Tokens of the REST API.")

Sees = Annotated[
    list[str] | None,
    typer.Option(
        "--sees", metavar="AE_TITLE", help="Only studies of this sender; repeat it for more. Without: all."
    ),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.")]


@app.command(epilog="Example: dicom-node users add anna --role admin --config node.toml")
def add(
    name: Name,
    config: Config,
    role: Annotated[
        UserRole,
        typer.Option(
            "--role",
            help="viewer sees, reader judges findings, operator runs again and uploads, admin decides.",
        ),
    ],
    sees: Sees = None,
) -> None:
    """Add a user; the password is asked for, or is the first line of standard input."""
    rooms.users.add_user(load(config), name, role, asked_password(), senders=sees or ())
    say(f"User {name} may sign in as {role}.")


@list_verb(app, "users", none="No users.")
def list_users(settings: Any) -> Rows:
    """List the users."""
    return rooms.users.list_users(settings)


@list_verb(app, "users sessions", "--user anna --config node.toml", none="Nobody is signed in.")
def list_sessions(
    settings: Any,
    *,
    user: Annotated[str, typer.Option("--user", metavar="NAME", help="Only those of this user.")] = "",
) -> Rows:
    """List who is signed in, and from where."""
    return rooms.users.list_sessions(settings, user)


@app.command("end-session", epilog="Example: dicom-node users end-session 3 --config node.toml")
def end_session(
    session: Annotated[
        int,
        number_argument("session", "users sessions", "SESSION", "Its number, as `users sessions` shows it."),
    ],
    config: Config,
) -> None:
    """End one session: its browser must sign in again."""
    rooms.users.end_session(load(config), session)
    say(f"Session {session} is ended.")


@app.command(epilog="Example: dicom-node users remove anna --config node.toml")
def remove(name: Name, config: Config) -> None:
    """Take a user's account away; whoever is signed in under it is signed out."""
    rooms.users.remove_user(load(config), name)
    say(f"User {name} is removed.")


@app.command(epilog="Example: dicom-node users change anna --role reader --config node.toml")
def change(
    name: Name,
    config: Config,
    role: Annotated[UserRole | None, typer.Option("--role", help="What the user may do from now on.")] = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disable/--enable", help="Shut the account, with its tokens, or open it again."),
    ] = None,
    sees: Sees = None,
    sees_all: Annotated[bool, typer.Option("--sees-all", help="Studies of all senders.")] = False,
) -> None:
    """Change a user's role or senders, or shut or open the account; the user is signed out everywhere."""
    if sees and sees_all:
        raise typer.BadParameter("give --sees or --sees-all, not both")
    senders = [] if sees_all else sees
    if role is None and disabled is None and senders is None:
        raise typer.BadParameter("give --role, --sees, --sees-all, --disable or --enable")
    rooms.users.change_user(load(config), name, role=role, disabled=disabled, senders=senders)
    say(f"User {name} is changed.")


@app.command(epilog="Example: dicom-node users password anna --config node.toml")
def password(name: Name, config: Config) -> None:
    """Set another password; it is asked for, or is the first line of standard input."""
    rooms.users.set_password(load(config), name, asked_password())
    say(f"User {name} has a new password.")


@tokens.command("add", epilog='Example: dicom-node tokens add anna --for "the dashboard" --config node.toml')
def add_token(
    user: Annotated[str, typer.Argument(metavar="USER", help="The token gets the rights of this user.")],
    config: Config,
    purpose: Annotated[str, typer.Option("--for", metavar="TEXT", help="Purpose of the token.")],
    days: Annotated[int, typer.Option("--days", help="How long it is good for.")] = 365,
) -> None:
    """Make a token for a program and print it, once: the node keeps only its hash."""
    say(rooms.users.add_token(load(config), user, purpose, days))


@list_verb(tokens, "tokens", none="No tokens.")
def list_tokens(settings: Any) -> Rows:
    """List the tokens."""
    return rooms.users.list_tokens(settings)


@tokens.command("remove", epilog="Example: dicom-node tokens remove 3 --config node.toml")
def remove_token(
    token: Annotated[
        int, number_argument("token", "tokens list", "TOKEN", "Its number, as `tokens list` shows it.")
    ],
    config: Config,
) -> None:
    """Take a token back: from now on it opens nothing."""
    rooms.users.remove_token(load(config), token)
    say(f"Token {token} is removed.")


def asked_password() -> str:
    """A password, never from an argument: every user of this machine can read those."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")
