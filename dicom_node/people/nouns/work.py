"""What the node works off: jobs, deliveries, fetches and notifications; and its processes."""

from typing import Final

from dicom_node.base.errors import ExitCode
from dicom_node.base.kinds import NotificationState, UserRole
from dicom_node.base.lifecycle import DeliveryState, FetchState, JobState
from dicom_node.people.nouns import BECAUSE, OF_STUDY, SINCE, Input, Noun, Verb, limit, numbers, states
from dicom_node.people.nouns.columns import PrintedRow, fields, local, times, uid, yes_no

_OF_STUDY: Final = uid("study", "study_instance_uid")


def _runs(row: PrintedRow) -> bool:
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
            "retry",
            "people.queues:run_jobs_again",
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
            "people.queues:change_jobs",
            "Put jobs that wait before all others: all of these or none.",
            "17 --config node.toml",
            inputs=(numbers("jobs", "JOB"),),
            fixed={"change": "put_first"},
            says="Put first: {numbers}.",
            role=UserRole.OPERATOR,
        ),
        Verb(
            "cancel",
            "people.queues:change_jobs",
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
                uid("sop instance", "sop_instance_uid", 14),
                *fields("tries: attempts"),
                ("next try", lambda row: "" if row["confirmed_at"] else local(row["next_at"])),
                *fields("status"),
                ("reason", lambda row: row["discarded_because"] or row["reason"]),
            ),
            none="No deliveries, or none that all filters let pass.",
        ),
        Verb(
            "retry",
            "people.queues:send_again",
            "Send results again that were given up, once the cause is gone.",
            "--dead --config node.toml",
            inputs=_DELIVERIES,
            says="To be sent again: {result}.",
            either=("numbers", "dead"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "discard",
            "people.queues:discard_deliveries",
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
            "people.queues:list_fetches",
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
        Verb(
            "again",
            "people.queues:change_fetches",
            "Fetch once more what was given up or cancelled of a peer.",
            "pacs --config node.toml",
            inputs=(_PEER,),
            fixed={"change": "again"},
            says="{result} studies are fetched again.",
            role=UserRole.OPERATOR,
        ),
        Verb(
            "cancel",
            "people.queues:change_fetches",
            "Do not fetch what waits for a peer; the study that is under way still comes.",
            "pacs --config node.toml",
            inputs=(_PEER,),
            fixed={"change": "cancel"},
            says="{result} studies are not fetched.",
            role=UserRole.OPERATOR,
        ),
        Verb(
            "missing",
            "people.queues:missing_studies",
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
            "people.queues:list_notifications",
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
            "people.queues:test_notifier",
            "Send a test now, after its templates were tried; exit status 1 when it is not taken.",
            "admins --config node.toml",
            inputs=(Input("name", str, "A [[notifications]] of the configuration.", metavar="NAME"),),
            says="{result[name]}: {result[kind]}: {result[text]}",
            status=lambda row: ExitCode.OK if row["ok"] else ExitCode.FAILED,
            role=UserRole.OPERATOR,
        ),
        Verb(
            "retry",
            "people.queues:notify_again",
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
            "people.monitoring.processes:processes",
            "List all processes of all machines; a node that ended in good order is not among them.",
            why="who is silent?",
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
            "people.monitoring.processes:health",
            "Exit 0 where every process of this machine (or container) shows life, else 1: for health "
            "checks.",
            says="alive: {result[alive]}, silent: {result[silent]}",
            status=lambda found: ExitCode.OK if found["alive"] and not found["silent"] else ExitCode.FAILED,
        ),
        Verb(
            "forget",
            "people.queues:forget_machine",
            "Forget the lost processes of a machine that is gone for good; otherwise they are forgotten "
            "after a week.",
            "oldserver --config node.toml",
            inputs=(Input("machine", str, "As `processes list` shows it.", metavar="MACHINE"),),
            says="Forgotten: {result}",
            role=UserRole.ADMIN,
        ),
    ),
)
