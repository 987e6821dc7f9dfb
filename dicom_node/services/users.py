"""Who may use the console: names, roles, passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import CannotCreate, ConfigProblem, ConfigurationError, FaultyInput, NotFound
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, reading, writing
from dicom_node.store.accounts import ApiToken, UserAccount, UserSession
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, columns

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST, LONGEST = 12, 256
"""Characters of a password: no other rule makes one harder to guess as surely as its length."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: signed in, or by a token."""

    name: str
    role: UserRole


def add_user(settings: Settings, name: str, role: UserRole, password: str) -> None:
    """A new user. Raises FaultyInput for what cannot be a name or password, CannotCreate if it is there."""
    if not _NAME.fullmatch(name):
        raise FaultyInput("a user's name has letters of ASCII, figures, dot, dash and underscore, at most 64")
    hashed = _hashed(name, password)
    with writing(settings) as session:
        if find(session, name) is not None:
            raise CannotCreate(f"user {name} is there already: dicom-node users password changes it")
        session.add(UserAccount(name=name, role=role, password_hash=hashed, created_at=utc_now()))
        audit.note(session, audit.COMMAND_LINE, AuditAction.USER_ADDED, user=name, role=role.value)


def list_users(settings: Settings) -> list[View]:
    """All users, by name."""
    with reading(settings) as session:
        found = session.scalars(select(UserAccount).order_by(UserAccount.name))
        return [columns(user, "name", "role", "created_at") for user in found]


def remove_user(settings: Settings, name: str) -> None:
    """Take the account and its tokens away, sign the user out; what the audit says stays. Raises NotFound."""
    with writing(settings) as session:
        user = _known(session, name)
        _sign_out(session, user)
        session.execute(delete(ApiToken).where(ApiToken.user_id == user.id))
        session.delete(user)
        audit.note(session, audit.COMMAND_LINE, AuditAction.USER_REMOVED, user=name)


def set_password(settings: Settings, name: str, password: str) -> None:
    """Another password; who is signed in under the old one is signed out. Raises NotFound, FaultyInput."""
    with reading(settings) as session:  # before a new password is asked for its length
        _known(session, name)
    hashed = _hashed(name, password)
    with writing(settings) as session:
        user = _known(session, name)
        user.password_hash = hashed
        _sign_out(session, user)
        audit.note(session, audit.COMMAND_LINE, AuditAction.PASSWORD_SET, user=name)


def find(session: Session, name: str) -> UserAccount | None:
    """The user of this name; capitals do not matter."""
    return session.scalar(select(UserAccount).where(UserAccount.name.ilike(_literally(name), escape="\\")))


@cache
def hasher() -> PasswordHasher:
    """Argon2id with the parameters of RFC 9106 for little memory (64 MiB). Raises ConfigurationError."""
    try:
        from argon2 import PasswordHasher
    except ModuleNotFoundError:
        remedy = "pip install 'dicom-ai-node[console]'"
        raise ConfigurationError([ConfigProblem("this program", "console", "", remedy)]) from None
    return PasswordHasher()


def _known(session: Session, name: str) -> UserAccount:
    user = find(session, name)
    if user is None:
        raise NotFound(f"there is no user {name}: dicom-node users list shows them")
    return user


def _sign_out(session: Session, user: UserAccount) -> None:
    session.execute(delete(UserSession).where(UserSession.user_id == user.id))


def _hashed(name: str, password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise FaultyInput(f"a password has {SHORTEST} to {LONGEST} characters: four words are good and easy")
    if name.casefold() in password.casefold() and len(password) - len(name) < SHORTEST:
        raise FaultyInput("the password is little more than the name: take another")
    return hasher().hash(password)


def _literally(name: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", name)
