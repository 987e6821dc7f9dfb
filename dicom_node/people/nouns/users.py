"""Who may use the console, and what programs show for a password."""

from dataclasses import replace
from typing import Final

from dicom_node.base.kinds import UserRole
from dicom_node.people.nouns import Input, Noun, Verb
from dicom_node.people.nouns.columns import fields, local, times

_NAME: Final = Input("name", str, "Name of the user.", metavar="NAME")
_SENDERS: Final = Input(
    "senders",
    str,
    "Only studies of this sender; repeat it for more. Without: all.",
    "--sees",
    "AE_TITLE",
    (),
    many=True,
)
_PASSWORD: Final = Input("password", is_secret=True)

USERS: Final = Noun(
    "users",
    "Users of the console.",
    (
        Verb(
            "list",
            "people.users:list_users",
            "List the users.",
            columns=(
                *fields("name", "role"),
                ("account", lambda row: "disabled" if row["disabled"] else "enabled"),
                ("of", lambda row: row["issuer"] or "this node"),
                *times("since: created_at", "seen_at"),
            ),
            none="No users.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "sessions",
            "people.users:list_sessions",
            "List who is signed in, and from where.",
            "--user anna --config node.toml",
            inputs=(Input("user", str, "Only those of this user.", "--user", "NAME", ""),),
            columns=(
                *fields("session", "user"),
                *times("since: created_at", "last used: seen_at"),
                *fields("address", "browser"),
            ),
            none="Nobody is signed in.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "end-session",
            "people.users:end_session",
            "End one session: its browser must sign in again.",
            "3 --config node.toml",
            inputs=(
                Input("number", int, "Its number, as `users sessions` shows it.", metavar="SESSION", least=0),
            ),
            says="Session {number} is ended.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "add",
            "people.users:add_user",
            "Add a user; the password is asked for, or is the first line of standard input.",
            "anna --role admin --config node.toml",
            inputs=(
                _NAME,
                Input(
                    "role",
                    UserRole,
                    "viewer sees, reader judges findings, operator runs again and uploads, admin decides.",
                    "--role",
                ),
                _SENDERS,
                _PASSWORD,
            ),
            says="User {name} may sign in as {role}.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "change",
            "people.users:change_user",
            "Change a user's role or senders, or shut or open the account; the user is signed out "
            "everywhere.",
            "anna --role reader --config node.toml",
            inputs=(
                _NAME,
                Input("role", UserRole, "What the user may do from now on.", "--role", default=None),
                Input(
                    "disabled",
                    bool,
                    "Shut the account, with its tokens, or open it again.",
                    "--disable/--enable",
                    default=None,
                ),
                replace(_SENDERS, default=None),
                Input("sees_all", bool, "Studies of all senders.", "--sees-all", default=False),
            ),
            says="User {name} is changed.",
            either=("role", "disabled", "senders", "sees_all"),
            role=UserRole.ADMIN,
        ),
        Verb(
            "password",
            "people.users:set_password",
            "Set another password; it is asked for, or is the first line of standard input.",
            "anna --config node.toml",
            inputs=(_NAME, _PASSWORD),
            says="User {name} has a new password.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "remove",
            "people.users:remove_user",
            "Take a user's account away; whoever is signed in under it is signed out.",
            "anna --config node.toml",
            inputs=(_NAME,),
            says="User {name} is removed.",
            role=UserRole.ADMIN,
        ),
    ),
)

TOKENS: Final = Noun(
    "tokens",
    "Tokens of the REST API.",
    (
        Verb(
            "list",
            "people.users:list_tokens",
            "List the tokens.",
            columns=(
                *fields("token", "user", "role", "purpose"),
                *times("since: created_at", "until: expires_at"),
                ("used", lambda row: local(row["used_at"]) or "never"),
            ),
            none="No tokens.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "add",
            "people.users:add_token",
            "Make a token for a program and print it, once: the node keeps only its hash.",
            'anna --for "the dashboard" --config node.toml',
            inputs=(
                Input("user", str, "The token gets the rights of this user.", metavar="USER"),
                Input("purpose", str, "Purpose of the token.", "--for", "TEXT"),
                Input("days", int, "How long it is good for.", "--days", default=365),
            ),
            says="{result}",
            role=UserRole.ADMIN,
        ),
        Verb(
            "remove",
            "people.users:remove_token",
            "Take a token back: from now on it opens nothing.",
            "3 --config node.toml",
            inputs=(
                Input("number", int, "Its number, as `tokens list` shows it.", metavar="TOKEN", least=0),
            ),
            says="Token {number} is removed.",
            role=UserRole.ADMIN,
        ),
    ),
)
