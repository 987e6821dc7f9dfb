"""Files of a run that are complete or missing, and the state of all random numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


def save_whole(state: Mapping[str, Any], path: Path) -> None:
    """Write ``path`` in one step: a run that is killed meanwhile leaves the previous file."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def random_state() -> dict[str, Any]:
    """The state of the global random numbers of Python, NumPy and torch, as a checkpoint holds it."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the random numbers of :func:`random_state`; states of a device that is missing here are
    dropped.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
