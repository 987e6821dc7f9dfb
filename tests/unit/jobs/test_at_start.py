"""A worker process goes on under a changed configuration while a new one would have the same in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.settings import Settings
from dicom_node.jobs.worker.at_start import AtStart


def taken(folder: Path, pipeline: str = "chest_xray", **sections: Any) -> AtStart:
    rule = {"name": "rule", "when": {"modality": "*"}, "pipeline": pipeline, "send_to": []}
    workers = {"models_dir": folder, **sections.pop("workers", {})}
    return AtStart.under(Settings.model_validate({"workers": workers, "rules": [rule], **sections}))


def test_it_goes_on_under_other_rules_peers_and_limits(tmp_path: Path) -> None:
    peer = {"name": "pacs", "ae_title": "PACS"}
    now = taken(tmp_path, "ultrasound", peers=[peer], workers={"attempts": 1})
    assert taken(tmp_path).serves(now)


@pytest.mark.parametrize(
    "changed",
    [
        lambda folder: taken(folder, workers={"threads": 1}),
        lambda folder: taken(folder, workers={"memory_mib": 0}),
        lambda folder: taken(folder, workers={"inference": "openvino"}),
        lambda folder: taken(folder, log={"format": "json"}),
        lambda folder: taken(folder / "other"),
        lambda folder: [(folder / "card.toml").write_text("new"), taken(folder)][1],
        lambda folder: taken(folder, "of another package"),
    ],
)
def test_it_does_not_under_what_it_has_from_its_start(
    tmp_path: Path, changed: Callable[[Path], AtStart]
) -> None:
    before = taken(tmp_path)
    assert not before.serves(changed(tmp_path))


def test_code_of_another_package_may_have_changed(tmp_path: Path) -> None:
    assert not taken(tmp_path, "of another package").serves(taken(tmp_path, "of another package"))
