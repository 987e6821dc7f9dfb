"""Pictures of a study of one finding: ROC curves, and where its best and its worst arm look.

They are drawn only into the folder of the run. The images belong to the data set, whose licence says whether
they may be passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor, nn

from ai_training.engine.run import BEST
from ai_training.evaluation.plots import GREY, save
from ai_training.evaluation.saliency.gradcam import last_feature_maps, signed_grad_cam
from ai_training.metrics import Floats
from ai_training.networks.studies import study_network
from ai_training.studies.compare import ArmRow
from ai_training.studies.experiment import Arm, ChestStudy
from ai_training.studies.fit import tensor
from ai_training.studies.material import StudyMaterial
from ai_training.studies.run import Answers

SHOWN = 3  # positives, and as many negatives, drawn at random
Bytes = npt.NDArray[np.uint8]


def write_pictures(
    out: Path, study: ChestStudy, material: StudyMaterial, answers: Answers, rows: Sequence[ArmRow]
) -> list[Path]:
    """Write ``roc.png`` and ``maps.png`` into ``out``, of the arms with one label that were tested on the
    same images.

    Nothing if there are fewer than two such arms. ``maps.png``: for random held-out images, with the finding
    in the upper rows: the image, and for the best and the worst arm (first seed) Grad-CAM and the mean of the
    last feature maps.
    """
    arms = [arm for arm in study.arms if len(arm.task.labels) == 1]
    arms = [arm for arm in arms if _asked(answers, arm) == _asked(answers, arms[0])]
    if len(arms) < 2:
        return []
    found = {row.name: row.auc.value for row in rows}
    order = sorted(arms, key=lambda arm: np.nan_to_num(found[arm.name]))
    held = answers[arms[0].name][0].rows
    truth = material.labels(arms[0].task)[held, 0] > 0
    _roc(out / "roc.png", arms, answers, truth)
    random = np.random.default_rng(0)
    shown = [row for kind in (True, False) for row in random.permutation(held[truth == kind])[:SHOWN]]
    _maps(out / "maps.png", (order[-1], order[0]), out, study.seeds[0], material, shown)
    return [out / "roc.png", out / "maps.png"]


def _asked(answers: Answers, arm: Arm) -> list[int]:
    rows: list[int] = answers[arm.name][0].rows.tolist()
    return rows


def _roc(path: Path, arms: Sequence[Arm], answers: Answers, truth: npt.NDArray[np.bool_]) -> None:
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for arm in arms:
        scores = np.mean([held.logits[:, 0] for held in answers[arm.name]], axis=0)
        false, true, _ = roc_curve(truth, scores)
        axes.plot(false, true, linewidth=1, label=arm.name)
    axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    axes.set_title("mean logit of the seeds, all sources together", fontsize=8)
    axes.legend(fontsize=7)
    save(figure, path)


def _maps(
    path: Path, arms: tuple[Arm, Arm], out: Path, seed: int, material: StudyMaterial, shown: Sequence[int]
) -> None:
    figure = Figure(figsize=(10, 2 * len(shown)), layout="constrained")
    grid = np.atleast_2d(figure.subplots(len(shown), 5))
    for line, row in zip(grid, shown, strict=True):
        line[0].imshow(material.pixels[row], cmap="gray", vmin=0, vmax=255)
    for place, arm in enumerate(arms):
        network = _trained(arm, out / f"{arm.name}-{seed}" / BEST)
        pixels = material.sized(arm.network.size)
        for line, row in zip(grid, shown, strict=True):
            image = pixels[row]
            for axes, values in zip(line[1 + 2 * place :], _seen(network, image), strict=False):
                axes.imshow(image, cmap="gray", vmin=0, vmax=255)
                axes.imshow(values, cmap="inferno", alpha=0.5)
    titles = ["image"] + [f"{arm.name}: {what}" for arm in arms for what in ("Grad-CAM", "feature maps")]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    for axes in grid.flat:
        axes.axis("off")
    save(figure, path)


def _trained(arm: Arm, weights: Path) -> nn.Module:
    wanted = arm.network
    network = study_network(wanted.architecture, "random", len(arm.task.labels), wanted.size)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def _seen(network: nn.Module, image: Bytes) -> tuple[Floats, Floats]:
    """Grad-CAM, what speaks against cut off, and the mean of the last feature maps, at the image's size."""
    inputs = tensor(image[None])
    layer = last_feature_maps(network, inputs)
    kept: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.inference_mode():
        network(inputs)
    hook.remove()
    parts = signed_grad_cam(network, inputs, 0, layer)[0].clamp(min=0), kept[0][0].mean(0)
    cam, features = (cv2.resize(part.detach().numpy(), image.shape[::-1]) for part in parts)
    return np.asarray(cam), np.asarray(features)
