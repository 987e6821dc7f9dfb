"""Checks of a configuration beyond its text: files, folders, database, models, peers.

``dicom-node check``, ``serve`` and a reload use the same function and report all results at once. A fault
that keeps the node from working is a ``ConfigProblem``; one that may be temporary (a PACS that is switched
off) is a warning.
"""

import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr
from pydicom.charset import python_encoding
from pydicom.uid import UID
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError

from ai_pipeline import extras
from dicom_node import connectors
from dicom_node.config.loading import examine, examined, undercuts
from dicom_node.config.mistakes import did_you_mean
from dicom_node.config.sections import Section
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.config.toml_files import Place, TomlFiles
from dicom_node.dicom.header import CharacterSet, terms
from dicom_node.errors import ConfigProblem
from dicom_node.model.roles import Role
from dicom_node.object_store.files import bucket_of
from dicom_node.preflight.found import Found, Tried
from dicom_node.preflight.machine import (
    check_console,
    check_machine,
    probe_console,
    probe_machine,
)
from dicom_node.preflight.models import check_findings, check_models, check_rule, check_shares
from dicom_node.scu import open_archive, open_destination, open_reporter

_SECRETS_IN_WORDS = {
    "url": "address, which may hold a login or a key,",
    "token": "token",
    "metrics_token": "token",
    "headers": "login",
    "secret_access_key": "secret key",
}
_CHARSETS = sorted(term for term in python_encoding if term.startswith(("ISO_IR", "GB")))


@dataclass(frozen=True, slots=True)
class Checked:
    """The mistakes and warnings of an examination.

    ``settings`` is None if too little of the configuration could be read to continue.
    """

    settings: Settings | None
    files: TomlFiles
    tried: Sequence[Tried]

    @property
    def problems(self) -> Sequence[ConfigProblem]:
        """The mistakes, without warnings."""
        return self.files.problems


def check(files: Sequence[Path], role: Role = Role.ALL) -> Checked:
    """Check configuration files on a machine of this role; ``tried`` of the result lists further checks."""
    return _checked(*examine(files), role)


def check_data(data: dict[str, Any], role: Role = Role.ALL) -> Checked:
    """Check a configuration without a file, as :func:`check` does."""
    read = TomlFiles(data=data)
    return _checked(examined(read), read, role)


def check_and_probe(files: Sequence[Path], role: Role = Role.ALL) -> Checked:
    """Check configuration files, and also test what ``serve`` needs: port, spool, console, store, peers."""
    return _checked(*examine(files), role, tries=True)


def _checked(
    settings: Settings | None,
    read: TomlFiles,
    role: Role,
    *,
    tries: bool = False,
) -> Checked:
    if settings is None:
        return Checked(None, read, ())
    tried: list[Tried] = []
    checks = [_everything(settings, read, role)]
    if tries:
        checks += [probe_machine(settings, role), probe_console(settings, role)]
        checks += [probe(settings) for probe in connectors.every("probes")]
        checks.append(_ask_peers(settings))
    for found in chain.from_iterable(checks):
        if isinstance(found, Tried):
            tried.append(replace(found, text=read.as_written(found.text)))
        else:
            read.add_named(*found)
    return Checked(settings, read, tried)


def _everything(settings: Settings, read: TomlFiles, role: Role) -> Found:
    yield from check_machine(settings)
    yield from check_console(settings, role)
    if not settings.outbox.deliver:
        yield from _check_deliveries(role)
    yield from _check_secrets(settings, read)
    runs_models = role.runs_models and settings.workers.processes > 0
    yield from check_shares(settings)
    for rule in settings.rules:
        yield from check_rule(rule, settings, runs_models=runs_models)
    are_whole = len(settings.rules) >= len(read.at(("rules",)) or ())  # a rule with a mistake may be left out
    findings: Found = check_findings(settings) if are_whole else iter(())
    if runs_models:
        yield from findings
        yield from check_models(settings)
    else:
        yield Tried("models", True, "this machine runs none")
        if role.may_serve_console and settings.console.enabled and not extras.missing():
            # As warnings: this machine may lack models of the workers, and they refuse what is wrong.
            for one in findings:
                if isinstance(one, Tried):
                    yield one
                else:
                    key, value, remedy = one
                    yield Tried(key, False, f"{value}: {remedy}, as far as this machine knows")
    yield from _check_senders(settings, read)
    for undercut in undercuts(settings):
        yield Tried(f"rule {undercut.rule}", False, f"{undercut}: give it assess_first = true")
    for find in connectors.every("checks"):
        yield from find(settings)
    for peer in settings.peers:
        yield from _check_peer(peer)
        yield from _check_reports(peer, settings)


def _check_deliveries(role: Role) -> Found:
    if role is Role.DELIVERY:
        yield "outbox.deliver", "false", "this machine has nothing else to do: take it out"
    elif role.may_deliver:
        text = "outbox.deliver = false: nothing is sent from here, another machine must (--role delivery)"
        yield Tried("outbox", False, text)


def _check_secrets(settings: Settings, read: TomlFiles) -> Found:
    """Files that every user of this machine may read, and that hold a password or a private key."""
    places: dict[str, Place] = {
        ".".join(place[:-1]).replace("_", " "): place for place in _secrets(settings) if place[0] != "node"
    }
    with suppress(ArgumentError, ValueError):  # check_machine reports it
        if make_url(settings.database_url).password:
            places["node.database_url"] = ("node", "database_url")
    for key, several in settings:
        for one in several if isinstance(several, tuple) else ():
            table = read.place_of(key, one.name)
            for secret in _secrets(one):
                in_url = secret == ("password",) and not read.at((*table, *secret))
                places[f"{key[:-1]} {one.name}"] = (*table, *(("url",) if in_url else secret))
    for subject, place in places.items():
        for file in read.files_of(place):
            if _is_open(file):
                what = _SECRETS_IN_WORDS.get(str(place[-1]), "password")
                yield Tried(subject, False, f"its {what} is in {file}, which every user may read")
    for tls in (settings.listener.tls, settings.console.tls):
        if tls and _is_open(tls.private_key):
            yield Tried("TLS", False, f"every user may read the private key: chmod 600 {tls.private_key}")


def _secrets(section: Section, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of the secrets that a section has, and the sections in it."""
    for key, value in section:
        values = value.values() if isinstance(value, Mapping) else (value,)
        if isinstance(value, Section):
            yield from _secrets(value, (*above, key))
        elif any(isinstance(one, SecretStr) and one.get_secret_value() for one in values):
            yield *above, key


def _is_open(file: Path) -> bool:
    return file.exists() and bool(file.stat().st_mode & stat.S_IROTH)


def _check_senders(settings: Settings, read: TomlFiles) -> Found:
    for uid in map(UID, settings.listener.further_storage_classes):
        if not uid.is_valid or (uid.name != uid and "Storage" not in uid.name):
            yield "listener.further_storage_classes", repr(str(uid)), "is no SOP Class UID of storage"
    if (
        not any("send" in peer.may for peer in settings.peers)
        and not read.is_faulty(("peers",))
        and settings.listener.unknown_callers == "refuse"
    ):
        yield Tried("peers", False, "none may send to this node: add [[peers]], one for each modality")
    if not settings.rules and not read.is_faulty(("rules",)):
        yield Tried("rules", False, "none: nothing that arrives is analysed; add [[rules]]")


def _check_peer(peer: PeerSettings) -> Found:
    parts = urlsplit(peer.url)
    if (
        peer.by_http
        and {parts.scheme, "all"} & getproxies().keys()
        and not proxy_bypass(parts.hostname or "")
    ):
        text = "what it gets goes through a proxy, which the environment names (HTTP_PROXY, HTTPS_PROXY)"
        yield Tried(f"peer {peer.name}", False, text)
    secrets = [".".join(place) for place in _secrets(peer) if place != ("password",)]  # goes with the name
    if (peer.username or secrets) and peer.url.startswith("http://"):
        what = "user name and password go" if peer.username else f"its {secrets[0]} goes"
        text = f"{what} over the network unencrypted (http): use https"
        yield Tried(f"peer {peer.name}", False, text)
    if peer.silent_hours and "send" not in peer.may:
        text = f"silent_hours = {peer.silent_hours:g}: nothing comes from a peer that may not send"
        yield Tried(f"peer {peer.name}", False, text)
    if not peer.deidentify:
        for key in ("pseudonym_domain", "retain"):
            if value := getattr(peer, key):
                remedy = "without deidentify = true it says nothing: add that, or leave this out"
                shown = repr(value) if isinstance(value, str) else ", ".join(value)
                yield f"peers.{peer.name}.{key}", shown, remedy
    if peer.assume_charset and not CharacterSet.from_terms(terms(peer.assume_charset)).known:
        remedy = f"is no defined term of PS3.3 C.12.1.1.2; {did_you_mean(peer.assume_charset, _CHARSETS)}"
        yield f"peers.{peer.name}.assume_charset", repr(peer.assume_charset), remedy


def _check_reports(peer: PeerSettings, settings: Settings) -> Found:
    """Whether an archive can ever confirm what this peer asks us to commit to, and what its procedure steps
    (MPPS) change; a machine keeps the steps that it took in its own folder.
    """
    archives = {name for rule in settings.rules for name in rule.forward} - {peer.name}
    confirming = [one for one in settings.peers if one.name in archives and one.confirm != "none"]
    if peer.commit_after and not confirming:
        remedy = 'no archive confirms: give a rule forward, to a peer with confirm = "query" or "commitment"'
        yield f"peers.{peer.name}.commit_after", repr(peer.commit_after), remedy
    if not peer.mpps:
        return
    minutes = f"{settings.assembly.mpps_minutes:g}"
    text = f"MPPS: a study waits for the end of its steps, {minutes} minutes at most after it is quiet"
    yield Tried(f"peer {peer.name}", True, text)
    if bucket_of(settings):
        text = "MPPS: with a bucket each machine knows the steps that it took: report to one listener only"
        yield Tried(f"peer {peer.name}", False, text)


def _ask_peers(settings: Settings) -> Iterator[Tried]:
    """Whether their machines are known here, and those that we call answer now."""
    for peer in settings.peers:
        try:
            if peer.host:
                socket.getaddrinfo(peer.host, None)
            lines = open_destination(peer, settings).test() if "receive" in peer.may else []
            lines += open_archive(peer, settings).test() if "query" in peer.may else []
            lines += [open_reporter(peer, settings).check()] if peer.commit_after else []
            for test in connectors.every("peer_tests"):
                lines += test(peer, settings)
        except (socket.gaierror, UnicodeError):
            yield Tried(f"peer {peer.name}", False, f"{peer.host} is no machine that this one knows")
        except OSError:  # certificates that cannot be used: a problem of [listener.tls], reported there
            yield Tried(f"peer {peer.name}", False, "not asked: the certificates cannot be used")
        else:
            yield from (Tried(f"peer {peer.name}", line.ok, f"{line.name}: {line.text}") for line in lines)
