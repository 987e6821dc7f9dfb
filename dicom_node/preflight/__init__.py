"""What can be wrong with a configuration beyond its text: files, folders, database, models, peers.

``dicom-node check``, ``serve`` and a reload report all of it at once, by the same function. What keeps the
node from working is a ``ConfigProblem``; what may pass (a PACS that is switched off) is a warning.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from pydicom.charset import python_encoding

from dicom_node.config.loading import examine
from dicom_node.config.mistakes import did_you_mean
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.config.toml_files import TomlFiles
from dicom_node.errors import ConfigProblem
from dicom_node.model.roles import Role
from dicom_node.preflight.found import Found, Passed, Problem
from dicom_node.preflight.machine import check_machine, probe_machine
from dicom_node.preflight.models import check_models, check_rule
from dicom_node.scu import open_destination

_CHARSETS = sorted(term for term in python_encoding if term.startswith(("ISO_IR", "GB")))


@dataclass(frozen=True, slots=True)
class Checked:
    """What an examination found. ``settings`` is None when too little could be read to go on."""

    settings: Settings | None
    files: TomlFiles
    tried: Sequence[Passed]

    @property
    def problems(self) -> Sequence[ConfigProblem]:
        """Every mistake."""
        return self.files.problems


def check(files: Sequence[Path], role: Role = Role.ALL) -> Checked:
    """Every mistake of the configuration on a machine of this role, and what else was tried."""
    settings, read = examine(files)
    if settings is None:
        return Checked(None, read, ())
    return _collect(settings, read, _everything(settings, role))


def check_and_probe(files: Sequence[Path], role: Role = Role.ALL) -> Checked:
    """The same, and what ``serve`` finds out by doing it: port, spool, peers."""
    settings, read = examine(files)
    if settings is None:
        return Checked(None, read, ())
    further = (probe_machine(settings, role), _ask_peers(settings))
    return _collect(settings, read, chain(_everything(settings, role), *further))


def _collect(settings: Settings, read: TomlFiles, all_found: Iterable[Problem | Passed]) -> Checked:
    tried: list[Passed] = []
    for found in all_found:
        if isinstance(found, Passed):
            tried.append(replace(found, text=read.as_written(found.text)))
        else:
            read.add_named(*found)
    return Checked(settings, read, tried)


def _everything(settings: Settings, role: Role) -> Found:
    yield from check_machine(settings, role)
    runs_models = role.works and settings.workers.processes > 0
    for rule in settings.rules:
        yield from check_rule(rule, settings, runs_models=runs_models)
    if runs_models:
        yield from check_models(settings)
    else:
        yield Passed("models", True, "this machine runs none")
    yield from _check_senders(settings)
    for peer in settings.peers:
        yield from _check_peer(peer)


def _check_senders(settings: Settings) -> Found:
    if (
        not any("send" in peer.may for peer in settings.peers)
        and settings.listener.unknown_callers == "refuse"
    ):
        yield Passed("peers", False, "none may send to this node: add [[peers]], one for each modality")
    if not settings.rules:
        yield Passed("rules", False, "none: nothing that arrives is analysed; add [[rules]]")


def _check_peer(peer: PeerSettings) -> Found:
    if peer.username and peer.url.startswith("http://"):
        text = "user name and password go over the network unencrypted (http): use https"
        yield Passed(f"peer {peer.name}", False, text)
    if peer.assume_charset and peer.assume_charset not in python_encoding:
        remedy = f"is no defined term of PS3.3 C.12.1.1.2; {did_you_mean(peer.assume_charset, _CHARSETS)}"
        yield f"peers.{peer.name}.assume_charset", repr(peer.assume_charset), remedy


def _ask_peers(settings: Settings) -> Iterator[Passed]:
    """Whether their machines are known here, and those that may receive answer now."""
    for peer in settings.peers:
        try:
            if peer.host:
                socket.getaddrinfo(peer.host, None)
            lines = open_destination(peer, settings).test() if "receive" in peer.may else []
        except (socket.gaierror, UnicodeError):
            yield Passed(f"peer {peer.name}", False, f"{peer.host} is no machine that this one knows")
        except OSError:  # certificates that cannot be used: a problem of [listener.tls], reported there
            yield Passed(f"peer {peer.name}", False, "not asked: the certificates cannot be used")
        else:
            yield from (Passed(f"peer {peer.name}", line.ok, f"{line.name}: {line.text}") for line in lines)
