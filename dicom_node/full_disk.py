"""Start of a node on a full disk: its listener refuses objects with A700 until there is space.

The database cannot be opened then, so only the listener runs, and no event is stored.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import time

from dicom_node import events
from dicom_node.config.settings import Settings
from dicom_node.environment import without_secrets
from dicom_node.model.roles import Role
from dicom_node.processes import Child
from dicom_node.scp.policy import AEPolicy, policy_path

_LOGGER = logging.getLogger(__name__)
_NEEDED_BYTES = 4 * 2**20  # for a database to be opened, brought up to date and written to
_LOOK_SECONDS, _SAY_SECONDS = 1.0, 60.0
_GRACE_SECONDS = 30.0


def wait_for_space(settings: Settings, role: Role, place: str, signals: int) -> bool:
    """Wait until the disk has space; returns False if the node is stopped before. Raises OSError."""
    if _has_space(settings):
        return True
    listener = _refusing_listener(settings, place) if role.receives else None
    said_at = float("-inf")
    try:
        while not _has_space(settings):
            if time.monotonic() - said_at > _SAY_SECONDS:
                said_at = time.monotonic()
                free = shutil.disk_usage(settings.node.data_dir).free // 2**20
                events.happened(events.DISK_LOW, free_mib=free, minimum_mib=settings.spool.minimum_free_mib)
            if _is_to_end(signals):
                return False
    finally:
        if listener:
            listener.stop(_GRACE_SECONDS)
    return True


def listener_place(place: str) -> str:
    """The name of the listener's place: "" for the first listener on a data folder."""
    return "" if place in ("all", "listener-1") else place


def listener_command(settings: Settings, place: str) -> list[str]:
    """The arguments of the Python interpreter that start the listener."""
    command = ["-m", "dicom_node.scp", "--data-dir", str(settings.node.data_dir)]
    return command + (["--place", listener_place(place)] if listener_place(place) else [])


def _refusing_listener(settings: Settings, place: str) -> Child:
    AEPolicy.from_settings(settings).write(policy_path(settings.node.data_dir, listener_place(place)))
    listener = Child(
        "listener",
        listener_command(settings, place),
        lambda seen: _LOGGER.info("the listener refuses objects (A700) until there is space: %s", dict(seen)),
        lambda status, seconds: _LOGGER.error("the listener ended (%d), again in %.0f s", status, seconds),
        "",
        without_secrets(),
    )
    listener.start()
    return listener


def _has_space(settings: Settings) -> bool:
    needed = min(_NEEDED_BYTES, settings.spool.minimum_free_mib * 2**20)
    return shutil.disk_usage(settings.node.data_dir).free >= needed


def _is_to_end(signals: int) -> bool:
    """Wait a while; whether a signal came that ends the node."""
    ready, _, _ = select.select([signals], [], [], _LOOK_SECONDS)
    return bool(ready) and set(os.read(signals, 64)) != {signal.SIGHUP}
