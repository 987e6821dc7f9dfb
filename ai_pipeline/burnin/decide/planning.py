"""What is to go from a picture: all that is found, weighed by what the destination may see.

Four witnesses: a text detector with a recogniser, a network trained on ultrasound marks, the regions that the
header names, and rules about devices. Whoever names a person is believed alone: text counts as identity until
it is read and proven harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, Box, CleaningPolicy, Mask, Picture
from ai_pipeline.burnin.decide.banner import find_banner, find_device_banner
from ai_pipeline.burnin.decide.mask_shape import blocks, spelled, without_rims, without_specks
from ai_pipeline.burnin.decide.writing import Text, covered, find_texts, overlap, share_of
from ai_pipeline.burnin.find.drawings import Drawings, find_drawings, no_drawings
from ai_pipeline.burnin.find.text import Line, TextBox, paint
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.contract import ImageHeader, Meaning, Reading
from ai_pipeline.errors import CleaningFailed

MARGIN = 0.15
"""How far a text's mask reaches beyond the detector's box (share of the line's height)."""
AROUND_DRAWING = 0.3
"""How far from a drawing the text detector may place its box when it takes it for a word again (share of the
box's height)."""
TRACED = 0.15
"""Share of a text's box that is drawn, from which the detector has its letters (they fill 20 % and more)."""
LETTERLESS = 0.05
"""Pixels of letters beside those of symbols, up to which a place holds no text (share of them)."""
LARGEST_SHARE = 0.4
"""More of the picture masked than this (banner not counted): no cleaned picture would be worth its name."""


@dataclass(frozen=True, slots=True, eq=False)
class RemovalPlan:
    """What is to go from a picture: ``banner`` is blacked out, ``mask`` filled from around it.

    ``kept`` is writing that was judged and stays, ``foreign`` all that stays and is no part of the echo
    picture: nothing is filled from it. ``readings`` name no image yet.
    """

    banner: Mask
    mask: Mask
    kept: Mask
    foreign: Mask
    marks: tuple[Annotation, ...]
    readings: tuple[Reading, ...] = field(default=(), repr=False)


def plan_removal(
    picture: Picture, header: ImageHeader, tools: Tools, policy: CleaningPolicy, *, graphics: bool
) -> RemovalPlan:
    """Find what is to go. ``graphics``: ultrasound drawings too; on other pictures only text is taken.

    Raises :class:`CleaningFailed` when it is too much of the picture.
    """
    shape = picture.shape[:2]
    nothing: Mask = np.zeros(shape, np.bool_)
    banner, banners = find_banner(header, picture) if graphics else (nothing, ())
    devices, device_marks = _by_device(header, picture, tools, policy)
    drawn = find_drawings(picture, tools.finder, tools.threshold) if graphics else no_drawings(shape)
    found = find_texts(picture, tools.reader, drawn.masks[AnnotationKind.TEXT] | banner | devices)
    texts = [text for text in found if not _is_drawing(text, drawn)]
    mask, kept, traced = _written(texts, drawn.masks[AnnotationKind.TEXT], policy)
    if policy is CleaningPolicy.CLINICAL:
        drawn = drawn.beside(kept)
        kept |= paint([text.box for text in found if text not in texts], shape, AROUND_DRAWING) & ~mask
    mask |= _drawn(drawn, kept, traced, policy)
    mask |= spelled(mask | banner, tools.reader) & ~kept
    foreign = kept | _staying(drawn, policy)
    banner = (banner & ~foreign) | devices
    kept &= ~devices
    shown = [text for text in texts if not covered(text.box, banner)]
    judged = _judged((*banners, *device_marks, *_drawn_marks(drawn, texts)), banner | mask)
    marks = tuple(mark for mark in judged if mark.removed or mark.meaning is not Meaning.IDENTITY)
    marks += _text_marks(shown, shape, policy)
    check_share(mask & ~banner)
    return RemovalPlan(
        banner, mask & ~banner, kept, foreign & ~mask, marks, _readings(marks, texts, shape, policy)
    )


def _by_device(
    header: ImageHeader, picture: Picture, tools: Tools, policy: CleaningPolicy
) -> tuple[Mask, tuple[Annotation, ...]]:
    """Where this device is known to write what has to go: there it is believed, whatever can be read."""
    meanings = {meaning for meaning in Meaning if policy.removes(meaning)}
    return find_device_banner(header, picture, tools.device_rules, meanings)


def plan_views(
    views: Sequence[Picture], header: ImageHeader, tools: Tools, policy: CleaningPolicy, *, graphics: bool
) -> RemovalPlan:
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
        plan = RemovalPlan(banner, mask & ~banner, kept, foreign, (*plan.marks, *more.marks), readings)
    return plan


def box_marks(boxes: Sequence[TextBox], shape: tuple[int, ...]) -> tuple[Annotation, ...]:
    """One mark per box of text that has to go, cut to the picture."""
    cut = ((box, _cut(box, shape)) for box in boxes)
    return tuple(
        Annotation(AnnotationKind.TEXT, place, min(box.confidence, 1.0)) for box, place in cut if place
    )


def check_share(mask: Mask) -> None:
    """Raise :class:`CleaningFailed` when the mask takes too much of the picture."""
    share = float(mask.mean())
    if share > LARGEST_SHARE:
        raise CleaningFailed(
            f"{share:.0%} of the picture would be filled, at most {LARGEST_SHARE:.0%} may be"
        )


def _written(texts: Sequence[Text], strokes: Mask, policy: CleaningPolicy) -> tuple[Mask, Mask, Mask]:
    """The places of texts that go whole, of those that stay, and of those whose letters alone go."""
    going = [text for text in texts if policy.removes(text.meaning)]
    letters = [text for text in going if _is_traced(text, strokes)]
    mask = paint([text.box for text in going if text not in letters], strokes.shape, MARGIN)
    staying = [text.box for text in texts if not policy.removes(text.meaning)]
    kept, traced = (
        paint(boxes, strokes.shape, MARGIN) & ~mask for boxes in (staying, [text.box for text in letters])
    )
    return mask, kept, traced


def _drawn(drawn: Drawings, kept: Mask, traced: Mask, policy: CleaningPolicy) -> Mask:
    """The drawn pixels that have to go: of text all but what was read and stays.

    Unread text goes in blocks: its letters must not be seen in the shape of the mask.
    """
    strokes = drawn.masks[AnnotationKind.TEXT]
    unread = strokes & ~kept & ~traced
    if policy is CleaningPolicy.CLINICAL:
        unread = without_specks(unread)
    mask = blocks(without_rims(unread) if kept.any() else unread) | (strokes & traced)
    if policy is CleaningPolicy.RESEARCH:
        for kind, own in drawn.masks.items():
            if kind is not AnnotationKind.TEXT:
                mask |= own
    return mask & ~kept


def _is_traced(text: Text, strokes: Mask) -> bool:
    """Harmless text whose letters the detector has drawn: they alone are filled, what lies between stays."""
    if text.meaning is Meaning.IDENTITY:
        return False
    return share_of(strokes, text.box) >= TRACED


def _is_drawing(text: Text, drawn: Drawings) -> bool:
    """A pair of crosses looks like a word: unread, and drawn there is hardly anything but such marks.

    A logo may be a hospital's, and counts as letters.
    """
    left, top, right, bottom = text.box.box
    place = slice(max(top, 0), bottom), slice(max(left, 0), right)
    pixels = {kind: int(mask[place].sum()) for kind, mask in drawn.masks.items()}
    symbols = sum(
        pixels[kind] for kind in (AnnotationKind.CALIPER, AnnotationKind.MARKER, AnnotationKind.SCALE)
    )
    letters = pixels[AnnotationKind.TEXT] + pixels[AnnotationKind.LOGO]
    return not text.line.legible and symbols > 0 and letters <= LETTERLESS * symbols


def _staying(drawn: Drawings, policy: CleaningPolicy) -> Mask:
    """The graphics that the policy leaves in place."""
    masks = [mask for kind, mask in drawn.masks.items() if kind is not AnnotationKind.TEXT]
    graphics = np.asarray(np.logical_or.reduce(masks), np.bool_)
    return graphics if policy is CleaningPolicy.CLINICAL else np.zeros_like(graphics)


def _drawn_marks(drawn: Drawings, texts: Sequence[Text]) -> tuple[Annotation, ...]:
    """The drawings as marks, but text only where the text detector has none."""
    boxes = [text.box.box for text in texts]
    return tuple(
        mark
        for mark in drawn.marks
        if mark.kind is not AnnotationKind.TEXT or not any(overlap(mark.box, box) > 0.3 for box in boxes)
    )


def _judged(marks: Sequence[Annotation], going: Mask) -> tuple[Annotation, ...]:
    """The marks with what becomes of them: gone when most of what was drawn there goes."""
    return tuple(
        Annotation(
            mark.kind, mark.box, mark.confidence, mark.frame, mark.meaning, removed=_inside(mark, going)
        )
        for mark in marks
    )


def _text_marks(
    texts: Sequence[Text], shape: tuple[int, ...], policy: CleaningPolicy
) -> tuple[Annotation, ...]:
    cut = ((text, _cut(text.box, shape)) for text in texts)
    return tuple(
        Annotation(
            AnnotationKind.TEXT,
            place,
            min(text.box.confidence, 1.0),
            meaning=text.meaning,
            removed=policy.removes(text.meaning),
        )
        for text, place in cut
        if place
    )


def _readings(
    marks: Sequence[Annotation], texts: Sequence[Text], shape: tuple[int, ...], policy: CleaningPolicy
) -> tuple[Reading, ...]:
    """What the texts said, and where the calipers stood."""
    said = [
        _reading(AnnotationKind.TEXT, text.meaning, place, text.line, policy)
        for text in texts
        if (place := _cut(text.box, shape)) and text.line.legible
    ]
    ends = [mark for mark in marks if mark.kind is AnnotationKind.CALIPER]
    return (
        *said,
        *(_reading(m.kind, m.meaning, m.box, Line("", m.confidence, legible=False), policy) for m in ends),
    )


def _reading(
    kind: AnnotationKind, meaning: Meaning, place: Box, line: Line, policy: CleaningPolicy
) -> Reading:
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


def _inside(mark: Annotation, mask: Mask) -> bool:
    """A thin drawing fills little of its box: a fifth of it counts."""
    left, top, right, bottom = mark.box
    return bool(mask[top:bottom, left:right].mean() > 0.2)
