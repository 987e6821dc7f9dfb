"""Read parameters from a checkpoint without running the code that it names.

A PyTorch checkpoint is a pickle: a program that builds objects of any class that it names. Only classes that
hold numbers are built here; every other becomes a :class:`Shell`, an empty module that keeps its parameters.
So a whole pickled network (torchxrayvision saves such files) gives its parameters without its library, and a
call of ``os.system`` gives an empty shell. TorchScript archives and tars are refused: ``torch.load`` reads
them by other means.
"""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ai_pipeline.errors import UnreadableCheckpoint

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

_NUMBERS = re.compile(
    r"collections\.OrderedDict|torch\.Size|torch\.device|torch\.storage\.\w+Storage|torch\.\w+Storage"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
    r"|torch\.(float|bfloat|u?int|complex)\d+|torch\.bool"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray)|_codecs\.encode"
    r"|(builtins|__builtin__)\.(set|frozenset|complex|bytearray)"
)


class Shell(nn.Module):
    """A substitute for every class in a pickle that does more than hold numbers; none of that class's code is
    run.
    """

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        nn.Module.__init__(self)
        if isinstance(state, dict):  # of a module; hooks and all else that could be called stay behind
            kept = {part: state[part] for part in ("_parameters", "_buffers", "_modules") if part in state}
            self.__dict__.update(kept)


def read_state(path: Path) -> dict[str, Tensor]:
    """The parameters in the file at ``path`` as float32, by name. Raises UnreadableCheckpoint."""
    if path.suffix == SAFETENSORS:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return _floats(load_file(path))
        except (SafetensorError, OSError) as error:
            raise UnreadableCheckpoint(f"{path.name} is not safetensors: {error}") from error
    return _floats(_state(_unpickle(path), path.name))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Like :func:`read_state`, for a process without a sandbox: by torch's own ``weights_only`` reader.

    For a file that a user names for training. Raises UnreadableCheckpoint, FileNotFoundError.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the training starts from it")
    if path.suffix == SAFETENSORS:
        return read_state(path)
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


def _unpickle(path: Path) -> object:
    _refuse_programs(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sources that changed: no source is run
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_numbers_only())
    except Exception as error:  # whatever bytes that are no checkpoint make the reader raise
        raise UnreadableCheckpoint(f"{path.name} is no PyTorch checkpoint: {type(error).__name__}") from error


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


def _numbers_only() -> ModuleType:
    """The module ``pickle`` as ``torch.load`` wants it, with a reader that builds nothing but numbers."""
    module = ModuleType("numbers_only")
    module.__dict__.update(
        Unpickler=_NumbersOnly, load=lambda file, **options: _NumbersOnly(file, **options).load()
    )
    return module


class _NumbersOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if _NUMBERS.fullmatch(f"{module}.{name}") else Shell


def _state(loaded: object, name: str) -> Mapping[str, Tensor]:
    if isinstance(loaded, nn.Module) and (state := loaded.state_dict()):
        return state
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
