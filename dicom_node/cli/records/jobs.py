"""``dicom-node jobs``: pipelines that ran, run, wait or were held."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common.options import (
    Config,
    Json,
    JsonObject,
    Limit,
    StudyUid,
    group,
    limit_or_none,
    load,
    number_of,
    reading,
    states_option,
)
from dicom_node.cli.common.output import Column, Row, local, print_details, print_json, print_rows, say, short
from dicom_node.model.lifecycle import JobState

app = group("Jobs: one rule's pipeline on one study.")

Number = Annotated[
    int,
    typer.Argument(
        parser=number_of("job", "jobs list"),
        metavar="JOB",
        help="Number of the job, as `jobs list` shows it.",
    ),
]


def _state(row: Row) -> str:
    done = f" {row['share_done']:.0%}" if row["state"] == JobState.RUNNING else ""
    return f"{row['state']}{done}"


def _doing(row: Row) -> str:
    return str(row["doing"]) if row["state"] == JobState.RUNNING else ""


def _waits(row: Row) -> str:
    """How long it will wait, in words that are no more exact than the estimate."""
    seconds = row["waits_seconds"]
    if seconds is None:
        return ""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


_COLUMNS: list[Column] = [
    ("job", lambda row: row["job"]),
    ("state", _state),
    ("rule", lambda row: row["rule"]),
    ("study", lambda row: short(row["study_instance_uid"])),
    ("priority", lambda row: row["priority"]),
    ("waits", _waits),
    ("tries", lambda row: row["attempts"]),
    ("created", lambda row: local(row["created_at"])),
    ("reason", lambda row: row["reason"] or _doing(row)),
]


@app.command("list", epilog="Example: dicom-node jobs list --state held --config node.toml")
def list_jobs(
    *,
    config: Config,
    state: Annotated[list[JobState] | None, states_option(JobState)] = None,
    study: StudyUid = "",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    from dicom_node import services
    from dicom_node.store import views

    with reading(config) as (session, loaded):
        rows = views.list_jobs(
            session,
            states=state or (),
            study_instance_uid=study,
            limit=limit_or_none(limit),
            workers=max(loaded.workers.processes, 1) if services.is_worked_on(loaded) else 0,
        )
    print_rows(rows, _COLUMNS, as_json=as_json, none="No jobs, or none that all filters let pass.")


@app.command(epilog="Example: dicom-node jobs show 17 --config node.toml")
def show(job: Number, config: Config, as_json: JsonObject = False) -> None:
    """Show one job: its images, options, results."""
    from dicom_node.store import views

    with reading(config) as (session, _):
        row = views.show_job(session, job)
    if as_json:
        print_json(row)
        return
    results = [f"{result['kind']} {result['sop_instance_uid']}" for result in row["results"]]
    print_details(row | {"results": results})


@app.command(epilog="Example: dicom-node jobs retry 17 --config node.toml")
def retry(job: Number, config: Config) -> None:
    """Run a job that failed, was held or was cancelled."""
    from dicom_node.services import work

    work.change_job(load(config), job, "retry")
    say(f"Job {job} is queued.")


@app.command(epilog="Example: dicom-node jobs first 17 --config node.toml")
def first(job: Number, config: Config) -> None:
    """Put a job that waits before all others."""
    from dicom_node.services import work

    work.change_job(load(config), job, "put_first")
    say(f"Job {job} is the next.")


@app.command(epilog="Example: dicom-node jobs cancel 17 --config node.toml")
def cancel(job: Number, config: Config) -> None:
    """Cancel a job; one that runs is stopped at its next step."""
    from dicom_node.services import work

    work.change_job(load(config), job, "cancel")
    say(f"Job {job} is cancelled, or will be at its next step.")
