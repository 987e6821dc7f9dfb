"""The node and the folder of models: what is in use must be there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run


@pytest.mark.parametrize("pipeline", ["chest_xray", "chest_xray_boxes", "chest_xray_shadow"])
def test_check_says_when_the_model_that_was_activated_is_gone(
    run: Run, site: Path, tmp_path: Path, pipeline: str
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    text = site.read_text(encoding="utf-8")
    site.write_text(text.replace("[listener]", f'[workers]\nmodels_dir = "{models}"\n[listener]'), "utf-8")
    assert "is to use" not in run("check", "--config", site).err

    use = {pipeline: {"stack": ["gone@2"], "history": []}}
    (models / "active.json").write_text(json.dumps(use), encoding="utf-8")
    printed = run("check", "--config", site)

    assert printed.status == 78
    assert f"{pipeline} is to use gone@2" in printed.err
    assert "models rollback" in printed.err
