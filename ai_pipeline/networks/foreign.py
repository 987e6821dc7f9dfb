"""Networks of timm, torchvision and Ultralytics, where they are installed: nothing else here needs them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ai_pipeline.errors import CannotAdapt

MOST_OPERATORS = 10


def timm_network(architecture: str, labels: int, channels: int) -> Any:
    """timm's network of that name, for so many ``labels`` and ``channels``, unfilled. Raises CannotAdapt."""
    offer_torchvision_operators()
    try:
        import timm
    except ImportError as error:
        raise CannotAdapt(f"this network needs timm: pip install timm ({error})") from error
    if not timm.is_model(architecture):
        raise CannotAdapt(f"timm {timm.__version__} knows no network {architecture!r}")
    return timm.create_model(architecture, pretrained=False, num_classes=labels, in_chans=channels)


def torchvision_network(architecture: str, labels: int) -> nn.Module:
    """torchvision's network of that name, for so many ``labels``, unfilled. Raises CannotAdapt."""
    offer_torchvision_operators()
    try:
        from torchvision import models
    except ImportError as error:
        raise CannotAdapt(f"this network needs torchvision: pip install torchvision ({error})") from error
    if architecture not in models.list_models(module=models):
        raise CannotAdapt(f"torchvision knows no classifier {architecture!r}")
    network: nn.Module = models.get_model(architecture, weights=None, num_classes=labels)
    return network


def ultralytics_classifier(path: Path) -> tuple[Any, str, int]:
    """The network in an Ultralytics checkpoint, its licence, and the side of its pictures in pixels.

    Raises CannotAdapt.

    The file is a pickle of Ultralytics' own classes, and cannot be read without running what it says.
    """
    offer_torchvision_operators()
    try:
        import ultralytics  # noqa: F401  (the classes that the pickle names)
    except ImportError as error:
        raise CannotAdapt(f"this checkpoint needs ultralytics: pip install ultralytics ({error})") from error
    loaded: Any = torch.load(path, map_location="cpu", weights_only=False)
    network = (loaded.get("ema") or loaded.get("model")) if isinstance(loaded, Mapping) else None
    if network is None or type(network).__name__ != "ClassificationModel":
        raise CannotAdapt(f"{path.name} is no Ultralytics classifier, and no pipeline takes another kind")
    return network, str(loaded.get("license", "")), int(loaded.get("train_args", {}).get("imgsz", 224))


def offer_torchvision_operators() -> None:
    """Let torchvision be imported beside a torch for which its compiled operators were not built.

    Its Python registers shapes for them at import, which fails beside the CPU build of torch; no classifier
    calls them. So they are declared, without a body, until the import goes through.
    """
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _KEPT.append(library)
    for _ in range(MOST_OPERATORS):
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
