"""The contents of a model card, as types; :mod:`ai_pipeline.models.registry` reads them from TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ai_pipeline.contract import Code, ModelRef
from ai_pipeline.errors import CardError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""What the id and the version of a model may look like: they become names of folders."""

LABEL = re.compile(r"\w[\w ,.;:()/%+-]*")
"""What the name of a label and the meaning of a code may look like: results, pages and tables show them."""
CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The same of Code Value and Coding Scheme Designator."""

Preprocess = Literal["chain", "xrv", "imagenet"]


@dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights: its ``role`` in the model, its path, and the SHA-256 that it must have."""

    role: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The preprocessing of every image before the network gets it (:mod:`ai_pipeline.models.inputs`).

    ``side`` in pixels: the common resolution. ``blur`` in pixels of the reduced image (Gaussian sigma, 0
    for none). ``jpeg_quality`` 1 to 100. ``low``, ``high``: percentiles that become black and white.
    """

    side: int = 128
    blur: float = 0.5
    jpeg_quality: int = 85
    low: float = 0.5
    high: float = 99.5


@dataclass(frozen=True, slots=True)
class Input:
    """The network's input: ``size`` pixels square, ``channels``, values ``(value - mean) / scale`` of 0..255.

    ``mean`` and ``scale`` hold one number, or one for each channel. ``photometric``: the polarity of the
    displayed image that the network takes. ``preprocess``: how an image becomes a square
    (:mod:`ai_pipeline.models.inputs`). ``chain`` is used by ``chain`` alone, ``crop``, ``squash`` and
    ``interpolation`` by ``imagenet``.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    photometric: str
    chain: Chain
    preprocess: Preprocess = "chain"
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        if {len(self.mean), len(self.scale)} - {1, self.channels} or 0.0 in self.scale:
            raise ValueError(f"mean and scale need one number or {self.channels}, no scale of 0")


@dataclass(frozen=True, slots=True)
class Outputs:
    """The network's outputs, by name.

    ``scores [N, labels]`` are ``logits`` or ``probabilities``. ``features [N, C, h, w]`` and ``places [N,
    labels, h, w]`` may be missing: then there is no gate, or no box and no heat map. ``places`` are the
    logarithm of how likely each cell belongs to the lesion (``log``), or class activation (``activation``).
    """

    scores: str = "logits"
    kind: Literal["logits", "probabilities"] = "logits"
    features: str = "features"
    places: str = "places"
    place_kind: Literal["log", "activation"] = "log"


@dataclass(frozen=True, slots=True)
class Label:
    """One output of a classifier, in the order of its logits.

    ``probability = 1 / (1 + exp(-(slope · logit + intercept)))``. At ``threshold`` and above the finding is
    present, below ``absent_below`` absent, between them indeterminate. ``supported`` is False if the test set
    cannot show that the label works; such labels are evaluated but not reported as findings. ``box`` is True
    if the training data teach the model the place. If ``operating_point`` is given, the probability is bent
    so that this value becomes .5, as torchxrayvision does with its ``op_threshs``. ``detector`` is True if
    the card's box detector was shown to place this label better than a fixed box.
    """

    name: str
    code: Code
    code_source: str
    site: Code | None
    supported: bool
    threshold: float
    absent_below: float
    slope: float = 1.0
    intercept: float = 0.0
    box: bool = False
    operating_point: Annotated[float, Field(gt=0, lt=1)] | None = None
    detector: bool = False

    def __post_init__(self) -> None:
        codes = [code for code in (self.code, self.site) if code is not None]
        for pattern, texts in (
            (LABEL, [self.name, *(code.meaning for code in codes)]),
            (CODE, [text for code in codes for text in (code.value, code.scheme)]),
        ):
            if wrong := [text for text in texts if not pattern.fullmatch(text)]:
                raise ValueError(f"label {self.name!a}: {wrong[0]!a} has signs that results may not show")
        if not 0.0 <= self.absent_below <= self.threshold <= 1.0:
            raise ValueError(
                f"label {self.name}: 0 ≤ absent_below ≤ threshold ≤ 1 must hold, "
                f"not {self.absent_below} and {self.threshold}"
            )


@dataclass(frozen=True, slots=True)
class Gate:
    """The domain gate on pooled features: images with a distance above ``threshold`` are refused."""

    role: str
    threshold: float
    true_positive_rate: float


@dataclass(frozen=True, slots=True)
class Card:
    """A model card. ``details`` keeps the descriptive tables (calibration, training, metrics) as read."""

    id: str
    version: str
    task: str
    architecture: str
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    path: Path
    sha256: str
    weights: tuple[Weights, ...] = ()
    input: Input | None = None
    labels: tuple[Label, ...] = ()
    gate: Gate | None = None
    calibrated: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    outputs: Outputs = Outputs()

    @property
    def name(self) -> str:
        """``id@version``: the name by which a person selects exactly this model."""
        return f"{self.id}@{self.version}"

    @property
    def ref(self) -> ModelRef:
        """The reference to this model in results, with the SHA-256 of its first weights and of its card."""
        weights = self.weights[0].sha256 if self.weights else ""
        return ModelRef(self.id, self.version, weights, self.sha256, self.calibrated)

    def file(self, role: str) -> Weights:
        """The weights with this ``role``. Raises CardError when the card names none."""
        for weights in self.weights:
            if weights.role == role:
                return weights
        raise CardError(f"{self.path.name} names no weights with role {role!r}")

    def plays(self, role: str) -> bool:
        """Whether the card names weights with this role."""
        return any(weights.role == role for weights in self.weights)
