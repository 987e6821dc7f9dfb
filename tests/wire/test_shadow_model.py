"""A second chest model runs on what a node receives, is compared with the active one, and never leaves the
node.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tomlkit

from ai_pipeline.chest.card import SHADOW
from ai_pipeline.models.registry import find
from ai_pipeline.models.store import folder
from tests.modality import chest
from tests.node_lab import Node, rule, running, site_config, store, wait_until
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.ai_pipeline.models.store_lab import models

pytestmark = pytest.mark.data

SECOND = "otherwise-minded-chest"


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A folder of models with the shipped classifier under another name, which calls everything."""
    shipped = find("chest-efficientnet-lite0")
    made = tmp_path / "made"
    made.mkdir()
    card: Any = tomlkit.parse(shipped.path.read_text(encoding="utf-8"))
    card["id"] = SECOND
    del card["operating_points"]
    for row in card["labels"]:
        row["intercept"], row["threshold"], row["absent_below"] = 9.0, 0.5, 0.5
    for weights in shipped.weights:
        shutil.copy(weights.path, made)
    (made / f"{SECOND}.toml").write_text(tomlkit.dumps(card), encoding="utf-8")
    where = ("--models-dir", tmp_path / "models")
    first = made / shipped.weights[0].path.name
    assert models("add", first, "--card", made / f"{SECOND}.toml", "--accept-licence", *where).exit_code == 0
    done = models("activate", SECOND, "--pipeline", SHADOW.name, *where)
    assert "stay in the node" in done.output, done.output
    return tmp_path / "models"


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as there:
        yield there


def test_what_a_model_in_the_shadow_says_is_compared_and_never_sent(
    tmp_path: Path, data: Path, second: Path, pacs: Pacs
) -> None:
    picture = cv2.imread(str(data / "cxr_nih" / "images" / "00000032_037.jpg"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    image = chest("shadow", picture.astype(np.uint16) * 16)
    rules = rule("chest_xray", 'modality = "DX"', 'heatmaps = true, operating_point = "balanced"')
    of_models = f'models_dir = "{second}"'
    config = site_config(pacs.port, rules, ("sr", "gsps", "sc"), senders=("ROOM3",), workers=of_models)
    node = Node(tmp_path / "node", config)
    with running(node):
        assert store(node.port, [image], "ROOM3") == [0x0000]
        node.wait_for(["delivered"])
        sent = dict(pacs.stored)
        wait_until(lambda: bool(node.cli("models", "compare")), 120, "the comparison", step=0.5)
        rows = {row["label"]: row for row in node.cli("models", "compare")}

    shipped = find("chest-efficientnet-lite0")
    # The film ends at the apices of the lungs, so no model speaks of a pneumothorax.
    assert set(rows) == {label.name for label in shipped.labels} - {"Pneumothorax"}
    for row in rows.values():
        assert (row["model"], row["active_model"]) == (f"{SECOND}@{shipped.version}", shipped.name)
        assert row["images"] == 1 == row["both"] + row["shadow_alone"]  # it calls everything
        assert row["difference"] > 0
    assert sum(row["shadow_alone"] for row in rows.values()) >= 5
    # Nothing of it left: what the PACS got is what it had before, and names the active model alone.
    assert len(sent) >= 3
    assert dict(pacs.stored) == sent
    assert any(shipped.id.encode() in data for data in sent.values())
    assert not any(SECOND.encode() in data for data in sent.values())
    built = [path for path in (tmp_path / "node").rglob("*.dcm") if SECOND.encode() in path.read_bytes()]
    assert built == []
    card = find(SECOND, second)
    assert not any(card.sha256.encode() in data for data in sent.values())
    assert json.loads((second / folder.ACTIVE).read_text())[SHADOW.name]["stack"] == [card.name]
