"""What an admin watches: events, associations, notifications, deliveries, processes, lost decisions, the
spool.
"""

import re
from typing import Annotated, Any

import typer

from dicom_node import events
from dicom_node.cli.common import rooms
from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import (
    Config,
    JsonObject,
    Limit,
    Since,
    StudyUid,
    group,
    load,
    moment,
    number_argument,
    states_option,
)
from dicom_node.cli.common.output import print_json, say
from dicom_node.errors import ExitCode
from dicom_node.model.kinds import NotificationState
from dicom_node.model.lifecycle import DeliveryState


def _event_number(text: str) -> int:
    """The number of an event from its four digits."""
    if not re.fullmatch("[0-9]{4}", text):
        raise typer.BadParameter(f"{text!r} is no number of an event: docs/reference/events.md lists them")
    return int(text)


events_app = group("Events: what happened, and when.")
associations_app = group("Associations: who connected, and how many objects came.")


@list_verb(
    events_app, "events", "--since 03:10 --until 03:15", none="No events.", why='"what happened at 03:12?"'
)
def list_events(
    session: Any,
    *,
    study: StudyUid = "",
    since: Since = "",
    until: Annotated[
        str, typer.Option("--until", metavar="WHEN", help="Only before this time, written as in --since.")
    ] = "",
    number: Annotated[
        list[int] | None,
        typer.Option(
            "--number",
            parser=_event_number,
            metavar="NUMBER",
            help="Only with this number (docs/reference/events.md); repeatable.",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Also events of the level debug.")] = False,
    limit: Limit = 200,
) -> Rows:
    """List events, the oldest first; of more than --limit the newest."""
    rows = rooms.views.list_events(
        session,
        study_instance_uid=study,
        since=moment(since),
        until=moment(until),
        numbers=number or (),
        debug=debug,
        limit=limit or None,
    )
    # Only where none was found: a newer version of the node may have written others.
    known = {kind.number for kind in events.all_types()}
    if not rows and (unknown := [str(one) for one in number or () if one not in known]):
        raise typer.BadParameter(
            f"there is no event {', '.join(unknown)}: docs/reference/events.md lists the numbers"
        )
    return rows


@list_verb(
    associations_app,
    "associations",
    "--since 1h",
    none="No associations.",
    why="did the ultrasound get through?",
)
def list_associations(session: Any, *, since: Since = "", limit: Limit = 100) -> Rows:
    """List associations, the newest first; an open one has no closing time."""
    return rooms.views.list_associations(session, since=moment(since), limit=limit or None)


notifications_app = group("Notifications sent by e-mail or webhook, with their receivers.")


@list_verb(notifications_app, "notifications", "--state failed --config node.toml", none="No notifications.")
def list_notifications(
    session: Any,
    *,
    state: Annotated[list[NotificationState] | None, states_option(NotificationState)] = None,
    limit: Limit = 50,
) -> Rows:
    """List notifications, the newest first, without their text."""
    return rooms.notifications.list_notifications(session, states=state or (), limit=limit or None)


@notifications_app.command(epilog="Example: dicom-node notifications test admins --config node.toml")
def test(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A [[notifications]] of the configuration.")],
    config: Config,
    as_json: JsonObject = False,
) -> None:
    """Send a test now; exit status 1 when it is not taken."""
    row = rooms.notifications.send_test(load(config), name)
    if as_json:
        print_json(row)
    else:
        say(f"{row['name']}: {row['kind']} sent. {row['text']}".strip() if row["ok"] else row["text"])
    if not row["ok"]:
        raise typer.Exit(ExitCode.FAILED)


@notifications_app.command(epilog="Example: dicom-node notifications retry 12 --config node.toml")
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
    rooms.notifications.send_again(load(config), numbers)
    say("They are sent again.")


outbox_app = group("Outbox: one row per result object and destination.")


Numbers = Annotated[
    list[int] | None,
    number_argument("delivery", "outbox list", "[DELIVERY]...", "Numbers, as `outbox list` shows them."),
]
Dead = Annotated[bool, typer.Option("--dead", help="All that were given up.")]
To = Annotated[str, typer.Option("--to", metavar="PEER", help="With --dead: only to this peer.")]


@list_verb(
    outbox_app,
    "outbox",
    "--state dead --config node.toml",
    none="No deliveries, or none that all filters let pass.",
)
def list_deliveries(
    session: Any,
    *,
    state: Annotated[list[DeliveryState] | None, states_option(DeliveryState)] = None,
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="Only to this peer.")] = "",
    study: StudyUid = "",
    limit: Limit = 100,
) -> Rows:
    """List deliveries, the newest first."""
    return rooms.views.list_deliveries(
        session,
        states=state or (),
        destination=to,
        study_instance_uid=study,
        limit=limit or None,
    )


@outbox_app.command("retry", epilog="Example: dicom-node outbox retry --dead --config node.toml")
def retry_deliveries(
    config: Config,
    numbers: Numbers = None,
    dead: Dead = False,
    to: To = "",
) -> None:
    """Send results again that were given up, once the cause is gone."""
    _either(numbers, dead)
    number = rooms.deliveries.retry(load(config), numbers or None, destination=to)
    say(f"{number} will be sent again." if number != 1 else "1 delivery will be sent again.")


@outbox_app.command(
    "discard",
    epilog='Example: dicom-node outbox discard 17 --because "the PACS was replaced" --config node.toml',
)
def discard_deliveries(
    config: Config,
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why, without names; it is shown with them.")],
    numbers: Numbers = None,
    dead: Dead = False,
    to: To = "",
) -> None:
    """Stop sending results that wait or were given up. `outbox retry` sends them all the same."""
    _either(numbers, dead)
    number = rooms.deliveries.discard(load(config), numbers or None, because=because, destination=to)
    say(f"{number} discarded.")


def _either(deliveries: list[int] | None, dead: bool) -> None:
    if bool(deliveries) == dead:
        raise typer.BadParameter("give the numbers of deliveries, or --dead for all that were given up")


processes_app = group("Processes of the site: on which machine, since when, and whether they live.")


@list_verb(
    processes_app, "processes", none="No process has reported yet: does a node run?", why="who is silent?"
)
def list_processes(session: Any) -> Rows:
    """List all processes of all machines; a node that ended in good order is not among them."""
    from dicom_node.monitoring import processes

    return processes.processes(session)


@processes_app.command(epilog="Example: dicom-node processes health --config node.toml")
def health(config: Config) -> int:
    """Exit 0 where every process of this machine (or container) shows life, else 1: for health checks."""
    from dicom_node import services
    from dicom_node.monitoring import processes

    with services.reading(load(config)) as session:
        here = [row for row in processes.processes(session) if row["machine"] == processes.machine_name()]
    lost = [f"{row['place']}/{row['process']}" for row in here if row["state"] != "alive"]
    say(f"silent: {', '.join(lost)}" if lost else f"alive: {len(here)}")
    return ExitCode.OK if here and not lost else ExitCode.FAILED


@processes_app.command(epilog="Example: dicom-node processes forget oldserver --config node.toml")
def forget(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="As `processes list` shows it.")],
    config: Config,
) -> None:
    """Forget the lost processes of a machine that is gone for good; otherwise they are forgotten after a
    week.
    """
    say(f"Forgotten: {rooms.jobs.forget_machine(load(config), machine)}")


decisions_app = group("Decisions of persons that were lost with the database.")


@list_verb(decisions_app, "decisions", none="No decision waits.")
def list_decisions(session: Any) -> Rows:
    """List decisions of persons that the database lost and that could not be applied again yet.

    No result of a study is sent while one of its decisions marked "holds" waits.
    """
    return rooms.decisions.waiting(session)


@decisions_app.command(epilog='Example: dicom-node decisions settle 3f2a... --because "study was sent again"')
def settle(
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="As `decisions list` shows it.")],
    config: Config,
    because: Annotated[str, typer.Option("--because", help="The reason, which is stored with the decision.")],
) -> None:
    """Answer for a decision that cannot be done again, or a changed line: it holds nothing back any more."""
    rooms.decisions.settle(load(config), decision, because=because)
    say("Settled: results that it held back are sent.")


spool_app = group("The spool: received objects on disk.")


@spool_app.command(epilog="Example: dicom-node spool compare --config node.toml")
def compare(config: Config) -> int:
    """Compare spool and database, as the node does at its start and daily; exit status 1: they differ.

    What persons had decided and the database has lost is done again, or named where it cannot be.
    """
    loaded = load(config)
    lost = rooms.decisions.describe_lost(loaded)
    for line in lost:
        say(line)
    difference = rooms.studies.compare_spool(loaded)
    say(difference or "Spool and database agree.")
    return ExitCode.FAILED if difference or lost else ExitCode.OK


@spool_app.command(epilog="Example: dicom-node spool reindex --config node.toml")
def reindex(config: Config) -> None:
    """Put objects that the database does not know back to be taken in, as after a lost database.

    The node may run; one that is stopped takes them in when it starts. Results that were sent are asked for
    at their destinations and not sent twice.
    """

    def progress(done: int, of: int) -> None:
        if done % 1000 == 0 or done == of:
            say(f"{done} of {of} object{'s' if of != 1 else ''} put back")

    done = rooms.studies.reindex_spool(load(config), progress)
    say("The node takes them in like any other." if done else "Nothing to put back.")
