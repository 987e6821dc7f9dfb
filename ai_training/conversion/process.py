"""The process that reads a checkpoint, run by :mod:`.sandbox`; the request comes on standard input.

It works in an empty folder and writes the model and its description there
(:mod:`ai_training.conversion.messages`). Exit codes: 0 done, 65 with one line on stderr that says why not.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_pipeline.models.store.confined import EXIT_DATA
from ai_training.conversion.messages import ANSWER, MODEL, ConvertedNetwork, Request

if TYPE_CHECKING:
    from ai_training.conversion.adapted import Adapted

OPSET = 17
MOST = 1e-3  # of the largest score: how far the file may be from the network that it was made from


def main() -> None:
    """Read the request, then the file, and write model and answer into the folder."""
    request = Request.model_validate_json(sys.stdin.read())
    warnings.simplefilter("ignore")  # stderr is for the one line
    from ai_training.base import CannotAdapt, UnreadableCheckpoint
    from ai_training.conversion.adapters import adapt

    try:
        adapted = adapt(Path(request.checkpoint), request)
        path = Path(MODEL)
        _export(adapted, path)
        difference = _difference(adapted, path)
    except (CannotAdapt, UnreadableCheckpoint) as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DATA)
    answer = ConvertedNetwork(difference=difference, **adapted.model_dump(exclude={"network"}))
    Path(ANSWER).write_text(answer.model_dump_json(), encoding="utf-8")


def _export(adapted: Adapted, path: Path) -> None:
    import torch

    example = torch.zeros(2, adapted.channels, adapted.size, adapted.size)
    # The exporter by tracing: 1 s for a DenseNet-121, the one by torch.export 25 s, with the same result.
    torch.onnx.export(
        adapted.network,
        (example,),
        str(path),
        input_names=["images"],
        output_names=list(adapted.outputs),
        dynamic_axes={name: {0: "batch"} for name in ("images", *adapted.outputs)},
        opset_version=OPSET,
        dynamo=False,
    )


def _difference(adapted: Adapted, path: Path) -> float:
    """Between the file at run time and the network in torch, on a random picture."""
    import numpy as np
    import torch

    from ai_pipeline.models.engine import OnnxRuntime
    from ai_training.base import CannotAdapt

    shape = (1, adapted.channels, adapted.size, adapted.size)
    grey = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    mean, scale = (np.array(part, np.float32)[:, None, None] for part in (adapted.mean, adapted.scale))
    images = (grey - mean) / scale
    with torch.inference_mode():
        expected = adapted.network(torch.from_numpy(images))
    engine = OnnxRuntime(path.read_bytes(), threads=torch.get_num_threads())
    found = engine(images)
    off = [_off(found[name], value.numpy()) for name, value in zip(adapted.outputs, expected, strict=True)]
    if not max(off) <= MOST:
        raise CannotAdapt(f"the converted file answers differently from the network, by {max(off):.2g}")
    return max(off)


def _off(ours: Any, theirs: Any) -> float:
    return float(abs(ours - theirs).max() / max(float(abs(theirs).max()), 1e-12))


if __name__ == "__main__":
    main()
