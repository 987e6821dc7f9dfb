#!/usr/bin/env python3
"""Chest films that are cut off: fit what recognises them, and measure it.

We cut the films, so the truth is known: at the top and the bottom through 5 to 30 % of the longer lung, at a
side through 10 to 50 % of the wider one. Three in ten get a black border, as of a collimator.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
import tomlkit
import typer

from ai_pipeline.chest.anatomy import (
    FIGURES,
    LEFT_LUNG,
    RIGHT_LUNG,
    AnatomyModel,
    Completeness,
    Edge,
    figures_of,
)
from ai_pipeline.chest.ratio import MODEL
from ai_pipeline.models.registry import find
from ai_training import commands, metrics
from ai_training.base import DataMissing, Report, silent
from ai_training.commands import Figures, verb
from ai_training.metrics import patient_weights
from ai_training.sets.chest import chest_set
from ai_training.sets.files import read_grey
from ai_training.sets.images import SetImage

SMALLEST: Final = 224
"""Shorter side of a film, at least (pixels)."""
FILMS: Final[Mapping[str, int]] = {"train": 170, "val": 110, "test": 130}
"""Films of a split, one a patient, chosen at random."""
SEED: Final = 7
LOST: Final[Mapping[Edge, tuple[float, float]]] = {
    Edge.TOP: (0.05, 0.3),
    Edge.BOTTOM: (0.05, 0.3),
    Edge.SIDE: (0.1, 0.5),
}
"""Share of a lung that is cut off at an edge, from and to."""
FRAMED: Final = 0.3
"""Share of the cut films with a black border, ``BORDERS`` pixels wide."""
BORDERS: Final = (5, 60)
FALSE, MISSED = 0.02, 0.03
"""Shares of whole validation films called cut at an edge, and of cut ones missed: a limit is half-way between
the one that gives the first and the one that gives the second."""
WHOLE: Final = "whole"
Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CutFilm:
    """One film, cut at ``edge`` or whole (None), and the figures of each edge; for sides the
    cut one first.
    """

    patient: str
    path: Path
    edge: Edge | None
    figures: Mapping[Edge, list[tuple[float, ...]]]


def cut_films(
    data: Path, model: AnatomyModel, split: str, films: int = 0, report: Report = silent
) -> list[CutFilm]:
    """Films of a ``split``, each whole and cut at four edges, of ``films`` patients; 0: as many as ``FILMS``
    says.

    Raises DataMissing.
    """
    rng = Random(SEED)
    chosen = list(_chosen(data, split, rng))[: films or FILMS[split]]
    if not chosen:
        raise DataMissing(f"{data}: no adult's film of split {split} with {SMALLEST} pixels a side")
    found: list[CutFilm] = []
    for number, image in enumerate(chosen):
        report(number / len(chosen), f"completeness, {split}")
        found += _versions(image, model, rng)
    return found


def fit(train: Sequence[CutFilm], validation: Sequence[CutFilm]) -> dict[str, Any]:
    """The table ``[completeness]`` of a card: coefficients from ``train``, limits from ``validation``."""
    table: dict[str, Any] = {"figures": list(FIGURES)}
    for edge in Edge:
        weights, offset = _logistic(*_rows(train, edge))
        figures, cut = _rows(validation, edge)
        score = figures @ weights + offset
        whole = np.array([film.edge is None for film in validation for _ in film.figures[edge]])
        few_false = np.quantile(score[whole], 1 - FALSE, method="higher")
        limit = (few_false + np.quantile(score[cut], MISSED)) / 2
        table[edge.value] = {
            "weights": [round(float(one), 4) for one in weights],
            "offset": round(offset, 4),
            "limit": round(float(limit), 4),
        }
    return table


def measured(films: Sequence[CutFilm], judges: Completeness) -> dict[str, Any]:
    """Shares with their 95 % intervals, by patient: of the cut films how many are recognised (5 to 30 % of a
    lung, at a side 10 to 50 %), of the whole films how many are called cut, by edge and at any edge.
    """

    def share(edge: Edge | None, called: Sequence[Edge]) -> list[float]:
        mine = [film for film in films if film.edge is edge]
        hits = [any(_called(judges, film, one) for one in called) for film in mine]
        weights = patient_weights([film.patient for film in mine])
        return metrics.share(np.array(hits), np.ones(len(mine), bool), weights).as_list()

    return {
        "films": sum(film.edge is None for film in films),
        "recognised": {edge.value: share(edge, (edge,)) for edge in Edge},
        "whole_called": {edge.value: share(None, (edge,)) for edge in Edge},
        "whole_called_at_top_or_bottom": share(None, (Edge.TOP, Edge.BOTTOM)),
        "whole_called_at_any": share(None, tuple(Edge)),
    }


def _chosen(data: Path, split: str, rng: Random) -> Iterator[SetImage]:
    """Adults' films of a split that are large enough, one a patient, in random order."""
    images = [image for image in chest_set(data).images if image.adult and image.is_in(split)]
    images.sort(key=lambda image: str(image.path))
    rng.shuffle(images)
    seen: set[str] = set()
    for image in images:
        if image.patient not in seen and min(read_grey(image.path).shape) >= SMALLEST:
            seen.add(image.patient)
            yield image


def _versions(image: SetImage, model: AnatomyModel, rng: Random) -> Iterator[CutFilm]:
    picture = read_grey(image.path)
    lungs = model.outline(picture).in_image(*picture.shape)[[RIGHT_LUNG, LEFT_LUNG]] > 0
    if not lungs.any(axis=(1, 2)).all():
        return
    cuts: list[tuple[Edge | None, Grey, bool]] = [(None, picture, False)]
    for edge, backwards in ((Edge.TOP, False), (Edge.BOTTOM, False), (Edge.SIDE, False), (Edge.SIDE, True)):
        rows = _cut_rows(_from(lungs, edge, backwards), rng.uniform(*LOST[edge]))
        cuts.append(
            (edge, _framed(_back(_from(picture, edge, backwards)[rows:], edge, backwards), rng), backwards)
        )
    for cut_at, cut, backwards in cuts:
        if min(cut.shape) < SMALLEST // 2:
            continue
        anatomy = model.outline(cut)
        if anatomy.masks[[RIGHT_LUNG, LEFT_LUNG]].any(axis=(1, 2)).all():
            figures = dict(figures_of(cut, anatomy))
            if backwards:
                figures[Edge.SIDE] = figures[Edge.SIDE][::-1]
            yield CutFilm(image.patient, image.path, cut_at, figures)


def _from(array: npt.NDArray[Any], edge: Edge, backwards: bool) -> npt.NDArray[Any]:
    """``array [..., rows, columns]`` as seen from an edge: its first row is at the edge."""
    if edge is Edge.SIDE:
        array = array.swapaxes(-1, -2)
    return array[..., ::-1, :] if backwards or edge is Edge.BOTTOM else array


def _back(cut: Grey, edge: Edge, backwards: bool) -> Grey:
    if edge is Edge.TOP:
        return cut
    if edge is Edge.BOTTOM:
        return cut[::-1]
    return (cut[::-1] if backwards else cut).T


def _cut_rows(lungs: npt.NDArray[np.bool_], share: float) -> int:
    """Rows to cut from ``lungs [2, rows, columns]``, through a ``share`` of the longer lung."""
    rows = [np.flatnonzero(lung.any(axis=1)) for lung in lungs]
    longest = max(int(one[-1] - one[0]) for one in rows)
    return int(min(one[0] for one in rows) + share * longest)


def _framed(picture: Grey, rng: Random) -> Grey:
    width = rng.randint(*BORDERS) if rng.random() < FRAMED else 0
    return np.ascontiguousarray(np.pad(picture, width))


def _rows(films: Sequence[CutFilm], edge: Edge) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The figures ``[n, 6]`` of an edge, both sides of a film apart, and whether the film is cut there."""
    rows = [
        (figures, film.edge is edge and number == 0)
        for film in films
        for number, figures in enumerate(film.figures[edge])
    ]
    return np.array([figures for figures, _ in rows]), np.array([cut for _, cut in rows])


def _called(judges: Completeness, film: CutFilm, edge: Edge) -> bool:
    rows = film.figures[edge][:1] if film.edge is edge else film.figures[edge]
    return any(judges.judges[edge].is_cut(figures) for figures in rows)


def _logistic(
    figures: npt.NDArray[np.float64], cut: npt.NDArray[np.bool_], decay: float = 0.01
) -> tuple[npt.NDArray[np.float64], float]:
    """Weights and offset of the logistic model with weight decay, by Newton's method."""
    mean, spread = figures.mean(axis=0), figures.std(axis=0) + 1e-6
    design = np.column_stack([(figures - mean) / spread, np.ones(len(figures))])
    penalty = np.append(np.full(figures.shape[1], decay), 0.0)
    values = np.zeros(design.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-design @ values))
        slope = design.T @ (chance - cut) / len(cut) + penalty * values
        curve = (design * (chance * (1 - chance))[:, None]).T @ design / len(cut)
        values -= np.linalg.solve(curve + np.diag(penalty + 1e-9), slope)
    weights = values[:-1] / spread
    return weights, float(values[-1] - mean @ weights)


app = typer.Typer()


@verb(app, "fit")
def command_fit(
    *,
    report: Report,
    data: commands.SetData,
    models_dir: commands.ModelsDir = None,
    threads: commands.Threads = 0,
) -> str:
    """Fit the recognition of cut-off films, on films that the program cuts itself; some minutes.

    Prints the table for the card of the network that outlines heart and lungs.
    Example: examples/studies/completeness.py fit --data DIR
    """

    model = AnatomyModel.from_card(find(MODEL, models_dir), threads)
    train, validation = (cut_films(data, model, split, report=report) for split in ("train", "val"))
    table = fit(train, validation)
    return tomlkit.dumps({"completeness": table})


@verb(app, "evaluate")
def command_evaluate(
    *,
    report: Report,
    data: commands.SetData,
    split: commands.Split = "test",
    films: Annotated[int, typer.Option(help="Films to measure on; 0: as many as the card's figures.")] = 0,
    models_dir: commands.ModelsDir = None,
    threads: commands.Threads = 0,
    write_card: commands.WriteCard = False,
) -> Figures:
    """Cut chest films at each edge and count those recognised; every interval is 95 %, by patient.

    Example: examples/studies/completeness.py evaluate --data DIR
    """

    card = find(MODEL, models_dir)
    judges = Completeness.from_card(card)
    found = cut_films(data, AnatomyModel.from_card(card, threads), split, films, report)
    result = measured(found, judges) | {"split": split}
    if write_card:
        commands.write_figures(MODEL, models_dir, {"completeness": result})
    called = [  # that we did not cut: for inspection by eye
        (film.path.name, edge.value)
        for film in found
        if film.edge is None
        for edge in Edge
        if _called(judges, film, edge)
    ]
    return result | {"called": called}


if __name__ == "__main__":
    app()
