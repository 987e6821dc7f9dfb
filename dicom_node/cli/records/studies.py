"""``dicom-node studies``: what was received, and what became of it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from dicom_node.cli.common import rooms
from dicom_node.cli.common.lists import COLUMNS, PARTS_OF_STUDY, Rows, list_verb, state_in_words
from dicom_node.cli.common.options import (
    Config,
    Json,
    JsonObject,
    Limit,
    Since,
    StudyArgument,
    group,
    load,
    moment,
    reading,
    states_option,
    whole_or_end,
)
from dicom_node.cli.common.output import local, print_details, print_json, print_part, print_rows, say
from dicom_node.errors import ExitCode
from dicom_node.events import DELIVERY_RETRIED
from dicom_node.model.kinds import ReaderVerdict, RejectionReason
from dicom_node.model.lifecycle import StudyState

app = group("Received studies and their results.")

StudyArguments = Annotated[
    list[str], typer.Argument(metavar="UID...", help="Study Instance UIDs, or the last figures of each.")
]


@list_verb(
    app,
    "studies",
    "--state failed --since 2h --config node.toml",
    none="No studies, or none that all filters let pass.",
)
def list_studies(
    session: Any,
    *,
    state: Annotated[list[str] | None, states_option(StudyState, "held")] = None,
    since: Since = "",
    limit: Limit = 100,
) -> Rows:
    """List studies, the newest first. "held": a limit of its rule waits for a person (`jobs retry`)."""
    return rooms.views.list_studies(session, states=state or (), since=moment(since), limit=limit or None)


@app.command(epilog="Example: dicom-node studies show 1.2.840.113619.2.1 --config node.toml")
def show(uid: StudyArgument, config: Config, as_json: JsonObject = False) -> None:
    """Show one study: objects received, jobs, results, procedure steps, what happened."""
    with reading(config) as (session, _):
        row = rooms.views.show_study(session, uid)
    if as_json:
        print_json(row)
        return
    parts = ("results", "jobs", "received", "steps", "events")
    hidden = (*parts, "study_instance_uid", "job_held")
    shown = {key: value for key, value in row.items() if key not in hidden}
    print_details(shown | {"state": state_in_words(row)})
    for part in parts if row["steps"] else (part for part in parts if part != "steps"):
        rows = _folded(row[part]) if part == "events" else row[part]
        print_part(part.capitalize(), rows, PARTS_OF_STUDY[part])


@app.command(epilog="Example: dicom-node studies versions 1.2.840.113619.2.1 --config node.toml")
def versions(uid: StudyArgument, config: Config, as_json: Json = False) -> None:
    """Show the choices for a study in quarantine: patients, versions, their senders and differences."""
    rows = rooms.studies.versions(load(config), uid)
    print_rows(
        rows, COLUMNS["studies versions"], as_json=as_json, none="There is nothing to choose in this study."
    )
    if rows and not as_json:
        say(f"Then: dicom-node studies release {uid} --as-of {rows[0]['as_of']} --take NUMBER")


@app.command(epilog="Example: dicom-node studies release 1.2.840.113619.2.1 --as-of 2-17 --take 1")
def release(
    uids: StudyArguments,
    config: Config,
    take: Annotated[
        list[int] | None,
        typer.Option(metavar="NUMBER", help="Number of a choice in `studies versions`; repeatable."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="As `studies versions` says: refused if something came since, so that no number "
            "stands for another patient than you saw."
        ),
    ] = None,
) -> None:
    """Release studies from quarantine: each is assembled again; of one study you may choose what counts.

    Objects that you do not choose stay aside.
    """
    if len(uids) > 1:
        if take or as_of:
            raise typer.BadParameter("--take and --as-of are for one study")
        _change(config, uids, as_json=False, change="release")
        return
    rooms.studies.release(load(config), whole_or_end(uids[0]), take or (), as_of=as_of)
    say("Released: the study is assembled again and its rules are applied.")


@app.command(epilog="Example: dicom-node studies rerun 1.2.840.113619.2.1 --config node.toml")
def rerun(
    uids: StudyArguments,
    config: Config,
    as_json: Json = False,
) -> None:
    """Apply the present rules to studies again, delivered and failed ones too: to all of them or none.

    Unchanged results are not sent twice. A study that is being received or in quarantine is refused.
    """
    rows = rooms.studies.rerun_rules(load(config), [whole_or_end(uid) for uid in uids])
    print_rows(rows, COLUMNS["rules replay"], as_json=as_json, none="")


@app.command(epilog="Example: dicom-node studies retry 1.2.840.113619.2.1 113619.2.7 --config node.toml")
def retry(uids: StudyArguments, config: Config, as_json: Json = False) -> None:
    """Run the stopped jobs of studies again, and send their given-up deliveries again."""
    _change(config, uids, as_json=as_json, change="retry")


@app.command(epilog="Example: dicom-node studies send 1.2.840.113619.2.1 --to teaching --config node.toml")
def send(
    uids: StudyArguments,
    config: Config,
    to: Annotated[str, typer.Option("--to", metavar="PEER", help="A configured peer that may receive.")],
    as_json: Json = False,
) -> None:
    """Send the newest results of studies to a further peer, as far as it takes their kinds."""
    _change(config, uids, as_json=as_json, change="send", peer=to)


def _change(config: Config, uids: list[str], *, as_json: bool, **wanted: Any) -> None:
    """One change of each study; a row for each. Exits with FAILED where one refused."""
    rows = rooms.studies.change_studies(
        load(config), [whole_or_end(uid) for uid in uids], rooms.studies.StudyChangeRequest(**wanted)
    )
    print_rows(rows, COLUMNS["studies changed"], as_json=as_json, none="")
    if not as_json:
        for row in rows:
            _say_by_hand(row["by_hand"])
    if not all(row["done"] for row in rows):
        raise typer.Exit(ExitCode.FAILED)


@app.command(epilog='Example: dicom-node studies withdraw 1.2.3 --reason safety --because "other patient"')
def withdraw(
    uids: StudyArguments,
    config: Config,
    reason: Annotated[RejectionReason, typer.Option(help="Reason that the PACS gets.")],
    because: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason, which the rejection note contains.")
    ],
    result: Annotated[
        list[str] | None, typer.Option(metavar="UID", help="Only this SOP Instance UID; repeatable.")
    ] = None,
) -> None:
    """Withdraw the results of studies: peers with iocm get a rejection note; UIDs are printed for the others.

    Each study is withdrawn alone; exit status 1 if one refuses.
    """
    if len(uids) > 1:
        if result:
            raise typer.BadParameter("--result is for one study")
        because = rooms.audit.checked_reason(because)
        return _change(config, uids, as_json=False, change="withdraw", reason=reason, because=because)
    study = whole_or_end(uids[0])
    left = rooms.results.withdraw_by_uid(load(config), study, result or None, reason=reason, because=because)
    say("Withdrawn: nothing of it is sent any more.")
    return _say_by_hand(left)


def _say_by_hand(left: Mapping[str, Sequence[str]]) -> None:
    for peer, uids in left.items():
        say(f"To be removed by hand from {peer}:", bold=True)
        for uid in uids:
            say(f"  {uid}")


@list_verb(
    app, "studies findings", "1.2.840.113619.2.1 --config node.toml", none="No report of this study is here."
)
def findings(session: Any, settings: Any, *, uid: StudyArgument) -> Rows:
    """Show what a study's newest reports found, and how each finding was assessed."""
    return rooms.assessments.findings_of_study(session, settings, uid)


@app.command(
    epilog='Example: dicom-node studies assess 1.2.3 "Pleural effusion" --verdict rejected --because "a rib"'
)
def assess(
    uid: StudyArgument,
    finding: Annotated[str, typer.Argument(metavar="FINDING", help="As `studies findings` names it.")],
    config: Config,
    verdict: Annotated[
        ReaderVerdict, typer.Option(help="missing: the finding is there and the report lacks it.")
    ],
    because: Annotated[
        str, typer.Option(metavar="TEXT", help="The reason; needed for modified and rejected.")
    ] = "",
    tracking_uid: Annotated[
        str, typer.Option(metavar="UID", help="Tracking UID of the finding, if several have this name.")
    ] = "",
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model of the finding, if several models report it.")
    ] = "",
) -> None:
    """Assess one finding of a study's newest report; a later assessment replaces the earlier one."""
    about = {"finding": finding, "tracking_uid": tracking_uid, "model": model}
    row = rooms.assessments.assess_named(load(config), uid, about, verdict, because=because)
    say(f"Kept: {row['finding']} of {row['model']} is {verdict}.")


@app.command(epilog="Example: dicom-node studies accept 1.2.840.113619.2.1 --config node.toml")
def accept(
    uid: StudyArgument,
    config: Config,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Accept rejected results instead of waiting ones.")
    ] = False,
) -> None:
    """Accept results that wait for it (assess_first of a rule): they are sent."""
    number = rooms.assessments.accept_results(load(config), uid, rejected=rejected)
    say(f"Accepted: {number} result{'s' if number != 1 else ''} will be sent.")


@app.command(epilog='Example: dicom-node studies reject 1.2.3 --because "wrong side" --config node.toml')
def reject(
    uid: StudyArgument,
    config: Config,
    because: Annotated[str, typer.Option(metavar="TEXT", help="Why, without names.")],
) -> None:
    """Reject results that wait for an assessment: they are not sent."""
    number = rooms.assessments.reject_results(load(config), uid, because=because)
    say(f"Rejected: {number} result{'s' if number != 1 else ''} will not be sent.")


@app.command(epilog="Example: dicom-node studies delete 1.2.840.113619.2.1 --config node.toml")
def delete(
    uids: StudyArguments,
    config: Config,
    as_json: Json = False,
) -> int:
    """Delete received images of studies before spool.keep_days; exit status 1 if one cannot be deleted.

    A study must have ended with all results confirmed. Built results stay.
    """
    rows = rooms.studies.delete_by_uid(load(config), [whole_or_end(uid) for uid in uids])
    print_rows(rows, COLUMNS["studies delete"], as_json=as_json, none="")
    return ExitCode.OK if all(row["deleted"] for row in rows) else ExitCode.FAILED


def _folded(events: list[dict[str, Any]]) -> Rows:
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
