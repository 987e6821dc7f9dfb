"""What rows of studies and jobs say to a person, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from dicom_node.base.actions.columns import local
from dicom_node.base.lifecycle import JobState, StudyState


def state_in_words(row: Any) -> str:
    """The state of a study in words; "held" if the study has no job but one that a rule's limit holds. Of a
    picture that a person tried nothing is delivered: "trial" when it ended well, else before its state.
    """
    state = "held" if row["job_held"] and row["state"] == StudyState.NOT_APPLICABLE else str(row["state"])
    if not row["tried"]:
        return state
    return "trial" if state == StudyState.DELIVERED else f"trial, {state}"


def results_in_words(results: Sequence[Any]) -> str:
    """The number of results by the states of their deliveries, as text such as "4 confirmed, 1 dead"."""
    found = [
        "withdrawn"
        if result["withdrawn"]
        else "/".join(sorted(set(result["deliveries"].values()))) or "kept here"
        for result in results
    ]
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))


def withdrawal_in_words(result: Any) -> str:
    """When, by whom and why a result was withdrawn, as text; "" for one that is not withdrawn."""
    gone = result["withdrawn"]
    return f"{local(gone['at'])} by {gone['actor']}: {gone['because']} ({gone['reason']})" if gone else ""


def study_details(row: Any) -> Mapping[str, Any]:
    """A study for a person: its values without the keys that only programs need."""
    events = [event for event in row["events"] if event["level"] != "debug"]
    shown = {key: row[key] for key in row if key not in ("study_instance_uid", "job_held", "tried")}
    return {**shown, "state": state_in_words(row), "events": events}


def job_details(row: Any) -> Mapping[str, Any]:
    """A job for a person: its values, with each of its results in one line."""
    return {**row, "results": [f"{one['kind']} {one['sop_instance_uid']}" for one in row["results"]]}


def runs(row: Any) -> bool:
    """Whether a job is running."""
    return bool(row["state"] == JobState.RUNNING)
