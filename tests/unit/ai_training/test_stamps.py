"""Studies of films: drawn stamps lie where they should, cut films are recognised, shares are of all films."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from completeness import CutFilm, fit, measured
from stamps import TURNED, StampCase, StampModels, figures, measure

from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox
from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.completeness import Completeness, Edge, Judge
from ai_pipeline.images.coordinates import UPRIGHT, Affine, Pose
from ai_training.sets.images import ChestImage
from ai_training.ultrasound.overlays.writing import TRAIN
from tests.unit.chests import drawn_chest

FACES = [face for face in TRAIN.latin if not face.is_stroked]
SIDE = 512


@dataclass
class Reads:
    """Reads "AP" in the top left corner and, of all other pictures than its own film, nothing."""

    film: np.ndarray

    def find(self, picture: np.ndarray, scale: float = 1.0) -> list[TextBox]:
        corners = np.array([[8, 8], [40, 8], [40, 24], [8, 24]], np.float32)
        return [TextBox(corners, 0.9)] if np.array_equal(picture, self.film) else []

    def read(self, picture: np.ndarray, box: TextBox) -> Line:
        return Line("AP", 0.99, legible=True)


@dataclass
class Classifies:
    """Takes a picture whose bright corner is not at the top left for one that was turned by 180°."""

    def analyse(self, picture: np.ndarray) -> Any:
        return SimpleNamespace(pose=UPRIGHT if picture[0, 0] == 255 else TURNED)


@dataclass
class Outlines:
    def outline(self, picture: np.ndarray, pose: Pose = UPRIGHT) -> Anatomy:
        heart, *lungs = drawn_chest(SIDE)[1]
        moved = np.roll(heart, SIDE // (8 if picture[0, 0] == 255 else -8), axis=1)
        return Anatomy(np.stack([moved, *lungs]), Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)


def test_a_film_is_measured_as_it_is_mirrored_turned_over_and_turned() -> None:
    picture = drawn_chest(SIDE)[0]
    picture[0, 0] = 255
    models = StampModels(cast(Any, Classifies()), cast(Any, Outlines()), Reads(picture))
    image = ChestImage(Path("film.jpg"), (), None, "p1", "val", "", "", 50.0, "F", "AP")
    case = measure(image, picture, models, FACES)
    assert {what for what, holds in case.holds.items() if holds} >= {
        *("AP films with a projection read", "projection as the label says"),
        *("mirrored film noticed", "film turned over noticed"),
    }
    assert {what for what, holds in case.holds.items() if not holds} >= {
        *("film as it is called mirrored", "film turned by 180° called mirrored"),
        *("drawn stamp read right", "drawn stamp read wrong"),
    }
    assert case.drawn not in {"AP", "PA", "AP PORTABLE"}, "the film has a projection of its own"


def test_a_share_counts_the_films_that_were_asked() -> None:
    cases = [
        StampCase("a", "AP", (0.2, 0.4), {"read": True, "drawn stamp read right": True}),
        StampCase("b", "AP", (0.4, 0.6), {"drawn stamp read right": False}),
        StampCase("b", "", (0.3, 0.5), {"read": False}),
    ]
    found = figures(cases)
    assert (found["films"], found["patients"], found["drawn"]["AP"]["films"]) == (3, 2, 2)
    assert found["shares"]["read"] == {"share": [0.5, 0.0, 1.0], "films": 2}
    assert found["seconds"] == {"model": 0.3, "stamps": 0.5}


WHOLE, CUT = (0.05, 0.1, 0.0, 0.2, 0.1, 0.95), (0.0, 0.0, 0.6, 0.7, 0.5, 0.8)


def films(number: int, seed: int) -> list[CutFilm]:
    """So many films, each whole and cut at every edge, with figures that differ a little."""
    random = np.random.default_rng(seed)

    def film(name: str, edge: Edge | None) -> CutFilm:
        def figures(cut: bool) -> tuple[float, ...]:
            return tuple(np.clip(np.array(CUT if cut else WHOLE) + random.normal(0, 0.03, 6), 0, 1).tolist())

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
    result = measured(films(60, 3), judges(fit(films(60, 1), films(60, 2))))
    assert result["films"] == 60 and all(share[0] > 0.9 for share in result["recognised"].values())
    assert all(share[0] < 0.2 for share in result["whole_called"].values())


def test_figures_that_say_nothing_recognise_nothing() -> None:
    found = judges(fit(films(60, 1), films(60, 2)))
    same = [CutFilm(one.patient, one.path, one.edge, films(1, 9)[0].figures) for one in films(20, 3)]
    assert all(share[0] < 0.1 for share in measured(same, found)["recognised"].values())
