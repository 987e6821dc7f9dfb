"""The stamps of a chest film: the words for projection, position and side that were burned into the picture.

Only words of the tables below are taken from the picture. All other text, which may name the patient, is
dropped right after it is read: no result, log or note holds it.

From its stamps follow a film's projection, its notes, and whether left and right may be stated.

A film that is mirrored, as it was sent or after it was turned by 180°, looks like a chest to the network.
Two signs reveal it: a side marker on the wrong side, and a heart of which more lies on its own side in the
mirror image. With either no side is stated: a wrong side is worse than none.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import WORKING_SIDE, TextReader, shared_reader, working_scale
from ai_pipeline.chest.anatomy import LEFT_LUNG, RIGHT_LUNG, Anatomy, heart_on_left
from ai_pipeline.chest.intended_use import projection_of, seen_from_behind
from ai_pipeline.contract import Grey, ImageHeader, Point, QualityNote, SourceImage
from ai_pipeline.images.coordinates import UPRIGHT, Pose
from ai_pipeline.models import registry

MODEL: Final = "burnin-text"
"""The card of the text reader, which cleaning uses too."""
Position = Literal["", "supine", "semi-erect", "erect"]
Side = Literal["L", "R"]

PROJECTIONS: Final = frozenset({"AP", "PA"})
PORTABLE: Final = frozenset({"PORTABLE", "MOBILE", "BEDSIDE"})
POSITIONS: Final[Mapping[str, Position]] = {
    "SUPINE": "supine",
    "SEMIERECT": "semi-erect",
    "SEMIUPRIGHT": "semi-erect",
    "ERECT": "erect",
    "UPRIGHT": "erect",
    "STANDING": "erect",
    "SITTING": "erect",
}
IN_ORDER: Final[tuple[Position, ...]] = ("supine", "semi-erect", "erect")
"""Of several positions on one film the first counts, as AP counts where both projections are read."""
SIDES: Final[Mapping[str, Side]] = {
    **dict.fromkeys(("L", "LEFT", "I", "IZQUIERDA", "IZQUIERDO", "G", "GAUCHE"), "L"),
    **dict.fromkeys(("R", "RIGHT", "D", "DERECHA", "DERECHO", "DROITE", "DROIT"), "R"),
}
"""English, Spanish and French."""
WORDS: Final = frozenset({*PROJECTIONS, *PORTABLE, *POSITIONS, *SIDES})
LARGEST: Final = 1024
"""Shorter side to which larger films are reduced before they are read: cutting lines out of them takes longer
than reading these (pixels)."""
_SEMI: Final = re.compile(r"\bSEMI[ -]+(?=ERECT|UPRIGHT)", re.IGNORECASE)
_JOINED: Final = re.compile(rf"\b(AP|PA)({'|'.join(sorted(PORTABLE | set(POSITIONS)))})\b")
"""Words between which the reader misses the space."""
_BETWEEN_WORDS: Final = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Marker:
    """A side marker (the letter L or R exposed on a film). ``letter``: L or R; ``x``, ``y``: the middle of
    the marker as shares of the upright picture's width and height (0 to 1, from the top left).
    """

    letter: Side
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Stamps:
    """What the stamps (words exposed or printed on a film) say; fields are empty or None if nothing was read
    or side markers disagree. ``portable``: whether a mobile device took the film.
    """

    projection: Literal["", "AP", "PA"] = ""
    position: Position = ""
    portable: bool = False
    marker: Marker | None = None

    @property
    def is_ap(self) -> bool:
        """Whether a stamp says that the X-rays entered from the front: AP, or that the patient lay in bed."""
        return self.projection == "AP" or self.portable or self.position in {"supine", "semi-erect"}


def read_stamps(picture: Grey, anatomy: Anatomy | None, models_dir: Path | None = None) -> Stamps | None:
    """Read the stamps on an upright ``picture`` ``[rows, columns]``; None if the text reader fails.
    ``anatomy``: outlines of the same picture; text in or between the lungs is ignored. ``models_dir``: folder
    of a site's own models.
    """
    try:
        return stamps_in(picture, anatomy, _reader(models_dir))
    except Exception:  # noqa: BLE001  (whatever fails in the text reader: films are analysed without it)
        return None


def stamps_in(picture: Grey, anatomy: Anatomy | None, reader: TextReader) -> Stamps:
    """The stamps that ``reader`` finds in an upright ``picture`` ``[rows, columns]`` outside the lungs of
    ``anatomy``.
    """
    times_larger = max(1.0, min(picture.shape) / LARGEST)
    if times_larger > 1.0:
        size = round(picture.shape[1] / times_larger), round(picture.shape[0] / times_larger)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    rows, columns = picture.shape
    lungs = _hull(anatomy)
    # Each with the place of its line, as in Marker.
    words: list[tuple[str, float, float]] = []
    # Stamps are higher than the letters of a screen: a small film is not enlarged for them.
    for box in reader.find(picture, min(1.0, WORKING_SIDE / min(rows, columns)) / working_scale(picture)):
        x, y = box.corners.mean(axis=0).tolist()
        # Height of a stamp, at most (share of the picture's shorter side).
        if box.height > 0.15 * min(rows, columns) or _is_inside(
            lungs, anatomy, (x * times_larger, y * times_larger)
        ):
            continue
        words += [(word, x / columns, y / rows) for word in words_of(reader.read(picture, box))]
    read = {word for word, _, _ in words}
    positions = {POSITIONS[word] for word in read & set(POSITIONS)}
    markers = [Marker(SIDES[word], x, y) for word, x, y in words if word in SIDES]
    agree = len({(marker.letter == "L") == (marker.x > 0.5) for marker in markers}) == 1
    return Stamps(
        projection="AP" if "AP" in read else "PA" if "PA" in read else "",
        position=next((position for position in IN_ORDER if position in positions), ""),
        portable=bool(read & PORTABLE),
        marker=markers[0] if agree else None,
    )


def words_of(line: Line) -> tuple[str, ...]:
    """The stamps in one line of text, in capitals; none if the line was not read with confidence."""
    # Confidence of the recogniser from which a line is taken (0 to 1).
    if line.confidence < 0.8:
        return ()
    text = _JOINED.sub(r"\1 \2", _SEMI.sub("SEMI", line.text.replace(".", "")))
    tokens = [token for token in _BETWEEN_WORDS.split(text) if token]
    alone = all(token.upper() in WORDS or token.isdigit() for token in tokens)
    # Letters up to which a word must be in capitals, with nothing but stamps and numbers beside it: "L
    # SMITH" is no side.
    return tuple(
        token.upper()
        for token in tokens
        if token.upper() in WORDS and (len(token) > 2 or (alone and token.isupper()))
    )


def _hull(anatomy: Anatomy | None) -> npt.NDArray[np.int32] | None:
    """The convex hull of both lungs, in pixels of the masks; None where there are no lungs."""
    lungs = anatomy.masks[[RIGHT_LUNG, LEFT_LUNG]].any(axis=0) if anatomy and anatomy.is_chest else None
    if lungs is None or not lungs.any():
        return None
    return np.asarray(cv2.convexHull(cv2.findNonZero(lungs.astype(np.uint8))), np.int32)


def _is_inside(hull: npt.NDArray[np.int32] | None, anatomy: Anatomy | None, point: Point) -> bool:
    """Whether ``point`` of the picture lies in the ``hull`` of the lungs."""
    if hull is None or anatomy is None:
        return False
    [place] = anatomy.from_grid.inverse()([point])
    return cv2.pointPolygonTest(hull, place, measureDist=False) > 0


@cache
def _reader(models_dir: Path | None) -> TextReader:
    """This process's text reader, whose networks are those of the model card. Raises CardError."""
    registry.verify(registry.find(MODEL, models_dir))
    return shared_reader()


NOT_READ: Final = "Stamps were not read."
USUAL_HEART: Final = 0.5
"""Cardiothoracic ratio above which a heart is large (C. Danzer, Am J Med Sci 1919)."""
TURNED: Final = 0.1
"""By how much more of the heart must lie on its own side in the mirror image (``Anatomy.turn``) for the film
to be called mirrored. Less is enough in an image that was shown turned by 180°: that may be turned over."""


@dataclass(frozen=True, slots=True)
class StampConclusions:
    """What follows from a film's stamps. ``projection``: PA, AP, another View Position, or "" if neither
    header nor stamp says it. ``sides``: whether left and right are certain, because the heart or a side
    marker confirms them and nothing contradicts; ``marked``: whether it is a side marker that confirms them.
    ``notes``: notes for the reader.
    """

    projection: str
    sides: bool
    marked: bool = False
    notes: tuple[QualityNote, ...] = ()


def follow(
    image: SourceImage, stamps: Stamps | None, anatomy: Anatomy | None, pose: Pose
) -> StampConclusions:
    """Decide projection and sides of ``image`` from its ``stamps`` (None if they could not be read), its
    outlines (None where the heart's border is hidden, or nothing was outlined) and its pose.
    """
    header, read = projection_of(image.header), stamps or Stamps()
    projection = "AP" if read.is_ap and header in {"", "PA"} else header or read.projection
    why = doubt(image.header, read, anatomy, pose)
    texts = [NOT_READ] if stamps is None else _projection_notes(header, projection, read)
    notes = [QualityNote("stamps", text, image.uid) for text in texts]
    if why:
        notes.append(QualityNote("sides", f"{why}: sides are not given.", image.uid, on_faces=True))
    marker, heart = _lie_mirrored(read, anatomy, pose)
    marked = not why and marker is False
    return StampConclusions(projection, marked or (not why and heart is False), marked, tuple(notes))


def _projection_notes(header: str, projection: str, stamps: Stamps) -> list[str]:
    """Sentences for the reader where a stamp changed or gave the projection, and where the patient lay.
    ``header``: the header's projection; ``projection``: the one decided on.
    """
    in_bed = "PORTABLE" if stamps.portable else stamps.position.upper()
    stamp = in_bed if projection != stamps.projection else projection
    if projection == header:
        texts = []
    elif header:
        texts = [f"Stamped {stamp}, while the header says {header}: judged as {projection}."]
    else:
        texts = [f"The header gives no View Position; stamped {stamp}: judged as {projection}."]
    return [*texts, "Stamped SUPINE."] if stamps.position == "supine" else texts


def doubt(header: ImageHeader, stamps: Stamps, anatomy: Anatomy | None, pose: Pose) -> str:
    """Why left and right of the image are in doubt, as the beginning of a sentence; "" if they are not."""
    marker, heart = _lie_mirrored(stamps, anatomy, pose)
    behind = pose == UPRIGHT and seen_from_behind(header)
    reasons = {
        "Side marker and heart disagree": None not in {marker, heart} and marker != heart,
        "Side marker and heart lie on the wrong side, as in a mirrored image": marker and heart,
        "The side marker lies on the wrong side, as in a mirrored image": marker,
        "The heart lies on the wrong side, as in a mirrored image": heart,
        "Side marker and Patient Orientation disagree": behind and marker is False,
    }
    return next((reason for reason, there in reasons.items() if there), "")


def _lie_mirrored(stamps: Stamps, anatomy: Anatomy | None, pose: Pose) -> tuple[bool | None, bool | None]:
    """Two answers: whether the side marker lies as in a mirrored image, and whether the heart does; None for
    one that is not certain.
    """
    seen, marker, heart = stamps.marker, None, None
    # Distance of a side marker from the middle of the picture, at least, to name a side (share of the
    # width).
    if seen is not None and abs(seen.x - 0.5) >= 0.1:
        marker = (seen.letter == "L") == (seen.x < 0.5)
    if anatomy is not None and anatomy.is_chest:
        if anatomy.turn > (0.0 if pose.turned == 180 else TURNED):
            # A large heart reaches far to the right: a marker on its side is believed before it.
            large = anatomy.measured is not None and anatomy.measured.ratio > USUAL_HEART
            heart = None if large and marker is False else True
        elif anatomy.turn <= 0.0 and (heart_on_left(anatomy.masks) or 0.0) >= 0.5:
            heart = False
    return marker, heart
