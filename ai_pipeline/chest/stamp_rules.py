"""What follows from the stamps of a film: its projection, whether left and right may be stated, the notes.

A film that is mirrored, as it was sent or after it was turned by 180°, looks like a chest to the network.
Three signs reveal it: a side marker on the wrong side, words that are legible in the mirror image only, a
heart that lies mostly on the right. With any of them no side is stated: a wrong side is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ai_pipeline.chest.anatomy import HEART, LEFT_LUNG, RIGHT_LUNG, Anatomy, Bools
from ai_pipeline.chest.intended_use import projection_of, seen_from_behind
from ai_pipeline.chest.stamps import Marker, Stamps
from ai_pipeline.contract import ImageHeader, QualityNote, SourceImage
from ai_pipeline.images.orientation import UPRIGHT, Pose

STAMPS: Final = "stamps"
SIDES: Final = "sides"
"""Names of the notes."""
NOT_READ: Final = "Stamps were not read."
WRONG_SIDE, WRONG_SIDE_TURNED, OWN_SIDE = 0.40, 0.49, 0.5
"""Shares of the heart on its own side (:func:`heart_on_left`). Below the first it lies on the wrong side, as
in one of a hundred chests of training and validation. Below the second (one of twenty) it does in an image
that was shown turned by 180°: that may be one turned over. From the third on it lies on its own side."""
BESIDE: Final = 0.1
"""Distance of a side marker from the middle of the picture, at least, to name a side (share of the width)."""


@dataclass(frozen=True, slots=True)
class StampRules:
    """The conclusions from stamps. ``projection``: PA, AP, another View Position, or "" if neither header nor
    stamp says it. ``sides``: whether left and right may be stated.
    """

    projection: str
    sides: bool
    notes: tuple[QualityNote, ...] = ()


def follow(image: SourceImage, stamps: Stamps | None, anatomy: Anatomy | None, pose: Pose) -> StampRules:
    """Decide projection and sides of ``image`` from its ``stamps`` (None if they could not be read) and
    outlines.
    """
    header, read = projection_of(image.header), stamps or Stamps()
    projection = "AP" if read.is_ap and header in {"", "PA"} else header or read.projection
    why = doubt(image.header, read, anatomy, pose)
    texts = [NOT_READ] if stamps is None else _projection_notes(header, projection, read)
    notes = [QualityNote(STAMPS, text, image.uid) for text in texts]
    if why:
        notes.append(QualityNote(SIDES, f"{why}: sides are not given.", image.uid, on_faces=True))
    return StampRules(projection, not why, tuple(notes))


def heart_on_left(masks: Bools) -> float | None:
    """The share (0 to 1) of the heart that lies left of the middle of the thorax: about .68 in a usual chest,
    .40 in its mirror image. None if an organ is missing. ``masks [3, rows, columns]`` as in Anatomy.
    """
    thorax = np.flatnonzero((masks[RIGHT_LUNG] | masks[LEFT_LUNG]).any(axis=0))
    heart = masks[HEART].sum(axis=0)
    if not len(thorax) or not heart.any():
        return None
    middle = round((thorax[0] + thorax[-1] + 1) / 2)
    return float(heart[middle:].sum() / heart.sum())


def _projection_notes(header: str, projection: str, stamps: Stamps) -> list[str]:
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
    """Why left and right are in doubt, as the beginning of a sentence; "" if they are not."""
    marker, heart = _exchanged(stamps.marker), _heart_exchanged(anatomy, pose)
    behind = pose == UPRIGHT and seen_from_behind(header)
    reasons = {
        "The stamps are mirrored, and the image may be too": stamps.mirrored,
        "Side marker and heart disagree": None not in {marker, heart} and marker != heart,
        "Side marker and heart lie on the wrong side, as in a mirrored image": marker and heart,
        "The side marker lies on the wrong side, as in a mirrored image": marker,
        "The heart lies on the wrong side, as in a mirrored image": heart,
        "Side marker and Patient Orientation disagree": behind and marker is False,
    }
    return next((reason for reason, there in reasons.items() if there), "")


def _heart_exchanged(anatomy: Anatomy | None, pose: Pose) -> bool | None:
    """Whether the heart lies on the wrong side; None where that is not certain."""
    share = heart_on_left(anatomy.masks) if anatomy is not None and anatomy.is_chest else None
    limit = WRONG_SIDE_TURNED if pose.turned == 180 else WRONG_SIDE
    if share is None or limit <= share < OWN_SIDE:
        return None
    return share < limit


def _exchanged(marker: Marker | None) -> bool | None:
    """Whether ``marker`` lies on the side where it lies in a mirrored image; None where it shows no side."""
    if marker is None or abs(marker.x - 0.5) < BESIDE:
        return None
    return (marker.letter == "L") == (marker.x < 0.5)
