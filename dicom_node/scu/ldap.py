"""A directory by LDAP (RFC 4511): the person with a name, the person's groups, and a test of the password."""

from __future__ import annotations

import re
import socket
import ssl
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dicom_node.config.ldap import LdapSettings
from dicom_node.scu.connections import Connections, tls_context
from dicom_node.scu.http import FAULTY_ANSWER

if TYPE_CHECKING:
    from ldap3 import Connection, Tls

_LARGEST = 2**20  # bytes that a directory may send in one sign-in: some 10,000 groups
_LONGEST_GROUP = 1024  # characters of a DN that is looked at
_NAMES = ("sAMAccountName", "uid")  # what an admin of the directory calls a person
_REFUSED: Final = frozenset({19, 48, 49, 50, 53})
"""Result codes of a bind that mean the person (RFC 4511 A.1): a wrong password, a locked account."""
GroupName = str | tuple[tuple[str, str, str], ...]
"""A group by its CN, or by its DN in parts: no text can be both."""


class DirectoryFault(OSError):
    """The directory does not answer, or answers wrongly. The error text contains no data of a person."""


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """A person of the directory."""

    dn: str
    subject: str
    """entryUUID (RFC 4530) or objectGUID of Active Directory: a DN is given again, this is not."""
    name: str
    """sAMAccountName or uid, "" without."""
    groups: frozenset[GroupName]


class Directory:
    """The connection to a directory, from :func:`asked`. Every method raises DirectoryFault."""

    def __init__(self, settings: LdapSettings, connection: Connection, connections: Connections) -> None:
        self._settings, self._connection, self._connections = settings, connection, connections

    def begin(self) -> None:
        """Connect with TLS, and bind as the account that searches."""
        with self._asking():
            self._connection.open(read_server_info=False)
            if not isinstance(self._connection.socket, _LimitedSocket):
                self._connections.opened(self._connection.socket)
                self._connection.socket = _LimitedSocket(self._connection.socket)
            if self._settings.start_tls:
                self._connection.start_tls(read_server_info=False)
            self._connection.socket.settimeout(self._settings.seconds)
        password = self._settings.bind_password.get_secret_value()
        if not self.is_password(self._settings.bind_dn, password):
            raise DirectoryFault("it does not take bind_dn with its password")

    def find(self, name: str) -> DirectoryEntry | None:
        """The entry of the person with this name, None without one.

        Raises DirectoryFault for two people with one name.
        """
        from ldap3.utils.conv import escape_filter_chars

        settings = self._settings
        with self._asking():
            self._connection.search(
                settings.user_base,
                settings.user_filter.replace("{name}", escape_filter_chars(name)),
                dereference_aliases="NEVER",
                attributes=[settings.groups_attribute, "entryUUID", "objectGUID", *_NAMES],
                size_limit=2,
            )
            result = self._result("searchResDone")
            found = [one for one in self._connection.response or () if one["type"] == "searchResEntry"]
            if len(found) > 1:
                raise DirectoryFault("a name of two people: make user_filter or user_base tell them apart")
            if result["result"] != 0:
                raise DirectoryFault(f"it does not search user_base: {result['description']}")
            return _entry(found[0], settings.groups_attribute) if found else None

    def is_password(self, dn: str, password: str) -> bool:
        """Whether the directory accepts this password for the person ``dn``, tested by a bind.

        An empty password is never sent: that would be an unauthenticated bind, which a directory may accept
        (RFC 4513 5.1.2).
        """
        if not (dn and password):
            return False
        with self._asking():
            self._connection.rebind(dn, password.encode(), read_server_info=False)  # bytes: as they are
            result = self._result("bindResponse")
            if result["result"] not in (0, *_REFUSED):
                raise DirectoryFault(f"it takes no bind: {result['description']}")
            return bool(result["result"] == 0)

    def close(self) -> None:
        """End the connection."""
        with suppress(DirectoryFault), self._asking():
            self._connection.unbind()
        if self._connection.socket is not None:  # of an attempt to connect that failed
            self._connection.socket.close()

    def _result(self, kind: str) -> Mapping[str, Any]:
        """That of the last question, if it is of this kind: ldap3 takes any other for an answer, too."""
        result: Mapping[str, Any] = self._connection.result
        if result["type"] != kind:
            raise DirectoryFault("it answers another question")
        return result

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from ldap3.core.exceptions import LDAPException

        try:
            yield
        except DirectoryFault:
            raise
        except (LDAPException, OSError, *FAULTY_ANSWER) as error:  # whose texts may quote what was sent
            cause = _cause(error)
            late = self._connections.timed_out or issubclass(cause, TimeoutError)
            raise DirectoryFault("no answer in time" if late else cause.__name__) from None


@contextmanager
def asked(settings: LdapSettings) -> Iterator[Directory]:
    """The directory, bound as the account that searches, with a time limit. Raises DirectoryFault."""
    connections = Connections(settings.seconds)
    with connections.within(settings.seconds):
        try:
            directory = Directory(settings, _connection(settings, connections), connections)
        except OSError:
            raise DirectoryFault("the file of authorities cannot be read") from None
        try:
            directory.begin()
            yield directory
        finally:
            directory.close()


def _cause(error: Exception) -> type:
    """The system's error: ldap3 merges it with its own error, and lists the errors of several addresses."""
    listed = error.args[1] if len(error.args) > 1 else None
    if isinstance(listed, list) and listed:
        error = listed[-1][0]
    kind = type(error)
    return kind.__bases__[-1] if kind.__name__.startswith("LDAP") and len(kind.__bases__) > 1 else kind


def group_name(text: str) -> GroupName:
    """The form of a group's name for comparison, without case: a DN as its parts, other text as a whole."""
    from ldap3.core.exceptions import LDAPInvalidDnError
    from ldap3.utils.dn import parse_dn

    try:
        parts = parse_dn(text[:_LONGEST_GROUP], strip=True) if "=" in text else []
    except (LDAPInvalidDnError, *FAULTY_ANSWER):
        parts = []
    if not parts:
        return text.strip().casefold()
    return tuple((kind.casefold(), _plain(value).casefold(), mark) for kind, value, mark in parts)


def _groups(values: Sequence[str]) -> Iterator[GroupName]:
    """Each group by its DN and by its CN, or by its name where the directory says no DN."""
    for value in values:
        if len(value) > _LONGEST_GROUP:
            continue
        name = group_name(value)
        yield name
        if isinstance(name, tuple) and name[0][0] == "cn" and name[0][2] != "+":
            yield name[0][1]


def _plain(value: str) -> str:
    """A value of a DN without its escapes (RFC 4514 2.4)."""

    def byte(found: re.Match[bytes]) -> bytes:
        return bytes.fromhex(found[1].decode()) if len(found[1]) == 2 else found[1]

    plain = re.sub(rb"\\([0-9A-Fa-f]{2}|.)", byte, value.encode(errors="replace"), flags=re.DOTALL)
    return plain.decode(errors="replace")


def _entry(found: Mapping[str, Any], groups_attribute: str) -> DirectoryEntry:
    values = {
        name.partition(";")[0].casefold(): [bytes(one) for one in given or ()]
        for name, given in found["raw_attributes"].items()
    }
    texts = {
        name: [one.decode(errors="replace") for one in values.get(name.casefold(), ())]
        for name in (groups_attribute, *_NAMES)
    }
    if guid := values.get("objectguid"):
        subject = uuid.UUID(bytes_le=guid[0])
    elif given := values.get("entryuuid"):
        subject = uuid.UUID(given[0].decode("ascii"))
    else:
        raise DirectoryFault("bind_dn may read neither entryUUID nor objectGUID of a person")
    name = next((texts[one][0] for one in _NAMES if texts[one]), "")
    return DirectoryEntry(found["dn"], str(subject), name, frozenset(_groups(texts[groups_attribute])))


def _connection(settings: LdapSettings, connections: Connections) -> Connection:
    """Not open yet. Raises OSError for a file of authorities that cannot be read."""
    from ldap3 import NONE, Connection, Server

    parts = urlsplit(settings.url)
    is_ldaps = parts.scheme == "ldaps"
    is_encrypted = is_ldaps or settings.start_tls
    host = parts.hostname or ""

    class CutServer(Server):  # type: ignore[misc]  # without types
        """No further address is tried once the time is over."""

        def candidate_addresses(self) -> Iterator[Any]:
            return (one for one in super().candidate_addresses() if not connections.timed_out)

    server = CutServer(
        host,
        parts.port or (636 if is_ldaps else 389),
        use_ssl=is_ldaps,
        get_info=NONE,
        tls=_tls(tls_context(settings.authorities, connections), host) if is_encrypted else None,
        connect_timeout=settings.seconds / 2,  # of two addresses the second is tried, too
    )
    return Connection(server, auto_referrals=False, read_only=True)


def _tls(context: ssl.SSLContext, host: str) -> Tls:
    from ldap3 import Tls

    class CheckedTls(Tls):  # type: ignore[misc]  # without types
        """Name and certificate are checked by Python's own context."""

        def wrap_socket(self, connection: Connection, do_handshake: bool = False) -> None:  # noqa: ARG002
            plain = connection.socket
            if isinstance(plain, _LimitedSocket):
                plain = plain.inner
            connection.socket = _LimitedSocket(context.wrap_socket(plain, server_hostname=host))

    return CheckedTls(validate=ssl.CERT_REQUIRED)


class _LimitedSocket:
    """A socket that reads so many bytes: ldap3 gathers what a server sends, however long an answer is."""

    def __init__(self, inner: socket.socket) -> None:
        self.inner = inner
        self._left = _LARGEST

    def recv(self, size: int) -> bytes:
        """Raises OSError beyond the limit."""
        data = self.inner.recv(size)
        self._left -= len(data)
        if self._left < 0:
            raise OSError("too long an answer")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
