"""The process that reads a checkpoint, run by :mod:`ai_pipeline.models.store.sandbox`.

The request comes on standard input (:mod:`ai_training.conversion.messages`). It works in an empty folder and
writes the model and its description there. Exit codes: 0 done, 65 with one line on stderr that says why not.
"""

import sys
import warnings
from pathlib import Path

from ai_pipeline.models.store.confined import EXIT_DATA
from ai_training.conversion.messages import ANSWER, MODEL, ConvertedNetwork, NetworkFacts, Request


def main() -> None:
    """Read the request, then the file, and write model and answer into the folder."""
    request = Request.model_validate_json(sys.stdin.read())
    warnings.simplefilter("ignore")  # stderr is for the one line
    from ai_pipeline.errors import CardError
    from ai_training.base import CannotAdapt, UnreadableCheckpoint

    try:
        facts, difference = _converted(request)
        # Of the largest score.
        if not difference <= 1e-3:
            raise CannotAdapt(f"the converted file answers differently from the network, by {difference:.2g}")
    except (CardError, CannotAdapt, UnreadableCheckpoint) as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DATA)
    answer = ConvertedNetwork(difference=difference, **facts.model_dump(exclude={"network"}))
    Path(ANSWER).write_text(answer.model_dump_json(), encoding="utf-8")


def _converted(request: Request) -> tuple[NetworkFacts, float]:
    """Write the model; returns its facts, and how far it is from the network on a random picture, as a share
    of the largest score.
    """
    import numpy as np
    import torch

    from ai_pipeline.models.engine import OnnxRuntime
    from ai_training.conversion import adapters, bundle

    path, checkpoint = Path(MODEL), Path(request.checkpoint)
    if request.family == "monai":
        facts: NetworkFacts = bundle.adapt(checkpoint, path, request)
    else:
        facts = adapted = adapters.adapt(checkpoint, request)
        # The exporter by tracing: 1 s for a DenseNet-121, the one by torch.export 25 s, with the same result.
        torch.onnx.export(
            adapted.network,
            (torch.zeros(2, facts.channels, facts.size, facts.size),),
            str(path),
            input_names=["images"],
            output_names=list(facts.outputs),
            dynamic_axes={name: {0: "batch"} for name in ("images", *facts.outputs)},
            opset_version=17,
            dynamo=False,
        )
    shape = (1, facts.channels, facts.size, facts.size)
    grey = np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)
    mean, scale = (np.array(part, np.float32)[:, None, None] for part in (facts.mean, facts.scale))
    images = (grey - mean) / scale
    found = OnnxRuntime(path.read_bytes(), threads=torch.get_num_threads())(images)
    if request.family == "monai":
        turned = np.ascontiguousarray(images.transpose(0, 1, 3, 2))
        expected = list(OnnxRuntime((checkpoint / bundle.NETWORK).read_bytes())(turned).values())[:1]
    else:
        with torch.inference_mode():
            expected = [value.numpy() for value in adapted.network(torch.from_numpy(images))]
    pairs = zip((found[name] for name in facts.outputs), expected, strict=True)
    return facts, max(float(abs(a - b).max() / max(float(abs(b).max()), 1e-12)) for a, b in pairs)


if __name__ == "__main__":
    main()
