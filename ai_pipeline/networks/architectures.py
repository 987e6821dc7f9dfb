"""The networks that this project can fill with parameters from a file, by the name in a card."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import nn

from ai_pipeline.errors import NotThisNetwork
from ai_pipeline.networks import densenet, efficientnet

Arrays = Mapping[str, npt.NDArray[np.float32]]


def from_arrays(
    architecture: str, arrays: Arrays, labels: int, channels: int, size: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with its parameters, ready for inference, and the names of what it returns.

    ``labels`` and ``channels``: how many outputs and input channels; ``size`` of the input in pixels. Raises
    NotThisNetwork.
    """
    try:
        if architecture == efficientnet.NAME:
            return efficientnet.from_arrays(arrays, labels, size), efficientnet.OUTPUTS
        if architecture in densenet.SHAPES:
            return densenet.from_arrays(architecture, arrays, labels, channels), densenet.OUTPUTS
    except (KeyError, RuntimeError) as error:  # load_state_dict complains with RuntimeError
        raise NotThisNetwork(
            f"the file does not hold the parameters of {architecture!r}: use its ONNX file on onnxruntime"
        ) from error
    known = ", ".join((efficientnet.NAME, *densenet.SHAPES))
    raise NotThisNetwork(
        f"torch does not know the architecture {architecture!r} (it knows {known}): use an ONNX file"
    )
