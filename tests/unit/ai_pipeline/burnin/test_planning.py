"""The laws of a removal plan, whatever the witnesses say."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from ai_pipeline.burnin import planning
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.texts import NOTHING_READ, Text
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    CleaningPolicy,
    InDoubt,
    Mark,
    Mask,
    Picture,
    box_around,
)
from ai_pipeline.burnin.find.annotation import index_of as place
from ai_pipeline.burnin.find.drawings import KINDS, Drawings
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.contract import ImageHeader, Meaning
from ai_pipeline.errors import CleaningFailed
from tests.unit.ai_pipeline.burnin.cleaning_lab import (
    ACOUSTIC,
    CALIPER,
    CLINICAL,
    IDENTITY,
    LOGO,
    RESEARCH,
    TEXT,
)
from tests.unit.ai_pipeline.phantoms import burn

ROWS, COLUMNS = 200, 300
NAME_BOX = (20, 20, 120, 60)
SETTING = (200, 20, 260, 40)
CROSS, AROUND = (150, 120, 160, 130), (145, 115, 165, 135)
NOWHERE = (0, 0, 0, 0)


def nothing() -> Mask:
    return np.zeros((ROWS, COLUMNS), np.bool_)


def filled(*boxes: Box) -> Mask:
    mask = nothing()
    for box in boxes:
        mask[place(box)] = True
    return mask


def text(box: Box, meaning: Meaning, *, legible: bool = True, words: str = "MI 0.9") -> Text:
    return Text(level_box(box, 0.9), Line(words, 0.8, legible=legible), meaning)


UNREAD = text(NAME_BOX, IDENTITY, legible=False)


@dataclass
class Found:
    """What the four witnesses say of the picture."""

    texts: list[Text] = field(default_factory=list)
    drawn: dict[AnnotationKind, Mask] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    banner: Mask = field(default_factory=nothing)
    device: Mask = field(default_factory=nothing)
    area: Mask = field(default_factory=nothing)
    traces: Mask = field(default_factory=nothing)
    """Curves over time, or what looks like one."""
    dim_tissue: Mask = field(default_factory=nothing)
    """Where the picture is not black."""
    small: Line = NOTHING_READ
    """What the reader of small letters reads wherever it is asked."""
    known: Mask = field(default_factory=nothing)
    """What the text finder was told to be text anyway."""


def shares(mask: Mask) -> list[float]:
    """How much of the name, of the setting and of the caliper lies in the mask."""
    return [float(mask[place(box)].mean()) for box in (NAME_BOX, SETTING, CROSS)]


Plan = Callable[..., planning.RemovalPlan]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    def made(
        found: Found, policy: CleaningPolicy, *, graphics: bool = True, views: int = 0, **how: Any
    ) -> planning.RemovalPlan:
        def find_texts(_picture: Picture, _reader: object, known: Mask, *_: object) -> list[Text]:
            found.known = known
            return found.texts

        drawings = Drawings({kind: found.drawn.get(kind, nothing()) for kind in KINDS}, found.marks)
        top = Mark(AnnotationKind.BANNER, (0, 0, COLUMNS, 5), 1.0)
        says = {
            "find_texts": find_texts,
            "find_drawings": lambda *_: drawings,
            "find_banner": lambda *_: (found.banner, (top,) if found.banner.any() else ()),
            "find_device_banner": lambda *_: (found.device, ()),
            "find_area": lambda *_: found.area,
            "find_traces": lambda *_: found.traces,
        }
        for name, witness in says.items():
            monkeypatch.setattr(planning, name, witness)
        reader = SimpleNamespace(read_small=lambda *_: found.small, read=lambda *_: found.small)
        tools = SimpleNamespace(reader=reader, finder=None, threshold=0.5, device_rules=None)
        picture = np.where(found.dim_tissue, 60, 0).astype(np.uint8)
        header = ImageHeader("US", "", ROWS, COLUMNS, frames=1, photometric="MONOCHROME2", bits_stored=8)
        task = planning.RemovalTask(tools, policy, **how)
        if views:
            return planning.plan_views([picture] * views, header, task, graphics=graphics)
        return planning.plan_removal(picture, header, task, graphics=graphics)

    return made


def scene() -> Found:
    """A name, a setting, and a caliper."""
    return Found(
        texts=[text(NAME_BOX, IDENTITY, words="KIM"), text(SETTING, ACOUSTIC)],
        drawn={CALIPER: filled(CROSS)},
        marks=(Mark(CALIPER, CROSS, 0.7, meaning=Meaning.MEASUREMENT),),
    )


def test_clinical_takes_the_name_and_leaves_the_rest(plan: Plan) -> None:
    made = plan(scene(), CLINICAL)
    assert shares(made.mask) == [1, 0, 0]
    assert shares(made.kept) == [0, 1, 0]  # of text alone
    assert shares(made.not_tissue) == [0, 1, 1]
    assert not made.banner.any()
    assert [(mark.kind, mark.box, mark.meaning, mark.removed, mark.confidence) for mark in made.marks] == [
        (CALIPER, CROSS, Meaning.MEASUREMENT, False, 0.7),
        (TEXT, NAME_BOX, IDENTITY, True, 0.9),
        (TEXT, SETTING, ACOUSTIC, False, 0.9),
    ]


def test_research_takes_all_of_it(plan: Plan) -> None:
    made = plan(scene(), RESEARCH)
    assert shares(made.mask) == [1, 1, 1]
    assert not made.kept.any()
    assert not made.not_tissue.any()
    assert [mark.removed for mark in made.marks] == [True, True, True]


def test_what_was_read_is_told_with_its_place_and_fate(plan: Plan) -> None:
    found = scene()
    found.texts.append(text((10, 150, 60, 166), IDENTITY, legible=False))
    name, setting, cross = readings = plan(found, CLINICAL).readings
    assert (name.text, name.meaning, name.removed, name.bounds) == ("KIM", IDENTITY, True, NAME_BOX)
    assert (setting.text, setting.removed, setting.confidence) == ("MI 0.9", False, 0.8)
    assert (cross.kind, cross.text, cross.bounds) == ("caliper", "", CROSS)
    assert {reading.source_uid for reading in readings} == {""}


def test_a_mask_reaches_a_share_of_the_line_beyond_its_box(plan: Plan) -> None:
    ticks = filled((123, 30, 126, 32), (118, 40, 122, 42))  # the second is of the letters
    mask = plan(Found([text(NAME_BOX, IDENTITY)], {AnnotationKind.SCALE: ticks}), CLINICAL).mask
    # .15 of 32 rows, but for a tick beside the line.
    assert mask[20 - 5 : 60 + 5, 20 - 5 : 120 + 5].sum() == 50 * 110 - 4
    assert not mask[30:32, 123:126].any()
    assert not mask[[13, 67]].any()
    assert not mask[:, [13, 127]].any()


def test_on_other_pictures_than_ultrasound_only_text_is_taken(plan: Plan) -> None:
    found = scene()
    found.banner = filled((0, 0, COLUMNS, 10))
    made = plan(found, RESEARCH, graphics=False)
    assert not made.banner.any()
    assert shares(made.mask) == [1, 1, 0]


def test_a_banner_is_blacked_out_but_for_what_stays(plan: Plan) -> None:
    found = scene()
    found.banner = filled((0, 0, COLUMNS, 62))
    made = plan(found, CLINICAL)
    assert shares(made.banner) == [1, 0, 0]
    assert not made.mask[:62].any()
    assert shares(made.kept) == [0, 1, 0]  # of text alone
    # The name lies in the banner, which is told as one mark; the setting is told by itself.
    assert [mark.box for mark in made.marks if mark.kind is TEXT] == [SETTING]
    assert AnnotationKind.BANNER in {mark.kind for mark in made.marks}


def test_where_a_device_writes_names_nothing_stays_whatever_was_read(plan: Plan) -> None:
    found = scene()
    found.device = filled((190, 10, 270, 50))
    made = plan(found, CLINICAL)
    assert made.banner[place(SETTING)].all()
    assert not made.kept.any()


def test_a_banner_mark_that_stays_is_no_identity_that_is_told_removed(plan: Plan) -> None:
    whole = (0, 0, COLUMNS, 6)
    made = plan(Found(texts=[text(whole, ACOUSTIC)], banner=filled((0, 0, COLUMNS, 5))), CLINICAL)
    assert not made.banner.any()
    assert AnnotationKind.BANNER not in {mark.kind for mark in made.marks}


@pytest.mark.parametrize(
    ("policy", "how"),
    [(CLINICAL, {}), (CLINICAL, {"in_doubt": InDoubt.BOX}), (RESEARCH, {})],
    ids=["clinical", "clinical, boxes", "research"],
)
def test_drawn_text_that_nobody_could_read_goes_as_a_block(
    plan: Plan, policy: CleaningPolicy, how: dict[str, InDoubt]
) -> None:
    made = plan(Found(drawn={TEXT: WORD}, dim_tissue=WORD), policy, **how)
    assert made.mask[place(WORD_BOX)].all()  # what lies between the letters too
    assert made.in_doubt == ()


def test_what_the_mark_network_alone_takes_for_text_stays_and_is_listed(plan: Plan) -> None:
    ticks = Found(drawn={TEXT: filled(*LETTERS)}, dim_tissue=filled(*LETTERS))
    made = plan(ticks, CLINICAL)
    assert not made.mask.any()
    assert made.in_doubt == ((20, 150, 56, 162),)
    assert plan(ticks, CLINICAL, in_doubt=InDoubt.BOX).mask[filled(*LETTERS)].all()
    assert plan(ticks, RESEARCH).mask[filled(*LETTERS)].all()
    with pytest.raises(CleaningFailed, match="may hold letters"):
        plan(ticks, CLINICAL, in_doubt=InDoubt.WITHHOLD)


@pytest.mark.parametrize(("away", "goes"), [(60, True), (130, False)], ids=["2 heights", "4 heights"])
def test_what_is_drawn_beside_a_name_goes_with_it(plan: Plan, away: int, goes: bool) -> None:
    beside = (120 + away, 30, 160 + away, 45)
    found = Found([text(NAME_BOX, IDENTITY, words="KIM")], {TEXT: filled(beside)})
    assert plan(found, CLINICAL).mask[place(beside)].all() == goes


@pytest.mark.parametrize(
    "found",
    [
        Found(drawn={TEXT: filled((50, 150, 54, 154))}),
        Found(drawn={TEXT: filled((50, 20, 58, 190))}, dim_tissue=filled((52, 20, 54, 190))),  # a ruler
    ],
)
def test_a_speck_or_a_long_line_is_no_letter_to_a_clinic_and_goes_for_research(
    plan: Plan, found: Found
) -> None:
    assert not plan(found, CLINICAL).mask.any()
    assert plan(found, RESEARCH).mask.any()


def test_the_rim_of_what_stays_stays(plan: Plan) -> None:
    rim = filled((200, 44, 260, 46))
    assert not plan(Found(texts=[text(SETTING, ACOUSTIC)], drawn={TEXT: rim}), CLINICAL).mask.any()
    assert plan(Found(drawn={TEXT: rim}), RESEARCH).mask[place((200, 44, 260, 46))].all()


@pytest.mark.parametrize(
    ("meaning", "share", "whole"),
    [(ACOUSTIC, 0.2, False), (ACOUSTIC, 0.1, True), (IDENTITY, 0.2, True)],
)
def test_of_harmless_text_the_letters_alone_are_filled_where_they_were_drawn(
    plan: Plan, meaning: Meaning, share: float, whole: bool
) -> None:
    strokes = filled((200, 20, 200 + round(60 * share), 40))
    mask = plan(Found(texts=[text(SETTING, meaning)], drawn={TEXT: strokes}), RESEARCH).mask
    assert mask[strokes].all()
    assert mask[30, 240] == whole


@pytest.mark.parametrize(
    ("legible", "letters", "stays"),
    [(False, 0, True), (False, 4, True), (False, 6, False), (True, 0, False)],  # .05 of 100 pixels
)
def test_a_pair_of_crosses_is_no_word(plan: Plan, legible: bool, letters: int, stays: bool) -> None:
    for kind in (TEXT, LOGO):
        drawn = {CALIPER: filled(CROSS), kind: filled((146, 116, 146 + letters, 117))}
        made = plan(Found([text(AROUND, IDENTITY, legible=legible)], drawn), CLINICAL)
        assert (not made.mask[place(CROSS)].any()) == stays


def test_around_crosses_that_stay_nothing_is_taken_also_at_the_edge_of_the_picture(plan: Plan) -> None:
    found = Found(texts=[text(AROUND, IDENTITY, legible=False)], drawn={CALIPER: filled(CROSS)})
    made = plan(found, CLINICAL)
    assert made.kept[115 - 5 : 135 + 5, 145 - 5 : 165 + 5].all()  # .3 of 20 rows
    assert not made.mask.any()
    assert plan(found, RESEARCH).mask[place(CROSS)].all()
    found.texts = [text((-5, -5, 14, 14), IDENTITY, legible=False)]
    assert not plan(replace(found, drawn={CALIPER: filled((0, 0, 10, 10))}), CLINICAL).mask.any()


def test_letters_banner_and_device_bar_need_not_be_read(plan: Plan) -> None:
    found = Found(drawn={TEXT: filled(NAME_BOX)}, banner=filled((0, 0, 9, 9)), device=filled(SETTING))
    plan(found, CLINICAL)
    assert (found.known == (found.drawn[TEXT] | found.banner | found.device)).all()


def test_unread_text_where_nothing_is_drawn_is_identity_and_goes(plan: Plan) -> None:
    found = Found([UNREAD], {TEXT: filled(SETTING)})
    assert plan(found, CLINICAL).mask[place(NAME_BOX)].all()


def on_tissue() -> Found:
    """A name of which the mark network has drawn three strokes, all of it in the image area."""
    return Found(
        [text(NAME_BOX, IDENTITY, words="KIM")],
        {TEXT: filled(*((left, 22, left + 10, 58) for left in (30, 60, 90)))},
        area=filled((0, 0, 150, 100)),
    )


def test_in_the_image_area_only_strokes_of_proven_letters_are_filled(plan: Plan) -> None:
    found = on_tissue()
    made = plan(found, CLINICAL)
    assert np.array_equal(made.mask, found.drawn[TEXT])
    assert made.in_doubt == ()
    assert made.ground[place(NAME_BOX)].all()
    assert [(mark.box, mark.removed) for mark in made.marks] == [(NAME_BOX, True)]
    assert plan(found, RESEARCH).mask[place(NAME_BOX)].all()


@pytest.mark.parametrize("rim", [0, round(planning.RIM * ROWS)])
def test_a_name_over_the_areas_edge_goes_by_its_strokes_within_and_whole_without(
    plan: Plan, rim: int
) -> None:
    """In the rim only what differs from the background may be tissue."""
    found = on_tissue()
    found.area, found.dim_tissue = filled((0, 0, 70, 100)), filled((0, 0, (70 + rim) * (rim > 0), ROWS))
    mask = plan(found, CLINICAL).mask
    assert mask[20:60, 70 + rim : 120].all()
    assert np.array_equal(mask[:, : 70 + rim], found.drawn[TEXT][:, : 70 + rim])


@pytest.mark.parametrize(("share", "goes"), [(0.9, True), (0.2, False)])
def test_letters_that_were_taken_for_a_curve_go_and_a_curve_behind_letters_stays(
    plan: Plan, share: float, goes: bool
) -> None:
    left, top, right, bottom = NAME_BOX
    below = (left, round(bottom - share * (bottom - top)), right, bottom)
    curve = filled(below, (left, bottom, left + 4, ROWS), (0, ROWS - 60, COLUMNS, ROWS))
    name = Text(level_box(NAME_BOX, 0.9), Line("70910529", 0.99, legible=True), IDENTITY)
    assert plan(Found(texts=[name], traces=curve), CLINICAL).mask[place(below)].any() == goes


def test_what_may_be_letters_and_is_not_proven_stays_and_is_listed(plan: Plan) -> None:
    found = Found(texts=[UNREAD], area=filled((0, 0, 150, 100)))
    made = plan(found, CLINICAL)
    assert not made.mask.any()
    assert made.marks == ()
    assert made.in_doubt == (text(NAME_BOX, IDENTITY).box.box,)
    assert plan(found, CLINICAL, in_doubt=InDoubt.BOX).mask[place(NAME_BOX)].all()
    with pytest.raises(CleaningFailed, match="may hold letters") as failed:
        plan(found, CLINICAL, in_doubt=InDoubt.WITHHOLD)
    assert failed.value.places == made.in_doubt
    assert plan(on_tissue(), CLINICAL, in_doubt=InDoubt.WITHHOLD).mask.any()  # proven letters are in no doubt
    assert plan(found, RESEARCH).mask[place(NAME_BOX)].all()
    assert plan(found, RESEARCH).in_doubt == ()


LETTERS = tuple((left, 150, left + 4, 162) for left in range(20, 60, 8))
SIGN = (50, 150, 66, 164)
WORD = burn(np.zeros((ROWS, COLUMNS), np.uint8), "KOWAL", (20, 148), 255, 16) > 100
WORD_BOX = box_around(WORD, 0)


@pytest.mark.parametrize(
    ("words", "drawn", "area", "stays"),
    [
        *((word, (SIGN,), NOWHERE, True) for word in ("m", "P", "T", "0", "")),  # a maker's mark, a side
        *((word, (SIGN,), NOWHERE, False) for word in ("RL", "Li", "M", "F", "李")),
        ("K", (SIGN, (80, 150, 96, 164)), NOWHERE, False),  # letters far apart in a row
        ("K", (SIGN, (50, 178, 66, 192)), NOWHERE, False),  # and below each other
        ("K", (SIGN, (120, 178, 136, 192)), NOWHERE, True),
        ("K", ((170, 150, 186, 164),), NOWHERE, False),  # beside a letter that is harmless alone
        ("m", (), NOWHERE, True),  # found by the text detector
        *((word, (), NOWHERE, False) for word in ("RL", "M", "7", "李")),
    ],
)
def test_a_sign_that_stands_alone_stays_and_initials_and_letters_far_apart_go(
    plan: Plan, words: str, drawn: tuple[Box, ...], area: Box, stays: bool
) -> None:
    harmless = text((200, 150, 214, 164), Meaning.MEASUREMENT, words="T")
    found = Found(
        [harmless if drawn else text(SIGN, IDENTITY, words=words)] * bool(words),
        {TEXT: filled(*drawn)},
        area=filled(area),
        small=Line(words, 0.95, legible=bool(words)),
    )
    assert (not plan(found, CLINICAL).mask.any()) == stays


@pytest.mark.parametrize(("width", "stays"), [(60, True), (30, False)])
def test_drawn_letters_stay_where_most_of_them_lie_in_the_image_area(
    plan: Plan, width: int, stays: bool
) -> None:
    found = Found(drawn={TEXT: WORD}, dim_tissue=WORD, area=filled((0, 0, width, ROWS)))
    assert (not plan(found, CLINICAL).mask.any()) == stays


def test_a_line_that_the_mark_network_alone_has_drawn_is_read(plan: Plan) -> None:
    name, setting, one_letter = (
        plan(Found(drawn={TEXT: filled(*LETTERS)}, small=Line(words, confidence, legible=True)), CLINICAL)
        for words, confidence in (("KIM M", 0.9), ("Gn -2", 0.97), ("K", 0.97))
    )
    assert name.readings[0].text == "KIM M"
    assert one_letter.readings == ()
    assert not setting.mask.any()
    assert setting.kept[filled(*LETTERS)].all()


def test_a_curve_is_never_filled(plan: Plan) -> None:
    curve = filled((0, 39, COLUMNS, 42), (COLUMNS - 9, 39, COLUMNS, 190))
    for policy in CleaningPolicy:
        mask = plan(replace(scene(), traces=curve), policy).mask
        assert not (mask & curve).any()
        assert mask[place(NAME_BOX)].any()
    assert plan(replace(scene(), traces=curve), RESEARCH).mask[30, 30]


def test_too_much_of_the_picture_is_no_picture_but_a_banner_is_not_counted(plan: Plan) -> None:
    found = Found(texts=[text((0, 0, COLUMNS, 100), IDENTITY)])
    with pytest.raises(CleaningFailed, match="of the picture"):
        plan(found, CLINICAL)
    found.banner = filled((0, 0, COLUMNS, 120))
    assert plan(found, CLINICAL).banner[:110].all()
    planning.check_share(filled((0, 0, COLUMNS, 80)))
    with pytest.raises(CleaningFailed, match="at most 40%"):
        planning.check_share(filled((0, 0, COLUMNS, 81)))


def test_what_one_view_takes_no_other_keeps(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    founds = (scene(), Found([text(SETTING, IDENTITY, words="LEE")]))
    planned = Mock(side_effect=[plan(found, CLINICAL) for found in founds])
    monkeypatch.setattr(planning, "plan_removal", planned)
    made = plan(scene(), CLINICAL, views=2)
    # what is drawn is seen in the first view
    assert [call.kwargs["graphics"] for call in planned.mock_calls] == [True, False]
    assert shares(made.mask) == [1, 1, 0]
    assert not made.kept.any()
    assert not (made.not_tissue & made.mask).any()
    assert shares(made.not_tissue) == [0, 0, 1]
    assert [mark.box for mark in made.marks] == [CROSS, NAME_BOX, SETTING, SETTING]
    assert [reading.text for reading in made.readings] == ["KIM", "MI 0.9", "", "LEE"]


def test_views_may_take_too_much_together(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = (Found([text((left, 0, left + 150, 120), IDENTITY)]) for left in (0, 150))
    planned = Mock(side_effect=[plan(half, CLINICAL) for half in halves])
    monkeypatch.setattr(planning, "plan_removal", planned)
    with pytest.raises(CleaningFailed, match="of the picture"):
        plan(scene(), CLINICAL, views=2)


def test_a_drawn_word_that_the_text_detector_has_is_told_once(plan: Plan) -> None:
    found, other = scene(), (20, 150, 60, 170)
    found.marks = (Mark(TEXT, (22, 22, 118, 58), 0.6), Mark(TEXT, other, 0.6))
    found.drawn[TEXT] = filled(other)
    assert [mark.box for mark in plan(found, CLINICAL, in_doubt=InDoubt.BOX).marks if mark.kind is TEXT] == [
        other,
        NAME_BOX,
        SETTING,
    ]


def test_marks_are_cut_to_the_picture() -> None:
    beyond = [
        level_box((-5, -5, 20, 20), 1.2),
        level_box((COLUMNS + 5, 10, COLUMNS + 50, 20), 0.9),
        level_box((280, 190, 320, 220), 0.9),
    ]
    marks = planning.box_marks(beyond, (ROWS, COLUMNS))
    assert [(mark.kind, mark.box, mark.confidence) for mark in marks] == [
        (TEXT, (0, 0, 20, 20), 1.0),
        (TEXT, (280, 190, COLUMNS, ROWS), 0.9),
    ]


@pytest.mark.parametrize(
    ("words", "over_tissue", "beside", "stays"),
    [
        ("AV", True, None, True),
        ("LT HAND", True, None, True),
        ("AV", False, None, False),  # initials
        ("HAND", False, None, False),
        ("LT HAND", True, (125, 20, 200, 60), False),
        ("LT HAND", True, (20, 64, 120, 100), False),
        ("SMITH", True, None, False),
    ],
)
def test_a_valve_or_a_part_of_the_body_stays_over_tissue_away_from_a_name(
    plan: Plan, words: str, over_tissue: bool, beside: Box | None, stays: bool
) -> None:
    sure = Text(level_box(NAME_BOX, 0.9), Line(words, 0.97, legible=True), IDENTITY)
    names = [text(beside, IDENTITY, words="KIM MINJUN")] if beside else []
    whole = filled((0, 0, COLUMNS, ROWS)) if over_tissue else nothing()
    found = Found([sure, *names], {TEXT: filled(NAME_BOX)}, area=whole, dim_tissue=whole)
    assert (not plan(found, CLINICAL).mask[place(NAME_BOX)].any()) == stays


def test_a_table_of_results_stays_in_ultrasound_and_its_lines_go_together_if_one_must(plan: Plan) -> None:
    label, number, under, second = (
        (20, 100, 60, 116), (80, 100, 140, 116), (20, 124, 60, 140), (80, 124, 140, 140)
    )  # fmt: skip
    rows = [
        text(box, IDENTITY, words=words)
        for box, words in ((label, "Kist"), (number, "4.5 cm"), (under, "Duvar"), (second, "3.2 mm"))
    ]
    made = plan(Found(rows), CLINICAL)
    assert not made.mask.any()
    assert [set(row) for row in made.rows] == [set(made.lines[:2]), set(made.lines[2:])]
    always = filled((80, 100, 100, 116))
    one = planning.with_whole_lines(replace(made, banner=always, always=always), PICTURE_OF_STROKES)
    assert one.mask[place(label)].any()
    assert not one.mask[place(under)].any()
    assert {mark.box for mark in one.marks if mark.removed} == {label, number}


PICTURE_OF_STROKES = np.where(filled(*((x, 103, x + 3, 113) for x in range(24, 136, 8))), 255, 0).astype(
    np.uint8
)
