"""``ai-pipeline evaluate cleaning``: what it takes of waves, flow, bars, rulers, calipers and texts.

Every figure is computed per picture; intervals are 95 % by bootstrap over frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.find.annotation import (
    Box,
    CleaningPolicy,
    Mask,
    Picture,
    brightest,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.tools import PLAIN, Tools, shared_tools
from ai_pipeline.contract import SourceImage
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import PictureImage, open_dicom
from ai_pipeline.images.header import picture_header
from ai_training.base import DataMissing, Report, silent
from ai_training.metrics import patient_weights, ratio
from ai_training.sets.files import read_rgb, rows
from ai_training.ultrasound.filling import evaluate_inpaint
from ai_training.ultrasound.overlays.scenes import box_of, chroma
from ai_training.ultrasound.removal import MODALITY, planned_by

Row = dict[str, str]

STROKE = 9
"""Side of the square in which a stroke of a letter or a curve stands out from what is beside it (pixels)."""
CONTRAST, TICK_CONTRAST = 40, 60
"""How far strokes, and the ticks of a ruler, stand out at least (grey levels)."""
COLOURED = 50
"""Difference of a pixel's channels from which it is coloured (grey levels)."""


class Content(StrEnum):
    """What a marked object in a frame shows."""

    WAVEFORM = "waveform"
    M_MODE = "m-mode"
    FLOW = "flow"
    COLOUR_BAR = "colour bar"
    GREY_BAR = "grey bar"
    RULER = "ruler"
    CALIPER = "caliper"
    MEASUREMENT = "measurement"
    NUMBER = "number"
    PLACE = "place"
    SETTING = "setting"
    IDENTITY = "identity"


TEXTS = frozenset({Content.MEASUREMENT, Content.NUMBER, Content.PLACE, Content.SETTING, Content.IDENTITY})


@dataclass(frozen=True, slots=True, eq=False)
class MarkedObject:
    """One object that was marked by hand in a frame: what it shows, its box, its pixels ``ink``."""

    content: Content
    box: Box
    ink: Mask


@dataclass(frozen=True, slots=True, eq=False)
class MarkedContent:
    """A frame with the objects that were marked by hand in it. ``frame`` counts from 1; ``picture``: RGB
    uint8 as displayed.
    """

    name: str
    source: SourceImage
    frame: int
    picture: Picture
    objects: tuple[MarkedObject, ...]


def marked_content(data: Path, content: Path, masks: Path) -> Iterator[MarkedContent]:
    """Yield the frames that the folder ``content`` lists, in their order; ``masks``: the folder of the
    hand-drawn masks. Raises DataMissing.
    """
    objects = rows(content / "objects.csv")
    for row in rows(content / "frames.csv"):
        source, picture = shown_frame(data, row)
        name = name_of(row)
        own = objects_of(row, objects)
        path = masks / "owners" / f"{name}.png"
        owners = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
        if owners is None and any(one["owner"] for one in own):
            raise DataMissing(f"{path} is missing")
        found = tuple(object_of_row(one, picture, owners) for one in own)
        yield MarkedContent(name, source, int(row["frame"]), picture, found)


def shown_frame(data: Path, row: Row) -> tuple[SourceImage, Picture]:
    """The image and the displayed picture of a row of ``frames.csv``. Raises DataMissing."""
    path = data / row["set"] / row["file"]
    if not path.is_file():
        raise DataMissing(f"{path} is missing")
    if path.suffix == ".dcm":
        source: SourceImage = open_dicom(path)
    else:
        stored = read_rgb(path)
        source = PictureImage("2.25.1", "2.25.2", picture_header(stored, MODALITY, lossy=True), stored)
    shown = source.display(int(row["frame"]) - 1)
    return source, shown if shown.ndim == 3 else np.repeat(shown[:, :, None], 3, axis=2)


def name_of(row: Row) -> str:
    """The name under which results list the frame of ``row``."""
    return f"{row['set']}__{Path(row['file']).stem}"


def patient_of(name: str) -> str:
    """The unit for resampling of a frame: its patient if the set names one, else its file."""
    return name.partition("_Plane")[0]


def objects_of(frame: Row, objects: Iterable[Row]) -> list[Row]:
    """The rows of ``objects`` that belong to ``frame``."""
    return [one for one in objects if (one["set"], one["file"]) == (frame["set"], frame["file"])]


def object_of_row(row: Row, picture: Picture, owners: npt.NDArray[Any] | None = None) -> MarkedObject:
    """Make the marked object of a row of ``objects.csv``, on the frame ``picture``. ``owners``: the number of
    the object at each pixel; without it the pixels of the object are found by its box and by what it shows.
    """
    content, box = Content(row["class"]), box_of(row)
    if owners is not None and row["owner"]:
        return MarkedObject(content, box, np.asarray(owners == int(row["owner"]), np.bool_))
    within = np.zeros(picture.shape[:2], np.bool_)
    within[index_of(box)] = True
    return MarkedObject(content, box, ink(content, picture, within) & within)


def ink(content: Content, picture: Picture, within: Mask) -> Mask:
    """The pixels of a picture, RGB uint8, that may belong to an object that shows ``content``, ``within`` the
    object's box.
    """
    if content in {Content.M_MODE, Content.COLOUR_BAR, Content.GREY_BAR}:
        return within
    if content is Content.FLOW:
        return np.asarray(chroma(picture) > COLOURED, np.bool_)
    if content is Content.RULER:
        labels, stats = components(strokes(picture, TICK_CONTRAST) & within)
        sides = np.asarray(stats)[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1)
        return np.isin(labels, np.flatnonzero(sides <= 20) + 1)
    if content is Content.WAVEFORM and (curve := (chroma(picture) > COLOURED) & within).any():
        return curve
    return strokes(picture, CONTRAST)


def strokes(picture: Picture, contrast: int) -> Mask:
    """The pixels of thin strokes: lighter, or more coloured, than their neighbours by more than ``contrast``
    (0..255).
    """
    square = np.ones((STROKE, STROKE), np.uint8)
    lighter, more_coloured = (
        cv2.morphologyEx(np.ascontiguousarray(grey), cv2.MORPH_TOPHAT, square) > contrast
        for grey in (brightest(picture), chroma(picture))
    )
    return np.asarray(lighter | more_coloured, np.bool_)


CUT, WHOLE = 0.1, 0.9
"""A text of which more than the one and less than the other share is removed is cut; identity of which less
than the other is removed is left."""
NEIGHBOURHOOD, FEWEST, EVEN = 41, 200, 3.0
"""Background is where the known pixels of such a square, at least so many, differ no more (pixels; standard
deviation in grey levels)."""
STANDS_OUT = 10.0
"""Difference from the background from which a pixel was made up (grey levels)."""
BLACK = 8
"""Grey level up to which a pixel was blacked out, which makes nothing up (grey levels)."""


@dataclass(frozen=True, slots=True)
class ObjectOutcome:
    """How cleaning treated one marked object: the number of its pixels, and how many of them were removed."""

    content: Content
    pixels: int
    removed: int

    @property
    def share(self) -> float:
        """Share of the object's pixels that was removed, 0 to 1."""
        return self.removed / self.pixels if self.pixels else 0.0


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """How cleaning treated one frame. ``withheld``: why no image was returned, "" if one was. ``background``:
    number of filled pixels where the source has a plain background; ``made_up``: how many of these do not
    have the background's colour after filling.
    """

    name: str
    objects: tuple[ObjectOutcome, ...] = ()
    background: int = 0
    made_up: int = 0
    filled: float = 0.0
    seconds: float = 0.0
    withheld: str = ""


def evaluate_cleaning(
    data: Path,
    content: Path,
    masks: Path,
    models_dir: Path | None,
    policy: str,
    *,
    pictures: int = 0,
    report: Report = silent,
) -> dict[str, Any]:
    """Clean every frame with marked objects and judge the result; returns all figures. How close the node's
    filling and a plain one come to the original pixels is measured on ``pictures`` frames (their number) on
    which marks were drawn, all of which are removed. ``content``, ``masks``: as in :func:`marked_content`.
    Raises DataMissing.
    """
    tools, how, outcomes = shared_tools(models_dir), CleaningPolicy(policy), []
    for number, frame in enumerate(marked_content(data, content, masks), start=1):
        outcomes.append(_outcome(frame, tools, how))
        report(number / (number + 1), f"frame {number}: {frame.name}")
    result = summary(outcomes, how, tools)
    if pictures:
        planned = planned_by(models_dir, CleaningPolicy.RESEARCH)
        result["filling"] = evaluate_inpaint(
            data, [tools.filler, PLAIN], planned, pictures=pictures, report=report
        )
    return result


def _outcome(frame: MarkedContent, tools: Tools, policy: CleaningPolicy) -> FrameOutcome:
    """Clean a frame, and count what the cleaning changed of its marked objects and of its plain
    background.
    """
    began = time.perf_counter()
    try:
        cleaned = clean(frame.source, lambda _share, _what: None, policy=policy, tools=tools)
    except CleaningFailed as failure:
        return FrameOutcome(frame.name, withheld=str(failure), seconds=time.perf_counter() - began)
    seconds = time.perf_counter() - began
    mask = np.asarray(cleaned.mask.frames[frame.frame - 1]) > 0
    after = _as_displayed(frame, np.asarray(cleaned.image.frames[frame.frame - 1]), mask)
    changed = (after != frame.picture).any(axis=2)
    objects = tuple(
        ObjectOutcome(one.content, int(one.ink.sum()), int((one.ink & changed).sum()))
        for one in frame.objects
    )
    background, made_up = _filled_background(frame, after, changed)
    return FrameOutcome(
        frame.name, objects, int(background.sum()), int(made_up.sum()), float(mask.mean()), seconds
    )


def _as_displayed(frame: MarkedContent, samples: npt.NDArray[Any], mask: Mask) -> Picture:
    """The cleaned frame as a viewer shows it; grey samples with the same window as the source."""
    if samples.ndim == 3:
        return np.asarray(samples, np.uint8)
    stored = frame.source.stored(frame.frame - 1)
    values, first = np.unique(stored, return_index=True)
    shown = np.interp(samples, values.astype(np.float64), brightest(frame.picture).ravel()[first])
    grey = np.where(mask, np.rint(shown), brightest(frame.picture)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _filled_background(frame: MarkedContent, after: Picture, mask: Mask) -> tuple[Mask, Mask]:
    """The filled pixels whose surroundings are plain in the source, and those of them that stand out from
    these surroundings.

    Judged by the source alone, so that it does not share the error of the program that finds the image area.
    """
    grey = brightest(frame.picture).astype(np.float64)
    drawn = mask.copy()
    for one in frame.objects:
        drawn |= one.ink
    known = (~dilated(drawn, 7)).astype(np.float64)
    size = (NEIGHBOURHOOD, NEIGHBOURHOOD)
    count, total, squares = (
        cv2.boxFilter(values * known, -1, size, normalize=False) for values in (known, grey, grey**2)
    )
    enough = np.maximum(count, 1)
    level = total / enough
    spread = np.sqrt(np.maximum(squares / enough - level**2, 0))
    background = mask & (count >= FEWEST) & (spread <= EVEN)
    shown = brightest(after)
    differs = (np.abs(shown.astype(np.float64) - level) > STANDS_OUT) & (shown > BLACK)
    return np.asarray(background, np.bool_), np.asarray(background & differs, np.bool_)


def summary(outcomes: Sequence[FrameOutcome], policy: CleaningPolicy, tools: Tools) -> dict[str, Any]:
    """The figures of the cleaning by ``policy``, over all frames: withheld frames, removed pixels by what the
    objects show, and filled background.
    """
    released = [frame for frame in outcomes if not frame.withheld]
    reasons = sorted({frame.withheld for frame in outcomes if frame.withheld})
    filled = [frame.filled for frame in released]
    seconds = [frame.seconds for frame in outcomes]
    return {
        "policy": policy,
        "models": [f"{ref.id} {ref.version}" for ref in tools.models],
        "frames": len(outcomes),
        "patients": len({patient_of(frame.name) for frame in outcomes}),
        "withheld": {"frames": len(outcomes) - len(released), "reasons": reasons},
        **_text_figures(released),
        "background": _background_figures(released),
        "filled_share": float(np.mean(filled)) if filled else 0.0,
        "seconds": float(np.median(seconds)) if seconds else 0.0,
    }


def _text_figures(released: Sequence[FrameOutcome]) -> dict[str, Any]:
    """Texts that identify and are left, removed pixels of all other objects by what they show, and lines of
    text that are cut in two.
    """
    objects = [shown for frame in released for shown in frame.objects]
    texts = [shown for shown in objects if shown.content in TEXTS and shown.pixels]
    identity = [text for text in texts if text.content is Content.IDENTITY]
    return {
        "identity": {"objects": len(identity), "left": sum(text.share < WHOLE for text in identity)},
        "content": _content_figures(released),
        "cut": {"lines": len(texts), "cut": sum(CUT < text.share < WHOLE for text in texts)},
    }


def _content_figures(released: Sequence[FrameOutcome]) -> dict[str, Any]:
    """Removed pixels by what the objects show, identity left out, and of all; a kind without objects has no
    row.
    """
    every = [kind for kind in Content if kind is not Content.IDENTITY]
    rows = {kind.value: _row(released, {kind}) for kind in every}
    return {name: row for name, row in rows.items() if row["objects"]} | {"all": _row(released, set(every))}


def _background_figures(released: Sequence[FrameOutcome]) -> dict[str, int]:
    """Filled pixels of plain background, those of them that stand out, and the frames with any."""
    return {
        "filled": sum(frame.background for frame in released),
        "made_up": sum(frame.made_up for frame in released),
        "frames_with_any": sum(frame.made_up > 0 for frame in released),
    }


def _row(frames: Sequence[FrameOutcome], contents: set[Content]) -> dict[str, Any]:
    """The figures of the objects that show one of ``contents``, over all frames."""
    own = [[one for one in frame.objects if one.content in contents] for frame in frames]
    pixels = np.array([sum(one.pixels for one in objects) for objects in own], np.float64)
    removed = np.array([sum(one.removed for one in objects) for objects in own], np.float64)
    shares = [one.share for objects in own for one in objects]
    return {
        "objects": len(shares),
        "share": ratio(removed, pixels, patient_weights([patient_of(one.name) for one in frames])).as_list(),
        "gone": sum(share >= WHOLE for share in shares),
        "in_part": sum(CUT < share < WHOLE for share in shares),
    }
