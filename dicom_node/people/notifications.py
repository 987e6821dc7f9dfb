"""Notifications: the configured ones, those sent and waiting, a test of one, and sending again."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import Column, fields, times
from dicom_node.base.actions.inputs import limit, numbers, states
from dicom_node.base.actions.nouns import NOTIFICATIONS
from dicom_node.base.config.rule import SUSPECTED
from dicom_node.base.config.section import did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import every
from dicom_node.base.errors import ExitCode, NotAllowedNow, NotFound
from dicom_node.base.lifecycle import (
    AuditAction,
    NotificationState,
    UserRole,
)
from dicom_node.base.store.tables import (
    Notification,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, columns
from dicom_node.people import (
    audit,
    existing,
    writing,
)
from dicom_node.people.audit import COMMAND_LINE, Person
from dicom_node.people.preflight import can_say, occasions


def notifiers(settings: Settings) -> list[View]:
    """Rows for the configured notifications, without addresses of webhooks and tokens."""
    return [row for notifier in every("notifiers") for row in notifier.configured(settings)]


@Action(
    NOTIFICATIONS,
    "list",
    "List notifications, the newest first, without their text.",
    "--state failed --config node.toml",
    columns=(
        *fields("notification", "rule", "state", "attempts"),
        *times("written: created_at", "sent: sent_at"),
        Column("events", lambda row: "; ".join(row["events"])),
        *fields("reason"),
    ),
    none="No notifications.",
    role=UserRole.OPERATOR,
)
def list_notifications(
    session: Session,
    *,
    states: Annotated[Iterable[NotificationState], states(*NotificationState)] = (),
    limit: Annotated[int | None, limit(50)] = None,
    before: int | None = None,
) -> list[View]:
    """Rows for sent and waiting notifications, the newest first, without subject and text.

    ``states``: only these, empty for all. ``before``: only those with a lower number.
    """
    chosen = select(Notification).order_by(Notification.id.desc()).limit(limit)
    if wanted := tuple(states):
        chosen = chosen.where(Notification.state.in_(wanted))
    if before is not None:
        chosen = chosen.where(Notification.id < before)
    return [
        {
            "notification": row.id,
            **columns(row, "rule", "state", "reason", "attempts", "created_at", "next_at", "sent_at"),
            "events": [f"{group['text']} × {group['count']}" for group in row.content.get("groups", ())],
        }
        for row in session.scalars(chosen)
    ]


@Action(
    NOTIFICATIONS,
    "test",
    "Send a test now, after its templates were tried; exit status 1 when it is not taken.",
    "admins --config node.toml",
    says="{result[name]}: {result[kind]}: {result[text]}",
    status=lambda row: ExitCode.OK if row["ok"] else ExitCode.FAILED,
    role=UserRole.OPERATOR,
)
def test_notifier(
    settings: Settings,
    name: Annotated[str, Input("A [[notifications]] of the configuration.", metavar="NAME")],
    by: Person = COMMAND_LINE,
    *,
    finding: Annotated[
        str, Input("Send what a study with this finding or call would send.", "--finding")
    ] = "",
) -> View:
    """Send a test message of the notification ``name`` at once; returns ``ok`` and ``text``. Raises NotFound,
    also for a finding that no rule can report.

    ``finding``: send the message for a study in which this finding is suspected, or with this call; "" for a
    plain test.
    """
    if finding and not can_say(finding, names := _names_said(settings)):
        raise NotFound(f"no rule finds {finding!r}; {did_you_mean(finding, names, 'they find')}")
    rows = {row["name"]: (row["kind"], one) for one in every("notifiers") for row in one.configured(settings)}
    if name not in rows:
        raise NotFound(f"no notification is called {name!r}; {did_you_mean(name, rows, 'configured')}")
    kind, notifier = rows[name]
    is_sent, text = notifier.send_test(settings, name, finding)
    with writing(settings) as session:
        audit.note(session, by, AuditAction.NOTIFIER_TESTED, notification=name, ok=int(is_sent))
    return {"name": name, "kind": kind, "ok": is_sent, "text": text or "sent"}


def _names_said(settings: Settings) -> list[str]:
    """The names of all findings and calls that the rules can say; * where one cannot be known."""
    said = frozenset[str]().union(*(occasions(rule, settings) for rule in settings.rules))
    return sorted(one.removesuffix(SUSPECTED) for one in said)


@Action(
    NOTIFICATIONS,
    "retry",
    "Send notifications again that were given up.",
    "12 --config node.toml",
    says="They are sent again.",
    role=UserRole.OPERATOR,
)
def notify_again(
    settings: Settings,
    numbers: Annotated[Sequence[int], numbers("notifications", "NOTIFICATION")],
    by: Person = COMMAND_LINE,
) -> None:
    """Send given-up notifications again: all of these or none; ``numbers``: of the notifications.

    Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        for number in numbers:
            row = existing(
                session, Notification, number, f"no notification has the number {number}", lock=True
            )
            if row.state is not NotificationState.FAILED:
                raise NotAllowedNow(f"notification {number} is {row.state}: only a failed one is sent again")
            row.state, row.next_at, row.refusals = NotificationState.PENDING, utc_now(), 0
        audit.note(session, by, AuditAction.NOTIFIED_AGAIN, notifications=list(numbers))
