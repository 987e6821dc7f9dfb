"""The support bundle: one ZIP file of JSON that helps remote support and names no patient.

Only listed data is included: the event fields listed here, and the configuration without secrets. Free texts
(reasons, paths, AE titles of strangers) stay on the site.
"""

import json
import platform
import shutil
import zipfile
from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node import __version__
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NodeError
from dicom_node.base.store import views
from dicom_node.base.store.database import newest_schema
from dicom_node.base.store.views import View
from dicom_node.people import preflight, reading

_LIBRARIES = (
    "pydicom", "pynetdicom", "highdicom", "numpy", "onnxruntime", "torch", "opencv-python-headless",
    "SQLAlchemy", "alembic", "pydantic", "psycopg", "requests", "urllib3",
)  # fmt: skip
_NUMBERS_OF_IDENTITY = frozenset({"patient", "accession", "birth_date"})
_SECRET = frozenset({"password", "token", "username", "url", "database_url"})


def write_bundle(settings: Settings, files: Sequence[Path], destination: Path) -> list[str]:
    """Write the support bundle, a ZIP file that names no patient; returns the names of the files in it.

    ``files``: the configuration files. Raises FaultyInput if ``destination`` exists or cannot be made.
    """
    parts: dict[str, object] = {
        "versions.json": _versions(),
        "configuration.json": redacted(settings),
        "check.json": _checks(settings, files),
        "machine.json": _machine(settings.node.data_dir),
    }
    try:
        with reading(settings) as session:
            parts["counts.json"] = views.counts(session)
            parts["events.json"] = _events(session, settings)
    except NodeError as error:
        parts["database.json"] = {"problem": type(error).__name__}
    try:
        with destination.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            destination.chmod(0o600)
            for name, part in parts.items():
                bundle.writestr(name, json.dumps(part, indent=1, ensure_ascii=False, default=str))
    except OSError as error:
        raise FaultyInput(f"{destination} cannot be written: {error.strerror}") from None
    return list(parts)


def _versions() -> dict[str, str]:
    """The versions of the program, its libraries, its schema and the system."""
    installed = {package.name: package.version for package in metadata.distributions()}
    return {
        "dicom-node": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{library: installed.get(library, "not installed") for library in _LIBRARIES},
        "schema of this program": newest_schema(),
    }


def _checks(settings: Settings, files: Sequence[Path]) -> dict[str, object]:
    """What ``check`` says, without the values that it quotes."""
    checked = preflight.check(files, tries=True)
    peers = {f"peer {peer.name}" for peer in settings.peers}
    shown = (line for line in checked.tried if line.subject in peers or not line.subject.startswith("peer "))
    return {
        "problems": [{"key": problem.key.split("=")[0]} for problem in checked.problems],
        "checks": [{"subject": line.subject, "ok": line.ok} for line in shown],
    }


def _machine(folder: Path) -> dict[str, int | None]:
    """The space of the data folder's disk (MiB; None without a folder) and the numbers of its files."""
    disk = shutil.disk_usage(folder) if folder.is_dir() else None
    return {
        "free_mib": disk and disk.free // 2**20,
        "disk_mib": disk and disk.total // 2**20,
        "spool_objects": sum(1 for _ in (folder / "spool").rglob("*.dcm")),
        "results": sum(1 for _ in (folder / "results").rglob("*.dcm")),
    }


def _events(session: Session, settings: Settings) -> list[View]:
    """The newest events, with those of their fields that cannot name a patient."""
    texts = {event.number: event.text for event in events.all_types()}
    peers = {peer.name for peer in settings.peers}
    return [
        {
            "at": row["at"],
            "number": row["number"],
            "text": texts.get(row["number"], ""),
            "fields": {
                key: value for key, value in row["fields"].items() if _names_nobody(key, value, peers)
            },
        }
        for row in views.list_events(session, limit=2000)
    ]


def _names_nobody(key: str, value: object, peers: Collection[str]) -> bool:
    """Whether a field of an event is a number that identifies nobody, or a configured peer."""
    is_number = isinstance(value, bool | int | float)
    return key not in _NUMBERS_OF_IDENTITY and (is_number or str(value) in peers)


def redacted(settings: Settings) -> View:
    """The configuration as JSON values, without secrets and without the values of rules' options and
    conditions, which are the site's own words: only their keys are left.
    """
    plain: View = settings.model_dump(mode="json")
    plain["node"]["database_url"] = settings.database_url.partition(":")[0]
    for peer in plain["peers"]:
        peer |= {key: "***" for key in _SECRET & peer.keys() if peer[key]}
    for rule in plain["rules"]:
        # Values are the site's own words: descriptions, stations, paths.
        rule["options"] = sorted(rule["options"])
        rule["when"] = sorted(key for key, value in rule["when"].items() if value)
    return plain
