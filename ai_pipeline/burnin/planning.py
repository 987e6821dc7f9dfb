"""Plan which pixels of a picture are removed: all annotation that is found, unless the policy keeps it.

A text detector with a recogniser, a network trained on ultrasound marks, the header's regions, and device
rules each find annotation independently: text counts as identity until it is read and proven harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ai_pipeline.burnin.decide.axes import as_scales, beside_velocities
from ai_pipeline.burnin.decide.banner import find_banner, find_by_hand, find_device_banner
from ai_pipeline.burnin.decide.candidates import CURVE, Candidate, MeasuredPixels
from ai_pipeline.burnin.decide.coloured import COLOURED, coloured_lines
from ai_pipeline.burnin.decide.contents import contents_of
from ai_pipeline.burnin.decide.layout import (
    covered,
    in_one_row,
    inner,
    is_above,
    level_box,
    overlap,
    share_of,
)
from ai_pipeline.burnin.decide.letters import FEWEST, TRACED, are_letters, letter_strokes
from ai_pipeline.burnin.decide.lines import Rows, cut_by, whole, with_their_rows
from ai_pipeline.burnin.decide.meaning import LEAST_CONFIDENCE, NOTHING_MORE, Allowed, names_a_place
from ai_pipeline.burnin.decide.neighbours import (
    by_best_reading,
    by_their_pair,
    cut_by_the_edge,
    stands_alone,
)
from ai_pipeline.burnin.decide.outline import SMALLEST_LETTER, blocks, with_sides
from ai_pipeline.burnin.decide.photographed import STEEPEST, TOO_SMALL, are_tiny, slant_of
from ai_pipeline.burnin.decide.results import by_their_label, by_their_table, texts_together, whole_rows
from ai_pipeline.burnin.decide.settings import by_their_rows
from ai_pipeline.burnin.decide.signs import (
    SIGNS,
    behind_names,
    is_drawing,
    is_lone_sign,
    is_mirrored_sign,
    is_sign,
    may_name,
)
from ai_pipeline.burnin.decide.texts import FEW_CHARACTERS, Text
from ai_pipeline.burnin.decide.witnesses import confirmed
from ai_pipeline.burnin.decide.writing import SAME, find_texts
from ai_pipeline.burnin.find.annotation import (
    ULTRASOUND,
    AnnotationKind,
    Box,
    CleaningPolicy,
    InDoubt,
    Mark,
    Mask,
    Picture,
    clipped,
    component_boxes,
    components,
    dilated,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.area import (
    TICK,
    find_area,
    is_panel,
    straight_lines,
    strokes,
    without_panels,
)
from ai_pipeline.burnin.find.drawings import (
    DRAWN,
    KINDS,
    Drawings,
    find_bars,
    find_drawings,
    grown,
)
from ai_pipeline.burnin.find.networks import Line, is_wide
from ai_pipeline.burnin.find.text import SMALLEST_LINE, UPRIGHT, TextBox, paint
from ai_pipeline.burnin.find.traces import (
    FILLS,
    Waves,
    find_flow,
    find_strips,
    find_traces,
    mostly_outside,
    no_waves,
)
from ai_pipeline.burnin.tools import Tools, is_plain
from ai_pipeline.contract import ImageHeader, Meaning, Reading
from ai_pipeline.errors import CleaningFailed

MARGIN = 0.15
"""How far a text's mask reaches beyond the detector's box (share of the line's height)."""
RIM = 0.02
"""How far tissue may reach beyond the image area that is found (share of the picture's shorter side)."""
LARGEST_SHARE = 0.4
"""Share of the picture that may be filled, at most (banner not counted)."""


@dataclass(frozen=True, slots=True, eq=False)
class RemovalPlan:
    """Which pixels are removed from a picture: ``banner`` is blacked out, ``mask`` is filled. ``kept``: text
    that was read and stays; ``not_tissue``: all annotation that stays, from which no hole is filled.
    ``area``: the image area; only there are holes filled from the pixels around them. ``waves``: measured
    curves; among them only text that was read is removed. ``readings`` have no source UID and frame yet.
    ``lines``: the letters of each line of text that stays; ``rows``: those of them that stay or go together;
    ``given_up``: lines that might have stayed and could not stay whole. ``always``: pixels that go whatever
    is read there. ``ground``: where only strokes of proven letters are filled; ``in_doubt``: places in
    ``ground`` that may hold letters and stay. ``spared``: marks that look like text and are left alone; only
    explanations name them. ``panels``: panels behind text, in uneven colours.
    """

    banner: Mask
    mask: Mask
    kept: Mask
    not_tissue: Mask
    area: Mask
    waves: Waves
    marks: tuple[Mark, ...]
    readings: tuple[Reading, ...] = field(default=(), repr=False)
    lines: tuple[Box, ...] = ()
    ground: Mask = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    in_doubt: tuple[Box, ...] = ()
    spared: tuple[Mark, ...] = ()
    panels: Mask = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    rows: Rows = ()
    given_up: tuple[Box, ...] = ()
    always: Mask = field(default_factory=lambda: np.zeros((0, 0), np.bool_))


@dataclass(frozen=True, slots=True, eq=False)
class RemovalTask:
    """What is to be removed, and the ``tools`` that find it: annotation that ``policy`` removes, but no
    ``allowed`` text. ``in_doubt``: what to do where it is not clear whether something is text.
    """

    tools: Tools
    policy: CleaningPolicy
    allowed: Allowed = NOTHING_MORE
    in_doubt: InDoubt = InDoubt.KEEP


def plan_removal(picture: Picture, header: ImageHeader, task: RemovalTask, *, graphics: bool) -> RemovalPlan:
    """Plan which annotation is removed from a picture, uint8 grey or RGB, by :data:`RULES`. ``graphics``:
    look for ultrasound drawings and banners as well as for text. Raises :class:`CleaningFailed` when too much
    of the picture would be removed, and with ``in_doubt`` "withhold" when a place in the image area may hold
    letters.
    """
    scene = _Scene(picture, header, task, graphics=graphics)
    for rule in RULES:
        rule(scene)
    return scene.plan()


def plan_views(
    views: Sequence[Picture], header: ImageHeader, task: RemovalTask, *, graphics: bool
) -> RemovalPlan:
    """Plan the removal for a picture, ``views[0]``, and further versions of it that show what its display
    window hides; these are searched for text only. Raises :class:`CleaningFailed` as :func:`plan_removal`
    does.
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
            rows=(*plan.rows, *more.rows),
        )
    return plan


def with_whole_lines(plan: RemovalPlan, picture: Picture) -> RemovalPlan:
    """The plan by which each line that stays keeps all strokes of its letters. Where the mask takes some of
    them it is cut back; where it cannot be, because they are also of what goes, the line goes whole, with its
    label or number.
    """
    lines, given_up, mask = set(plan.lines), set[Box](), plan.mask
    while True:
        cut, back = cut_by(lines, mask | plan.banner, plan.always, picture)
        if not cut:
            break
        cut_rows = with_their_rows(cut, plan.rows)
        lines, given_up = lines - cut_rows, given_up | cut_rows
        mask = mask | whole(cut_rows, picture, plan.ground)
    gone = mask_of(given_up, mask.shape)
    mask, banner = mask & ~back, plan.banner & ~back
    kept = (plan.kept | back) & ~gone & ~mask & ~banner
    marks = (
        replace(mark, removed=True)
        if mark.kind is AnnotationKind.TEXT and any(overlap(line, mark.box) > SAME for line in given_up)
        else mark
        for mark in plan.marks
    )
    return replace(
        plan,
        mask=mask,
        banner=banner,
        kept=kept,
        not_tissue=(plan.not_tissue | back) & ~mask,
        marks=tuple(marks),
        lines=tuple(line for line in plan.lines if line in lines),
        given_up=tuple(sorted(given_up)),
    )


def box_marks(
    boxes: Sequence[TextBox], shape: tuple[int, ...], proof: str = "still read after filling"
) -> tuple[Mark, ...]:
    """Make a mark for each box of text that is removed, clipped to a picture of ``shape``; none for a box
    outside of it. ``proof``: how the text was found.
    """
    return tuple(
        Mark(AnnotationKind.TEXT, place, min(box.confidence, 1.0), proof=proof)
        for box in boxes
        if (place := clipped(box.box, shape))
    )


def check_share(mask: Mask) -> None:
    """Raise :class:`CleaningFailed` when the mask covers too much of the picture."""
    share = float(mask.mean())
    if share > LARGEST_SHARE:
        raise CleaningFailed(
            f"{share:.0%} of the picture would be filled, at most {LARGEST_SHARE:.0%} may be"
        )


def with_rim(area: Mask) -> Mask:
    """Return the image area, grown by a rim into which tissue may reach."""
    return dilated(area, 2 * round(RIM * min(area.shape)) + 1)


class _Scene:
    """The state of planning for one picture: :data:`RULES` are applied to it one after another, and it holds
    what they have found so far. ``banner`` and ``devices``: pixels of text outside the header's regions, and
    of places that are always removed. ``bars``: grey and colour bars. ``lettering``: letters as the mark
    network saw them at first. ``texts`` are judged, ``symbols`` are drawings that look like text,
    ``unproven`` may be letters in the image area; the last two stay, and so does what only the mark network
    takes for a line of letters (``doubtful``). ``mask``, ``kept`` and ``left``: pixels
    that are removed, text that stays, and drawn text that stays in doubt.
    """

    def __init__(self, picture: Picture, header: ImageHeader, task: RemovalTask, *, graphics: bool) -> None:
        """Start without any findings."""
        self.picture, self.header, self.task, self.graphics = picture, header, task, graphics
        self.shape, self.clinical = picture.shape[:2], task.policy is CleaningPolicy.CLINICAL
        self.banner, self.devices, self.plain, self.ground, self.bars, self.panels = (
            self.nothing() for _ in range(6)
        )
        self.area, self.waves = ~self.nothing(), Waves(self.nothing(), self.nothing())
        self.drawn = Drawings({kind: self.nothing() for kind in KINDS}, ())
        self.outside: tuple[Mark, ...] = ()
        self.known: tuple[Mark, ...] = ()
        self.unproven: list[Text] = []
        self.doubtful: tuple[Box, ...] = ()

    def nothing(self) -> Mask:
        """An empty mask."""
        return np.zeros(self.shape, np.bool_)

    def painted(self, texts: Sequence[Text], margin: float = MARGIN) -> Mask:
        """The mask of the boxes of ``texts``, each grown by ``margin`` × its height."""
        return paint([text.box for text in texts], self.shape, margin)

    def graphics_but_text(self) -> Mask:
        """The mask of all drawings but text."""
        return self.signs() | self.drawn.masks[AnnotationKind.LOGO]

    def signs(self) -> Mask:
        """The mask of the drawings that are neither letters nor a logo, which may be a hospital's."""
        return np.asarray(np.logical_or.reduce([self.drawn.masks[kind] for kind in SIGNS]), np.bool_)

    def plan(self) -> RemovalPlan:
        """Make the plan, with the marks that it removes or keeps, and those that the rules have dropped."""
        policy, doubts = self.task.policy, (*_suspected(self.unproven, self.left), *self.doubtful)
        if doubts and self.task.in_doubt is InDoubt.WITHHOLD:
            raise CleaningFailed("places in the image area may hold letters", doubts)
        not_tissue = self.kept | self.waves.traces
        if self.clinical:
            not_tissue |= self.graphics_but_text() | self.bars
        banner = (self.banner & ~not_tissue) | self.devices
        marks = self._marks(banner)
        check_share(self.mask & ~banner)
        return RemovalPlan(
            banner,
            self.mask & ~banner,
            self.kept & ~self.devices,
            not_tissue & ~self.mask,
            self.area & ~self.plain,
            self.waves,
            tuple(marks),
            _readings(marks, self.texts, self.shape, policy),
            tuple(inner(text.box).box for text in self.texts if not policy.removes(text.meaning)),
            self.ground,
            doubts,
            (
                *box_marks([text.box for text in self.symbols], self.shape, "a drawing that looks like text"),
                *box_marks([text.box for text in self.unproven], self.shape, "no two witnesses see letters"),
            ),
            self.panels,
            [[inner(text.box).box for text in row] for row in texts_together(self.texts)],
            always=self.devices,
        )

    def _marks(self, banner: Mask) -> list[Mark]:
        """All marks that were found, each removed or not, except text that may name the patient and is not
        removed (places in doubt). Drawn text is left out where the text detector has found the same text.
        ``banner``: pixels that are blacked out.
        """
        boxes, going = [text.box.box for text in self.texts], banner | self.mask
        found = [
            mark
            for mark in (*self.outside, *self.known, *self.drawn.marks)
            if mark.kind is not AnnotationKind.TEXT or not any(overlap(mark.box, box) > 0.3 for box in boxes)
        ]
        # A drawing may be thin: a fifth of its box counts.
        marks = [replace(mark, removed=bool(going[index_of(mark.box)].mean() > 0.2)) for mark in found]
        for text in self.texts:
            if not covered(text.box, banner):
                goes = self.task.policy.removes(text.meaning) and share_of(going, text.box) > 0
                marks += [
                    replace(mark, meaning=text.meaning, removed=goes, contents=contents_of(text))
                    for mark in box_marks([text.box], self.shape, text.reason)
                ]
        return [mark for mark in marks if mark.removed or mark.meaning is not Meaning.IDENTITY]

    def known_places(self) -> None:
        """Rule: add the places that device rules name and that a person drew: they are removed, whatever is
        read there.
        """
        removed = {meaning for meaning in Meaning if self.task.policy.removes(meaning)}
        devices, device_marks = find_device_banner(
            self.header, self.picture, self.task.tools.device_rules, removed
        )
        by_hand, hand_marks = find_by_hand(self.header, self.picture)
        self.devices, self.known = devices | by_hand, (*device_marks, *hand_marks)

    def forms(self) -> None:
        """Rule: add what is known by its place or form: text outside the header's regions, and drawings. Keep
        curves and, under the policy clinical, bars.
        """
        picture, regions = self.picture, self.header.ultrasound_regions
        traces = find_traces(picture, find_area(picture, self.nothing(), regions))
        self.bars = find_bars(picture)
        if not self.graphics:
            self.waves = Waves(self.nothing(), traces)
            return
        banner, self.outside = find_banner(self.header, picture)
        measured = find_strips(regions, picture.shape) | traces | (self.bars & self.clinical)
        self.drawn = find_drawings(picture, self.task.tools.finder, self.task.tools.threshold, measured)
        if not self.clinical:
            self.drawn.masks[AnnotationKind.SCALE] |= self.bars
        self.banner, self.waves = banner & ~measured, Waves(measured & ~traces, traces)

    def reading(self) -> None:
        """Rule: find and read all text; drop what is no text, such as a pair of crosses."""
        self.lettering = self.drawn.masks[AnnotationKind.TEXT]
        known = self.lettering | self.banner | self.devices
        # Without the mark network curves are known by their form alone: a name across one goes with it.
        among = self.waves if self.graphics else no_waves(self.shape)
        curves = MeasuredPixels.from_picture(self.picture, self.waves)
        found = [
            self.judged_by_modality(text)
            for text in find_texts(self.picture, self.task.tools.reader, known, among, self.task.allowed)
            if self.graphics or are_letters(text) or curves.traced(text.box) < CURVE
        ]
        self.symbols = [text for text in found if self.is_symbol(text, found)]
        self.texts = [text for text in found if text not in self.symbols]
        legible = [text for text in self.texts if text.line.legible]
        traced = [text for text in self.texts if share_of(self.waves.traces, text.box) > 0.5]
        proven = [text for text in traced if are_letters(text)] if self.graphics else self.texts
        waves = self.waves.without(self.painted(legible), self.painted(proven))
        panels = behind_names(self.bars, legible)
        self.bars &= ~panels
        self.waves = replace(
            waves, strips=(waves.strips & ~panels) | beside_velocities(self.texts, self.shape)
        )

    def coloured_lines(self) -> None:
        """Rule: add lines of coloured letters that no reader has read, or of which it has read a part."""
        if not self.graphics:
            return
        read = [text for text in self.texts if text.line.letters >= FEWEST]
        known = self.painted(read) | self.waves.pixels | self.banner | self.devices | self.bars
        reader, allowed = self.task.tools.reader, self.task.allowed
        for line in coloured_lines(self.picture, known, reader):
            whole = Candidate(self.picture, level_box(line, 1.0), 0.0).text(reader, allowed)
            self.texts = [text for text in self.texts if overlap(text.box.box, line) < SAME]
            self.symbols = [text for text in self.symbols if overlap(text.box.box, line) < SAME]
            self.texts.append(replace(whole, proof=COLOURED))

    def judged_by_modality(self, text: Text) -> Text:
        """A bare number in other modalities than ultrasound is no ruler's: it may be an age."""
        if text.meaning is Meaning.SCALE and self.header.modality not in ULTRASOUND:
            return replace(text, meaning=Meaning.IDENTITY)
        return text

    def is_symbol(self, text: Text, found: Sequence[Text]) -> bool:
        """Whether one of the texts ``found`` is a drawing; in an ultrasound picture also a maker's mark."""
        signs = self.clinical and self.header.modality in ULTRASOUND
        return is_drawing(text, self.drawn, may_name(found)) or (signs and is_sign(text, self.picture, found))

    def photographs(self) -> None:
        """Rule: withhold a picture whose lines slant, as a print or a screen that was photographed: words at
        an angle are found in part, and their boxes cover what is beside them.
        """
        slant = slant_of(self.texts)
        if abs(slant) > STEEPEST:
            raise CleaningFailed(
                f"its text slants by {abs(slant):.0f}°, as in a photograph: photograph it straight, or "
                "export it from the device"
            )

    def image_area(self) -> None:
        """Rule: drop, in the image area, texts that are neither proven harmless nor proven to be letters."""
        if self.graphics:
            texts = [*self.texts, *self.symbols]
            written = self.banner | self.painted(texts)
            annotation: Mask = np.logical_or.reduce(list(self.drawn.masks.values()))
            # Of written text only the strokes are no tissue, with what compression leaves around them.
            letters = grown(letter_strokes(texts, annotation, self.picture, MARGIN))
            drawn = annotation | letters | (self.banner & strokes(self.picture))
            # The whole box of a line on one colour, which is a panel though tissue may touch it.
            drawn |= self.painted(
                [
                    text
                    for text in texts
                    if is_panel(self.picture[index_of(text.box.box)], ~letters[index_of(text.box.box)])
                ]
            )
            area = without_panels(
                find_area(self.picture, drawn, self.header.ultrasound_regions), self.picture, drawn
            )
            drawn = annotation | (written & strokes(self.picture))
            self.panels = find_area(self.picture, drawn, self.header.ultrasound_regions) & ~area
            whole = with_rim(area)
            self.area = whole & ~self.waves.strips
            self.banner &= ~area  # tissue may reach beyond the regions
            self.plain = whole & ~area & is_plain(self.picture, ~(whole | annotation | written))
            if self.clinical and self.task.in_doubt is not InDoubt.BOX:
                self.ground = (self.area | self.waves.pixels) & ~self.devices
        inside = [
            text
            for text in self.texts
            if text.meaning is Meaning.IDENTITY and share_of(self.ground, text.box) > 0.5
        ]
        proven = [text.box.box for text in inside if are_letters(text, share_of(self.lettering, text.box))]
        self.unproven = [text for text in inside if all(overlap(text.box.box, box) < SAME for box in proven)]
        self.texts = [text for text in self.texts if text not in self.unproven]
        if self.clinical and are_tiny(self.unproven):
            raise CleaningFailed(TOO_SMALL, [text.box.box for text in self.unproven])

    def neighbours(self) -> None:
        """Rule: keep what other readings and other lines prove harmless; add lines that only the mark network
        saw, which both readers read. A single digit only counts where it is surely read: as a mark of a
        ruler.
        """
        if not self.clinical:
            return
        self.texts = by_their_pair(by_their_rows(by_best_reading(self.texts)), self.task.allowed)
        known, flow = self.painted(self.texts), find_flow(self.picture) | self.waves.strips
        places = component_boxes(
            components(with_sides(blocks(self.lettering & ~known), longer=SMALLEST_LETTER))[1]
        )
        names = may_name([*self.texts, *(one for one in self.symbols if one.letters.isalpha())])
        for place in places:
            box = level_box(place, 1.0)
            if place[3] - place[1] > UPRIGHT * (place[2] - place[0]):
                box = replace(box, corners=np.roll(box.corners, 1, axis=0))
            # Ticks are lower than half of a letter beside them.
            high = (other for other in places if 2 * (other[3] - other[1]) >= place[3] - place[1])
            one = Candidate(self.picture, box, share_of(flow, box))
            text = one.text(self.task.tools.reader, self.task.allowed)
            # The network takes spectra and marks of focus for letters, too.
            drawn = not (
                share_of(self.waves.strips & ~self.bars, box) > FILLS or is_mirrored_sign(text, self.picture)
            )
            if are_letters(text, float(drawn)) or (
                text.line.legible and text.meaning is not Meaning.IDENTITY
            ):
                self.texts.append(replace(text, proof=DRAWN))
            elif is_lone_sign(text, (*names, *high)):
                self.symbols.append(text)
        others, bars = [*self.unproven, *self.symbols], self.bars & self.graphics
        self.texts = as_scales([*self.texts, *others], bars)[: len(self.texts)]

    def places(self) -> None:
        """Rule: keep a side, a plane or a part of the body that stands alone over the image or beside it,
        though its word is a name, too; remove what the picture's edge may cut.
        """
        if not self.clinical:
            return
        everything, beside, over = [*self.texts, *self.unproven], self.beside_the_image(), self.over_tissue

        def alone(text: Text) -> bool:
            """Whether a text stands alone over the image; of more than three letters, beside it."""
            if over(text):
                return stands_alone(text, everything, self.shape[0], 1.0)
            near = len(text.letters) > FEW_CHARACTERS and share_of(beside, text.box) == 1
            return near and stands_alone(text, everything, self.shape[0], 6.0)

        def judged(text: Text) -> Text:
            """The text with the meaning that its place gives it."""
            if text.meaning is Meaning.IDENTITY:
                sure = text.line.confidence >= LEAST_CONFIDENCE and names_a_place(text.line.text)
                proof = "a side and a place, by itself over the image"
                return (
                    replace(text, meaning=Meaning.ORIENTATION, proof=proof) if sure and alone(text) else text
                )
            if not cut_by_the_edge(text, self.texts, self.picture) or (
                text.letters.isalpha() and over(text) and alone(text)
            ):
                return text
            return replace(text, meaning=Meaning.IDENTITY, proof="the picture's edge may cut it")

        self.texts = by_best_reading([judged(text) for text in self.texts])

    def over_tissue(self, text: Text) -> bool:
        """Whether a text lies over tissue, all but its rim."""
        return share_of(self.ground & ~self.plain, text.box) > 0.9

    def beside_the_image(self) -> Mask:
        """The corners beside the lower part of the largest piece of tissue, where a view is written, too."""
        found = self.nothing()
        boxes = component_boxes(components(self.ground & ~self.plain)[1])
        if boxes:
            left, top, right, bottom = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
            rim = round(2 * RIM * min(self.shape))
            # A head line may stand beside the upper part of a sector, its apex.
            found[top + (bottom - top) // 4 : bottom + rim, max(0, left - rim) : right + rim] = True
        return found

    def _is_by_a_name(self, text: Text) -> bool:
        """Whether what may be a name stands in the row of a text, or right above or below it."""
        box = text.box.box
        others = [
            other.box.box
            for other in (*self.texts, *self.unproven)
            if other.meaning is Meaning.IDENTITY and other.letters != text.letters and other.line.letters > 1
        ]
        return any(in_one_row(box, one, 4.0) or is_above(box, one) or is_above(one, box) for one in others)

    def screen(self) -> None:
        """Rule: keep what is known of the device's screen, whatever stands beside it."""
        known = self.task.allowed.screen.has
        self.texts = [
            replace(text, meaning=Meaning.ACOUSTIC, proof="known of this screen")
            if text.line.legible
            and not is_wide(text.box.length, text.box.height, text.line)  # more than was read
            and known(text.box.box, text.line.text, text.line.confidence)
            else text
            for text in self.texts
        ]

    def results(self) -> None:
        """Rule: keep tables of results whole, in any language; elsewhere a label and its number stay or go
        together.
        """
        if self.clinical and self.header.modality in ULTRASOUND:
            # A "%" apart from its number is no text.
            judged = by_their_table([*self.texts, *self.symbols], self.shape[0])
            over = [self.over_tissue(text) and not self._is_by_a_name(text) for text in self.texts]
            self.texts = whole_rows(by_their_label(judged[: len(self.texts)], over))

    def continued(self) -> None:
        """Rule: follow a line that goes over tissue, where the detector finds only a part of a faint line."""
        if not self.clinical:
            return
        tissue = self.ground & ~self.plain
        kept = [text.box.box for text in self.texts if text.meaning is not Meaning.IDENTITY]

        def may_hold(longer: TextBox) -> bool:
            """Whether a longer box lies over tissue at one of its ends, and on no line that stays."""
            height = round(2 * longer.height)
            left, top, right, bottom = longer.box
            ends = (left, top, left + height, bottom), (right - height, top, right, bottom)
            return any(share_of(tissue, level_box(end, 1.0)) > 0.5 for end in ends) and all(
                overlap(line, longer.box) <= 0.1 for line in kept
            )

        def followed(text: Text) -> Text:
            """The text in the box of its whole line."""
            if text.meaning is not Meaning.IDENTITY or not text.line.legible or text.box.is_upright:
                return text
            place = Candidate(self.picture, text.box, 0.0)
            return replace(text, box=place.followed(self.task.tools.reader, text.line, may_hold).box)

        self.texts = [followed(text) for text in self.texts]

    def lines(self) -> None:
        """Rule: remove whole lines of text; of harmless text whose letters the mark network has drawn, only
        the strokes. The mask ends where the letters of a line begin that stays.
        """
        removed = [text for text in self.texts if self.task.policy.removes(text.meaning)]
        traced = [
            text
            for text in removed
            if text.meaning is not Meaning.IDENTITY and share_of(self.lettering, text.box) >= TRACED
        ]
        kept = [text for text in self.texts if text not in removed]
        # A name goes whole, also where a line that stays touches it; no box that holds both lines counts.
        alone = [
            text
            for text in removed
            if text not in traced and all(overlap(one.box.box, text.box.box) < 0.3 for one in kept)
        ]
        letters, going, surely = (
            paint([inner(text.box) for text in some], self.shape, 0.0) for some in (kept, removed, alone)
        )
        # Ticks, marks and bars beside a line that goes stay; one that lies mostly in it may be a letter.
        letters |= mostly_outside(self.signs() | self.bars, going) & ~going & self.clinical
        self.mask = (self.painted([text for text in removed if text not in traced]) & ~letters) | surely
        self.kept, self.traced = self.painted(kept) & ~self.mask, self.painted(traced) & ~self.mask
        if self.clinical:
            self.drawn = self.drawn.classified_apart(self.kept)
            # How far from a drawing the text detector may place its box when it takes it for text again
            # (share of the box's height).
            self.kept |= self.painted(self.symbols, 0.3) & ~self.mask

    def drawings(self) -> None:
        """Rule: remove drawn text that a second witness confirms, except what was read and stays, and with
        the policy research all drawings. Unread text is removed in blocks, so that its letters cannot be seen
        in the shape of the mask.
        """
        letters = self.drawn.masks[AnnotationKind.TEXT]
        unread = letters & ~self.kept & ~self.traced
        if self.clinical:
            unread = with_sides(unread, longer=SMALLEST_LETTER)
        if self.kept.any():  # parts too low for a line are edges left around text that stays
            unread = with_sides(unread, shorter=SMALLEST_LINE)
        found = self.confirmed(blocks(unread)) | (letters & self.traced)
        if not self.clinical:
            found |= self.graphics_but_text()
        # A part of what was not read that lies mostly along a long line is of a ruler or a frame.
        along = dilated(straight_lines(self.picture), 2 * TICK + 1)
        ruled = along & mostly_outside(letters & ~self.painted(self.texts), ~along)
        spared = self.kept | self.waves.traces | (((self.bars & ~letters) | ruled) & self.clinical)
        self.mask = (self.mask & ~self.waves.traces) | (found & ~spared)
        # Of all that is suspected: a picture that looks like letters everywhere is not understood.
        check_share(self.mask & ~self.banner)

    def confirmed(self, drawn: Mask) -> Mask:
        """Of what the mark network takes for text (``drawn``), what is in or beside a line that goes, in the
        image area (there :meth:`proven_letters` decides), or confirmed by a second witness.
        """
        if not self.clinical or self.task.in_doubt is InDoubt.BOX:
            return drawn
        going = [text.box for text in self.texts if text.meaning is Meaning.IDENTITY]
        # Letters that the detector's box lacks may continue a line on both sides (heights).
        lines = [box.longer(3.0, self.shape, end=True).longer(3.0, self.shape, end=False) for box in going]
        near = paint(lines, self.shape, MARGIN) | self.ground | self.banner | self.devices
        alone, self.doubtful = confirmed(
            with_sides(drawn & ~near, SMALLEST_LINE, SMALLEST_LETTER), self.picture, self.task.tools.reader
        )
        return (drawn & near) | alone

    def proven_letters(self) -> None:
        """Rule: in the image area, keep all but the strokes of proven letters. The plain background around
        the letters of a line beside the area is removed as well.
        """
        letters, inside = self.drawn.masks[AnnotationKind.TEXT], self.mask & self.ground
        going = [
            text for text in self.texts if text.meaning is Meaning.IDENTITY and share_of(inside, text.box) > 0
        ]
        proven = [text for text in going if are_letters(text, share_of(letters, text.box))]
        # A line lies beside the image area if at most this share of its box lies in it.
        beside = self.painted(
            [text for text in proven if share_of(self.ground & ~self.plain, text.box) <= 0.5]
        )
        found = letter_strokes(proven, letters, self.picture, MARGIN) | (beside & self.plain)
        self.left = inside & ~self.painted(proven)
        # A part of the mask that nobody can read stays whole if most of it lies in the image area.
        self.mask = (
            self.mask & ~self.ground & ~mostly_outside(self.mask & ~self.painted(going), ~self.left)
        ) | (found & inside)


RULES = (
    _Scene.known_places,
    _Scene.forms,
    _Scene.reading,
    _Scene.coloured_lines,
    _Scene.photographs,
    _Scene.image_area,
    _Scene.neighbours,
    _Scene.places,
    _Scene.screen,
    _Scene.results,
    _Scene.continued,
    _Scene.lines,
    _Scene.drawings,
    _Scene.proven_letters,
)
"""What becomes of a picture's marks: each rule adds some, or says of some that they go or stay."""


def _suspected(unproven: Sequence[Text], left: Mask) -> tuple[Box, ...]:
    """Places in the image area that a person should check, because they look like a line of text.
    ``unproven``: what may be letters and was not removed; ``left``: drawn pixels that may be text and were
    not removed. A single letter that was surely read is left out: it names nobody.
    """
    unclear = [text for text in unproven if not text.line.legible or text.line.letters >= FEWEST]
    drawn = [
        box
        for box in component_boxes(components(left)[1])
        # Height of a drawn line that may be letters (pixels), and its width (heights), at least.
        if 7 <= box[3] - box[1] <= (box[2] - box[0]) / 2.0
    ]
    return (*(text.box.box for text in unclear), *drawn)


def _readings(
    marks: Sequence[Mark], texts: Sequence[Text], shape: tuple[int, ...], policy: CleaningPolicy
) -> tuple[Reading, ...]:
    """The record of what was read in a picture of this ``shape``: legible texts with their meaning, then the
    calipers.
    """
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
    return tuple(
        Reading(
            "",
            None,
            kind.value,
            meaning,
            (float(left), float(top), float(right), float(bottom)),
            float(np.clip(line.confidence, 0, 1)),
            policy.removes(meaning),
            line.text,
        )
        for kind, meaning, (left, top, right, bottom), line in found
    )
