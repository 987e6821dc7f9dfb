"""The messages between ``ai-pipeline models convert`` and the process that reads the checkpoint.

The request is trusted. The answer comes from a process that may have run foreign code, so it is checked like
any other foreign data: types, lengths, ranges, and no unknown field.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Family = Literal["torchvision", "timm", "huggingface", "monai"]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
MODEL = "model.onnx"  # the file that the process leaves
ANSWER = "answer.json"
WEIGHTS = "model.safetensors"  # of a folder in Hugging Face's layout


class Request(BaseModel):
    """Which checkpoint to read and what to make of it; ``seconds``: time limit.

    ``architecture``, ``labels``, ``size`` (side of the input in pixels): if empty or None, of the file or of
    its family of networks. ``softmax``: the outputs exclude one another. ``leave_out``: labels for which
    the model gets no output. ``encoder``: only the embedding is wanted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    family: Family
    architecture: str = ""
    labels: tuple[str, ...] = ()
    size: int | None = None
    softmax: bool = False
    seconds: int = 600
    leave_out: tuple[str, ...] = ()
    encoder: bool = False


class NetworkFacts(BaseModel):
    """What a card says of a converted network; fields as in :class:`ai_pipeline.models.registry.Input` and
    ``Outputs``.

    ``outputs``: names of what the network returns. ``mean`` and ``scale`` are for values 0..255, one number
    or one per channel. ``left_out``: labels of the checkpoint for which the network has no output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: tuple[Name, ...] = Field(max_length=8)
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    architecture: Name
    labels: tuple[Name, ...] = Field(max_length=4096)
    channels: Annotated[int, Field(ge=1, le=16)]
    size: Annotated[int, Field(ge=16, le=4096)]
    mean: tuple[Finite, ...] = Field(min_length=1, max_length=16)
    scale: tuple[Finite, ...] = Field(min_length=1, max_length=16)
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    kind: Literal["logits", "probabilities"] = "logits"
    licence: Annotated[str, Field(max_length=400)] = ""
    left_out: tuple[Name, ...] = Field(default=(), max_length=4096)


class ConvertedNetwork(NetworkFacts):
    """The facts of the network in the converted file.

    ``difference``: the largest difference between the scores of the file on its run time and those of the
    network that it was made from, as a share of the largest score.
    """

    difference: Annotated[float, Field(ge=0.0, le=1.0)]
