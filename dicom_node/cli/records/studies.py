"""``dicom-node studies``: what was received, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from dicom_node.cli.common.options import (
    Config,
    Json,
    JsonObject,
    Limit,
    Since,
    StudyArgument,
    group,
    limit_or_none,
    load,
    moment,
    reading,
    states_option,
    whole_or_end,
)
from dicom_node.cli.common.output import (
    Column,
    details,
    fields,
    local,
    print_details,
    print_json,
    print_rows,
    say,
    short,
)
from dicom_node.errors import ExitCode
from dicom_node.events import DELIVERY_RETRIED
from dicom_node.model.kinds import ReaderVerdict, RejectionReason
from dicom_node.model.lifecycle import StudyState

app = group("Studies: what was received, and what became of it.")


def state_in_words(row: Mapping[str, Any]) -> str:
    """The state of a study; "held" where nothing came of it yet but a job that a limit of its rule holds."""
    return "held" if row["job_held"] and row["state"] == StudyState.NOT_APPLICABLE else str(row["state"])


_COLUMNS: list[Column] = [
    ("study", lambda row: short(row["study"])),
    ("state", state_in_words),
    ("patient", lambda row: row["patient_id"]),
    ("modality", lambda row: row["modalities"]),
    ("objects", lambda row: row["instances"]),
    ("results", lambda row: results_in_words(row["results"])),
    ("received", lambda row: local(row["last_received_at"])),
    ("reason", lambda row: row["reason"]),
]


_VERSIONS: list[Column] = [
    ("take", lambda row: row["number"]),
    ("choose", lambda row: row["choose"] + (f" (if {row['if_taken']} is taken)" if row["if_taken"] else "")),
    ("image", lambda row: short(row["sop_instance_uid"], 26) if row["sop_instance_uid"] else ""),
    ("objects", lambda row: row["objects"]),
    ("from", lambda row: row["calling_ae"]),
    ("received", lambda row: local(row["first_received_at"])),
    ("now", lambda row: "counts" if row["counts"] else "in another study" if row["stands_in"] else ""),
    ("details", lambda row: row["differs"]),
]
DECISIONS: list[Column] = [
    ("study", lambda row: short(row["study_instance_uid"])),
    ("rule", lambda row: row["rule"] or "–"),
    ("pipeline", lambda row: row["pipeline"] or "–"),
    ("images", lambda row: row["sources"]),
    ("to", lambda row: row["destinations"]),
    ("queued", lambda row: "yes" if row["queued"] else "no"),
    ("reason", lambda row: row["reason"]),
]
"""What rules made of studies; `rules replay` shows the same."""
_READINGS: list[Column] = [
    ("image", lambda row: short(row["sop_instance_uid"], 26)),
    *fields("frame", "kind", "meaning"),
    ("removed", lambda row: "yes" if row["removed"] else "no"),
    *fields("confidence", "text"),
]


@app.command("list", epilog="Example: dicom-node studies list --state failed --since 2h --config node.toml")
def list_studies(
    *,
    config: Config,
    state: Annotated[list[str] | None, states_option(StudyState, "held")] = None,
    since: Since = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List studies, the newest first. "held": a limit of its rule waits for a person (`jobs retry`)."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        rows = views.list_studies(
            session, states=state or (), since=moment(since), limit=limit_or_none(limit)
        )
    print_rows(rows, _COLUMNS, as_json=as_json, none="No studies, or none that all filters let pass.")


@app.command(epilog="Example: dicom-node studies show 1.2.840.113619.2.1 --config node.toml")
def show(uid: StudyArgument, config: Config, as_json: JsonObject = False) -> None:
    """Show one study: objects received, jobs, results, what happened."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        row = views.show_study(session, uid)
    if as_json:
        print_json(row)
        return
    parts = ("results", "jobs", "received", "events")
    hidden = (*parts, "study_instance_uid", "job_held")
    shown = {key: value for key, value in row.items() if key not in hidden}
    print_details(shown | {"state": state_in_words(row)})
    for part in parts:
        _print_part(part, _folded(row[part]) if part == "events" else row[part])


@app.command(epilog="Example: dicom-node studies readings 1.2.840.113619.2.1 --config node.toml")
def readings(uid: StudyArgument, config: Config, as_json: Json = False) -> None:
    """Show the readings of a study's burned-in annotation, names included. Needs the site key; event 4010."""
    from dicom_node import services

    rows = services.show_readings(load(config), uid)
    print_rows(rows, _READINGS, as_json=as_json, none="Nothing was read in this study, or it was purged.")


@app.command(epilog="Example: dicom-node studies versions 1.2.840.113619.2.1 --config node.toml")
def versions(uid: StudyArgument, config: Config, as_json: Json = False) -> None:
    """Show what is to be chosen in a study in quarantine: patients, versions, who sent them, what differs."""
    from dicom_node import services

    rows = services.study_versions(load(config), uid)
    print_rows(rows, _VERSIONS, as_json=as_json, none="There is nothing to choose in this study.")
    if rows and not as_json:
        say(f"Then: dicom-node studies release {uid} --as-of {rows[0]['as_of']} --take NUMBER")


@app.command(epilog="Example: dicom-node studies release 1.2.840.113619.2.1 --as-of 2-17 --take 1")
def release(
    uid: StudyArgument,
    config: Config,
    take: Annotated[
        list[int] | None,
        typer.Option(metavar="NUMBER", help="What `studies versions` shows under this number; repeatable."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="As `studies versions` says: refused if something came since, so that no number "
            "stands for another patient than you saw."
        ),
    ] = None,
) -> None:
    """Let a study out of quarantine: it is assembled again from what you take, the rest stays aside."""
    from dicom_node import services

    services.release_study(load(config), uid, take or (), as_of=as_of)
    say("Released: the study is assembled again and its rules are applied.")


@app.command(epilog="Example: dicom-node studies rerun 1.2.840.113619.2.1 --config node.toml")
def rerun(
    uids: Annotated[
        list[str],
        typer.Argument(metavar="UID...", help="Study Instance UIDs, or the last figures of each."),
    ],
    config: Config,
    as_json: Json = False,
) -> None:
    """Apply the rules of now to studies again, delivered and failed ones too: all of them or none.

    Results that do not change are not sent twice. A study that is being received or in quarantine is refused.
    """
    from dicom_node import services

    rows = services.rerun_studies(load(config), [whole_or_end(uid) for uid in uids])
    print_rows(rows, DECISIONS, as_json=as_json, none="")


@app.command(epilog="Example: dicom-node studies send 1.2.840.113619.2.1 --to teaching --config node.toml")
def send(
    uid: StudyArgument,
    config: Config,
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="A configured peer that may receive.")],
) -> None:
    """Send a study's newest results to a further peer, as far as it takes their kinds."""
    from dicom_node.services import work

    number = work.send_study(load(config), uid, to)
    say(f"{number} object{'s' if number != 1 else ''} will be sent to {to}.")


@app.command(epilog='Example: dicom-node studies withdraw 1.2.3 --reason safety --because "other patient"')
def withdraw(
    uid: StudyArgument,
    config: Config,
    reason: Annotated[RejectionReason, typer.Option(help="Why, as the PACS is told.")],
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why, in words; it goes into the note.")],
    result: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="Only this SOP Instance UID; repeatable.")
    ] = None,
) -> None:
    """Withdraw a study's results: peers with iocm are told, for the others the UIDs are printed."""
    from dicom_node.services import withdrawal

    left = withdrawal.withdraw_by_uid(load(config), uid, result or None, reason=reason, because=because)
    say("Withdrawn: nothing of it is sent any more.")
    for peer, uids in left.items():
        say(f"To be removed by hand from {peer}:", bold=True)
        for one in uids:
            say(f"  {one}")


_FINDINGS: list[Column] = [
    *fields("finding", "decision"),
    ("numbers", lambda row: ", ".join(f"{name} {number}" for name, number in row["numbers"].items())),
    *fields("model", "tracking_uid"),
    ("assessed", lambda row: ", ".join(f"{one['verdict']} ({one['actor']})" for one in row["verdicts"])),
]


@app.command(epilog="Example: dicom-node studies findings 1.2.840.113619.2.1 --config node.toml")
def findings(uid: StudyArgument, config: Config, as_json: Json = False) -> None:
    """Show what a study's newest reports found, and how each finding was assessed."""
    from dicom_node.services.console.studies import feedback

    with reading(config) as (session, settings):
        rows = feedback.of_study(session, settings, uid)
    print_rows(rows, _FINDINGS, as_json=as_json, none="No report of this study is here.")


@app.command(
    epilog='Example: dicom-node studies assess 1.2.3 "Pleural effusion" --verdict rejected --because "a rib"'
)
def assess(
    uid: StudyArgument,
    finding: Annotated[str, typer.Argument(metavar="FINDING", help="As `studies findings` names it.")],
    config: Config,
    verdict: Annotated[
        ReaderVerdict, typer.Option(help="missing: the report should have said it, and does not.")
    ],
    because: Annotated[
        str, typer.Option(metavar="TEXT", help="Why; of what is modified or rejected it is needed.")
    ] = "",
    tracking_uid: Annotated[
        str, typer.Option(metavar="UID", help="Of the finding, where several are called so.")
    ] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="And where several models say so.")] = "",
) -> None:
    """Assess one finding of a study's newest report; a later word replaces the earlier one."""
    from dicom_node.services.console.studies import feedback

    about = {"finding": finding, "tracking_uid": tracking_uid, "model": model}
    row = feedback.give_named(load(config), uid, about, verdict, because=because)
    say(f"Kept: {row['finding']} of {row['model']} is {verdict}.")


@app.command(epilog="Example: dicom-node studies accept 1.2.840.113619.2.1 --config node.toml")
def accept(
    uid: StudyArgument,
    config: Config,
    rejected: Annotated[bool, typer.Option("--rejected", help="Those that were rejected.")] = False,
) -> None:
    """Accept results that wait for it (assess_first of a rule): they are sent."""
    from dicom_node.services.console.studies import assessment

    number = assessment.accept(load(config), uid, rejected=rejected)
    say(f"Accepted: {number} result{'s' if number != 1 else ''} will be sent.")


@app.command(epilog='Example: dicom-node studies reject 1.2.3 --because "wrong side" --config node.toml')
def reject(
    uid: StudyArgument,
    config: Config,
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why, without names.")],
) -> None:
    """Reject results that wait for an assessment: none of them leaves."""
    from dicom_node.services.console.studies import assessment

    number = assessment.reject(load(config), uid, because=because)
    say(f"Rejected: {number} result{'s' if number != 1 else ''} will not be sent.")


_DELETED: list[Column] = [
    ("study", lambda row: short(row["study_instance_uid"])),
    ("deleted", lambda row: "yes" if row["deleted"] else "no"),
    ("why not", lambda row: row["reason"]),
]


@app.command(epilog="Example: dicom-node studies delete 1.2.840.113619.2.1 --config node.toml")
def delete(
    uids: Annotated[
        list[str],
        typer.Argument(metavar="UID...", help="Study Instance UIDs, or the last figures of each."),
    ],
    config: Config,
    as_json: Json = False,
) -> int:
    """Delete the received images of studies before spool.keep_days; exit status 1 where one keeps them.

    A study must have ended and its results be confirmed. Built results stay.
    """
    from dicom_node.services import retention

    rows = retention.delete_by_uid(load(config), [whole_or_end(uid) for uid in uids])
    print_rows(rows, _DELETED, as_json=as_json, none="")
    return ExitCode.OK if all(row["deleted"] for row in rows) else ExitCode.FAILED


def results_in_words(results: list[dict[str, Any]]) -> str:
    """ "4 confirmed, 1 dead" for a table: how many results stand how, wherever withdrawn ones are."""
    states = [
        "withdrawn"
        if result["withdrawn"]
        else "/".join(sorted(set(result["deliveries"].values()))) or "kept here"
        for result in results
    ]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def withdrawn_in_words(result: Mapping[str, Any]) -> str:
    """When, by whom and why a result was withdrawn; "" for one in force."""
    gone = result["withdrawn"]
    return f"{local(gone['at'])} by {gone['actor']}: {gone['because']} ({gone['reason']})" if gone else ""


_PARTS: Mapping[str, list[Column]] = {
    "results": [
        *fields("kind", "sop_instance_uid"),
        ("deliveries", lambda row: row["deliveries"] or "none"),
        ("withdrawn", withdrawn_in_words),
    ],
    "jobs": [
        *fields("job", "rule", "state", "attempts", "reason"),
    ],
    "received": [
        ("received", lambda row: local(row["received_at"])),
        ("from", lambda row: row["calling_ae"]),
        *fields("sop_instance_uid", "outcome", "reason"),
    ],
    "events": [
        ("at", lambda row: local(row["at"])),
        ("number", lambda row: row["number"]),
        ("event", lambda row: row["text"]),
        ("details", details),
    ],
}


def _folded(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what is for programs; failed tries of one peer for one reason are one line that counts them."""
    tries: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for event in events:
        tries.setdefault(_try(event), []).append(event)
    return [
        event | {"text": f"{event['text']} ({len(same)} times, last at {local(same[-1]['at'])})"}
        if event["number"] == DELIVERY_RETRIED.number and len(same) > 1
        else event
        for event in events
        if event["level"] != "debug"
        and ((same := tries[_try(event)])[0] is event or event["number"] != DELIVERY_RETRIED.number)
    ]


def _try(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return event["number"], event["fields"].get("destination"), event["fields"].get("reason")


def _print_part(name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        say("")
        say(name.capitalize(), bold=True)
        print_rows(rows, _PARTS[name], as_json=False, none="")
