"""Networks that learn from cleaned frames, each scored on the frames of its fold cleaned in the same way.

In :mod:`ai_training.ovarian.study` networks that learned from originals see cleaned frames. Here
training and test are cleaned, as in OCI-GAN's own comparison; recipe, folds and seed are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.models.preprocess import reduce
from ai_training.ovarian import fit, predictions
from ai_training.ovarian.study import CLEANED, ways
from ai_training.progress import Report, silent
from ai_training.sets.ovarian import CHAIN, LABELS, OvarianFrame, grey, ovarian_frames
from ai_training.ultrasound.marks.maskers import network_mask

FOLDER, PIXELS = "cleaned", "pixels.npy"
Grey = npt.NDArray[np.uint8]


def run(data: Path, out: Path, recipe: fit.OvarianRecipe, report: Report = silent) -> Path:
    """Clean all frames, train the networks of the folds on each way of cleaning, write their predictions.

    Complete parts of ``out`` are not repeated, so an interrupted run can continue. Raises DataMissing,
    OSError, ExperimentError where a folder holds a run of another recipe.
    """
    frames, folder = ovarian_frames(data), out / FOLDER
    cleaned = _cleaned(frames, folder, shared_tools(), report)
    logits = np.full((len(CLEANED), len(frames), len(LABELS)), np.nan, np.float32)
    for number, way in enumerate(CLEANED):
        own = folder / str(number)
        report(0.0, f"networks that learn from frames cleaned by {way}\n")
        fit.train(data, own, recipe, (recipe.seed,), fit.FOLD_RUNS, report, pixels=cleaned[number])
        for name in fit.FOLD_RUNS:
            with np.load(own / f"seed-{recipe.seed}" / name / "validation.npz", allow_pickle=False) as found:
                logits[number, found["rows"]] = found["logits"]
    path = out / predictions.FOLDER.name / predictions.TRAINED_ON_CLEANED
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
