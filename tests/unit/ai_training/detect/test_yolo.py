"""Ultralytics trains on our trunk, for real: what it exports says without torch what it said with it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[4]
# The program that a node runs has neither.
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["ultralytics"] = None
from pathlib import Path
import numpy as np
from ai_pipeline.models.engine import OnnxRuntime
folder = Path(sys.argv[1])
with np.load(folder / "said.npz") as said:
    values = said["values"]
np.save(folder / "boxes.npy", OnnxRuntime((folder / "yolo.onnx").read_bytes(), 1)(values)["boxes"])
"""


def run(*words: str) -> None:
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "YOLO_AUTOINSTALL": "false"}
    command = [sys.executable, "-W", "ignore", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_one_epoch_on_ten_pictures_becomes_a_file_that_runs_without_torch(tmp_path: Path) -> None:
    run("-m", "tests.unit.ai_training.detect.tiny_yolo", str(tmp_path))
    run("-c", WITHOUT_TORCH, str(tmp_path))

    with (tmp_path / "run" / "results.csv").open() as lines:
        (epoch,) = csv.DictReader(lines)
    losses = [float(epoch[f"train/{name}_loss"]) for name in ("box", "cls", "l1")]
    assert np.isfinite(losses).all() and min(losses) > 0  # the boxes were found and learned from
    with np.load(tmp_path / "said.npz") as said:
        in_torch = said["boxes"][0]
    found = np.load(tmp_path / "boxes.npy")[0]
    assert found.shape == in_torch.shape == (100, 6)
    # Boxes whose scores are all but equal may change places.
    apart = np.abs(found[:, None] - in_torch[None]) / (
        0.05,
        0.05,
        0.05,
        0.05,
        1e-4,
        0.5,
    )  # pixels, score, label
    assert apart.max(axis=2).min(axis=0).max() < 1 and apart.max(axis=2).min(axis=1).max() < 1
    assert set(found[:, 5]) <= {0.0, 1.0}
    assert np.ptp(found[:, 4]) > 1e-3  # else the comparison says nothing
