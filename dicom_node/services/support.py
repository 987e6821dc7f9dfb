"""The support bundle: one ZIP file of JSON that helps remote support and names no patient.

Only listed data is included: the event fields listed here, and the configuration without secrets. Free texts
(reasons, paths, AE titles of strangers) stay on the site.
"""

from __future__ import annotations

import json
import platform
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from dicom_node import __version__, events, preflight, services
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import CannotCreate, NodeError
from dicom_node.store import migrate, views

_EVENTS = 2000
_LIBRARIES = (
    *("pydicom", "pynetdicom", "highdicom", "numpy", "onnxruntime", "torch", "opencv-python-headless"),
    *("SQLAlchemy", "alembic", "pydantic", "psycopg", "requests", "urllib3"),
)
_NUMBERS_OF_IDENTITY = frozenset({"patient", "accession", "birth_date"})
_WORDS = frozenset(
    {"after", "before", "database_version", "doing", "kind", "model", "outcome", "pipeline", "process"}
    | {"rule", "state", "status", "transport", "verdict", "version"}
)
_SECRET = frozenset({"password", "token", "username", "url", "database_url"})
_REDACTED = "***"


def write_bundle(settings: Settings, files: Sequence[Path], destination: Path) -> list[str]:
    """Write the ZIP file; returns the names in it. Raises CannotCreate if it exists or cannot be made."""
    parts: dict[str, object] = {
        "versions.json": _versions(),
        "configuration.json": redacted(settings),
        "check.json": _check(files, settings),
        "machine.json": _machine(settings),
    }
    try:
        with services.reading(settings) as session:
            parts["counts.json"] = views.counts(session)
            rows = views.list_events(session, limit=_EVENTS)
            parts["events.json"] = [_event(row, settings) for row in rows]
    except NodeError as error:
        parts["database.json"] = {"problem": type(error).__name__}
    try:
        with destination.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            destination.chmod(0o600)
            for name, part in parts.items():
                bundle.writestr(name, json.dumps(part, indent=1, ensure_ascii=False, default=str))
    except OSError as error:
        raise CannotCreate(f"{destination} cannot be written: {error.strerror}") from None
    return list(parts)


def redacted(settings: Settings) -> dict[str, Any]:
    """The configuration without secrets, as JSON values."""
    plain: dict[str, Any] = settings.model_dump(mode="json")
    plain["node"]["database_url"] = settings.database_url.partition(":")[0]
    for peer in plain["peers"]:
        peer |= {key: _REDACTED for key in _SECRET & peer.keys() if peer[key]}
    for rule in plain["rules"]:
        # Values are the site's own words: descriptions, stations, paths.
        rule["options"] = sorted(rule["options"])
        rule["when"] = sorted(key for key, value in rule["when"].items() if value)
    return plain


def _event(row: Mapping[str, Any], settings: Settings) -> dict[str, object]:
    known = {event.number: event.text for event in events.all_types()}
    fields = {key: _safe(key, value, settings.peers) for key, value in row["fields"].items()}
    shown = {key: value for key, value in fields.items() if value is not None}
    return {"at": row["at"], "number": row["number"], "text": known.get(row["number"], ""), "fields": shown}


def _safe(key: str, value: object, peers: Sequence[PeerSettings]) -> object:
    """The value if it cannot name a patient: numbers, words of the program, configured peers."""
    if key in ("calling_ae", "destination", "peer"):
        return next((peer.name for peer in peers if value in (peer.name, peer.ae_title)), "other")
    if isinstance(value, bool | int | float) and key not in _NUMBERS_OF_IDENTITY:
        return value
    return value if key in _WORDS and isinstance(value, str) and value.replace("_", "").isalnum() else None


def _check(files: Sequence[Path], settings: Settings) -> dict[str, object]:
    """What ``check`` says, without the values that it quotes."""
    checked = preflight.check_and_probe(files)
    problems, tried = checked.problems, checked.tried
    names = {peer.name for peer in settings.peers}
    return {
        "problems": [{"key": problem.key.split("=")[0]} for problem in problems],
        "checks": [
            {"subject": line.subject, "ok": line.ok}
            for line in tried
            if not line.subject.startswith("peer ") or line.subject.removeprefix("peer ") in names
        ],
    }


def _versions() -> dict[str, str]:
    found = {"dicom-node": __version__, "python": platform.python_version(), "system": platform.platform()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found | {"schema of this program": migrate.head()}


def _machine(settings: Settings) -> dict[str, object]:
    folder = settings.node.data_dir
    disk = shutil.disk_usage(folder) if folder.is_dir() else None
    return {
        "free_mib": disk and disk.free // 2**20,
        "disk_mib": disk and disk.total // 2**20,
        "spool_objects": sum(1 for _ in (folder / "spool").rglob("*.dcm")),
        "results": sum(1 for _ in (folder / "results").rglob("*.dcm")),
    }
