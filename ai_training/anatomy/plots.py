"""Plot the agreement of measured and read cardiothoracic ratios (Bland and Altman, Lancet 1986)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ai_training.evaluation.plots import BLUE, GREY, ORANGE, save


def bland_altman(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write ``bland-altman.png`` of the ``pairs`` (reader, measured) of ``result``."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = np.array(result["pairs"], np.float64).reshape(-1, 2)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0], s=14, color=BLUE)
    if result["ratio"] is not None:
        axes.axhline(result["ratio"]["bias"], color=ORANGE)
        for limit in result["ratio"]["limits"]:
            axes.axhline(limit, color=ORANGE, linestyle="--")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("mean of reader and model (cardiothoracic ratio)")
    axes.set_ylabel("model − reader")
    axes.set_title(f"{result['model']} {result['version']}, {result['split']}, n = {len(pairs)}")
    return save(figure, folder / "bland-altman.png")
