"""Verbs that list rows: the columns of each list, and the one function that makes such a verb."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import Any, Final, TypeVar, get_type_hints

import typer

from dicom_node.cli.common.options import Config, Json, load, reading
from dicom_node.cli.common.output import Column, PrintedRow, details, fields, local, print_rows, short, times
from dicom_node.model.lifecycle import JobState, StudyState

Rows = list[dict[str, Any]]
Find = TypeVar("Find", bound=Callable[..., Rows])


def list_verb(
    app: typer.Typer, verb: str, example: str = "", *, none: str, why: str = ""
) -> Callable[[Find], Find]:
    """Make a verb from a function that finds rows: its docstring is the help, its keywords are the options.

    ``verb`` is a key of COLUMNS. The function takes ``settings``, and ``session`` if it reads the database;
    then mistakes of the configuration that do not concern the database are only warnings. ``none``: the line
    that is printed without rows. ``example``: the options of the example in the help; ``why``: the question
    that the example answers.
    """
    noun, _, name = verb.partition(" ")
    given = " ".join(filter(None, (noun, name or "list", example or "--config node.toml")))

    def declare(find: Find) -> Find:
        hints = get_type_hints(find, include_extras=True)
        parameters = signature(find).parameters
        options = [
            one.replace(annotation=hints[one.name])
            for one in parameters.values()
            if one.kind is Parameter.KEYWORD_ONLY
        ]

        def run(*, config: Any, as_json: bool, **asked: Any) -> None:
            if "session" in parameters:
                with reading(config) as (session, settings):
                    shared = {"session": session, "settings": settings}
                    rows = find(*(value for key, value in shared.items() if key in parameters), **asked)
            else:
                rows = find(load(config), **asked)
            print_rows(rows, COLUMNS[verb], as_json=as_json, none=none)

        shown = (
            Parameter("config", Parameter.KEYWORD_ONLY, annotation=Config),
            *options,
            Parameter("as_json", Parameter.KEYWORD_ONLY, annotation=Json, default=False),
        )
        run.__signature__ = Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in shown}
        run.__doc__ = find.__doc__
        epilog = f"Example{f' ({why})' if why else ''}: dicom-node {given}"
        app.command(name or "list", epilog=epilog)(run)
        return find

    return declare


def state_in_words(row: PrintedRow) -> str:
    """The state of a study in words; "held" if no job applied but a limit of a rule holds one."""
    return "held" if row["job_held"] and row["state"] == StudyState.NOT_APPLICABLE else str(row["state"])


def results_in_words(results: Sequence[PrintedRow]) -> str:
    """The number of results in each state, at all peers, such as "4 confirmed, 1 dead", for a table."""
    states = [
        "withdrawn"
        if result["withdrawn"]
        else "/".join(sorted(set(result["deliveries"].values()))) or "kept here"
        for result in results
    ]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def percent(share: float) -> str:
    """ "4.2 %" for 0.042."""
    return f"{100 * share:.1f} %"


def _withdrawn(result: PrintedRow) -> str:
    """When, by whom and why a result was withdrawn; "" for one in force."""
    gone = result["withdrawn"]
    return f"{local(gone['at'])} by {gone['actor']}: {gone['because']} ({gone['reason']})" if gone else ""


def _address(row: PrintedRow) -> str:
    return row["url"] or (f"{row['host']}:{row['port'] or '–'}" if row["host"] else "–")


def _association(row: PrintedRow) -> str:
    """Its reason, and the class that was refused; of several the number: ``peers why`` names them."""
    if row["refused_count"] <= 1:
        refused = "".join(f"refused: {context}" for context in row["refused"])
    else:
        why = f"dicom-node peers why {shlex.quote(row['calling_ae'])}"
        refused = f"{row['refused_count']} classes refused: {why}"
    return "; ".join(filter(None, [row["reason"], refused]))


def _job_state(row: PrintedRow) -> str:
    return f"{row['state']} {row['share_done']:.0%}" if row["state"] == JobState.RUNNING else row["state"]


def _job_reason(row: PrintedRow) -> str:
    return row["reason"] or (row["doing"] if row["state"] == JobState.RUNNING else "")


def _waits(row: PrintedRow) -> str:
    """How long it will wait, in words that are no more exact than the estimate."""
    seconds = row["waits_seconds"]
    if seconds is None:
        return ""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"


def _refused_by_pixels(row: PrintedRow) -> str:
    """What the pixel gate refused: how many, and the share with its 95 % interval."""
    if row["refusal_rate"] is None:
        return str(row["refused_pixels"])
    share, low, high = row["refusal_rate"]
    return f"{row['refused_pixels']} = {percent(share)} ({percent(low)} to {percent(high)})"


def _received_by(key: str) -> Callable[[PrintedRow], object]:
    """The value under a key, "–" for a peer that gets no results."""
    return lambda row: row[key] if "receive" in row["may"] else "–"


def _uid(heading: str, key: str, *length: int) -> Column:
    return heading, lambda row: short(row[key], *length)


def _yes_no(heading: str, key: str, yes: str = "yes", no: str = "no") -> Column:
    return heading, lambda row: yes if row[key] else no


_STUDY: Final = _uid("study", "study_instance_uid")
_COUNTED: Final[tuple[Column, ...]] = (*fields("count"), *times("last: last_at"))
_SINCE_THEN: Final = _yes_no("since then", "outdated", "got through", "")
_CHANGED: Final[tuple[Column, ...]] = (*times("at"), *fields("number", "event: text"))
_ASSOCIATIONS: Final[tuple[Column, ...]] = (
    *times("opened: opened_at", "closed: closed_at"),
    *fields("calling: calling_ae", "called: called_ae", "address", "outcome", "objects"),
    ("details", _association),
)

COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "studies": (
        _uid("study", "study"),
        ("state", state_in_words),
        *fields("patient: patient_id", "modality: modalities", "objects: instances"),
        ("results", lambda row: results_in_words(row["results"])),
        *times("received: last_received_at"),
        *fields("reason"),
    ),
    "jobs": (
        *fields("job"),
        ("state", _job_state),
        *fields("rule"),
        _STUDY,
        *fields("priority"),
        ("waits", _waits),
        *fields("tries: attempts"),
        *times("created: created_at"),
        ("reason", _job_reason),
    ),
    "outbox": (
        *fields("delivery", "state", "to: destination"),
        _STUDY,
        *fields("kind"),
        _uid("sop instance", "sop_instance_uid", 14),
        *fields("tries: attempts"),
        ("next try", lambda row: "" if row["confirmed_at"] else local(row["next_at"])),
        *fields("status"),
        ("reason", lambda row: row["discarded_because"] or row["reason"]),
    ),
    "fetches": (
        *fields("fetch", "state", "from: peer"),
        _STUDY,
        *fields("rule", "tries: attempts", "objects"),
        *times("asked: asked_at", "ended: ended_at"),
        *fields("reason"),
    ),
    "fetches missing": (
        _STUDY,
        *fields("date: study_date"),
        ("modality", lambda row: "/".join(row["modalities"])),
        *fields("rule", "why"),
        _yes_no("fetched", "fetched", "yes", "no"),
    ),
    "notifications": (
        *fields("notification", "rule", "state", "attempts"),
        *times("written: created_at", "sent: sent_at"),
        ("events", lambda row: "; ".join(row["events"])),
        *fields("reason"),
    ),
    "events": (*_CHANGED, _STUDY, ("details", details)),
    "associations": _ASSOCIATIONS,
    "processes": (
        *fields("machine", "place", "process", "state"),
        ("silent", lambda row: f"{row['silent_seconds']:.0f} s"),
        *times("since"),
        *fields("pid", "version"),
    ),
    "decisions": (
        *fields("decision"),
        *times("at"),
        *fields("actor", "action", "study: study_instance_uid"),
        _yes_no("holds", "holds", "yes", ""),
        *fields("waits_for"),
    ),
    "peers": (
        *fields("name", "ae_title", "may"),
        ("address", _address),
        *fields("transport"),
        ("results", _received_by("results")),
        ("confirm", _received_by("confirm")),
    ),
    "models": fields("model: id", "version", "task", "architecture", "licence"),
    "users": (
        *fields("name", "role"),
        ("account", lambda row: "disabled" if row["disabled"] else "enabled"),
        ("of", lambda row: row["issuer"] or "this node"),
        *times("since: created_at", "seen_at"),
    ),
    "users sessions": (
        *fields("session", "user"),
        *times("since: created_at", "last used: seen_at"),
        *fields("address", "browser"),
    ),
    "tokens": (
        *fields("token", "user", "role", "purpose"),
        *times("since: created_at", "until: expires_at"),
        ("used", lambda row: local(row["used_at"]) or "never"),
    ),
    # What other verbs print as tables.
    "peers test": (*fields("peer", "check"), _yes_no("", "ok", "ok", "FAILED"), *fields("says: text")),
    "peers versions": fields("version", "saved"),
    "rules try": (
        ("file", lambda row: row["file"].rpartition("/")[2]),
        *fields("modality"),
        ("rule", lambda row: row["rule"] or "–"),
        _yes_no("applies", "applies"),
        ("pipeline", lambda row: row["pipeline"] if row["applies"] else "–"),
        *fields("why: reason"),
        ("then", lambda row: "; ".join(row["then"]) or "–"),
    ),
    "rules replay": (
        _STUDY,
        ("rule", lambda row: row["rule"] or "–"),
        ("pipeline", lambda row: row["pipeline"] or "–"),
        *fields("images: sources", "to: destinations"),
        _yes_no("queued", "queued"),
        *fields("reason"),
    ),
    "studies changed": (*fields("study"), _yes_no("done", "done"), *fields("reason")),
    "studies versions": (
        *fields("take: number"),
        (
            "choose",
            lambda row: row["choose"] + (f" (if {row['if_taken']} is taken)" if row["if_taken"] else ""),
        ),
        ("image", lambda row: short(row["sop_instance_uid"], 26) if row["sop_instance_uid"] else ""),
        *fields("objects", "from: calling_ae"),
        *times("received: first_received_at"),
        ("now", lambda row: "counts" if row["counts"] else "in another study" if row["stands_in"] else ""),
        *fields("details: differs"),
    ),
    "studies findings": (
        *fields("finding", "decision"),
        ("numbers", lambda row: ", ".join(f"{name} {number}" for name, number in row["numbers"].items())),
        *fields("model", "tracking_uid"),
        ("assessed", lambda row: ", ".join(f"{one['verdict']} ({one['actor']})" for one in row["verdicts"])),
    ),
    "studies delete": (_STUDY, _yes_no("deleted", "deleted"), *fields("why not: reason")),
    "models verify": (*fields("model: id"), _yes_no("", "ok", "ok", "REFUSED"), *fields("why: text")),
    "models drift": (
        *fields("peer: calling_ae", "analysed", "reoriented"),
        ("refused by pixels", _refused_by_pixels),
        *fields("by header: refused_header", "scores: verdict"),
    ),
    "models feedback": (
        *times("at"),
        *fields("by: actor"),
        _STUDY,
        *fields("finding", "decision", "verdict", "model", "version"),
    ),
}
"""The columns of each list and table, by noun or verb: heading and how to print."""

SCORES: Final[Sequence[Column]] = (
    *fields("label", "images"),
    ("PSI", lambda row: "–" if row["psi"] is None else f"{row['psi']:.3f}"),
    ("by chance", lambda row: "–" if row["by_chance"] is None else f"≤ {row['by_chance']:.3f}"),
    *fields(": verdict"),
)
"""Columns for the scores of one sender, below ``models drift``."""

PARTS_OF_STUDY: Final[Mapping[str, Sequence[Column]]] = {
    "results": (
        *fields("kind", "sop_instance_uid"),
        ("deliveries", lambda row: row["deliveries"] or "none"),
        ("withdrawn", _withdrawn),
    ),
    "jobs": fields("job", "rule", "state", "attempts", "reason"),
    "received": (
        *times("received: received_at"),
        *fields("from: calling_ae", "sop_instance_uid", "outcome", "reason"),
    ),
    "steps": (
        *times("began: begun_at", "ended: ended_at"),
        *fields("from: calling_ae", "status", "objects", "missing"),
    ),
    "events": (*_CHANGED, ("details", details)),
}

PARTS_OF_CALLER: Final[Mapping[str, Sequence[Column]]] = {
    "associations": _ASSOCIATIONS,
    "refused_contexts": (*fields("classes", "context"), *_COUNTED),
    "rejections": (
        *fields("calling: calling_ae", "called: called_ae", "address", "meaning"),
        *_COUNTED,
        _SINCE_THEN,
    ),
    "refused_objects": (*fields("status", "reason"), *_COUNTED, _SINCE_THEN),
    "failures": (*fields("address", "text"), *_COUNTED),
}
