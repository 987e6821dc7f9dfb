"""What recognises films that are cut off can be fitted and measured from any list of films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from completeness import CutFilm, fit, measured

from ai_pipeline.chest.completeness import Completeness, Edge, Judge

WHOLE, CUT = (0.05, 0.1, 0.0, 0.2, 0.1, 0.95), (0.0, 0.0, 0.6, 0.7, 0.5, 0.8)


def films(number: int, seed: int) -> list[CutFilm]:
    """So many films, each whole and cut at every edge, with figures that differ a little."""
    random = np.random.default_rng(seed)

    def film(name: str, edge: Edge | None) -> CutFilm:
        def figures(cut: bool) -> tuple[float, ...]:
            values = np.array(CUT if cut else WHOLE) + random.normal(0, 0.03, 6)
            return tuple(np.clip(values, 0, 1).tolist())

        rows = {one: [figures(one is edge)] for one in (Edge.TOP, Edge.BOTTOM)}
        sides = [figures(edge is Edge.SIDE), figures(False)]
        return CutFilm(name, Path(f"{name}.png"), edge, {**rows, Edge.SIDE: sides})

    return [film(str(one), edge) for one in range(number) for edge in (None, *Edge)]


def judges(table: dict[str, dict[str, list[float]]]) -> Completeness:
    rows = {edge: table[edge.value] for edge in Edge}
    return Completeness(
        {edge: Judge(tuple(row["weights"]), row["offset"], row["limit"]) for edge, row in rows.items()}
    )


def test_a_fit_recognises_cuts_of_films_that_it_has_not_seen() -> None:
    found = judges(fit(films(60, 1), films(60, 2)))
    result = measured(films(60, 3), found)
    assert result["films"] == 60
    assert all(share[0] > 0.9 for share in result["recognised"].values())
    assert all(share[0] < 0.2 for share in result["whole_called"].values())


def test_figures_that_say_nothing_recognise_nothing() -> None:
    found = judges(fit(films(60, 1), films(60, 2)))
    same = [CutFilm(one.patient, one.path, one.edge, films(1, 9)[0].figures) for one in films(20, 3)]
    assert all(share[0] < 0.1 for share in measured(same, found)["recognised"].values())
