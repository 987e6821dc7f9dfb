"""A new node from five answers: configuration, systemd unit, first admin. Nothing is overwritten."""

import getpass
import re
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomlkit

from dicom_node.base.config.loading import TomlFiles, examined
from dicom_node.base.config.sample import FIRST_RULES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ConfigurationError, FaultyInput
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import upgrade_database, users

_HEAD = "# Made by `dicom-node init`. `dicom-node config sample` shows every key with its default.\n\n"
_PROGRAM, _CONFIGURED, _STATE = (  # in the unit that ships
    "/opt/dicom-node/bin/dicom-node",
    "/etc/dicom-node/node.toml",
    "/var/lib/dicom-node",
)


Answers = Mapping[str, str]
"""``ae_title``, ``data_dir``, ``pacs`` (AE@HOST:PORT), ``machines`` (AE@HOST, …), ``admin``; what is missing
is the default, or empty."""


def examine(answers: Answers) -> Settings:
    """The settings for these answers. Raises FaultyInput or ConfigurationError if an answer cannot be
    used.
    """
    read = TomlFiles(data=_tables(answers))
    settings = examined(read)
    if settings is None or read.problems:
        raise ConfigurationError(read.problems)
    return settings


def create(answers: Answers, folder: Path, password: str = "") -> tuple[Path, Path]:
    """Write configuration and unit into ``folder``, and return them; make the database if the answers name an
    admin.

    Everything is checked before anything is written. Raises the errors of :func:`examine` and of
    ``users.refuse_faulty``, and FaultyInput if something would be overwritten.
    """
    settings = examine(answers)
    data_dir, admin = settings.node.data_dir, answers.get("admin", "")
    configuration, unit = folder / "node.toml", folder / "dicom-node.service"
    for path in (folder, data_dir):
        if not re.fullmatch(r"/[\w./-]*", str(path)):
            raise FaultyInput(
                f"{str(path)!r}: a unit needs a path of letters, figures, dot, dash and underscore"
            )
    for path in (configuration, unit):
        if path.exists() or path.is_symlink():
            raise FaultyInput(f"{path} is there already, and stays as it is")
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise FaultyInput(f"{data_dir} is no empty folder: take another")
    if admin:
        users.refuse_faulty(admin, password)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in (
            (configuration, _HEAD + tomlkit.dumps(_tables(answers))),
            (unit, _unit(data_dir, configuration)),
        ):
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise FaultyInput(f"{error.filename} cannot be made: {error.strerror}") from None
    if admin:
        upgrade_database(settings)
        users.add_user(settings, admin, UserRole.ADMIN, password)
    return configuration, unit


def _tables(answers: Answers) -> dict[str, Any]:
    machines = filter(None, map(str.strip, answers.get("machines", "").split(",")))
    peers = [
        _peer(r"(.+)@(.+)", machine, "machine: write AE@HOST, such as US1@192.0.2.21") for machine in machines
    ]
    data_dir = Path(answers.get("data_dir", _STATE).strip()).absolute()
    found: dict[str, Any] = {
        "node": {"ae_title": answers.get("ae_title", "AINODE").strip(), "data_dir": str(data_dir)},
        "listener": {"host": "0.0.0.0"},  # modalities are on other machines
        "console": {"enabled": bool(answers.get("admin"))},
        "peers": peers,
    }
    if text := answers.get("pacs", "").strip():
        pacs = _peer(r"(.+)@(.+):(\d{1,9})", text, "PACS: write AE@HOST:PORT, such as PACS@192.0.2.10:104")
        pacs |= {"name": "pacs", "may": ["send", "receive"]}
        pacs["results"] = ["sr", "gsps", "sc", "summary", "cleaned"]
        peers.insert(0, pacs)
        found["rules"] = [
            {"name": name, "when": {"modality": modality}, "pipeline": pipeline, "send_to": ["pacs"]}
            for name, (modality, pipeline) in FIRST_RULES.items()
        ]
    return found


def _peer(form: str, text: str, otherwise: str) -> dict[str, Any]:
    if not (found := re.fullmatch(form, text)):
        raise FaultyInput(f"{text!r} is no {otherwise}")
    ae_title, host, *port = found.groups()
    name = re.sub(r"[^A-Za-z0-9._-]", "-", ae_title.lower())
    return {"name": name, "ae_title": ae_title, "host": host, **({"port": int(port[0])} if port else {})}


def _unit(data: Path, configuration: Path) -> str:
    """The unit that ships, with the paths and the user of this node."""
    text = (files("dicom_node.base.config") / "dicom-node.service").read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("dicom-node")
    if str(data) != _STATE:
        text = text.replace("StateDirectory=dicom-node\nStateDirectoryMode=0700", f"ReadWritePaths={data}")
    if any(
        path.is_relative_to(home) for path in (data, program, configuration) for home in ("/home", "/root")
    ):
        text = text.replace("ProtectHome=yes", "ProtectHome=read-only")
    user = getpass.getuser()
    for shipped, ours in (
        ("User=dicom-node", f"User={user if user != 'root' else 'dicom-node'}"),
        ("Group=dicom-node\n", "" if user != "root" else "Group=dicom-node\n"),
        (_PROGRAM, str(program)),
        (_CONFIGURED, str(configuration)),
        (_STATE, str(data)),
    ):
        text = text.replace(shipped, ours)
    return text
