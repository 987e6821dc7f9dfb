"""``dicom-node jobs``: pipelines that ran, run, wait or were held."""

from typing import Annotated, Any

import typer

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
    reading,
    states_option,
)
from dicom_node.cli.common.output import print_details, print_json, say
from dicom_node.model.lifecycle import JobState

app = group("Jobs: one rule's pipeline on one study.")

Number = Annotated[
    int, number_argument("job", "jobs list", "JOB", "Number of the job, as `jobs list` shows it.")
]
_SEVERAL = number_argument(
    "job", "jobs list", "JOB...", "Numbers of jobs, as `jobs list` shows them: all of them or none."
)
Several = Annotated[list[int], _SEVERAL]


@list_verb(app, "jobs", "--state held --config node.toml", none="No jobs, or none that all filters let pass.")
def list_jobs(
    session: Any,
    settings: Any,
    *,
    state: Annotated[list[JobState] | None, states_option(JobState)] = None,
    study: StudyUid = "",
    limit: Limit = 100,
) -> Rows:
    """List jobs, the newest first."""
    return rooms.views.list_jobs(
        session,
        states=state or (),
        study_instance_uid=study,
        limit=limit or None,
        workers=rooms.jobs.processes_at_work(session, settings),
    )


@app.command(epilog="Example: dicom-node jobs show 17 --config node.toml")
def show(job: Number, config: Config, as_json: JsonObject = False) -> None:
    """Show one job: its images, options, results."""
    with reading(config) as (session, _):
        row = rooms.views.show_job(session, job)
    if as_json:
        print_json(row)
        return
    results = [f"{result['kind']} {result['sop_instance_uid']}" for result in row["results"]]
    print_details(row | {"results": results})


@app.command(epilog="Example: dicom-node jobs retry --state held --rule chest --since 2h --config node.toml")
def retry(
    config: Config,
    numbers: Annotated[list[int] | None, _SEVERAL] = None,
    state: Annotated[list[JobState] | None, states_option(JobState)] = None,
    rule: Annotated[str, typer.Option(metavar="RULE", help="With --state: only jobs of this rule.")] = "",
    since: Since = "",
) -> None:
    """Run jobs that failed, were held or were cancelled: these, or all in a --state."""
    if bool(numbers) == bool(state) or (numbers and (rule or since)):
        raise typer.BadParameter("give the numbers of jobs, or --state with or without --rule and --since")
    if not {*(state or ())} <= {*rooms.jobs.STUCK}:
        raise typer.BadParameter("jobs that can be run again are held, failed or cancelled")
    if numbers:
        rooms.jobs.change_jobs(load(config), numbers, "retry")
        return _say_of(numbers, "is queued", "are queued")
    queued = rooms.jobs.run_all(load(config), state or (), rule=rule, since=moment(since))
    return say("1 job is queued." if queued == 1 else f"{queued} jobs are queued.")


@app.command(epilog="Example: dicom-node jobs first 17 --config node.toml")
def first(numbers: Several, config: Config) -> None:
    """Put jobs that wait before all others."""
    rooms.jobs.change_jobs(load(config), numbers, "put_first")
    _say_of(numbers, "is the next", "are the next")


@app.command(epilog="Example: dicom-node jobs cancel 17 --config node.toml")
def cancel(numbers: Several, config: Config) -> None:
    """Cancel jobs; one that runs is stopped at its next step."""
    rooms.jobs.change_jobs(load(config), numbers, "cancel")
    _say_of(
        numbers, "is cancelled, or will be at its next step", "are cancelled, or will be at their next step"
    )


def _say_of(jobs: list[int], of_one: str, of_several: str) -> None:
    if len(jobs) == 1:
        say(f"Job {jobs[0]} {of_one}.")
    else:
        say(f"Jobs {', '.join(map(str, jobs))} {of_several}.")
