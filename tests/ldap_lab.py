"""A directory that is not ours: OpenLDAP's slapd, a process of its own in a folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_node.config.ldap import LdapSettings
from dicom_node.model.roles import UserRole
from tests.certificates_lab import Authority
from tests.ports import free_port
from tests.waiting import wait_until

SEARCHER, SEARCHER_PASSWORD = "cn=dicom-ai-node,dc=example,dc=org", "a password that searches"
PASSWORD = "a password of the house"
PEOPLE, GROUPS = "ou=people,dc=example,dc=org", "ou=groups,dc=example,dc=org"
ROLES = {f"cn=Radiology,{GROUPS}": UserRole.READER, "PACS-Admins": UserRole.ADMIN}

_CONFIG = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {folder}/slapd.pid
TLSCACertificateFile {authority}
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
# As it must not be: a bind without a password succeeds, as nobody.
allow bind_anon_cred bind_anon_dn
database mdb
suffix dc=example,dc=org
rootdn {searcher}
rootpw {password}
directory {folder}/data
overlay memberof
"""
_BEGINNING = f"""\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: {PEOPLE}
objectClass: organizationalUnit

dn: {GROUPS}
objectClass: organizationalUnit

"""


@dataclass(frozen=True, slots=True)
class Slapd:
    """A running slapd. Its rootdn is the account that searches."""

    process: subprocess.Popen[bytes]
    plain: str
    """Its address without TLS."""
    encrypted: str
    authority: Path

    def settings(self, **others: Any) -> LdapSettings:
        """How the console comes to it."""
        given = {
            "url": self.encrypted, "authorities": self.authority, "bind_dn": SEARCHER, "user_base": PEOPLE,
            "bind_password": SEARCHER_PASSWORD, "user_filter": "(uid={name})", "roles": ROLES, "seconds": 5,
        }  # fmt: skip
        return LdapSettings.model_validate(given | others)

    def employ(self, name: str, *further: str, cn: str = "") -> str:
        """A person with the password of the house; ``further``: lines of LDIF. The DN."""
        dn = f"cn={cn or name},{PEOPLE}"
        lines = ["objectClass: inetOrgPerson", "sn: Person", f"uid: {name}", f"userPassword: {PASSWORD}"]
        self._change("ldapadd", "\n".join([f"dn: {dn}", *lines, *further]))
        return dn

    def group(self, name: str, members: Sequence[str]) -> None:
        """A group as it is from now on."""
        dn = f"cn={name},{GROUPS}"
        subprocess.run(["ldapdelete", *self._login(), dn], check=False, capture_output=True)
        if members:
            lines = [f"dn: {dn}", "objectClass: groupOfNames", *(f"member: {one}" for one in members)]
            self._change("ldapadd", "\n".join(lines))

    def rename(self, dn: str, cn: str) -> None:
        """Another DN for the same person."""
        command = ["ldapmodrdn", *self._login(), "-r", dn, f"cn={cn}"]
        subprocess.run(command, check=True, capture_output=True)

    def dismiss(self, dn: str) -> None:
        """Take a person away."""
        subprocess.run(["ldapdelete", *self._login(), dn], check=True, capture_output=True)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def answers(self) -> bool:
        """Whether it can be asked."""
        return (
            subprocess.run(["ldapwhoami", *self._login()], check=False, capture_output=True).returncode == 0
        )

    def _login(self) -> tuple[str, ...]:
        return ("-x", "-H", self.plain, "-D", SEARCHER, "-w", SEARCHER_PASSWORD)

    def _change(self, command: str, ldif: str) -> None:
        subprocess.run([command, *self._login()], input=ldif.encode(), check=True, capture_output=True)


@contextmanager
def slapd(folder: Path) -> Iterator[Slapd]:
    """It, with anna in the group Radiology and bert in none."""
    authority = Authority(folder, "house")
    certificate, key = authority.certify("ldap")
    (folder / "data").mkdir()
    config = folder / "slapd.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder, authority=authority.certificate, certificate=certificate, key=key,
            searcher=SEARCHER, password=f'"{SEARCHER_PASSWORD}"',
        ),
        encoding="utf-8",
    )  # fmt: skip
    # A copy: by its path in Debian AppArmor keeps it from other folders.
    program = Path(shutil.copy("/usr/sbin/slapd", folder / "slapd"))
    plain, encrypted = (f"{scheme}://127.0.0.1:{free_port()}" for scheme in ("ldap", "ldaps"))
    command = [program, "-f", config, "-h", f"{plain} {encrypted}", "-d", "0"]
    with (folder / "slapd.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    one = Slapd(process, plain, encrypted, authority.certificate)

    def answers() -> bool:
        assert process.poll() is None, (folder / "slapd.log").read_text(encoding="utf-8")
        return one.answers()

    try:
        wait_until(answers, 30, "slapd answers")
        one._change("ldapadd", _BEGINNING)
        one.group("Radiology", [one.employ("anna")])
        one.employ("bert")
        yield one
    finally:
        process.kill()
        process.wait(20)
