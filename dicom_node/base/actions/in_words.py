"""What rows of studies and jobs say to a person, in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dicom_node.base.actions.columns import local
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind, StudyState


def state_in_words(row: Any) -> str:
    """The state of a study in words; "held" if the study has no job but one that a rule's limit holds,
    "withdrawn" if all its results are, "sent nowhere" if it ended well and its rules have no destination. Of
    a picture that a person tried nothing is delivered: "trial" when it ended well, else before its state.
    """
    state = "held" if row["job_held"] and row["state"] == StudyState.NOT_APPLICABLE else str(row["state"])
    if row["tried"]:
        return "trial" if state == StudyState.DELIVERED else f"trial, {state}"
    if state in {StudyState.DELIVERED, StudyState.CANCELLED} and is_withdrawn(row):
        return "withdrawn"
    return "sent nowhere" if state == StudyState.DELIVERED and is_sent_nowhere(row) else state


def is_withdrawn(row: Any) -> bool:
    """Whether a study has results, and all are withdrawn; the notes that withdraw them do not count."""
    results = [result for result in row["results"] if result["kind"] != ResultKind.REJECTION]
    return bool(results) and all(result["withdrawn"] for result in results)


def is_sent_nowhere(row: Any) -> bool:
    """Whether a study has results, and none of them goes to a destination."""
    return bool(row["results"]) and not any(result["deliveries"] for result in row["results"])


def objects_in_words(row: Any) -> str:
    """The number of objects of a study that count, and how many were received where some are set aside, as
    text such as "1 of 3".
    """
    counted, aside = row["instances"], row["set_aside"]
    return f"{counted} of {counted + aside}" if aside else str(counted)


def results_in_words(results: Sequence[Any]) -> str:
    """The number of results by the states of their deliveries, as text such as "4 confirmed, 1 dead"."""
    found = [
        "withdrawn"
        if result["withdrawn"]
        else "/".join(sorted(set(result["deliveries"].values()))) or "kept here"
        for result in results
    ]
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))


def study_totals(rows: Sequence[Any], values: Mapping[str, Any]) -> str:
    """The numbers of studies, objects and results in all ``rows`` as text. ``values``: the inputs of the
    list, whose ``limit`` may leave rows out.
    """
    objects, aside = (sum(row[key] for row in rows) for key in ("instances", "set_aside"))
    sent = Counter(
        state for row in rows for result in row["results"] for state in result["deliveries"].values()
    )
    kept = sum(not result["deliveries"] for row in rows for result in row["results"])
    stopped = Counter(row["state"] for row in rows if row["state"] in _TO_LOOK_AT)
    warned = sum(bool(row["warnings"]) for row in rows)
    parts = [
        f"{len(rows)} studies, {objects} objects" + f", {aside} set aside" * bool(aside),
        *(f"{number} {state}" for state, number in sorted(stopped.items())),
        *[f"{warned} with a warning"] * bool(warned),
        _deliveries(sent, kept),
    ]
    return "In all: " + "; ".join(parts) + _left_out(rows, values)


def delivery_totals(rows: Sequence[Any], values: Mapping[str, Any]) -> str:
    """The numbers of deliveries in all ``rows`` by their states as text. ``values``: as of study_totals."""
    return f"In all: {_deliveries(Counter(row['state'] for row in rows))}{_left_out(rows, values)}"


_TO_LOOK_AT = (StudyState.QUARANTINED, StudyState.FAILED)


def _deliveries(states: Mapping[str, int], kept: int = 0) -> str:
    """Numbers of deliveries by state, such as "results: 12 confirmed, 1 dead"."""
    found = [f"{states[state]} {state}" for state in DeliveryState if states.get(state)]
    return "deliveries: " + (", ".join([*found, *[f"{kept} results kept here"] * bool(kept)]) or "none")


def _left_out(rows: Sequence[Any], values: Mapping[str, Any]) -> str:
    """A sentence if the list's limit was reached, so that the numbers are not those of all."""
    limit = values.get("limit")
    return f". Only the newest {limit} are shown and counted: --limit 0 for all" if len(rows) == limit else ""


def withdrawal_in_words(result: Any) -> str:
    """When, by whom and why a result was withdrawn, as text; "" for one that is not withdrawn."""
    gone = result["withdrawn"]
    return f"{local(gone['at'])} by {gone['actor']}: {gone['because']} ({gone['reason']})" if gone else ""


def study_details(row: Any) -> Mapping[str, Any]:
    """A study for a person: its values without the keys that only programs need."""
    events = [event for event in row["events"] if event["level"] != "debug"]
    hidden = ("study_instance_uid", "job_held", "tried", "set_aside")
    shown = {key: row[key] for key in row if key not in hidden}
    return {**shown, "state": state_in_words(row), "instances": objects_in_words(row), "events": events}


def job_details(row: Any) -> Mapping[str, Any]:
    """A job for a person: its values, with each of its results in one line."""
    return {**row, "results": [f"{one['kind']} {one['sop_instance_uid']}" for one in row["results"]]}


def runs(row: Any) -> bool:
    """Whether a job is running."""
    return bool(row["state"] == JobState.RUNNING)
