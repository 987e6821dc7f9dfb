"""The demonstration: modalities send, the node analyses, and the PACS is queried for the results."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dicom_node.demo import inputs, pacs, returned, verbs
from dicom_node.demo import node as nodes
from dicom_node.demo.inputs import DemoStudy
from dicom_node.demo.node import DemoNode
from dicom_node.demo.pacs import EmbeddedPacs
from dicom_node.errors import DemoFailed

Say = Callable[[str], None]

_STUDY_SECONDS = 900.0  # a long cine on a slow machine
_POLL_SECONDS = 0.5
_NEW = ("new", "revision")  # outcomes of objects that the node had not (docs/reference/lists.md)
_ENDED = ("delivered", "not_applicable", "quarantined", "failed", "cancelled")
"""States in which nothing more happens to a study by itself."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The outcome of the demonstration for one study; ``seconds_to_pacs`` includes ``quiet_seconds``."""

    study: DemoStudy
    folder: Path
    state: str
    reason: str
    objects: tuple[returned.Returned, ...]
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds_to_pacs: float | None = None
    quiet_seconds: float = nodes.QUIET_SECONDS
    known_before: bool = False
    refused: tuple[str, ...] = ()

    @property
    def results(self) -> list[returned.Returned]:
        """The node's results that are in the PACS."""
        return [item for item in self.objects if item.kind != "source"]

    @property
    def ended_well(self) -> bool:
        """Whether results are in the PACS, or the pipeline had a reason not to apply."""
        return self.state in ("delivered", "not_applicable")


def run(
    out: Path, *, data: Path | None, own: Path | None, fresh: bool, offline: bool, say: Say
) -> list[DemoResult]:
    """Run the demonstration in ``out`` and write ``summary.json``; returns one result per study.

    PACS and node keep their data in ``out``/.site, so that a second run shows that no result is made twice;
    ``fresh`` deletes their data first. ``offline``: no film is downloaded. Raises DemoFailed, FaultyInput,
    PeerUnreachable.
    """
    site = out / ".site"
    if fresh:
        shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True, exist_ok=True)
    studies = inputs.own(own) if own else inputs.shipped(site / "input", data, offline=offline)
    archive = EmbeddedPacs(site / "pacs")
    try:
        say(f"PACS: AE title {pacs.AE_TITLE}, port {archive.port}")
        with nodes.running(site / "node", archive) as node:
            say(f"Node: AE title {nodes.NODE_AE_TITLE}, port {node.port}, log {node.log}")
            shown = [
                _run_study(study, folder, node, archive, say)
                for study, folder in zip(studies, _folders(out, studies), strict=True)
            ]
    finally:
        archive.stop()
    write_summary(out, shown)
    return shown


def write_summary(out: Path, shown: Sequence[DemoResult]) -> None:
    """Write ``summary.json``, whose keys other programs use (docs/reference/lists.md)."""
    studies = [
        {
            "modality": item.study.modality,
            "study_instance_uid": item.study.study_instance_uid,
            "origin": item.study.origin,
            "folder": item.folder.name,
            "state": item.state,
            "reason": item.reason,
            "findings": item.findings,
            "objects": [{"kind": r.kind, "sop_instance_uid": r.sop_instance_uid} for r in item.results],
            "seconds_to_pacs": item.seconds_to_pacs,
            "quiet_seconds": item.quiet_seconds,
            "known_before": item.known_before,
        }
        for item in shown
    ]
    text = json.dumps({"studies": studies}, ensure_ascii=False, indent=2)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")


def _run_study(study: DemoStudy, folder: Path, node: DemoNode, archive: EmbeddedPacs, say: Say) -> DemoResult:
    say(f"{study.modality}: {len(study.files)} object(s) from {study.calling_ae}, {study.origin}")
    config, begun = node.modality(study.calling_ae), datetime.now(UTC)
    verbs.send(config, "pacs", study.files)  # as on a real site: the modality sends to both
    sent = verbs.send(config, "node", study.files)
    stored = {item["sop_instance_uid"] for item in sent if item["stored"]}
    refused = tuple(item["text"] for item in sent if not item["stored"])
    if not stored:
        return DemoResult(study, folder, "refused", "; ".join(refused), ())
    view = _wait(study, stored, begun, node)
    known = all(item["outcome"] == "duplicate" for item in _received_since(view, begun))
    kinds = {item["sop_instance_uid"]: item["kind"] for item in view["results"]}
    objects = tuple(returned.write(folder, archive.fetch(study.study_instance_uid), kinds))
    return DemoResult(
        study,
        folder,
        view["state"],
        view["reason"],
        objects,
        verbs.findings(node.config, study.study_instance_uid),
        _seconds_to_pacs(view, node),
        known_before=known,
        refused=refused,
    )


def _wait(study: DemoStudy, stored: set[str], begun: datetime, node: DemoNode) -> dict[str, Any]:
    """Until everything sent is indexed and the study stands in an end state. Raises DemoFailed."""
    end = time.monotonic() + _STUDY_SECONDS
    while time.monotonic() < end:
        node.fail_if_ended()
        known = verbs.study(node.config, study.study_instance_uid)
        view = known or {"received": [], "state": ""}
        indexed = {item["sop_instance_uid"] for item in _received_since(view, begun)}
        if stored <= indexed and view["state"] in _ENDED:
            return view
        time.sleep(_POLL_SECONDS)
    raise DemoFailed(f"a study takes longer than {_STUDY_SECONDS:.0f} s: see {node.log}")


def _received_since(view: dict[str, Any], begun: datetime) -> list[dict[str, Any]]:
    return [item for item in view["received"] if datetime.fromisoformat(item["received_at"]) >= begun]


def _seconds_to_pacs(view: dict[str, Any], node: DemoNode) -> float | None:
    """From the reception of the last new object to the confirmation of the last result.

    By the node's records. So a second run, which sends the same objects again, tells the time of the first.
    """
    rows = verbs.deliveries(node.config, view["study_instance_uid"])
    confirmed = [datetime.fromisoformat(row["confirmed_at"]) for row in rows if row["confirmed_at"]]
    received = [
        datetime.fromisoformat(item["received_at"]) for item in view["received"] if item["outcome"] in _NEW
    ]
    if not confirmed or not received:
        return None
    return round((max(confirmed) - max(received)).total_seconds(), 3)


def _folders(out: Path, studies: Sequence[DemoStudy]) -> list[Path]:
    """``us-1``, ``us-2``, ``dx-1`` …"""
    seen: dict[str, int] = {}
    folders = []
    for study in studies:
        name = "".join(letter for letter in study.modality.lower() if letter.isalnum()) or "ot"
        seen[name] = seen.get(name, 0) + 1
        folders.append(out / f"{name}-{seen[name]}")
    return folders
