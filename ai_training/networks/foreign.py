"""Networks of timm and torchvision, with the maps that a card can name."""

import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from ai_training.base import CannotAdapt
from ai_training.networks.checkpoints import State, fill

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
