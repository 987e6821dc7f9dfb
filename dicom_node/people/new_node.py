"""A new node from five answers: configuration, systemd unit, first admin. Nothing is overwritten."""

import getpass
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomlkit

from dicom_node.base.config.loading import TomlFiles, examined
from dicom_node.base.config.sample import FIRST_RULES
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import CannotCreate, ConfigurationError, FaultyInput
from dicom_node.base.kinds import UserRole
from dicom_node.people import upgrade_database, users

_HEAD = "# Made by `dicom-node init`. `dicom-node config sample` shows every key with its default.\n\n"
CONFIGURATION, UNIT = "node.toml", "dicom-node.service"
_PROGRAM, _CONFIGURED, _STATE = (  # in the unit that ships
    "/opt/dicom-node/bin/dicom-node",
    "/etc/dicom-node/node.toml",
    "/var/lib/dicom-node",
)


@dataclass(frozen=True, slots=True)
class Answers:
    """A person's answers to the questions about a new node."""

    ae_title: str = "AINODE"
    data_dir: Path = Path(_STATE)
    pacs: str = ""
    """``AE@HOST:PORT``, where results go; empty: nowhere yet, so no rules either."""
    machines: tuple[str, ...] = ()
    """``AE@HOST`` of each that sends."""
    admin: str = ""
    """Name of the first user of the console; empty: no console."""


def examine(answers: Answers) -> Settings:
    """The settings for these answers. Raises FaultyInput or ConfigurationError if an answer cannot be
    used.
    """
    read = TomlFiles(data=_tables(answers))
    settings = examined(read)
    if settings is None or read.problems:
        raise ConfigurationError(read.problems)
    return settings


def refuse_what_is_there(folder: Path, data_dir: Path | None = None) -> None:
    """Raise CannotCreate if a file would be overwritten, or the data folder is not empty."""
    for path in (folder / CONFIGURATION, folder / UNIT):
        if path.exists() or path.is_symlink():
            raise CannotCreate(f"{path} is there already, and stays as it is")
    if data_dir and data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise CannotCreate(f"{data_dir} is no empty folder: take another")


def create(answers: Answers, folder: Path, password: str) -> None:
    """Write configuration and unit into ``folder``; make the database if the answers name an admin.

    Everything is checked before anything is written. Raises the errors of :func:`examine`,
    :func:`refuse_what_is_there` and ``users.refuse_faulty``.
    """
    settings = examine(answers)
    for path in (folder, answers.data_dir):
        if not re.fullmatch(r"/[\w./-]*", str(path)):
            raise FaultyInput(
                f"{str(path)!r}: a unit needs a path of letters, figures, dot, dash and underscore"
            )
    refuse_what_is_there(folder, answers.data_dir)
    if answers.admin:
        users.refuse_faulty(answers.admin, password)
    try:
        answers.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            (CONFIGURATION, _HEAD + tomlkit.dumps(_tables(answers))),
            (UNIT, _unit(answers, folder)),
        ):
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise CannotCreate(f"{error.filename} cannot be made: {error.strerror}") from None
    if answers.admin:
        upgrade_database(settings)
        users.add_user(settings, answers.admin, UserRole.ADMIN, password)


def _tables(answers: Answers) -> dict[str, Any]:
    found: dict[str, Any] = {
        "node": {"ae_title": answers.ae_title, "data_dir": str(answers.data_dir)},
        "listener": {"host": "0.0.0.0"},  # modalities are on other machines
        "console": {"enabled": bool(answers.admin)},
        "peers": [_machine(text) for text in answers.machines],
    }
    if answers.pacs:
        if not (known := re.fullmatch(r"(.+)@(.+):(\d{1,9})", answers.pacs)):
            raise FaultyInput(f"{answers.pacs!r} is no PACS: write AE@HOST:PORT, such as PACS@192.0.2.10:104")
        pacs = {"name": "pacs", "ae_title": known[1], "host": known[2], "port": int(known[3])}
        pacs |= {"may": ["send", "receive"], "results": ["sr", "gsps", "sc", "summary", "cleaned"]}
        found["peers"].insert(0, pacs)
        found["rules"] = [
            {"name": name, "when": {"modality": modality}, "pipeline": pipeline, "send_to": ["pacs"]}
            for name, (modality, pipeline) in FIRST_RULES.items()
        ]
    return found


def _machine(text: str) -> dict[str, Any]:
    if not (found := re.fullmatch(r"(.+)@(.+)", text)):
        raise FaultyInput(f"{text!r} is no machine: write AE@HOST, such as US1@192.0.2.21")
    ae_title, host = found.groups()
    return {"name": re.sub(r"[^A-Za-z0-9._-]", "-", ae_title.lower()), "ae_title": ae_title, "host": host}


def _unit(answers: Answers, folder: Path) -> str:
    """The unit that ships, with the paths and the user of this node."""
    text = (files("dicom_node.base.config") / UNIT).read_text(encoding="utf-8")
    data, program = answers.data_dir, Path(sys.executable).with_name("dicom-node")
    if str(data) != _STATE:
        text = text.replace("StateDirectory=dicom-node\nStateDirectoryMode=0700", f"ReadWritePaths={data}")
    if any(path.is_relative_to(home) for path in (data, program, folder) for home in ("/home", "/root")):
        text = text.replace("ProtectHome=yes", "ProtectHome=read-only")
    user = getpass.getuser()
    for shipped, ours in (
        ("User=dicom-node", f"User={user if user != 'root' else 'dicom-node'}"),
        ("Group=dicom-node\n", "" if user != "root" else "Group=dicom-node\n"),
        (_PROGRAM, str(program)),
        (_CONFIGURED, str(folder / CONFIGURATION)),
        (_STATE, str(data)),
    ):
        text = text.replace(shipped, ours)
    return text
