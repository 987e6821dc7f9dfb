"""The tools for cleaning: text reader, mark detector, inpainter; loaded once per process.

An inpainter fills holes in a picture, by a classical method or by a network. Outside the image area no pixel
is made up: removed text takes exactly the colour of the background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import (
    Box,
    Mask,
    Picture,
    brightest,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.networks import LineReader, MarkFinder
from ai_pipeline.burnin.find.text import TextReader, shared_reader
from ai_pipeline.contract import ModelRef, PixelArray
from ai_pipeline.models import registry
from ai_pipeline.models.engine import OnnxRuntime, usable_cores

RADIUS = 3.0
"""Neighbourhood of a classically filled pixel (pixels)."""
AROUND = 12
"""Distance from which the colour is taken that a hole is emptied to, or that the background has (pixels)."""
CORE, CONTEXT = 96, 32
"""Sides of the tiles that a network fills, and what it sees beyond them on every side (pixels)."""
METHODS = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats, Floats], Floats]
"""From the classical fill ``[N, 3, h, w]`` in -1..1 and the hole ``[N, 1, h, w]`` to the filled tiles."""


class Inpainter(Protocol):
    """Fills holes in a picture. Outside the hole the result equals the picture, bit for bit."""

    name: str
    context: int
    """How far from a hole pixels still affect its filling, in pixels."""

    def fill(self, picture: Picture, hole: Mask) -> Picture:
        """Fill ``hole [rows, columns]`` (True = to fill) of a uint8 picture, RGB or grey."""
        ...


@dataclass(slots=True)
class Classical:
    """Inpainting by a method of OpenCV; ``name``: a method in :data:`METHODS`."""

    name: str
    context: int = 8

    def fill(self, picture: Picture, hole: Mask) -> Picture:
        """Fill ``hole`` in ``picture``."""
        if not hole.any() or hole.all():
            return picture.copy()
        filled = cv2.inpaint(emptied(picture, hole), hole.astype(np.uint8), RADIUS, METHODS[self.name])
        return np.where(hole if picture.ndim == 2 else hole[..., None], filled, picture).astype(np.uint8)


@dataclass(slots=True)
class NetworkInpainter:
    """Inpainting by a network, run on the tiles that hold a part of the hole; ``run``: the loaded network."""

    name: str
    run: Run
    context: int = CONTEXT

    def fill(self, picture: Picture, hole: Mask) -> Picture:
        """Fill ``hole`` in ``picture``."""
        if picture.ndim == 2:
            return self.fill(np.repeat(picture[..., None], 3, axis=2), hole)[..., 1]
        rows, columns = hole.shape
        # The grid reaches beyond the picture, so that every tile has the same size and its context.
        pad = ((CONTEXT, CONTEXT + -rows % CORE), (CONTEXT, CONTEXT + -columns % CORE))
        framed = np.pad(PLAIN.fill(picture, hole), (*pad, (0, 0)), mode="edge")
        holes = np.pad(hole, pad)
        filled = framed.copy()
        for top in range(0, rows, CORE):
            for left in range(0, columns, CORE):
                inner = _square(top + CONTEXT, left + CONTEXT, CORE)
                if holes[inner].any():
                    tile = _square(top, left, CORE + 2 * CONTEXT)
                    filled[inner] = self._generate(framed[tile], holes[tile])[_square(CONTEXT, CONTEXT, CORE)]
        filled = filled[CONTEXT : CONTEXT + rows, CONTEXT : CONTEXT + columns]
        return np.where(hole[..., None], filled, picture).astype(np.uint8)

    def _generate(self, tile: Picture, hole: Mask) -> Picture:
        """Run the network on one tile."""
        start = np.ascontiguousarray(tile.transpose(2, 0, 1)[None], np.float32) / np.float32(127.5) - 1
        made = self.run(start, hole[None, None].astype(np.float32))[0]
        return np.asarray(np.clip(np.rint((made.transpose(1, 2, 0) + 1) * 127.5), 0, 255), np.uint8)


def emptied(picture: npt.NDArray[Any], hole: Mask) -> npt.NDArray[Any]:
    """Return a copy of ``picture`` whose ``hole`` has the mean of the known pixels around it, so that none of
    its pixels is left. OpenCV's methods read the hole itself where it touches the picture's edge (5.0: Telea
    at the left side, both in corners): a name in a corner would show through.
    """
    known = (~hole).astype(np.float32)
    side = (2 * AROUND + 1, 2 * AROUND + 1)
    weight = cv2.boxFilter(known, -1, side, normalize=False)
    result = np.array(picture, copy=True)
    for plane in (result[..., index] for index in range(3)) if picture.ndim == 3 else (result,):
        values = plane.astype(np.float32)
        total = cv2.boxFilter(values * known, -1, side, normalize=False)
        far = float(values[~hole].mean()) if known.any() else 0.0
        plane[hole] = np.rint(np.where(weight > 0.5, total / np.maximum(weight, 1), far)[hole]).astype(
            picture.dtype
        )
    return result


def on_onnx(data: bytes, threads: int) -> Run:
    """Load an exported inpainting network (``start``, ``hole`` → ``filled``) on ONNX Runtime with so many
    ``threads``.
    """
    network = OnnxRuntime(data, threads)
    return lambda start, hole: network(start, hole)["filled"]


def _square(top: int, left: int, side: int) -> tuple[slice, slice]:
    """The rows and columns of a square, as an index."""
    return slice(top, top + side), slice(left, left + side)


JOINED = 9
"""Distance up to which holes are filled together, or take one colour (pixels)."""

PLAIN = Classical("navier-stokes")

Samples = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Holes:
    """The pixels ``mask`` that are filled, in parts that are filled together, found once for all frames that
    share them. ``labels``: the part of each pixel, 0 for none; ``boxes``: the box of each part, from label 1
    on.
    """

    mask: Mask
    labels: npt.NDArray[np.int32]
    boxes: list[Box]

    @staticmethod
    def of(mask: Mask) -> Holes:
        """Find the parts of ``mask``."""
        labels, stats = components(dilated(mask, JOINED))
        return Holes(mask, labels, component_boxes(stats))


def inpaint(
    source: PixelArray, holes: Holes, filler: Inpainter, not_tissue: Mask | None = None
) -> PixelArray:
    """Return ``source`` with the pixels of ``holes`` filled from around them; all others are identical.
    ``source``: ``[rows, columns]`` or ``[rows, columns, 3]``, any integer type of up to 16 bits or float32;
    other types than uint8 are filled by Navier-Stokes. ``filler``: the method; ``not_tissue``: annotation
    that stays; nothing is filled from it. Each hole is filled separately, so the time depends on the holes
    only.
    """
    filled = np.array(source, copy=True)
    for label, (left, top, right, bottom) in enumerate(holes.boxes, start=1):
        reach = filler.context
        place = index_of((left - reach, top - reach, right + reach, bottom + reach))
        hole = holes.mask[place]
        own = hole & (holes.labels[place] == label)
        if not_tissue is not None:
            hole = hole | not_tissue[place]
        filled[place][own] = _generate(cast(Samples, source[place]), hole, filler)[own]
    return filled


def black_out(source: PixelArray, mask: Mask, black: float) -> PixelArray:
    """Return ``source`` with the pixels of ``mask`` set to ``black`` (a stored value, in all channels)."""
    result = np.array(source, copy=True)
    result[mask] = black  # a quarter of the time of numpy.where
    return result


def _generate(patch: Samples, hole: Mask, filler: Inpainter) -> Samples:
    """Fill ``hole`` in one part of a picture, of any sample type."""
    around = patch[~hole]
    if around.size == 0:  # nothing to fill from: black shows no structure
        return np.full_like(patch, patch.min())
    low, high = around.min(axis=0), around.max(axis=0)
    if bool((low == high).all()):
        return np.asarray(np.broadcast_to(low, patch.shape))
    if patch.dtype == np.uint8:
        # Range up to which surroundings are one colour: black with the noise of compression (grey levels).
        if bool((high - low <= 10).all()):
            return np.asarray(
                cv2.inpaint(emptied(patch, hole), hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS)
            )
        return filler.fill(patch, hole)
    if patch.ndim == 3:
        return np.stack(
            [_deep(np.ascontiguousarray(patch[..., plane]), hole) for plane in range(patch.shape[2])], axis=2
        )
    return _deep(patch, hole)


def _deep(patch: Samples, hole: Mask) -> Samples:
    """Fill ``hole`` in one channel of more than 8 bits. OpenCV accepts unsigned samples of 16 bits, so all
    others are scaled to these and back.
    """
    around = patch[~hole]
    low, high = float(around.min()), float(around.max())
    step = max((high - low) / 65535.0, 1.0 if patch.dtype.kind in "iu" else 1e-12)
    scaled = np.clip((patch.astype(np.float64) - low) / step, 0, 65535).astype(np.uint16)
    filled = cv2.inpaint(emptied(scaled, hole), hole.astype(np.uint8), RADIUS, cv2.INPAINT_NS)
    values = np.clip(filled * step + low, low, high)
    return np.asarray(np.rint(values) if patch.dtype.kind in "iu" else values, patch.dtype)


RINGING = 16
"""How far JPEG takes the background beside letters from its colour (grey levels)."""

Colour = npt.NDArray[Any]


class BackgroundFill:
    """Fills holes in the colour of the background around them (panel or black), in one frame after another.
    A hole around which the background is as in the frame before is filled as there.
    """

    def __init__(self, holes: Holes, known: Mask, black: float) -> None:
        """``known``: background without annotation. ``black``: the stored value for a hole where neither its
        surroundings nor the whole background have one colour.
        """
        self._known, self._black = known, black
        self._holes = [_Hole.of(holes, label, known) for label in range(1, len(holes.boxes) + 1)]
        self._before: _Background | None = None

    def fill(self, source: PixelArray) -> PixelArray:
        """Return ``source`` with the pixels of the holes in the background's colour."""
        result = np.array(source, copy=True)
        if self._holes:
            background = self._background(source)
            for hole, colours in zip(self._holes, background.colours, strict=True):
                result[hole.place][hole.own] = colours
            self._before = background
        return result

    def _background(self, source: PixelArray) -> _Background:
        """The colours of the holes in ``source``."""
        # Difference up to which two colours are one: the noise of compression (share of the picture's range).
        tolerance = (10 / 255) * (float(source.max()) - float(source.min()))
        before = self._before
        if before is None or before.tolerance != tolerance:
            before, differs = None, self._known
        else:
            differs = self._known & (brightest((source != before.source).view(np.uint8)) > 0)
            if not differs.any():
                return replace(before, source=source)
        everywhere = _plain_colour(source[self._known], tolerance)
        alike = before is not None and _is_same(before.everywhere, everywhere)
        colours = [
            before.colours[number]
            if before is not None and alike and not differs[hole.around].any()
            else hole.colours(source, self._known, tolerance, everywhere, self._black)
            for number, hole in enumerate(self._holes)
        ]
        return _Background(source, tolerance, everywhere, colours)


@dataclass(frozen=True, slots=True, eq=False)
class _Background:
    """The background of a frame ``source``: its commonest colour ``everywhere``, None if it has none, and the
    ``colours`` of the pixels of each hole. ``tolerance``: the difference up to which two colours are one.
    """

    source: PixelArray
    tolerance: float
    everywhere: Colour | None
    colours: list[Samples]


@dataclass(frozen=True, slots=True, eq=False)
class _Hole:
    """One of some holes: ``own`` are its pixels in the box ``place``; ``around``: the box from which its
    colour is taken; ``beside``: the part of it in the same rows; ``rows``: those of these rows in which
    enough of the background is seen.
    """

    place: tuple[slice, slice]
    own: Mask
    around: tuple[slice, slice]
    beside: tuple[slice, slice]
    rows: list[int]

    @staticmethod
    def of(holes: Holes, label: int, known: Mask) -> _Hole:
        """Describe the hole of the number ``label``; ``known`` as in :class:`BackgroundFill`."""
        left, top, right, bottom = holes.boxes[label - 1]
        place = index_of((left, top, right, bottom))
        beside = index_of((left - AROUND, top, right + AROUND, bottom))
        return _Hole(
            place,
            holes.mask[place] & (holes.labels[place] == label),
            index_of((left - AROUND, top - AROUND, right + AROUND, bottom + AROUND)),
            beside,
            np.flatnonzero(known[beside].sum(axis=1) >= AROUND).tolist(),
        )

    def colours(
        self, source: PixelArray, known: Mask, tolerance: float, everywhere: Colour | None, black: float
    ) -> Samples:
        """The colours of the hole's pixels in ``source``, row by row: that of the nearest row in which one is
        seen, else that around the hole, ``everywhere`` or ``black``.
        """
        beside, seen = source[self.beside], known[self.beside]
        # Panels lie across the screen: each row has its own colour, where it is seen on both sides.
        colours: dict[int, Colour | None] = {
            row: colour
            for row in self.rows
            if (colour := _plain_colour(beside[row][seen[row]], tolerance, 0.75)) is not None
        }
        if not colours:
            colours = {0: _plain_colour(source[self.around][known[self.around]], tolerance)}
        for row, colour in colours.items():
            if colour is None or (
                everywhere is not None
                and np.abs(colour.astype(np.float64) - everywhere.astype(np.float64)).max() <= tolerance
            ):
                colours[row] = everywhere
        found = np.empty((len(colours), *source.shape[2:]), source.dtype)
        for index, colour in enumerate(colours.values()):
            found[index] = black if colour is None else colour
        rows = np.arange(self.own.shape[0])
        nearest = np.abs(np.array(list(colours))[None] - rows[:, None]).argmin(axis=1)
        return np.asarray(found[nearest[np.nonzero(self.own)[0]]])


def _is_same(one: Colour | None, other: Colour | None) -> bool:
    """Whether two colours are the same, or both are none."""
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def is_plain(picture: Picture, known: Mask) -> Mask:
    """The mask of pixels that have the colour of the picture's ``known`` background, up to JPEG's ringing;
    ``picture`` is uint8.
    """
    colour = _plain_colour(picture[known], RINGING)
    if colour is None:
        return np.zeros_like(known)
    return np.asarray(
        brightest(
            cv2.absdiff(
                picture, np.ascontiguousarray(np.broadcast_to(np.asarray(colour, np.uint8), picture.shape))
            )
        )
        <= RINGING,
        np.bool_,
    )


def _plain_colour(pixels: PixelArray, tolerance: float, least: float = 0.5) -> Colour | None:
    """The commonest value in each channel, if a share of the pixels, at ``least``, differs from it by at most
    ``tolerance``; else None.
    """
    if not len(pixels):
        return None
    channels = pixels.reshape(len(pixels), -1).T
    colour = [_commonest(channel) for channel in channels]
    alike = np.logical_and.reduce(
        [_difference(channel, value) <= tolerance for channel, value in zip(channels, colour, strict=True)]
    )
    if float(alike.mean()) < least:
        return None
    return np.asarray(colour if pixels.ndim > 1 else colour[0], pixels.dtype)


def _difference(values: npt.NDArray[Any], value: Any) -> npt.NDArray[Any]:
    """How far ``values`` are from one ``value``."""
    if values.dtype == np.uint8:  # a third of the time
        return np.asarray(np.abs(values.astype(np.int16) - np.int16(value)))
    return np.asarray(np.abs(values.astype(np.float64) - float(value)))


def _commonest(values: npt.NDArray[Any]) -> Any:
    """The value that occurs most often; the smallest of several."""
    if values.dtype == np.uint8:  # a tenth of the time
        return np.uint8(np.bincount(values, minlength=256).argmax())
    found, counts = np.unique(values, return_counts=True)
    return found[counts.argmax()]


TEXT, LINES, MARKS, FILL = (
    "burnin-text",
    "ultrasound-line-reader",
    "ultrasound-marks-unet",
    "ultrasound-inpaint-oci-gan",
)
"""The models that cleaning runs, by the ids of their cards."""


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What cleaning needs: text readers, mark detector, inpainter, and the ``models`` that they run: for
    text, lines, marks and filling, in the order of results. ``threshold`` 0 to 1: probability from which a
    pixel counts as drawn. ``device_rules``: a site's folder.
    """

    reader: TextReader
    finder: MarkFinder
    threshold: float
    filler: Inpainter
    models: tuple[ModelRef, ModelRef, ModelRef, ModelRef]
    device_rules: Path | None = None


_LOADED: dict[tuple[Path | None, Path | None], Tools] = {}


def cleaning_models(models_dir: Path | None = None, device_rules: Path | None = None) -> tuple[ModelRef, ...]:
    """The models that clean images: the loaded models of this process, even if others were installed since;
    if it has loaded none, the models that the model cards name. It does not load a model. Raises
    CardError.
    """
    if loaded := _LOADED.get((models_dir, device_rules)):
        return loaded.models
    return tuple(registry.find(name, models_dir).ref for name in (TEXT, LINES, MARKS, FILL))


def shared_tools(models_dir: Path | None = None, device_rules: Path | None = None) -> Tools:
    """This process's tools for cleaning, loaded when first needed; that takes a second. Raises CardError."""
    place = models_dir, device_rules
    if place in _LOADED:
        return _LOADED[place]
    texts, lines, marks, fill = (registry.find(name, models_dir) for name in (TEXT, LINES, MARKS, FILL))
    registry.verify(texts)
    small = LineReader(OnnxRuntime(registry.read(lines.file("line-reader")), 1))
    _LOADED[place] = Tools(
        reader=shared_reader().beside(small),
        finder=MarkFinder(OnnxRuntime(registry.read(marks.file("mark-finder")))),
        threshold=float(marks.details["detector"]["threshold"]),
        filler=NetworkInpainter(fill.id, on_onnx(registry.read(fill.file("inpainter")), usable_cores())),
        models=(texts.ref, lines.ref, marks.ref, fill.ref),
        device_rules=device_rules,
    )
    return _LOADED[place]
