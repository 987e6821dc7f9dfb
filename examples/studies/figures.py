"""The figures of a study: arms compared image by image, as a page, tables, plots and pictures."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from arms import Answers, Arm, ChestStudy, HeldAnswers, StudyMaterial, study_network, tensor
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor, nn

from ai_training.base import ExperimentError
from ai_training.engine import BEST, run_options
from ai_training.evaluation.plots import BLUE, GREY, ORANGE, save
from ai_training.metrics import (
    SEED,
    Cell,
    Floats,
    Interval,
    auc,
    cells,
    interval,
    patient_weights,
    resampled_auc,
)
from ai_training.text import NOT_DIAGNOSTIC, markdown_table, without_nan
from ai_training.text import interval as interval_text

FEWEST, RESAMPLES = 10, 1000


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label of one arm: number of positives among the held-out images, mean AUC within sources."""

    label: str
    positives: int
    auc: Interval


@dataclass(frozen=True, slots=True)
class ArmRow:
    """The results of one arm. ``seeds``: its mean AUC with each seed; ``difference``: its AUC minus that of
    the arm ``against``.

    ``accuracy``: share of right answers over images and labels at a probability of .5; ``always_no``: the
    accuracy of answering no to everything.
    """

    name: str
    block: str
    against: str
    learned: int
    images: int
    patients: int
    auc: Interval
    seeds: tuple[float, ...]
    difference: Interval | None
    accuracy: float
    always_no: float
    milliseconds: float
    labels: tuple[LabelRow, ...]

    @property
    def verdict(self) -> str:
        """The result of the difference in a word: ``tie`` if its interval holds 0."""
        if self.difference is None or np.isnan(self.difference.low):
            return ""
        if self.difference.low > 0:
            return f"better than {self.against}"
        return f"worse than {self.against}" if self.difference.high < 0 else f"tie with {self.against}"


def compare(study: ChestStudy, material: StudyMaterial, answers: Answers) -> tuple[ArmRow, ...]:
    """The rows of a study. Raises ExperimentError if arms to compare were tested on different images."""
    arms = {arm.name: _Resampled(arm, material, answers[arm.name]) for arm in study.arms}
    return tuple(_row(arm, arms, material) for arm in study.arms)


class _Resampled:
    """An arm's AUC of every cell with every seed, as it is and in every resample of patients."""

    def __init__(self, arm: Arm, material: StudyMaterial, held: Sequence[HeldAnswers]) -> None:
        self.arm, self.held, self.rows = arm, held, held[0].rows
        self.columns = [material.names.index(label) for label in arm.task.labels]
        self.truth = material.truth[self.rows]
        sources = np.array([material.images[row].source for row in self.rows])
        self.patients = [material.images[row].patient for row in self.rows]
        found = cells(self.truth, sources, FEWEST, material.left_out)
        self.cells = [cell for cell in found if cell.label in self.columns]
        weights = patient_weights(self.patients, RESAMPLES)
        self.plain = np.array(
            [
                [auc(self.truth[cell.rows, cell.label], self._scores(one, cell)) for cell in self.cells]
                for one in held
            ]
        )
        self.drawn = np.array([[self._drawn(one, cell, weights) for cell in self.cells] for one in held])

    def mean(self, labels: Sequence[int]) -> tuple[Floats, Floats]:
        """The mean AUC over the cells of ``labels``: of each seed ``[S]``, and resampled ``[S, B]``."""
        chosen = [k for k, cell in enumerate(self.cells) if cell.label in labels]
        if not chosen:
            return np.full(len(self.held), np.nan), np.full((len(self.held), RESAMPLES), np.nan)
        return self.plain[:, chosen].mean(1), self.drawn[:, chosen].mean(1)

    def _drawn(self, held: HeldAnswers, cell: Cell, weights: Floats) -> Floats:
        return resampled_auc(
            self.truth[cell.rows, cell.label], self._scores(held, cell), weights[:, cell.rows]
        )

    def _scores(self, held: HeldAnswers, cell: Cell) -> Floats:
        return np.asarray(held.logits[cell.rows, self.columns.index(cell.label)])


def _row(arm: Arm, arms: dict[str, _Resampled], material: StudyMaterial) -> ArmRow:
    one = arms[arm.name]
    truth = material.labels(arm.task)[one.rows]
    plain, _ = one.mean(one.columns)
    right = [float(((held.logits > 0) == (truth > 0)).mean()) for held in one.held]
    return ArmRow(
        name=arm.name,
        block=arm.block,
        against=arm.against,
        learned=one.held[0].learned,
        images=len(one.rows),
        patients=len(set(one.patients)),
        auc=_interval(one, one.columns),
        seeds=tuple(float(value) for value in plain),
        difference=_difference(one, arms[arm.against]) if arm.against else None,
        accuracy=float(np.mean(right)),
        always_no=float(1 - truth.mean()),
        milliseconds=float(np.median([held.milliseconds for held in one.held])),
        labels=tuple(
            LabelRow(material.names[k], int(one.truth[:, k].sum()), _interval(one, [k])) for k in one.columns
        ),
    )


def _interval(one: _Resampled, labels: Sequence[int]) -> Interval:
    plain, drawn = one.mean(labels)
    return interval(float(plain.mean()), _seeds_drawn(drawn, 0))


def _difference(one: _Resampled, other: _Resampled) -> Interval:
    if not np.array_equal(one.rows, other.rows):
        raise ExperimentError(f"{one.arm.name} and {other.arm.name} were measured on different images")
    common = [k for k in one.columns if k in other.columns]
    (plain, drawn), (others_plain, others_drawn) = one.mean(common), other.mean(common)
    return interval(
        float(plain.mean() - others_plain.mean()), _seeds_drawn(drawn, 1) - _seeds_drawn(others_drawn, 2)
    )


def _seeds_drawn(drawn: Floats, stream: int) -> Floats:
    """The mean over seeds drawn with replacement: ``[S, B]`` → ``[B]``."""
    seeds, resamples = drawn.shape
    picked = np.random.default_rng((SEED, stream)).integers(seeds, size=(seeds, resamples))
    return np.asarray(np.take_along_axis(drawn, picked, 0).mean(0))


MINUS = "−"


def write_report(
    out: Path, study: ChestStudy, rows: Sequence[ArmRow], left_out: Mapping[str, str] = MappingProxyType({})
) -> Path:
    """Write ``figures.json``, ``report.md`` and ``arms.png`` into ``out``; returns the page.

    ``left_out``: arms that did not run, and why.
    """
    out.mkdir(parents=True, exist_ok=True)
    found = {"study": study.model_dump(mode="json"), "machine": machine(), "arms": [asdict(r) for r in rows]}
    found["left_out"] = dict(left_out)
    (out / "figures.json").write_text(json.dumps(without_nan(found), indent=1))
    forest(out / "arms.png", rows)
    page = out / "report.md"
    not_run = [f"Left out: **{name}**, {why}." for name, why in left_out.items()]
    lines = [f"# {study.name}", "", f"**{NOT_DIAGNOSTIC}** {machine()}", "", *tables(rows), *not_run]
    page.write_text("\n".join(lines), encoding="utf-8")
    return page


def machine() -> str:
    """The processor or GPU and the version of torch that the study runs with."""
    cuda = run_options().chosen_device() == "cuda"
    name = torch.cuda.get_device_name() if cuda else f"{platform.processor() or platform.machine()}"
    return f"{name}, torch {torch.__version__}"


def tables(rows: Sequence[ArmRow]) -> list[str]:
    """One table of arms for each block, and one of AUCs by label."""
    blocks = dict.fromkeys(row.block for row in rows)
    lines: list[str] = []
    for block in blocks:
        lines += [*([f"## {block}", ""] if block else []), *_arms([r for r in rows if r.block == block])]
    return [*lines, *_labels(rows)]


def forest(path: Path, rows: Sequence[ArmRow]) -> None:
    """Plot each arm's mean AUC with its interval and the values of its seeds."""
    figure = Figure(figsize=(7, 0.8 + 0.32 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.plot([row.auc.low, row.auc.high], [place, place], color=BLUE, linewidth=1.5)
        axes.plot(row.seeds, [place] * len(row.seeds), "o", color=GREY, markersize=3)
        axes.plot(row.auc.value, place, "s", color=ORANGE, markersize=5)
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    named = [f"{row.name} ({row.block})" if row.block else row.name for row in rows]
    axes.set_yticks(range(len(rows)), named, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("mean AUC inside sources, 95 % interval; grey: seeds", fontsize=8)
    save(figure, path)


def _arms(rows: Sequence[ArmRow]) -> list[str]:
    headings = (
        "arm",
        "learned from",
        "mean AUC",
        "seeds",
        "difference",
        "",
        "accuracy",
        "always no",
        "ms an image",
    )
    return markdown_table(headings, [_arm(row) for row in rows])


def _arm(row: ArmRow) -> list[str]:
    return [
        row.name,
        str(row.learned),
        text(row.auc),
        " ".join("–" if np.isnan(value) else f"{value:.3f}" for value in row.seeds),
        text(row.difference) if row.difference else "–",
        row.verdict,
        f"{row.accuracy:.3f}",
        f"{row.always_no:.3f}",
        f"{row.milliseconds:.1f}",
    ]


def _labels(rows: Sequence[ArmRow]) -> list[str]:
    names = list(dict.fromkeys(label.label for row in rows for label in row.labels))
    known = {(row.name, label.label): label for row in rows for label in row.labels}
    body = []
    for name in names:
        positives = {str(found.positives) for (_, label), found in known.items() if label == name}
        values = [_value(known.get((row.name, name))) for row in rows]
        body.append([name, "/".join(sorted(positives)), *values])
    return markdown_table(("label", "positives", *(row.name for row in rows)), body)


def _value(found: Any) -> str:
    return "–" if found is None or np.isnan(found.auc.value) else f"{found.auc.value:.2f}"


def text(found: Interval) -> str:
    """An interval as text: ``0.690 [0.648, 0.730]``; a dash if there are too few images."""
    return "–" if np.isnan(found.value) else interval_text(found.as_list(), minus=MINUS)


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
    parts = last_maps(network, tensor(image[None]), 0)
    cam, features = (cv2.resize(part.numpy(), image.shape[::-1]) for part in parts)
    return np.asarray(cam), np.asarray(features)


def last_maps(network: nn.Module, images: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of class ``label`` of one image ``[1, C, H, W]``, and the mean
    of the maps that it weights: the last output ``[1, K, h, w]`` with more than one cell. Raises ValueError.
    """
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            maps.append(output)

    hooks = [module.register_forward_hook(keep) for module in network.eval().modules()]
    # A copy of the leaf: a first module that works in place may not change a leaf that needs a gradient.
    score = network(images.requires_grad_().clone())[0, label]
    for hook in hooks:
        hook.remove()
    if not maps:
        raise ValueError("the network has no feature maps")
    (gradient,) = torch.autograd.grad(score, maps[-1])
    features = maps[-1].detach()
    return (gradient.mean((2, 3), keepdim=True) * features).sum(1)[0].clamp(min=0), features[0].mean(0)
