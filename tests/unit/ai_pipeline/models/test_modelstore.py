"""The store of models: what comes in is the file that was meant, and what runs is what somebody activated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ai_pipeline.chest.card import CARD, CLASSIFIER
from ai_pipeline.chest.trial import drawn_chest
from ai_pipeline.cli import app
from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import find, load
from ai_pipeline.models.store import folder, sandbox
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.chest.test_chest import Shown, quiet
from tests.unit.ai_pipeline.models import hostile_models
from tests.unit.ai_pipeline.models.store_lab import SHIPPED, add, contents, models, sha256
from tests.unit.ai_training import small_models


def test_a_model_is_added_beside_its_card_and_nothing_uses_it_yet(
    store: Path, model: tuple[Path, Path]
) -> None:
    done = add(*model)

    assert done.exit_code == 0, done.output
    assert "Licence: Apache-2.0" in done.output
    assert contents(store) == {
        "small",
        "small/1",
        "small/1/card.toml",
        "small/1/small.onnx",
        "small/1/origin.json",
    }
    assert folder.active(CLASSIFIER).id == SHIPPED


def test_another_user_reads_what_was_added_and_put_into_use(tmp_path: Path, model: tuple[Path, Path]) -> None:
    """The admin adds models, the node runs as a user of its own; ai-pipeline keeps patients' data private."""
    store = tmp_path / "new" / "models"
    own = os.umask(0o077)
    try:
        assert add(*model, "--models-dir", str(store)).exit_code == 0
        name = find(load(model[1]).name, store).name
        assert models("activate", name, "--models-dir", store).exit_code == 0
    finally:
        os.umask(own)
    read = [path for path in (store, *store.rglob("*")) if path.name != ".lock"]
    assert len(read) == 7
    assert [path for path in read if path.stat().st_mode & 0o044 != 0o044] == []
    assert [path for path in read if path.stat().st_mode & 0o022] == []


def test_versions_stand_side_by_side_and_one_is_active(store: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        file, card = small_models.write(tmp_path / version, version=version, slope=float(version))
        assert add(file, card).exit_code == 0
    assert models("activate", "small@2").exit_code == 0

    rows = {(row["id"], row["version"]): row["active"] for row in json.loads(models("list", "--json").output)}

    assert rows[("small", "1")] == "" and rows[("small", "2")] == "chest_xray"
    assert folder.active(CLASSIFIER).name == "small@2"


def test_rollback_goes_back_step_by_step_to_the_shipped_model(store: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        add(*small_models.write(tmp_path / version, version=version))
        assert models("activate", f"small@{version}").exit_code == 0

    assert models("rollback").exit_code == 0
    assert folder.active(CLASSIFIER).name == "small@1"
    assert models("rollback").exit_code == 0
    assert folder.active(CLASSIFIER).id == SHIPPED
    last = models("rollback")
    assert last.exit_code == 65
    assert "nothing to roll back" in last.output
    steps = [event.by for event in folder.uses(store)["chest_xray"].history]
    assert steps == ["activate", "activate", "rollback", "rollback"]


def test_the_pipeline_runs_the_active_model_and_says_that_it_has_no_gate(
    store: Path, model: tuple[Path, Path]
) -> None:
    add(*model)
    models("activate", "small")
    pipeline = create("chest_xray")
    pipeline.warm_up()
    picture = Shown(np.full((512, 640), 200, np.uint8))

    result = pipeline.run([picture], quiet, {"all_labels": True})

    expected = {"Effusion": 200 / 255, "Lung Lesion": -200 / 255}
    assert {finding.label for finding in result.findings} == set(small_models.LABELS)
    for finding in result.findings:
        assert finding.probability == pytest.approx(1 / (1 + np.exp(-expected[finding.label])), abs=1e-5)
        assert finding.model == find("small").ref
        assert finding.regions == ()
    assert "no_gate" in {note.name for note in result.quality}


def test_a_heat_map_lies_where_the_network_saw_it_in_a_picture_that_was_cropped(
    store: Path, model: tuple[Path, Path]
) -> None:
    add(*model)
    models("activate", "small")
    pixels = np.zeros((512, 1024), np.uint8)
    pixels[320:384, 640:704] = 255  # one cell of the map: 64 × 64 pixels of the middle square
    result = create("chest_xray").run([Shown(pixels)], quiet, {"all_labels": True, "heatmaps": True})

    (effusion,) = [finding for finding in result.findings if finding.label == "Effusion"]
    assert effusion.evidence is not None
    assert effusion.evidence.method == "class activation"
    row, column = np.unravel_index(int(effusion.evidence.values.argmax()), pixels.shape)
    assert abs(row - 352) < 40 and abs(column - 672) < 40


def test_a_model_that_is_set_but_gone_is_an_error_and_never_another_model(
    store: Path, model: tuple[Path, Path]
) -> None:
    add(*model)
    models("activate", "small")
    shutil.rmtree(store / "small")

    with pytest.raises(CardError, match="models rollback"):
        create("chest_xray").warm_up()


def test_altered_weights_are_found_and_cannot_be_activated(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    file = store / "small" / "1" / "small.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")

    verified = models("verify", "--json")
    activated = models("activate", "small")

    assert verified.exit_code == activated.exit_code == 65
    assert [row["ok"] for row in json.loads(verified.output) if row["id"] == "small"] == [False]
    assert "SHA-256" in activated.output
    assert not (store / "active.json").exists()


def test_a_model_that_cannot_run_is_not_activated(store: Path, model: tuple[Path, Path]) -> None:
    file, card = model
    card.write_text(card.read_text().replace("size = 64", "size = 32"))
    add(file, card)

    done = models("activate", "small")

    assert done.exit_code == 65
    assert "does not run" in done.output


@pytest.mark.parametrize(
    ("low", "high", "picture"),
    [
        (0.15, 0.22, "a drawn chest of 512 × 512 pixels"),
        (0.22, 0.40, "noise of 48 × 64 pixels"),
        (0.01, 0.10, "noise of 1024 × 768 pixels"),
    ],
)
def test_a_model_that_gives_no_number_for_a_picture_is_not_activated_and_the_picture_is_named(
    store: Path, tmp_path: Path, low: float, high: float, picture: str
) -> None:
    add(*hostile_models.without_number(tmp_path / "made", low, high))

    done = models("activate", "small")

    assert done.exit_code == 65
    assert f"small@1 gives no number for {picture}" in done.output
    assert not (store / "active.json").exists()


def test_the_command_says_that_a_model_gave_no_number(store: Path, tmp_path: Path) -> None:
    add(*hostile_models.without_number(tmp_path / "made", 0.15, 0.22))
    # As it was before such models were refused.
    folder.activate(CARD, CLASSIFIER, find("small", store), store)
    film = tmp_path / "film.png"
    Image.fromarray(drawn_chest(512, 512)).save(film)

    done = CliRunner().invoke(
        app,
        [
            "run",
            str(film),
            "--pipeline",
            "chest_xray",
            "--modality",
            "DX",
            "--view",
            "PA",
            "--body-part",
            "CHEST",
            "--json",
            "--out",
            str(tmp_path / "out"),
        ],
    )

    record = json.loads(done.stdout)
    assert done.exit_code == 65
    assert record["reason"] == "the model gave no number"
    assert (record["accepted"], record["findings"]) == (False, [])


def test_the_hash_is_printed_as_a_model_comes_in_and_as_it_is_put_into_use(
    store: Path, model: tuple[Path, Path]
) -> None:
    told = f"SHA-256 {sha256(model[0])}  small.onnx"

    assert told in add(*model).output
    assert told in models("activate", "small").output


def test_a_model_that_never_ends_is_not_activated(store: Path, tmp_path: Path) -> None:
    add(*hostile_models.endless(tmp_path / "made"))

    done = models("activate", "small", "--seconds", "8")

    assert done.exit_code == 65
    assert "does not run: it took longer than 8 s" in done.output
    assert not (store / "active.json").exists()


def test_a_model_that_takes_all_memory_is_not_activated(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MEMORY", 3 << 30)  # else it takes a minute to fill
    add(*hostile_models.endless(tmp_path / "made", growing=True))

    done = models("activate", "small")

    assert done.exit_code == 65
    assert "does not run" in done.output
    assert not (store / "active.json").exists()


def test_a_model_with_weights_elsewhere_that_lies_in_the_folder_already_is_not_activated(store: Path) -> None:
    file = store / "small.onnx"
    network = small_models.network()
    network.graph.node.insert(0, hostile_models.sparse_constant().graph.node[0])
    file.write_bytes(network.SerializeToString())
    small_models.write_card(file)

    done = models("activate", "small")

    assert done.exit_code == 65
    assert "in other files" in done.output


def test_ten_at_once_lose_no_line_of_history(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    card = find("small")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: folder.activate(CARD, CLASSIFIER, card, store), range(10)))

    use = folder.uses(store)["chest_xray"]
    assert len(use.history) == 10
    assert use.stack == ("small@1",)


def test_the_same_version_cannot_be_added_twice(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    before = sha256(store / "small" / "1" / "card.toml")

    again = add(*model)

    assert again.exit_code == 65
    assert "another version" in again.output
    assert sha256(store / "small" / "1" / "card.toml") == before


def test_what_a_killed_process_left_is_cleared_away_a_day_later(
    store: Path, model: tuple[Path, Path]
) -> None:
    left, fresh = store / ".incoming-left", store / ".incoming-fresh"
    for path in (left, fresh):
        (path / "half").mkdir(parents=True)
    os.utime(left, (0, 0))

    assert add(*model).exit_code == 0

    assert not left.exists()
    assert fresh.exists()


def test_no_card_no_model(store: Path, model: tuple[Path, Path]) -> None:
    done = models("add", model[0], "--accept-licence")

    assert done.exit_code == 2
    assert "no card, no model" in done.output


@pytest.mark.parametrize("name", ["../escaped", "a/b", ".hidden", ""])
def test_an_id_cannot_leave_the_folder(store: Path, model: tuple[Path, Path], name: str) -> None:
    file, card = model
    card.write_text(card.read_text().replace('id = "small"', f'id = "{name}"'))

    assert add(file, card).exit_code == 65
    assert contents(store) == set()
    assert not (store.parent / "escaped").exists()


def test_a_card_cannot_name_a_file_elsewhere(store: Path, model: tuple[Path, Path]) -> None:
    file, card = model
    card.write_text(card.read_text().replace('file = "small.onnx"', 'file = "../small.onnx"'))

    done = add(file, card)

    assert done.exit_code == 65
    assert "beside the card" in done.output


def test_the_program_itself_lists_what_the_store_holds(store: Path, model: tuple[Path, Path]) -> None:
    add(*model)
    command = [sys.executable, "-m", "ai_pipeline", "models", "list", "--json"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert {"small", SHIPPED} <= {row["id"] for row in json.loads(done.stdout)}
