#!/usr/bin/env python3
"""What cleaning does to the classifier of ovarian frames, which sees or learns from cleaned frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ai_pipeline.burnin.tools import Inpainter, Tools, shared_tools
from ai_pipeline.models.engine import usable_cores
from ai_pipeline.models.registry import Card, enlarge, find, normalise, reduce
from ai_pipeline.ovarian.pipeline import OvarianClassifier, heatmap
from ai_training import commands
from ai_training.base import Report, silent
from ai_training.commands import Figures, verb
from ai_training.evaluation.plots import BLUE, GREEN, GREY, ORANGE, save
from ai_training.metrics import Floats, mean_auc_difference, mean_auc_interval, mean_interval, patient_weights
from ai_training.networks import MEAN, NAME, SCALE
from ai_training.ovarian import predictions, training
from ai_training.ovarian.calibration import scaled
from ai_training.ovarian.card import ID
from ai_training.ovarian.evaluation import MARGIN, binary
from ai_training.ovarian.frames import (
    CHAIN,
    FEW_MARKS,
    LABELS,
    NEOPLASMS,
    OvarianFrame,
    folds,
    grey,
    ovarian_frames,
)
from ai_training.ovarian.network import CystClassifier
from ai_training.ovarian.predictions import HeldOut
from ai_training.ovarian.training import FOLD_RUNS, OvarianRecipe, trained_classifier
from ai_training.ultrasound.filling import cards_with_compared, inpainters
from ai_training.ultrasound.overlays.burning import burn_in
from ai_training.ultrasound.overlays.hands import HELD_OUT
from ai_training.ultrasound.removal import network_mask

ORIGINAL, OURS = "original", "ours (OCI-GAN type)"
FILLED_BY = {
    OURS: "oci-gan",
    "Telea": "telea",
    "Navier-Stokes": "navier-stokes",
    "U-Net": "unet",
    "VAE": "vae",
}
CLEANED = tuple(FILLED_BY)
PROBES = ("marks only", "lesion blacked out", "lesion crop")
CLEAN, MARKED, MARKED_CLEANED = "clean", "marked", "marked, then cleaned"
TRUTH = (CLEAN, MARKED, MARKED_CLEANED)
"""Of the frames without yellow marks: as they are, with synthetic marks, with those cleaned away by ours."""
STUDY, TRAINED_ON_CLEANED = "study.npz", "trained_on_cleaned.npz"
VARIANTS = (ORIGINAL, *CLEANED, *PROBES, *TRUTH)
SAVED_EVERY = 20
"""Frames between two savings."""
ROOM = 0.1
"""What a crop shows beyond the box of the lesion, as a share of the box."""
Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Square:
    """A variant as the networks see it: ``picture [side, side]``; where lesion (None: not known) and marks
    lie on the network's input ``[size, size]``."""

    picture: Picture
    lesion: Mask | None
    marks: Mask


def run(
    data: Path,
    out: Path,
    recipe: OvarianRecipe,
    report: Report = silent,
) -> Path:
    """Score all variants with the networks of the recipe's seed in ``out``; returns the file of scores.

    Frames come in a random order. Scores are saved on the way and not computed again, so an interrupted run
    leaves a random part and can continue. Each picture is scored without its mirror image. Raises
    DataMissing, OSError.
    """
    frames, tools = ovarian_frames(data), shared_tools()
    fold = folds(frames)
    networks = [trained_classifier(out / f"seed-{recipe.seed}" / name, recipe) for name in FOLD_RUNS]
    path = out / predictions.FOLDER.name / STUDY
    path.parent.mkdir(parents=True, exist_ok=True)
    logits, shares = _scored(path, frames)
    order = np.random.default_rng(recipe.seed).permutation(len(frames)).tolist()
    todo = [row for row in order if np.isnan(logits[VARIANTS.index(ORIGINAL), row]).any()]
    for done, row in enumerate(todo, start=1):
        report(done / len(todo), f"frame {done} of {len(todo)}")
        frame = frames[row]
        shown = squares(frame, row, tools, recipe.size)
        numbers = [VARIANTS.index(name) for name in shown]
        seen = _seen(networks[fold[row]], recipe.size, list(shown.values()), frame.label)
        logits[numbers, row], shares[numbers, row] = seen
        if done % SAVED_EVERY == 0 or done == len(todo):
            _save(path, frames, logits, shares)
    return path


def _scored(path: Path, frames: Sequence[OvarianFrame]) -> tuple[Floats, Floats]:
    """Logits ``[V, N, labels]`` and shares ``[V, N, 2]`` of the file; NaN where nothing is scored."""
    if path.is_file():
        with np.load(path, allow_pickle=False) as found:
            same = found["files"].tolist() == [frame.name for frame in frames]
            if same and found["names"].tolist() == list(VARIANTS):
                return found["logits"].astype(np.float32), found["shares"].astype(np.float32)
    shape = (len(VARIANTS), len(frames))
    return np.full((*shape, len(LABELS)), np.nan, np.float32), np.full((*shape, 2), np.nan, np.float32)


def squares(frame: OvarianFrame, row: int, tools: Tools, size: int) -> dict[str, _Square]:
    """The variants of one frame (see :func:`variants` and :func:`truths`), each as a square network input, by
    name.
    """
    lesion, made = frame.lesion(), variants(frame, tools)
    if frame.yellow <= FEW_MARKS:
        made |= truths(frame, row, tools)
    return {
        name: _Square(
            reduce(grey(picture), CHAIN)[0],
            _on_square(lesion, size) if picture.shape[:2] == lesion.shape else None,
            _on_square(marks, size),
        )
        for name, (picture, marks) in made.items()
    }


def pictures(data: Path, card: Card, out: Path, most: int, report: Report = silent) -> list[Path]:
    """Write ``most`` random frames of the test split into ``out``: the frame, and the activation of its own
    class on the original and on the frame as we clean it. The lesion is outlined in green, marks in white.
    Raises DataMissing.

    The activation is that of the shipped model, which was trained on these frames: it shows where the model
    looks, not how well it does.
    """
    out.mkdir(parents=True, exist_ok=True)
    tools, classifier = shared_tools(), OvarianClassifier(card)
    frames = [frame for frame in ovarian_frames(data) if frame.split == "test"]
    chosen = np.random.default_rng(1).permutation(len(frames))[:most].tolist()
    made = []
    for done, frame in enumerate(frames[row] for row in chosen):
        report(done / most, "pictures")
        picture, lesion = frame.rgb(), frame.lesion()
        marks = network_mask(picture, tools)
        both = [picture, tools.filler.fill(picture, marks)]
        sides = [_under_activation(one, classifier, frame.label, lesion, marks) for one in both]
        path = out / f"{Path(frame.name).stem}.png"
        cv2.imwrite(str(path), np.hstack([side[..., ::-1] for side in (both[0], *sides)]))
        made.append(path)
    return made


def _under_activation(
    picture: Picture, classifier: OvarianClassifier, label: int, lesion: Mask, marks: Mask
) -> Picture:
    """RGB, with the shares of the activation that lie in lesion and marks below."""
    values = heatmap(classifier.analyse(picture), label).values
    colours = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    drawn = cv2.addWeighted(picture, 0.6, np.ascontiguousarray(colours), 0.4, 0)
    for mask, colour in ((lesion, (0, 255, 0)), (marks, (255, 255, 255))):
        lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, lines, -1, colour, 1)
    total = max(float(values.sum()), 1e-6)
    inside = (float(values[mask].sum()) / total for mask in (lesion, marks))
    words = "lesion {:.0%}, marks {:.0%}".format(*inside)
    cv2.putText(drawn, words, (6, drawn.shape[0] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1)
    return np.asarray(drawn, np.uint8)


def _save(path: Path, frames: Sequence[OvarianFrame], logits: Floats, shares: Floats) -> None:
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        names=np.array(VARIANTS),
        files=np.array([frame.name for frame in frames]),
        logits=logits.astype(np.float16),
        shares=shares.astype(np.float16),
    )
    partial.replace(path)


def variants(frame: OvarianFrame, tools: Tools) -> dict[str, tuple[Picture, Mask]]:
    """Variants of a frame by name: the original, cleaned in each way, and probes (such as marks only).

    Each variant comes with the mask of drawn marks that the mark detector found in the original.
    """
    picture = frame.rgb()
    marks, lesion = network_mask(picture, tools), frame.lesion()
    made = {ORIGINAL: picture} | {name: way.fill(picture, marks) for name, way in ways().items()}
    made["marks only"] = np.where(marks[..., None], picture, np.uint8(0))
    made["lesion blacked out"] = np.where(lesion[..., None], np.uint8(0), picture)
    crop = _around(lesion)
    return {name: (one, marks) for name, one in made.items()} | {"lesion crop": (picture[crop], marks[crop])}


def truths(frame: OvarianFrame, row: int, tools: Tools) -> dict[str, tuple[Picture, Mask]]:
    """A frame without yellow marks: unchanged, with synthetic marks, and with these marks cleaned away by our
    inpainter; each with the mask of the drawn marks.
    """
    burned = burn_in(frame.rgb(), HELD_OUT, (row,))
    drawn = burned.owners > 0
    cleaned = tools.filler.fill(burned.image, network_mask(burned.image, tools))
    shown = {CLEAN: burned.clean, MARKED: burned.image, MARKED_CLEANED: cleaned}
    return {name: (picture, drawn) for name, picture in shown.items()}


@cache
def ways() -> dict[str, Inpainter]:
    """The inpainters that fill the marks, by their names in :data:`CLEANED`."""
    known = {way.name: way for way in inpainters(cards_with_compared(), usable_cores())}
    return {shown: known[name] for shown, name in FILLED_BY.items()}


def _around(lesion: Mask) -> tuple[slice, slice]:
    """The box of the lesion with some room; all of a frame without one."""
    if not lesion.any():
        return slice(None), slice(None)
    left, top, width, height = cv2.boundingRect(lesion.astype(np.uint8))
    across, down = round(ROOM * width), round(ROOM * height)
    return (
        slice(max(top - down, 0), top + height + down),
        slice(max(left - across, 0), left + width + across),
    )


def _seen(network: CystClassifier, size: int, shown: Sequence[_Square], label: int) -> tuple[Floats, Floats]:
    """Logits ``[V, labels]``, and the shares ``[V, 2]`` of the label's activation in lesion and marks."""
    inputs = normalise(np.stack([enlarge(one.picture, size) for one in shown]), MEAN, SCALE)
    with torch.inference_mode():
        logits, features = network(torch.from_numpy(inputs))
        weights = network.head.weight[label][:, None, None]
        activation = torch.relu((features * weights).sum(1)).numpy()
    shares = np.full((len(shown), 2), np.nan, np.float32)
    for row, (one, layer) in enumerate(zip(shown, activation, strict=True)):
        fine = cv2.resize(layer, (size, size), interpolation=cv2.INTER_LINEAR)
        total = max(float(fine.sum()), 1e-6)
        for column, mask in enumerate((one.lesion, one.marks)):
            if mask is not None:
                shares[row, column] = float(fine[mask].sum()) / total
    return logits.numpy(), shares


def _on_square(mask: Mask, size: int) -> Mask:
    """A mask of a picture on the square that the network sees."""
    side = CHAIN.side
    scale = side / max(mask.shape)
    height, width = (max(1, round(length * scale)) for length in mask.shape)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    square = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = small
    return np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_LINEAR) >= 0.5)


Scored = Mapping[str, tuple[Floats, Floats]]
"""Variant → logits ``[N, labels]`` and shares ``[N, 2]`` of the activation in lesion and marks."""


def figures(held_out: HeldOut, folder: Path) -> dict[str, Any]:
    """Macro AUC of every variant with its paired difference to the original; for frames without yellow marks,
    to the clean frame. Empty if the study was not run.
    """
    scored = _read(folder / STUDY, held_out)
    if not scored:
        return {}
    whole, some = _present(scored, held_out, (ORIGINAL, *CLEANED, *PROBES))
    truth, few = _present(scored, held_out, TRUTH)
    return {
        "margin": MARGIN,
        "all_frames": {"frames": len(some.frames), "rows": _table(whole, some, ORIGINAL)},
        "without_yellow_marks": {"frames": len(few.frames), "rows": _table(truth, few, CLEAN)},
    }


def taught_figures(held_out: HeldOut, folder: Path) -> dict[str, Any]:
    """Figures of networks that learned from frames cleaned in each way, tested on frames cleaned likewise,
    with their own calibration; the reference is the network of the first seed on originals. Empty if this was
    not run.
    """
    scored = _read(folder / TRAINED_ON_CLEANED, held_out)
    return _trained(held_out, ORIGINAL, {name: logits for name, (logits, _) in scored.items()})


def compared(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of all figures with cleaned or marked frames, by the kind of study."""
    study = result["study"]
    tables = {
        "tested on": study["all_frames"]["rows"],
        "learned from and tested on": result["taught_figures"].get("rows", {}),
        "no yellow marks": study["without_yellow_marks"]["rows"],
    }
    left_out = {ORIGINAL, CLEAN, *PROBES}
    return {name: {key: rows[key] for key in rows if key not in left_out} for name, rows in tables.items()}


def other_networks(held_out: HeldOut, folder: Path) -> dict[str, Any]:
    """Figures of other networks on originals, compared with one seed of the shipped network."""
    others = {
        path.stem: predictions.read_predictions(held_out.frames, folder, path.name)
        for path in folder.glob("*.csv")
    }
    return _trained(held_out, NAME, {name: one.logits[0] for name, one in sorted(others.items())})


def _trained(held_out: HeldOut, reference: str, others: Mapping[str, Floats]) -> dict[str, Any]:
    """Networks against that of the first seed, each with its own calibration."""
    if not others:
        return {}
    unknown = np.full((len(held_out.frames), 2), np.nan)
    scored = {name: (logits, unknown) for name, logits in {reference: held_out.logits[0], **others}.items()}
    table = _table(scored, held_out, reference, trained=True)
    return {"margin": MARGIN, "frames": len(held_out.frames), "rows": table}


def _read(path: Path, held_out: HeldOut) -> Scored:
    """The variants of a file, in the order of the frames; shares are NaN where it has none."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as found:
        rows = {str(file): row for row, file in enumerate(found["files"])}
        order = [rows[frame.name] for frame in held_out.frames]
        shape = (*found["logits"].shape[:2], 2)
        shares = found["shares"] if "shares" in found else np.full(shape, np.nan)
        return {
            str(name): (logits[order].astype(np.float64), inside[order].astype(np.float64))
            for name, logits, inside in zip(found["names"], found["logits"], shares, strict=True)
        }


def _present(scored: Scored, held_out: HeldOut, names: Sequence[str]) -> tuple[Scored, HeldOut]:
    """The variants ``names`` of the frames that have them, and these frames."""
    there = ~np.isnan(scored[names[0]][0][:, 0])
    frames = tuple(frame for frame, kept in zip(held_out.frames, there, strict=True) if kept)
    kept = replace(held_out, frames=frames, folds=held_out.folds[there], logits=held_out.logits[:, there])
    return {name: (scored[name][0][there], scored[name][1][there]) for name in names}, kept


def _table(scored: Scored, held_out: HeldOut, reference: str, *, trained: bool = False) -> dict[str, Any]:
    """One calibration, that of the reference, for all: what is compared is the input alone. What was
    ``trained`` for its input has its own."""
    truth, weights = held_out.labels, patient_weights(held_out.groups)
    hot = np.eye(len(LABELS))[truth]
    known = [label for label in range(len(LABELS)) if hot[:, label].any()]
    found = {
        name: _calibrated(logits, logits if trained else scored[reference][0], held_out)
        for name, (logits, _) in scored.items()
    }
    rows = {}
    for name, (_, shares) in scored.items():
        right = (found[name].argmax(1) == truth).astype(np.float64)
        same = found[name].argmax(1) == found[reference].argmax(1)
        rows[name] = {
            "macro_auc": mean_auc_interval(hot, found[name], known, weights).as_list(),
            "difference": mean_auc_difference(hot, found[name], found[reference], known, weights).as_list(),
            "accuracy": mean_interval(right, weights).as_list(),
            **_neoplasm(found[name], found[reference], hot, held_out, weights),
            "same_class": round(float(same.mean()), 4),
            **{
                f"activation_in_{place}": round(float(np.nanmean(shares[:, number])), 4)
                for number, place in enumerate(("lesion", "marks"))
                if not np.isnan(shares[:, number]).all()
            },
        }
    return rows


def _neoplasm(
    found: Floats, reference: Floats, hot: Floats, held_out: HeldOut, weights: Floats
) -> dict[str, Any]:
    """The published columns of "neoplasm or not" and the paired difference of its AUC to the reference."""
    positive = [LABELS.index(one) for one in NEOPLASMS]
    truth = hot[:, positive].sum(1)
    scores = [one[:, positive].sum(1) for one in (found, reference)]
    column, own, other = (one[:, None] for one in (truth, *scores))
    return {
        "neoplasm": binary(found, hot, positive, held_out, weights),
        "neoplasm_difference": mean_auc_difference(column, own, other, [0], weights).as_list(),
    }


def _calibrated(logits: Floats, reference: Floats, held_out: HeldOut) -> Floats:
    found = np.zeros_like(logits)
    for fold in np.unique(held_out.folds):
        inside = held_out.folds == fold
        found[inside] = scaled(reference[~inside], held_out.labels[~inside])(logits[inside])
    return found


TAUGHT, PIXELS = "cleaned", "pixels.npy"
Grey = npt.NDArray[np.uint8]


def teach(data: Path, out: Path, recipe: OvarianRecipe, report: Report = silent) -> Path:
    """Clean all frames, train the networks of the folds on each way of cleaning, write their predictions.

    Complete parts of ``out`` are not repeated, so an interrupted teach can continue. Raises DataMissing,
    OSError, ExperimentError where a folder holds a teach of another recipe.
    """
    frames, folder = ovarian_frames(data), out / TAUGHT
    cleaned = _cleaned(frames, folder, shared_tools(), report)
    logits = np.full((len(CLEANED), len(frames), len(LABELS)), np.nan, np.float32)
    for number, way in enumerate(CLEANED):
        own = folder / str(number)
        report(0.0, f"networks that learn from frames cleaned by {way}\n")
        training.train(data, own, recipe, (recipe.seed,), FOLD_RUNS, report, pixels=cleaned[number])
        for name in FOLD_RUNS:
            with np.load(own / f"seed-{recipe.seed}" / name / "validation.npz", allow_pickle=False) as found:
                logits[number, found["rows"]] = found["logits"]
    path = out / predictions.FOLDER.name / TRAINED_ON_CLEANED
    path.parent.mkdir(parents=True, exist_ok=True)
    files = np.array([frame.name for frame in frames])
    np.savez_compressed(path, names=np.array(CLEANED), files=files, logits=logits.astype(np.float16))
    return path


def _cleaned(frames: Sequence[OvarianFrame], folder: Path, tools: Tools, report: Report) -> Grey:
    """``[ways, N, side, side]``, on disk: each frame without its marks, reduced. Goes on where it stopped."""
    path, shape = folder / PIXELS, (len(CLEANED), len(frames), CHAIN.side, CHAIN.side)
    folder.mkdir(parents=True, exist_ok=True)
    begun = path.is_file()
    found = np.lib.format.open_memmap(
        path, mode="r+" if begun else "w+", dtype=np.uint8, shape=None if begun else shape
    )
    for row, frame in enumerate(frames):
        if found[:, row].any():
            continue
        report(row / len(frames), "cleaning")
        picture = frame.rgb()
        marks = network_mask(picture, tools)
        found[:, row] = [reduce(grey(way.fill(picture, marks)), CHAIN)[0] for way in ways().values()]
    found.flush()
    return found


def differences(path: Path, tables: Mapping[str, Mapping[str, Any]], margin: float) -> Path:
    """Plot the paired ``difference`` of macro AUC ``[value, low, high]`` of each table's rows, one colour per
    table.

    A value left of the dotted line has lost more than ``margin``.
    """
    colours = dict(zip(tables, (BLUE, ORANGE, GREEN, GREY), strict=False))
    rows = [
        (f"{name} ({table})", row["difference"], colours[table])
        for table, found in tables.items()
        for name, row in found.items()
    ]
    figure, axes = _intervals(rows)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.axvline(-margin, color=GREY, linestyle=":", linewidth=0.8)
    axes.set(xlabel="difference of macro AUC, 95 %; dotted: the margin")
    return save(figure, path)


def _intervals(rows: Sequence[tuple[str, Sequence[float | None], str]]) -> tuple[Figure, Axes]:
    """A line from low to high for each name, ``[value, low, high]`` and colour, from the top down."""
    figure = Figure(figsize=(7, 0.24 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, (_, values, colour) in enumerate(rows):
        value, low, high = (float("nan") if v is None else float(v) for v in values)
        axes.plot([low, high], [place, place], color=colour, linewidth=1.5)
        axes.plot(value, place, marker="s", color=colour, markersize=4)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


app = typer.Typer()
HELD_OUT_ANSWERS = Path(__file__).parent / "held_out"
SHOWN = 30


@verb(app, "ovarian-cleaned")
def command(
    *,
    report: Report,
    data: commands.SetData,
    out: Annotated[
        Path | None, typer.Option(help="What `train ovarian` left: its networks see cleaned frames anew.")
    ] = None,
    taught: Annotated[
        bool, typer.Option("--taught", help="With --out: also train networks on cleaned frames.")
    ] = False,
    shown: Annotated[
        Path | None, typer.Option("--pictures", help="Write thirty frames under the activation, and a plot.")
    ] = None,
) -> Figures:
    """Print the figures of the study: of the committed answers, or of new ones with --out."""
    card, folder = find(ID), HELD_OUT_ANSWERS
    if out is not None:
        recipe = OvarianRecipe(**card.details["training"]["recipe"])
        folder = run(data, out, recipe, report).parent
        if taught:
            teach(data, out, recipe, report)
    held_out = predictions.read_predictions(ovarian_frames(data))
    result = {
        "study": figures(held_out, folder),
        "trained_on_cleaned": taught_figures(held_out, folder),
        "other_networks": other_networks(held_out, folder),
    }
    if shown:
        pictures(data, card, shown, SHOWN, report)
        differences(shown / "study.png", compared(result), MARGIN)
    return result


if __name__ == "__main__":
    app()
