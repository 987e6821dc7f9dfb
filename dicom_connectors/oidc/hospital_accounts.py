"""Accounts of the hospital (OpenID Connect): at each sign-in the provider decides on the person's
rights.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_connectors.oidc.settings import ALL, OidcSettings
from dicom_node.base.errors import SignInRefused, Unavailable
from dicom_node.base.events import ACCOUNTS_UNUSABLE, happened
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import UserAccount
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import audit, users
from dicom_node.people.audit import Person

_places = threading.BoundedSemaphore(8)
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class HospitalPerson:
    """A person whom the hospital's identity provider has identified at sign-in."""

    origin: str
    """"oidc", in the audit."""
    issuer: str
    """Address of the provider that identified the person."""
    subject: str
    """The issuer's own identifier of the person, never given to another person."""
    name: str
    """For a new account: of :func:`name_at`."""
    groups: frozenset[str]


@contextmanager
def place() -> Iterator[None]:
    """Context manager that takes one of the 8 places for sign-ins that wait for the identity provider.

    Raises Unavailable if all are taken.
    """
    if not _places.acquire(blocking=False):
        raise Unavailable("Too many sign in at once: try again.")
    try:
        yield
    finally:
        _places.release()


def unusable(reason: str) -> Unavailable:
    """Log that an answer of the identity provider is missing or unusable, and return the error for the caller
    to raise.

    ``reason`` goes to the log and is a note of the error, so it must not name a person.
    """
    happened(ACCOUNTS_UNUSABLE, reason=reason)
    error = Unavailable(
        "The provider of the hospital's accounts does not answer as it should: try again later, or sign in "
        "with a user of this node. The log of the node says more."
    )
    error.add_note(reason)
    return error


def name_at(local: str, domain: str) -> str:
    """Return a user name such as "anna@example.org" from a local name and a domain.

    No name of the node's own users has an @.
    """
    return f"{_FOREIGN.sub('-', local)[:32]}@{_FOREIGN.sub('-', domain)[:31]}"


def account_of(session: Session, issuer: str, subject: str) -> UserAccount | None:
    """Return the account of the person whom ``issuer`` knows as ``subject``; None before the first
    sign-in.
    """
    wanted = UserAccount.issuer == issuer, UserAccount.subject == subject
    return session.scalar(select(UserAccount).where(*wanted))


def enter(
    database: Database,
    settings: OidcSettings,
    person: HospitalPerson,
    address: str,
    agent: str,
    former: str = "",
) -> str:
    """Open a console session for a person whom the provider has identified, and return the session's token.

    The account gets the role and the senders (AE titles) that the person's groups have today. ``address``,
    ``agent``: the browser's; ``former``: token of the session that ends, "" for none. Raises SignInRefused,
    which is recorded in the audit with the person's name.
    """
    roles = [role for group, role in settings.roles.items() if group in person.groups]
    with database.write() as session:
        user = account_of(session, person.issuer, person.subject)
        name = user.name if user else person.name
        senders = [
            title for group, titles in settings.senders.items() if group in person.groups for title in titles
        ]
        is_limited = bool(settings.senders) and UserRole.ADMIN not in roles
        problem = _refusal(session, user, name, roles, sees_none=is_limited and not senders)
        if not problem:
            by = Person(name, address)
            role = max(roles, key=list(UserRole).index)
            user = _account(session, user, person, by, role)
            user.senders = sorted({*senders}) if is_limited and ALL not in senders else []
            return users.open_session(session, user.id, by, agent, former, origin=person.origin)
        if user:
            users.sign_out_everywhere(session, user)
        audit.note(
            session,
            Person(user.name if user else "", address),
            AuditAction.SIGN_IN_REFUSED,
            origin=person.origin,
            because=problem,
            user=name,
        )
    raise SignInRefused(problem)


def _refusal(
    session: Session, user: UserAccount | None, name: str, roles: list[UserRole], *, sees_none: bool
) -> str:
    """Return why a person whom the hospital knows may not sign in; "" if they may.

    ``user``: their account, None before the first sign-in; ``sees_none``: no sender's studies are open to
    them.
    """
    if user and user.disabled:
        return "This account is disabled here: an admin of the node enables it."
    if not roles:
        return "None of your groups may use this console: ask an admin of the node for it."
    if sees_none:
        return "None of your groups may see studies here: an admin adds one to console.oidc.senders."
    if user is None and users.find(session, name):
        return "Another person's account has your name here: an admin of the node removes it."
    return ""


def _account(
    session: Session, user: UserAccount | None, person: HospitalPerson, by: Person, role: UserRole
) -> UserAccount:
    """Return the account with the role ``role``; it is created if ``user`` is None.

    ``by``: the person as the audit names them.
    """
    changed: dict[str, Any] = {"user": by.name, "role": role.value, "origin": person.origin}
    if user is None:
        user = UserAccount(
            name=by.name,
            role=role,
            password_hash="",
            created_at=utc_now(),
            issuer=person.issuer,
            subject=person.subject,
        )
        session.add(user)
        session.flush()
        audit.note(session, by, AuditAction.USER_ADDED, **changed)
    elif user.role is not role:
        user.role = role
        audit.note(session, by, AuditAction.USER_CHANGED, **changed)
    return user
