"""The networks that this project can fill with parameters from a file, by their names in a card."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ai_pipeline.errors import CannotAdapt, NotThisNetwork
from ai_pipeline.networks import efficientnet
from ai_pipeline.networks.foreign import DENSENETS, densenet

Arrays = Mapping[str, npt.NDArray[np.float32]]


def from_arrays(
    architecture: str, arrays: Arrays, labels: int, channels: int, size: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network filled with ``arrays``, ready for inference, and the names of its outputs.

    ``labels`` and ``channels``: number of outputs and of input channels; ``size`` of the input in pixels.
    Raises NotThisNetwork.
    """
    try:
        if architecture == efficientnet.NAME:
            return efficientnet.from_arrays(arrays, labels, size), efficientnet.OUTPUTS
        if architecture in DENSENETS:
            state = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
            network = densenet(architecture, state, labels, channels)
            return network, network.outputs
    except CannotAdapt as error:
        raise NotThisNetwork(f"{error}; or use its ONNX file on onnxruntime") from error
    except (KeyError, RuntimeError) as error:  # load_state_dict complains with RuntimeError
        raise NotThisNetwork(
            f"the file does not hold the parameters of {architecture!r}: use its ONNX file on onnxruntime"
        ) from error
    known = ", ".join((efficientnet.NAME, *DENSENETS))
    raise NotThisNetwork(
        f"torch does not know the architecture {architecture!r} (it knows {known}): use an ONNX file"
    )
