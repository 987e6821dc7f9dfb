"""The networks that this project can fill with parameters from a file, by their names in a card."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import nn

from ai_pipeline.errors import NotThisNetwork
from ai_pipeline.networks import efficientnet

Arrays = Mapping[str, npt.NDArray[np.float32]]


def from_arrays(
    architecture: str, arrays: Arrays, labels: int, size: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network filled with ``arrays``, ready for inference, and the names of its outputs.

    ``labels``: number of outputs; ``size`` of the input in pixels. Raises NotThisNetwork.
    """
    if architecture != efficientnet.NAME:
        raise NotThisNetwork(
            f"torch does not know the architecture {architecture!r} (it knows {efficientnet.NAME}): use an "
            "ONNX file"
        )
    try:
        return efficientnet.from_arrays(arrays, labels, size), efficientnet.OUTPUTS
    except (KeyError, RuntimeError) as error:  # load_state_dict complains with RuntimeError
        raise NotThisNetwork(
            f"the file does not hold the parameters of {architecture!r}: use its ONNX file on onnxruntime"
        ) from error
