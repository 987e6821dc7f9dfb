"""The patient's data in an overlay, in pieces that can be searched in an OCR engine's output."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.contract import Meaning
from ai_training.ultrasound.overlays import BurnIn, MarkClass

SAME = 0.8
"""Share of a token's characters that must be read, in their order, for the token to count as legible."""
SHORTEST = 3
"""Letters and digits that a word has at least, to be looked for by itself."""
ROOM = 0.25
"""What is cut out around a text for reading it (share of its height)."""
SEPARATORS = re.compile(r" \| | / |  -  ")
KEYS = frozenset({"NAME", "SITE", "DATE", "DOB", "MRN", "ACC", "MRS", "FRAU", "MME"})
"""Words that announce a name, a date or a number and identify no one by themselves."""

Corners = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A name, a date or a number: its text, the place of its line, and its drawn object.

    ``corners`` ``[4, 2]``: the line's rectangle; the first two run along the writing (possibly upside down).
    ``words``: the parts that say something by themselves, in capitals without other signs (:func:`folded`).
    """

    text: str
    words: tuple[str, ...]
    corners: Corners
    owner: int


def identity_tokens(burned: BurnIn) -> tuple[Token, ...]:
    """All tokens in the picture that identify the patient, in the order of drawing."""
    found = []
    for number, thing in enumerate(burned.objects, start=1):
        if thing.kind is MarkClass.TEXT and thing.meaning is Meaning.IDENTITY and thing.text:
            own = burned.owners == number
            if own.any():
                corners = writing_corners(own)
                found += [
                    Token(folded(part), words_of(part), corners, number)
                    for part in SEPARATORS.split(thing.text)
                    if len(folded(part)) >= SHORTEST or not folded(part).isascii()
                ]
    return tuple(found)


def drawn_words(burned: BurnIn, *, everything: bool) -> frozenset[str]:
    """The words of the overlay as :func:`folded` writes them: all of them, or only those of identities."""
    objects = [thing for thing in burned.objects if everything or thing.meaning is Meaning.IDENTITY]
    return frozenset(word for thing in objects for word in words_of(thing.text))


def folded(text: str) -> str:
    """The letters and digits of ``text`` alone, in capitals: OCR engines differ in the other signs."""
    return "".join(
        character for character in unicodedata.normalize("NFKC", text).upper() if character.isalnum()
    )


def words_of(text: str) -> tuple[str, ...]:
    """The words with at least :data:`SHORTEST` letters and digits, without the names of fields (``KEYS``)."""
    parts = (folded(part) for part in re.split(r"[^\w]+|_", unicodedata.normalize("NFKC", text)))
    return tuple(part for part in parts if len(part) >= SHORTEST and part not in KEYS)


def similarity(token: str, read: str) -> float:
    """How much of ``token`` occurs in ``read``: 1 − edits ÷ length; characters around it cost nothing."""
    if not token:
        return 0.0
    row = np.zeros(len(read) + 1, np.int64)
    for count, character in enumerate(token, start=1):
        changed = np.fromiter((row[at] + (character != other) for at, other in enumerate(read)), np.int64)
        best = np.minimum(row[1:] + 1, changed) if len(read) else changed
        following = np.empty_like(row)
        following[0] = count
        for at, value in enumerate(best, start=1):
            following[at] = min(int(value), int(following[at - 1]) + 1)
        row = following
    return max(0.0, 1 - int(row.min()) / len(token))


def is_read(token: Token, texts: tuple[str, ...]) -> bool:
    """Whether the whole token occurs in one of the (folded) texts, with up to a fifth of its characters
    wrong.
    """
    return any(similarity(token.text, text) >= SAME for text in texts)


def leaks(token: Token, texts: tuple[str, ...]) -> bool:
    """Whether the token or one of its words occurs in one of the (folded) texts: a surname is enough."""
    return is_read(token, texts) or any(
        similarity(word, text) >= SAME for word in token.words for text in texts
    )


def writing_corners(own: npt.NDArray[np.bool_]) -> Corners:
    """The smallest rectangle around a text's pixels, the long side first: left to right or upside down."""
    places = np.argwhere(own)[:, ::-1].astype(np.float32)
    box = np.asarray(cv2.boxPoints(cv2.minAreaRect(places)), np.float32)
    rectangle = _level(places) if _nearly_level(box) else box
    across, down = (float(np.linalg.norm(rectangle[i + 1] - rectangle[i])) for i in (0, 1))
    return rectangle if across >= down else np.roll(rectangle, -1, axis=0)


def level_crop(picture: npt.NDArray[np.uint8], corners: Corners) -> npt.NDArray[np.uint8]:
    """The text cut out and turned horizontal, with a margin."""
    across, down = (float(np.linalg.norm(corners[i + 1] - corners[i])) for i in (0, 1))
    room = max(2.0, ROOM * min(across, down))
    along = (corners[1] - corners[0]) / max(across, 1e-6)
    below = (corners[2] - corners[1]) / max(down, 1e-6)
    wider = corners + room * np.stack([-along - below, along - below, along + below, -along + below])
    width, height = max(1, round(across + 2 * room)), max(1, round(down + 2 * room))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    warp = cv2.getPerspectiveTransform(wider.astype(np.float32), target)
    cut = cv2.warpPerspective(
        picture, warp, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cut, np.uint8)


def _nearly_level(box: Corners) -> bool:
    """A short word's smallest rectangle may stand askew though the word is level."""
    edge = box[1] - box[0]
    angle = abs(float(np.degrees(np.arctan2(edge[1], edge[0])))) % 90
    return min(angle, 90 - angle) < 8


def _level(places: Corners) -> Corners:
    (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32)
