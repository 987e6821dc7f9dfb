"""Plan which pixels of a picture are removed: all annotation that is found, unless the policy keeps it.

A text detector with a recogniser, a network trained on ultrasound marks, the header's regions, and device
rules each find annotation independently: text counts as identity until it is read and proven harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ai_pipeline.burnin.decide.allowed import NOTHING_MORE, Allowed
from ai_pipeline.burnin.decide.banner import find_banner, find_by_hand, find_device_banner
from ai_pipeline.burnin.decide.mask_shape import SMALLEST_LETTER, blocks, with_sides
from ai_pipeline.burnin.decide.whole_lines import by_best_reading, by_their_block, inner
from ai_pipeline.burnin.decide.writing import (
    FEWEST,
    SAME,
    TRACED,
    Text,
    are_letters,
    covered,
    find_texts,
    letter_strokes,
    level_box,
    overlap,
    share_of,
    text_meaning,
)
from ai_pipeline.burnin.fill import is_plain
from ai_pipeline.burnin.find.annotation import (
    Annotation,
    AnnotationKind,
    Box,
    CleaningPolicy,
    InDoubt,
    Mask,
    Picture,
    clipped,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.area import find_area, strokes
from ai_pipeline.burnin.find.drawings import Drawings, find_bars, find_drawings, no_drawings
from ai_pipeline.burnin.find.faint import faint_writing
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import SMALLEST_LINE, TextBox, TextReader, paint
from ai_pipeline.burnin.find.traces import Waves, find_strips, find_traces, no_waves
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.contract import ImageHeader, Meaning, PixelArray, Reading
from ai_pipeline.errors import CleaningFailed

MARGIN = 0.15
"""How far a text's mask reaches beyond the detector's box (share of the line's height)."""
RIM = 0.02
"""How far tissue may reach beyond the image area that is found (share of the picture's shorter side)."""
LOWEST, SLENDER = 7, 2.0
"""Height of a drawn line that may be letters (pixels), and its width (heights), at least."""
BESIDE = 0.5
"""A line lies beside the image area if at most this share of its box lies in it."""
LARGEST_SHARE = 0.4
"""Share of the picture that may be filled, at most (banner not counted)."""


@dataclass(frozen=True, slots=True, eq=False)
class RemovalPlan:
    """The pixels to remove from a picture: ``banner`` is blacked out, ``mask`` is filled.

    ``kept`` is text that was read and stays, ``not_tissue`` all annotation that stays: no hole is filled from
    it. ``area``: the image area; only there are holes filled from the pixels around them. ``waves``: measured
    curves; among them only text that was read is removed. ``readings`` have no source UID and frame yet.
    ``lines``: the letters of each line of text that stays. ``ground``: where only strokes of proven letters
    are filled; ``in_doubt``: places in ``ground`` that may hold letters and stay.
    """

    banner: Mask
    mask: Mask
    kept: Mask
    not_tissue: Mask
    area: Mask
    waves: Waves
    marks: tuple[Annotation, ...]
    readings: tuple[Reading, ...] = field(default=(), repr=False)
    lines: tuple[Box, ...] = ()
    ground: Mask = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    in_doubt: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RemovalTask:
    """What to remove, and the tools that find it; ``allowed`` text stays besides what ``policy`` keeps."""

    tools: Tools
    policy: CleaningPolicy
    allowed: Allowed = NOTHING_MORE
    in_doubt: InDoubt = InDoubt.KEEP


def plan_removal(picture: Picture, header: ImageHeader, task: RemovalTask, *, graphics: bool) -> RemovalPlan:
    """Find the annotation to remove from a picture, uint8 grey or RGB.

    ``graphics``: look for ultrasound drawings and banners as well as for text. Raises :class:`CleaningFailed`
    when too much of the picture would be removed, and with ``in_doubt`` "withhold" when a place in the image
    area may hold letters.
    """
    tools, policy, allowed, shape = task.tools, task.policy, task.allowed, picture.shape[:2]
    removed = {meaning for meaning in Meaning if policy.removes(meaning)}
    devices, device_marks = find_device_banner(header, picture, tools.device_rules, removed)
    by_hand, hand_marks = find_by_hand(header, picture)
    devices |= by_hand
    banner, banners, waves, drawn = _seen(picture, header, tools, policy, graphics=graphics)
    lettering = drawn.masks[AnnotationKind.TEXT]
    found = find_texts(picture, tools.reader, lettering | banner | devices, waves, allowed)
    symbols = [text for text in found if _is_drawing(text, drawn)]
    texts = [text for text in found if text not in symbols]
    legible = [one.box for one in texts if one.line.legible]
    no_curves = [one.box for one in texts if are_letters(one) and share_of(waves.traces, one.box) > 0.5]
    waves = waves.without(paint(legible, shape, MARGIN), paint(no_curves, shape, MARGIN))
    written = banner | paint([text.box for text in found], shape, MARGIN)
    area, plain = np.ones(shape, np.bool_), np.zeros(shape, np.bool_)
    if graphics:
        area, plain = _area(picture, header, drawn, written, waves)
    spares = graphics and policy is CleaningPolicy.CLINICAL and task.in_doubt is not InDoubt.BOX
    ground = (area | waves.pixels) & ~devices if spares else np.zeros(shape, np.bool_)
    # The texts in the image area that are neither proven harmless, nor letters, nor parts of such a line.
    inside = [text for text in texts if text.meaning is Meaning.IDENTITY and share_of(ground, text.box) > 0.5]
    proven = [text.box.box for text in inside if are_letters(text, share_of(lettering, text.box))]
    unproven = [text for text in inside if all(overlap(text.box.box, box) < SAME for box in proven)]
    texts = [text for text in texts if text not in unproven]
    if policy is CleaningPolicy.CLINICAL:
        texts = by_their_block(by_best_reading(texts))
        texts += _drawn_lines(lettering, texts, picture, tools.reader, allowed)
    mask, kept, traced = _text_masks(texts, lettering, policy)
    if policy is CleaningPolicy.CLINICAL:
        drawn = drawn.classified_apart(kept)
        # How far from a drawing the text detector may place its box when it takes it for text again (share
        # of the box's height).
        kept |= paint([text.box for text in symbols], shape, 0.3) & ~mask
    mask |= _drawing_mask(drawn, kept, traced, policy)
    mask &= ~waves.traces
    # Of all that is suspected: a picture that looks like letters everywhere is not understood.
    check_share(mask & ~banner)
    mask, left = _with_proven_letters(mask, texts, drawn.masks[AnnotationKind.TEXT], picture, ground, plain)
    doubts = _suspected(unproven, left)
    if doubts and task.in_doubt is InDoubt.WITHHOLD:
        raise CleaningFailed("places in the image area may hold letters", doubts)
    not_tissue = kept | waves.traces
    if policy is CleaningPolicy.CLINICAL:
        not_tissue |= _graphics(drawn)
    banner = (banner & ~not_tissue) | devices
    # The annotations of drawings; of drawn text only where the text detector has found none.
    boxes = [text.box.box for text in texts]
    drawings = (
        mark
        for mark in drawn.marks
        if mark.kind is not AnnotationKind.TEXT or not any(overlap(mark.box, box) > 0.3 for box in boxes)
    )
    marks = _marks_of((*banners, *device_marks, *hand_marks, *drawings), texts, mask, banner, policy)
    check_share(mask & ~banner)
    readings = _readings(marks, texts, shape, policy)
    mask, kept, not_tissue = mask & ~banner, kept & ~devices, not_tissue & ~mask
    lines = tuple(inner(text.box).box for text in texts if not policy.removes(text.meaning))
    return RemovalPlan(
        banner, mask, kept, not_tissue, area & ~plain, waves, tuple(marks), readings, lines, ground, doubts
    )


def plan_views(
    views: Sequence[Picture], header: ImageHeader, task: RemovalTask, *, graphics: bool
) -> RemovalPlan:
    """The plan for a picture, ``views[0]``, and further views of it that show what its display window hides.

    The further views are searched for text only. Raises :class:`CleaningFailed` as :func:`plan_removal` does.
    """
    plan = plan_removal(views[0], header, task, graphics=graphics)
    for view in views[1:]:
        more = plan_removal(view, header, replace(task, in_doubt=InDoubt.KEEP), graphics=False)
        banner = plan.banner | more.banner
        mask = (plan.mask | (more.mask & (~plan.ground | strokes(view)))) & ~banner
        check_share(mask)
        plan = replace(
            plan,
            banner=banner,
            mask=mask,
            kept=(plan.kept | more.kept) & ~mask & ~banner,
            not_tissue=(plan.not_tissue | more.not_tissue) & ~mask,
            readings=(*plan.readings, *more.readings),
            marks=(*plan.marks, *more.marks),
            lines=(*plan.lines, *more.lines),
        )
    return plan


def with_faint_writing(plan: RemovalPlan, samples: PixelArray) -> RemovalPlan:
    """The plan with faint text outside its image area added, which no text reader can read.

    Raises :class:`CleaningFailed` as :func:`plan_removal` does.
    """
    faint = find_faint_writing(samples, plan, plan.mask | plan.banner)
    if not faint.any():
        return plan
    check_share(plan.mask | faint)
    return replace(plan, mask=plan.mask | faint, marks=(*plan.marks, *faint_marks(faint)))


def find_faint_writing(samples: PixelArray, plan: RemovalPlan, filled: Mask) -> Mask:
    """The blocks of faint text in stored samples outside the plan's image area.

    ``filled`` pixels hold nothing of the source. Without an image area, blocks that cover too much of the
    picture do not count as text; beside an area, blocks of any size do.
    """
    known = filled | plan.kept | plan.not_tissue | plan.waves.pixels
    faint, strong = faint_writing(samples, plan.area, known)
    if not faint.any():
        return faint
    found: Mask = blocks(faint) & ~known & ~plan.area & ~strong
    # Share of a picture without image area that may be faint writing; more is tissue too dim for an area.
    is_writing = plan.area.any() or found.mean() <= 0.05
    return found if is_writing else np.zeros_like(found)


def faint_marks(faint: Mask, frame: int | None = None) -> tuple[Annotation, ...]:
    """An annotation for each block of faint text in a ``frame``, counted from 1."""
    boxes = component_boxes(components(faint)[1])
    # Confidence with which faint writing is reported: it is not read.
    return tuple(Annotation(AnnotationKind.BANNER, box, 0.1, frame) for box in boxes)


def box_marks(boxes: Sequence[TextBox], shape: tuple[int, ...]) -> tuple[Annotation, ...]:
    """An annotation for each box of text that is removed, clipped to a picture of ``shape``."""
    return tuple(mark for box in boxes for mark in _text_marks(box, shape))


def check_share(mask: Mask) -> None:
    """Raise :class:`CleaningFailed` when the mask covers too much of the picture."""
    share = float(mask.mean())
    if share > LARGEST_SHARE:
        raise CleaningFailed(
            f"{share:.0%} of the picture would be filled, at most {LARGEST_SHARE:.0%} may be"
        )


def _seen(
    picture: Picture, header: ImageHeader, tools: Tools, policy: CleaningPolicy, *, graphics: bool
) -> tuple[Mask, tuple[Annotation, ...], Waves, Drawings]:
    """Text outside the header's regions, curves and bars, and drawings; none without ``graphics``."""
    shape = picture.shape[:2]
    if not graphics:
        return np.zeros(shape, np.bool_), (), no_waves(shape), no_drawings(shape)
    banner, banners = find_banner(header, picture)
    regions = header.ultrasound_regions
    area = find_area(picture, np.zeros(shape, np.bool_), regions)
    waves = Waves(find_strips(regions, picture.shape), find_traces(picture, area))
    drawn = find_drawings(picture, tools.finder, tools.threshold, waves.pixels)
    bars = find_bars(picture)
    if policy is CleaningPolicy.RESEARCH:
        drawn.masks[AnnotationKind.SCALE] |= bars
        return banner & ~waves.traces, banners, waves, drawn
    return (
        banner & ~waves.traces & ~bars,
        banners,
        Waves(waves.strips | bars, waves.traces),
        drawn.without(bars),
    )


def _area(
    picture: Picture, header: ImageHeader, drawn: Drawings, written: Mask, waves: Waves
) -> tuple[Mask, Mask]:
    """The image area with its rim, and the background in the rim; of ``written`` text the strokes count."""
    annotation: Mask = np.logical_or.reduce(list(drawn.masks.values()))
    area = find_area(picture, annotation | (written & strokes(picture)), header.ultrasound_regions)
    whole = with_rim(area)
    return whole & ~waves.strips, whole & ~area & is_plain(picture, ~(whole | annotation | written))


def with_rim(area: Mask) -> Mask:
    """The image area, grown by a rim into which tissue may reach."""
    return dilated(area, 2 * round(RIM * min(area.shape)) + 1)


def _text_masks(texts: Sequence[Text], strokes: Mask, policy: CleaningPolicy) -> tuple[Mask, Mask, Mask]:
    """The places of texts that are removed whole, of those that stay, and of those whose strokes are removed.

    Of harmless text whose letters the mark detector has drawn only the strokes are filled.
    """
    removed = [text for text in texts if policy.removes(text.meaning)]
    traced = [
        text
        for text in removed
        if text.meaning is not Meaning.IDENTITY and share_of(strokes, text.box) >= TRACED
    ]
    whole = [text for text in removed if text not in traced]
    kept = [text for text in texts if text not in removed]
    wide, stays, letters = (
        paint([text.box for text in some], strokes.shape, MARGIN) for some in (whole, kept, traced)
    )
    # The mask of what goes ends where the letters of a line begin that stays.
    mask = wide & ~paint([inner(text.box) for text in kept], strokes.shape, 0.0)
    return mask, stays & ~mask, letters & ~mask


def _drawn_lines(
    strokes: Mask, texts: Sequence[Text], picture: Picture, reader: TextReader, allowed: Allowed
) -> list[Text]:
    """The lines that only the mark network has drawn, where the reader of small letters reads them.

    A single digit only counts as one where it is surely read: a mark of a ruler.
    """
    known = paint([text.box for text in texts], strokes.shape, MARGIN)
    found = []
    for place in component_boxes(components(blocks(strokes & ~known))[1]):
        box = level_box(place, 1.0)
        line = reader.read_small(picture, box)
        meaning = text_meaning(box, line, allowed)
        if line.legible and (line.letters >= FEWEST or meaning is not Meaning.IDENTITY):
            found.append(Text(box, line, meaning, line))
    return found


def _with_proven_letters(
    mask: Mask, texts: Sequence[Text], strokes: Mask, picture: Picture, area: Mask, plain: Mask
) -> tuple[Mask, Mask]:
    """The mask, with only strokes of proven letters in the image area; what is left there of drawn text.

    The ``plain`` background around the letters of a line beside the area goes as well.
    """
    inside = mask & area
    going = [text for text in texts if text.meaning is Meaning.IDENTITY and share_of(inside, text.box) > 0]
    proven = [text for text in going if are_letters(text, share_of(strokes, text.box))]
    beside = [text.box for text in proven if share_of(area & ~plain, text.box) <= BESIDE]
    letters = letter_strokes(proven, strokes, picture, MARGIN) | (paint(beside, mask.shape, MARGIN) & plain)
    left = inside & ~paint([text.box for text in proven], mask.shape, MARGIN)
    return (mask & ~area) | (letters & inside), left


def _suspected(unproven: Sequence[Text], left: Mask) -> tuple[Box, ...]:
    """Places in the image area that a person should look at: they look like a line of text.

    A single letter that is surely read names nobody.
    """
    unclear = [text for text in unproven if not text.line.legible or text.line.letters >= FEWEST]
    drawn = [
        box
        for box in component_boxes(components(left)[1])
        if LOWEST <= box[3] - box[1] <= (box[2] - box[0]) / SLENDER
    ]
    return (*(text.box.box for text in unclear), *drawn)


def _drawing_mask(drawn: Drawings, kept: Mask, traced: Mask, policy: CleaningPolicy) -> Mask:
    """The drawn pixels that are removed: of text all but what was read and stays.

    Unread text is removed in blocks, so that its letters cannot be seen in the shape of the mask.
    """
    strokes = drawn.masks[AnnotationKind.TEXT]
    unread = strokes & ~kept & ~traced
    if policy is CleaningPolicy.CLINICAL:
        unread = with_sides(unread, longer=SMALLEST_LETTER)
    if kept.any():  # parts too low for a line are edges left around text that stays
        unread = with_sides(unread, shorter=SMALLEST_LINE)
    mask = blocks(unread) | (strokes & traced)
    if policy is CleaningPolicy.RESEARCH:
        mask |= _graphics(drawn)
    return mask & ~kept


def _graphics(drawn: Drawings) -> Mask:
    """The drawings but text."""
    masks = [mask for kind, mask in drawn.masks.items() if kind is not AnnotationKind.TEXT]
    return np.asarray(np.logical_or.reduce(masks), np.bool_)


def _is_drawing(text: Text, drawn: Drawings) -> bool:
    """Whether a "text" is none, as a pair of crosses is: illegible, and drawn there are hardly any letters.

    A logo may be a hospital's, and counts as letters.
    """
    place = index_of(text.box.box)
    pixels = {kind: int(mask[place].sum()) for kind, mask in drawn.masks.items()}
    symbols = sum(
        pixels[kind] for kind in (AnnotationKind.CALIPER, AnnotationKind.MARKER, AnnotationKind.SCALE)
    )
    letters = pixels[AnnotationKind.TEXT] + pixels[AnnotationKind.LOGO]
    # Pixels of letters as a share of those of symbols, up to which a place holds no text.
    return not text.line.legible and symbols > 0 and letters <= 0.05 * symbols


def _marks_of(
    found: Sequence[Annotation], texts: Sequence[Text], mask: Mask, banner: Mask, policy: CleaningPolicy
) -> list[Annotation]:
    """The annotations, removed or not, without places that stay in doubt."""
    going = banner | mask  # a drawing may be thin: a fifth of its box counts
    marks = [replace(mark, removed=bool(going[index_of(mark.box)].mean() > 0.2)) for mark in found]
    for text in texts:
        if not covered(text.box, banner):
            goes = policy.removes(text.meaning) and share_of(going, text.box) > 0
            marks += _text_marks(text.box, mask.shape, text.meaning, removed=goes)
    return [mark for mark in marks if mark.removed or mark.meaning is not Meaning.IDENTITY]


def _text_marks(
    box: TextBox, shape: tuple[int, ...], meaning: Meaning = Meaning.IDENTITY, *, removed: bool = True
) -> list[Annotation]:
    """The annotation of a text; none where its box lies outside the picture."""
    place = clipped(box.box, shape)
    if place is None:
        return []
    return [
        Annotation(AnnotationKind.TEXT, place, min(box.confidence, 1.0), meaning=meaning, removed=removed)
    ]


def _readings(
    marks: Sequence[Annotation], texts: Sequence[Text], shape: tuple[int, ...], policy: CleaningPolicy
) -> tuple[Reading, ...]:
    """The legible texts with what they say, then the calipers."""
    found = [
        (AnnotationKind.TEXT, text.meaning, place, text.line)
        for text in texts
        if text.line.legible and (place := clipped(text.box.box, shape))
    ]
    found += [
        (mark.kind, mark.meaning, mark.box, Line("", mark.confidence, legible=False))
        for mark in marks
        if mark.kind is AnnotationKind.CALIPER
    ]
    readings = []
    for kind, meaning, place, line in found:
        left, top, right, bottom = map(float, place)
        confidence, removed = float(np.clip(line.confidence, 0, 1)), policy.removes(meaning)
        readings.append(
            Reading("", None, kind.value, meaning, (left, top, right, bottom), confidence, removed, line.text)
        )
    return tuple(readings)
