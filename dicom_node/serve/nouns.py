"""What persons list and do, by noun: each verb is declared once, with its input, columns, role and function.

The command (``serve/cli.py``) and the lists of the REST API and of the pages (``dicom_console/web/faces.py``)
follow from the declaration; the function notes in the audit what was done. A declaration imports nothing
heavy: the function is named by its place, and imported when it is called.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from inspect import Parameter
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from dicom_node.base.config.section import did_you_mean
from dicom_node.base.errors import ExitCode
from dicom_node.base.lifecycle import (
    DeliveryState,
    FetchState,
    JobState,
    NotificationState,
    RejectionReason,
    StudyState,
    UserRole,
)

Column = tuple[str, Callable[[Any], object]]
"""Of a list: a heading, and what of a row stands below it. A row is a mapping, or a typed result."""


class Uid(str):
    """A UID in a list: printed complete to a file or a pipe, only its end in a terminal's table."""


def local(iso: str | None) -> str:
    """The UTC time ``iso`` (ISO 8601) in this machine's zone, for a person, without the present year; "" for
    no time.
    """
    if not iso:
        return ""
    at, now = datetime.fromisoformat(iso).astimezone(), datetime.now().astimezone()
    return f"{at:%m-%d %H:%M:%S}" if at.year == now.year else f"{at:%Y-%m-%d %H:%M:%S}"


def _heading_and_key(text: str) -> tuple[str, str]:
    """The heading of a column and the key of its values in a row, from "heading: key" or only a key."""
    heading, _, key = text.rpartition(": ")
    return (heading, key) if ": " in text else (key.replace("_", " "), key)


def fields(*keys: str) -> list[Column]:
    """Columns that show the values of these keys unchanged; a key may be given as "heading: key"."""
    return [(heading, itemgetter(key)) for heading, key in map(_heading_and_key, keys)]


def times(*keys: str) -> list[Column]:
    """Columns that show the UTC times of these keys in this machine's zone; a key may be given as "heading:
    key".
    """
    return [
        (heading, lambda row, key=key: local(row[key]))  # type: ignore[misc]
        for heading, key in map(_heading_and_key, keys)
    ]


def uid(heading: str, key: str) -> Column:
    """A column with the UIDs under this key."""
    return heading, lambda row: Uid(row[key] or "–")


def yes_no(heading: str, key: str, yes: str = "yes", no: str = "no") -> Column:
    """A column that shows one of two words, by whether the value under this key is true."""
    return heading, lambda row: yes if row[key] else no


def details(event: Any) -> str:
    """The fields of an event as text, without those that have a column of their own or repeat the
    association's name.
    """
    return " ".join(
        f"{key}={value}"
        for key, value in event["fields"].items()
        if value not in (None, "") and key not in ("study", "listener")
    )


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a verb. ``kind``: a type, or a function that reads it from text and raises ValueError.

    ``flag``: the command's option for it, such as "--state"; "" if it is a positional argument. ``many``: it
    may be given more than once. ``least``, ``most``: limits of a number. ``is_secret``: it is asked for at
    the terminal.
    """

    name: str
    kind: Callable[..., Any] = str
    help: str = ""
    flag: str = ""
    metavar: str | None = None
    default: Any = Parameter.empty
    many: bool = False
    least: int | None = None
    most: int | None = None
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """The declaration of one thing that a person lists or does, for the command line, the REST API and pages.

    ``run``: the function, such as "people.jobs:change_jobs" in ``dicom_node``. It is called with a database
    session and the settings (if it has parameters of these names), the inputs, and ``fixed``.

    The result is printed as its type wants: rows as a table with ``columns``; a mapping by ``details``, a
    function that selects what is shown, and its lists named in ``parts`` as tables with these columns.
    ``says`` is a sentence about the result ("{result}", "{s}" for its plural, and the inputs by name),
    printed below rows if there are any; ``none`` is printed if there are none. ``either``: names of inputs of
    which one is needed, and of two not both. ``status``: a function from the result to the exit status.
    ``role``: the least role that may do it at the console.
    """

    name: str
    run: str
    help: str
    example: str = "--config node.toml"
    inputs: Sequence[Input] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    columns: Sequence[Column] = ()
    none: str = ""
    says: str = ""
    details: Callable[[Any], Mapping[str, Any]] | None = None
    parts: Mapping[str, Sequence[Column]] = field(default_factory=dict)
    either: Sequence[str] = ()
    status: Callable[[Any], int] = lambda _result: ExitCode.OK
    role: UserRole = UserRole.VIEWER

    def function(self) -> Callable[..., Any]:
        """Import the function that does it, and return it."""
        module, _, name = self.run.partition(":")
        function: Callable[..., Any] = getattr(import_module(f"dicom_node.{module}"), name)
        return function


@dataclass(frozen=True, slots=True)
class Noun:
    """A command group with its verbs, for one kind of thing such as jobs.

    ``key``: the row's key by which a list is continued on the next page. ``rows``: the name of the list in
    the REST API.
    """

    name: str
    about: str
    verbs: Sequence[Verb]
    key: str = ""
    rows: str = ""

    def verb(self, name: str) -> Verb:
        """The verb with this name."""
        return next(verb for verb in self.verbs if verb.name == name)


def all_of(key: str, otherwise: ExitCode = ExitCode.FAILED) -> Callable[[Any], int]:
    """Make a function from rows to an exit status: OK if ``key`` is true in all rows, else ``otherwise``."""
    return lambda rows: ExitCode.OK if all(row[key] for row in rows) else otherwise


def one_of(*words: str) -> Callable[[str], str]:
    """Make a function that returns its text if it is one of these words, and raises ValueError with a similar
    word if not.
    """
    known = {str(word): word for word in words}

    def read(text: str) -> str:
        """The text, if it is one of the words. Raises ValueError."""
        if text not in known:
            raise ValueError(f"{text!r} is no state; {did_you_mean(text, [*known], 'there are')}")
        return known[text]

    return read


def whole_or_end(uid: str) -> str:
    """The UID as copied from a table, without the ellipsis in place of its cut beginning."""
    return uid.strip().removeprefix("…")


_AGO = re.compile(r"(\d+)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """Read the time that a person typed: an ISO time, a time of today, or a time ago such as "30m"; returns
    UTC, None for "". A time without a zone is in this machine's zone. ``now``: the present time, by default
    that of the clock. Raises ValueError.
    """
    if not text:
        return None
    present = now or datetime.now(UTC)
    if ago := _AGO.fullmatch(text.strip()):
        with suppress(OverflowError):
            return present - timedelta(**{_UNITS[ago.group(2)]: int(ago.group(1))})
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text.strip()):
        text = f"{present.astimezone():%Y-%m-%d}T{text.strip():0>5}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: write 2026-03-01T03:12, 03:12, or 30m, 2h, 3d for a time ago"
        ) from None


# Inputs that several verbs share.
UID_HELP: Final = "Study Instance UID, or the last figures of it."
STUDY: Final = Input("study_instance_uid", whole_or_end, UID_HELP, metavar="UID")
UIDS: Final = Input(
    "study_instance_uids",
    whole_or_end,
    "Study Instance UIDs, or the last figures of each.",
    metavar="UID...",
    many=True,
)
OF_STUDY: Final = Input("study_instance_uid", whole_or_end, UID_HELP, "--study", "UID", "")
SINCE: Final = Input(
    "since",
    moment,
    "Not older than: 2026-03-01, 2026-03-01T03:12, 03:12 (today), or 90s, 30m, 2h, 3d ago. "
    "Local time, unless it carries a zone (…T03:12Z, …T03:12+02:00).",
    "--since",
    "WHEN",
    None,
)
BECAUSE: Final = Input("because", str, "Why, without names; it is shown to persons.", "--because", "TEXT")


def states(*words: str) -> Input:
    """The input ``--state`` of a list: one or more of these states."""
    return Input(
        "states", one_of(*words), "Only in this state; repeatable.", "--state", "|".join(words), (), many=True
    )


def limit(rows: int) -> Input:
    """The input ``--limit`` of a list: the most rows, by default ``rows``; 0 for all."""
    return Input("limit", int, "At most this many rows; 0: all.", "--limit -n", default=rows, least=0)


def numbers(of: str, metavar: str, **more: Any) -> Input:
    """The input for the numbers of rows, such as jobs; ``of``: the plural noun."""
    return Input(
        "numbers",
        int,
        f"Numbers, as `{of} list` shows them.",
        metavar=f"{metavar}...",
        many=True,
        least=0,
        **more,
    )


def state_in_words(row: Any) -> str:
    """The state of a study in words; "held" if the study has no job but one that a rule's limit holds."""
    return "held" if row["job_held"] and row["state"] == StudyState.NOT_APPLICABLE else str(row["state"])


def _results_in_words(results: Sequence[Any]) -> str:
    """The number of results by the states of their deliveries, as text such as "4 confirmed, 1 dead"."""
    found = [
        "withdrawn"
        if result["withdrawn"]
        else "/".join(sorted(set(result["deliveries"].values()))) or "kept here"
        for result in results
    ]
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))


def _withdrawn(result: Any) -> str:
    """When, by whom and why a result was withdrawn, as text; "" for one that is not withdrawn."""
    gone = result["withdrawn"]
    return f"{local(gone['at'])} by {gone['actor']}: {gone['because']} ({gone['reason']})" if gone else ""


_OF_STUDY: Final = uid("study", "study_instance_uid")
_CHANGED: Final = (*fields("study"), yes_no("done", "done"), *fields("reason"))

JOBS_OF_RULES: Final[Sequence[Column]] = (
    _OF_STUDY,
    ("rule", lambda row: row["rule"] or "–"),
    ("pipeline", lambda row: row["pipeline"] or "–"),
    *fields("images: sources", "to: destinations"),
    yes_no("queued", "queued"),
    *fields("reason"),
)
"""What rules make of studies again."""


def _study(row: Any) -> Mapping[str, Any]:
    """A study for a person: its values without the keys that only programs need."""
    events = [event for event in row["events"] if event["level"] != "debug"]
    shown = {key: row[key] for key in row if key not in ("study_instance_uid", "job_held")}
    return {**shown, "state": state_in_words(row), "events": events}


def _job(row: Any) -> Mapping[str, Any]:
    """A job for a person: its values, with each of its results in one line."""
    return {**row, "results": [f"{one['kind']} {one['sop_instance_uid']}" for one in row["results"]]}


STUDIES: Final = Noun(
    "studies",
    "Received studies and their results.",
    (
        Verb(
            "list",
            "base.store.views:list_studies",
            'List studies, the newest first. "held": a limit of its rule waits for a person (`jobs retry`).',
            "--state failed --since 2h --config node.toml",
            inputs=(states(*StudyState, "held"), SINCE, limit(100)),
            columns=(
                uid("study", "study"),
                ("state", state_in_words),
                *fields("patient: patient_id", "modality: modalities", "objects: instances"),
                ("results", lambda row: _results_in_words(row["results"])),
                *times("received: last_received_at"),
                *fields("reason"),
            ),
            none="No studies, or none that all filters let pass.",
        ),
        Verb(
            "show",
            "base.store.views:show_study",
            "Show one study: objects received, jobs, results, procedure steps, what happened.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(Input("uid", whole_or_end, UID_HELP, metavar="UID"),),
            details=_study,
            parts={
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
                "events": (*times("at"), *fields("number", "event: text"), ("details", details)),
            },
        ),
        Verb(
            "versions",
            "people.studies:versions",
            "Show the choices for a study in quarantine: patients, versions, their senders and differences.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(STUDY,),
            columns=(
                *fields("take: number"),
                (
                    "choose",
                    lambda row: (
                        row["choose"] + (f" (if {row['if_taken']} is taken)" if row["if_taken"] else "")
                    ),
                ),
                ("image", lambda row: Uid(row["sop_instance_uid"] or "")),
                *fields("objects", "from: calling_ae"),
                *times("received: first_received_at"),
                (
                    "now",
                    lambda row: "counts" if row["counts"] else "in another study" if row["stands_in"] else "",
                ),
                *fields("details: differs"),
            ),
            none="There is nothing to choose in this study.",
            says="Then: dicom-node studies release {study_instance_uid} --as-of {result[0][as_of]} "
            "--take NUMBER",
        ),
        Verb(
            "rerun",
            "people.studies:rerun_rules",
            "Apply the present rules to studies again, delivered and failed ones too: to all of them or "
            "none.\n\nUnchanged results are not sent twice. A study that is being received or in quarantine "
            "is refused.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(UIDS,),
            columns=JOBS_OF_RULES,
            role=UserRole.OPERATOR,
        ),
        Verb(
            "retry",
            "people.studies:change_studies",
            "Run the stopped jobs of studies again, and send their given-up deliveries again.",
            "1.2.840.113619.2.1 113619.2.7 --config node.toml",
            inputs=(UIDS,),
            fixed={"change": "retry"},
            columns=_CHANGED,
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "send",
            "people.studies:change_studies",
            "Send the newest results of studies to a further peer, as far as it takes their kinds.",
            "1.2.840.113619.2.1 --to teaching --config node.toml",
            inputs=(UIDS, Input("peer", str, "A configured peer that may receive.", "--to", "PEER")),
            fixed={"change": "send"},
            columns=_CHANGED,
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "findings",
            "people.verdicts:findings_of_study",
            "Show what a study's newest reports found, and how each finding was assessed.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(STUDY,),
            columns=(
                *fields("finding", "decision"),
                (
                    "numbers",
                    lambda row: ", ".join(f"{name} {number}" for name, number in row["numbers"].items()),
                ),
                *fields("model", "tracking_uid"),
                (
                    "assessed",
                    lambda row: ", ".join(f"{one['verdict']} ({one['actor']})" for one in row["verdicts"]),
                ),
            ),
            none="No report of this study is here.",
        ),
        Verb(
            "accept",
            "people.held_results:accept_results",
            "Accept results that wait for it (assess_first of a rule): they are sent.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(
                STUDY,
                Input(
                    "rejected",
                    bool,
                    "Accept rejected results instead of waiting ones.",
                    "--rejected",
                    default=False,
                ),
            ),
            says="Accepted: {result} result{s} will be sent.",
            role=UserRole.READER,
        ),
        Verb(
            "reject",
            "people.held_results:reject_results",
            "Reject results that wait for an assessment: they are not sent.",
            '1.2.3 --because "wrong side" --config node.toml',
            inputs=(STUDY, BECAUSE),
            says="Rejected: {result} result{s} will not be sent.",
            role=UserRole.READER,
        ),
        Verb(
            "delete",
            "people.spool:delete_by_uid",
            "Delete received images of studies before spool.keep_days; exit status 1 if one cannot be "
            "deleted.\n\nA study must have ended with all results confirmed. Built results stay.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(UIDS,),
            columns=(_OF_STUDY, yes_no("deleted", "deleted"), *fields("why not: reason")),
            status=all_of("deleted"),
            role=UserRole.ADMIN,
        ),
        Verb(
            "withdraw",
            "people.studies:change_studies",
            "Withdraw the results of studies: peers with iocm get a rejection note; UIDs are printed for the "
            "others.\n\nEach study is withdrawn alone; exit status 1 if one refuses.",
            '1.2.3 --reason safety --because "other patient"',
            inputs=(
                UIDS,
                Input("reason", RejectionReason, "Reason that the PACS gets.", "--reason"),
                Input("because", str, "The reason, which the rejection note contains.", "--because", "TEXT"),
                Input(
                    "only",
                    str,
                    "Only this SOP Instance UID; repeatable.",
                    "--result",
                    "UID",
                    (),
                    many=True,
                ),
            ),
            fixed={"change": "withdraw", "raises_alone": True},
            columns=(*_CHANGED, ("to be removed by hand", lambda row: _by_hand(row["by_hand"]))),
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "release",
            "people.studies:change_studies",
            "Release studies from quarantine: each is assembled again; of one study you may choose what "
            "counts.\n\nObjects that you do not choose stay aside.",
            "1.2.840.113619.2.1 --as-of HASH --take 1",
            inputs=(
                UIDS,
                Input(
                    "take",
                    int,
                    "Number of a choice in `studies versions`; repeatable.",
                    "--take",
                    "NUMBER",
                    (),
                    many=True,
                ),
                Input(
                    "as_of",
                    str,
                    "As `studies versions` says: refused if something came since, so that no number stands "
                    "for another patient than you saw.",
                    "--as-of",
                    default=None,
                ),
            ),
            fixed={"change": "release", "raises_alone": True},
            columns=_CHANGED,
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
    ),
    key="id",
)


def _by_hand(left: Mapping[str, Sequence[str]]) -> str:
    """The results that a person must remove, by peer, as one line."""
    return "; ".join(f"{peer}: {', '.join(uids)}" for peer, uids in left.items())


def _runs(row: Any) -> bool:
    """Whether a job is running."""
    return bool(row["state"] == JobState.RUNNING)


JOBS: Final = Noun(
    "jobs",
    "Jobs: one rule's pipeline on one study.",
    (
        Verb(
            "list",
            "base.store.views:list_jobs",
            "List jobs, the newest first.",
            "--state held --config node.toml",
            inputs=(states(*JobState), OF_STUDY, limit(100)),
            columns=(
                *fields("job"),
                (
                    "state",
                    lambda row: f"{row['state']} {row['share_done']:.0%}" if _runs(row) else row["state"],
                ),
                *fields("rule"),
                _OF_STUDY,
                *fields("priority"),
                *fields("tries: attempts"),
                *times("created: created_at"),
                ("reason", lambda row: row["reason"] or (row["doing"] if _runs(row) else "")),
            ),
            none="No jobs, or none that all filters let pass.",
        ),
        Verb(
            "show",
            "base.store.views:show_job",
            "Show one job: its images, options, results.",
            "17 --config node.toml",
            inputs=(Input("job_id", int, "Its number, as `jobs list` shows it.", metavar="JOB"),),
            details=_job,
        ),
        Verb(
            "retry",
            "people.jobs:run_jobs_again",
            "Run jobs that failed, were held or were cancelled: these, or all in a --state.",
            "--state held --rule chest --since 2h --config node.toml",
            inputs=(
                numbers("jobs", "JOB", default=()),
                states(JobState.HELD, JobState.FAILED, JobState.CANCELLED),
                Input("rule", str, "With --state: only jobs of this rule.", "--rule", "RULE", ""),
                SINCE,
            ),
            says="{result} job{s} queued.",
            either=("numbers", "states"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "first",
            "people.jobs:change_jobs",
            "Put jobs that wait before all others: all of these or none.",
            "17 --config node.toml",
            inputs=(numbers("jobs", "JOB"),),
            fixed={"change": "put_first"},
            says="Put first: {numbers}.",
            role=UserRole.OPERATOR,
        ),
        Verb(
            "cancel",
            "people.jobs:change_jobs",
            "Cancel jobs, all of these or none; one that runs is stopped at its next step.",
            "17 --config node.toml",
            inputs=(numbers("jobs", "JOB"),),
            fixed={"change": "cancel"},
            says="Cancelled, or will be at the next step: {numbers}.",
            role=UserRole.OPERATOR,
        ),
    ),
    key="job",
    rows="jobs",
)

_DELIVERIES: Final = (
    numbers("outbox", "DELIVERY", default=()),
    Input("dead", bool, "All that were given up.", "--dead", default=False),
    Input("destination", str, "With --dead: only to this peer.", "--to", "PEER", ""),
)

OUTBOX: Final = Noun(
    "outbox",
    "Outbox: one row per result object and destination.",
    (
        Verb(
            "list",
            "base.store.views:list_deliveries",
            "List deliveries, the newest first.",
            "--state dead --config node.toml",
            inputs=(
                states(*DeliveryState, "open"),
                Input("destination", str, "Only to this peer.", "--to", "PEER", ""),
                OF_STUDY,
                limit(100),
            ),
            columns=(
                *fields("delivery", "state", "to: destination"),
                _OF_STUDY,
                *fields("kind"),
                uid("sop instance", "sop_instance_uid"),
                *fields("tries: attempts"),
                ("next try", lambda row: "" if row["confirmed_at"] else local(row["next_at"])),
                *fields("status"),
                ("reason", lambda row: row["discarded_because"] or row["reason"]),
            ),
            none="No deliveries, or none that all filters let pass.",
        ),
        Verb(
            "retry",
            "people.outbox:send_again",
            "Send results again that were given up, once the cause is gone.",
            "--dead --config node.toml",
            inputs=_DELIVERIES,
            says="To be sent again: {result}.",
            either=("numbers", "dead"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "discard",
            "people.outbox:discard_deliveries",
            "Stop sending results that wait or were given up. `outbox retry` sends them all the same.",
            '17 --because "the PACS was replaced" --config node.toml',
            inputs=(*_DELIVERIES, BECAUSE),
            says="Discarded: {result}.",
            either=("numbers", "dead"),
            role=UserRole.OPERATOR,
        ),
    ),
    key="delivery",
    rows="deliveries",
)

_PEER: Final = Input("name", str, 'A peer with may = ["query"].', metavar="PEER")

FETCHES: Final = Noun(
    "fetches",
    "Studies that are fetched from peers.",
    (
        Verb(
            "list",
            "people.fetches:list_fetches",
            "List studies that were asked for, the newest first.",
            "--state failed --config node.toml",
            inputs=(
                states(*FetchState),
                Input("peer", str, "Only of this peer.", "--peer", "PEER", ""),
                limit(50),
            ),
            columns=(
                *fields("fetch", "state", "from: peer"),
                _OF_STUDY,
                *fields("rule", "tries: attempts", "objects"),
                *times("asked: asked_at", "ended: ended_at"),
                *fields("reason"),
            ),
            none="No study was asked for.",
        ),
        *(
            Verb(
                change,
                "people.fetches:change_fetches",
                about,
                "pacs --config node.toml",
                inputs=(_PEER,),
                fixed={"change": change},
                says=f"{{result}} studies are {outcome}.",
                role=UserRole.OPERATOR,
            )
            for change, about, outcome in (
                ("again", "Fetch once more what was given up or cancelled of a peer.", "fetched again"),
                (
                    "cancel",
                    "Do not fetch what waits for a peer; the study that is under way still comes.",
                    "not fetched",
                ),
            )
        ),
        Verb(
            "missing",
            "people.fetches:missing_studies",
            "List studies of a peer that should have a result by the rules, and have none.\n\nConditions of "
            "rules on single images cannot be tried on a peer's answer. Exit status 1: there are some.",
            "pacs --days 3 --config node.toml",
            inputs=(
                _PEER,
                Input("days", int, "Today and so many days before.", "--days", default=3, least=0, most=90),
                Input(
                    "fetch_them",
                    bool,
                    "Fetch the studies that never came, or not whole.",
                    "--fetch",
                    default=False,
                ),
            ),
            columns=(
                _OF_STUDY,
                *fields("date: study_date"),
                ("modality", lambda row: "/".join(row["modalities"])),
                *fields("rule", "why"),
                yes_no("fetched", "fetched"),
            ),
            none="Every study has its result.",
            status=lambda rows: ExitCode.FAILED if rows else ExitCode.OK,
            role=UserRole.OPERATOR,
        ),
    ),
    key="fetch",
    rows="fetches",
)

NOTIFICATIONS: Final = Noun(
    "notifications",
    "Notifications sent by e-mail or webhook, with their receivers.",
    (
        Verb(
            "list",
            "people.notifications:list_notifications",
            "List notifications, the newest first, without their text.",
            "--state failed --config node.toml",
            inputs=(states(*NotificationState), limit(50)),
            columns=(
                *fields("notification", "rule", "state", "attempts"),
                *times("written: created_at", "sent: sent_at"),
                ("events", lambda row: "; ".join(row["events"])),
                *fields("reason"),
            ),
            none="No notifications.",
            role=UserRole.OPERATOR,
        ),
        Verb(
            "test",
            "people.notifications:test_notifier",
            "Send a test now, after its templates were tried; exit status 1 when it is not taken.",
            "admins --config node.toml",
            inputs=(
                Input("name", str, "A [[notifications]] of the configuration.", metavar="NAME"),
                Input(
                    "finding", str, "Send what a study with this finding would send.", "--finding", default=""
                ),
            ),
            says="{result[name]}: {result[kind]}: {result[text]}",
            status=lambda row: ExitCode.OK if row["ok"] else ExitCode.FAILED,
            role=UserRole.OPERATOR,
        ),
        Verb(
            "retry",
            "people.notifications:notify_again",
            "Send notifications again that were given up.",
            "12 --config node.toml",
            inputs=(numbers("notifications", "NOTIFICATION"),),
            says="They are sent again.",
            role=UserRole.OPERATOR,
        ),
    ),
    key="notification",
    rows="notifications",
)

PROCESSES: Final = Noun(
    "processes",
    "Processes of the site: on which machine, since when, and whether they live.",
    (
        Verb(
            "list",
            "people.processes:list_processes",
            "List all processes of all machines; a node that ended in good order is not among them.",
            columns=(
                *fields("machine", "place", "process", "state"),
                ("silent", lambda row: f"{row['silent_seconds']:.0f} s"),
                *times("since"),
                *fields("pid", "version"),
            ),
            none="No process has reported yet: does a node run?",
        ),
        Verb(
            "health",
            "people.processes:health",
            "Exit 0 where every process of this machine (or container) shows life, else 1: for health "
            "checks.",
            says="alive: {result[alive]}, silent: {result[silent]}",
            status=lambda found: ExitCode.OK if found["alive"] and not found["silent"] else ExitCode.FAILED,
        ),
        Verb(
            "forget",
            "people.processes:forget_machine",
            "Forget the lost processes of a machine that is gone for good; otherwise they are forgotten "
            "after a week.",
            "oldserver --config node.toml",
            inputs=(Input("machine", str, "As `processes list` shows it.", metavar="MACHINE"),),
            says="Forgotten: {result}",
            role=UserRole.ADMIN,
        ),
    ),
)


ASSOCIATIONS: Final = Noun(
    "associations",
    "Associations: who connected, and how many objects came.",
    (
        Verb(
            "list",
            "base.store.views:list_associations",
            "List associations, the newest first; an open one has no closing time.",
            "--since 1h",
            inputs=(SINCE, limit(100)),
            columns=(
                *times("opened: opened_at", "closed: closed_at"),
                *fields("calling: calling_ae", "called: called_ae", "address", "outcome", "objects"),
                *fields("reason"),
                ("refused classes", lambda row: row["refused_count"] or ""),
            ),
            none="No associations.",
        ),
    ),
)

EVENTS: Final = Noun(
    "events",
    "Events: what happened, and when.",
    (
        Verb(
            "list",
            "base.store.views:list_events",
            "List events, the oldest first; of more than --limit the newest.",
            "--since 03:10 --until 03:15",
            inputs=(
                OF_STUDY,
                SINCE,
                Input(
                    "until",
                    moment,
                    "Only before this time, written as in --since.",
                    "--until",
                    "WHEN",
                    None,
                ),
                Input(
                    "numbers",
                    int,
                    "Only with this number (docs/reference/events.md); repeatable.",
                    "--number",
                    "NUMBER",
                    (),
                    many=True,
                ),
                Input("debug", bool, "Also events of the level debug.", "--debug", default=False),
                limit(200),
            ),
            columns=(
                *times("at"),
                *fields("number", "event: text"),
                _OF_STUDY,
                ("details", details),
            ),
            none="No events.",
        ),
    ),
)

DECISIONS: Final = Noun(
    "decisions",
    "Decisions of persons that were lost with the database.",
    (
        Verb(
            "list",
            "people.lost_decisions:waiting_decisions",
            "List decisions of persons that the database lost and that could not be applied again yet.\n\n"
            'No result of a study is sent while one of its decisions marked "holds" waits.',
            columns=(
                *fields("decision"),
                *times("at"),
                *fields("actor", "action"),
                _OF_STUDY,
                yes_no("holds", "holds", "yes", ""),
                *fields("waits_for"),
            ),
            none="No decision waits.",
        ),
        Verb(
            "settle",
            "people.lost_decisions:settle_decision",
            "Answer for a decision that cannot be done again, or a changed line: it holds nothing back any "
            "more.",
            '3f2a... --because "study was sent again"',
            inputs=(Input("number", str, "As `decisions list` shows it.", metavar="DECISION"), BECAUSE),
            says="Settled: results that it held back are sent.",
            role=UserRole.ADMIN,
        ),
    ),
)

_COUNTED: Final = (*fields("count"), *times("last: last_at"))
_SINCE_THEN: Final = yes_no("since then", "outdated", "got through", "")


def _address(row: Any) -> str:
    """The address of a peer as text: its URL, or host and port."""
    return row["url"] or (f"{row['host']}:{row['port'] or '–'}" if row["host"] else "–")


PARTS_OF_CALLER: Final[Mapping[str, Sequence[Column]]] = {
    "associations": ASSOCIATIONS.verb("list").columns,
    "refused_contexts": (*fields("classes", "context"), *_COUNTED),
    "rejections": (
        *fields("calling: calling_ae", "called: called_ae", "address", "meaning"),
        *_COUNTED,
        _SINCE_THEN,
    ),
    "refused_objects": (*fields("calling: calling_ae", "status", "reason"), *_COUNTED, _SINCE_THEN),
    "failures": (*fields("address", "text"), *_COUNTED),
}
"""The parts of ``peers why``."""

PEERS: Final = Noun(
    "peers",
    "Peers: modalities and PACS.",
    (
        Verb(
            "list",
            "people.peers:list_peers",
            "List the configured peers; passwords are not shown.",
            columns=(
                *fields("name", "ae_title", "may"),
                ("address", _address),
                *fields("transport"),
                ("results", lambda row: row["results"] if "receive" in row["may"] else "–"),
                ("confirm", lambda row: row["confirm"] if "receive" in row["may"] else "–"),
            ),
            none="No peers are configured.",
        ),
        Verb(
            "test",
            "people.peers:try_peers",
            "Try all that delivery to a peer, and questions to it, need; nothing is stored or retrieved.",
            "pacs --config node.toml",
            inputs=(
                Input(
                    "names",
                    str,
                    "Names; default: all that may receive or be queried.",
                    metavar="[PEER]...",
                    default=(),
                    many=True,
                ),
            ),
            columns=(*fields("peer", "check"), yes_no("", "ok", "ok", "FAILED"), *fields("says: text")),
            none="No peer may receive or be queried.",
            status=all_of("ok", ExitCode.UNAVAILABLE),
            role=UserRole.OPERATOR,
        ),
    ),
)

RULES: Final = Noun(
    "rules",
    "Rules: which pipeline for which study.",
    (
        Verb(
            "try",
            "people.rule_trial:try_files",
            "Say which rules would take these files, which not, and why. Nothing is sent or stored.",
            "image.dcm --from us1 --config node.toml",
            inputs=(
                Input("files", Path, "DICOM files, and folders of them.", metavar="FILES...", many=True),
                Input(
                    "sender",
                    str,
                    "As if this peer (name or AE title) had sent them.",
                    "--from",
                    "PEER",
                    "",
                ),
            ),
            columns=(
                ("file", lambda row: row["file"].rpartition("/")[2]),
                *fields("modality"),
                ("rule", lambda row: row["rule"] or "–"),
                yes_no("applies", "applies"),
                ("pipeline", lambda row: row["pipeline"] if row["applies"] else "–"),
                *fields("why: reason"),
                ("then", lambda row: "; ".join(row["then"]) or "–"),
            ),
            none="No files, or no rules are configured.",
            status=all_of("rule", ExitCode.DATA),  # no rule reads a faulty file
        ),
        Verb(
            "replay",
            "people.rule_trial:replay_rules",
            "Queue the jobs that the rules now start for studies received earlier, and that these did not "
            "get.\n\nUses the rules in these files: run `dicom-node reload` first, so that the node uses "
            "them too.",
            "--since 7d --dry-run --config node.toml",
            inputs=(
                Input("since", moment, SINCE.help, "--since", "WHEN", "7d"),
                Input(
                    "dry_run",
                    bool,
                    "List the jobs that would be queued; change nothing.",
                    "--dry-run",
                    default=False,
                ),
            ),
            columns=JOBS_OF_RULES,
            none="All studies of this time had the jobs that the rules want.",
            role=UserRole.ADMIN,
        ),
    ),
)

MODELS: Final = Noun(
    "models",
    "Models: cards and weights.",
    (
        Verb(
            "list",
            "people.site_models:list_models",
            "List the model cards: shipped, and those of workers.models_dir.",
            columns=fields("model: id", "version", "task", "architecture", "licence"),
            none="No model cards.",
        ),
        Verb(
            "drift",
            "people.site_models:model_drift",
            "Compare each model's scores and refusals with its card's reference, sender by sender.\n\n"
            "Counts of whole days (UTC); the last 30 where --since is not given. --json has "
            "the scores of each label.",
            "--since 30d",
            inputs=(SINCE,),
            columns=(
                *fields("model", "version", "peer: calling_ae", "since", "analysed", "reoriented"),
                *fields("refused by pixels: refused_pixels", "by header: refused_header"),
                *fields("scores: verdict", "note"),
            ),
            none="No images were counted.",
        ),
        Verb(
            "feedback",
            "people.verdicts:all_assessments",
            "How readers assessed findings: accepted, modified, rejected or missing, why, of which version.",
            "--since 30d --json --config node.toml",
            inputs=(SINCE,),
            columns=(
                *times("at"),
                *fields("by: actor", "study: study_instance_uid"),
                *fields("finding", "decision", "verdict", "model", "version"),
            ),
            none="Nobody assessed a finding in this time.",
            role=UserRole.READER,
        ),
    ),
)

_NAME: Final = Input("name", str, "Name of the user.", metavar="NAME")
_SENDERS: Final = Input(
    "senders",
    str,
    "Only studies of this sender; repeat it for more. Without: all.",
    "--sees",
    "AE_TITLE",
    (),
    many=True,
)
_PASSWORD: Final = Input("password", is_secret=True)

USERS: Final = Noun(
    "users",
    "Users of the console.",
    (
        Verb(
            "list",
            "people.users:list_users",
            "List the users.",
            columns=(
                *fields("name", "role"),
                ("account", lambda row: "disabled" if row["disabled"] else "enabled"),
                ("of", lambda row: row["issuer"] or "this node"),
                *times("since: created_at", "seen_at"),
            ),
            none="No users.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "sessions",
            "people.users:list_sessions",
            "List who is signed in, and from where.",
            "--user anna --config node.toml",
            inputs=(Input("user", str, "Only those of this user.", "--user", "NAME", ""),),
            columns=(
                *fields("session", "user"),
                *times("since: created_at", "last used: seen_at"),
                *fields("address", "browser"),
            ),
            none="Nobody is signed in.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "end-session",
            "people.users:end_session",
            "End one session: its browser must sign in again.",
            "3 --config node.toml",
            inputs=(
                Input("number", int, "Its number, as `users sessions` shows it.", metavar="SESSION", least=0),
            ),
            says="Session {number} is ended.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "add",
            "people.users:add_user",
            "Add a user; the password is asked for, or is the first line of standard input.",
            "anna --role admin --config node.toml",
            inputs=(
                _NAME,
                Input(
                    "role",
                    UserRole,
                    "viewer sees, reader judges findings, operator runs again and uploads, admin decides.",
                    "--role",
                ),
                _SENDERS,
                _PASSWORD,
            ),
            says="User {name} may sign in as {role}.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "change",
            "people.users:change_user",
            "Change a user's role or senders, or shut or open the account; the user is signed out "
            "everywhere.",
            "anna --role reader --config node.toml",
            inputs=(
                _NAME,
                Input("role", UserRole, "What the user may do from now on.", "--role", default=None),
                Input(
                    "disabled",
                    bool,
                    "Shut the account, with its tokens, or open it again.",
                    "--disable/--enable",
                    default=None,
                ),
                replace(_SENDERS, default=None),
                Input("sees_all", bool, "Studies of all senders.", "--sees-all", default=False),
            ),
            says="User {name} is changed.",
            either=("role", "disabled", "senders", "sees_all"),
            role=UserRole.ADMIN,
        ),
        Verb(
            "password",
            "people.users:set_password",
            "Set another password; it is asked for, or is the first line of standard input.",
            "anna --config node.toml",
            inputs=(_NAME, _PASSWORD),
            says="User {name} has a new password.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "remove",
            "people.users:remove_user",
            "Take a user's account away; whoever is signed in under it is signed out.",
            "anna --config node.toml",
            inputs=(_NAME,),
            says="User {name} is removed.",
            role=UserRole.ADMIN,
        ),
    ),
)

TOKENS: Final = Noun(
    "tokens",
    "Tokens of the REST API.",
    (
        Verb(
            "list",
            "people.users:list_tokens",
            "List the tokens.",
            columns=(
                *fields("token", "user", "role", "purpose"),
                *times("since: created_at", "until: expires_at"),
                ("used", lambda row: local(row["used_at"]) or "never"),
            ),
            none="No tokens.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "add",
            "people.users:add_token",
            "Make a token for a program and print it, once: the node keeps only its hash.",
            'anna --for "the dashboard" --config node.toml',
            inputs=(
                Input("user", str, "The token gets the rights of this user.", metavar="USER"),
                Input("purpose", str, "Purpose of the token.", "--for", "TEXT"),
                Input("days", int, "How long it is good for.", "--days", default=365),
            ),
            says="{result}",
            role=UserRole.ADMIN,
        ),
        Verb(
            "remove",
            "people.users:remove_token",
            "Take a token back: from now on it opens nothing.",
            "3 --config node.toml",
            inputs=(
                Input("number", int, "Its number, as `tokens list` shows it.", metavar="TOKEN", least=0),
            ),
            says="Token {number} is removed.",
            role=UserRole.ADMIN,
        ),
    ),
)

NOUNS: Final[Mapping[str, Noun]] = {
    one.name: one
    for one in (
        PEERS,
        RULES,
        MODELS,
        STUDIES,
        JOBS,
        OUTBOX,
        FETCHES,
        NOTIFICATIONS,
        PROCESSES,
        EVENTS,
        ASSOCIATIONS,
        DECISIONS,
        USERS,
        TOKENS,
    )
}
"""All of them by name, in the order of the help."""
