"""What is to go from a picture: all that is found, weighed by what the destination may see.

Four witnesses: a text detector with a recogniser, a network trained on ultrasound marks, the regions that the
header names, and rules about devices. Whoever names a person is believed alone: text counts as identity until
it is read and proven harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ai_pipeline.burnin.banner import find_banner, find_device_banner
from ai_pipeline.burnin.drawings import Drawings, find_drawings, no_drawings
from ai_pipeline.burnin.flow import FILLS, TOUCHES, find_flow
from ai_pipeline.burnin.marks import Box, Mark, MarkKind, Mask, Picture, Policy
from ai_pipeline.burnin.meaning import meaning_of
from ai_pipeline.burnin.shaping import blocks, spelled, without_rims, without_specks
from ai_pipeline.burnin.text import (
    Line,
    TextBox,
    TextReader,
    high_contrast,
    looks_like_text,
    paint,
)  # fmt: skip
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.contract import CleaningFailed, ImageHeader, Meaning, Reading

MARGIN = 0.15
"""How far a text's mask reaches beyond the detector's box (share of the line's height)."""
AROUND_DRAWING = 0.3
"""How far from a drawing the text detector may place its box when it takes it for a word again (share of the
box's height)."""
GENERATED = 0.95
"""Share of a box that is filled pixels from which it cannot hold text of the source."""
SAME = 0.8
"""Share of a box within one that was read already, from which it is not read again."""
TRACED = 0.15
"""Share of a text's box that is drawn, from which the detector has its letters (they fill 20 % and more)."""
LETTERLESS = 0.05
"""Pixels of letters beside those of other drawings, up to which a place holds no text (share of them)."""
WIDEST_CHARACTER = 1.3
"""Widest that a character is on average, in heights of the line; a reading with fewer has left some out."""
FEW_CHARACTERS = 3
"""Texts of so many characters are judged with what stands beside them."""
WORD_SPACE = 1.5
"""Gap up to which two texts belong to one line (heights of the lower one)."""
LARGEST_SHARE = 0.4
"""More of the picture masked than this (banner not counted): no cleaned picture would be worth its name."""
LARGE_PICTURE = 1200
"""Shorter side from which a reduced view is read too, for letters that fill a tile (pixels)."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A place that may hold text, the view that shows it, and whether its looks alone prove it.

    ``flow`` is the share of it that Doppler has painted: what looks like letters there are vessels.
    """

    view: Picture
    box: TextBox
    flow: float

    @property
    def sure(self) -> bool:
        return self.flow <= FILLS and looks_like_text(self.box, self.view.shape)

    def read(self, reader: TextReader) -> Line:
        return reader.read(self.view, self.box, 2 if self.flow > TOUCHES else 1)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A place that holds text, what is read there, and what it is for."""

    box: TextBox
    line: Line
    meaning: Meaning


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is to go from a picture: ``banner`` is blacked out, ``mask`` filled from around it.

    ``kept`` is writing that was judged and stays, ``foreign`` all that stays and is no part of the echo
    picture: nothing is filled from it. ``readings`` name no image yet.
    """

    banner: Mask
    mask: Mask
    kept: Mask
    foreign: Mask
    marks: tuple[Mark, ...]
    readings: tuple[Reading, ...] = field(default=(), repr=False)


def plan_removal(
    picture: Picture, header: ImageHeader, tools: Tools, policy: Policy, *, graphics: bool
) -> Plan:
    """Find what is to go. ``graphics``: ultrasound drawings too; on other pictures only text is taken.

    Raises :class:`CleaningFailed` when it is too much of the picture.
    """
    shape = picture.shape[:2]
    nothing: Mask = np.zeros(shape, np.bool_)
    banner, banners = find_banner(header, picture) if graphics else (nothing, ())
    devices, device_marks = _by_device(header, picture, tools, policy)
    drawn = find_drawings(picture, tools.finder, tools.threshold) if graphics else no_drawings(shape)
    found = find_texts(picture, tools.reader, drawn.masks[MarkKind.TEXT] | banner | devices)
    texts = [text for text in found if not _is_drawing(text, drawn)]
    drawings = [text.box for text in found if text not in texts]
    going = [text for text in texts if policy.removes(text.meaning)]
    staying = [text for text in texts if not policy.removes(text.meaning)]
    traced = [text for text in going if _is_traced(text, drawn.masks[MarkKind.TEXT])]
    mask = paint([text.box for text in going if text not in traced], shape, MARGIN)
    kept = paint([text.box for text in staying], shape, MARGIN) & ~mask
    if policy is Policy.CLINICAL:
        drawn = drawn.beside(kept)
        kept |= paint(drawings, shape, AROUND_DRAWING) & ~mask
    mask |= _drawn(drawn, kept, paint([text.box for text in traced], shape, MARGIN) & ~mask, policy)
    mask |= spelled(mask | banner, tools.reader) & ~kept
    foreign = kept | _staying(drawn, policy)
    banner = (banner & ~foreign) | devices
    kept &= ~devices
    shown = [text for text in texts if not covered(text.box, banner)]
    judged = _judged((*banners, *device_marks, *_drawn_marks(drawn, texts)), banner | mask)
    marks = tuple(mark for mark in judged if mark.removed or mark.meaning is not Meaning.IDENTITY)
    marks += _text_marks(shown, shape, policy)
    check_share(mask & ~banner)
    return Plan(banner, mask & ~banner, kept, foreign & ~mask, marks, _readings(marks, texts, shape, policy))


def _by_device(
    header: ImageHeader, picture: Picture, tools: Tools, policy: Policy
) -> tuple[Mask, tuple[Mark, ...]]:
    """Where this device is known to write what has to go: there it is believed, whatever can be read."""
    meanings = {meaning for meaning in Meaning if policy.removes(meaning)}
    return find_device_banner(header, picture, tools.device_rules, meanings)


def plan_views(
    views: Sequence[Picture], header: ImageHeader, tools: Tools, policy: Policy, *, graphics: bool
) -> Plan:
    """The plan of a picture and of further views of it, which show what its window hides.

    Raises :class:`CleaningFailed` as :func:`plan_removal` does.
    """
    plan = plan_removal(views[0], header, tools, policy, graphics=graphics)
    for view in views[1:]:
        more = plan_removal(view, header, tools, policy, graphics=False)
        banner, mask = plan.banner | more.banner, plan.mask | more.mask
        check_share(mask & ~banner)
        kept = (plan.kept | more.kept) & ~mask & ~banner
        foreign = (plan.foreign | more.foreign) & ~mask
        readings = (*plan.readings, *more.readings)
        plan = Plan(banner, mask & ~banner, kept, foreign, (*plan.marks, *more.marks), readings)
    return plan


def find_texts(picture: Picture, reader: TextReader, known: Mask) -> list[Text]:
    """All text. ``known`` is taken for text anyway: there only what looks like text is read.

    Reading costs ten times what finding does.
    """
    texts: list[Text] = []
    for one in candidates(picture, reader):
        if (not one.sure and covered(one.box, known)) or any(_within(one.box, text.box) for text in texts):
            continue
        line = one.read(reader)
        if one.sure or line.legible:
            texts.append(Text(one.box, line, text_meaning(one.box, line)))
    texts = [_in_its_text(text, texts) for text in texts]
    return [_in_its_line(text, texts) for text in texts]


def text_meaning(box: TextBox, line: Line) -> Meaning:
    """What a text is for; identity unless all of it was read."""
    wide = box.length / max(1.0, box.height)
    if not line.legible or wide > WIDEST_CHARACTER * (len(line.text) + 1):
        return Meaning.IDENTITY
    return meaning_of(line.text, line.confidence)


def candidates(picture: Picture, reader: TextReader, within: Box | None = None) -> list[Candidate]:
    """Find what may be text as shown, with faint contrast raised and, if large, reduced."""
    flow = find_flow(picture)
    views = [(picture, 1.0), (high_contrast(picture), 0.6)]
    if min(picture.shape[:2]) >= LARGE_PICTURE:
        views.append((picture, 0.35))
    return [one for view, scale in views for one in candidates_of(view, reader, scale, flow, within)]


def candidates_of(
    view: Picture, reader: TextReader, scale: float, flow: Mask, within: Box | None = None
) -> list[Candidate]:
    """Find what may be text in one view of a picture in which Doppler has painted ``flow``."""
    return [Candidate(view, box, _share(flow, box)) for box in reader.find(view, scale, within)]


def _share(mask: Mask, box: TextBox) -> float:
    left, top, right, bottom = box.box
    inside = mask[max(top, 0) : bottom, max(left, 0) : right]
    return float(inside.mean()) if inside.size else 0.0


def _in_its_text(text: Text, texts: Sequence[Text]) -> Text:
    """A word is what the text is that was read around it and holds it: NODE is a name, LYMPH NODE is none."""
    said = text.line.text.casefold()
    if text.meaning is not Meaning.IDENTITY or not text.line.legible:
        return text
    for other in texts:
        longer = said in other.line.text.casefold().split() and _overlap(text.box.box, other.box.box) >= SAME
        if longer and other.meaning is not Meaning.IDENTITY:
            return Text(text.box, text.line, other.meaning)
    return text


def _in_its_line(text: Text, texts: Sequence[Text]) -> Text:
    """A few characters prove nothing by themselves: of "12", "03", "67" each could be a ruler's number.

    They are judged with what stands beside them, and beside a name they belong to it.
    """
    if text.meaning is Meaning.IDENTITY or len(text.line.text) > FEW_CHARACTERS:
        return text
    beside = [other for other in texts if other is not text and _beside(text.box, other.box)]
    row = sorted([text, *beside], key=lambda one: one.box.box[0])
    together = Line(
        " ".join(one.line.text for one in row), min(one.line.confidence for one in row), legible=True
    )
    named = any(one.meaning is Meaning.IDENTITY for one in beside)
    if named or (beside and meaning_of(together.text, together.confidence) is Meaning.IDENTITY):
        return Text(text.box, text.line, Meaning.IDENTITY)
    return text


def _beside(box: TextBox, other: TextBox) -> bool:
    """On one line, no farther apart than a word's space."""
    (left, top, right, bottom), (left2, top2, right2, bottom2) = box.box, other.box
    height = min(bottom - top, bottom2 - top2)
    return (
        min(bottom, bottom2) - max(top, top2) > 0.5 * height
        and max(left, left2) - min(right, right2) < WORD_SPACE * height
    )


def covered(box: TextBox, mask: Mask) -> bool:
    """Tell whether the box, which may slope, lies in the mask, but for its rim."""
    left, top, right, bottom = box.box
    inside = mask[max(top, 0) : bottom, max(left, 0) : right]
    place = np.zeros(inside.shape, np.uint8)
    origin = np.array([max(left, 0), max(top, 0)], np.float32)
    cv2.fillPoly(place, [np.rint(box.corners - origin).astype(np.int32)], 1)
    own = inside[place.astype(np.bool_)]
    return not own.size or float(own.mean()) >= GENERATED


def box_marks(boxes: Sequence[TextBox], shape: tuple[int, ...]) -> tuple[Mark, ...]:
    """One mark per box of text that has to go, cut to the picture."""
    cut = ((box, _cut(box, shape)) for box in boxes)
    return tuple(Mark(MarkKind.TEXT, place, min(box.confidence, 1.0)) for box, place in cut if place)


def check_share(mask: Mask) -> None:
    """Raise :class:`CleaningFailed` when the mask takes too much of the picture."""
    share = float(mask.mean())
    if share > LARGEST_SHARE:
        raise CleaningFailed(
            f"{share:.0%} of the picture would be filled, at most {LARGEST_SHARE:.0%} may be"
        )


def _drawn(drawn: Drawings, kept: Mask, traced: Mask, policy: Policy) -> Mask:
    """The drawn pixels that have to go: of text all but what was read and stays.

    Unread text goes in blocks: its letters must not be seen in the shape of the mask.
    """
    strokes = drawn.masks[MarkKind.TEXT]
    unread = strokes & ~kept & ~traced
    if policy is Policy.CLINICAL:
        unread = without_specks(unread)
    mask = blocks(without_rims(unread) if kept.any() else unread) | (strokes & traced)
    if policy is Policy.RESEARCH:
        for kind, own in drawn.masks.items():
            mask |= own & (kind is not MarkKind.TEXT)
    return mask & ~kept


def _is_traced(text: Text, strokes: Mask) -> bool:
    """Harmless text whose letters the detector has drawn: they alone are filled, what lies between stays."""
    if text.meaning is Meaning.IDENTITY:
        return False
    return _share(strokes, text.box) >= TRACED


def _is_drawing(text: Text, drawn: Drawings) -> bool:
    """A pair of crosses looks like a word: unread, and drawn there is hardly anything but other marks."""
    left, top, right, bottom = text.box.box
    place = slice(max(top, 0), bottom), slice(max(left, 0), right)
    pixels = {kind: int(mask[place].sum()) for kind, mask in drawn.masks.items()}
    others = sum(pixels.values()) - pixels[MarkKind.TEXT]
    return not text.line.legible and others > 0 and pixels[MarkKind.TEXT] <= LETTERLESS * others


def _staying(drawn: Drawings, policy: Policy) -> Mask:
    own = [mask for kind, mask in drawn.masks.items() if kind is not MarkKind.TEXT]
    return np.asarray(np.logical_or.reduce(own), np.bool_) & (policy is Policy.CLINICAL)


def _drawn_marks(drawn: Drawings, texts: Sequence[Text]) -> tuple[Mark, ...]:
    """The drawings as marks, but text only where the text detector has none."""
    boxes = [text.box.box for text in texts]
    return tuple(
        mark
        for mark in drawn.marks
        if mark.kind is not MarkKind.TEXT or not any(_overlap(mark.box, box) > 0.3 for box in boxes)
    )


def _judged(marks: Sequence[Mark], going: Mask) -> tuple[Mark, ...]:
    """The marks with what becomes of them: gone when most of what was drawn there goes."""
    return tuple(
        Mark(mark.kind, mark.box, mark.confidence, mark.frame, mark.meaning, removed=_inside(mark, going))
        for mark in marks
    )


def _text_marks(texts: Sequence[Text], shape: tuple[int, ...], policy: Policy) -> tuple[Mark, ...]:
    cut = ((text, _cut(text.box, shape)) for text in texts)
    return tuple(
        Mark(
            MarkKind.TEXT,
            place,
            min(text.box.confidence, 1.0),
            meaning=text.meaning,
            removed=policy.removes(text.meaning),
        )
        for text, place in cut
        if place
    )


def _readings(
    marks: Sequence[Mark], texts: Sequence[Text], shape: tuple[int, ...], policy: Policy
) -> tuple[Reading, ...]:
    """What the texts said, and where the calipers stood."""
    said = [
        _reading(MarkKind.TEXT, text.meaning, place, text.line, policy)
        for text in texts
        if (place := _cut(text.box, shape)) and text.line.legible
    ]
    ends = [mark for mark in marks if mark.kind is MarkKind.CALIPER]
    return (
        *said,
        *(_reading(m.kind, m.meaning, m.box, Line("", m.confidence, legible=False), policy) for m in ends),
    )


def _reading(kind: MarkKind, meaning: Meaning, place: Box, line: Line, policy: Policy) -> Reading:
    left, top, right, bottom = (float(edge) for edge in place)
    return Reading(
        source_uid="",
        frame=None,
        kind=kind.value,
        meaning=meaning,
        bounds=(left, top, right, bottom),
        confidence=float(np.clip(line.confidence, 0, 1)),
        removed=policy.removes(meaning),
        text=line.text,
    )


def _cut(box: TextBox, shape: tuple[int, ...]) -> Box | None:
    left, top, right, bottom = box.box
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _within(box: TextBox, other: TextBox) -> bool:
    return _overlap(box.box, other.box) >= SAME


def _overlap(box: Box, other: Box) -> float:
    """Share of ``box`` that lies in ``other``."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0, width) * max(0, height) / max(1, area)


def _inside(mark: Mark, mask: Mask) -> bool:
    """A thin drawing fills little of its box: a fifth of it counts."""
    left, top, right, bottom = mark.box
    return bool(mask[top:bottom, left:right].mean() > 0.2)
