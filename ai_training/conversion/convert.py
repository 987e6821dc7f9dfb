"""Convert a checkpoint, a folder or a bundle to a model with its card, in a process of its own: a pickle is
code.

:mod:`ai_pipeline.models.store.sandbox` says what that process can reach. Its output is treated like a
download: it is checked after the process has ended, again in a process of its own.
"""

import tempfile
from pathlib import Path

from pydantic import ValidationError

from ai_pipeline.errors import CardError
from ai_pipeline.models.store import sandbox
from ai_training.conversion import first_card
from ai_training.conversion.first_card import LabelMap
from ai_training.conversion.messages import ANSWER, MODEL, WEIGHTS, ConvertedNetwork, Request


def convert(
    request: Request,
    out: Path,
    *,
    model_id: str = "",
    version: str = "1",
    licence: str = "",
    label_map: LabelMap | None = None,
) -> tuple[Path, ConvertedNetwork]:
    """Write ``ID.onnx`` and the card ``ID.toml`` into ``out``; returns the card, and what the process found
    in the network. Raises CardError.

    The model has no output for a label that ``label_map`` leaves out.
    """
    left_out = tuple(name for name, label in (label_map or {}).items() if label is None)
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        made, answer = made_apart(request.model_copy(update={"leave_out": left_out}), Path(scratch))
        if not answer.labels:
            name = Path(request.checkpoint).name
            raise CardError(f"{name} has no labels: an encoder needs `examples/studies/head.py`")
        first_card.check(label_map, (*answer.labels, *answer.left_out))
        how = {"model_id": model_id, "version": version, "licence": licence}
        return first_card.written(out, made.read_bytes(), answer, label_map=label_map, **how), answer


def made_apart(request: Request, folder: Path) -> tuple[Path, ConvertedNetwork]:
    """The model that the process leaves in ``folder``, looked into, and what it found of the network. Raises
    CardError.
    """
    checkpoint = Path(request.checkpoint).resolve()
    if not checkpoint.exists():
        raise CardError(f"{request.checkpoint} is not there")
    if request.family == "huggingface" and not (checkpoint / WEIGHTS).is_file():
        raise CardError(
            f"{checkpoint.name} has no {WEIGHTS} with all weights (a pickle is code): save the model "
            "with save_pretrained(safe_serialization=True)"
        )
    sandbox.require()
    ended = sandbox.run(
        "ai_training.conversion.process",
        request.model_copy(update={"checkpoint": str(checkpoint)}).model_dump_json(),
        folder,
        reads=[checkpoint, Path(__file__).parents[1]],  # this package too
        seconds=request.seconds,
        required=True,
    )
    if ended.status is None:
        raise CardError(f"the conversion took longer than {request.seconds} s: see --seconds")
    if ended.status:
        raise CardError(f"{checkpoint.name} could not be converted: {ended.line}")
    answer, made = _answer(folder / ANSWER), folder / MODEL
    if not made.is_file() or made.is_symlink():
        raise CardError(f"{checkpoint.name} could not be converted: no model was written")
    sandbox.inspect([made])
    return made, answer


def _answer(path: Path) -> ConvertedNetwork:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
            raise CardError("the conversion's answer is not one")
        return ConvertedNetwork.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CardError("the conversion's answer is not one") from error
