"""Signing in to the console, and staying so: sessions are rows, of which the browser has the token."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from dicom_node.errors import SignInRefused
from dicom_node.model.kinds import AuditAction
from dicom_node.services import audit, users
from dicom_node.services.audit import Person
from dicom_node.services.users import User
from dicom_node.store.accounts import AuditRow, UserAccount, UserSession
from dicom_node.store.database import Database
from dicom_node.store.transitions import utc_now

LONGEST_SESSION = timedelta(hours=12)
"""After this long one signs in again, however busy."""
LIMIT_MINUTES = 15
REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS, REFUSALS_OF_AN_ADDRESS, REFUSALS_OF_A_NAME = 5, 20, 100
"""Refused attempts in LIMIT_MINUTES after which further ones are not looked at.

Of a name from everywhere there may be many: else a stranger could lock a user out.
"""
_SEEN_SECONDS = 15.0  # how exactly it is known when somebody was last seen

_one_at_a_time = threading.Lock()  # an attempt takes 64 MiB and a twentieth of a second


def new_token() -> str:
    """A random value for a cookie."""
    return secrets.token_urlsafe(32)


def sign_in(database: Database, name: str, password: str, address: str, former: str = "") -> str:
    """The token of a new session; that of the ``former`` one ends.

    Raises SignInRefused, in the same words for a name that is not known.
    """
    with _one_at_a_time:
        with database.read() as session:
            user = users.find(session, name)
            number, known = (user.id, user.name) if user else (None, "")
            hashed = user.password_hash if user else _hash_of_nobody()
            typed: dict[str, Any] = {} if user else {"typed": _bucket(name)}
            _refuse_too_many(session, _named(known, typed), address)
        if not _fits(hashed, password) or number is None:
            with database.write() as session:
                audit.note(session, Person(known, address), AuditAction.SIGN_IN_REFUSED, **typed)
            raise SignInRefused("Name or password is wrong.")
    token, now = new_token(), utc_now()
    with database.write() as session:
        ended = (UserSession.created_at < now - LONGEST_SESSION) | (UserSession.token_sha256 == _hash(former))
        session.execute(delete(UserSession).where(ended))
        session.add(
            UserSession(token_sha256=_hash(token), user_id=number, created_at=now, seen_at=now, search={})
        )
        audit.note(session, Person(known, address), AuditAction.SIGNED_IN)
    return token


def user_of(
    database: Database,
    token: str,
    idle_minutes: float,
    now: datetime | None = None,
    *,
    counts: bool = True,
) -> User | None:
    """Who has this token, None when nobody has, or did not use it for too long.

    ``counts``: a person asks; a page that updates by itself does not keep a session alive.
    """
    now = now or utc_now()
    with database.read() as session:
        chosen = select(UserSession, UserAccount).join(UserAccount, UserSession.user_id == UserAccount.id)
        row = session.execute(chosen.where(UserSession.token_sha256 == _hash(token))).one_or_none()
        if row is None:
            return None
        signed_in, user = row
        found = User(user.name, user.role)
        idle, age = now - signed_in.seen_at, now - signed_in.created_at
    if idle > timedelta(minutes=idle_minutes) or age > LONGEST_SESSION:
        return None
    if counts and idle.total_seconds() > min(_SEEN_SECONDS, idle_minutes * 6):
        with database.write() as session:
            if seen := session.get(UserSession, _hash(token)):
                seen.seen_at = now
    return found


def sign_out(database: Database, token: str, by: Person) -> None:
    """End the session."""
    with database.write() as session:
        session.execute(delete(UserSession).where(UserSession.token_sha256 == _hash(token)))
        audit.note(session, by, AuditAction.SIGNED_OUT)


def search_of(database: Database, token: str) -> dict[str, str]:
    """What this session searched for last that no address may hold: keys ``patient`` and ``accession``."""
    with database.read() as session:
        row = session.get(UserSession, _hash(token))
        return dict(row.search) if row else {}


def keep_search(database: Database, token: str, about: Mapping[str, str], by: Person) -> None:
    """Keep it for the list that follows. The audit says that a patient was searched for, not which."""
    with database.write() as session:
        if row := session.get(UserSession, _hash(token)):
            row.search = dict(about)
        if about:
            audit.note(session, by, AuditAction.STUDY_SEARCHED, searched_by=sorted(about))


def _bucket(name: str) -> str:
    """One of 65,536 for a name that is no user's, so that it is counted like one that is.

    Too few to guess from the audit what was typed: it may be a password.
    """
    return hashlib.sha256(name.lower().encode(errors="replace")).hexdigest()[:4]


def _named(known: str, typed: Mapping[str, Any]) -> ColumnElement[bool]:
    named = AuditRow.actor == known
    return named & (AuditRow.fields["typed"].as_string() == typed["typed"]) if typed else named


def _refuse_too_many(session: Session, named: ColumnElement[bool], address: str) -> None:
    here = AuditRow.address == address
    since = utc_now() - timedelta(minutes=LIMIT_MINUTES)
    for which, limit in (
        (here & named, REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS),
        (here, REFUSALS_OF_AN_ADDRESS),
        (named, REFUSALS_OF_A_NAME),
    ):
        if _refused(session, which, since) >= limit:
            raise SignInRefused(f"Too many attempts: try again in {LIMIT_MINUTES} minutes.")


def _refused(session: Session, which: ColumnElement[bool], since: datetime) -> int:
    chosen = select(func.count()).select_from(AuditRow)
    refused = (AuditRow.action == AuditAction.SIGN_IN_REFUSED) & (AuditRow.at >= since)
    return session.scalar(chosen.where(refused, which)) or 0


def _fits(hashed: str, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return users.hasher().verify(hashed, password[: users.LONGEST])
    except (InvalidHashError, VerificationError):
        return False


@cache
def _hash_of_nobody() -> str:
    """So that an unknown name takes as long as a known one."""
    return users.hasher().hash(secrets.token_hex(16))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
