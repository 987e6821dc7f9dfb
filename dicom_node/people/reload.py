"""Reload: the running nodes of this machine load a changed configuration, completely or not at all."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.base.config.loading import TomlFiles, examine
from dicom_node.base.config.settings import NEEDS_RESTART, Settings
from dicom_node.base.errors import ConfigurationError, DatabaseUnusable, NotAllowedNow, Unavailable
from dicom_node.base.events import CONFIGURATION_REFUSED, CONFIGURATION_RELOADED
from dicom_node.base.lifecycle import AuditAction, Role
from dicom_node.base.processes import files_of, running
from dicom_node.base.store.views import list_events
from dicom_node.people import audit, preflight, processes, reading, writing
from dicom_node.people.audit import COMMAND_LINE

_IN_ITS_LOG = "the node's log says why (6011); what was installed since its start needs a restart"
_RELOAD_SECONDS = 90.0  # deliveries may have 20 s to finish what they send


def reload_node(files: Sequence[Path]) -> list[str]:
    """Let the running nodes of this machine load the configuration ``files``; returns the names of the nodes.

    Only nodes on the data folder that the files name are asked. Raises ConfigurationError (before any node is
    asked), Unavailable, NotAllowedNow.
    """
    settings, read = examine(files)
    found = running(settings.node.data_dir) if settings else {}
    if settings is None or read.problems:  # all mistakes at once: also those that only a node's checks find
        checked = (preflight.check(files, Role.at(place)).problems for place in found)
        raise ConfigurationError(next(checked, read.problems))
    if not found:
        data_dir = settings.node.data_dir
        if data_dir.exists() and not os.access(data_dir, os.R_OK | os.X_OK):
            raise NotAllowedNow(
                f"{data_dir} is closed to this user: run this as the user that the node runs as"
            )
        raise Unavailable(f"no node runs on {data_dir} here: dicom-node serve starts one")
    for place in found:
        _refuse_other_files(settings.node.data_dir, place, files)
    done = []
    try:
        for place, pid in found.items():
            if problems := preflight.check(files, Role.at(place)).problems:
                raise ConfigurationError(problems)
            if refused := _hang_up(settings, place, pid):
                raise NotAllowedNow(_refusal_in_words(refused, settings, read))
            done.append(place)
    finally:
        if done:  # whatever the other processes answered
            with writing(settings) as session:
                audit.note(session, COMMAND_LINE, AuditAction.CONFIG_RELOADED, nodes=done)
    return done


def _refuse_other_files(data_dir: Path, place: str, files: Sequence[Path]) -> None:
    """Raise NotAllowedNow if the node was started with other files, which are those that it reads again."""
    known = files_of(data_dir, place)
    if known and {path.resolve() for path in files} != {path.resolve() for path in known}:
        runs, asked = (", ".join(sorted(map(str, paths))) for paths in (known, files))
        raise NotAllowedNow(
            f"the node runs with {runs}, not with {asked}: give it these, or start it again with others"
        )


def _refusal_in_words(refused: Mapping[str, Any], settings: Settings, read: TomlFiles) -> str:
    """Why a node keeps its configuration: its event 6011, with the lines of the settings that this names."""
    for key in filter(None, str(refused["fields"].get("keys", "")).split(", ")):
        read.add_named(key, "", NEEDS_RESTART if key in settings.fixed else _IN_ITS_LOG)
    why = [str(problem) for problem in read.problems] or [_IN_ITS_LOG]
    return "\n  ".join(["the node keeps the configuration before:", *why])


def _hang_up(settings: Settings, place: str, pid: int) -> Mapping[str, Any] | None:
    """Send SIGHUP to a node, and wait for its event.

    Returns None if it loaded the configuration, else the event that says why not. Raises NotAllowedNow.
    ``place``: the name of the node; ``pid``: its process.
    """
    asked = datetime.now(UTC)
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        raise NotAllowedNow(f"process {pid} belongs to another user: run this as that user") from None
    ours, numbers = processes.node_name(place), (CONFIGURATION_RELOADED.number, CONFIGURATION_REFUSED.number)
    end = time.monotonic() + _RELOAD_SECONDS
    while time.monotonic() < end:
        try:
            with reading(settings) as session:
                events = [
                    event
                    for event in list_events(session, since=asked, numbers=numbers)
                    if event["fields"].get("node", ours) == ours  # other machines take things over, too
                ]
        except DatabaseUnusable as error:
            raise NotAllowedNow(
                f"the node was asked; its log has the answer (6010 taken over, 6011 not): {error}"
            ) from error
        if events:
            return events[0] if events[0]["number"] == CONFIGURATION_REFUSED.number else None
        time.sleep(0.1)
    raise NotAllowedNow(f"the node did not answer within {_RELOAD_SECONDS:.0f} s: look into its log")
