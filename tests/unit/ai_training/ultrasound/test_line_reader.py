"""A reader of lines: its training, its export, and the lines that are drawn for it."""

from pathlib import Path

import cv2
import drawn_lines
import numpy as np
import pytest
import reader as line_reader
import torch

from ai_pipeline.burnin.find.annotation import Picture
from ai_pipeline.burnin.find.networks import HEIGHT, SYMBOLS, known
from ai_pipeline.burnin.tools import (
    LINES,
    shared_tools,
)
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime
from ai_training.sets.files import rows
from ai_training.ultrasound.overlays.scenes import clean_frames
from tests.unit.ai_pipeline.phantoms import burn, linear_echo
from tests.unit.ai_training import published_lab as lab

# The reader of small letters: drawn lines, two steps of training, its card in the tools, its figures

DATA = Path(__file__).resolve().parents[3] / "data"
TINY = line_reader.ReaderRecipe(iterations=2, lines=4, validate_every=1, half=False, threads=1)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures under the names of the frames that training and validation read."""
    data, needed = tmp_path_factory.mktemp("data"), (*clean_frames("train")[::3], *clean_frames("val"))
    size = max(one.box[3] for one in needed), max(one.box[2] for one in needed)
    cv2.imwrite(str(data / "speckle.jpg"), linear_echo(3, size))
    for path in (data / one.source / one.file for one in needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(data / "speckle.jpg")
    return data


def test_a_reader_that_was_trained_is_the_one_that_the_node_runs(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_reader, "VALIDATED", 2)
    card = line_reader.train(frames, tmp_path, TINY)
    registry.verify(found := registry.find(line_reader.ID, tmp_path))
    assert (line_reader.ID, found.path, found.details["symbols"]["read"]) == (LINES, card, SYMBOLS)
    assert found.details["training"]["fonts"] == drawn_lines.PACKAGES.split()
    tools = shared_tools(tmp_path)
    assert tools.models[1] == found.ref != shared_tools().models[1]
    assert tools.reader.small is not None
    tools.reader.small.read(burn(np.zeros((20, 90), np.uint8), "Gn -2", (4, 2), 255, 14))


@pytest.mark.parametrize("columns", [32, 128, 1600])
def test_what_is_exported_says_what_was_trained_at_every_width(tmp_path: Path, columns: int) -> None:
    torch.manual_seed(3)
    network = line_reader.ReaderNetwork(len(SYMBOLS) + 1).eval()
    line_reader.export_reader(network, path := tmp_path / "reader.onnx")
    line = np.random.default_rng(1).uniform(-1, 1, (1, 1, HEIGHT, columns)).astype(np.float32)
    theirs = OnnxRuntime(path.read_bytes(), 1)(line)["symbols"]
    with torch.inference_mode():
        np.testing.assert_allclose(
            line_reader.ReaderGraph(network)(torch.from_numpy(line)).numpy(), theirs, atol=1e-4
        )
    assert theirs.shape == (1, columns // 4, len(SYMBOLS) + 1)


def test_lines_are_drawn_alike_by_one_seed_and_every_symbol_has_an_output() -> None:
    def drawn(seed: int) -> list[tuple[Picture, str]]:
        random = np.random.default_rng(seed)
        return [drawn_lines.synthetic_line(random, [linear_echo()]) for _ in range(40)]

    for (picture, text), (again, same) in zip(drawn(1), drawn(1), strict=True):
        assert np.array_equal(picture, again)
        assert text == same == known(text)
    lines, symbols, lengths = drawn_lines.batch_of(drawn(2))
    assert lines.shape[:3] == (40, 1, HEIGHT)
    assert lines.shape[3] % 64 == 0
    assert lengths.sum() == len(symbols)
    assert 0 < int(symbols.min()) <= int(symbols.max()) <= len(SYMBOLS)
    assert lines.shape[3] // 4 >= 2 * int(lengths.max()) + 1  # CTC parts equal letters by a blank
    assert 0 in lengths  # pictures without letters


@pytest.mark.parametrize(
    ("one", "other", "changes"), [("", "", 0), ("Gn", "", 2), ("Gn5", "6n5", 1), ("kitten", "sitting", 3)]
)
def test_letters_to_change(one: str, other: str, changes: int) -> None:
    assert line_reader.distance(one, other) == line_reader.distance(other, one) == changes


def test_the_written_lines_are_lines() -> None:
    found = list(rows(DATA / "lines" / "lines.csv"))
    assert len(found) == 368
    assert [row for row in found if not row["text"].strip() or int(row["right"]) <= int(row["left"])] == []


@pytest.mark.data
def test_readers_are_measured_on_real_lines(data: Path, tmp_path: Path) -> None:
    some = [row for row in rows(DATA / "lines" / "lines.csv") if row["set"] == "us_ovarian"][:6]
    lab.table(tmp_path / "lines.csv", list(some[0]), [list(row.values()) for row in some])
    result = line_reader.evaluate_reader(data, tmp_path, shared_tools().reader, 2)
    assert result["lines"] == result["us_ovarian"]["ours"]["lines"] == 6
    assert result["names_dates_numbers"] > 0
    assert {"ours", "rapidocr"} <= set(result["readers"])
    for figures in result["readers"].values():
        value, low, high = figures["character_error"]
        assert low <= value <= high
        assert 0 <= figures["taken_for_harmless"] <= result["names_dates_numbers"]
