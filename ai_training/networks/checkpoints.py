"""Parameters of checkpoints: read without running the code that a file names, and put into a network.

A PyTorch checkpoint is a pickle: a program that builds objects of any class that it names. torch's own
reader of ``weights_only`` builds numbers alone, and refuses TorchScript and the tars of torch before 0.1.10.

Training scripts change names, and :func:`fill`, the one loader of conversion, training and studies, undoes
it: prefixes (``module.``, ``backbone.``), torchvision before 0.3 (``norm.1`` for ``norm1``), the head of
CheXNet (``Sequential(Linear, Sigmoid)``).
"""

import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ai_training.base import CannotAdapt, UnreadableCheckpoint

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
