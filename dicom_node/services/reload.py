"""Reload: a running node loads a changed configuration completely or not at all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.config.loading import examine
from dicom_node.config.settings import NEEDS_RESTART, Settings
from dicom_node.config.toml_files import TomlFiles
from dicom_node.errors import ConfigurationError, DatabaseUnusable, NotAllowedNow, NotRunning
from dicom_node.events import CONFIGURATION_REFUSED, CONFIGURATION_RELOADED
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import Role
from dicom_node.services import audit, reading, writing
from dicom_node.services.audit import COMMAND_LINE
from dicom_node.store.views import list_events

_RELOAD_SECONDS = 90.0  # deliveries may have 20 s to finish what they send


def reload_node(files: Sequence[Path]) -> list[str]:
    """Let the running nodes of this machine load the configuration ``files``; returns the places of the
    nodes.

    Only nodes on the data folder that the files name are asked. Raises ConfigurationError (before any node is
    asked), NotRunning, NotAllowedNow.
    """
    from dicom_node import preflight
    from dicom_node.processes import files_of, running

    settings, read = examine(files)
    if settings is None or read.problems:
        raise ConfigurationError(read.problems)
    found = running(settings.node.data_dir)
    if not found:
        _refuse_closed_folder(settings.node.data_dir)
        raise NotRunning(f"no node runs on {settings.node.data_dir} here: dicom-node serve starts one")
    for place in found:
        _refuse_other_files(files, files_of(settings.node.data_dir, place))
    done = []
    try:
        for place, pid in found.items():
            role = Role.at(place)
            if problems := preflight.check(files, role).problems:
                raise ConfigurationError(problems)
            if refused := _hang_up(settings, place, pid):
                raise NotAllowedNow(_refusal(refused, settings, read))
            done.append(place)
    finally:
        if done:  # whatever the other processes answered
            with writing(settings) as session:
                audit.note(session, COMMAND_LINE, AuditAction.CONFIG_RELOADED, nodes=done)
    return done


def _refuse_closed_folder(folder: Path) -> None:
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        raise NotAllowedNow(f"{folder} is closed to this user: run this as the user that the node runs as")


def _refuse_other_files(given: Sequence[Path], known: Collection[Path]) -> None:
    """A node reads the files again that it was started with, whatever stands in others."""
    if known and {path.resolve() for path in given} != {path.resolve() for path in known}:
        runs, asked = (", ".join(sorted(map(str, paths))) for paths in (known, given))
        raise NotAllowedNow(
            f"the node runs with {runs}, not with {asked}: give it these, or start it again with others"
        )


def _refusal(event: Mapping[str, Any], settings: Settings, read: TomlFiles) -> str:
    """What event 6011 says, with the lines of the settings that it names."""
    for key in filter(None, str(event["fields"].get("keys", "")).split(", ")):
        read.add_named(key, "", _why_refused(key, settings))
    why = [str(problem) for problem in read.problems] or ["its log says why (6011)"]
    return "\n  ".join(["the node keeps the configuration before:", *why])


def _why_refused(key: str, settings: Settings) -> str:
    if key in settings.fixed:
        return NEEDS_RESTART
    if key.endswith(".pipeline"):
        return "the running node cannot load it: restart the node if it was installed since its start"
    return "the node's log says why (6011)"


def _hang_up(settings: Settings, place: str, pid: int) -> Mapping[str, Any] | None:
    """SIGHUP, and wait for what the node says of it: None where it is content, else the event."""
    from dicom_node.monitoring.processes import node_name

    asked = datetime.now(UTC)
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        raise NotAllowedNow(f"process {pid} belongs to another user: run this as that user") from None
    ours = node_name(place)
    numbers = (CONFIGURATION_RELOADED.number, CONFIGURATION_REFUSED.number)
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
