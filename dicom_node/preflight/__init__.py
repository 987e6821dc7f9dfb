"""Checks of a configuration beyond its text: files, folders, database, models, peers.

``dicom-node check``, ``serve`` and a reload use the same function and report all results at once. A fault
that keeps the node from working is a ``ConfigProblem``; one that may be temporary (a PACS that is switched
off) is a warning.
"""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydicom.charset import python_encoding
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError

from ai_pipeline import extras
from dicom_node.config.holds import undercuts
from dicom_node.config.loading import examine, examined
from dicom_node.config.mistakes import did_you_mean
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.config.toml_files import Place, TomlFiles
from dicom_node.dicom.character_sets import CharacterSet, terms
from dicom_node.errors import ConfigProblem
from dicom_node.model.kinds import ResultKind
from dicom_node.model.roles import Role
from dicom_node.preflight.console import check_console, probe_console
from dicom_node.preflight.found import Found, Problem, Tried
from dicom_node.preflight.machine import check_machine, probe_machine
from dicom_node.preflight.models import check_findings, check_models, check_rule, check_shares
from dicom_node.preflight.object_store import check_object_store, probe_object_store
from dicom_node.preflight.outgoing import check_audit, check_notifications, check_telemetry
from dicom_node.scu import open_archive, open_destination, open_reporter, open_worklist

_SECRETS_IN_WORDS = {
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
    settings, read = examine(files)
    if settings is None:
        return Checked(None, read, ())
    return _collect(settings, read, _everything(settings, read, role))


def check_data(data: dict[str, Any], role: Role = Role.ALL) -> Checked:
    """Check a configuration without a file, as :func:`check` does."""
    read = TomlFiles(data=data)
    settings = examined(read)
    if settings is None:
        return Checked(None, read, ())
    return _collect(settings, read, _everything(settings, read, role))


def check_and_probe(files: Sequence[Path], role: Role = Role.ALL) -> Checked:
    """Check configuration files, and also test what ``serve`` needs: port, spool, console, store, peers."""
    settings, read = examine(files)
    if settings is None:
        return Checked(None, read, ())
    further = (
        probe_machine(settings, role),
        probe_console(settings, role),
        probe_object_store(settings),
        _ask_peers(settings),
    )
    return _collect(settings, read, chain(_everything(settings, read, role), *further))


def _collect(settings: Settings, read: TomlFiles, all_found: Iterable[Problem | Tried]) -> Checked:
    tried: list[Tried] = []
    for found in all_found:
        if isinstance(found, Tried):
            tried.append(replace(found, text=read.as_written(found.text)))
        else:
            read.add_named(*found)
    return Checked(settings, read, tried)


def _everything(settings: Settings, read: TomlFiles, role: Role) -> Found:
    for former, present in read.renamed.items():
        yield Tried(former, False, f"is the former name of {present}: write {present}, this one will go")
    yield from check_machine(settings, role)
    yield from check_console(settings, role)
    yield from _check_deliveries(settings, role)
    yield from _check_secrets(settings, read)
    runs_models = role.runs_models and settings.workers.processes > 0
    yield from check_shares(settings)
    for rule in settings.rules:
        yield from check_rule(rule, settings, runs_models=runs_models)
    if runs_models:
        yield from check_findings(settings)
        yield from check_models(settings)
    else:
        yield Tried("models", True, "this machine runs none")
        if role.may_serve_console and settings.console.enabled and not extras.missing():
            yield from _as_warnings(check_findings(settings))
    yield from _check_senders(settings)
    for undercut in undercuts(settings):
        yield Tried(f"rule {undercut.rule}", False, f"{undercut}: give it assess_first = true")
    yield from check_notifications(settings)
    yield from check_audit(settings)
    yield from check_telemetry(settings)
    yield from check_object_store(settings)
    for peer in settings.peers:
        yield from _check_peer(peer)
        yield from _check_commitment(peer, settings)
        yield from _check_worklist(peer, settings)
        yield from _check_steps(peer, settings)


def _as_warnings(found: Found) -> Found:
    """Mistakes as warnings: this machine may lack models of the workers, and they refuse what is wrong."""
    for one in found:
        if isinstance(one, Tried):
            yield one
        else:
            key, value, remedy = one
            yield Tried(key, False, f"{value}: {remedy}, as far as this machine knows")


def _check_deliveries(settings: Settings, role: Role) -> Found:
    if settings.outbox.deliver or not role.may_deliver:
        return
    if role is Role.DELIVERY:
        yield "outbox.deliver", "false", "this machine has nothing else to do: take it out"
    else:
        text = "outbox.deliver = false: nothing is sent from here, another machine must (--role delivery)"
        yield Tried("outbox", False, text)


def _check_secrets(settings: Settings, read: TomlFiles) -> Found:
    """Files that every user of this machine may read, and that hold a password or a private key."""
    places = _told_secrets(settings, read)
    with suppress(ArgumentError, ValueError):  # check_machine reports it
        if make_url(settings.database_url).password:
            places["node.database_url"] = ("node", "database_url")
    if settings.console.metrics_token.get_secret_value():
        places["console"] = ("console", "metrics_token")
    for peer in settings.peers:
        if peer.token.get_secret_value():
            places[f"peer {peer.name}"] = (*read.place_of("peers", peer.name), "token")
        if peer.password.get_secret_value():
            table = read.place_of("peers", peer.name)
            word = "password" if read.at((*table, "password")) else "url"
            places[f"peer {peer.name}"] = (*table, word)
    for subject, place in places.items():
        for file in read.files_of(place):
            if _is_open(file):
                what = _SECRETS_IN_WORDS.get(str(place[-1]), "password")
                if subject.startswith("notification") and place[-1] == "url":
                    what = "address, which may hold a key,"
                yield Tried(subject, False, f"its {what} is in {file}, which every user may read")
    for tls in (settings.listener.tls, settings.console.tls):
        if tls and _is_open(tls.private_key):
            yield Tried("TLS", False, f"every user may read the private key: chmod 600 {tls.private_key}")


def _told_secrets(settings: Settings, read: TomlFiles) -> dict[str, Place]:
    """Where those of e-mail and webhooks stand."""
    places: dict[str, Place] = {}
    if settings.mail.password.get_secret_value():
        places["mail"] = ("mail", "password")
    if settings.object_store.secret_access_key.get_secret_value():
        places["object store"] = ("object_store", "secret_access_key")
    if any(value.get_secret_value() for value in settings.telemetry.headers.values()):
        places["telemetry"] = ("telemetry", "headers")
    if settings.console.oidc and settings.console.oidc.client_secret.get_secret_value():
        places["console.oidc"] = ("console", "oidc", "client_secret")
    for rule in settings.notifications:
        for key in ("url", "token"):
            if getattr(rule, key).get_secret_value():
                places[f"notification {rule.name}"] = (*read.place_of("notifications", rule.name), key)
    return places


def _is_open(file: Path) -> bool:
    return file.exists() and bool(file.stat().st_mode & stat.S_IROTH)


def _check_senders(settings: Settings) -> Found:
    if (
        not any("send" in peer.may for peer in settings.peers)
        and settings.listener.unknown_callers == "refuse"
    ):
        yield Tried("peers", False, "none may send to this node: add [[peers]], one for each modality")
    if not settings.rules:
        yield Tried("rules", False, "none: nothing that arrives is analysed; add [[rules]]")


def _check_peer(peer: PeerSettings) -> Found:
    if peer.transport == "hl7" and find_spec("hl7apy") is None:
        remedy = "needs hl7apy: pip install 'dicom-ai-node[hl7]'"
        yield f"peers.{peer.name}.transport", "'hl7'", remedy
    if peer.by_http and _goes_by_proxy(peer.url):
        text = "what it gets goes through a proxy, which the environment names (HTTP_PROXY, HTTPS_PROXY)"
        yield Tried(f"peer {peer.name}", False, text)
    has_login = peer.username or peer.token.get_secret_value()
    if has_login and peer.url.startswith("http://"):
        what = "user name and password go" if peer.username else "its token goes"
        text = f"{what} over the network unencrypted (http): use https"
        yield Tried(f"peer {peer.name}", False, text)
    yield from _check_fhir(peer)
    if peer.silent_hours and "send" not in peer.may:
        text = f"silent_hours = {peer.silent_hours:g}: nothing comes from a peer that may not send"
        yield Tried(f"peer {peer.name}", False, text)
    if ResultKind.PDF in peer.results and find_spec("reportlab") is None:
        remedy = "pdf needs reportlab: pip install 'dicom-ai-node[pdf]'"
        yield f"peers.{peer.name}.results", ", ".join(peer.results), remedy
    if not peer.deidentify:
        for key in ("pseudonym_domain", "retain"):
            if value := getattr(peer, key):
                remedy = "without deidentify = true it says nothing: add that, or leave this out"
                shown = repr(value) if isinstance(value, str) else ", ".join(value)
                yield f"peers.{peer.name}.{key}", shown, remedy
    if peer.assume_charset and not CharacterSet.from_terms(terms(peer.assume_charset)).known:
        remedy = f"is no defined term of PS3.3 C.12.1.1.2; {did_you_mean(peer.assume_charset, _CHARSETS)}"
        yield f"peers.{peer.name}.assume_charset", repr(peer.assume_charset), remedy


def _check_commitment(peer: PeerSettings, settings: Settings) -> Found:
    """Whether an archive can ever confirm what this peer asks us to commit to."""
    if not peer.commit_after:
        return
    archives = {name for rule in settings.rules for name in rule.forward}
    confirming = [one.name for one in settings.peers if one.name in archives and one.confirm != "none"]
    if not [name for name in confirming if name != peer.name]:
        remedy = 'no archive confirms: give a rule forward, to a peer with confirm = "query" or "commitment"'
        yield f"peers.{peer.name}.commit_after", repr(peer.commit_after), remedy


def _check_worklist(peer: PeerSettings, settings: Settings) -> Found:
    if peer.worklist and not any("query" in one.may for one in settings.peers):
        text = "worklist: no peer may be queried, so only work on studies that are here is taken"
        yield Tried(f"peer {peer.name}", False, text)


def _check_steps(peer: PeerSettings, settings: Settings) -> Found:
    """What its procedure steps (MPPS) change; a machine keeps the steps that it took in its own folder."""
    if not peer.mpps:
        return
    minutes = f"{settings.assembly.mpps_minutes:g}"
    text = f"MPPS: a study waits for the end of its steps, {minutes} minutes at most after it is quiet"
    yield Tried(f"peer {peer.name}", True, text)
    if settings.object_store.url:
        text = "MPPS: with a bucket each machine knows the steps that it took: report to one listener only"
        yield Tried(f"peer {peer.name}", False, text)


def _check_fhir(peer: PeerSettings) -> Found:
    if peer.transport == "fhir" and find_spec("fhir") is None:
        remedy = "needs fhir.resources: pip install 'dicom-ai-node[fhir]'"
        yield f"peers.{peer.name}.transport", peer.transport, remedy
    given = {"token": peer.token.get_secret_value(), "patient_systems": peer.patient_systems}
    for key in (key for key, value in given.items() if value and peer.transport != "fhir"):
        yield f"peers.{peer.name}.{key}", "", 'without transport = "fhir" it says nothing: leave it out'


def _goes_by_proxy(url: str) -> bool:
    parts = urlsplit(url)
    named = {parts.scheme, "all"} & getproxies().keys()
    return bool(named) and not proxy_bypass(parts.hostname or "")


def _ask_peers(settings: Settings) -> Iterator[Tried]:
    """Whether their machines are known here, and those that we call answer now."""
    for peer in settings.peers:
        try:
            if peer.host:
                socket.getaddrinfo(peer.host, None)
            lines = open_destination(peer, settings).test() if "receive" in peer.may else []
            lines += open_archive(peer, settings).test() if "query" in peer.may else []
            lines += [open_reporter(peer, settings).check()] if peer.commit_after else []
            lines += open_worklist(peer, settings).test() if peer.worklist else []
        except (socket.gaierror, UnicodeError):
            yield Tried(f"peer {peer.name}", False, f"{peer.host} is no machine that this one knows")
        except OSError:  # certificates that cannot be used: a problem of [listener.tls], reported there
            yield Tried(f"peer {peer.name}", False, "not asked: the certificates cannot be used")
        else:
            yield from (Tried(f"peer {peer.name}", line.ok, f"{line.name}: {line.text}") for line in lines)
