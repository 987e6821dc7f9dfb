"""Run a model on pictures of several kinds and sizes, in a process of its own, before it is activated.

On black pictures alone, a model that divides by the spread of the grey levels, or returns NaN for bright
pictures, may seem to work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ai_pipeline.errors import CardError, NoNumber
from ai_pipeline.models.registry import Card, load, verify
from ai_pipeline.models.store import formats
from ai_pipeline.models.store.confined import EXIT_DATA
from ai_pipeline.models.store.sandbox import run_check

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ai_pipeline.contract import Floats, Grey


def try_out(card: Card, program: str, seconds: int) -> None:
    """Run the model of ``card`` on test pictures in a confined process, by the module ``program``, which
    calls :func:`main`. Raises CardError when it fails, takes longer than ``seconds``, or too much memory.
    """
    verify(card)
    reads = [card.path, *(weights.path for weights in card.weights)]
    request = str(card.path.absolute())
    run_check(program, request, reads, seconds, f"{card.name} does not run")


def main(loaded: Callable[[Card], Callable[[Grey], Floats]]) -> None:
    """Try the model card whose path is on standard input. If it fails: exit code 65, one line on standard
    error. ``loaded``: loads the model of a card; returns a function from a picture to its scores.
    """
    try:
        check(load(Path(sys.stdin.read())), loaded)
    except CardError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DATA)


def check(card: Card, loaded: Callable[[Card], Callable[[Grey], Floats]]) -> None:
    """Run the model of ``card`` on all test pictures; ``loaded``: as in :func:`main`. Raises CardError if it
    fails or gives no number.
    """
    import numpy as np

    for weights in card.weights:
        formats.check(weights.path)
    on = ""
    try:
        scores = loaded(card)
        for name, picture in pictures():
            rows, columns = picture.shape
            on = f"{name} of {columns} × {rows} pixels"
            if not np.isfinite(scores(picture)).all():
                raise NoNumber
    except NoNumber as error:
        raise CardError(f"{card.name} gives no number for {on}") from error
    except CardError:
        raise
    except Exception as error:  # each run time has its own kinds, some derived from nothing else
        first, *_ = [*str(error).splitlines(), type(error).__name__]
        where = f" on {on}" if on else ""
        raise CardError(f"{card.name} does not run{where}: {first}") from error


def pictures() -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Test pictures with their names, uint8 grey as displayed; every model must run on them."""
    import numpy as np

    yield "a black picture", np.zeros((256, 256), np.uint8)
    yield "a white picture", np.full((256, 256), 255, np.uint8)
    generator = np.random.default_rng(1)
    for rows, columns in ((64, 48), (768, 1024), (3072, 4096), (300, 3000)):
        yield "noise", generator.integers(0, 256, (rows, columns), np.uint8)
