"""Report on how far the last objects between the node and a peer conformed to the standard.

For objects sent there: the gate's refusals, statuses, and the findings of dciodvfy (dicom3tools) if it is
installed. For objects received from there: refusals, faults, repaired attributes. The report contains no
value of a header.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import __version__
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import CannotCreate
from dicom_node.events import RESULT_REFUSED, SOURCE_REPAIRED, STORE_REFUSED
from dicom_node.model.kinds import AuditAction, Outcome
from dicom_node.object_store.files import Files
from dicom_node.services import audit, reading, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.peers import place_for_test
from dicom_node.store.tables import Delivery, Job, ReceivedObject, Result
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, as_json, columns, list_events

MOST: Final = 100
"""Objects of each direction, the newest."""
_EVENTS: Final = 1000  # that are looked through for each kind
_DCIODVFY: Final = "dciodvfy"
NEWER: Final = "Attributes younger than the installed dciodvfy, such as (0008,001C), are errors to it."
_ONE_SECONDS, _ALL_SECONDS = 20.0, 90.0
_LARGEST: Final = 64 * 2**20  # bytes of a file that is validated
_LINES: Final = 200  # of one file
# A path of tags begins with a slash; anything else may be a value, and its end is not known ("A>B^C").
_VALUE = re.compile(r"(?:(?<== )<|<(?!/)).*")
_WAY = re.compile(r"</(?:[^>]*/)?([^>/]+?)(?:\[\d+\])?>")  # to the attribute, by way of numbered items
_COUNTED: Final = {"faults": "violated", "warnings": "warned of"}


def report(settings: Settings, name: str, *, validate: bool = True) -> View:
    """The report on a peer; keys as ``dicom-node peers conformance --json`` (docs/reference/lists.md).

    ``validate``: run dciodvfy on the objects sent there. Raises UnknownPeer, TooManyAtOnce.
    """
    peer = settings.peer(name)
    with reading(settings) as session:
        found: View = {
            "peer": peer.name,
            "ae_title": peer.ae_title,
            "at": as_json(utc_now()),
            "version": __version__,
            "sent": _sent(session, settings, peer),
            "refused_by_gate": _refused_by_gate(session, peer),
            "received": _received(session, peer),
            "refused_objects": _refused_objects(session, peer),
        }
    found["validator"] = _validated(found["sent"]) if validate else None
    for row in found["sent"]:
        del row["path"]
    return found | {"totals": _totals(found)}


def write(settings: Settings, name: str, file: Path, by: Person = COMMAND_LINE) -> View:
    """Write the report as Markdown into a new file, and return it. Raises CannotCreate and as ``report``."""
    if file.exists():
        raise CannotCreate(f"{file} is there already: give the name of a new file")
    found = report(settings, name)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(as_text(found))
    except OSError as error:
        raise CannotCreate(f"{file} cannot be written: {error.strerror}") from None
    note_export(settings, name, by)
    return found


def note_export(settings: Settings, name: str, by: Person) -> None:
    """Record in the audit that a person downloads the report."""
    with writing(settings) as session:
        audit.note(session, by, AuditAction.EXPORTED, list="conformance", peer=name)


def as_text(found: View) -> str:
    """The report as Markdown."""
    return "\n".join(_lines(found)) + "\n"


def _sent(session: Session, settings: Settings, peer: PeerSettings) -> list[View]:
    chosen = select(Delivery, Result).join(Delivery.result).where(Delivery.destination == peer.name)
    rows = session.execute(chosen.order_by(Delivery.id.desc()).limit(MOST)).all()
    names = ("state", "status", "reason", "attempts", "refusals", "sent_at", "confirmed_at")
    files = Files(settings)
    return [
        {
            **columns(result, "kind", "sop_class_uid", "sop_instance_uid", "created_at"),
            **columns(delivery, *names),
            "faults": [],
            "warnings": [],
            "path": files.if_here(session, result.path),
        }
        for delivery, result in rows
    ]


def _refused_by_gate(session: Session, peer: PeerSettings) -> list[View]:
    """Results for this peer, among others, that were not built: their jobs say why."""
    events = list_events(session, numbers=[RESULT_REFUSED.number], limit=_EVENTS)
    wanted = [event["fields"].get("job") for event in events]
    rows = session.execute(select(Job.id, Job.destinations).where(Job.id.in_(wanted)))
    jobs = {number for number, destinations in rows if peer.name in destinations}
    found = [event for event in events if event["fields"].get("job") in jobs]
    return [
        {"at": event["at"], "job": event["fields"]["job"], "reason": event["fields"].get("reason", "")}
        for event in found[-MOST:]
    ]


def _received(session: Session, peer: PeerSettings) -> list[View]:
    title = ReceivedObject.calling_ae == peer.ae_title
    rows = session.scalars(select(ReceivedObject).where(title).order_by(ReceivedObject.id.desc()).limit(MOST))
    repaired: dict[str, View] = {}
    for event in list_events(session, numbers=[SOURCE_REPAIRED.number], limit=_EVENTS):
        repaired[str(event["fields"].get("instance", ""))] = event["fields"]
    return [
        {
            **columns(row, "sop_instance_uid", "outcome", "reason", "received_at"),
            **{
                key: [word for word in str(about.get(key) or "").split(",") if word]
                for key in ("repaired", "left_out")
            },
        }
        for row in rows
        for about in [repaired.get(row.sop_instance_uid, {})]
    ]


def _refused_objects(session: Session, peer: PeerSettings) -> list[View]:
    events = list_events(session, numbers=[STORE_REFUSED.number], limit=_EVENTS)
    found = [event for event in events if event["fields"].get("calling") == peer.ae_title]
    return [
        {"at": event["at"], **{key: str(event["fields"].get(key, "")) for key in ("status", "reason")}}
        for event in found[-MOST:]
    ]


def _validated(rows: Sequence[View]) -> View:
    """Let dciodvfy look at the files; which it is, and how many of them it saw."""
    program = shutil.which(_DCIODVFY)
    if program is None:
        return {"program": "", "files": 0}
    ends, files = time.monotonic() + _ALL_SECONDS, 0
    with place_for_test():
        for row in rows:
            path: Path | None = row["path"]
            if time.monotonic() > ends or path is None or path.stat().st_size > _LARGEST:
                continue
            messages = _validator_messages(program, path)
            if messages is not None:
                files += 1
                row["faults"] = [line for kind, line in messages if kind == "Error"]
                row["warnings"] = [line for kind, line in messages if kind == "Warning"]
    return {"program": _DCIODVFY, "files": files}


def _validator_messages(program: str, path: Path) -> list[tuple[str, str]] | None:
    """Errors and warnings on a file, without values; None where it did not come to an end."""
    command = [program, "-new", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_ONE_SECONDS, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return None
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    found = [line.partition(" - ") for line in lines if line.startswith(("Error - ", "Warning - "))]
    return [(kind, _VALUE.sub("<…>", text)[:300]) for kind, _, text in found[:_LINES]]


def _totals(found: View) -> View:
    """The number of objects with each state, outcome and message."""
    sent, received = found["sent"], found["received"]
    return {
        "states": dict(Counter(row["state"] for row in sent)),
        "statuses": dict(Counter(row["status"] for row in sent if row["status"])),
        "outcomes": dict(Counter(row["outcome"] for row in received)),
        "repaired": dict(Counter(word for row in received for word in (*row["repaired"], *row["left_out"]))),
        **{key: dict(Counter(_messages(sent, key)).most_common()) for key in _COUNTED},
    }


def _messages(sent: Sequence[View], key: str) -> Iterator[str]:
    """Each message once for an object, without its way through numbered items."""
    for row in sent:
        yield from sorted({_WAY.sub(r"\1", line) for line in row[key]})


def _lines(found: View) -> Iterator[str]:
    totals = found["totals"]
    yield f"# Conformance of the last objects: {found['peer']} ({found['ae_title']})"
    yield ""
    yield f"DICOM AI node {found['version']}, {found['at']}. The last {MOST} objects of each direction."
    yield ""
    yield f"## Sent there: {len(found['sent'])}"
    yield from _counts("State", totals["states"])
    yield from _counts("Status", totals["statuses"])
    yield from _rows(
        [row for row in found["sent"] if row["reason"]],
        "sop_instance_uid",
        "kind",
        "state",
        "status",
        "reason",
    )
    yield ""
    yield f"## Refused by the node's own gate: {len(found['refused_by_gate'])}"
    yield from _rows(found["refused_by_gate"], "at", "job", "reason")
    yield ""
    validator = found["validator"]
    if validator is None or not validator["program"]:
        yield "## Validation: dciodvfy was not run" + ("" if validator is None else ", it is not installed")
    else:
        yield f"## Validation by {validator['program']} of {validator['files']} files"
        for key, heading in _COUNTED.items():
            yield from _counts(heading.capitalize(), totals[key])
        yield NEWER if totals["faults"] else "No errors."
    yield ""
    yield f"## Received from there: {len(found['received'])}"
    yield from _counts("Outcome", totals["outcomes"])
    yield from _counts("Attribute repaired or left out", totals["repaired"])
    bad = {Outcome.QUARANTINED.value, Outcome.CONFLICT.value}
    faulty = [row for row in found["received"] if row["outcome"] in bad]
    yield from _rows(faulty, "received_at", "sop_instance_uid", "outcome", "reason")
    yield ""
    yield f"## Refused with a status: {len(found['refused_objects'])}"
    yield from _rows(found["refused_objects"], "at", "status", "reason")


def _counts(heading: str, counts: dict[str, int]) -> Iterator[str]:
    if counts:
        yield from ("", f"| {heading} | Objects |", "| --- | --- |")
        yield from (f"| {_cell(word)} | {number} |" for word, number in counts.items())


def _rows(rows: Sequence[View], *keys: str) -> Iterator[str]:
    if rows:
        yield from (
            "",
            f"| {' | '.join(key.replace('_', ' ') for key in keys)} |",
            "| --- " * len(keys) + "|",
        )
        yield from (f"| {' | '.join(_cell(row[key]) for key in keys)} |" for row in rows)


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
