"""The text in a picture: places of possible text are searched in several views of it, read, and judged.

Text counts as identity until all of it is read and proven harmless.

In the image area, where tissue is, only proven letters are painted over. There are three independent
witnesses: the mark network, which marks the strokes of letters, and two text readers. Two of the three prove
letters, or one reader that is sure. A place that only one suspects is kept, and a person looks at it.

Lines stay or go whole: no letter of a line that stays is cut when text beside it is removed. A line that
cannot be kept whole is removed. A place that was read twice counts by its best reading.

The mask is sent as a Segmentation, so no text may be legible in its outline.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import combinations, pairwise, permutations

import cv2
import numpy as np

from ai_pipeline.burnin.decide.meaning import (
    LEAST_CONFIDENCE,
    NOTHING_MORE,
    TICKS,
    Allowed,
    labelled,
    may_be_setting,
    meaning_of,
    spaced,
)
from ai_pipeline.burnin.decide.vocabulary import PRESETS
from ai_pipeline.burnin.find.annotation import (
    Box,
    Mask,
    Picture,
    box_around,
    brightest,
    centre_of,
    colourfulness,
    component_boxes,
    components,
    dilated,
    gaps,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.area import strokes
from ai_pipeline.burnin.find.networks import Line, is_wide
from ai_pipeline.burnin.find.text import (
    LOW_SHARE,
    TILES,
    UPRIGHT,
    TextBox,
    TextReader,
    high_contrast,
    looks_like_text,
    paint,
)
from ai_pipeline.burnin.find.traces import FILLS, TOUCHES, Waves, find_flow
from ai_pipeline.contract import Meaning

LETTER_GAP = 9
"""Side of the square by which drawn text is closed: letters become words, their holes are gone (pixels)."""
SMALLEST_LETTER = 8
"""Longer side of a letter with its soft edges, two pixels all around, at least (pixels)."""


def blocks(strokes: Mask) -> Mask:
    """Fill each line of the drawn text in the mask ``strokes`` to a block, so that the shapes of letters are
    not seen.
    """
    wide, square = np.pad(strokes, LETTER_GAP).astype(np.uint8), np.ones((LETTER_GAP, LETTER_GAP), np.uint8)
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, square)
    closed = closed[LETTER_GAP:-LETTER_GAP, LETTER_GAP:-LETTER_GAP]
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros(strokes.shape, np.uint8)
    cv2.drawContours(filled, contours, -1, 1, -1)
    for contour in contours:
        rectangle = cv2.minAreaRect(contour)
        width, height = rectangle[1]
        low = min(width, height) <= max(24.0, LOW_SHARE * min(strokes.shape))
        # Share of its rectangle that a closed word fills, at least; an arc or a slope fills less.
        if low and cv2.contourArea(contour) >= 0.4 * width * height:
            cv2.fillPoly(filled, [np.rint(cv2.boxPoints(rectangle)).astype(np.int32)], 1)
    return np.asarray(filled, np.bool_) | strokes


def without_shapes_of_letters(mask: Mask, reader: TextReader) -> Mask:
    """Return the mask with blocks in place of letters' strokes: the mask leaves the node, and must not show
    what was written.
    """
    shown = blocks(mask)
    return shown | text_in_outline(shown, reader)


def text_in_outline(mask: Mask, reader: TextReader) -> Mask:
    """The mask of boxes around text that can still be read in the outline of ``mask`` itself, and must be
    covered too.
    """
    shaped = _without_rectangles(mask)
    if not shaped.any():
        return shaped
    picture: Picture = np.where(shaped, 255, 0).astype(np.uint8)
    within = box_around(shaped, LETTER_GAP)
    lines = [(box, reader.read(picture, box)) for box in reader.find(picture, within=within)]
    # Letters and digits that are read in a mask, from which its outline gives text away.
    return paint([box for box, line in lines if line.legible and line.letters >= 3], mask.shape, 0.1)


def _without_rectangles(mask: Mask) -> Mask:
    """The connected parts of ``mask`` that have another shape than a rectangle, level or not."""
    labels, stats = components(mask)
    keep = np.zeros(len(stats), np.bool_)
    for label, box in enumerate(component_boxes(stats), start=1):
        part = (labels[index_of(box)] == label).astype(np.uint8)
        _, (width, height), _ = cv2.minAreaRect(cv2.findNonZero(part))
        # Share of its rectangle that a part fills from which it is neither letter nor word: it is not read.
        keep[label] = stats[label, cv2.CC_STAT_AREA] < 0.85 * (width + 1) * (height + 1)
    return np.asarray(keep[labels], np.bool_)


def with_sides(mask: Mask, shorter: float = 0, longer: float = 0) -> Mask:
    """The connected parts of ``mask`` whose boxes have a shorter and a longer side of at least these
    (pixels).
    """
    labels, stats = components(mask)
    sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    keep = (sides.min(axis=1) >= shorter) & (sides.max(axis=1) >= longer) & (np.arange(len(stats)) > 0)
    return np.asarray(keep[labels], np.bool_)


FILLED = 0.95
"""Share of a box that is filled pixels, from which it cannot hold text of the source."""
SAME = 0.8
"""Share of a box within one that was read already, from which it is not read again."""
FEW_CHARACTERS = 3
"""Texts of up to so many characters are judged together with their neighbours."""
SURE = 0.8
"""Mean confidence of the recogniser from which it has read text, and no wave, in a spectrum or a trace."""
CURVE = 0.9
"""Share of what is drawn in a box that is a trace, from which the box holds no letters."""
FINEST, FAINT, LARGEST = 1.0, 0.6, 0.35
"""Scales at which a picture is read: as it is, with enhanced contrast, and for letters as large as a tile."""


NOTHING_READ = Line("", 0.0, legible=False)


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

    def followed(self, reader: TextReader) -> Candidate:
        """Return the place of an upright line extended to both of its ends, as long as more letters are
        surely read in a longer box. The detector finds only a part of a line that runs along the edge of the
        image area. Numbers alone may be those of an axis, one below the other.
        """
        found, line = self, reader.read(self.view, self.box)
        for end in (False, True) if any(map(str.isalpha, line.text)) else ():
            # How far an upright line is followed at a time (heights).
            while (longer := found.box.longer(3.0, self.view.shape, end=end)).length > found.box.length:
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


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A place with text, the ``line`` read there, its meaning, and the line that the reader of small letters
    read there (``small``). ``proof``: why it has its meaning, if that does not follow from its words; else
    "".
    """

    box: TextBox
    line: Line
    meaning: Meaning
    small: Line = NOTHING_READ
    proof: str = ""

    @property
    def reason(self) -> str:
        """Why the text has its meaning, in a sentence that does not repeat its words."""
        if self.meaning is not Meaning.IDENTITY:
            return self.proof or "all of it was read, and is harmless"
        return self.proof or ("not all of it is known to be harmless" if self.line.legible else "not read")

    @property
    def letters(self) -> str:
        """The letters and digits of the text, in lower case."""
        return "".join(filter(str.isalnum, self.line.text)).casefold()

    def may_say(self, other: Text) -> bool:
        """Whether this text may be a worse reading of the text ``other``, without an additional letter."""
        # Signs that are read as a letter or a digit on small pictures.
        most = len(other.letters) + sum(map(other.line.text.count, "/%-"))
        # .6: likeness of two readings of one place, at least.
        return len(self.letters) <= most and SequenceMatcher(None, self.letters, other.letters).ratio() >= 0.6


def find_texts(
    picture: Picture, reader: TextReader, known: Mask, waves: Waves, allowed: Allowed = NOTHING_MORE
) -> list[Text]:
    """Find and read all text of a picture, uint8 grey or RGB; among measured curves (``waves``) only legible
    text. ``known``: pixels that are masked in any case; there doubtful places count only if they are
    level and surely read. ``allowed``: text that may stay.
    """
    texts: list[Text] = []
    for one in candidates(picture, reader, waves):
        hidden = not one.certain and covered(one.box, known)
        read = (
            overlap(one.box.box, text.box.box) >= SAME
            # A line that stays may have been read in a box of two, of which the other is a name.
            # Height of a box within a line, from which it holds that line (share of the line's height).
            and (text.meaning is Meaning.IDENTITY or one.box.height > 0.6 * text.box.height)
            for text in texts
        )
        if (hidden and one.box.is_upright) or any(read):
            continue
        text = one.text(reader, allowed)
        if one.certain or (text.line.legible and text.line.confidence >= hidden * LEAST_CONFIDENCE):
            texts.append(text)
    return [judged_in_its_line(text, texts, allowed) for text in texts if not holds_lines(text, texts)]


def holds_lines(text: Text, texts: Sequence[Text]) -> bool:
    """Whether a place is a wrong cut through several lower lines, each of which was surely read and is judged
    by itself: level lines read as one upright line, or two as one.
    """
    box = text.box.box
    lines = [
        other.box.box
        for other in texts
        if other.line.letters >= FEWEST
        and other.line.confidence >= LEAST_CONFIDENCE
        and 1.3 * (other.box.box[3] - other.box.box[1]) <= box[3] - box[1]
    ]
    # Rows of the place that such lines cross, at least; the ends of an upright place are often wrong.
    rows = mask_of([one for one in lines if gaps(one, box)[0] < 0], (box[3] + 1, box[2] + 1))[
        max(0, box[1]) :, max(0, box[0]) :
    ]
    return text.meaning is Meaning.IDENTITY and bool(
        rows.any(axis=1).mean() >= (0.5 if text.box.is_upright else 0.8)
    )


def text_meaning(box: TextBox, line: Line, allowed: Allowed = NOTHING_MORE) -> Meaning:
    """The meaning of the text ``line`` read in ``box``; IDENTITY unless all of it was read."""
    if not line.legible or is_wide(box.length, box.height, line):
        return Meaning.IDENTITY
    return meaning_of(line.text, line.confidence, allowed)


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


def surroundings(mask: Mask, scale: float) -> Sequence[Box]:
    """Boxes around the parts of a mask, with a margin; parts near to each other share one box.

    With enhanced contrast (:data:`FAINT`) they hold all pixels that look different since the mask's pixels
    changed.
    """
    looks_otherwise = 1.5 * max(mask.shape) / TILES if scale == FAINT else 0.0
    # Margin around changed pixels that is read again with them (pixels, of the view's scale).
    _, stats = components(dilated(mask, 2 * round(max(64 / scale, looks_otherwise)) + 1))
    return component_boxes(stats)


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


def level_box(box: Box, confidence: float) -> TextBox:
    """Make a TextBox whose sides run along rows and columns."""
    left, top, right, bottom = box
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    return TextBox(corners, confidence)


def share_of(mask: Mask, box: TextBox) -> float:
    """Share of the box's rectangle that lies in the mask."""
    inside = mask[index_of(box.box)]
    return float(inside.mean()) if inside.size else 0.0


def judged_in_its_line(text: Text, texts: Sequence[Text], allowed: Allowed) -> Text:
    """Return a short ``text`` as IDENTITY if it stands beside a possible name. A few characters prove nothing
    by themselves: of "12", "03", "67" each could be a ruler's number.
    """
    if text.meaning is Meaning.IDENTITY or len(text.line.text) > FEW_CHARACTERS:
        return text
    places = [one.box.box for one in texts if one is text or _is_same_place(text.box.box, one.box.box)]
    beside = [
        other
        for other in texts
        if (other.letters != text.letters and any(_is_beside(place, other.box.box) for place in places))
        # A number that far from a sex may be an age (heights of the line).
        or (other.line.text in {"M", "F"} and _in_one_row(text.box.box, other.box.box, 8.0))
    ]
    # A whole setting or measurement is no part of a date or of initials.
    short = [
        one
        for one in beside
        if one.meaning not in {Meaning.ACOUSTIC, Meaning.MEASUREMENT} or len(one.line.text) <= FEW_CHARACTERS
    ]
    line = sorted([text, *short], key=lambda one: one.box.box[0])
    together = " ".join(one.line.text for one in line)
    if any(one.meaning is Meaning.IDENTITY for one in beside) or (
        short and meaning_of(together, min(one.line.confidence for one in line), allowed) is Meaning.IDENTITY
    ):
        return replace(text, meaning=Meaning.IDENTITY, proof="too short, and beside a possible name")
    return text


def _is_beside(box: Box, other: Box) -> bool:
    """Whether two boxes stand on one line, level or upright, no farther apart than a word's space."""
    left, top, right, bottom = other
    upright = bottom - top > UPRIGHT * (right - left) and box[2] - box[0] <= box[3] - box[1]
    turned, beside = ((one[1], one[0], one[3], one[2]) for one in (box, other))
    return _in_one_row(box, other) or (upright and _in_one_row(turned, beside))


def _in_one_row(box: Box, other: Box, apart: float = 1.5) -> bool:
    """Whether two boxes stand in one row, less than ``apart`` heights from each other."""
    (across, down), height = gaps(box, other), min(box[3] - box[1], other[3] - other[1])
    # Gap up to which two texts belong to one line (heights of the lower one).
    return -down > 0.5 * height and across < apart * height


def covered(box: TextBox, mask: Mask) -> bool:
    """Whether the mask covers the box, which may slope, except for its rim."""
    inside = mask[index_of(box.box)]
    place = np.zeros(inside.shape, np.uint8)
    origin = np.maximum(box.box[:2], 0).astype(np.float32)
    cv2.fillPoly(place, [np.rint(box.corners - origin).astype(np.int32)], 1)
    own = inside[place.astype(np.bool_)]
    return not own.size or float(own.mean()) >= FILLED


def overlap(box: Box, other: Box) -> float:
    """Share of ``box`` that lies in ``other``, 0 to 1."""
    across, down = gaps(box, other)
    return min(0, across) * min(0, down) / max(1, (box[2] - box[0]) * (box[3] - box[1]))


FEWEST, SURELY_FEWEST = 2, 3
"""Letters and digits that a witness reads, at least; and one that reads so surely that it needs no second."""
SURE_LETTERS = 0.85
"""Confidence of such a reading."""
LONG, OF_LONG, UNSURE = 6, 0.6, 0.9
"""Letters and digits of a long reading, and its confidence: in speckle no reader reads so many. Confidence
that no reader has of a misread number; a printed name is read more surely."""
TRACED = 0.15
"""Share of a text's box that is drawn, from which the mark network has its letters (they fill 20 %)."""


def are_letters(text: Text, drawn: float = 0.0) -> bool:
    """Whether the text at a place is proven to be letters.

    ``drawn``: the share of the place that the mark network takes for text, 0 to 1.
    """
    if _is_sure(text.line) or _is_sure(text.small):
        return True
    return sum((_reads(text.line, FEWEST), _reads(text.small, FEWEST), drawn >= TRACED)) >= 2


def letter_strokes(texts: Sequence[Text], drawn: Mask, picture: Picture, margin: float) -> Mask:
    """The mask of the strokes of ``texts`` with their edges; ``margin`` as in :func:`paint`. The strokes that
    the mark network has found (``drawn``) may lack a letter, so the mask also holds the strongest thin
    structures in the text's box, and the colour that compression has spread around coloured strokes.
    """
    found: Mask = np.zeros_like(drawn)
    for text in texts:
        place = paint([text.box], drawn.shape, margin)
        letters = (drawn | strokes_in(picture, text.box)) & place
        found |= letters | (_spread_colour(picture, letters) & place)
    return found


def strokes_in(picture: Picture, box: TextBox, contrast: int | None = None) -> Mask:
    """The thin structures in a box, light or dark, with their soft edges. Where the brightest channel shows
    hardly any, as of red letters on green, each channel is looked at.

    ``contrast``: the least difference to the surroundings in grey levels; by default a threshold is computed
    from the box (N. Otsu, 1979).
    """
    found: Mask = np.zeros(picture.shape[:2], np.bool_)
    left, top, right, bottom = box.box
    place = index_of((left - 2, top - 2, right + 2, bottom + 2))
    part = np.ascontiguousarray(picture[place])
    if not part.size:
        return found
    # Thickness of a stroke, at most (heights of the line).
    square = np.ones((2 * max(2, round(0.35 * box.height)) + 1,) * 2, np.uint8)
    for grey in (brightest(part), *(cv2.split(part) if part.ndim == 3 else ())):
        # The median of a square is the ground of letters; OpenCV has none of more than 255 pixels.
        ground = cv2.medianBlur(grey, min(2 * max(1, round(box.height)) + 1, 255)).astype(np.float32)
        for way, above in ((cv2.MORPH_TOPHAT, grey - ground), (cv2.MORPH_BLACKHAT, ground - grey)):
            stands_out = cv2.morphologyEx(grey, way, square)
            # How far a stroke stands out from what is beside it, at least (grey levels).
            level = contrast or max(12, cv2.threshold(stands_out, 0, 255, cv2.THRESH_OTSU)[0])
            found[place] |= (stands_out > level) & (above > level / 2)  # not the gaps between strokes
        if found[place].mean() > 0.04:  # less than any letters take of their box
            break
    # Width of a stroke's soft edge (heights of the line), but a pixel at least.
    return dilated(found, 2 * max(1, round(0.05 * box.height)) + 1)


def _spread_colour(picture: Picture, letters: Mask) -> Mask:
    """The coloured pixels beside coloured ``letters``, to which compression spreads their colour."""
    if picture.ndim == 2 or not letters.any():
        return np.zeros_like(letters)
    # Difference of the strongest and the weakest colour of a coloured pixel, at least (grey levels).
    coloured = colourfulness(picture) >= 8
    # Share of the pixels of coloured letters that are coloured, at least.
    if coloured[letters].mean() < 0.8:
        return np.zeros_like(letters)
    # How far JPEG spreads the colour of a stroke, half of a block (pixels).
    return np.asarray(dilated(letters, 2 * 4 + 1) & coloured, np.bool_)


def _is_sure(line: Line) -> bool:
    """Whether a line was read with enough letters and confidence to be surely text."""
    fewest, least = (LONG, OF_LONG) if line.confidence < SURE_LETTERS else (SURELY_FEWEST, SURE_LETTERS)
    return _reads(line, fewest) and line.confidence >= least


def _reads(line: Line, fewest: int) -> bool:
    """Whether a line is legible and has at least ``fewest`` letters."""
    return line.legible and line.letters >= fewest


RIM = 0.15
"""What a box has above and below its letters (share of its height); boxes of close lines overlap by it."""
ALIGNED = 0.7
"""Distance of two lines of a block and of their ends or middles, at most (heights of a line)."""
BLOCK = 2.5
"""Distance up to which the lines of a block prove the text between them (heights of a line)."""
_CONSONANTS = "[B-DF-HJ-NP-TV-XZ][b-df-hj-np-tv-xzB-DF-HJ-NP-TV-XZ]{1,2}"
_NAMES = "(?:N[Gg]|M[Cc]|V[Ll][Kk]|W[Mm])(?![A-Za-z])"
"""Names, and their beginnings, without a vowel."""
_LETTERS = rf"(?:[A-Z]|{_CONSONANTS}|[¤§])"
_VALUE = r"[-+]? ?\d{1,3}(?:[.,]\d{1,2})?(?: ?(?:dB|%|[kM]?Hz|fps|[cm]m|°))?"
_STEP = "(?:Low|LOW|Mid|MID|Med|MED|High|HIGH|Max|MAX|Off|OFF|On|ON|Gen|GEN|Pen|PEN|Res|RES|CHI|Hoch|Mittel)"
AMBIGUOUS = re.compile(
    rf"(?![FJMW] \d\d$|[A-Z]\w\w \d{{3}}$|{_NAMES}|.*\d/\d\d?/\d\d)(?:"
    r"-?\d{1,2}|\d{1,2}[.,]\d|100 ?[^\s\dAaFfJjMmWwYy]?|\d(?:/\d){1,3}|[A-Z]/[A-Z](?: \d/1\d)?|"
    rf"(?:[¤§] )?{_LETTERS}(?: ?#)?(?: ?{_VALUE}| {_STEP}| [A-Z]/\d)"
    rf"(?: ?[/~@] ?(?:{_LETTERS} ?)?(?:{_VALUE}|[A-Z])){{0,5}}|(?:[A-Z] )?[¤§](?: [A-Z])?|{_STEP})"
)
"""The form of a setting that could be an age, a date or a name elsewhere, as :func:`labelled` writes it: a
number after a label without a vowel, ratios, steps. A padlock beside a power is read as a letter; no letter
of a sex or of years is one."""
TO_PROVE_TWICE = re.compile(
    rf"-?\d{{1,2}}(?:[.,]\d)?|100 ?.?|{_CONSONANTS} \d\d|[A-Z] §|§ [A-Z]|[A-Z]/[A-Z]|"
    "(?:[^P].* |)(?:Low|LOW|Max|MAX|CHI|On|ON|Hoch|Mittel)"
)
"""What of these could be an age or a name: proven settings must stand above and below it."""
HARMLESS = re.compile(
    rf"(?!{_NAMES}|[HW][Tt]|BW)(?:[A-Z]|{_CONSONANTS}|[eisx][A-Z][a-z]{{2,8}}) ?:?"
    r"(?: ?(?:H?\d{1,2}[.,]\d(?: ?(?:[kM](?:Hz)?|[cm]m))?|0[.,]\d\d|\d{1,3} ?(?:dB|%|k?Hz|fps|°))| [A-Z]/\d)|"
    r"[eisx][A-Z][a-z]{2,8}(?: \d)?"
)
"""The form of a setting that no person has, whatever stands near: a label that is no name, with a value that
is neither an age, a date nor a number of a person. "Wt 70.5" is a weight."""


def by_best_reading(texts: Sequence[Text]) -> list[Text]:
    """Give each of ``texts`` the meaning that another reading of the same place proves. A proving reading has
    more than a few characters and no letter less: "45" does not prove "45Y" harmless.
    """
    proven = [
        text
        for text in texts
        if text.meaning not in {Meaning.IDENTITY, Meaning.SCALE} and len(text.letters) > FEW_CHARACTERS
    ]
    return [_as_proven(text, proven) for text in texts]


def by_their_block(texts: Sequence[Text]) -> list[Text]:
    """Give some of ``texts`` the meaning of a setting that lines above and below prove, if no possible name
    is near. One proven setting is enough for "FR 32", "E3/P3" or "VPS 1.6"; what could be an age or name
    (:data:`TO_PROVE_TWICE`: "97", "Gain 60", "B Low") must stand between two of them.
    """
    found = list(texts)
    downwards = sorted(range(len(found)), key=lambda one: found[one].box.box[1])
    for index in (*downwards, *reversed(downwards)):  # each by those above it, then by those below
        text = found[index]
        if text.meaning is Meaning.IDENTITY and _may_be_setting(text) and _is_among_settings(text, found):
            found[index] = replace(text, meaning=Meaning.ACOUSTIC, proof="among settings of one block")
    return found


def by_their_rows(texts: Sequence[Text]) -> list[Text]:
    """Judge a label and its value that stand apart in one row of a block as one line, then all lines by their
    block (:func:`by_their_block`). A block has at least three such rows; the labels are aligned, and the
    values too. Label and value both stay or are both removed.
    """
    rows = _rows(texts)
    alone = [text for text in texts if all(text not in row for row in rows)]
    judged = by_their_block([*alone, *(_joined(*row) for row in rows)])
    found = dict(zip(alone, judged[: len(alone)], strict=True))
    lines = zip(rows, judged[len(alone) :], strict=True)
    for row, line in sorted(lines, key=lambda one: one[1].meaning is not Meaning.IDENTITY):
        found |= {text: replace(text, meaning=line.meaning, proof=TOGETHER) for text in row}
    return [found[text] for text in texts]


AXIS = re.compile(r"\W{0,2}(\d{1,3}(?:[.,]\d{1,2})?|[.,]\d{1,2})\W{0,2}(?:[cm]?m/s|[cm]m|s|dB|k(?:Hz)?|%)?")
"""A number of an axis, as it is read, with what is read of its tick and with its unit."""


TOGETHER = "with what belongs to it"
"""Why a label has the meaning of its value, and the value that of its label."""


def by_their_pair(texts: Sequence[Text], allowed: Allowed = NOTHING_MORE) -> list[Text]:
    """Give two texts that belong together one meaning, so that both stay or both are removed: a label and its
    value, or two words of a line. Of texts above each other only a label and its value belong together,
    because a name may stand above an examination; a heart rate may also stand above its label.
    """
    found = list(texts)
    for first, second in permutations(range(len(texts)), 2):
        one, other = texts[first], texts[second]
        value = AXIS.fullmatch(other.line.text.strip()) is not None
        level = _in_one_row(one.box.box, other.box.box, 2.0) and one.box.box[0] < other.box.box[0]
        above = _is_above(one.box.box, other.box.box, 1.5) or (
            re.fullmatch("F?HR|BPM", one.line.text.strip()) and _is_above(other.box.box, one.box.box, 1.5)
        )
        paired = level or (value and above)
        if paired and one.letters != other.letters and Meaning.IDENTITY in (one.meaning, other.meaning):
            sure = min(one.line.confidence, other.line.confidence)
            together = meaning_of(f"{one.line.text} {other.line.text}", sure, allowed)
            harmless = together is not Meaning.IDENTITY and (level or together is not Meaning.ORIENTATION)
            if harmless or (
                # Labels that say nothing without their values.
                value
                and re.fullmatch(
                    r"F?HR|BPM|PRF|DR|FR|WF|MI|TI[SBC]?|T[Ii][sbc]|Gn|Frq|FOV|AO%", one.line.text.strip(" :")
                )
            ):
                for index in (first, second):
                    found[index] = replace(found[index], meaning=together, proof=TOGETHER)
    return found


def as_scales(texts: Sequence[Text], bars: Mask) -> list[Text]:
    """Return the texts, with those marked as SCALE that are numbers along an axis (at places that fit their
    values; a minus sign may be lost) or at both ends of a bar.
    """
    found = list(texts)
    numbers = {
        index: (float(match[1].replace(",", ".")), text.box.box)
        for index, text in enumerate(texts)
        # The value of a label that goes is no number of an axis.
        if text.proof != TOGETHER and (match := AXIS.fullmatch(text.line.text.strip()))
    }
    scales: set[int] = set()
    for first, second in permutations(numbers, 2):
        (value, box), (other, end) = numbers[first], numbers[second]
        for along in (0, 1):
            if not _in_line(box, end, along):
                continue
            for step in (other - value, other + value):
                places = {
                    index
                    for index, (number, place) in numbers.items()
                    if _in_line(box, place, along)
                    and _is_on_axis(number, place, value, box, end, step, along)
                }
                # Numbers of an axis, at least.
                if len({round(centre_of(numbers[one][1])[along] / 12) for one in places}) >= 3:
                    ticks = [numbers[one][1] for one in places]
                    scales |= places | {
                        index for index, text in enumerate(texts) if _is_misread(text, ticks, along)
                    }
        if value == other or not value:
            scales |= {first, second} if _are_at_ends(box, end, bars) else set()
    # The tick before a number may be read as a digit more: "42" where another reading has "+2".
    scales |= {
        index
        for index, text in enumerate(texts)
        if any(
            text.letters[1:] == texts[one].letters and _is_same_place(text.box.box, texts[one].box.box)
            for one in scales
        )
    }
    for index in scales:
        if found[index].meaning is Meaning.IDENTITY:
            found[index] = replace(found[index], meaning=Meaning.SCALE, proof="a number of an axis or a bar")
    return found


def beside_velocities(texts: Sequence[Text], shape: tuple[int, ...]) -> Mask:
    """The mask of the rows of a picture of ``shape`` beside each upright axis of velocities, and a quarter of
    its height beyond its ends: a spectrum, though no region of the header says so.
    """
    numbers = [text.box.box for text in texts if text.letters.isdigit()]
    axes = (
        # In its column, and at most so far from the unit (heights of it): other numbers may stand beyond.
        [box for box in numbers if gaps(box, unit)[0] < 0 and gaps(box, unit)[1] < 12 * (unit[3] - unit[1])]
        for unit in (text.box.box for text in texts if re.search("[cm]?m/s$", text.line.text))
    )
    return mask_of(
        (
            (0, max(0, (5 * top - bottom) // 4), shape[1], (5 * bottom - top) // 4)
            for axis in axes
            # Of numbers at different heights; a colour bar has two.
            if sum(all(gaps(box, other)[1] > 0 for other in axis[:n]) for n, box in enumerate(axis)) >= 3
            for top, bottom in [(min(box[1] for box in axis), max(box[3] for box in axis))]
        ),
        shape,
    )


def _is_misread(text: Text, ticks: Sequence[Box], along: int) -> bool:
    """Whether a text is an unsure reading of a number of an axis: at the place of one of its numbers
    (``ticks``), or in the middle between two. Text that is read as another number does not count: it may be
    an age.
    """
    box, line = text.box.box, [tick for tick in ticks if _in_line(text.box.box, tick, along)]
    return (
        max(text.line.confidence, text.small.confidence) < UNSURE
        and len(text.letters) <= FEW_CHARACTERS
        and not text.letters.isdigit()
        and (
            any(_is_same_place(box, tick) for tick in ticks)
            or any(
                abs(sum(centre_of(tick)[along] - centre_of(box)[along] for tick in pair))
                <= 0.5 * text.box.height
                for pair in combinations(line, 2)
            )
        )
    )


def _in_line(box: Box, other: Box, along: int) -> bool:
    """Whether two boxes stand one below the other (``along`` 1) or in one row (``along`` 0), farther apart
    than words.
    """
    height, across = box[3] - box[1], 1 - along
    ends = (box[across], box[across + 2], centre_of(box)[across])
    others = (other[across], other[across + 2], centre_of(other)[across])
    near = any(abs(one - another) <= ALIGNED * height for one, another in zip(ends, others, strict=True))
    gap = max(box[along], other[along]) - min(box[along + 2], other[along + 2])
    return box == other or (near and gap > (1.5 - along) * height)


def _is_on_axis(number: float, place: Box, value: float, box: Box, end: Box, step: float, along: int) -> bool:
    """Whether ``number`` at the box ``place`` fits an axis with ``value`` at ``box`` that rises by ``step``
    to the box ``end``; ``along``: 0 for a row, 1 for a column.
    """
    start, stop, here = (centre_of(one)[along] for one in (box, end, place))
    rise = step / (stop - start)
    # How far a number stands from its place on the axis, at most: a quarter of its height.
    return bool(rise) and abs(abs(value + rise * (here - start)) - number) <= abs(
        rise * 0.25 * (box[3] - box[1])
    )


def _are_at_ends(box: Box, other: Box, bars: Mask) -> bool:
    """Whether two boxes stand above and below an upright bar, or above and below its halves."""
    height = box[3] - box[1]
    rows, near = np.asarray(bars[box[3] : other[1], box[0] : box[2]].any(axis=1)), round(1.5 * height)
    return bool(
        abs(centre_of(box)[0] - centre_of(other)[0]) <= height
        and rows[:near].any()
        and rows[-near:].any()
        and rows.mean() >= 0.6  # of the rows between the limits show the bar, at least
    )


def around(
    residue: Sequence[TextBox], lines: Sequence[Box], stays: Mask, margin: float, *, spare: bool
) -> Mask:
    """The places of the text ``residue`` that is still found, grown as :func:`paint` does, and of the
    ``lines`` they touch. ``lines``: the letters of each line that was read and stays, if all of it lies in
    ``stays``. A line that is touched is taken whole. With ``spare`` it is left whole if the text only lies
    beside it: a line that overlaps the text could be left in part.
    """
    place = paint(list(residue), stays.shape, margin)
    for line in lines:
        letters = index_of(line)
        if place[letters].any() and stays[letters].all():
            place[letters] = not (spare and all(overlap(line, box.box) <= 0 for box in residue))
    return place


def inner(box: TextBox) -> TextBox:
    """Return the box without its rim, so that it holds only the letters of the line."""
    corners = box.corners
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    rim = RIM * (down if np.linalg.norm(down) <= np.linalg.norm(across) else across)
    towards = (1, 1, -1, -1) if np.linalg.norm(down) <= np.linalg.norm(across) else (1, -1, -1, 1)
    return TextBox(corners + np.outer(towards, rim).astype(np.float32), box.confidence)


def _rows(texts: Sequence[Text]) -> list[tuple[Text, Text]]:
    """The rows of all blocks of settings in two columns: each label with each reading of its value."""
    rows = [
        (label, value)
        for label, value in permutations(texts, 2)
        if _is_row(label, value)
        and not any(_is_row(label, text) and text.box.box[2] <= value.box.box[0] for text in texts)
    ]
    # At least three of them, with this one, have their labels and values in its columns.
    return [
        row
        for row in rows
        if len(
            {
                label.letters + value.letters
                for label, value in rows
                if _aligned(label.box.box, row[0].box.box) and _aligned(value.box.box, row[1].box.box)
            }
        )
        >= 3
    ]


def _is_row(label: Text, value: Text) -> bool:
    """Whether two texts may be the label and the value of a setting."""
    words = re.fullmatch(r"(?:[234]D )?[^\W\d_]\D{0,19}", label.line.text.strip(TICKS))
    number = re.fullmatch(
        r"[-+]?\d{1,3}(?:[.,]\d{1,2})? ?[A-Za-z%°/]{0,4}|(?:[A-Z]|\d)(?:/1?\d){1,3}|"
        r"O[nf]f?|Low|Med|Mid|High|Max|Min|Gen|Pen|Res|Auto|None",
        value.line.text.strip(),
    )
    left, right = label.box.box, value.box.box
    # How far a value stands from its label, at most (heights of the lower one).
    return bool(words and number) and left[2] <= right[0] + 1 and _in_one_row(left, right, 6.0)


def _joined(label: Text, value: Text) -> Text:
    """One line of a label and its value."""
    (left, top, _, bottom), (_, upper, right, lower) = label.box.box, value.box.box
    words, sure = (
        f"{label.line.text.strip(TICKS)} {value.line.text}",
        min(label.line.confidence, value.line.confidence),
    )
    box = level_box((left, min(top, upper), right, max(bottom, lower)), 1.0)
    return Text(box, Line(words, sure, legible=True), meaning_of(words, sure), proof=TOGETHER)


def _as_proven(text: Text, proven: Sequence[Text]) -> Text:
    """Return ``text`` with the meaning of a reading of the same place in ``proven``, if there is one."""
    for other in proven if text.meaning is Meaning.IDENTITY else ():
        if _is_same_place(text.box.box, other.box.box) and (not text.line.legible or text.may_say(other)):
            return replace(text, meaning=other.meaning, proof="as another reading of it shows")
    return text


def _may_be_setting(text: Text) -> bool:
    """Whether a text is a setting that could be an age or a name elsewhere, or a misread setting."""
    return any(
        _form(line, AMBIGUOUS) or HARMLESS.fullmatch(line.text.strip())
        for line in (text.line, text.small)
        if line.confidence >= LEAST_CONFIDENCE and line.legible
    ) or any(
        may_be_setting(line.text)
        for line in (text.line, text.small)
        # Confidence of a reading, from which it may be a misread setting.
        if line.confidence >= 0.6 and not is_wide(text.box.length, text.box.height, line)
    )


def _form(line: Line, form: re.Pattern[str]) -> bool:
    """Whether a line has this form, as :func:`labelled` writes it."""
    return form.fullmatch(labelled(spaced(line.text.strip().rstrip(".")))) is not None


def _is_among_settings(text: Text, texts: Sequence[Text]) -> bool:
    """Whether the lines above and below ``text`` lead, over lines that may be settings, to proven ones, and
    no possible name is near. A misread setting may also be the first or the last line of its block, and so
    may one of a harmless form, which may stand beside a name as well.
    """
    others = [
        other
        for other in texts
        # Share of a line within another's box, from which both are readings of that line.
        if not _is_same_place(text.box.box, other.box.box) and overlap(text.box.box, other.box.box) < 0.6
    ]
    written, ambiguous = text.line.text.strip(), _form(text.line, AMBIGUOUS)
    # The value of a label in its own row is no age of a person whose name is near.
    harmless = (ambiguous and text.proof == TOGETHER) or any(
        HARMLESS.fullmatch(line.text.strip()) for line in (text.line, text.small)
    )
    twice = (
        ambiguous
        and not harmless
        and (
            _form(text.line, TO_PROVE_TWICE)
            # A label that may be a name (Edge), alone or with what may be an age.
            or re.fullmatch(r"[^\W\d_]{4,}(?: \d\d)?|\w*[AEIOUYaeiouy]\w*(?<!\d)", spaced(written))
        )
    )
    if sum(_leads_to_setting(text, others, upwards=way) for way in (True, False)) < 1 + bool(twice):
        return False
    reach = BLOCK * (text.box.box[3] - text.box.box[1])
    return harmless or all(
        _may_be_setting(other) or not (twice or _may_name(other))
        for other in others
        if other.meaning is Meaning.IDENTITY and max(gaps(text.box.box, other.box.box)) <= reach
    )


def _may_name(text: Text) -> bool:
    """Whether a text may be a name: it is not legible, or has two letters side by side."""
    return not text.line.legible or re.search(r"[^\W\d_]{2}", text.line.text) is not None


def _leads_to_setting(text: Text, others: Sequence[Text], *, upwards: bool) -> bool:
    """Whether the next line above or below ``text`` is a machine's setting, or may be one or is a number, and
    leads to it.
    """
    lines = [
        other
        for other in others
        if _is_above(*((other.box.box, text.box.box) if upwards else (text.box.box, other.box.box)), BLOCK)
    ]
    if not lines:
        return False
    line = min(lines, key=lambda one: -one.box.box[3] if upwards else one.box.box[1])
    if line.meaning in {Meaning.MEASUREMENT, Meaning.SCALE} or (
        line.meaning is Meaning.IDENTITY and (_may_be_setting(line) or not _may_name(line))
    ):
        return _leads_to_setting(line, [other for other in others if other is not line], upwards=upwards)
    return _as_proof(line) is Meaning.ACOUSTIC


def _as_proof(text: Text) -> Meaning:
    """The meaning of a line as evidence for the meaning of the next one; IDENTITY if it proves nothing."""
    written = text.line.text.strip()
    # A single letter, a preset and the frame of a loop are written beside names, too.
    proves_nothing = len(written) == 1 or written.upper() in PRESETS or re.fullmatch(r"\d+ ?/ ?\d+", written)
    return Meaning.IDENTITY if proves_nothing else text.meaning


def _is_above(box: Box, other: Box, apart: float = ALIGNED) -> bool:
    """Whether a line is above another of its block, no farther ``apart`` (heights of a line)."""
    height = min(box[3] - box[1], other[3] - other[1])
    return _aligned(box, other) and -ALIGNED * height <= other[1] - box[3] <= apart * height


def _aligned(box: Box, other: Box) -> bool:
    """Whether the left or right ends or the middles of two lines are below each other."""
    reach = ALIGNED * min(box[3] - box[1], other[3] - other[1])
    edges = zip((box[0], box[2], centre_of(box)[0]), (other[0], other[2], centre_of(other)[0]), strict=True)
    return any(abs(one - another) <= reach for one, another in edges)


def _is_same_place(box: Box, proven: Box) -> bool:
    """Whether ``box`` is about the place of the box ``proven``, so that both are readings of one text."""
    height = max(proven[3] - proven[1], box[3] - box[1])
    beyond = max(proven[0] - box[0], box[2] - proven[2])
    common = min(box[3], proven[3]) - max(box[1], proven[1])
    # How far a second reading's box reaches beyond the first one's at either end, at most, and their common
    # height, at least (heights of the higher, and of the first): a letter is wider.
    return beyond <= 0.3 * height and common >= 0.6 * (proven[3] - proven[1])
