"""Cards of models: finding, reading, and preparing an image as a card says. Every model needs a card.

A card is a TOML file that says what a model is, what it was made from, how well it works and where it fails.
Its weights are in ``weights/`` next to the folder of cards, or in an installed package, and are refused if
their SHA-256 is not the one in the card.

Cards are searched in the package's own ``cards/`` and in one folder of the user (``models_dir`` or the
environment variable ``AI_PIPELINE_MODELS_DIR``). There a card at the top level (``*.toml``) replaces a
shipped one with the same id; cards in ``ID/VERSION/card.toml`` (:mod:`.store`) coexist, and a pipeline runs
one of them only if it is activated.

An image is prepared in one of two ways, always with the map from source to network coordinates, so that heat
maps and boxes land in the right place:

``chain``     the project's own, see below.
``imagenet``  torchvision's and timm's for evaluation: resized so that the shorter side is ``size / crop``
              (both sides with ``squash``), then the square in the middle.

Training, evaluation and pipeline prepare in the same way. The chain: grey levels stretched between
percentiles, fitted into a square, reduced to ``chain.side`` pixels, blurred, compressed as JPEG, enlarged to
the network's size. In the public sets the label can be guessed from the file's sharpness and compression
alone (source repository → pneumonia, AUC .954 on our images); after the chain all sources have the same.

Under small changes of its input a network's reliable answer stays the same (test-time augmentation). The same
film comes from another device darker, and from another archive at another size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ai_pipeline.contract import Code, Floats, Grey, ModelRef
from ai_pipeline.errors import CardError
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.mistakes import mistakes


def network_input(image: Grey, wanted: Input) -> tuple[Floats, Affine]:
    """Preprocess ``image`` (uint8 grey, any size) as ``wanted`` says; returns float32 ``[1, channels, size,
    size]`` and the map from source to model coordinates.
    """
    square, to_model = _SQUARES[wanted.preprocess](image, wanted)
    values = np.broadcast_to(square.astype(np.float32), (wanted.channels, *square.shape))
    mean = np.array(wanted.mean, np.float32)[:, None, None]
    scale = np.array(wanted.scale, np.float32)[:, None, None]
    return np.ascontiguousarray(((values - mean) / scale)[None]), to_model


def _imagenet(image: Grey, wanted: Input) -> tuple[Grey, Affine]:
    """Resize and cut ``image`` to the input that a network trained on ImageNet wants (``wanted``); returns it
    and the map from source to cut image.
    """
    rows, columns = image.shape
    edge = math.floor(wanted.size / wanted.crop)
    shorter = min(rows, columns)
    height = edge if wanted.squash else edge * rows // shorter
    width = edge if wanted.squash else edge * columns // shorter
    method = Image.Resampling.BICUBIC if wanted.interpolation == "bicubic" else Image.Resampling.BILINEAR
    resized = np.asarray(Image.fromarray(image).resize((width, height), method), np.uint8)
    top, left = round((height - wanted.size) / 2), round((width - wanted.size) / 2)
    square = resized[top : top + wanted.size, left : left + wanted.size]
    across, down = width / columns, height / rows
    return square, Affine(across, 0.0, -float(left), 0.0, down, -float(top))


_SQUARES: dict[str, Callable[[Grey, Input], tuple[Grey | Floats, Affine]]] = {
    "chain": lambda image, wanted: prepare(image, wanted.chain, wanted.size),
    "imagenet": _imagenet,
}


def reduce(image: Grey, chain: Chain) -> tuple[Grey, Affine]:
    """Reduce ``image`` (uint8 grey, any size) by the preprocessing ``chain`` to ``[side, side]`` uint8;
    returns it and the map from source to reduced image.
    """
    import cv2  # of the extra ai: cards are read without it

    rows, columns = image.shape
    scale = chain.side / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, (width, height), interpolation=way)
    low, high = np.percentile(small, (chain.low, chain.high))
    if high > low:
        small = np.clip((small - low) * (255.0 / (high - low)), 0, 255)
    top, left = (chain.side - height) // 2, (chain.side - width) // 2
    square = np.zeros((chain.side, chain.side), np.uint8)
    square[top : top + height, left : left + width] = small
    if chain.blur > 0:
        square = np.asarray(cv2.GaussianBlur(square, (0, 0), chain.blur), np.uint8)
    done, data = cv2.imencode(".jpg", square, [cv2.IMWRITE_JPEG_QUALITY, chain.jpeg_quality])
    if not done:
        raise ValueError(f"an image of {square.shape} could not be compressed as JPEG")
    affine = Affine(width / columns, 0.0, float(left), 0.0, height / rows, float(top))
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8), affine


def enlarge(reduced: Grey, size: int) -> Grey:
    """Enlarge a reduced image to the network's input size, ``[size, size]`` uint8."""
    import cv2

    return np.asarray(cv2.resize(reduced, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)


def normalise(images: Grey, mean: float, scale: float) -> Floats:
    """Convert ``images [N, size, size]`` to float32 ``[N, 3, size, size]``: ``(value - mean) / scale``, in 3
    equal channels.
    """
    values = (images.astype(np.float32) - np.float32(mean)) / np.float32(scale)
    return np.ascontiguousarray(np.broadcast_to(values[:, None], (len(images), 3, *images.shape[1:])))


def prepare(image: Grey, chain: Chain, size: int) -> tuple[Grey, Affine]:
    """Preprocess ``image`` by ``chain`` to the network's ``size``; returns ``[size, size]`` uint8 and the map
    from source to model coordinates.
    """
    reduced, affine = reduce(image, chain)
    factor = size / chain.side
    model = Affine(affine.a * factor, 0.0, affine.c * factor, 0.0, affine.e * factor, affine.f * factor)
    return enlarge(reduced, size), model


@dataclass(frozen=True, slots=True)
class Change:
    """A small change of a network's input picture: scaled by ``size`` about the middle, grey levels to the
    power ``gamma``, moved by ``shift`` across and down (shares of the side), ``reduced`` to a share of the
    side and enlarged again.
    """

    size: float = 1.0
    gamma: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    reduced: float = 1.0

    @property
    def offsets(self) -> tuple[float, float]:
        """How far the upper left corner moves across and down, in shares of the side."""
        across, down = ((1 - self.size) / 2 + part for part in self.shift)
        return across, down


def changed(values: Floats, change: Change, wanted: Input) -> tuple[Floats, Affine]:
    """Apply ``change`` to the input ``values [channels, s, s]``; returns it and the map from the unchanged to
    the changed coordinates. ``wanted``: the network's input, by which values are normalised.
    """
    import cv2

    if change == Change():
        return values, Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    mean, scale = (np.float32(pair[0]) for pair in (wanted.mean, wanted.scale))
    share = np.clip((values[0] * scale + mean) / 255, 0, 1) ** np.float32(change.gamma)
    side = share.shape[0]
    if change.reduced < 1:
        less = round(side * change.reduced)
        small = cv2.resize(share, (less, less), interpolation=cv2.INTER_AREA)
        share = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    offsets = [side * offset for offset in change.offsets]
    centred = [offset + 0.5 * change.size - 0.5 for offset in offsets]  # OpenCV counts from pixel centres
    matrix = np.array([[change.size, 0, centred[0]], [0, change.size, centred[1]]])
    moved = cv2.warpAffine(share, matrix, (side, side), flags=cv2.INTER_LINEAR)
    seen = np.broadcast_to((moved * 255 - mean) / scale, values.shape)
    way = Affine(change.size, 0.0, offsets[0], 0.0, change.size, offsets[1])
    return np.ascontiguousarray(seen, np.float32), way


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""What the id and the version of a model may look like: they become names of folders."""

LABEL = re.compile(r"\w[\w ,.;:()/%+-]*")
"""What the name of a label and the meaning of a code may look like: results, pages and tables show them."""
CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The same of Code Value and Coding Scheme Designator."""

Preprocess = Literal["chain", "imagenet"]


@dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights: its ``role`` in the model, its path, and the SHA-256 that it must have."""

    role: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The preprocessing of every image before the network gets it (:mod:`ai_pipeline.models.registry`).

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
    (:mod:`ai_pipeline.models.registry`). ``chain`` is used by ``chain`` alone, ``crop``, ``squash`` and
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
        """Raise ValueError if mean or scale do not fit the channels."""
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
    if the training data teach the model the place. ``detector`` is True if the card's box detector was shown
    to place this label better than a fixed box.
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
    detector: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for names that results may not show, and for thresholds in the wrong order."""
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
    """The domain gate of a model (refuses images unlike the training images): an image whose features have a
    distance above ``threshold`` is refused. ``role``: of the file with the gate; ``true_positive_rate``: the
    share of proper images that pass.
    """

    role: str
    threshold: float
    true_positive_rate: float


@dataclass(frozen=True, slots=True)
class Card:
    """A model card: the TOML file ``path`` that describes a model and pins its weights by hash. ``details``
    holds the descriptive tables (calibration, training, metrics) as read. ``sha256``: of the card's file.
    """

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
        """Whether the card names weights with this ``role``."""
        return any(weights.role == role for weights in self.weights)


MODELS_DIR = "AI_PIPELINE_MODELS_DIR"
STORED = "card.toml"  # how a card is called in ID/VERSION/


def cards(models_dir: Path | None = None) -> tuple[Card, ...]:
    """All model cards, shipped and the user's, sorted by id and version. Raises CardError if one cannot be
    read.
    """
    found = {card.id: card for card in _cards(SHIPPED.glob("*.toml"))}
    folder = models_dir or from_environment()
    stored: list[Card] = []
    if folder is not None:
        if not folder.is_dir():
            raise CardError(f"the folder of models {folder} does not exist")
        found |= {card.id: card for card in _cards(folder.glob("*.toml"))}
        stored += _cards(folder.glob(f"[!.]*/*/{STORED}"))
    return tuple(sorted([*found.values(), *stored], key=lambda card: (card.id, card.version)))


def find(model_id: str, models_dir: Path | None = None) -> Card:
    """The model card with this id, or ``id@version``. Raises CardError, which lists the known models. Of
    several versions, ``id`` selects the card outside ``ID/VERSION/``; for a version stored there, give the
    full name.
    """
    known = cards(models_dir)
    name, _, version = model_id.partition("@")
    meant = [card for card in known if card.id == name and version in {"", card.version}]
    if len(meant) > 1:
        meant = [card for card in meant if card.path.name != STORED] or meant
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise CardError(f"there are several {model_id}: say {' or '.join(card.name for card in meant)}")
    raise CardError(
        f"no card says {model_id!r}: no card, no model (known: {', '.join(c.name for c in known) or 'none'})"
    )


def read(weights: Weights) -> bytes:
    """Read the file of ``weights``. Raises CardError if it is missing or has another SHA-256 than the card
    says.
    """
    if not weights.path.is_file():
        raise CardError(f"the weights {weights.path} are missing: put them there or install their package")
    data = weights.path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != weights.sha256:
        raise CardError(
            f"the weights {weights.path} have SHA-256 {found}, the card says {weights.sha256}: refused; "
            "restore the file, or write a card with a new version for other weights"
        )
    return data


def verify(card: Card) -> None:
    """Raise CardError if a file of ``card`` is missing or altered. A file that has not changed since it was
    checked is not read again: nobody can set the time of its last change (``st_ctime``).
    """
    for weights in card.weights:
        _check(weights, weights.path.stat().st_ctime_ns if weights.path.is_file() else 0)


@lru_cache(maxsize=100)
def _check(weights: Weights, _changed_at: int) -> None:
    """Check a file of weights; the result is cached until the file changes. Raises CardError."""
    read(weights)


def from_environment() -> Path | None:
    """The user's folder of models that the environment variable names; None if it is not set."""
    value = os.environ.get(MODELS_DIR)
    return Path(value) if value else None


def _cards(paths: Iterator[Path]) -> list[Card]:
    """Read the cards in these files, in the order of their paths. Raises CardError."""
    return [load(path) for path in sorted(paths)]


SHIPPED = Path(__file__).parents[1] / "cards"


def load(path: Path) -> Card:
    """Read the model card in the file ``path``. Raises CardError, which names the file and every wrong
    key.
    """
    data = path.read_bytes()
    values, card = _parsed(path, data)
    return Card(
        **{key: getattr(card, key) for key in _DESCRIPTION},
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        weights=tuple(Weights(one.role, one.path(path.parent), one.sha256) for one in card.weights),
        input=card.input,
        labels=card.labels,
        gate=card.gate,
        outputs=card.outputs,
        calibrated=card.calibration is not None and card.calibration.calibrated,
        details={
            key: value
            for key, value in values.items()
            if key not in {*_DESCRIPTION, "weights", "input", "outputs", "labels", "gate"}
        },
    )


@lru_cache(maxsize=64)
def _parsed(path: Path, data: bytes) -> tuple[dict[str, Any], _CardFile]:
    """The values in a card's file, and the checked card; computed once for the same bytes, because each job
    asks for cards.
    """
    try:
        values = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CardError(f"{path} is not TOML: {error}") from error
    try:
        # As JSON: only from that does pydantic take lists for tuples, but no text for a number.
        return values, _CardFile.model_validate_json(json.dumps(_in_card_types(values), default=str))
    except ValidationError as error:
        faults = [f"{path}: {mistake.key} {mistake.remedy}" for mistake in mistakes(error)]
        raise CardError("\n".join(faults)) from error


class _CardTable(BaseModel):
    """Base of the classes that check a model card's tables: unknown keys are mistakes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _WeightsTable(_CardTable):
    """A table ``[[weights]]`` of a model card, which names a file: beside the card, in ``weights/`` next to
    its folder, or of a package.
    """

    role: str
    file: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    package: str | None = None

    @model_validator(mode="after")
    def _is_a_name(self) -> Self:
        """Refuse a file or package that is not a plain name."""
        if self.package is not None and not self.package.isidentifier():
            raise ValueError(f"package must be the name of an installed package, not {self.package!r}")
        if self.package is None and Path(self.file).name != self.file:
            raise ValueError("file must be the name of a file beside the card")
        return self

    def path(self, folder: Path) -> Path:
        """The path of the file, for a card in ``folder``; no package is imported to find it."""
        if self.package is not None:
            try:
                return Path(str(distribution(self.package).locate_file(self.package))) / self.file
            except PackageNotFoundError:
                return Path(self.package) / self.file  # the card can be read, its weights cannot
        beside = folder / self.file
        return folder.parent / "weights" / self.file if folder == SHIPPED or not beside.exists() else beside


class _CalibrationTable(_CardTable):
    """The table ``[calibration]`` of a model card."""

    calibrated: bool


class _CardFile(_CardTable):
    """The content of a model card's file, for checking."""

    id: str
    version: str
    task: str
    architecture: str
    licence: str
    intended_use: str
    limits: tuple[str, ...]
    weights: tuple[_WeightsTable, ...] = ()
    input: Input | None = None
    labels: tuple[Label, ...] = ()
    gate: Gate | None = None
    outputs: Outputs = Outputs()
    calibration: _CalibrationTable | None = None


_DESCRIPTION = ("id", "version", "task", "architecture", "licence", "intended_use", "limits")


def _in_card_types(values: dict[str, Any]) -> dict[str, Any]:
    """Convert a model card's tables to the keys of the classes that check them."""
    made = dict(values)
    if isinstance(given := values.get("input"), dict):
        listed = {key: [given[key]] for key in ("mean", "scale") if isinstance(given.get(key), int | float)}
        chain = given.get("chain") if given.get("preprocess", "chain") == "chain" else asdict(Chain())
        every = dict.fromkeys(field.name for field in fields(Chain))
        made["input"] = given | listed | {"chain": every | chain if isinstance(chain, dict) else chain}
    if isinstance(labels := values.get("labels"), list):
        made["labels"] = [
            {"site": None, **row, "code_source": row["code"].get("source")}
            if isinstance(row, dict) and isinstance(row.get("code"), dict)
            else row
            for row in labels
        ]
    return made
