"""``dicom-node models``: which models there are, whether their weights are theirs, whether they drift."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer

from dicom_node.cli.common.options import Config, Json, Since, group, load, moment, reading
from dicom_node.cli.common.output import (
    Column,
    Row,
    fields,
    local,
    print_document,
    print_json,
    print_rows,
    say,
    short,
)
from dicom_node.errors import ExitCode

app = group("Models: cards and weights.")

_COLUMNS: list[Column] = [
    ("model", lambda row: row["id"]),
    *fields("version", "task", "architecture", "licence"),
]

_CHECKS: list[Column] = [
    ("model", lambda row: row["id"]),
    ("", lambda row: "ok" if row["ok"] else "REFUSED"),
    ("why", lambda row: row["text"]),
]


_SENDERS: list[Column] = [
    ("peer", lambda row: row["calling_ae"]),
    *fields("analysed", "reoriented"),
    ("refused by pixels", lambda row: _refused(row)),  # noqa: PLW0108  (the reader meets columns first)
    ("by header", lambda row: row["refused_header"]),
    ("scores", lambda row: row["verdict"]),
]

_FEEDBACK: list[Column] = [
    ("at", lambda row: local(row["at"])),
    ("by", lambda row: row["actor"]),
    ("study", lambda row: short(row["study_instance_uid"])),
    *fields("finding", "decision", "verdict", "model", "version"),
]

_SCORES: list[Column] = [
    *fields("label", "images"),
    ("PSI", lambda row: "–" if row["psi"] is None else f"{row['psi']:.3f}"),
    ("by chance", lambda row: "–" if row["by_chance"] is None else f"≤ {row['by_chance']:.3f}"),
    ("", lambda row: row["verdict"]),
]


_COMPARED: list[Column] = [
    ("active", lambda row: row["active_model"]),
    ("shadow", lambda row: row["model"]),
    *fields("label", "images", "both"),
    ("only active", lambda row: row["active_alone"]),
    ("only shadow", lambda row: row["shadow_alone"]),
    ("agree", lambda row: "{} ({} to {})".format(*(_percent(share) for share in row["agreement"]))),
    ("studies that differ", lambda row: " ".join(map(str, row["differ"]))),
]


@app.command("list", epilog="Example: dicom-node models list --config node.toml")
def list_models(config: Config, as_json: Json = False) -> None:
    """List the model cards: shipped, and those of workers.models_dir."""
    from dicom_node import services

    rows = services.models(load(config))
    print_rows(rows, _COLUMNS, as_json=as_json, none="No model cards.")


@app.command(epilog="Example: dicom-node models verify --config node.toml")
def verify(config: Config, as_json: Json = False) -> int:
    """Compare the weights of every model with the SHA-256 of its card."""
    from dicom_node import services

    rows = services.verify_models(load(config))
    print_rows(rows, _CHECKS, as_json=as_json, none="No model cards.")
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

    Counts of whole days (UTC); the last drift.window_days where --since is not given.
    """
    from dicom_node import services

    rows = services.model_drift(load(config), moment(since), peer)
    if as_json:
        print_json(rows)
        return
    if not rows:
        print_rows(rows, _SENDERS, as_json=False, none="No images were counted.")
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
    from dicom_node.services.console.studies import feedback as given

    with reading(config) as (session, _):
        rows = given.rows(session, since=moment(since))
    if as_csv:
        print_document(given.as_csv(rows))
        return
    print_rows(rows, _FEEDBACK, as_json=as_json, none="Nobody said anything of findings in this time.")


@app.command(
    epilog="Example (what would the other model have called?): dicom-node models compare --since 30d"
)
def compare(config: Config, since: Since = "", as_json: Json = False) -> None:
    """Compare the active chest model with the one in its shadow, label by label.

    Images of whole days (UTC); the last drift.window_days where --since is not given. What the model in the
    shadow says stays in the node: `ai-pipeline models activate NAME --pipeline chest_xray_shadow` starts it.
    """
    from dicom_node import services

    rows = services.model_comparison(load(config), moment(since))
    none = "No model runs in the shadow of another, or nothing was compared."
    print_rows(rows, _COMPARED, as_json=as_json, none=none)


def _print_model(card_sha256: str, senders: list[Row]) -> None:
    first = senders[0]
    say(f"{first['model']} {first['version']} (card {card_sha256[:8]}), since {first['since']}")
    print_rows(senders, _SENDERS, as_json=False, none="")
    if known := first["reference"]:
        say(f"reference: {known['set']}, {known['images']} images, {_percent(known['refused'])} refused")
    else:
        say(first["note"])
    for sender in senders:
        if sender["scores"]:
            say("")
            say(f"Scores of {sender['calling_ae']}")
            print_rows(sender["scores"], _SCORES, as_json=False, none="")
    say("")


def _refused(row: Row) -> str:
    """What the pixel gate refused: how many, and the share with its 95 % interval."""
    if row["refusal_rate"] is None:
        return str(row["refused_pixels"])
    share, low, high = row["refusal_rate"]
    return f"{row['refused_pixels']} = {_percent(share)} ({_percent(low)} to {_percent(high)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
