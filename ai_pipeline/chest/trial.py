"""A model is run once on an empty image, in a process of its own, before it is activated."""

from __future__ import annotations

import sys
from pathlib import Path

from ai_pipeline.errors import CardError
from ai_pipeline.models.registry import Card, load, verify
from ai_pipeline.models.store import formats
from ai_pipeline.models.store.confined import EXIT_DATA
from ai_pipeline.models.store.inspection import run_check


def try_out(card: Card, seconds: int) -> None:
    """Raises CardError when the model cannot run, takes longer than ``seconds``, or too much memory."""
    verify(card)
    reads = [card.path, *(weights.path for weights in card.weights)]
    request = str(card.path.absolute())
    run_check("ai_pipeline.chest.trial", request, reads, seconds, f"{card.name} does not run")


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
    from ai_pipeline.chest.detector import SiteDetector

    for weights in card.weights:
        formats.check(weights.path)
    empty = np.zeros((256, 256), np.uint8)
    try:
        if card.box_output is not None:
            SiteDetector(card).try_out()
            return
        found = Classifier(card).analyse(empty)
    except CardError:
        raise
    except ImportError as error:
        raise CardError(f"{card.name} cannot run here: {error}; safetensors need torch") from error
    except Exception as error:  # each run time has its own kinds, some derived from nothing else
        raise CardError(f"{card.name} does not run: {str(error).splitlines()[0]}") from error
    if not np.isfinite(found.logits).all():
        raise CardError(f"{card.name} gives no number for an empty picture")


if __name__ == "__main__":
    main()
