"""The command by which podman or docker runs an image: no network, no capabilities, read-only file system."""

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ai_pipeline.errors import ProgramFailed
from ai_pipeline.programs.package import LARGEST_MANIFEST, MANIFESTS, Package

ENGINES = ("podman", "docker")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")
"""Names of images: never an option of the engine."""
PLACES = {"{input}": "/input", "{output}": "/output", "{persistence}": "/persistence"}
"""The folders inside the container, where neither mercure nor a package says another place."""
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


@lru_cache(maxsize=64)
def package_of(engine: str, image: str) -> Package:
    """The manifests of a MONAI application package, the image of this id. Nothing of the image is run. Raises
    ProgramFailed.
    """
    made = _run_engine([engine, "create", "--pull=never", image, "true"])
    container = made.decode("ascii", "replace").strip()
    try:
        for place in MANIFESTS[:2]:
            if app := _file_of(engine, container, f"/{place}/app.json"):
                return Package.read(app, _file_of(engine, container, f"/{place}/pkg.json"))
    finally:
        with suppress(ProgramFailed):
            _run_engine([engine, "rm", "--force", container])
    raise ProgramFailed(f"{image} has no app.json in {' or '.join(f'/{one}' for one in MANIFESTS[:2])}")


def _file_of(engine: str, container: str, path: str) -> bytes | None:
    """The bytes of a file of a container; None if it has no such file. Raises ProgramFailed for one that is
    too large.
    """
    try:
        packed = _run_engine([engine, "cp", f"{container}:{path}", "-"])
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            file = files.extractfile(path.rpartition("/")[2])
            data = file.read(LARGEST_MANIFEST + 1) if file else None
    except (ProgramFailed, tarfile.TarError, KeyError):
        return None
    if data is not None and len(data) > LARGEST_MANIFEST:
        raise ProgramFailed(f"{path} is larger than {LARGEST_MANIFEST >> 10} KiB")
    return data


def _run_engine(command: Sequence[str]) -> bytes:
    """Run a command of the engine; returns what it prints. Raises ProgramFailed."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=30.0, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramFailed(f"{command[0]} does not answer") from error
    if done.returncode != 0:
        raise ProgramFailed(f"{command[0]} {command[1]} failed with {done.returncode}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class ContainerRun:
    """One run of an image. ``name``: of the container; ``folders``: folders of this machine by their place in
    the container, ``input`` the place that it can only read; ``memory_mib``: limit of the whole container;
    ``stack_mib``: stack of each thread, 0 for the engine's; ``entrypoint``: program in place of the image's.
    """

    name: str
    folders: Mapping[str, Path]
    input: str
    environment: Mapping[str, str]
    memory_mib: int
    stack_mib: int = 0
    entrypoint: str = ""


def command_line(engine: str, image: str, arguments: Sequence[str], run: ContainerRun) -> list[str]:
    """The command line by which the container ``engine`` runs ``image`` once. ``arguments``: of the image's
    program.
    """
    further = ["--userns=keep-id"] if engine == "podman" and os.getuid() else []
    if run.stack_mib:
        further.append(f"--ulimit=stack={run.stack_mib << 20}:{run.stack_mib << 20}")
    if run.entrypoint:
        further.append(f"--entrypoint={run.entrypoint}")
    for place, source in run.folders.items():
        may_write = "" if place != run.input else ",readonly"
        further.append(f"--mount=type=bind,source={source},target={place}{may_write}")
    return [
        engine,
        "run",
        "--rm",
        "--pull=never",
        f"--name={run.name}",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pids-limit=256",
        f"--memory={run.memory_mib}m",
        f"--memory-swap={run.memory_mib}m",
        f"--user={os.getuid()}:{os.getgid()}",
        "--log-driver=none",  # what it prints may name the patient
        "--tmpfs=/tmp:rw,mode=1777",
        "--env=HOME=/tmp",
        *(f"--env={key}={value}" for key, value in run.environment.items()),
        *further,
        image,
        *arguments,
    ]
