"""Signing in by a directory that is hostile, broken or slow: a server of our own answers for it, by hand."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicom_node import preflight
from dicom_node.config.ldap import LdapSettings
from dicom_node.scu import ldap
from dicom_node.scu.ldap import DirectoryFault, group_name
from dicom_node.services import users
from tests.console_lab import PASSWORD as LOCAL_PASSWORD
from tests.console_lab import ConsoleLab

PASSWORD = "a password of the house"
DN = "cn=anna,dc=example,dc=org"
ENTRY_UUID = "45827798-7d64-1041-8613-756b715752ad"
GIVEN: dict[str, object] = {
    "url": "ldaps://example.org", "bind_dn": "cn=node,dc=example,dc=org", "bind_password": "secret",
    "user_base": "dc=example,dc=org", "roles": {"readers": "reader"},
}  # fmt: skip


def ber(tag: int, *parts: bytes) -> bytes:
    """An element of BER (X.690 8.1) with a definite length."""
    body = b"".join(parts)
    size = len(body)
    return bytes((tag,)) + (bytes((size,)) if size < 128 else b"\x84" + size.to_bytes(4, "big")) + body


def result(tag: int, code: int = 0) -> bytes:
    """An LDAPResult (RFC 4511 4.1.9): 0x61 of a bind, 0x65 of a search, 0x78 of an extended operation."""
    return ber(tag, ber(0x0A, bytes((code,))), ber(4), ber(4, b"words of the directory"))


def entry(dn: str = DN, **attributes: bytes | list[bytes]) -> bytes:
    """A SearchResultEntry."""
    rows = []
    for name, value in attributes.items():
        values = value if isinstance(value, list) else [value]
        rows.append(ber(0x30, ber(4, name.encode()), ber(0x31, *(ber(4, one) for one in values))))
    return ber(0x64, ber(4, dn.encode()), ber(0x30, *rows))


def person(dn: str = DN, **further: bytes | list[bytes]) -> bytes:
    attributes: dict[str, bytes | list[bytes]] = {
        "entryUUID": ENTRY_UUID.encode(), "uid": b"anna", "memberOf": b"cn=readers,dc=example,dc=org",
    }  # fmt: skip
    return entry(dn, **attributes | further)


Answer = list[bytes] | Callable[[socket.socket], None]
"""Operations that come back for a request, or what is done on its connection."""


@dataclass
class Fake:
    """A directory without TLS on the loopback. Good until a test says otherwise."""

    port: int = 0
    bind: Answer = field(default_factory=lambda: [result(0x61)])
    search: Answer = field(default_factory=lambda: [person(), result(0x65)])
    person_bind: Answer = field(default_factory=lambda: [result(0x61)])
    seen: list[bytes] = field(default_factory=list)
    spoiled: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    """What becomes of the answers of a step on their way."""

    def settings(self, **others: object) -> LdapSettings:
        given = GIVEN | {"url": f"ldap://127.0.0.1:{self.port}", "seconds": 2}
        return LdapSettings.model_validate(given | {"user_filter": "(uid={name})"} | others)

    def serve(self, connection: socket.socket) -> None:
        """Each request in turn: a bind of the node, a search, a bind of the person."""
        with connection, contextlib.suppress(OSError):
            for step in ("bind", "search", "person_bind"):
                answer: Answer = getattr(self, step)
                request = connection.recv(65_536)
                if not request:
                    return
                self.seen.append(request)
                number = request[2:] if request[1] < 128 else request[2 + request[1] - 128 :]
                number = number[: 2 + number[1]]
                if callable(answer):
                    answer(connection)
                else:
                    data = b"".join(ber(0x30, number, one) for one in answer)
                    connection.sendall(self.spoiled.get(step, bytes)(data))


@pytest.fixture
def directory() -> Iterator[Fake]:
    fake = Fake()
    listening = socket.create_server(("127.0.0.1", 0))
    fake.port = listening.getsockname()[1]

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listening.accept()[0]
                threading.Thread(target=fake.serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield fake
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def sign_in(console: ConsoleLab, directory: Fake, **others: object) -> int:
    console.change("console", ldap=directory.settings(**others))
    return console.browser().sign_in("anna", PASSWORD)


def accounts(console: ConsoleLab) -> list[str]:
    return [row["name"] for row in users.list_users(console.settings) if row["issuer"]]


def test_a_good_directory_lets_a_person_in(console: ConsoleLab, directory: Fake) -> None:
    assert sign_in(console, directory) == 303
    assert accounts(console) == ["anna@127.0.0.1"]


def test_a_person_of_active_directory_is_known_by_object_guid(console: ConsoleLab, directory: Fake) -> None:
    guid = uuid.UUID(ENTRY_UUID)
    there = {"objectGUID": guid.bytes_le, "sAMAccountName": b"AnnaS", "memberOf": b"CN=Readers,DC=example"}
    directory.search = [entry(**there), ber(0x73, ber(4, b"ldap://other/")), result(0x65)]
    with ldap.asked(directory.settings()) as one:
        found = one.find("anna")
    assert found is not None and (found.subject, found.name) == (ENTRY_UUID, "AnnaS")
    directory.seen.clear()
    assert sign_in(console, directory) == 303 and accounts(console) == ["AnnaS@127.0.0.1"]


def test_more_groups_than_active_directory_gives_at_once_are_all_asked_for(directory: Fake) -> None:
    some = [b"CN=Others %d,DC=example,DC=org" % number for number in range(1500)]
    directory.search = [entry(entryUUID=ENTRY_UUID.encode(), **{"memberOf;range=0-1499": some}), result(0x65)]
    rest = {"memberOf;range=1500-*": [b"CN=Readers,DC=example,DC=org"]}
    directory.person_bind = [entry(entryUUID=ENTRY_UUID.encode(), **rest), result(0x65)]
    with ldap.asked(directory.settings()) as one:
        found = one.find("anna")
    assert found is not None and "readers" in found.groups and "others 1499" in found.groups


@pytest.mark.parametrize("code", [19, 48, 49, 50, 53])
def test_a_bind_that_means_the_person_is_a_wrong_password(
    console: ConsoleLab, directory: Fake, code: int
) -> None:
    directory.person_bind = [result(0x61, code)]
    assert sign_in(console, directory) == 403
    assert accounts(console) == [] and len(console.audited("sign_in_refused")) == 1


@pytest.mark.parametrize("code", [1, 2, 8, 10, 13, 51, 52, 80, 200])
def test_a_bind_that_means_the_directory_is_no_wrong_password(
    console: ConsoleLab, directory: Fake, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    directory.person_bind = [result(0x61, code)]
    assert sign_in(console, directory) == 503
    assert accounts(console) == [] and console.audited("sign_in_refused") == []
    assert "words of the directory" not in caplog.text


def silent(connection: socket.socket) -> None:
    connection.settimeout(20)
    connection.recv(1)


def ended(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def slow(connection: socket.socket) -> None:
    for _ in range(200):
        connection.sendall(b"\x30\x84\x00\x00\xff\xff" if _ == 0 else b"\x00")
        time.sleep(0.05)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"\x30\x84\x7f\xff\xff\xff")
    while True:
        connection.sendall(b"\x00" * 65_536)


def many(connection: socket.socket) -> None:
    while True:
        connection.sendall(ber(0x30, b"\x02\x01\x01", person()) * 100)


def sends(data: bytes) -> Callable[[socket.socket], None]:
    def send(connection: socket.socket) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    return send


BAD: dict[str, Answer] = {
    "silent": silent,
    "ended": ended,
    "slow": slow,
    "endless": endless,
    "many": many,
    "http": sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "zeros": sends(b"\x00" * 100),
    "cut": sends(b"\x30\x0c\x02\x01"),
    "empty": sends(b"\x30\x00"),
    "deep": sends(b"\x30\x84\x00\x00\x75\x30" + b"\x30\x80" * 15_000),
    "long length": sends(b"\x30\xff" + b"\xff" * 200),
    "another number": sends(ber(0x30, b"\x02\x04\x7f\xff\xff\xff", result(0x61))),
    "disconnected": sends(ber(0x30, b"\x02\x01\x00", ber(0x78, ber(0x0A, b"\x34"), ber(4), ber(4),
                                                         ber(0x8A, b"1.3.6.1.4.1.1466.20036")))),
    "an answer to another question": [result(0x78)],
    "no operation": [b""],
}  # fmt: skip


@pytest.mark.parametrize("step", ["bind", "search", "person_bind"])
@pytest.mark.parametrize("answer", BAD.values(), ids=BAD.keys())
def test_a_directory_that_answers_badly_lets_nobody_in_and_holds_up_nobody(
    console: ConsoleLab, directory: Fake, step: str, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    setattr(directory, step, answer)
    began = time.monotonic()
    with caplog.at_level(logging.DEBUG):
        assert sign_in(console, directory, seconds=1) == 503
    assert time.monotonic() - began < 3
    assert accounts(console) == [] and console.audited("sign_in_refused") == []
    assert PASSWORD not in caplog.text and "anna" not in caplog.text
    assert console.browser().sign_in("admin", LOCAL_PASSWORD) == 303


@pytest.mark.parametrize("step", ["bind", "search", "person_bind"])
def test_answers_with_changed_bytes_are_read_or_refused(directory: Fake, step: str, rounds: int) -> None:
    chance = random.Random(4511)

    def spoil(data: bytes) -> bytes:
        spoiled = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        return bytes(spoiled)

    directory.spoiled = {step: spoil}
    for _ in range(rounds):
        with contextlib.suppress(DirectoryFault), ldap.asked(directory.settings(seconds=0.2)) as one:
            found = one.find("anna")
            assert found is None or one.is_password(found.dn, PASSWORD) in (True, False)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([], 403),
        ([person("")], 403),  # a bind as nobody
        ([entry(uid=b"anna", memberOf=b"cn=readers,dc=example")], 503),  # nothing that stays the same
        ([person(entryUUID=b"no uuid")], 503),
        ([person(entryUUID=b"")], 503),
        ([person(), person("cn=other,dc=example,dc=org")], 503),
        ([person(memberOf=[])], 403),
        ([person(memberOf=b"\xff\xfe")], 403),
        ([person(memberOf=b"cn=readers," + b"\\" * 2000)], 403),
        ([person(memberOf=[b"cn=%d" % number for number in range(5000)] + [b"readers"])], 303),
        ([person(memberOf=[b"x" * 2**21])], 503),
        ([person(uid=b"")], 303),
        ([person(uid="Jörg Müller".encode() + b"\xff" * 300)], 303),
    ],
)  # fmt: skip
def test_what_a_directory_says_of_a_person_is_bounded_and_checked(
    console: ConsoleLab, directory: Fake, found: list[bytes], status: int
) -> None:
    directory.search = [*found, result(0x65)]
    assert sign_in(console, directory) == status
    assert len(accounts(console)) == (status == 303)
    assert all(len(name) <= 64 and name.isprintable() and "@" in name for name in accounts(console))


def test_a_referral_is_not_followed(console: ConsoleLab, directory: Fake) -> None:
    other = Fake()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.2)
        there = f"ldap://127.0.0.1:{elsewhere.getsockname()[1]}/dc=example".encode()
        referral = ber(0x0A, b"\x0a"), ber(4), ber(4), ber(0xA3, ber(4, there))
        for step, tag in (("bind", 0x61), ("search", 0x65), ("person_bind", 0x61)):
            directory.bind, directory.search, directory.person_bind = other.bind, other.search, other.bind
            setattr(directory, step, [ber(tag, *referral)])
            assert sign_in(console, directory) == 503
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_a_server_that_does_not_begin_tls_gets_no_password(console: ConsoleLab, directory: Fake) -> None:
    for answer in ([result(0x78, 53)], [result(0x78)], sends(ber(0x30, b"\x02\x01\x01", result(0x78)) * 2)):
        directory.seen.clear()
        directory.bind = answer
        assert sign_in(console, directory, start_tls=True, seconds=1) == 503
        assert not any(b"secret" in one or PASSWORD.encode() in one for one in directory.seen)


def test_the_person_s_password_goes_over_as_it_was_typed_and_after_the_search(
    console: ConsoleLab, directory: Fake
) -> None:
    console.change("console", ldap=directory.settings())
    password = " \u00bd ªﬁ\u00ad "
    assert console.browser().sign_in("anna", password) == 303
    assert [password.encode() in one for one in directory.seen] == [False, False, True]


@pytest.mark.parametrize("password", ["", "x" * 257])
def test_no_directory_is_asked_for_a_password_that_cannot_be(
    console: ConsoleLab, directory: Fake, password: str
) -> None:
    console.change("console", ldap=directory.settings())
    assert console.browser().sign_in("anna", password) == 403
    assert directory.seen == [] and len(console.audited("sign_in_refused")) == 1
    with ldap.asked(directory.settings()) as one:
        assert not one.is_password(DN, "") and not one.is_password("", PASSWORD)


def test_many_at_once_wait_for_a_slow_directory_and_the_next_is_sent_away(
    console: ConsoleLab, directory: Fake
) -> None:
    directory.bind = silent
    console.change("console", ldap=directory.settings(seconds=3))
    waiting = [
        threading.Thread(target=console.browser().sign_in, args=(f"name{number}", PASSWORD))
        for number in range(8)
    ]
    for one in waiting:
        one.start()
    while len(directory.seen) < 8:
        time.sleep(0.02)
    browser = console.browser()
    assert browser.sign_in("anna", PASSWORD) == 503 and "Too many sign in at once" in browser.text
    assert console.browser().sign_in("admin", LOCAL_PASSWORD) == 303
    for one in waiting:
        one.join(20)


@pytest.mark.parametrize(
    ("key", "group", "same"),
    [
        ("CN=Readers, OU=X,dc=Y", "cn=readers,ou=x,DC=y", True),
        ("cn=a\\, b,dc=y", "cn=a\\2C b,dc=y", True),
        ("cn=Ärzte,dc=y", "CN=\\C3\\84rzte,dc=y", True),
        ("cn=readers,ou=x,dc=y", "cn=readers,ou=x\\,dc=y", False),
        ("cn=readers,dc=y", "cn=readers+ou=x,dc=y", False),
        ("cn=readers,dc=y", "cn=readers", False),
        ("readers", "Readers", True),
        ("a=b", "a = b", True),
        ("=", "==", False),
        ("cn=\\zz", "cn=\\zz", True),
    ],
)
def test_groups_are_the_same_by_their_parts(key: str, group: str, same: bool) -> None:
    assert (group_name(key) == group_name(group)) is same


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"url": "ldap://example.org"}, "unencrypted"),
        ({"url": "ldaps://example.org", "start_tls": True}, "start_tls is for ldap://"),
        ({"url": "https://example.org"}, "write it as"),
        ({"url": "ldaps://"}, "write it as"),
        ({"url": "ldaps://me:secret@example.org"}, "must end with the host"),
        ({"url": "ldaps://example.org/dc=example"}, "must end with the host"),
        ({"url": "ldaps://example.org?x"}, "must end with the host"),
        ({"url": "ldaps://example.org:0"}, "port"),
        ({"url": "ldaps://example.org:99999"}, "ort"),
        ({"bind_password": ""}, "bind_password is empty"),
        ({"user_filter": "(uid=anna)"}, "{name}"),
        ({"user_filter": "uid={name}"}, "{name}"),
        ({"groups_attribute": "a)(b"}, "groups_attribute"),
        ({"roles": {}}, "roles"),
        ({"senders": {"a": ["x" * 17]}}, "senders"),
    ],
)
def test_settings_that_cannot_be_are_mistakes(changed: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem.replace("{", "\\{")):
        LdapSettings.model_validate(GIVEN | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"url": "ldap://example.org", "start_tls": True},
        {"url": "ldap://127.0.0.1:389"},
        {"url": "ldap://[::1]"},
    ],
)
def test_settings_that_are_encrypted_or_of_this_machine_are_good(changed: dict[str, object]) -> None:
    assert "secret" not in repr(LdapSettings.model_validate(GIVEN | changed))


def ldap_config(folder: Path, further: str = "") -> Path:
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder}/var"\n[workers]\nprocesses = 0\n[console]\nenabled = true\n'
        '[console.ldap]\nurl = "ldaps://example.org"\nbind_dn = "CN=node"\nbind_password = "hunter2"\n'
        f'user_base = "DC=example"\nroles = {{ readers = "reader" }}\n{further}',
        encoding="utf-8",
    )
    return config


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False)])
def test_check_names_a_password_of_the_directory_that_all_may_read(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    config = ldap_config(tmp_path)
    config.chmod(mode)
    tried = [one for one in preflight.check([config]).tried if one.subject == "console.ldap"]
    assert [f"its password is in {config}" in one.text for one in tried] == [True] * warned
    assert "hunter2" not in str(tried)


def test_check_names_a_missing_library_and_a_missing_file_of_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.preflight.console.find_spec", lambda name: None)
    found = preflight.check([ldap_config(tmp_path, 'authorities = "nowhere.pem"')])
    problems = {problem.key: problem.remedy for problem in found.problems}
    assert problems["console.ldap"] == "needs ldap3: pip install 'dicom-ai-node[ldap]'"
    assert problems["console.ldap.authorities"] == "is no file"
