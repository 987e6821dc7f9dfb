"""Start of a node on a full disk: its listener refuses objects with A700 until there is space.

The database cannot be opened then, so only the listener runs, and no event is stored.
"""

import logging
import os
import select
import shutil
import signal
import time

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import Role
from dicom_node.serve.listener import GRACE_SECONDS, listener_child

_LOGGER = logging.getLogger(__name__)
_NEEDED_BYTES = 4 * 2**20  # for a database to be opened, brought up to date and written to
_LOOK_SECONDS, _SAY_SECONDS = 1.0, 60.0


def wait_for_space(settings: Settings, role: Role, place: str, signals: int) -> bool:
    """Wait until the disk has space, while the listener refuses objects; returns False if the node is stopped
    before.

    ``place``: the name of the node in the data folder. ``signals``: a pipe from which received signals are
    read. Raises OSError.
    """
    if _has_space(settings):
        return True
    listener, said_at = None, float("-inf")
    if role.receives:
        listener = listener_child(
            settings,
            place,
            lambda seen: _LOGGER.info(
                "the listener refuses objects (A700) until there is space: %s", dict(seen)
            ),
            lambda status, seconds: _LOGGER.error(
                "the listener ended (%d), again in %.0f s", status, seconds
            ),
        )
        listener.start()
    try:
        while not _has_space(settings):
            if time.monotonic() - said_at > _SAY_SECONDS:
                said_at = time.monotonic()
                events.happened(
                    events.DISK_LOW,
                    free_mib=shutil.disk_usage(settings.node.data_dir).free // 2**20,
                    minimum_mib=settings.spool.minimum_free_mib,
                )
            ready, _, _ = select.select([signals], [], [], _LOOK_SECONDS)
            if ready and set(os.read(signals, 64)) != {signal.SIGHUP}:  # one that ends the node
                return False
    finally:
        if listener:
            listener.stop(GRACE_SECONDS)
    return True


def _has_space(settings: Settings) -> bool:
    """Whether the disk has enough free space for the node to start."""
    return shutil.disk_usage(settings.node.data_dir).free >= min(
        _NEEDED_BYTES, settings.spool.minimum_free_mib * 2**20
    )
