"""Users of the console: names, roles and passwords; sessions of browsers; tokens of programs."""

import hashlib
import re
import secrets
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import Column, Time, fields, times
from dicom_node.base.actions.nouns import TOKENS, USERS
from dicom_node.base.config.section import AE_TITLE, did_you_mean
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import (
    ConfigProblem,
    ConfigurationError,
    FaultyInput,
    NotAllowedNow,
    NotFound,
    SignInRefused,
)
from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, AuditAction, UserRole
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import ApiToken, AuditRow, Instance, UserAccount, UserSession
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, as_json, columns
from dicom_node.people import audit, existing, reading, writing
from dicom_node.people.audit import COMMAND_LINE, Person

if TYPE_CHECKING:
    from argon2 import PasswordHasher


SHORTEST, LONGEST = 12, 256
"""Characters of a password: no other rule makes one harder to guess as surely as its length."""
_MOST_SENDERS = 50  # of one user
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class User:
    """The user of the console or of the REST API who makes a request, signed in or with a token."""

    name: str
    role: UserRole
    senders: tuple[str, ...] = ()
    """Calling AE titles whose studies the user sees; () for all."""


LONGEST_SESSION = timedelta(hours=12)
"""After this long one signs in again, however busy."""
LIMIT_MINUTES = 15
REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS, REFUSALS_OF_AN_ADDRESS, REFUSALS_OF_A_NAME = 5, 200, 100
"""Refused attempts in LIMIT_MINUTES after which further ones are not looked at.

Of a name from everywhere, and of an address from which many sign in, there may be many: else a stranger could
lock users out.
"""
SUSPECT_REFUSALS = 20
"""After so many of an address, a name that was refused there once is not looked at there any more."""
FAMILIAR_DAYS = 30
"""Who signed in from an address within these days is known there."""
_SEEN_SECONDS = 15.0  # how exactly it is known when somebody was last seen
_one_at_a_time = threading.Lock()  # an attempt takes 64 MiB and a twentieth of a second
LONGEST_DAYS = 3650
_PREFIX = "dn_"  # so that a leaked one is recognised for what it is
_USED_MINUTES = 5  # how exactly it is known when a token was used
_BROWSERS = {"Edg": "Edge", "OPR": "Opera", "Firefox": "Firefox", "Chrome": "Chrome", "Version": "Safari"}
"""Sign in a User-Agent → name, in this order: most call themselves Chrome, too."""
_SYSTEMS = {
    "Windows": "Windows", "Android": "Android", "iPhone": "iOS", "iPad": "iPadOS", "Mac OS X": "macOS",
    "Linux": "Linux",
}  # fmt: skip


_UserName = Annotated[str, Input("Name of the user.", metavar="NAME")]
_SENDERS: Final = Input(
    "Only studies that this sender alone sent; repeat it for more senders. Without: all.",
    "--sees",
    "AE_TITLE",
)
_Password = Annotated[str, Input(is_secret=True)]


@Action(
    USERS,
    "add",
    "Add a user; the password is asked for, or is the first line of standard input.",
    "anna --role admin --config node.toml",
    says="User {name} may sign in as {role}.",
    role=UserRole.ADMIN,
)
def add_user(
    settings: Settings,
    name: _UserName,
    role: Annotated[
        UserRole,
        Input(
            "viewer sees, reader judges findings, operator runs again and uploads, admin decides.", "--role"
        ),
    ],
    password: _Password,
    by: Person = COMMAND_LINE,
    *,
    senders: Annotated[Sequence[str], _SENDERS] = (),
) -> None:
    """Add a user of the console.

    ``senders``: calling AE titles whose studies the user sees; empty: all studies. Raises FaultyInput for an
    invalid name, password or sender, NotAllowedNow if the name exists.
    """
    checked_password(name, password)
    sees = _checked_senders(senders, role)
    _refuse_unknown_senders(settings, sees)
    hashed = hasher().hash(password)
    with writing(settings) as session:
        if find(session, name) is not None:
            raise NotAllowedNow(f"user {name} is there already: dicom-node users password changes it")
        session.add(
            UserAccount(name=name, role=role, password_hash=hashed, created_at=utc_now(), senders=sees)
        )
        audit.note(session, by, AuditAction.USER_ADDED, user=name, role=role, senders=sees)


def checked_password(name: str, password: str) -> str:
    """Return ``password`` if a user of this name may have it. Raises FaultyInput for an invalid name, and for
    a password that is too short, too long, or little more than the name.
    """
    if not _NAME.fullmatch(name):
        raise FaultyInput("a user's name has letters of ASCII, figures, dot, dash and underscore, at most 64")
    if not SHORTEST <= len(password) <= LONGEST:
        raise FaultyInput(f"a password has {SHORTEST} to {LONGEST} characters: four words are good and easy")
    if name.casefold() in password.casefold() and len(password) - len(name) < SHORTEST:
        raise FaultyInput("the password is little more than the name: take another")
    return password


@Action(
    USERS,
    "list",
    "List the users.",
    columns=(
        *fields("name", "role"),
        Column("sees", lambda row: "; ".join(row["senders"]) or "all studies"),
        Column("account", lambda row: "disabled" if row["disabled"] else "enabled"),
        Column("of", lambda row: row["issuer"] or "this node"),
        *times("since: created_at", "seen_at"),
    ),
    none="No users.",
    role=UserRole.ADMIN,
)
def list_users(settings: Settings) -> list[View]:
    """Rows for all users, by name. ``sessions``: the number of open sessions; ``seen_at``: when one was last
    used.
    """
    with reading(settings) as session:
        rows = session.execute(
            select(UserSession.user_id, func.count(), func.max(UserSession.seen_at)).group_by(
                UserSession.user_id
            )
        )
        used = {user: {"sessions": number, "seen_at": as_json(at)} for user, number, at in rows}
        return [
            columns(user, "name", "role", "senders", "created_at", "disabled", "issuer")
            | used.get(user.id, {"sessions": 0, "seen_at": None})
            for user in session.scalars(select(UserAccount).order_by(UserAccount.name))
        ]


@Action(
    USERS,
    "change",
    "Change a user's role or senders, or shut or open the account; the user is signed out everywhere.",
    "anna --role reader --config node.toml",
    says="User {name} is changed.",
    either=("role", "disabled", "senders", "sees_all"),
    role=UserRole.ADMIN,
)
def change_user(
    settings: Settings,
    name: _UserName,
    by: Person = COMMAND_LINE,
    *,
    role: Annotated[UserRole | None, Input("What the user may do from now on.", "--role")] = None,
    disabled: Annotated[
        bool | None, Input("Shut the account, with its tokens, or open it again.", "--disable/--enable")
    ] = None,
    senders: Annotated[Sequence[str] | None, _SENDERS] = None,
    sees_all: Annotated[bool, Input("Studies of all senders.", "--sees-all")] = False,
) -> None:
    """Set a user's role, the senders whose studies the user sees, and whether the account is disabled.

    None leaves each as it is, ``sees_all`` lets the user see studies of all senders. The user is signed out
    everywhere. Raises NotFound, FaultyInput for invalid senders, and NotAllowedNow for the own account of
    ``by``, or for role and senders of an account that the hospital's identity provider manages.
    """
    senders = () if sees_all else senders
    _refuse_unknown_senders(settings, _checked_senders(senders or (), UserRole.VIEWER))
    with writing(settings) as session:
        user = _account(session, name)
        _refuse_own(user, by)
        if role or senders is not None:
            _refuse_of_provider(user, "role")
        user.role = role or user.role
        user.senders = _checked_senders(user.senders if senders is None else senders, user.role)
        user.disabled = user.disabled if disabled is None else disabled
        sign_out_everywhere(session, user)
        audit.note(
            session,
            by,
            AuditAction.USER_CHANGED,
            user=user.name,
            role=user.role,
            senders=user.senders,
            disabled=user.disabled,
        )


def end_sessions(settings: Settings, name: str, by: Person = COMMAND_LINE) -> None:
    """Sign a user out of all browsers. Raises NotFound."""
    with writing(settings) as session:
        user = _account(session, name)
        sign_out_everywhere(session, user)
        audit.note(session, by, AuditAction.USER_CHANGED, user=user.name, signed_out=True)


@Action(
    USERS,
    "remove",
    "Take a user's account away; whoever is signed in under it is signed out.",
    "anna --config node.toml",
    says="User {name} is removed.",
    role=UserRole.ADMIN,
)
def remove_user(settings: Settings, name: _UserName, by: Person = COMMAND_LINE) -> None:
    """Remove the account and its tokens, and sign the user out; audit rows stay. Raises NotFound,
    NotAllowedNow.
    """
    with writing(settings) as session:
        user = _account(session, name)
        _refuse_own(user, by)
        sign_out_everywhere(session, user)
        session.execute(delete(ApiToken).where(ApiToken.user_id == user.id))
        session.delete(user)
        audit.note(session, by, AuditAction.USER_REMOVED, user=name)


@Action(
    USERS,
    "password",
    "Set another password; it is asked for, or is the first line of standard input.",
    "anna --config node.toml",
    says="User {name} has a new password.",
    role=UserRole.ADMIN,
)
def set_password(
    settings: Settings,
    name: _UserName,
    password: _Password,
    by: Person = COMMAND_LINE,
) -> None:
    """Set a user's password, and end the user's sessions.

    Raises NotFound, FaultyInput for a weak one, and NotAllowedNow for an account that the hospital's identity
    provider manages.
    """
    with reading(settings) as session:  # before a new password is asked for its length
        _refuse_of_provider(_account(session, name), "password")
    checked_password(name, password)
    hashed = hasher().hash(password)
    with writing(settings) as session:
        user = _account(session, name)
        user.password_hash = hashed
        sign_out_everywhere(session, user)
        audit.note(session, by, AuditAction.PASSWORD_SET, user=name)


def find(session: Session, name: str) -> UserAccount | None:
    """The user account with this name, whether in upper or lower case; None if there is none."""
    literally = re.sub(r"([\\%_])", r"\\\1", name)
    return session.scalar(select(UserAccount).where(UserAccount.name.ilike(literally, escape="\\")))


@cache
def hasher() -> "PasswordHasher":
    """The password hasher: Argon2id with the parameters of RFC 9106 for little memory (64 MiB).

    Raises ConfigurationError if its package is missing.
    """
    try:
        from argon2 import PasswordHasher
    except ModuleNotFoundError:
        raise ConfigurationError(
            [ConfigProblem("this program", "console", "", "pip install 'dicom-ai-node[console]'")]
        ) from None
    return PasswordHasher()


def new_token() -> str:
    """A random value for a cookie or a token, 32 bytes as text."""
    return secrets.token_urlsafe(32)


def sign_in(
    database: Database, name: str, password: str, address: str, former: str = "", agent: str = ""
) -> str:
    """Check a user's password and start a session; returns its token.

    ``address``: where the request comes from. ``former``: the token of a session that ends, "" for none.
    ``agent``: the browser's User-Agent. Raises SignInRefused, in the same words for an unknown name and a
    disabled account.
    """
    with _one_at_a_time:
        with database.read() as session:
            user = find(session, name)
            number = user.id if user and not user.disabled else None
            hashed = (user.password_hash if user else "") or _hash_for_unknown_user()
            by, typed = check_attempt(session, user, name, address)
        if not _is_password(hashed, password) or number is None:
            with database.write() as session:
                audit.note(session, by, AuditAction.SIGN_IN_REFUSED, **typed)
            raise SignInRefused("Name or password is wrong.")
    with database.write() as session:
        return open_session(session, number, by, agent, former)


def check_attempt(
    session: Session, user: UserAccount | None, name: str, address: str
) -> tuple[Person, dict[str, Any]]:
    """The person and the fields with which an attempt to sign in is noted in the audit.

    ``user``: the account with this name, or None. Without an account, the fields have a short hash of the
    name, by which attempts are counted. Raises SignInRefused after too many attempts.
    """
    # One of 65,536 for a name that is no user's: too few to guess from the audit what was typed.
    bucket = hashlib.sha256(name.lower().encode(errors="replace")).hexdigest()[:4]
    named = AuditRow.actor == (user.name if user else "")
    if not user:
        named &= AuditRow.fields["typed"].as_string() == bucket
    refuse_too_many(session, address, named)
    return Person(user.name if user else "", address), {} if user else {"typed": bucket}


def open_session(session: Session, user_id: int, by: Person, agent: str, former: str = "", **how: Any) -> str:
    """Start a session of a user; returns its token.

    ``former``: the token of a session that ends, "" for none. ``agent``: the browser's User-Agent. ``how``:
    fields for the audit.
    """
    token, now = new_token(), utc_now()
    ended = (UserSession.created_at < now - LONGEST_SESSION) | (
        UserSession.token_sha256 == _token_sha256(former)
    )
    session.execute(delete(UserSession).where(ended))
    session.add(
        UserSession(
            token_sha256=_token_sha256(token),
            user_id=user_id,
            created_at=now,
            seen_at=now,
            address=by.address[:64],
            browser=browser_name(agent),
            search={},
        )
    )
    audit.note(session, by, AuditAction.SIGNED_IN, **how)
    return token


def browser_name(agent: str) -> str:
    """The browser in a User-Agent (RFC 9110 10.1.5), such as "Firefox 144, Windows"; "" if it names none."""
    agent = agent[:400]
    versions = ((name, re.search(rf"{sign}/(\d{{1,4}})", agent)) for sign, name in _BROWSERS.items())
    browser = next((f"{name} {found[1]}" for name, found in versions if found), "")
    system = next((name for sign, name in _SYSTEMS.items() if sign in agent), "")
    return ", ".join(filter(None, (browser, system)))


@Action(
    USERS,
    "sessions",
    "List who is signed in, and from where.",
    "--user anna --config node.toml",
    columns=(
        *fields("session", "user"),
        *times("since: created_at", "last used: seen_at"),
        *fields("address", "browser"),
    ),
    none="Nobody is signed in.",
    role=UserRole.ADMIN,
)
def list_sessions(
    settings: Settings,
    user: Annotated[str, Input("Only those of this user.", "--user", "NAME")] = "",
    *,
    token: str = "",
) -> list[View]:
    """Rows for the open sessions, by user name; ``user``: only of this one, "" for all.

    ``own``: whether it is the session of ``token``. Raises NotFound.
    """
    with reading(settings) as session:
        chosen = (
            select(UserSession, UserAccount.name)
            .join(UserAccount)
            .where(UserSession.created_at > utc_now() - LONGEST_SESSION)
            .where(UserSession.seen_at > utc_now() - timedelta(minutes=settings.console.idle_minutes))
        )
        if user:
            chosen = chosen.where(UserAccount.name == _account(session, user).name)
        return [
            {
                "session": row.id,
                "user": name,
                **columns(row, "created_at", "seen_at", "address", "browser"),
                "own": row.token_sha256 == _token_sha256(token),
            }
            for row, name in session.execute(chosen.order_by(UserAccount.name, UserSession.seen_at.desc()))
        ]


@Action(
    USERS,
    "end-session",
    "End one session: its browser must sign in again.",
    "3 --config node.toml",
    says="Session {number} is ended.",
)
def end_session(
    settings: Settings,
    number: Annotated[int, Input("Its number, as `users sessions` shows it.", metavar="SESSION", least=0)],
    by: Person = COMMAND_LINE,
    of: User | None = None,
) -> None:
    """End one session; ``number``: of the session.

    ``of``: the user who ends it, None for the command line; only an admin may end sessions of others. Raises
    NotFound.
    """
    with writing(settings) as session:
        row = session.get(UserSession, number)
        user = session.get_one(UserAccount, row.user_id) if row else None
        may = of is None or of.role is UserRole.ADMIN or (user is not None and user.name == of.name)
        if row is None or user is None or not may:
            raise NotFound(f"no session has the number {number}: dicom-node users sessions shows them")
        session.delete(row)
        audit.note(session, by, AuditAction.USER_CHANGED, user=user.name, signed_out=True, ended=number)


def user_of_session(
    database: Database, token: str, idle_minutes: float, *, counts: bool = True
) -> User | None:
    """The user who is signed in with this token; None if there is no such session, or it was not used for too
    long.

    ``idle_minutes``: how long a session may be unused. ``counts``: whether a person made the request; a page
    that updates by itself does not keep a session alive.
    """
    now = utc_now()
    with database.read() as session:
        row = _with_user(session, UserSession, token)
        if row is None:
            return None
        signed_in, user = row
        found = User(user.name, user.role, tuple(user.senders))
        idle, age = now - signed_in.seen_at, now - signed_in.created_at
    if idle > timedelta(minutes=idle_minutes) or age > LONGEST_SESSION:
        return None
    if counts and idle.total_seconds() > min(_SEEN_SECONDS, idle_minutes * 6):
        with database.write() as session:
            session.execute(
                update(UserSession)
                .where(UserSession.token_sha256 == _token_sha256(token))
                .values(seen_at=now)
            )
    return found


def _with_user(session: Session, kind: type[UserSession] | type[ApiToken], token: str) -> Any:
    """Find the session or API token (``kind``) with this token text; returns (its row, its user account),
    or None.
    """
    found = select(kind, UserAccount).join(UserAccount)
    return session.execute(found.where(kind.token_sha256 == _token_sha256(token))).one_or_none()


def sign_out(database: Database, token: str, by: Person) -> None:
    """End the session with this token."""
    with database.write() as session:
        session.execute(delete(UserSession).where(UserSession.token_sha256 == _token_sha256(token)))
        audit.note(session, by, AuditAction.SIGNED_OUT)


def search_of(database: Database, token: str) -> dict[str, str]:
    """The last search by patient or accession number in the session with this token; {} for none.

    It is stored in the session because a patient's name or ID must not appear in an address.
    """
    with database.read() as session:
        row = session.scalar(select(UserSession).where(UserSession.token_sha256 == _token_sha256(token)))
        return dict(row.search) if row else {}


def keep_search(database: Database, token: str, about: Mapping[str, str], by: Person) -> None:
    """Store the search terms ``about`` in the session with this token, so that the list can be shown without
    them in its address.

    The audit records that a patient was searched for, not which.
    """
    with database.write() as session:
        if row := session.scalar(select(UserSession).where(UserSession.token_sha256 == _token_sha256(token))):
            row.search = dict(about)
        if about:
            audit.note(session, by, AuditAction.STUDY_SEARCHED, searched_by=sorted(about))


@Action(
    TOKENS,
    "add",
    "Make a token for a program and print it, once: the node keeps only its hash.",
    'anna --for "the dashboard" --config node.toml',
    says="{result}",
    role=UserRole.ADMIN,
)
def add_token(
    settings: Settings,
    user: Annotated[str, Input("The token gets the rights of this user.", metavar="USER")],
    purpose: Annotated[str, Input("Purpose of the token.", "--for", "TEXT")],
    days: Annotated[int, Input("How long it is good for.", "--days", default=365)],
) -> str:
    """Make an API token for a user, valid for this many days; returns it, and only its hash is stored.

    ``purpose``: its use in words. Raises NotFound, FaultyInput, and NotAllowedNow for an account that the
    hospital's identity provider manages.
    """
    words = " ".join(purpose.split())
    if not 1 <= len(words) <= 64 or not words.isprintable():
        raise FaultyInput("describe the use of the token in 1 to 64 characters")
    if not 1 <= days <= LONGEST_DAYS:
        raise FaultyInput(f"a token is good for 1 to {LONGEST_DAYS} days")
    token, now = _PREFIX + new_token(), utc_now()
    with writing(settings) as session:
        owner = _account(session, user)
        _refuse_of_provider(owner, "token")
        row = ApiToken(
            token_sha256=_token_sha256(token),
            user_id=owner.id,
            purpose=words,
            created_at=now,
            expires_at=now + timedelta(days=days),
        )
        session.add(row)
        session.flush()
        audit.note(session, COMMAND_LINE, AuditAction.TOKEN_ADDED, user=owner.name, token=row.id)
    return token


@Action(
    TOKENS,
    "list",
    "List the tokens.",
    columns=(
        *fields("token", "user", "role", "purpose"),
        *times("since: created_at", "until: expires_at"),
        Column("used", lambda row: Time(row["used_at"] or "") or "never"),
    ),
    none="No tokens.",
    role=UserRole.ADMIN,
)
def list_tokens(settings: Settings) -> list[View]:
    """Rows for all API tokens, without the tokens themselves."""
    with reading(settings) as session:
        return [
            {
                "token": row.id,
                "user": user.name,
                "role": user.role,
                **columns(row, "purpose", "created_at", "expires_at", "used_at"),
            }
            for row, user in session.execute(
                select(ApiToken, UserAccount).join(UserAccount).order_by(ApiToken.id)
            )
        ]


@Action(
    TOKENS,
    "remove",
    "Take a token back: from now on it opens nothing.",
    "3 --config node.toml",
    says="Token {number} is removed.",
    role=UserRole.ADMIN,
)
def remove_token(
    settings: Settings,
    number: Annotated[int, Input("Its number, as `tokens list` shows it.", metavar="TOKEN", least=0)],
) -> None:
    """Remove an API token, so that nobody can use it any more; ``number``: of the token. Raises NotFound."""
    with writing(settings) as session:
        missing = f"no token has the number {number}: dicom-node tokens list shows them"
        session.delete(existing(session, ApiToken, number, missing))
        audit.note(session, COMMAND_LINE, AuditAction.TOKEN_REMOVED, token=number)


def user_of_token(database: Database, token: str) -> User | None:
    """The user of this API token; None if there is no such token, it has expired, or the user is disabled."""
    now = utc_now()
    with database.read() as session:
        row = _with_user(session, ApiToken, token)
        if row is None:
            return None
        known, user = row
        if known.expires_at <= now or user.disabled:
            return None
        found, number = User(user.name, user.role, tuple(user.senders)), known.id
        is_noted = known.used_at is not None and now - known.used_at < timedelta(minutes=_USED_MINUTES)
    if not is_noted:
        with database.write() as session:
            session.execute(update(ApiToken).where(ApiToken.id == number).values(used_at=now))
    return found


def _refuse_own(user: UserAccount, by: Person) -> None:
    """Raise NotAllowedNow if ``user`` is the account of ``by``, so that the last admin cannot lock themselves
    out.
    """
    if user.name == by.name:
        raise NotAllowedNow("this is your own account: another admin changes or removes it")


def _refuse_of_provider(user: UserAccount, what: str) -> None:
    """Raise NotAllowedNow for an account that the hospital's identity provider manages; ``what``: the change
    that is refused, in words.
    """
    if user.issuer:
        raise NotAllowedNow(
            f"{user.name} is an account of {user.issuer}: it gets no {what} here"
            + (", add a user for the program" if what == "token" else ", change it there")
        )


def _account(session: Session, name: str) -> UserAccount:
    """The account of the user with this name. Raises NotFound."""
    if user := find(session, name):
        return user
    raise NotFound(f"there is no user {name}: dicom-node users list shows them")


def sign_out_everywhere(session: Session, user: UserAccount) -> None:
    """End all sessions of a user."""
    session.execute(delete(UserSession).where(UserSession.user_id == user.id))


def _checked_senders(senders: Sequence[str], role: UserRole) -> list[str]:
    """The calling AE titles (PS3.5 6.2) that a user may see, each once. Raises FaultyInput for invalid
    ones.
    """
    titles = sorted({title.strip() for title in senders if title.strip()})
    valid = [title for title in titles if len(title) <= 16 and re.fullmatch(AE_TITLE, title)]
    if len(titles) > _MOST_SENDERS or valid != titles:
        raise FaultyInput(f"senders are AE titles of 1 to 16 characters, {_MOST_SENDERS} at most")
    if titles and role is UserRole.ADMIN:
        raise FaultyInput("an admin sees the studies of all senders: choose another role, or no senders")
    return titles


def _refuse_unknown_senders(settings: Settings, senders: Sequence[str]) -> None:
    """Raise FaultyInput for an AE title that no peer bears and under which nothing was received: whoever sees
    its studies sees none.
    """
    titles = {title.strip() for title in senders if title.strip()}
    known = {peer.ae_title for peer in settings.peers if "send" in peer.may} | {CONSOLE_AE_TITLE}
    if not titles <= known:
        with reading(settings) as session:
            received = select(Instance.calling_ae).where(Instance.calling_ae.in_(titles)).distinct()
            known.update(session.scalars(received))
    for title in sorted(titles - known):
        raise FaultyInput(f"no machine sends as {title!r}; {did_you_mean(title, sorted(known))}")


def refuse_too_many(session: Session, address: str, named: ColumnElement[bool] | None = None) -> None:
    """Raise SignInRefused after too many refused attempts from an address, or for one account.

    ``named``: the SQL condition for audit rows of that account; None: only the address counts. An IPv6
    address counts with its /64, in which a machine may take any. For a user who signed in from there in the
    last FAMILIAR_DAYS only the own attempts from there count: neither others behind the same address nor
    strangers elsewhere lock the user out.
    """
    now = utc_now()
    refused = (AuditRow.action == AuditAction.SIGN_IN_REFUSED) & (
        AuditRow.at >= now - timedelta(minutes=LIMIT_MINUTES)
    )
    here = _network(address)
    of_address = _by_network(session, refused)[here]
    if named is None:
        too_many = of_address >= REFUSALS_OF_AN_ADDRESS
    else:
        signed_in = (AuditRow.action == AuditAction.SIGNED_IN) & (
            AuditRow.at >= now - timedelta(days=FAMILIAR_DAYS)
        )
        is_familiar = here in _by_network(session, named & signed_in)
        of_name = _by_network(session, named & refused)
        suspect = of_address >= SUSPECT_REFUSALS and not is_familiar
        too_many = of_name[here] >= (1 if suspect else REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS)
        if not is_familiar:
            too_many |= of_address >= REFUSALS_OF_AN_ADDRESS or of_name.total() >= REFUSALS_OF_A_NAME
    if too_many:
        raise SignInRefused(f"Too many attempts: try again in {LIMIT_MINUTES} minutes.")


def _by_network(session: Session, which: ColumnElement[bool]) -> Counter[str]:
    """The number of audit rows that meet the condition ``which``, by the network of their addresses."""
    found: Counter[str] = Counter()
    for address, number in session.execute(
        select(AuditRow.address, func.count()).where(which).group_by(AuditRow.address)
    ):
        found[_network(address)] += number
    return found


def _network(address: str) -> str:
    """The network of an address, under which attempts are counted; a text that is no IP address as it is."""
    from dicom_node.receive.policy import network

    try:
        return network(address)
    except ValueError:  # no IP address: the command line, a local socket
        return address


def _is_password(hashed: str, password: str) -> bool:
    """Whether ``hashed`` is the hash of this password."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return hasher().verify(hashed, password[:LONGEST])
    except (InvalidHashError, VerificationError):
        return False


@cache
def _hash_for_unknown_user() -> str:
    """A hash to compare with if the user is unknown, so that this takes as long as for a known user."""
    return hasher().hash(secrets.token_hex(16))


def _token_sha256(token: str) -> str:
    """The SHA-256 under which a token is stored, in hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()
