"""Signing in with name and password of a directory: OpenLDAP's slapd, by ldaps, StartTLS and plain."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.ldap import LdapSettings
from dicom_node.errors import NotAllowedNow
from dicom_node.model.roles import Role
from dicom_node.preflight.console import probe_directory
from dicom_node.preflight.found import Tried
from dicom_node.services import users
from tests.certificates_lab import Authority
from tests.console_lab import PASSWORD as LOCAL_PASSWORD
from tests.console_lab import ConsoleLab, add_users, quick_hasher
from tests.inbox_lab import Inbox
from tests.ldap_lab import GROUPS, PASSWORD, PEOPLE, SEARCHER_PASSWORD, Slapd, slapd

pytestmark = [pytest.mark.debian("slapd", "ldap-utils"), pytest.mark.timeout(120)]
WRONG = "Name or password is wrong."
ANNA = f"cn=anna,{PEOPLE}"


@dataclass(frozen=True, slots=True)
class Ward:
    """A console, and the directory by which it signs people in."""

    lab: ConsoleLab
    directory: Slapd

    def change(self, **others: Any) -> LdapSettings:
        """Go on with other settings of the directory."""
        settings = self.directory.settings(**others)
        self.lab.change("console", ldap=settings)
        return settings

    def sign_in(self, name: str, password: str = PASSWORD) -> tuple[int, str]:
        """The status, 303 when it worked, and the page."""
        browser = self.lab.browser()
        return browser.sign_in(name, password), browser.text

    def accounts(self) -> dict[str, str]:
        """Role by name, of the directory's accounts."""
        return {row["name"]: row["role"] for row in users.list_users(self.lab.settings) if row["issuer"]}

    def probed(self) -> list[Tried]:
        """What check says of the directory."""
        self.lab.change("console", enabled=True)
        return [one for one in probe_directory(self.lab.settings, Role.ALL) if isinstance(one, Tried)]

    def senders(self, name: str) -> list[str]:
        return next(row["senders"] for row in users.list_users(self.lab.settings) if row["name"] == name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    with slapd(tmp_path_factory.mktemp("slapd")) as one:
        yield one


@pytest.fixture
def ward(tmp_path: Path, directory: Slapd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    monkeypatch.setattr(users, "hasher", quick_hasher)
    inbox = Inbox(tmp_path / "var")
    add_users(inbox.settings)
    one = Ward(ConsoleLab(inbox.settings, inbox.database), directory)
    one.change()
    yield one
    directory.group("Radiology", [ANNA])
    directory.group("PACS-Admins", [])
    inbox.close()


@pytest.mark.parametrize("way", ["ldaps", "StartTLS", "plain"])
def test_a_person_signs_in_and_gets_an_account_with_the_role_of_the_group(ward: Ward, way: str) -> None:
    plain = {"url": ward.directory.plain, "start_tls": way == "StartTLS"}
    settings = ward.change(**({} if way == "ldaps" else plain))
    browser = ward.lab.browser()
    browser.get("/sign-in")
    assert "Name and password of the hospital count here, too." in browser.text
    before = browser.client.cookies[ward.lab.cookie]
    assert browser.sign_in("anna", PASSWORD) == 303, browser.text
    assert browser.client.cookies[ward.lab.cookie] != before
    assert browser.get("/") == 200 and "anna@127.0.0.1" in browser.text
    assert ward.accounts() == {"anna@127.0.0.1": "reader"}
    [row] = [row for row in users.list_users(ward.lab.settings) if row["issuer"]]
    assert row["issuer"] == settings.url
    assert ward.lab.audited("signed_in")[0] == {"origin": "ldap"}
    assert ward.sign_in("ANNA ")[0] == 303 and len(ward.accounts()) == 1


def test_a_wrong_password_and_an_unknown_name_look_alike_and_nothing_is_logged(
    ward: Ward, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert ward.sign_in("anna")[0] == 303
        pages = [ward.sign_in("anna", "not the password"), ward.sign_in("nobody", "not the password")]
    assert [(status, WRONG in text) for status, text in pages] == [(403, True), (403, True)]
    logged = " ".join(record.getMessage() for record in caplog.records)
    noted = str(ward.lab.audited("sign_in_refused"))
    for secret in (PASSWORD, "not the password", SEARCHER_PASSWORD, "nobody"):
        assert secret not in logged and secret not in noted
    assert all(row["origin"] == "ldap" for row in ward.lab.audited("sign_in_refused"))


@pytest.mark.parametrize("name", ["anna", ANNA, "nobody", ""])
def test_an_empty_password_lets_nobody_in_where_the_directory_takes_one(ward: Ward, name: str) -> None:
    unauthenticated = ["ldapwhoami", "-x", "-H", ward.directory.plain, "-D", ANNA, "-w", ""]
    taken = subprocess.run(unauthenticated, check=True, capture_output=True, text=True)
    assert "anonymous" in taken.stdout
    status, text = ward.sign_in(name, "")
    assert (status, ward.accounts()) == (403, {}) and WRONG in text
    assert len(ward.lab.audited("sign_in_refused")) == 1


@pytest.mark.parametrize(
    "name",
    ["*", "a*", "anna)(uid=*", "*)(|(uid=*", "anna\x00", "\\2a", "\\61nna", "anna))(&(uid=anna",
     "(uid=anna)", ANNA, "{name}", "ännä", "x" * 300, "anna\r\n"],
)  # fmt: skip
def test_a_name_is_text_in_the_filter(ward: Ward, name: str) -> None:
    status, text = ward.sign_in(name)
    if name.strip() == "anna":
        assert status == 303
    elif "\x00" in name:
        assert status == 400  # as each form with it
    else:
        assert status == 403 and WRONG in text
    assert set(ward.accounts()) <= {"anna@127.0.0.1"}


def test_a_name_with_the_marks_of_a_filter_finds_the_one_who_has_it(ward: Ward) -> None:
    dn = ward.directory.employ("a*(b)\\c", cn="odd")
    ward.directory.group("Radiology", [dn])
    try:
        assert ward.sign_in("a*(b)\\c")[0] == 303
        assert list(ward.accounts()) == ["a-b-c@127.0.0.1"]
    finally:
        ward.directory.dismiss(dn)


def test_another_group_counts_at_the_next_sign_in_and_none_ends_all_sessions(ward: Ward) -> None:
    ward.change(senders={f"CN=radiology, {GROUPS}": ["US3"], "Others": ["US4"]})
    first, second = ward.lab.browser(), ward.lab.browser()
    assert first.sign_in("anna", PASSWORD) == 303
    assert ward.senders("anna@127.0.0.1") == ["US3"]
    ward.directory.group("PACS-Admins", [ANNA])
    assert second.sign_in("anna", PASSWORD) == 303 and second.get("/users") == 200
    assert ward.accounts() == {"anna@127.0.0.1": "admin"}
    assert ward.senders("anna@127.0.0.1") == []
    ward.directory.group("PACS-Admins", [])
    ward.directory.group("Radiology", [])
    status, text = ward.sign_in("anna")
    assert status == 403 and "None of your groups may use this console" in text
    assert (first.get("/"), second.get("/")) == (303, 303)


def test_who_is_in_no_group_is_refused_and_has_no_account(ward: Ward) -> None:
    status, text = ward.sign_in("bert")
    assert status == 403 and "None of your groups" in text and ward.accounts() == {}
    assert ward.lab.audited("sign_in_refused")[0]["user"] == "bert@127.0.0.1"


def test_no_group_gets_the_rights_of_another_by_its_name(ward: Ward) -> None:
    ward.change(roles={f"cn=Boss,{GROUPS}": "admin", "PACS-Admins": "admin"})
    whole = f"cn=Boss,{GROUPS}".replace(",", "\\,").replace("=", "\\=")
    for name in ("x\\,cn\\=PACS-Admins", whole, "Boss\\00", "PACS-Admins\\,x", "\\#426f7373"):
        ward.directory.group(name, [f"cn=bert,{PEOPLE}"])
        assert ward.sign_in("bert")[0] == 403, name
        ward.directory.group(name, [])
    ward.directory.group("boss", [f"cn=bert,{PEOPLE}"])
    assert ward.sign_in("bert")[0] == 303
    ward.directory.group("boss", [])


def test_a_user_of_this_node_is_meant_by_the_name_also_a_disabled_one(ward: Ward) -> None:
    dn = ward.directory.employ("viewer")
    ward.directory.group("PACS-Admins", [dn])
    try:
        assert [ward.sign_in(name)[0] for name in ("viewer", "Viewer")] == [403, 403]
        assert ward.sign_in("viewer", LOCAL_PASSWORD)[0] == 303
        users.change_user(ward.lab.settings, "viewer", disabled=True)
        assert [ward.sign_in("viewer", one)[0] for one in (PASSWORD, LOCAL_PASSWORD)] == [403, 403]
        assert ward.accounts() == {}
    finally:
        ward.directory.dismiss(dn)


def test_who_is_disabled_here_stays_out_and_gets_no_role_and_password_here(ward: Ward) -> None:
    browser = ward.lab.browser()
    assert browser.sign_in("anna", PASSWORD) == 303
    users.change_user(ward.lab.settings, "anna@127.0.0.1", disabled=True)
    status, text = ward.sign_in("anna")
    assert status == 403 and "disabled here" in text and browser.get("/") == 303
    users.change_user(ward.lab.settings, "anna@127.0.0.1", disabled=False)
    assert ward.sign_in("anna")[0] == 303
    with pytest.raises(NotAllowedNow, match="is an account of"):
        users.set_password(ward.lab.settings, "anna@127.0.0.1", LOCAL_PASSWORD)
    assert ward.sign_in("anna@127.0.0.1")[0] == 403


def test_an_account_goes_with_the_person_and_not_with_the_name(ward: Ward) -> None:
    carla = ward.directory.employ("carla")
    ward.directory.group("Radiology", [carla])
    assert ward.sign_in("carla")[0] == 303
    ward.directory.rename(carla, "carla married")
    renamed = f"cn=carla married,{PEOPLE}"
    ward.directory.group("Radiology", [renamed])
    assert ward.sign_in("carla")[0] == 303 and len(ward.accounts()) == 1
    ward.directory.dismiss(renamed)
    ward.directory.group("PACS-Admins", [ward.directory.employ("carla")])
    status, text = ward.sign_in("carla")
    assert status == 403 and "Another person" in text and ward.accounts() == {"carla@127.0.0.1": "reader"}
    ward.directory.dismiss(carla)


def test_a_name_of_two_people_lets_neither_in(ward: Ward, caplog: pytest.LogCaptureFixture) -> None:
    dn = ward.directory.employ("anna", cn="anna the second")
    try:
        assert ward.sign_in("anna")[0] == 503
    finally:
        ward.directory.dismiss(dn)
    assert "a name of two people" in caplog.text and "anna" not in caplog.text


def test_attempts_are_counted_by_the_person_in_whatever_spelling(ward: Ward) -> None:
    spellings = ["anna", "ANNA", "Anna", "aNNa", "anna"]
    assert [ward.sign_in(name, "wrong")[0] for name in spellings] == [403] * 5
    for name in ("anna", "annA"):
        status, text = ward.sign_in(name)
        assert status == 403 and "Too many attempts" in text
    assert len(ward.lab.audited("sign_in_refused")) == 5
    assert ward.sign_in("bert", "wrong")[1].count(WRONG) == 1, "others are not locked out with her"


def test_attempts_of_an_unknown_name_and_of_an_address_are_counted_too(ward: Ward) -> None:
    for _ in range(5):
        ward.sign_in("nobody", "wrong")
    assert "Too many attempts" in ward.sign_in("nobody", "wrong")[1]
    for number in range(users.REFUSALS_OF_AN_ADDRESS - 5):
        assert WRONG in ward.sign_in(f"nobody{number}", "wrong")[1]
    assert "Too many attempts" in ward.sign_in("anna")[1]


def test_a_directory_that_does_not_answer_holds_up_no_user_of_this_node(
    ward: Ward, caplog: pytest.LogCaptureFixture
) -> None:
    ward.change(seconds=1)
    with ward.directory.stopped():
        began = time.monotonic()
        status, text = ward.sign_in("anna")
        assert time.monotonic() - began < 4
        assert status == 503 and "does not answer as it should" in text
        assert ward.sign_in("admin", LOCAL_PASSWORD)[0] == 303
    assert "no answer in time" in caplog.text and "anna" not in caplog.text
    assert ward.sign_in("anna")[0] == 303
    assert ward.lab.audited("sign_in_refused") == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"url": "ldaps://127.0.0.1:9"}, "ConnectionRefusedError"),
        ({"authorities": None}, "SSLCertVerificationError"),
        ({"authorities": Path("/nowhere")}, "the file of authorities cannot be read"),
        ({"bind_password": "another"}, "it does not take bind_dn with its password"),
        ({"user_base": "ou=nowhere,dc=example,dc=org"}, "it does not search user_base: noSuchObject"),
        ({"user_base": "nowhere"}, "LDAPInvalidDnError"),
        ({"user_filter": "((uid={name})"}, "LDAPInvalidFilterError"),
    ],
)
def test_a_directory_that_cannot_be_asked_is_named_by_the_log_and_by_check(
    ward: Ward, changed: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    ward.change(**changed)
    assert ward.sign_in("anna")[0] == 503
    assert "6022" in caplog.text and reason in caplog.text
    [tried] = ward.probed()
    assert not tried.ok and reason in tried.text


def test_check_says_that_a_directory_answers(ward: Ward) -> None:
    [tried] = ward.probed()
    assert tried.ok


@pytest.mark.parametrize("start_tls", [False, True])
def test_no_password_goes_to_a_server_of_another_authority_or_name(
    ward: Ward, start_tls: bool, tmp_path: Path
) -> None:
    ours = {"url": ward.directory.plain, "start_tls": True} if start_tls else {}
    ward.change(**ours, authorities=Authority(tmp_path, "stranger").certificate)
    assert ward.sign_in("anna")[0] == 503
    url = ours.get("url", ward.directory.encrypted)
    ward.change(**ours | {"url": str(url).replace("127.0.0.1", "127.1")})
    assert ward.sign_in("anna")[0] == 503
