"""A new node from five answers: configuration, systemd unit, first admin. Nothing is overwritten."""

import getpass
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomlkit

from dicom_node.base.config.loading import TomlFiles, validated
from dicom_node.base.config.sample import FIRST_RULES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ConfigurationError, FaultyInput
from dicom_node.base.lifecycle import CONSOLE_NAME, UserRole
from dicom_node.base.processes import console_program
from dicom_node.people import upgrade_database, users

_HEAD = "# Made by `dicom-node init`. `dicom-node config sample node` (peers, rules) shows every key.\n\n"
_USER = "dicom-node"
_PROGRAM, _CONFIGURED, _STATE = (  # in the unit that ships
    "/opt/dicom-node/bin/dicom-node",
    "/etc/dicom-node/node.toml",
    "/var/lib/dicom-node",
)


Answers = Mapping[str, str]
"""``ae_title``, ``data_dir``, ``pacs`` (AE@HOST:PORT), ``machines`` (AE@HOST, …), ``admin``; what is missing
is the default, or empty."""


def examine_answers(answers: Answers) -> Settings:
    """The settings that these answers for a new node give. Raises FaultyInput, ConfigurationError for
    unusable ones.
    """
    read = TomlFiles(data=_tables(answers))
    settings = validated(read)
    if settings is None or read.problems:
        raise ConfigurationError(read.problems)
    data_dir = settings.node.data_dir
    if "data_dir" in answers and data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise FaultyInput(f"{data_dir} is no empty folder: take another")
    if answers.get("admin") and not console_program():
        raise FaultyInput("the console needs its package: pip install ./dicom_console (or leave it out)")
    return settings


def new_files(folder: Path) -> tuple[Path, Path]:
    """The configuration and the unit that ``create_node`` writes. Raises FaultyInput if one exists."""
    paths = folder / "node.toml", folder / "dicom-node.service"
    for path in paths:
        if path.exists() or path.is_symlink():
            raise FaultyInput(f"{path} is there already, and stays as it is")
    return paths


def create_node(answers: Answers, folder: Path, password: str = "") -> tuple[Path, Path]:
    """Write configuration and systemd unit of a new node into ``folder``; returns the paths of both files.

    If the answers name an admin, the database is made, too, with this account and ``password``. Everything is
    checked before anything is written. Raises the errors of :func:`examine_answers` and of
    ``users.checked_password``, and FaultyInput if something would be overwritten.
    """
    configuration, unit = new_files(folder)
    settings = examine_answers(answers)
    data_dir, admin = settings.node.data_dir, answers.get("admin", "")
    for path in (folder, data_dir):
        if not re.fullmatch(r"/[\w./-]*", str(path)):
            raise FaultyInput(
                f"{str(path)!r}: a unit needs a path of letters, figures, dot, dash and underscore"
            )
    if admin:
        users.checked_password(admin, password)
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
    if getpass.getuser() == "root":
        with suppress(LookupError):  # there may be no such user yet
            for path in (configuration, data_dir, *data_dir.rglob("*")):
                shutil.chown(path, _USER, _USER)
    return configuration, unit


def _tables(answers: Answers) -> dict[str, Any]:
    """The answers for a new node as tables of the configuration. Raises FaultyInput."""
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
    if text or answers.get("admin"):  # without a PACS results are seen at the console
        found["rules"] = [
            {
                "name": name,
                "when": {"modality": modality},
                "pipeline": pipeline,
                "send_to": ["pacs"] if text else [],
                "secondary_captures_from": [CONSOLE_NAME],
            }
            for name, (modality, pipeline) in FIRST_RULES.items()
        ]
    return found


def _peer(form: str, text: str, otherwise: str) -> dict[str, Any]:
    """Read a peer from a text such as AE@HOST:PORT; ``form``: the regular expression for it.

    Raises FaultyInput, whose text ends with ``otherwise``.
    """
    if not (found := re.fullmatch(form, text)):
        raise FaultyInput(f"{text!r} is no {otherwise}")
    ae_title, host, *port = found.groups()
    name = re.sub(r"[^A-Za-z0-9._-]", "-", ae_title.lower())
    return {"name": name, "ae_title": ae_title, "host": host, **({"port": int(port[0])} if port else {})}


def _unit(data: Path, configuration: Path) -> str:
    """The text of the systemd unit, with the paths and the user of this node."""
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
        (f"User={_USER}", f"User={user if user != 'root' else _USER}"),
        (f"Group={_USER}\n", "" if user != "root" else f"Group={_USER}\n"),
        (_PROGRAM, str(program)),
        (_CONFIGURED, str(configuration)),
        (_STATE, str(data)),
    ):
        text = text.replace(shipped, ours)
    return text
