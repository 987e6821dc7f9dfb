#!/usr/bin/env python3
"""How much of the class of an ovarian frame can be told from its colours alone, without a look at tissue.

Ultrasound is grey: colour is what scanner and operator add, such as yellow calipers, Doppler and a tint.
Logistic regressions on statistics of colour, and one on grey levels, are measured in the folds of the
released network, on original frames and on frames whose marks were filled. That network sees no colour.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ai_pipeline.burnin.tools import shared_tools
from ai_training import commands
from ai_training.base import Report, followed
from ai_training.commands import Figures, verb
from ai_training.metrics import (
    Floats,
    auc_interval,
    mean_auc_difference,
    mean_auc_interval,
    patient_weights,
)
from ai_training.ovarian.calibration import cross_fitted
from ai_training.ovarian.evaluation import EVERY_LABEL
from ai_training.ovarian.frames import LABELS, grey, ovarian_frames
from ai_training.ovarian.predictions import HeldOut, read_predictions
from ai_training.ultrasound.removal import network_mask

CHROMA = (5.0, 10.0, 20.0, 40.0, np.inf)
"""Edges of the histogram of chroma: the distance from grey in the plane of Cr and Cb, in grey levels (ITU-R
BT.601, in which JPEG stores colours; a grey pixel has exactly none, however bright)."""
PAINTED = 20.0
"""Chroma from which a pixel counts as painted in a colour; below it, it is tinted."""
HUES = 8
"""Sectors of 45°, centred on angles 0°, 45° and so on from Cr to Cb: the first holds red, the third blue, the
seventh yellow, the eighth orange."""
FLOOR = 1e-4
"""Share that is added before the logarithm: some forty pixels of a frame."""
ALL = "all colours"
VIEWS = {
    ALL: slice(0, 14),
    "yellow": slice(10, 11),
    "painted hues": slice(4, 12),
    "tint": slice(12, 14),
    "grey levels, no colour": slice(14, 30),
}
"""Columns of :func:`statistics` that a regression sees."""
INPUTS = ("original", "cleaned")
Picture = npt.NDArray[np.uint8]
app = typer.Typer()


def statistics(picture: Picture) -> Floats:
    """Statistics of an RGB picture, ``[30]``: logarithms of the shares of its pixels in each bin of
    chroma and in each hue where painted; mean Cr and Cb of the other pixels; the histogram of grey levels.
    """
    colour = 255 * cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2YCrCb)[..., 1:] - 127.5
    chroma = np.hypot(*np.moveaxis(colour, 2, 0))
    painted = chroma > PAINTED
    hue = np.degrees(np.arctan2(colour[painted, 1], colour[painted, 0]))
    sectors = np.rint(hue / (360 / HUES)).astype(int) % HUES
    counts = [np.histogram(chroma, CHROMA)[0], np.bincount(sectors, minlength=HUES)]
    shares = np.log10(np.concatenate(counts) / chroma.size + FLOOR)
    tint = colour.mean((0, 1), where=~painted[..., None])
    levels = np.histogram(grey(picture), 16, (0, 256))[0] / chroma.size
    return np.concatenate([shares, tint, levels])


def measured(held_out: HeldOut, report: Report) -> Floats:
    """The statistics of all frames, original and cleaned by ours: ``[2, N, 30]``."""
    tools, rows = shared_tools(), []
    for frame in followed(held_out.frames, report, "frames"):
        picture = frame.rgb()
        cleaned = tools.filler.fill(picture, network_mask(picture, tools))
        rows.append([statistics(picture), statistics(cleaned)])
    return np.stack(rows, axis=1)


def figures(held_out: HeldOut, seen: Sequence[Floats]) -> dict[str, Any]:
    """Macro AUC of regressions on each view of the statistics ``seen [2, N, 30]`` and of the network; the
    AUC of each class by all colours.
    """
    truth, weights = held_out.labels, patient_weights(held_out.groups)
    hot = np.eye(len(LABELS))[truth]
    network = cross_fitted(held_out.mean, truth, held_out.folds)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    cv = PredefinedSplit(held_out.folds)
    answers = {
        f"{view}, {name}": cross_val_predict(model, columns[:, part], truth, cv=cv, method="predict_proba")
        for view, part in VIEWS.items()
        for name, columns in zip(INPUTS, seen, strict=True)
    }
    colours, cleaned = (answers[f"{ALL}, {name}"] for name in INPUTS)
    return {
        "frames": len(truth),
        "macro_auc": {
            name: mean_auc_interval(hot, found, EVERY_LABEL, weights).as_list()
            for name, found in {**answers, "network": network}.items()
        },
        "colours_to_network": mean_auc_difference(hot, colours, network, EVERY_LABEL, weights).as_list(),
        "cleaned_to_original": mean_auc_difference(hot, cleaned, colours, EVERY_LABEL, weights).as_list(),
        "classes": {
            label: auc_interval(hot[:, k], colours[:, k], weights).as_list() for k, label in enumerate(LABELS)
        },
    }


@verb(app, "ovarian-colours")
def command(*, report: Report, data: commands.SetData) -> Figures:
    """Print how well colours alone tell the classes of ovarian frames, beside the released network.

    Example: examples/studies/ovarian_colours.py --data DIR
    """
    held_out = read_predictions(ovarian_frames(data))
    return figures(held_out, measured(held_out, report))


if __name__ == "__main__":
    app()
