"""Time of one training step on the processor and on a GPU, of the networks that ``--data`` has images for.

    python benchmarks/training.py --data DIR --devices cpu cuda

Each step is one of the published recipe, with its batches drawn beside it as in a real run: the median time
between two steps after the first ones. Prints a line for each network and device, and JSON with ``--json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ai_training.despeckle import fit as despeckle
from ai_training.engine.setup import RunOptions, carried_out, device_name
from ai_training.errors import DataMissing
from ai_training.fetal import fit as fetal
from ai_training.progress import Report
from ai_training.studies.experiment import load, shipped
from ai_training.studies.fit import run_arm
from ai_training.studies.material import StudyMaterial

FIRST = 5
"""Steps that are not counted: memory is reserved, kernels are chosen."""
Train = Callable[[Path, Path, int, Report], object]
"""Train on ``data`` into ``out`` for so many steps."""


def _train_fetal(data: Path, out: Path, steps: int, report: Report) -> object:
    recipe = fetal.HeadRecipe(iterations=steps, validate_every=steps)
    return fetal.train(data, out, recipe, report=report)


def _train_despeckle(data: Path, out: Path, steps: int, report: Report) -> object:
    recipe = replace(despeckle.recipe_of("l1-perceptual", steps, 1, 2, 1), validate_every=steps)
    return despeckle.train(data, out, recipe, report=report)


def _train_densenet(data: Path, out: Path, steps: int, report: Report) -> object:
    study = load(shipped("backbones"))
    material = StudyMaterial.gather(data, study, Path(tempfile.gettempdir()) / "training-benchmark")
    return train_arm(material, out, steps, report)


def train_arm(material: StudyMaterial, out: Path, steps: int, report: Report) -> object:
    """Train DenseNet121 of the study of backbones on ``material``."""
    [arm] = (arm for arm in load(shipped("backbones")).arms if arm.name == "densenet121")
    shorter = arm.model_copy(update={"lesson": arm.lesson.model_copy(update={"iterations": steps})})
    return run_arm(shorter, 1, material, out, out / "arm", report)


NETWORKS: Mapping[str, Train] = {
    "fetal head, U-Net, 8 of 192 × 256": _train_fetal,
    "DiConvAE, perceptual loss, 4 of 256 × 256": _train_despeckle,
    "DenseNet121, 64 of 128 × 128": _train_densenet,
}


def step_seconds(train: Callable[[Path, Report], object], device: str) -> float:
    """Median seconds of a step of ``train(out, report)`` on ``device``."""
    times: list[float] = []

    def report(_share: float, text: str) -> None:
        if text.startswith("iteration") and not text.endswith("\n"):
            times.append(time.perf_counter())

    options = RunOptions(device=device)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as out, carried_out(options):
        train(Path(out), report)
    gaps = [later - earlier for earlier, later in zip(times[FIRST:], times[FIRST + 1 :], strict=False)]
    return statistics.median(gaps)


def _of_length(train: Train, data: Path, steps: int, out: Path, report: Report) -> object:
    return train(data, out, steps, report)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with the public sets")
    parser.add_argument("--devices", nargs="+", default=["cpu"], choices=["cpu", "cuda", "mps"])
    parser.add_argument(
        "--steps", type=int, default=20, help="steps on the processor; ten times that on a GPU"
    )
    parser.add_argument("--networks", default="", help="only networks with this in their names")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, dict[str, float]] = {}
    for name, train in NETWORKS.items():
        if arguments.networks not in name:
            continue
        for device in arguments.devices:
            steps = arguments.steps * (1 if device == "cpu" else 10)
            try:
                seconds = step_seconds(partial(_of_length, train, arguments.data, steps), device)
            except DataMissing as error:
                print(f"{name}: left out, {error}", flush=True)
                break
            found.setdefault(name, {})[device_name(torch.device(device))] = seconds
            print(f"{name}, {device_name(torch.device(device))}: {seconds * 1000:.1f} ms a step", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
