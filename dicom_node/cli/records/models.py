"""``dicom-node models``: which models there are, whether their weights are theirs, whether they drift."""

from itertools import groupby
from typing import Annotated, Any

import typer

from dicom_node.cli.common import rooms
from dicom_node.cli.common.lists import COLUMNS, SCORES, Rows, list_verb, percent
from dicom_node.cli.common.options import Config, Json, Since, group, load, moment, reading
from dicom_node.cli.common.output import PrintedRow, print_document, print_json, print_rows, say
from dicom_node.errors import ExitCode

app = group("Models: cards and weights.")


@list_verb(app, "models", none="No model cards.")
def list_models(settings: Any) -> Rows:
    """List the model cards: shipped, and those of workers.models_dir."""
    return rooms.models.listed(settings)


@app.command(epilog="Example: dicom-node models verify --config node.toml")
def verify(config: Config, as_json: Json = False) -> int:
    """Compare the weights of every model with the SHA-256 of its card."""
    rows = rooms.models.verified(load(config))
    print_rows(rows, COLUMNS["models verify"], as_json=as_json, none="No model cards.")
    return ExitCode.OK if all(row["ok"] for row in rows) else ExitCode.DATA


@app.command(epilog="Example (is one machine different?): dicom-node models drift --peer room3 --since 30d")
def drift(
    *,
    config: Config,
    since: Since = "",
    peer: Annotated[
        str, typer.Option("--peer", metavar="NAME", help="Only images of this peer (or AE title, or other).")
    ] = "",
    as_json: Json = False,
) -> None:
    """Compare each model's scores and refusals with its card's reference, sender by sender.

    Counts of whole days (UTC); the last 30 where --since is not given.
    """
    rows = rooms.models.drift(load(config), moment(since), peer)
    if as_json:
        print_json(rows)
        return
    if not rows:
        print_rows(rows, COLUMNS["models drift"], as_json=False, none="No images were counted.")
    for card, senders in groupby(rows, key=lambda row: row["card_sha256"]):
        _print_model(card, list(senders))


@app.command(epilog="Example: dicom-node models feedback --csv --config node.toml > feedback.csv")
def feedback(
    config: Config,
    since: Since = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    as_json: Json = False,
) -> None:
    """How readers assessed findings: accepted, modified, rejected or missing, why, of which version."""
    with reading(config) as (session, _):
        rows = rooms.assessments.all_assessments(session, since=moment(since))
    if as_csv:
        print_document(rooms.assessments.as_csv(rows))
        return
    print_rows(
        rows,
        COLUMNS["models feedback"],
        as_json=as_json,
        none="Nobody assessed a finding in this time.",
    )


def _print_model(card_sha256: str, senders: list[PrintedRow]) -> None:
    first = senders[0]
    say(f"{first['model']} {first['version']} (card {card_sha256[:8]}), since {first['since']}")
    print_rows(senders, COLUMNS["models drift"], as_json=False, none="")
    if known := first["reference"]:
        say(f"reference: {known['set']}, {known['images']} images, {percent(known['refused'])} refused")
    else:
        say(first["note"])
    for sender in senders:
        if sender["scores"]:
            say("")
            say(f"Scores of {sender['calling_ae']}")
            print_rows(sender["scores"], SCORES, as_json=False, none="")
    say("")
