"""``dicom-node notifications``: what was sent to whom."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import (
    Config,
    JsonObject,
    Limit,
    group,
    limit_or_none,
    load,
    number_argument,
    states_option,
)
from dicom_node.cli.common.output import print_json, say
from dicom_node.errors import ExitCode
from dicom_node.model.kinds import NotificationState

app = group("Notifications sent by e-mail or webhook, with their receivers.")


@list_verb(app, "notifications", "--state failed --config node.toml", none="No notifications.")
def list_notifications(
    session: Any,
    *,
    state: Annotated[list[NotificationState] | None, states_option(NotificationState)] = None,
    limit: Limit = 50,
) -> Rows:
    """List notifications, the newest first, without their text."""
    from dicom_node.services import notifications

    return notifications.list_notifications(session, states=state or (), limit=limit_or_none(limit))


@app.command(epilog="Example: dicom-node notifications test admins --config node.toml")
def test(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A [[notifications]] of the configuration.")],
    config: Config,
    as_json: JsonObject = False,
) -> None:
    """Send a test now, after its templates were tried; exit status 1 when it is not taken."""
    from dicom_node.services import notifications

    row = notifications.send_test(load(config), name)
    if as_json:
        print_json(row)
    else:
        say(f"{row['name']}: {row['kind']} sent. {row['text']}".strip() if row["ok"] else row["text"])
    if not row["ok"]:
        raise typer.Exit(ExitCode.FAILED)


@app.command(epilog="Example: dicom-node notifications retry 12 --config node.toml")
def retry(
    numbers: Annotated[
        list[int],
        number_argument(
            "notification",
            "notifications list",
            "NOTIFICATION...",
            "Their numbers, as `notifications list` shows them.",
        ),
    ],
    config: Config,
) -> None:
    """Send notifications again that were given up."""
    from dicom_node.services import notifications

    notifications.send_again(load(config), numbers)
    say("They are sent again.")
