"""Places that may hold text, found in several views of a picture, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np

from ai_pipeline.burnin.decide.layout import level_box, share_of
from ai_pipeline.burnin.decide.letters import strokes_in
from ai_pipeline.burnin.decide.meaning import NOTHING_MORE, Allowed
from ai_pipeline.burnin.decide.texts import FEW_CHARACTERS, Text, text_meaning
from ai_pipeline.burnin.find.annotation import (
    Box,
    Mask,
    Picture,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.area import strokes
from ai_pipeline.burnin.find.networks import Line, is_wide
from ai_pipeline.burnin.find.text import TextBox, TextReader, high_contrast, looks_like_text
from ai_pipeline.burnin.find.traces import FILLS, TOUCHES, Waves, find_flow
from ai_pipeline.contract import Meaning

SURE = 0.8
"""Mean confidence of the recogniser from which it has read text, and no wave, in a spectrum or a trace."""
CURVE = 0.9
"""Share of what is drawn in a box that is a trace, from which the box holds no letters."""
FINEST, FAINT, LARGEST = 1.0, 0.6, 0.35
"""Scales at which a picture is read: as it is, with enhanced contrast, and for letters as large as a tile."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A place in a picture that may hold text. ``view``: the version of the picture that shows it. ``flow``:
    share of the place, 0 to 1, with Doppler flow, a spectrum or M-mode, which look like letters.
    """

    view: Picture
    box: TextBox
    flow: float

    @property
    def certain(self) -> bool:
        """Whether shape and confidence of the box alone prove that it is text."""
        return self.flow <= FILLS and looks_like_text(self.box, self.view.shape)

    def read(self, reader: TextReader) -> Line:
        """Read the text at the place by rapidocr."""
        return self._counted(reader.read(self.view, self.box, 2 if self.flow > TOUCHES else 1))

    def _counted(self, line: Line) -> Line:
        """Return ``line`` as legible or not. In measured pixels (flow, spectra, M-mode, curves) and along a
        vertical, only text of three letters that is read whole and with confidence counts as legible.
        """
        unsure = (
            # In flow no reader reads five different letters or digits fairly surely.
            line.confidence < (0.7 if len(set(filter(str.isalnum, line.text))) >= 5 else SURE)
            or line.letters < FEW_CHARACTERS
            or is_wide(self.box.length, self.box.height, line)
        )
        return (
            replace(line, legible=False) if unsure and (self.flow > TOUCHES or self.box.is_upright) else line
        )

    def followed(
        self,
        reader: TextReader,
        line: Line | None = None,
        may_hold: Callable[[TextBox], bool] = lambda _longer: True,
    ) -> Candidate:
        """Return the place of a line extended to both of its ends, as long as more letters are surely read in
        a longer box that ``may_hold`` the line. The detector finds only a part of a line that runs along the
        edge of the image area, or that is faint over tissue. Numbers alone may be those of an axis, one below
        the other. ``line``: what was read at the place, if it was.
        """
        found, line = self, line or reader.read(self.view, self.box)
        for end in (False, True) if any(map(str.isalpha, line.text)) else ():
            # How far a line is followed at a time (heights).
            while (longer := found.box.longer(3.0, self.view.shape, end=end)).length > found.box.length:
                # The stretch ahead takes a quarter of the time of the whole line, which mostly has ended.
                if not may_hold(longer) or reader.read(self.view, found.box.beyond(longer)).letters < 2:
                    break
                more = reader.read(self.view, longer)
                # Letters and digits that are read besides in so much more of a line, at least.
                if more.letters < line.letters + 2 or more.confidence < SURE:
                    break
                found, line = replace(found, box=longer), more
        return found

    def text(self, reader: TextReader, allowed: Allowed = NOTHING_MORE) -> Text:
        """Read the text at the place and decide its meaning. The reader of small letters reads first. If its
        text is not proven harmless, rapidocr reads as well.
        """
        small = self._counted(reader.read_small(self.view, self.box))
        meaning = Meaning.IDENTITY if self.flow > FILLS else text_meaning(self.box, small, allowed)
        if meaning is not Meaning.IDENTITY:
            return Text(self.box, small, meaning, small)
        line = self.read(reader)
        return Text(self.box, line, text_meaning(self.box, line, allowed), small)

    def fields(self, text: Text, reader: TextReader, allowed: Allowed) -> list[Text]:
        """Return ``text``, read at this place, or its two parts: a line that may name somebody, and behind it
        a harmless field that is written with "=", as in "KIM MINJUN GA=21w0d". Together they read as before.
        """
        if text.meaning is not Meaning.IDENTITY or "=" not in text.line.text or self.box.is_upright:
            return [text]
        left, top, right, bottom = self.box.box
        drawn = strokes_in(self.view, self.box)[:, max(0, left) : right]
        blank = np.asarray(~drawn.any(axis=0, keepdims=True), np.bool_)
        for start, _, end, _ in sorted(component_boxes(components(blank)[1]), reverse=True):
            if start > 0 and end - start >= 0.2 * self.box.height:  # a blank, not the gap between letters
                cut = max(0, left) + (start + end) // 2
                first, field = (
                    replace(self, box=level_box((begin, top, stop, bottom), self.box.confidence)).text(
                        reader, allowed
                    )
                    for begin, stop in ((left, cut), (cut, right))
                )
                harmless = "=" in field.line.text and field.meaning is not Meaning.IDENTITY
                if harmless and first.letters + field.letters == text.letters:
                    return [replace(first, meaning=Meaning.IDENTITY), field]
        return [text]


def candidates(
    picture: Picture, reader: TextReader, waves: Waves, changed: Mask | None = None
) -> list[Candidate]:
    """Find places that may hold text in several versions of a picture: in vertical lines, as it is, with more
    contrast, and reduced. ``waves``: measured curves. ``changed``: pixels that changed since the last
    reading; then only their surroundings are searched, where letters may be left or new (the copy reduced for
    the largest letters is searched whole).
    """
    measured = MeasuredPixels.from_picture(picture, waves)
    faint, found = high_contrast(picture), []
    for view, scale, upright in ((picture, FAINT, True), (picture, FINEST, False), (faint, FAINT, False)):
        for box in [None] if changed is None else surroundings(changed, scale):
            found += candidates_of(view, reader, scale, measured, box, upright=upright)
    # Shorter side from which a reduced view is read too, for letters as large as a tile (pixels).
    if min(picture.shape[:2]) >= 1200:
        found += candidates_of(picture, reader, LARGEST, measured)
    return found


SEARCHED = 64
"""What is searched around a pixel (pixels, of the view's scale): a line is found with what is beside it."""
ONE_SEARCH = 12_000
"""Pixels of a view that the detector searches in the time that it takes besides for each part."""


def surroundings(mask: Mask, scale: float, reach: int = SEARCHED) -> Sequence[Box]:
    """Boxes around the parts of a mask, with a margin of ``reach`` pixels of the view's scale; two parts
    share a box where that is no dearer to search.
    """
    margin, rows, columns = round(reach / scale), *mask.shape
    # Letters of one line share a box.
    found = component_boxes(components(dilated(mask, 2 * (margin // 4) + 1))[1])
    if len(found) > 100:
        found = component_boxes(components(dilated(mask, 2 * margin + 1))[1])
    rest = margin - margin // 4
    boxes = [
        (max(0, left - rest), max(0, top - rest), min(columns, right + rest), min(rows, bottom + rest))
        for left, top, right, bottom in found
    ]
    return _joined(boxes, ONE_SEARCH / scale**2)


def _joined(boxes: Sequence[Box], least: float) -> list[Box]:
    """The boxes, any two of them replaced by the box around both as long as that saves ``least`` pixels or
    adds no more.
    """
    left = list(boxes)
    joined: list[Box] = []
    while left:
        box = left.pop()
        for other in (*left, *joined):
            both = min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])
            if _pixels(both) <= _pixels(box) + _pixels(other) + least:
                (left if other in left else joined).remove(other)
                left.append(both)
                break
        else:
            joined.append(box)
    return sorted(joined)


def _pixels(box: Box) -> int:
    """The number of pixels in a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def candidates_of(
    view: Picture,
    reader: TextReader,
    scale: float,
    measured: MeasuredPixels,
    within: Box | None = None,
    *,
    upright: bool = False,
) -> list[Candidate]:
    """Find places that may hold text in one version ``view`` of a picture, at a ``scale``; boxes on curves in
    ``measured`` are left out. ``within``: the box to search, None for all. ``upright``: search lines along a
    vertical.
    """
    boxes = (reader.find_upright if upright else reader.find)(view, scale, within)
    found = [(part, measured.traced(part)) for box in boxes for part in fields_of(box, view)]
    # Share of what is drawn in a box that is a trace, from which it is text only if it can be read.
    places = [
        Candidate(view, box, max(share_of(measured.areas, box), traced if traced >= 0.35 else 0.0))
        for box, traced in found
        if traced < CURVE
    ]
    return [place.followed(reader) for place in places] if upright else places


def fields_of(box: TextBox, view: Picture) -> list[TextBox]:
    """Cut the box of a level line at wide gaps: several fields stand in one row of a screen."""
    left, top, right, bottom = box.box
    height = bottom - top
    if right - left < 4 * height or abs(box.corners[0, 1] - box.corners[1, 1]) > 0.2 * height:
        return [box]
    # Width of a gap between fields (heights of the box), at least; words of one line stand closer.
    drawn = cv2.morphologyEx(
        strokes_in(view, box).any(axis=0, keepdims=True).astype(np.uint8),
        cv2.MORPH_CLOSE,
        np.ones((1, height), np.uint8),
    )
    places = sorted(component_boxes(components(np.asarray(drawn, np.bool_))[1]))
    cuts = [left, *((one[2] + other[0]) // 2 for one, other in pairwise(places)), right]
    return [level_box((start, top, end, bottom), box.confidence) for start, end in pairwise(cuts)]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPixels:
    """The pixels of a picture that show a measurement: ``areas`` of flow, spectra and M-mode, and curves
    (``traces``). ``strokes``: thin drawn lines, which may be letters or curves; None for a picture without
    curves.
    """

    areas: Mask
    traces: Mask
    strokes: Mask | None

    @staticmethod
    def from_picture(picture: Picture, waves: Waves) -> MeasuredPixels:
        """Find the pixels in ``picture``; ``waves``: its measured curves."""
        drawn = strokes(picture) if waves.traces.any() else None
        return MeasuredPixels(find_flow(picture) | waves.strips, waves.traces, drawn)

    def traced(self, box: TextBox) -> float:
        """The share of the drawn pixels in a box that belong to a measured curve, 0 to 1."""
        if self.strokes is None:
            return 0.0
        place = index_of(box.box)
        drawn = int(self.strokes[place].sum())
        return int((self.strokes[place] & self.traces[place]).sum()) / drawn if drawn else 0.0
