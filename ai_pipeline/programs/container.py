"""The command by which podman or docker runs an image: no network, no capabilities, read-only file system."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ai_pipeline.errors import ProgramFailed

ENGINES = ("podman", "docker")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
"""Names of images: never an option of the engine."""
PLACES = {"{input}": "/input", "{output}": "/output"}
"""The folders inside the container."""
ENVIRONMENT = (
    "PATH",
    "HOME",
    "USER",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "CONTAINER_HOST",
)
"""Variables that the engine itself needs; the container gets none of them."""


def engine(wanted: str = "") -> str:
    """The name of the container engine: ``wanted`` or, if it is empty, the first that is installed.

    Returns "" if no such engine is installed.
    """
    names = [wanted] if wanted else ENGINES
    return next((name for name in names if shutil.which(name)), "")


def image_id(engine: str, image: str) -> str:
    """The id ``sha256:…`` of an image on this machine. Raises ProgramFailed if the image is not there."""
    command = [engine, "image", "inspect", "--format", "{{.Id}}", image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30.0, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramFailed(f"{engine} does not answer") from error
    found = done.stdout.strip().removeprefix("sha256:")
    if done.returncode != 0 or not re.fullmatch(r"[0-9a-f]{64}", found):
        raise ProgramFailed(f"{engine} knows no image {image} here: pull it first, as the node's user")
    return f"sha256:{found}"


def command_line(
    engine: str,
    image: str,
    arguments: Sequence[str],
    *,
    name: str,
    folders: tuple[Path, Path],
    environment: Mapping[str, str],
    memory_mib: int,
) -> list[str]:
    """The command line by which the container ``engine`` runs ``image`` once. ``arguments``: of the image's
    program; ``name``: of the container; ``folders``: input and output on this machine; ``memory_mib``: limit
    of the whole container.
    """
    source, target = folders
    return [
        engine,
        "run",
        "--rm",
        "--pull=never",
        f"--name={name}",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pids-limit=256",
        f"--memory={memory_mib}m",
        f"--memory-swap={memory_mib}m",
        f"--user={os.getuid()}:{os.getgid()}",
        *(["--userns=keep-id"] if engine == "podman" and os.getuid() else []),
        "--log-driver=none",  # what it prints may name the patient
        "--tmpfs=/tmp:rw,mode=1777",
        "--env=HOME=/tmp",
        *(f"--env={key}={value}" for key, value in environment.items()),
        f"--mount=type=bind,source={source},target={PLACES['{input}']},readonly",
        f"--mount=type=bind,source={target},target={PLACES['{output}']}",
        image,
        *arguments,
    ]
