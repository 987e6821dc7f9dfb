"""Read parameters from a checkpoint without running the code that it names.

A PyTorch checkpoint is a pickle: a program that builds objects of any class that it names. torch's own reader
of ``weights_only`` builds numbers alone. TorchScript archives and tars are refused before it: ``torch.load``
reads them by other means.
"""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ai_training.base import UnreadableCheckpoint

SAFETENSORS = ".safetensors"
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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The parameters in the file at ``path`` as float32, by name.

    Raises UnreadableCheckpoint, FileNotFoundError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the training starts from it")
    if path.suffix == SAFETENSORS:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _floats(load_file(path))
        except (SafetensorError, OSError) as error:
            raise UnreadableCheckpoint(f"{path.name} is not safetensors: {error}") from error
    _refuse_programs(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpoint(
            f"{path.name} holds more than numbers, which is not opened here: save the "
            "network's state_dict(), or safetensors"
        ) from error
    except Exception as error:  # whatever bytes that are no checkpoint make the reader raise
        raise UnreadableCheckpoint(f"{path.name} is no PyTorch checkpoint: {type(error).__name__}") from error
    return _floats(_state(loaded, path.name))


def _refuse_programs(path: Path) -> None:
    """Refuse formats that ``torch.load`` reads without the given unpickler. Raises UnreadableCheckpoint."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # what torch.load goes by
    if not zipped:
        if tarfile.is_tarfile(path):
            raise UnreadableCheckpoint(
                f"{path.name} is a tar of torch before 0.1.10: save it with a newer torch"
            )
        return
    try:
        names = torch._C.PyTorchFileReader(str(path)).get_all_records()  # as torch.load will see them
    except RuntimeError as error:
        raise UnreadableCheckpoint(f"{path.name} is no PyTorch checkpoint: its archive is broken") from error
    if any(name.startswith("code/") or name == "constants.pkl" for name in names):
        raise UnreadableCheckpoint(
            f"{path.name} is TorchScript, which is a program: save the network's state_dict() instead"
        )


def _state(loaded: object, name: str) -> Mapping[str, Tensor]:
    if isinstance(loaded, Mapping):
        tensors = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        for key in WRAPPERS:
            if loaded.get(key) is not None:
                return _state(loaded[key], name)
    raise UnreadableCheckpoint(f"{name} holds no parameters (looked under {', '.join(WRAPPERS)})")


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        str(name): (value.float() if value.is_floating_point() else value).detach().contiguous()
        for name, value in state.items()
    }
