"""Stamps on films: projection, position and side."""

from dataclasses import replace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.chest import stamps
from ai_pipeline.chest.anatomy import Anatomy, Cardiothoracic, heart_on_left
from ai_pipeline.chest.stamps import Marker, Stamps
from ai_pipeline.images.coordinates import UPRIGHT
from tests.unit.ai_pipeline.chest.chest_lab import SAME, anatomy
from tests.unit.ai_pipeline.phantoms import film
from tests.unit.chests import drawn_chest

FILM_SIDE = 640


def stamped(*texts: tuple[str, float, float], size: int = 26) -> np.ndarray:
    """A drawn chest with white words whose top left corner is at shares of its width and height."""
    image = Image.fromarray(cv2.GaussianBlur(drawn_chest(FILM_SIDE)[0], (0, 0), 3) // 2)
    for text, x, y in texts:
        ImageDraw.Draw(image).text(
            (x * FILM_SIDE, y * FILM_SIDE), text, fill=235, font=ImageFont.load_default(size)
        )
    return np.array(image)


def read(picture: np.ndarray) -> Stamps:
    outlined = Anatomy(drawn_chest(FILM_SIDE)[1], SAME, None)
    return stamps.stamps_in(picture, outlined, shared_reader())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AP", ("AP",)),
        ("A.P. 10:35", ("AP",)),
        ("Portable", ("PORTABLE",)),
        ("APPORTABLE", ("AP", "PORTABLE")),
        ("AP SEMI-ERECT", ("AP", "SEMIERECT")),
        ("Semi Upright", ("SEMIUPRIGHT",)),
        ("L AP", ("L", "AP")),
        ("DR ERECT", ("ERECT",)),
        ("L SMITH", ()),
        ("PITTSBURGH PA", ()),
        ("PAUL", ()),
        ("PORTABLES", ()),
        ("l", ()),
        ("", ()),
    ],
)
def test_whole_words_of_the_table_count_and_nothing_else(text: str, words: tuple[str, ...]) -> None:
    assert stamps.words_of(Line(text, 0.99, legible=True)) == words


def test_projection_position_and_side_are_read_from_the_margins() -> None:
    words = (("PORTABLE", 0.03, 0.03), ("AP", 0.9, 0.9), ("SUPINE", 0.03, 0.92), ("L", 0.93, 0.04))
    found = read(stamped(*words))
    assert (found.projection, found.position, found.portable) == ("AP", "supine", True)
    assert found.is_ap
    assert found.marker is not None
    assert found.marker.letter == "L"
    assert (found.marker.x, found.marker.y) == pytest.approx((0.94, 0.07), abs=0.03)


def test_words_between_the_lungs_and_names_are_not_read() -> None:
    picture = stamped(("PORTABLE", 0.4, 0.35))
    found = read(picture), read(stamped(("SMITH JOHN", 0.03, 0.03), ("L SMITH", 0.75, 0.92)))
    assert found == (Stamps(),) * 2
    assert stamps.stamps_in(picture, None, shared_reader()).portable


@pytest.mark.parametrize(
    ("said", "is_ap"),
    [
        (Stamps(projection="AP"), True),
        (Stamps(portable=True), True),
        (Stamps(position="supine"), True),
        (Stamps(position="semi-erect"), True),
        (Stamps(position="erect"), False),
        (Stamps(projection="PA"), False),
        (Stamps(), False),
    ],
)
def test_what_was_taken_in_bed_counts_as_ap(said: Stamps, is_ap: bool) -> None:
    assert said.is_ap is is_ap


def test_a_failing_reader_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stamps, "_reader", Mock(side_effect=FileNotFoundError("no such model")))
    assert stamps.read_stamps(stamped(), None) is None
    assert capfd.readouterr() == ("", "")


L_ON_RIGHT, L_ON_LEFT = Marker("L", 0.9, 0.1), Marker("L", 0.1, 0.1)


def rules(
    seen: Stamps | None, view: str = "PA", orientation: str = "", heart: float = 0.7
) -> stamps.StampConclusions:
    attributes, picture = {"PatientOrientation": orientation}, np.zeros((100, 100), np.uint8)
    image = film(picture, attributes=attributes, view_position=view)
    return stamps.follow(image, seen, anatomy(heart), UPRIGHT)


@pytest.mark.parametrize(
    ("view", "seen", "projection", "note"),
    [
        ("PA", Stamps("AP"), "AP", "Stamped AP, while the header says PA: judged as AP."),
        (
            "PA",
            Stamps(portable=True),
            "AP",
            "Stamped PORTABLE, while the header says PA: judged as AP.",
        ),
        (
            "PA",
            Stamps("PA", portable=True),
            "AP",
            "Stamped PORTABLE, while the header says PA: judged as AP.",
        ),
        ("", Stamps("PA"), "PA", "The header gives no View Position; stamped PA: judged as PA."),
        (
            "",
            Stamps(portable=True),
            "AP",
            "The header gives no View Position; stamped PORTABLE: judged as AP.",
        ),
        ("", Stamps(position="erect"), "", None),
        ("AP", Stamps("PA"), "AP", None),
        ("PA", Stamps("PA"), "PA", None),
        ("PA", Stamps(), "PA", None),
        ("PA", None, "PA", stamps.NOT_READ),
    ],
)
def test_the_projection_is_the_stamped_one_where_the_header_has_none_or_says_pa(
    view: str, seen: Stamps | None, projection: str, note: str | None
) -> None:
    found = rules(seen, view)

    assert (found.projection, found.sides) == (projection, True)
    assert [one.text for one in found.notes] == ([note] if note else [])


@pytest.mark.parametrize(
    ("seen", "heart", "orientation", "words"),
    [
        (Stamps(marker=L_ON_RIGHT), 0.7, "L\\F", None),
        (Stamps(marker=L_ON_RIGHT), 0.45, "L\\F", None),
        (Stamps(), 0.7, "R\\F", None),
        (Stamps(marker=Marker("L", 0.45, 0.1)), 0.7, "L\\F", None),
        (Stamps(marker=L_ON_LEFT), 0.7, "L\\F", "Side marker and heart disagree"),
        (Stamps(marker=L_ON_RIGHT), 0.3, "L\\F", "Side marker and heart disagree"),
        (Stamps(marker=L_ON_LEFT), 0.3, "L\\F", "Side marker and heart lie on the wrong side"),
        (
            Stamps(marker=Marker("R", 0.9, 0.1)),
            0.45,
            "",
            "The side marker lies on the wrong side",
        ),
        (Stamps(marker=L_ON_RIGHT), 0.7, "R\\F", "Side marker and Patient Orientation disagree"),
        (Stamps(), 0.3, "L\\F", "The heart lies on the wrong side"),
    ],
)
def test_no_side_is_given_where_the_film_may_be_mirrored(
    seen: Stamps, heart: float, orientation: str, words: str | None
) -> None:
    found = rules(seen, "AP", orientation, heart)
    notes = [note.text for note in found.notes if note.on_faces]
    assert (found.sides, len(notes)) == (words is None, words is not None)
    assert all(text.startswith(words or "") and text.endswith("sides are not given.") for text in notes)


def test_a_marker_is_believed_before_a_large_heart() -> None:
    large = Cardiothoracic(Mock(), Mock(), 0.6)
    seen = [replace(anatomy(0.3), measured=one) for one in (large, replace(large, ratio=0.45))]
    image = film(np.zeros((100, 100), np.uint8), attributes={"PatientOrientation": "L\\F"})
    marked, unmarked = Stamps(marker=L_ON_RIGHT), Stamps()
    assert stamps.doubt(image.header, marked, seen[0], UPRIGHT) == ""
    assert stamps.doubt(image.header, marked, seen[1], UPRIGHT) == "Side marker and heart disagree"
    assert stamps.doubt(image.header, unmarked, seen[0], UPRIGHT).startswith("The heart lies on the wrong")


@pytest.mark.parametrize(("word", "side"), [("D", "R"), ("I", "L"), ("G", "L"), ("DERECHA", "R")])
def test_a_marker_may_be_spanish_or_french(word: str, side: str) -> None:
    line = Line(word, 0.95, True)
    assert stamps.words_of(line) == (word,)
    assert stamps.SIDES[word] == side


def test_the_heart_is_shared_by_the_middle_of_the_thorax() -> None:
    masks = anatomy(0.7).masks
    shares = heart_on_left(masks), heart_on_left(masks[:, :, ::-1])
    assert shares == pytest.approx((0.7, 0.3), abs=0.02)
    assert heart_on_left(masks & False) is None
