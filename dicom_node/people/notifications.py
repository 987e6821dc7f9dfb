"""Notifications: list them, send a test, and send given-up ones again."""

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.config.mistakes import did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import every
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.kinds import AuditAction, NotificationState
from dicom_node.base.store.tables import Notification
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, columns
from dicom_node.people import Row, audit, existing, writing


class NotificationRow(Row):
    """A notification: its rule, its events, and whether it was sent."""

    notification: int
    rule: str
    state: NotificationState


def configured(settings: Settings) -> list[View]:
    """The notification settings, without addresses of webhooks and tokens."""
    return [row for notifier in every("notifiers") for row in notifier.configured(settings)]


def list_notifications(
    session: Session,
    *,
    states: Iterable[NotificationState] = (),
    limit: int | None = None,
    before: int | None = None,
) -> list[View]:
    """Sent and waiting notifications, the newest first; ``before``: older than this number.

    Without subject and text.
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


def send_test(settings: Settings, name: str, by: audit.Person = audit.COMMAND_LINE) -> View:
    """Send a test message at once; returns ``ok`` and ``text``. Raises NotFound."""
    rows = {row["name"]: (row["kind"], one) for one in every("notifiers") for row in one.configured(settings)}
    if name not in rows:
        raise NotFound(f"no notification is called {name!r}; {did_you_mean(name, rows, 'configured')}")
    kind, notifier = rows[name]
    is_sent, text = notifier.send_test(settings, name)
    with writing(settings) as session:
        audit.note(session, by, AuditAction.NOTIFIER_TESTED, notification=name, ok=int(is_sent))
    return {"name": name, "kind": kind, "ok": is_sent, "text": text or "sent"}


def send_again(settings: Settings, numbers: Sequence[int], by: audit.Person = audit.COMMAND_LINE) -> None:
    """Send given-up notifications again: all of these or none. Raises NotFound, NotAllowedNow."""
    with writing(settings) as session:
        for number in numbers:
            row = existing(
                session, Notification, number, f"no notification has the number {number}", lock=True
            )
            if row.state is not NotificationState.FAILED:
                raise NotAllowedNow(f"notification {number} is {row.state}: only a failed one is sent again")
            row.state, row.next_at, row.refusals = NotificationState.PENDING, utc_now(), 0
        audit.note(session, by, AuditAction.NOTIFIED_AGAIN, notifications=list(numbers))
