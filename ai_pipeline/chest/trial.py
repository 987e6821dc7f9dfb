"""A model is run once on an empty picture, in a process apart, before it is put into use."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import Card, load, verify
from ai_pipeline.models.store import formats, sandbox
from ai_pipeline.models.store.confined import EXIT_DATA


def try_out(card: Card, seconds: int) -> None:
    """Raises CardError when the model cannot run, takes longer than ``seconds``, or too much memory."""
    verify(card)
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        reads = [card.path, *(weights.path for weights in card.weights)]
        ended = sandbox.run(
            "ai_pipeline.chest.trial", str(card.path.absolute()), Path(scratch), reads=reads, seconds=seconds
        )
    if ended.status == EXIT_DATA:
        raise CardError(ended.line)
    if ended.status != 0:
        raise CardError(f"{card.name} does not run: {ended.line}")


def main() -> None:
    """Try the card whose path is on standard input. Exit code 65, and one line on standard error, if not."""
    try:
        _try(load(Path(sys.stdin.read())))
    except CardError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DATA)


def _try(card: Card) -> None:
    import numpy as np

    from ai_pipeline.chest.classifier import Classifier

    for weights in card.weights:
        formats.check(weights.path)
    try:
        said = Classifier(card).analyse(np.zeros((256, 256), np.uint8))
    except CardError:
        raise
    except ImportError as error:
        raise CardError(f"{card.name} cannot run here: {error}; safetensors need torch") from error
    except Exception as error:  # each run time has its own kinds, some derived from nothing else
        raise CardError(f"{card.name} does not run: {str(error).splitlines()[0]}") from error
    if not np.isfinite(said.logits).all():
        raise CardError(f"{card.name} gives no number for an empty picture")


if __name__ == "__main__":
    main()
