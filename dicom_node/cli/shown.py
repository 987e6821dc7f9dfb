"""Verbs that print one thing in parts: a study, a job, a caller."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import typer

from dicom_node.cli.options import Config, Json, load, reading
from dicom_node.cli.output import print_details, print_json, print_part, say
from dicom_node.events import DELIVERY_RETRIED
from dicom_node.nouns import SINCE, UID_HELP, moment, whole_or_end
from dicom_node.nouns.columns import PrintedRow, local
from dicom_node.nouns.studies import PARTS, state_in_words


def _show_study(
    uid: Annotated[str, typer.Argument(metavar="UID", callback=whole_or_end, help=UID_HELP)],
    config: Config,
    as_json: Json = False,
) -> None:
    """Show one study: objects received, jobs, results, procedure steps, what happened."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        row = views.show_study(session, uid)
    if as_json:
        print_json(row)
        return
    parts = ("results", "jobs", "received", "steps", "events")
    hidden = (*parts, "study_instance_uid", "job_held")
    shown = {key: value for key, value in row.items() if key not in hidden}
    print_details(shown | {"state": state_in_words(row)})
    for part in parts:
        print_part(part.capitalize(), _folded(row[part]) if part == "events" else row[part], PARTS[part])


def _folded(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without what is for programs; failed tries of one peer for one reason are one line that counts them."""
    tries: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for event in events:
        if event["level"] != "debug":
            is_try = event["number"] == DELIVERY_RETRIED.number
            of_try = event["fields"].get("destination"), event["fields"].get("reason")
            tries.setdefault(of_try if is_try else (id(event),), []).append(event)
    return [
        same[0]
        if len(same) == 1
        else {**same[0], "text": f"{same[0]['text']} ({len(same)} times, last at {local(same[-1]['at'])})"}
        for same in tries.values()
    ]


def _show_job(
    job: Annotated[int, typer.Argument(metavar="JOB", help="Its number, as `jobs list` shows it.")],
    config: Config,
    as_json: Json = False,
) -> None:
    """Show one job: its images, options, results."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        row = views.show_job(session, job)
    if as_json:
        print_json(row)
    else:
        results = [f"{result['kind']} {result['sop_instance_uid']}" for result in row["results"]]
        print_details(row | {"results": results})


def _why(
    config: Config,
    asked: Annotated[
        str, typer.Argument(metavar="NAME|AE|ADDRESS", help="A peer, an AE title or an address.")
    ],
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help=SINCE.help)] = "30d",
    as_json: Json = False,
) -> None:
    """List what a machine tried, what was refused, and the configuration lines that would allow it."""
    from dicom_node.services import peers

    found = peers.why(load(config), asked, moment(since))
    if as_json:
        print_json(found)
    for caller in [] if as_json else found["callers"] or [found]:
        _print_caller(caller)
    if found["callers"] and not as_json:
        from dicom_node.nouns.configured import PARTS_OF_CALLER

        print_part("Without an AE title", found["failures"], PARTS_OF_CALLER["failures"])


def _print_caller(found: PrintedRow) -> None:
    from dicom_node.nouns.configured import PARTS_OF_CALLER

    peer = f"is the peer {found['peer']}" if found["peer"] else "is no peer"
    say(f"{found['asked']} {peer}; seen from {', '.join(found['addresses']) or 'no address'}", bold=True)
    for heading, columns in PARTS_OF_CALLER.items():
        print_part(heading.replace("_", " ").capitalize(), found[heading], columns)
    if found["others"]:
        say("")
        say(f"From there also called (each has its own `dicom-node peers why`): {', '.join(found['others'])}")
    for advice in found["advice"] or [{"says": "There is nothing to do.", "lines": []}]:
        say("")
        say(advice["says"], bold=True)
        for line in advice["lines"]:
            say(f"    {line}")


ADDED: Final[Mapping[str, tuple[str, Callable[..., Any], str]]] = {
    "studies": ("show", _show_study, "Example: dicom-node studies show 1.2.840.113619.2.1 -c node.toml"),
    "jobs": ("show", _show_job, "Example: dicom-node jobs show 17 --config node.toml"),
    "peers": (
        "why",
        _why,
        "Example (did the ultrasound get through?): dicom-node peers why US1",
    ),
}
"""Of each noun: name, function and example."""
