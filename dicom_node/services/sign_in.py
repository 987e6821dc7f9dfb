"""Sign-in with name and password: as a user of this node, or else of the hospital's directory (LDAP)."""

from __future__ import annotations

from urllib.parse import urlsplit

from dicom_node.config.ldap import LdapSettings
from dicom_node.config.settings import Settings
from dicom_node.scu import ldap
from dicom_node.scu.ldap import DirectoryEntry, DirectoryFault
from dicom_node.services import hospital_accounts, users
from dicom_node.services.hospital_accounts import HospitalPerson, unusable
from dicom_node.store.database import Database

_ORIGIN = "ldap"  # in the audit


def sign_in(
    database: Database,
    settings: Settings,
    name: str,
    password: str,
    address: str,
    former: str = "",
    agent: str = "",
) -> str:
    """Start a session; returns its token. The session ``former`` ends. ``agent``: the browser's User-Agent.

    If this node has a user with the name, also a disabled one, the directory is not asked. Raises
    SignInRefused, in the same words for an unknown name and a wrong password, ProviderUnusable and
    TooManyAtOnce.
    """
    directory = settings.console.ldap
    if directory is None or _is_of_this_node(database, name):
        return users.sign_in(database, name, password, address, former, agent)
    person = _person(database, directory, name, password, address)
    return hospital_accounts.enter(database, directory, person, address, agent, former)


def _is_of_this_node(database: Database, name: str) -> bool:
    with database.read() as session:
        user = users.find(session, name)
        return user is not None and not user.issuer


def _person(
    database: Database, settings: LdapSettings, name: str, password: str, address: str
) -> HospitalPerson:
    """Whom the directory has under this name and password. Raises as :func:`sign_in` does."""
    with database.read() as session:
        users.refuse_too_many(session, address)
    if not (name and 0 < len(password) <= users.LONGEST):  # no directory is asked
        users.refuse(database, _attempt(database, settings, None, name, address), origin=_ORIGIN)
    with hospital_accounts.place():
        try:
            with ldap.asked(settings) as directory:
                found = directory.find(name)
                attempt = _attempt(database, settings, found, name, address)
                fits = found is not None and directory.is_password(found.dn, password)
        except DirectoryFault as error:
            raise unusable(str(error)) from None
    if found is None or not fits:
        users.refuse(database, attempt, origin=_ORIGIN)
    return _known(settings, found)


def _attempt(
    database: Database, settings: LdapSettings, found: DirectoryEntry | None, name: str, address: str
) -> users.SignInAttempt:
    """Counted by the person: a directory takes a name in several spellings."""
    with database.read() as session:
        if found is None:
            return users.attempt_of(session, None, name, address)
        user = hospital_accounts.account_of(session, settings.url, found.subject)
        return users.attempt_of(session, user, found.subject, address)


def _known(settings: LdapSettings, found: DirectoryEntry) -> HospitalPerson:
    listed = {*settings.roles, *settings.senders}
    groups = frozenset(group for group in listed if ldap.group_name(group) in found.groups)
    name = hospital_accounts.name_at(found.name or found.subject, urlsplit(settings.url).hostname or "")
    return HospitalPerson(_ORIGIN, settings.url, found.subject, name, groups)
