"""Inference: run a network on arrays.

ONNX Runtime runs ONNX files (imports in 0.2 s, needs no torch), with one execution provider for all networks,
which :data:`INFERENCE` chooses; a test holds providers equal.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np

from ai_pipeline.contract import Floats
from ai_pipeline.errors import CardError, ModelError, NoNumber
from ai_pipeline.models.registry import Card, Weights, read

ONNX: Final = ".onnx"
INFERENCE: Final = "AI_PIPELINE_INFERENCE"
"""The environment's variable that says where networks run, by a name of ``PROVIDERS``; cpu without it."""
PROVIDERS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    # Without these both compute with fewer bits where they can: other findings.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "openvino": ("OpenVINOExecutionProvider", {"device_type": "CPU", "precision": "FP32"}),
}


class Engine(Protocol):
    """A loaded network (protocol). It is called with float32 ``[N, channels, size, size]`` and returns its
    outputs by name.
    """

    def __call__(self, images: Floats, /) -> Mapping[str, Floats]: ...


def load(card: Card, role: str, threads: int = 0) -> Engine:
    """Load the network of ``card`` with this ``role``, once per process, and run it once to be warm. Files
    other than ONNX are refused: a pickle is code. ``threads``: for one inference, 0 for as many as the
    process may use. Raises CardError when the weights are missing, altered or unusable.
    """
    if card.input is None or not card.labels:
        raise CardError(f"{card.path.name}: input and labels must be given for a network")
    weights = card.file(role)
    if weights.path.suffix != ONNX:
        raise CardError(
            f"{weights.path.name} is not run: only ONNX is; make it with `ai-pipeline models convert`"
        )
    shape = (1, card.input.channels, card.input.size, card.input.size)
    return _loaded(weights, threads or usable_cores(), shape)


def usable_cores() -> int:
    """The number of cores that this process may run on (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=16)
def _loaded(weights: Weights, threads: int, shape: tuple[int, ...]) -> Engine:
    """Load the network in these weights and run it once on an input of ``shape``, because the first run is
    slow.
    """
    # The bytes that were hashed are the bytes that are run: the file is read once.
    engine = OnnxRuntime(read(weights), threads)
    with suppress(NoNumber):  # to be warm; whether it gives numbers is judged of images
        engine(np.zeros(shape, np.float32))
    return engine


def inference() -> str:
    """The hardware on which this process runs networks, such as ``cpu``: a key of ``PROVIDERS``."""
    return os.environ.get(INFERENCE) or "cpu"


def lacking(where: str) -> str:
    """Why the installed ONNX Runtime cannot run networks on the hardware ``where``, with the remedy; "" if it
    can.
    """
    if where == "cpu":
        return ""
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if where not in PROVIDERS:
        return f"there is no inference {where!r}: choose from {', '.join(PROVIDERS)}"
    if (provider := PROVIDERS[where][0]) in there:
        return ""
    return (
        f"the installed onnxruntime {onnxruntime.__version__} has no {provider} (it has {', '.join(there)}): "
        "install the build of onnxruntime that has it, or choose cpu (docs/deploy/inference.md)"
    )


def session(data: bytes, threads: int) -> Any:
    """Create a session of ONNX Runtime for the ONNX file ``data``, on this process's hardware. Numbers below
    1e-38 count as zero in its threads; after the first session of a process also in the thread that created
    it. Raises ModelError.
    """
    import onnxruntime

    where = inference()
    if missing := lacking(where):
        raise ModelError(missing)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads must not spin: workers, listener and decoder share the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Numbers below 1e-38 take a hundred times as long: half the time of text detection was spent on them.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    chosen = dict.fromkeys([where, "cpu"])
    made = onnxruntime.InferenceSession(data, options, providers=[PROVIDERS[one] for one in chosen])
    if PROVIDERS[where][0] not in made.get_providers():  # it falls back in silence
        raise ModelError(f"inference on {where} does not start here: the log has the reason of ONNX Runtime")
    return made


class OnnxRuntime:
    """A network in an ONNX file, run on ONNX Runtime."""

    def __init__(self, data: bytes, threads: int = 0) -> None:
        """Load the ONNX file ``data``. ``threads``: for one inference, 0 for as many as the process may
        use.
        """
        self._session = session(data, threads or usable_cores())
        self._inputs = [given.name for given in self._session.get_inputs()]
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, *inputs: Floats) -> Mapping[str, Floats]:
        """Run the network on ``inputs``, in the order of its inputs; returns its outputs by name. Raises
        NoNumber.
        """
        given = dict(zip(self._inputs, inputs, strict=True))
        # Bytes of input from which ONNX Runtime gives its working memory back after the run, some 20 times
        # as much: it would be missing in the next step. Of smaller ones it is kept for the next run, which
        # is quicker.
        large = sum(array.nbytes for array in inputs) > (16 << 20)
        found = self._session.run(None, given, giving_memory_back() if large else None)
        return numbers(dict(zip(self._outputs, found, strict=True)))


def giving_memory_back() -> Any:
    """Make options for a run after which ONNX Runtime frees its working memory."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def numbers(outputs: Mapping[str, Floats]) -> Mapping[str, Floats]:
    """Return the ``outputs`` of a network unchanged. Raises NoNumber if one holds NaN or infinity."""
    for output in outputs.values():
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise NoNumber
    return outputs
