"""Tokens with which programs use the REST API: each belongs to a user, and may what that user may."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from sqlalchemy import delete, select

from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput, NotFound
from dicom_node.model.kinds import AuditAction
from dicom_node.services import audit, reading, users, writing
from dicom_node.store.accounts import ApiToken, UserAccount
from dicom_node.store.database import Database
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, columns

LONGEST_DAYS = 3650
_PREFIX = "dn_"  # so that a leaked one is recognised for what it is
_USED_MINUTES = 5  # how exactly it is known when a token was used


def add_token(settings: Settings, user: str, purpose: str, days: int) -> str:
    """A new token of a user, for this many days; it is shown once. Raises NotFound, FaultyInput."""
    words = " ".join(purpose.split())
    if not 1 <= len(words) <= 64 or not words.isprintable():
        raise FaultyInput("say in 1 to 64 characters what the token is for")
    if not 1 <= days <= LONGEST_DAYS:
        raise FaultyInput(f"a token is good for 1 to {LONGEST_DAYS} days")
    token, now = _PREFIX + secrets.token_urlsafe(32), utc_now()
    with writing(settings) as session:
        owner = users.find(session, user)
        if owner is None:
            raise NotFound(f"there is no user {user}: dicom-node users list shows them")
        row = ApiToken(
            token_sha256=_hash(token), user_id=owner.id, purpose=words, created_at=now,
            expires_at=now + timedelta(days=days),
        )  # fmt: skip
        session.add(row)
        session.flush()
        audit.note(session, audit.COMMAND_LINE, AuditAction.TOKEN_ADDED, user=owner.name, token=row.id)
    return token


def list_tokens(settings: Settings) -> list[View]:
    """All tokens, without what is secret of them."""
    with reading(settings) as session:
        chosen = select(ApiToken, UserAccount).join(UserAccount, ApiToken.user_id == UserAccount.id)
        return [
            {
                "token": row.id,
                "user": user.name,
                "role": user.role.value,
                **columns(row, "purpose", "created_at", "expires_at", "used_at"),
            }
            for row, user in session.execute(chosen.order_by(ApiToken.id))
        ]


def remove_token(settings: Settings, number: int) -> None:
    """From now on nobody may use it. Raises NotFound."""
    with writing(settings) as session:
        row = session.get(ApiToken, number)
        if row is None:
            raise NotFound(f"no token has the number {number}: dicom-node tokens list shows them")
        session.execute(delete(ApiToken).where(ApiToken.id == number))
        audit.note(session, audit.COMMAND_LINE, AuditAction.TOKEN_REMOVED, token=number)


def owner_of(database: Database, token: str) -> users.User | None:
    """Whose token this is, None when it is nobody's or has expired."""
    now = utc_now()
    with database.read() as session:
        chosen = select(ApiToken, UserAccount).join(UserAccount, ApiToken.user_id == UserAccount.id)
        row = session.execute(chosen.where(ApiToken.token_sha256 == _hash(token))).one_or_none()
        if row is None:
            return None
        known, user = row
        if known.expires_at <= now:
            return None
        found, number = users.User(user.name, user.role), known.id
        is_noted = known.used_at is not None and now - known.used_at < timedelta(minutes=_USED_MINUTES)
    if not is_noted:
        with database.write() as session:
            if used := session.get(ApiToken, number):
                used.used_at = now
    return found


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
