"""The listener's process, and the file that tells it which callers it accepts."""

from collections.abc import Callable, Mapping
from typing import Any

from dicom_node.base.config.settings import Settings
from dicom_node.base.processes import Child, without_secrets
from dicom_node.receive.policy import AEPolicy, policy_path

GRACE_SECONDS = 30.0


def write_policy(settings: Settings, place: str) -> None:
    """Write the file that tells the listener of this node which callers it accepts."""
    AEPolicy.from_settings(settings).write(policy_path(settings.node.data_dir, _listener_place(place)))


def _listener_place(place: str) -> str:
    """The name of the listener in the data folder; "" for the first one. ``place``: the name of its node."""
    return "" if place in ("all", "listener-1") else place  # "" for the first listener on a data folder


def listener_child(
    settings: Settings,
    place: str,
    on_ready: Callable[[Mapping[str, Any]], None],
    on_death: Callable[[int, float], None],
) -> Child:
    """Make the listener's process for the node at ``place``, and write the file that tells the listener which
    callers it accepts.

    ``on_ready`` and ``on_death``: called with its message, or its exit status and the seconds until it starts
    again.
    """
    write_policy(settings, place)
    command = ["-m", "dicom_node.receive.listener", "--data-dir", str(settings.node.data_dir)]
    command += ["--place", _listener_place(place)]
    return Child("listener", command, on_ready, on_death, "", without_secrets())
