"""``ai-pipeline train inpaint``: teach a network to fill holes, starting where the classical method ends.

Seeded and capped by iterations. The adversary joins late and with a small weight: early on it pulls away
from what is there (see docs/studies/inpainting.md).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ai_training import runs
from ai_training.networks.inpaint import ARCHITECTURES, Filler, PatchDiscriminator, Vae
from ai_training.networks.perception import Perception
from ai_training.ultrasound.inpaint.data import Hole, HoleBatches, HoleMix, as_tensors, cut_holes
from ai_training.ultrasound.inpaint.export import export_filler, file_id, write_filler_card
from ai_training.ultrasound.inpaint.loss import LossWeights, divergence, fooling, judging, reconstruction
from ai_training.ultrasound.marks.data import burned_frames
from ai_training.ultrasound.overlays import TRAIN, clean_frames

Report = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class InpaintRecipe:
    """Everything that shapes a run. ``adversary_from``: share of the iterations after which it joins."""

    architecture: str = "oci-gan"
    iterations: int = 6000
    seed: int = 1
    mix: HoleMix = field(default_factory=HoleMix)
    weights: LossWeights = field(default_factory=LossWeights)
    learning_rate: float = 1e-3
    adversary_rate: float = 2e-4
    warm_up: float = 0.05
    adversary_from: float = 0.6
    ema: float = 0.998
    validate_every: int = 500
    validation_pictures: int = 60
    threads: int = 2
    workers: int = 1

    @property
    def adversarial(self) -> bool:
        """Only the GAN has an adversary."""
        return self.architecture == "oci-gan" and self.weights.adversarial > 0


def train(
    data: Path,
    out: Path,
    recipe: InpaintRecipe,
    *,
    resume: bool = False,
    report: Report = lambda _share, _what: None,
) -> Path:
    """Train, choose by validation, export; returns the card. ``out`` receives checkpoints and weights too.

    Raises DataMissing when image sets are missing, ValueError when ``resume`` meets another recipe.
    """
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(data, out, recipe)
    if resume:
        run.load()
    run.train(report)
    network = ARCHITECTURES[recipe.architecture]()
    network.load_state_dict(torch.load(out / "best.pt", weights_only=True))
    export_filler(network, out / f"{file_id(recipe.architecture)}.onnx")
    best = max(run.history, key=lambda entry: entry["psnr"])
    described = {"recipe": json.loads(json.dumps(asdict(recipe))), "chosen_iteration": best["iteration"]}
    return write_filler_card(out, recipe.architecture, best, described)


def validation_holes(data: Path, recipe: InpaintRecipe) -> list[Hole]:
    """The same squares in every run: validation frames, overlays of the train family."""
    random = np.random.default_rng(7919)
    pictures = burned_frames(data, clean_frames("val"), recipe.validation_pictures, 7919, TRAIN)
    return [hole for _, burned in pictures for hole in cut_holes(burned, 3, recipe.mix.side, random)]


def psnr_in_holes(network: Filler, holes: list[Hole]) -> tuple[float, float]:
    """Mean over squares of the PSNR in the hole (dB): of the network, and of the classical start."""
    network.eval()
    made_scores, start_scores = [], []
    for first in range(0, len(holes), 16):
        start, hole, truth = as_tensors(holes[first : first + 16])
        with torch.inference_mode():
            made = network(start, hole)
        made_scores += _psnr(made, truth, hole)
        start_scores += _psnr(start, truth, hole)
    return float(np.mean(made_scores)), float(np.mean(start_scores))


def _psnr(made: Tensor, truth: Tensor, hole: Tensor) -> list[float]:
    error = ((made.clamp(-1, 1) - truth) * hole).square().sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3)))
    return (10 * torch.log10(4 / error.clamp(min=1e-6))).tolist()


class _Run:
    """The state of one run: generator, its moving average, adversary, optimisers, schedule, history."""

    def __init__(self, data: Path, out: Path, recipe: InpaintRecipe) -> None:
        torch.manual_seed(recipe.seed)
        self.data, self.out, self.recipe = data, out, recipe
        self.network = ARCHITECTURES[recipe.architecture]()
        self.average = copy.deepcopy(self.network)
        self.adversary = PatchDiscriminator()
        self.eye = Perception()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=1e-4, betas=(0.9, 0.99)
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, recipe.learning_rate, total_steps=recipe.iterations, pct_start=recipe.warm_up
        )
        self.against = torch.optim.Adam(self.adversary.parameters(), recipe.adversary_rate, betas=(0.0, 0.99))
        self.done = 0
        self.history: list[dict[str, float]] = []
        self._holes: list[Hole] | None = None

    def train(self, report: Report) -> None:
        recipe = self.recipe
        batches = HoleBatches(self.data, recipe.mix, recipe.seed, range(self.done, recipe.iterations))
        losses: list[float] = []
        for start, hole, truth in DataLoader(batches, batch_size=None, num_workers=recipe.workers):
            torch.manual_seed(recipe.seed * 1_000_003 + self.done)  # the VAE's noise, resumed or not
            losses.append(self._step(start, hole, truth))
            self.done += 1
            report(self.done / recipe.iterations, f"iteration {self.done}, loss {losses[-1]:.4f}")
            if self.done % recipe.validate_every == 0 or self.done == recipe.iterations:
                self._validate(float(np.mean(losses)), report)
                losses.clear()

    def load(self) -> None:
        state = runs.load(self.out, json.dumps(asdict(self.recipe)))
        for name in ("network", "average", "adversary", "optimiser", "schedule", "against"):
            getattr(self, name).load_state_dict(state[name])
        self.done, self.history = state["done"], state["history"]

    def _step(self, start: Tensor, hole: Tensor, truth: Tensor) -> float:
        recipe = self.recipe
        self.network.train()
        # Outside the hole both are what the device stored, so only the hole is judged.
        made = truth + hole * (self.network(start, hole) - truth)
        loss = reconstruction(made, truth, hole, recipe.weights, self.eye)
        if isinstance(self.network, Vae) and self.network.moments is not None:
            loss = loss + recipe.weights.divergence * divergence(self.network.moments)
        contested = recipe.adversarial and self.done >= recipe.adversary_from * recipe.iterations
        if contested:
            self._judge(made.detach(), truth, hole)
            loss = loss + recipe.weights.adversarial * fooling(self.adversary(made, hole), hole)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        runs.move_average(self.average, self.network, self.done, recipe.ema)
        return float(loss.detach())

    def _judge(self, made: Tensor, truth: Tensor, hole: Tensor) -> None:
        loss = judging(self.adversary(truth, hole), self.adversary(made, hole), hole)
        self.against.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.against.step()

    def _validate(self, loss: float, report: Report) -> None:
        if self._holes is None:
            self._holes = validation_holes(self.data, self.recipe)
        psnr, classical = psnr_in_holes(self.average, self._holes)
        self.history.append({"iteration": self.done, "loss": loss, "psnr": psnr, "navier_stokes": classical})
        report(
            self.done / self.recipe.iterations,
            f"iteration {self.done}, loss {loss:.4f}, in the hole {psnr:.2f} dB "
            f"(Navier-Stokes {classical:.2f})\n",
        )
        if psnr >= max(entry["psnr"] for entry in self.history):
            torch.save(self.average.state_dict(), self.out / "best.pt")
        (self.out / "history.json").write_text(json.dumps(self.history, indent=1))
        names = ("network", "average", "adversary", "optimiser", "schedule", "against")
        state = {name: getattr(self, name).state_dict() for name in names}
        runs.save(
            self.out,
            json.dumps(asdict(self.recipe)),
            {**state, "done": self.done, "history": self.history},
        )
