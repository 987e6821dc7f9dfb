"""Removal: laws of its plan, what cleaning leaves, the pipeline with its device rules and commands."""

import contextlib
import hashlib
import json
import logging
import resource
import subprocess
import sys
import tomllib
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import zxingcpp
from HersheyFonts import HersheyFonts
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from typer.testing import CliRunner, Result

from ai_pipeline.burnin import frames as cines
from ai_pipeline.burnin import pipeline as ultrasound
from ai_pipeline.burnin import planning, tools
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.decide.banner import find_banner, find_by_hand, find_device_banner
from ai_pipeline.burnin.decide.candidates import FAINT, FINEST, surroundings
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.outline import blocks, text_in_outline
from ai_pipeline.burnin.decide.texts import NOTHING_READ, Text
from ai_pipeline.burnin.devices.rules import (
    DEVICE_RULES,
    SHIPPED,
    conditions_of,
    device_boxes,
    device_note,
    matching_rules,
    read_rules,
)
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    CleaningPolicy,
    InDoubt,
    Mark,
    Mask,
    Picture,
    dilated,
    merged,
)
from ai_pipeline.burnin.find.annotation import index_of as place
from ai_pipeline.burnin.find.drawings import KINDS, Drawings
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox, TextReader, shared_reader
from ai_pipeline.burnin.frames import DisplayTables, outside_bytes, unchanged_outside
from ai_pipeline.burnin.tools import Classical, Tools, inpaint, shared_tools
from ai_pipeline.cli import app
from ai_pipeline.contract import (
    Accept,
    Decision,
    ImageHeader,
    ImageKind,
    Meaning,
    PixelArray,
    Refuse,
    SourceImage,
    UltrasoundRegion,
)
from ai_pipeline.errors import CleaningFailed, DeviceRuleError, PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models import registry
from ai_pipeline.pipelines import create
from tests.ultrasound_lab import BORN, ENCODINGS, NAME, NUMBER, SECRETS, Reader, told, write
from tests.unit.ai_pipeline.phantoms import (
    KOREAN_FONT,
    ArrayImage,
    burn,
    burned_box,
    cine,
    echo,
    flow,
    linear_echo,
    parts,
    silent,
    write_dicom,
)
from tests.unit.ai_pipeline.test_pipelines import pasted
from tests.unit.receive.objects import changed

ROWS, COLUMNS = 200, 300
CLINICAL, RESEARCH = CleaningPolicy.CLINICAL, CleaningPolicy.RESEARCH
TEXT, CALIPER, LOGO = AnnotationKind.TEXT, AnnotationKind.CALIPER, AnnotationKind.LOGO
NAME_BOX: Box = (20, 20, 120, 60)
SETTING: Box = (200, 20, 260, 40)
CROSS: Box = (150, 120, 160, 130)
NOWHERE: Box = (0, 0, 0, 0)


def nothing() -> Mask:
    return np.zeros((ROWS, COLUMNS), np.bool_)


def filled(*boxes: Box) -> Mask:
    mask = nothing()
    for box in boxes:
        mask[place(box)] = True
    return mask


def text(box: Box, meaning: Meaning, *, legible: bool = True, words: str = "MI 0.9") -> Text:
    return Text(level_box(box, 0.9), Line(words, 0.8, legible=legible), meaning)


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
        says: dict[str, Callable[..., Any]] = {
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
        tools = cast(Tools, SimpleNamespace(reader=reader, finder=None, threshold=0.5, device_rules=None))
        picture: Picture = np.where(found.dim_tissue, 60, 0).astype(np.uint8)
        header = ImageHeader("US", "", ROWS, COLUMNS, frames=1, photometric="MONOCHROME2", bits_stored=8)
        task = planning.RemovalTask(tools, policy, **how)
        if views:
            return planning.plan_views([picture] * views, header, task, graphics=graphics)
        return planning.plan_removal(picture, header, task, graphics=graphics)

    return made


def scene() -> Found:
    """A name, a setting, and a caliper."""
    return Found(
        texts=[text(NAME_BOX, Meaning.IDENTITY, words="KIM"), text(SETTING, Meaning.ACOUSTIC)],
        drawn={CALIPER: filled(CROSS)},
        marks=(Mark(CALIPER, CROSS, 0.7, meaning=Meaning.MEASUREMENT),),
    )


def test_clinical_takes_the_name_and_leaves_the_rest(plan: Plan) -> None:
    made = plan(scene(), CLINICAL)
    assert made.mask[place(NAME_BOX)].all()
    assert not made.kept[place(NAME_BOX)].any()
    assert not made.mask[place(SETTING)].any()
    assert not made.mask[place(CROSS)].any()
    assert made.kept[place(SETTING)].all()
    assert not made.not_tissue[place(NAME_BOX)].any()
    assert made.not_tissue[place(SETTING)].all()
    assert made.not_tissue[place(CROSS)].all()
    assert not made.banner.any()
    assert [(mark.kind, mark.box, mark.meaning, mark.removed, mark.confidence) for mark in made.marks] == [
        (CALIPER, CROSS, Meaning.MEASUREMENT, False, 0.7),
        (TEXT, NAME_BOX, Meaning.IDENTITY, True, 0.9),
        (TEXT, SETTING, Meaning.ACOUSTIC, False, 0.9),
    ]


def test_research_takes_all_of_it(plan: Plan) -> None:
    made = plan(scene(), RESEARCH)
    assert all(made.mask[place(box)].all() for box in (NAME_BOX, SETTING, CROSS))
    assert not made.kept.any()
    assert not made.not_tissue.any()
    assert [mark.removed for mark in made.marks] == [True, True, True]


def test_what_was_read_is_told_with_its_place_and_fate(plan: Plan) -> None:
    found = scene()
    found.texts.append(text((10, 150, 60, 166), Meaning.IDENTITY, legible=False))
    name, setting, cross = readings = plan(found, CLINICAL).readings
    assert (name.text, name.meaning, name.removed, name.bounds) == ("KIM", Meaning.IDENTITY, True, NAME_BOX)
    assert (setting.text, setting.removed, setting.confidence) == ("MI 0.9", False, 0.8)
    assert (cross.kind, cross.text, cross.bounds) == ("caliper", "", CROSS)
    assert {reading.source_uid for reading in readings} == {""}


def test_a_mask_reaches_a_share_of_the_line_beyond_its_box(plan: Plan) -> None:
    ticks = filled((123, 30, 126, 32), (118, 40, 122, 42))  # the second is of the letters
    mask = plan(Found([text(NAME_BOX, Meaning.IDENTITY)], {AnnotationKind.SCALE: ticks}), CLINICAL).mask
    # .15 of 32 rows, but for a tick beside the line.
    assert mask[20 - 5 : 60 + 5, 20 - 5 : 120 + 5].sum() == 50 * 110 - 4
    assert not mask[30:32, 123:126].any()
    assert not mask[13].any()
    assert not mask[67].any()
    assert not mask[:, 13].any()
    assert not mask[:, 127].any()


def test_on_other_pictures_than_ultrasound_only_text_is_taken(plan: Plan) -> None:
    found = scene()
    found.banner = filled((0, 0, COLUMNS, 10))
    made = plan(found, RESEARCH, graphics=False)
    assert not made.banner.any()
    assert not made.mask[place(CROSS)].any()
    assert made.mask[place(NAME_BOX)].all()


def test_a_banner_is_blacked_out_but_for_what_stays(plan: Plan) -> None:
    found = scene()
    found.banner = filled((0, 0, COLUMNS, 62))
    made = plan(found, CLINICAL)
    assert made.banner[place(NAME_BOX)].all()
    assert not made.banner[place(SETTING)].any()
    assert not made.mask[:62].any()
    assert made.kept[place(SETTING)].all()
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
    whole: Box = (0, 0, COLUMNS, 6)
    made = plan(Found(texts=[text(whole, Meaning.ACOUSTIC)], banner=filled((0, 0, COLUMNS, 5))), CLINICAL)
    assert not made.banner.any()
    assert AnnotationKind.BANNER not in {mark.kind for mark in made.marks}


@pytest.mark.parametrize("policy", CleaningPolicy)
def test_drawn_text_that_nobody_could_read_goes_as_a_block(plan: Plan, policy: CleaningPolicy) -> None:
    # what lies between the letters too
    assert plan(Found(drawn={TEXT: filled(*LETTERS)}), policy).mask[150:162, 20:56].all()


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
    assert not plan(Found(texts=[text(SETTING, Meaning.ACOUSTIC)], drawn={TEXT: rim}), CLINICAL).mask.any()
    assert plan(Found(drawn={TEXT: rim}), CLINICAL).mask[place((200, 44, 260, 46))].all()


@pytest.mark.parametrize(
    ("meaning", "share", "whole"),
    [(Meaning.ACOUSTIC, 0.2, False), (Meaning.ACOUSTIC, 0.1, True), (Meaning.IDENTITY, 0.2, True)],
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
    around: Box = (145, 115, 165, 135)
    for kind in (TEXT, LOGO):
        drawn = {CALIPER: filled(CROSS), kind: filled((146, 116, 146 + letters, 117))}
        made = plan(Found([text(around, Meaning.IDENTITY, legible=legible)], drawn), CLINICAL)
        assert (not made.mask[place(CROSS)].any()) == stays


def test_around_crosses_that_stay_nothing_is_taken_also_at_the_edge_of_the_picture(plan: Plan) -> None:
    around: Box = (145, 115, 165, 135)
    found = Found(texts=[text(around, Meaning.IDENTITY, legible=False)], drawn={CALIPER: filled(CROSS)})
    made = plan(found, CLINICAL)
    assert made.kept[115 - 5 : 135 + 5, 145 - 5 : 165 + 5].all()  # .3 of 20 rows
    assert not made.mask.any()
    assert plan(found, RESEARCH).mask[place(CROSS)].all()
    found.texts = [text((-5, -5, 14, 14), Meaning.IDENTITY, legible=False)]
    assert not plan(replace(found, drawn={CALIPER: filled((0, 0, 10, 10))}), CLINICAL).mask.any()


def test_letters_banner_and_device_bar_need_not_be_read(plan: Plan) -> None:
    found = Found(drawn={TEXT: filled(NAME_BOX)}, banner=filled((0, 0, 9, 9)), device=filled(SETTING))
    plan(found, CLINICAL)
    assert (found.known == (found.drawn[TEXT] | found.banner | found.device)).all()


def test_unread_text_where_nothing_is_drawn_is_identity_and_goes(plan: Plan) -> None:
    found = Found([text(NAME_BOX, Meaning.IDENTITY, legible=False)], {TEXT: filled(SETTING)})
    assert plan(found, CLINICAL).mask[place(NAME_BOX)].all()


def on_tissue() -> Found:
    """A name of which the mark network has drawn three strokes, all of it in the image area."""
    return Found(
        [text(NAME_BOX, Meaning.IDENTITY, words="KIM")],
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
    name = Text(level_box(NAME_BOX, 0.9), Line("70910529", 0.99, legible=True), Meaning.IDENTITY)
    assert plan(Found(texts=[name], traces=curve), CLINICAL).mask[place(below)].any() == goes


def test_what_may_be_letters_and_is_not_proven_stays_and_is_listed(plan: Plan) -> None:
    found = Found(texts=[text(NAME_BOX, Meaning.IDENTITY, legible=False)], area=filled((0, 0, 150, 100)))
    made = plan(found, CLINICAL)
    assert not made.mask.any()
    assert made.marks == ()
    assert made.in_doubt == (text(NAME_BOX, Meaning.IDENTITY).box.box,)
    assert plan(found, CLINICAL, in_doubt=InDoubt.BOX).mask[place(NAME_BOX)].all()
    with pytest.raises(CleaningFailed, match="may hold letters") as failed:
        plan(found, CLINICAL, in_doubt=InDoubt.WITHHOLD)
    assert failed.value.places == made.in_doubt
    assert plan(on_tissue(), CLINICAL, in_doubt=InDoubt.WITHHOLD).mask.any()  # proven letters are in no doubt
    assert plan(found, RESEARCH).mask[place(NAME_BOX)].all()
    assert plan(found, RESEARCH).in_doubt == ()


LETTERS: tuple[Box, ...] = tuple((left, 150, left + 4, 162) for left in range(20, 60, 8))
SIGN: Box = (50, 150, 66, 164)


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
        ("", LETTERS, (0, 0, 45, ROWS), True),  # most of it lies in the image area
        ("", LETTERS, (0, 0, 25, ROWS), False),
    ],
)
def test_a_sign_that_stands_alone_stays_and_initials_and_letters_far_apart_go(
    plan: Plan, words: str, drawn: tuple[Box, ...], area: Box, stays: bool
) -> None:
    harmless = text((200, 150, 214, 164), Meaning.MEASUREMENT, words="T")
    found = Found(
        [harmless if drawn else text(SIGN, Meaning.IDENTITY, words=words)] * bool(words),
        {TEXT: filled(*drawn)},
        area=filled(area),
        small=Line(words, 0.95, legible=bool(words)),
    )
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
    found = Found(texts=[text((0, 0, COLUMNS, 100), Meaning.IDENTITY)])
    with pytest.raises(CleaningFailed, match="of the picture"):
        plan(found, CLINICAL)
    found.banner = filled((0, 0, COLUMNS, 120))
    assert plan(found, CLINICAL).banner[:110].all()
    planning.check_share(filled((0, 0, COLUMNS, 80)))
    with pytest.raises(CleaningFailed, match="at most 40%"):
        planning.check_share(filled((0, 0, COLUMNS, 81)))


def test_what_one_view_takes_no_other_keeps(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    founds = (scene(), Found([text(SETTING, Meaning.IDENTITY, words="LEE")]))
    planned = Mock(side_effect=[plan(found, CLINICAL) for found in founds])
    monkeypatch.setattr(planning, "plan_removal", planned)
    made = plan(scene(), CLINICAL, views=2)
    # what is drawn is seen in the first view
    assert [call.kwargs["graphics"] for call in planned.mock_calls] == [True, False]
    assert made.mask[place(NAME_BOX)].all()
    assert made.mask[place(SETTING)].all()
    assert not made.kept.any()
    assert not (made.not_tissue & made.mask).any()
    assert made.not_tissue[place(CROSS)].all()
    assert [mark.box for mark in made.marks] == [CROSS, NAME_BOX, SETTING, SETTING]
    assert [reading.text for reading in made.readings] == ["KIM", "MI 0.9", "", "LEE"]


def test_views_may_take_too_much_together(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = [text((left, 0, left + 150, 120), Meaning.IDENTITY) for left in (0, 150)]
    planned = Mock(side_effect=[plan(Found([half]), CLINICAL) for half in halves])
    monkeypatch.setattr(planning, "plan_removal", planned)
    with pytest.raises(CleaningFailed, match="of the picture"):
        plan(scene(), CLINICAL, views=2)


def test_a_drawn_word_that_the_text_detector_has_is_told_once(plan: Plan) -> None:
    found, other = scene(), (20, 150, 60, 170)
    found.marks = (Mark(TEXT, (22, 22, 118, 58), 0.6), Mark(TEXT, other, 0.6))
    found.drawn[TEXT] = filled(other)
    assert [mark.box for mark in plan(found, CLINICAL).marks if mark.kind is TEXT] == [
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


# Pictures and cines that cleaning was not made for: the name goes or nothing leaves

WHITE = (255, 255, 255)
LITTLE = (120, 200)  # hardly more than the text takes: most of the time is the search for it


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture(scope="module")
def quick() -> Reader:
    return Reader(side=240)


def cleaned_or_nothing(
    image: SourceImage, policy: CleaningPolicy = CleaningPolicy.CLINICAL
) -> CleaningResult | None:
    """The result, its pixels outside the mask proven to be the source's; None where nothing leaves."""
    try:
        result = clean(image, silent, policy=policy)
    except CleaningFailed as refusal:
        assert told(repr((refusal, refusal.__cause__, refusal.__context__)).upper()) == []  # names nobody
        return None
    frames, mask = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    assert result.image.verified
    assert np.array_equal(
        frames[~mask], np.stack([image.stored(index) for index in range(image.header.frames)])[~mask]
    )
    return result


def shown(image: ArrayImage, result: CleaningResult, frame: int = 0) -> Picture:
    """A cleaned frame as a viewer shows it."""
    return image.show(np.asarray(result.image.frames[frame]))


def covered(before: np.ndarray, burned: np.ndarray, result: CleaningResult, frame: int = 0) -> float:
    """Share of what was written that the mask holds."""
    written = before != burned if before.ndim == 2 else (before != burned).any(axis=2)
    return float((np.asarray(result.mask.frames[frame]) > 0)[written].mean())


def spectrum() -> tuple[Picture, np.ndarray, list[tuple[slice, slice]]]:
    """Colour flow above, a Doppler spectrum below with its velocities; where flow and labels are."""
    above, vessel = flow(echo(size=(300, 480)))
    made, generator = np.concatenate([above, np.zeros((160, 480, 3), np.uint8)]), np.random.default_rng(3)
    for column in range(30, 420):
        height = 18 + round(60 * abs(np.sin(column / 31.0)) ** 3)
        made[400 - height : 400, column] = generator.integers(70, 230, (height, 1))
    made[300:400] = cv2.GaussianBlur(made[300:400], (5, 5), 1.2)
    made[400, 30:420] = 90
    labels = []
    for text, row in (("60", 322), ("40", 345), ("20", 368), ("-20", 415), ("cm/s", 438)):
        before, made = made, burn(made, text, (430, row), WHITE, 14)
        labels.append(burned_box(before, made))
    return made, np.pad(vessel, ((0, 160), (0, 0))), labels


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (0, 90)], ids=["paper", "screen", "faint"])
def test_of_a_frame_that_is_all_text_nothing_legible_leaves(paper: int, ink: int, quick: Reader) -> None:
    made: Picture = np.full((160, 300), paper, np.uint8)
    for line, text in enumerate(((NAME, "BORN " + BORN, "ID " + NUMBER) * 3)[:8]):
        made = burn(made, f"{text}   {text}", (2, 20 * line), ink, 17)  # from edge to edge
    image = ArrayImage(made[None])
    result = cleaned_or_nothing(image)
    assert result is None or (paper == 0 and quick.secrets(shown(image, result)) == [])


CLEAN_PICTURES: dict[str, Callable[[], ArrayImage]] = {
    "grey": lambda: ArrayImage(echo(11, LITTLE)[None]),
    "colour flow": lambda: ArrayImage(flow(echo(12, LITTLE))[0][None], photometric="RGB"),
    "16 bit": lambda: ArrayImage((echo(13, LITTLE).astype(np.uint16) * 257)[None], bits_stored=16),
    "black": lambda: ArrayImage(np.zeros((1, *LITTLE), np.uint8)),
    "white": lambda: ArrayImage(np.full((1, *LITTLE, 3), 255, np.uint8), photometric="RGB"),
}


@pytest.mark.parametrize("kind", CLEAN_PICTURES)
def test_a_picture_without_text_comes_back_as_it_was(kind: str) -> None:
    image = CLEAN_PICTURES[kind]()
    result = clean(image, silent)
    assert result.image.frames.tobytes() == image.frames.tobytes()
    assert not result.mask.frames.any()
    assert not any(mark.removed for mark in result.marks)


@pytest.mark.parametrize("kind", ["colour flow", "16 bit"])
def test_research_takes_hardly_anything_from_a_clean_picture(kind: str) -> None:
    result = cleaned_or_nothing(CLEAN_PICTURES[kind](), CleaningPolicy.RESEARCH)
    assert result is not None
    assert (result.mask.frames > 0).mean() <= 0.002


def test_noise_is_left_alone_or_refused() -> None:
    result = cleaned_or_nothing(
        ArrayImage(np.random.default_rng(1).integers(0, 255, (1, 240, 320), np.uint8))
    )
    assert result is None or (result.mask.frames > 0).mean() < 0.02


@pytest.mark.parametrize("policy", [CleaningPolicy.CLINICAL, CleaningPolicy.RESEARCH])
def test_flow_and_spectrum_are_not_eaten_and_an_axis_label_is_whole_or_gone(policy: CleaningPolicy) -> None:
    made, flows, labels = spectrum()
    result = cleaned_or_nothing(
        ArrayImage(burn(made, NAME, (8, 4), WHITE, 16)[None], photometric="RGB"), policy
    )
    assert result is not None
    mask = result.mask.frames[0] > 0
    assert mask[flows].mean() <= 0.02
    assert mask[300:, 30:420].mean() <= 0.02
    for spot in labels:
        share = mask[spot][made[spot].max(axis=2) > 128].mean()
        assert share == 0.0 or share >= 0.95


def turned(before: Picture, way: int) -> Picture:
    """The name written so that it stands upright only once the picture is turned."""
    return np.rot90(burn(np.rot90(before, way).copy(), NAME, (30, 40), 255, 18), -way).copy()


def in_other_letters() -> tuple[Picture, Picture]:
    burned, lines = (
        echo(),
        {"홍길동": (10, 8), "김민준 여 1970-01-02": (150, 180), "王小明 山田 太郎": (10, 330)},
    )
    for text, spot in lines.items():
        burned = burn(burned, text, spot, 255, 22, font_file=KOREAN_FONT)
    return echo(), burned


def written_often() -> Picture:
    """Upside down, at the picture's edge, very small, dark grey on black, and on the sector's edge."""
    burned = burn(echo(), NAME, (120, 20), 255, 18, upside_down=True)
    for spot, grey, size in (
        ((0, -4), 255, 18),
        ((8, 40), 255, 9),
        ((8, 320), 28, 18),
        ((40, 150), 255, 18),
    ):
        burned = burn(burned, NAME, spot, grey, size)
    return burned


def written_by_hand_and_along_the_sides() -> Picture:
    burned = turned(turned(echo(), 1), 3)
    for spot in ((100, 10), (150, 180)):  # in the banner and on tissue
        burned = handwritten(burned, "Maria Kowalska", spot, 26)
    return burned


BRIGHT = np.asarray(170 + echo() * 0.3, np.uint8)  # tissue of 170 to 230
DARK = 255 - echo(size=LITTLE)
HARD_PLACES: dict[str, Callable[[], tuple[Picture, Picture]]] = {
    "small, faint, upside down and on edges": lambda: (echo(), written_often()),
    "white and grey on bright tissue": lambda: (
        BRIGHT,
        burn(burn(BRIGHT, NAME, (120, 150), 255, 18), NAME, (120, 220), 120, 18),
    ),
    "dark on light": lambda: (DARK, burn(DARK, NAME, (12, 10), 0, 18)),
    "by hand, upwards and downwards": lambda: (echo(), written_by_hand_and_along_the_sides()),
    "very large": lambda: (echo(), burn(echo(), "KOWALSKA", (8, 8), 255, 60)),
    "in a tall strip": lambda: in_a_strip((320, 150)),
    "in other letters": in_other_letters,
}


def in_a_strip(shape: tuple[int, int]) -> tuple[Picture, Picture]:
    before = np.random.default_rng(4).integers(0, 60, shape).astype(np.uint8)
    return before, burn(before, NAME, (20, 3), 255, 16)


@pytest.mark.parametrize("spot", HARD_PLACES)
def test_a_name_goes_wherever_and_however_it_is_written(spot: str, reader: Reader) -> None:
    before, burned = HARD_PLACES[spot]()
    image = ArrayImage(burned[None])
    result = cleaned_or_nothing(image)
    assert result is not None
    assert covered(before, burned, result) >= 0.95
    assert reader.secrets(shown(image, result)) == []
    assert (result.mask.frames > 0).mean() < 0.2


def test_a_name_goes_from_a_strip_of_hardly_more_than_it_or_nothing_leaves() -> None:
    before, burned = in_a_strip((24, 900))
    result = cleaned_or_nothing(ArrayImage(burned[None]))
    assert result is None or covered(before, burned, result) >= 0.95


def handwritten(picture: Picture, text: str, spot: tuple[int, int], size: int) -> Picture:
    """Joined strokes (Hershey's script), slanted and a little unsteady, as on a touch screen."""
    font, made, generator = HersheyFonts(), picture.copy(), np.random.default_rng(2)
    font.load_default_font("scripts")
    font.normalize_rendering(size)
    for stroke in font.strokes_for_text(text):
        points = np.array(stroke) + generator.normal(0, 0.4, (len(stroke), 2))
        points[:, 1] += points[:, 0] * 0.03
        # normalize_rendering puts the base line at 0.
        placed = np.rint((points + np.array((spot[0], spot[1] + size))) * 8).astype(np.int32)
        cv2.polylines(made, [placed], False, 255, 2, cv2.LINE_AA, 3)
    return made


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_in_a_chest_x_ray_goes_when_asked_for(quick: Reader) -> None:
    y, x = np.mgrid[0:160, 0:300]
    before = 1800 + 1200 * np.sin(x / 80.0) * np.cos(y / 110.0)
    ink = burn(np.zeros(before.shape, np.uint8), f"{NAME} {BORN}", (20, 120), 255, 18)
    burned = np.where(ink > 100, 4095, before).astype(np.uint16)
    image = ArrayImage(burned[None], modality="DX", bits_stored=12)
    assert quick.secrets(image.display()) != []
    cleaned, mask = create("ultrasound").run([image], silent, {"any_modality": True}).images
    assert (cleaned.kind, mask.kind) == (ImageKind.CLEANED, ImageKind.MASK)
    assert quick.secrets(image.show(np.asarray(cleaned.frames[0]))) == []
    outside = np.asarray(mask.frames[0]) == 0
    assert np.array_equal(cleaned.frames[0][outside], burned[outside])


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (16, 16), (1, 1, 3)])
def test_tiny_pictures_are_left_alone_or_refused(shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(4).integers(0, 60, shape).astype(np.uint8)
    result = cleaned_or_nothing(
        ArrayImage(samples[None], photometric="RGB" if len(shape) == 3 else "MONOCHROME2")
    )
    assert result is None or not result.mask.frames.any()


WINDOWS: dict[str, dict[str, Any]] = {
    "no width": {"WindowCenter": 128, "WindowWidth": 0},
    "not a number": {"WindowCenter": float("nan"), "WindowWidth": float("nan")},
    "far away": {"WindowCenter": 1e9, "WindowWidth": 1},
    "brighter than the name": {"WindowCenter": 4050, "WindowWidth": 50},
    "darker than the name and its box": {"WindowCenter": 60, "WindowWidth": 60, "VOILUTFunction": "SIGMOID"},
    "far wider than the samples": {"WindowCenter": 32768, "WindowWidth": 65536},
    "no slope": {"RescaleSlope": 0, "RescaleIntercept": 0},
}


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.filterwarnings("ignore:Value .* is not valid")
def test_no_window_hides_a_name_that_another_window_shows(window: str, tmp_path: Path, quick: Reader) -> None:
    burned = echo(size=LITTLE).astype(np.uint16)
    burned[4:32] = np.where(burn(np.zeros((28, LITTLE[1]), np.uint8), NAME, (10, 4)) > 127, 3800, 1500)
    path = write_dicom(tmp_path / "window.dcm", burned[None], BitsStored=12, HighBit=11, **WINDOWS[window])
    with contextlib.suppress(PixelError):
        result = cleaned_or_nothing(open_dicom(path))
        assert (
            result is None or quick.secrets((np.asarray(result.image.frames[0]) >> 4).astype(np.uint8)) == []
        )


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("letters", "ground"),
    [((220, 0, 0), (0, 220, 0)), ((0, 0, 255), (255, 0, 0)), ((255, 0, 255), (0, 0, 255))],
    ids=["red on green", "blue on red", "magenta on blue"],
)
def test_a_name_that_only_its_colour_shows_goes_or_nothing_leaves(
    letters: tuple[int, int, int], ground: tuple[int, int, int], quick: Reader
) -> None:
    result = cleaned_or_nothing(
        ArrayImage(
            np.where(
                burn(np.zeros(LITTLE, np.uint8), NAME, (10, 50))[..., None] > 127, letters, ground
            ).astype(np.uint8)[None],
            photometric="RGB",
        )
    )
    assert result is None or quick.secrets(np.asarray(result.image.frames[0])) == []


@pytest.mark.parametrize("ink", [(230, 80, 70), (255, 160, 20), (240, 30, 30)])
def test_a_name_upside_down_in_the_colours_of_flow_goes(ink: tuple[int, int, int], quick: Reader) -> None:
    written = burn(flow(echo(size=(300, 480)))[0], NAME, (150, 150), ink, 20, upside_down=True)
    assert not quick.secrets(
        parts(clean(ArrayImage(written[None], photometric="RGB"), silent))[0][::-1, ::-1]
    )


def test_where_filling_makes_up_a_colour_it_is_grey_and_shows_no_letters() -> None:
    picture = np.zeros((300, 480, 3), np.uint8)
    picture[80:] = echo(size=(220, 480))[..., None]
    picture[6:26, :200] = picture[30:50, :470] = (245, 235, 10)
    written = burn(picture, NAME, (206, 6), WHITE, 20)
    cleaned, mask = parts(clean(ArrayImage(written[None], photometric="RGB"), silent))
    assert mask[(written != picture).any(axis=2)].all()
    (colour,) = np.unique(cleaned[:30, 206:][mask[:30, 206:]], axis=0)
    assert np.ptp(colour) == 0


def test_a_name_in_a_coloured_box_goes_and_the_box_is_no_bar_that_is_put_back(quick: Reader) -> None:
    below = np.full((40, 480, 3), (40, 60, 110), np.uint8)
    written = burn(np.concatenate([flow(echo(size=(300, 480)))[0], below]), NAME, (4, 304), WHITE, 28)
    cleaned, _ = parts(clean(ArrayImage(written[None], photometric="RGB"), silent))
    assert quick.secrets(written)
    assert not quick.secrets(cleaned)


@pytest.mark.parametrize(("bits", "stored_as"), [(4, np.uint8), (8, np.uint8), (12, np.uint16)])
def test_colour_is_read_as_a_viewer_shows_it(bits: int, stored_as: type[np.integer[Any]]) -> None:
    samples = (np.random.default_rng(1).random((1, 20, 30, 3)) * 2**bits).astype(stored_as)
    image = ArrayImage(samples, photometric="RGB", bits_stored=bits)
    tables = DisplayTables.from_frame(image.stored(), image.display())
    assert np.array_equal(tables.views(image.stored())[0], image.display())


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("form", [zxingcpp.BarcodeFormat.QRCode, zxingcpp.BarcodeFormat.Code128])
@pytest.mark.parametrize(
    ("light", "dark"),
    [((255, 255, 255), (0, 0, 0)), ((0, 200, 0), (200, 0, 0))],
    ids=["black", "as bright as its ground"],
)
def test_a_code_for_machines_goes_as_a_name_does_or_nothing_leaves(
    form: zxingcpp.BarcodeFormat, frames: int, light: tuple[int, int, int], dark: tuple[int, int, int]
) -> None:
    code = np.asarray(zxingcpp.create_barcode(f"{NAME} {BORN}", form).to_image())
    burned = np.repeat(np.stack(cine(frames, size=(260, 640)))[..., None], 3, axis=3)
    burned[:, 100 : 100 + code.shape[0], 20 : 20 + code.shape[1]] = np.where(code[..., None] > 0, light, dark)
    result = cleaned_or_nothing(ArrayImage(burned, photometric="RGB"))
    assert all(map(zxingcpp.read_barcodes, burned)), "a black one goes"
    assert result or any(dark), "a black one goes"
    assert not any(map(zxingcpp.read_barcodes, np.array(result.image.frames) if result else ()))


def test_a_still_that_takes_more_memory_than_there_may_be_is_refused_by_its_size_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = ArrayImage(np.broadcast_to(np.uint8(0), (1, 5000, 8000)))
    monkeypatch.setattr(ArrayImage, "stored", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2304 << 20, 2304 << 20))
    with pytest.raises(CleaningFailed, match="8000 × 5000 pixels: to clean it takes 3500 MiB"):
        clean(image, silent)


def test_a_small_still_is_cleaned_whatever_memory_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512 << 20, 512 << 20))
    assert clean(ArrayImage(echo(size=LITTLE)[None]), silent).image.verified


LONG, WARM = 24, 8  # frames


@pytest.mark.usefixtures("less_enlarged", "short_windows")
@pytest.mark.parametrize(("shown_in", "colour"), [(3, True), (5, False)])
def test_a_name_in_one_frame_goes_whichever_it_is(shown_in: int, colour: bool, quick: Reader) -> None:
    frames = [flow(frame)[0] if colour else frame for frame in cine(6, size=LITTLE)]
    frames[shown_in] = burn(frames[shown_in], NAME, (30, 70), WHITE if colour else 255, 16)
    image = ArrayImage(np.stack(frames), photometric="RGB" if colour else "MONOCHROME2")
    assert frames_with_secrets(image.frames, [shown_in], quick) == [shown_in]
    assert left_over(image, [shown_in], quick) == []


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    "written",
    [
        lambda frame, number: burn(frame, NAME, (10 + 9 * number, 20 + 11 * number), 255, 16),
        lambda frame, number: burn(frame, NAME, (8, 10), 80 * number, 16),
        lambda frame, number: burn(
            frame, (NAME, "BORN " + BORN, "ID " + NUMBER)[number % 3], (8, 10), 255, 16
        ),
        lambda frame, number: labelled(np.minimum(frame, 150), number, 195, 250),
        lambda frame, number: labelled(np.maximum(frame, 70), number, 50, 5),
        lambda _, number: labelled(linear_echo(number, (300, 500))[70:190, 120:320], number, 150, 90),
    ],
    ids=[
        "moves",
        "fades in",
        "takes turns with others",
        "is brighter than the frames that are searched",
        "is darker than these",
        "is as dim as the tissue in other frames",
    ],
)
def test_a_name_that_moves_or_changes_or_takes_turns_goes_from_every_frame(
    written: Callable[[Picture, int], Picture], quick: Reader
) -> None:
    frames = np.stack([written(frame, number) for number, frame in enumerate(cine(4, size=LITTLE))])
    assert left_over(ArrayImage(frames), (1, 2, 3), quick) == []


def labelled(frame: Picture, number: int, ink: int, paper: int) -> Picture:
    """The frame with the name on a label over its tissue, if it is the second one: no sampled frame."""
    label = burn(np.full_like(frame, paper), NAME, (20, 66), ink, 16)[60:90]
    return np.concatenate([frame[:60], label, frame[90:]]) if number == 1 else frame


def left_over(image: ArrayImage, numbers: Sequence[int], reader: Reader) -> list[int]:
    """Frames in which a secret can be read after cleaning; none where nothing leaves."""
    result = cleaned_or_nothing(image)
    return frames_with_secrets(np.asarray(result.image.frames), numbers, reader) if result else []


def frames_with_secrets(frames: np.ndarray, numbers: Sequence[int], reader: Reader) -> list[int]:
    return [number for number in numbers if reader.secrets(np.asarray(frames[number]))]


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    "left", [0.02, 0.5, 0.97], ids=["its header", "half of it", "all but its last bytes"]
)
def test_of_a_cine_with_a_damaged_frame_nothing_leaves(left: float, tmp_path: Path) -> None:
    path = write(ENCODINGS["cine-jpeg-ybr-full-422"], tmp_path)
    ds = dcmread(path)
    frames = list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
    frames[2] = frames[2][: int(len(frames[2]) * left)]
    changed(ds, PixelData=encapsulate(frames)).save_as(path)
    with pytest.raises(PixelError):
        create("ultrasound").run([open_dicom(path)], silent, {})


@pytest.mark.usefixtures("less_enlarged", "short_windows")
def test_a_long_cine_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """What frames and arrays take; the pages of the temporary file can be given back, and are not counted."""
    base = np.stack([burn(flow(echo(seed, LITTLE))[0], NAME, (12, 10), WHITE, 16) for seed in range(4)])
    short, long = (
        write_dicom(tmp_path / f"{count}.dcm", np.tile(base, (count // 4, 1, 1, 1))) for count in (WARM, LONG)
    )
    peaks = []
    tracemalloc.start()
    try:
        for path in (short, short, long):  # the first also loads what stays
            tracemalloc.reset_peak()
            held, _ = tracemalloc.get_traced_memory()
            clean(open_dicom(path), silent)
            peaks.append(tracemalloc.get_traced_memory()[1] - held)
    finally:
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 0.4 * LONG * base[0].nbytes


@pytest.mark.usefixtures("less_enlarged")
def test_nothing_that_the_pipeline_says_repeats_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    images = [open_dicom(write(ENCODINGS[name], tmp_path)) for name in ("still-jpeg-rgb", "cine-grey")]
    result = create("ultrasound").run(images, silent, {})
    assert len(result.images) == 4
    assert told("".join(one.text for one in result.readings)) != []
    said = "".join((repr(result), caplog.text, *capfd.readouterr()))
    assert [secret for secret in SECRETS if secret in said] == []


SMALL, TINY = (240, 320), (160, 240)


def legible(picture: Picture, least: int = 1) -> list[str]:
    """The texts of so many letters and more that rapidocr reads, at two sizes."""
    reader = shared_reader()
    return [
        line.text
        for scale in (1.0, 0.7)
        for box in reader.find(picture, scale)
        if (line := reader.read(picture, box, least)).legible
    ]


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("dtype", "bits", "photometric"),
    [(np.uint16, 12, "MONOCHROME2"), (np.int16, 16, "MONOCHROME1")],
)
def test_deep_grey_is_filled_in_its_own_type(dtype: type[np.integer], bits: int, photometric: str) -> None:
    low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    deep = (burn(echo(size=TINY)).astype(np.int64) * (2**bits - 1) // 255 + low).astype(dtype)
    image = ArrayImage(deep[None], modality="CR", photometric=photometric, bits_stored=bits)
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    after, mask = parts(result)
    assert (after.dtype, result.image.photometric) == (dtype, photometric)
    assert mask.any()
    assert np.array_equal(after[~mask], deep[~mask])
    assert legible(image.show(after)) == []


@pytest.mark.usefixtures("less_enlarged")
def test_calipers_stay_on_an_x_ray() -> None:
    below = flow(echo(size=(200, 300)))[0]
    marked = burn(burn(below, "+", (160, 120), (255, 230, 0), 20), NAME, (10, 8), (255, 255, 255))
    image = ArrayImage(marked[None], modality="DX", photometric="RGB")
    assert {mark.kind for mark in clean(image, silent, policy=RESEARCH).marks} == {TEXT}


class Sees(TextReader):
    """Takes a place for text, another one of these each time, and reads this line in it."""

    def __init__(self, line: Line, *places: Box) -> None:
        self.line, self.places = line, cycle(places)

    def find(self, picture: Picture, scale: float = 1.0, within: object = None) -> list[TextBox]:
        return [level_box(next(self.places), 0.9)]

    def read(self, picture: Picture, box: TextBox, least: int = 1) -> Line:
        return self.line


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("by_hand", [(), ((150, 120, 210, 160),)], ids=["", "beside a box of a person"])
def test_where_text_cannot_be_got_rid_of_nothing_leaves_and_the_places_are_said(
    by_hand: tuple[Box, ...],
) -> None:
    """As if filling never helped."""
    reader = Sees(
        Line("KIM MINJUN", 0.99, legible=True), *((10, top, 60, top + 9) for top in range(10, 230, 20))
    )
    stubborn = replace(shared_tools(), reader=reader)
    with pytest.raises(CleaningFailed, match="still found") as failed:
        clean(ArrayImage(echo(size=SMALL)[None], removed_by_hand=by_hand), silent, tools=stubborn)
    assert failed.value.places
    assert all(0 <= x < right <= 320 and 0 <= y < low <= 240 for x, y, right, low in failed.value.places)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.debian("tesseract-ocr")
def test_a_second_engine_reads_nothing_either(tmp_path: Path) -> None:
    burned = burn(burn(echo(size=(200, 300))), "ID 12345678", (12, 176), 255, 16)
    result = clean(ArrayImage(burned[None]), silent, policy=CleaningPolicy.RESEARCH)
    assert "12345678" in tesseract(tmp_path / "before.png", burned)
    words = tesseract(tmp_path / "after.png", np.asarray(result.image.frames[0])).split()
    assert [word for word in words if sum(c.isalnum() for c in word) >= 3] == []


def tesseract(path: Path, picture: PixelArray) -> str:
    """What tesseract reads in the picture, enlarged twice."""
    image = Image.fromarray(np.asarray(picture))
    image.resize((image.width * 2, image.height * 2)).save(path)
    return subprocess.run(
        ["tesseract", path, "-", "--psm", "11"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_filling_keeps_type_and_every_other_pixel(dtype: type[np.generic]) -> None:
    source, filler = (echo().astype(np.float64) * 3 - 100).astype(dtype), Classical("navier-stokes")
    mask = np.zeros(source.shape, np.bool_)
    mask[100:140, 200:260] = True
    filled = inpaint(source, mask, filler)
    assert unchanged_outside(source, filled, mask)
    assert not np.array_equal(source, filled)
    assert not unchanged_outside(source, inpaint(source, ~mask, filler), mask)


@pytest.mark.usefixtures("less_enlarged")
def test_a_hole_in_black_beside_writing_that_stays_is_black() -> None:
    source, filler = burn(np.zeros((60, 200), np.uint8), "MI 0.9", (70, 20)), Classical("navier-stokes")
    mask = np.zeros(source.shape, np.bool_)
    mask[15:45, 20:76] = True
    assert inpaint(source, mask, filler)[mask].max() > 20
    assert inpaint(source, mask, filler, source > 0)[mask].max() == 0


@pytest.mark.usefixtures("less_enlarged")
def test_ticks_near_each_other_are_told_as_one_ruler() -> None:
    ticks = [Mark(AnnotationKind.MARKER, (10, y, 14, y + 2), y / 100) for y in range(0, 100, 10)]
    text = Mark(AnnotationKind.TEXT, (12, 5, 40, 15), 0.9)
    assert merged([*ticks, text], 12) == (Mark(AnnotationKind.MARKER, (10, 0, 14, 92), 0.9), text)


@pytest.fixture
def short_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cines, "WINDOW", 4)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.usefixtures("short_windows")
def test_standing_marks_and_a_name_in_one_frame_are_removed_and_nothing_else() -> None:
    frames = [burn(frame, "HOSPITAL 12:34", (8, 6), 255, 14) for frame in cine(5, size=TINY)]
    frames[1] = burn(frames[1], "KIM MINJUN", (8, 130), 255, 16)
    image = ArrayImage(np.stack(frames))
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    after, mask = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    assert [legible(after[index]) for index in (1, 4)] == [[], []]
    assert np.array_equal(after[~mask], image.frames[~mask])
    texts = [mark for mark in result.marks if mark.kind is AnnotationKind.TEXT]
    assert {(mark.frame, mark.box[1] > 110) for mark in texts} == {(1, False), (1, True)}


@pytest.mark.usefixtures("less_enlarged")
def test_a_cine_without_marks_is_unchanged() -> None:
    image = ArrayImage(np.stack(cine(3, size=TINY)))
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    assert np.array_equal(result.image.frames, image.frames)
    assert isinstance(result.image.frames, np.memmap)


@pytest.mark.usefixtures("less_enlarged")
def test_a_cancelled_cine_stops() -> None:
    with pytest.raises(InterruptedError):
        clean(ArrayImage(np.stack(cine(2, size=TINY))), Mock(side_effect=InterruptedError), policy=RESEARCH)


def annotated() -> Picture:
    """A name at the top, a setting and a measurement beside the picture, two calipers in it."""
    picture = np.repeat(echo()[..., None], 3, axis=2)
    picture = burn(picture, "KIM MINJUN 12.03.1967", (10, 8), (255, 255, 255), 18)
    picture = burn(picture, "MI 0.9", (400, 60), (255, 255, 255), 18)
    picture = burn(picture, "1 D 3.45 cm", (10, 320), (255, 230, 0), 18)
    return burn(burn(picture, "+", (170, 160), (255, 230, 0), 22), "+", (300, 150), (255, 230, 0), 22)


@pytest.fixture(scope="module")
def cleaned_by() -> dict[CleaningPolicy, CleaningResult]:
    """What is left of the annotated picture."""
    image = ArrayImage(annotated()[None], photometric="RGB")
    return {policy: clean(image, silent, policy=policy) for policy in CleaningPolicy}


Cleaned = dict[CleaningPolicy, CleaningResult]


@pytest.mark.usefixtures("less_enlarged")
def test_clinical_takes_the_name_and_leaves_what_a_reader_needs(cleaned_by: Cleaned) -> None:
    result = cleaned_by[CleaningPolicy.CLINICAL]
    after, mask = parts(result)
    words = " ".join(legible(after))
    assert [text for text in ("KIM", "1967", "MI", "3.45") if text in words] == ["MI", "3.45"]
    said = {one.text.replace(" ", ""): (one.meaning, one.removed) for one in result.readings}
    assert said["MI0.9"] == (Meaning.ACOUSTIC, False)
    assert said["1D3.45cm"] == (Meaning.MEASUREMENT, False)
    assert not mask[140:200, 160:330].any()
    assert "kept" in {note.name for note in result.notes}


@pytest.mark.usefixtures("less_enlarged")
def test_research_takes_everything(cleaned_by: Cleaned) -> None:
    result = cleaned_by[CleaningPolicy.RESEARCH]
    assert not any(word in " ".join(legible(parts(result)[0])) for word in ("KIM", "1967", "MI", "3.45"))
    assert all(reading.removed for reading in result.readings)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.usefixtures("short_windows")
def test_a_setting_that_stays_in_a_cine_stays_only_while_it_says_the_same() -> None:
    frames = [burn(frame, "MI 0.9", (8, 6), 255, 18) for frame in cine(6, size=TINY)]
    frames[4] = burn(cine(6, size=TINY)[4], "KIM MINJUN", (8, 6), 255, 18)
    after = clean(ArrayImage(np.stack(frames)), silent).image.frames
    assert "KIM" not in " ".join(legible(np.asarray(after[4])))
    assert "MI" in " ".join(legible(np.asarray(after[2])))


@pytest.mark.usefixtures("less_enlarged")
def test_what_was_read_is_not_shown_by_any_repr(cleaned_by: Cleaned) -> None:
    result = cleaned_by[CleaningPolicy.CLINICAL]
    assert any("KIM" in reading.text for reading in result.readings)
    assert "KIM" not in f"{result!r} {result.readings!r} {result.notes!r} {result.marks!r}"


@pytest.mark.usefixtures("less_enlarged")
def test_the_mask_does_not_spell_what_it_hides(cleaned_by: Cleaned) -> None:
    letters = burn(np.zeros((120, 400), np.uint8), "KIM MINJUN", (20, 40), 255, 26) > 100
    spelled = [
        bool(text_in_outline(mask, shared_reader()).any())
        for mask in (letters, blocks(letters), parts(cleaned_by[CleaningPolicy.RESEARCH])[1])
    ]
    assert spelled == [True, False, False]


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_that_appears_when_brighter_text_is_filled_goes_too(tmp_path: Path) -> None:
    full, black = 2**12 - 1, np.zeros((384, 640), np.uint8)
    name = burn(black, "KIM MINJUN 1970-01-02", (360, 340), 255, 24) > 100
    samples = np.zeros((384, 640, 3), np.uint16)
    samples[60:320] = (echo(size=(260, 640))[..., None] / 255 * 0.02 * full).astype(np.uint16)
    samples[burn(black, "GENERAL HOSPITAL 12.03.1970", (10, 10), 255, 34) > 100] = full
    samples[name] = int(0.02 * full)
    result = clean(
        open_dicom(write_dicom(tmp_path / "deep.dcm", samples[None], BitsStored=12, HighBit=11)), silent
    )
    assert result.image.verified
    assert parts(result)[1][name].mean() > 0.99


@pytest.mark.usefixtures("less_enlarged")
def test_with_enhanced_contrast_all_is_read_again_that_a_change_shows_otherwise() -> None:
    changed = np.zeros((768, 1024), np.bool_)
    changed[384, 512] = True
    assert list(surroundings(changed, FAINT)) == [(512 - 192, 384 - 192, 512 + 193, 384 + 193)]
    [(left, top, right, bottom)] = surroundings(changed, FINEST)
    assert right - left == bottom - top == 129


@pytest.fixture
def unsure() -> Tools:
    """One place on tissue looks like text, and nothing can be read in it."""
    return replace(shared_tools(), reader=Sees(NOTHING_READ, (200, 150, 270, 166)))


@pytest.mark.usefixtures("less_enlarged")
def test_what_nobody_can_read_stays_and_is_listed_once_for_a_cine(unsure: Tools) -> None:
    frames = np.stack([linear_echo(seed) for seed in (1, 2, 3)])
    for shown in (frames[:1], frames):
        result = clean(ArrayImage(shown), silent, tools=unsure)
        assert np.array_equal(np.asarray(result.image.frames), shown)
        assert not parts(result)[1].any()
        (((left, top, right, bottom),),) = [note.places for note in result.notes if note.name == "in_doubt"]
        assert left <= 200
        assert top <= 150
        assert right >= 270
        assert bottom >= 166
        assert right - left < 90


@pytest.mark.usefixtures("less_enlarged")
def test_the_pipeline_takes_the_option(unsure: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ultrasound, "shared_tools", lambda *_: unsure)
    run = partial(create("ultrasound").run, [ArrayImage(linear_echo()[None])], silent)
    boxed = run({"in_doubt": "box"})
    assert "in_doubt" not in {one.name for one in boxed.quality}
    assert boxed.images[1].frames[0][np.s_[150:166, 200:270]].all()
    with pytest.raises(CleaningFailed, match="may hold letters") as failed:
        run({"in_doubt": "withhold"})
    assert failed.value.places


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("size", [14, 26])
def test_a_name_over_tissue_goes_by_its_strokes_and_neither_it_nor_its_mask_can_be_read(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if size == 14:
        monkeypatch.undo()  # over tissue letters of 14 pixels have to be enlarged as a node enlarges them
    picture = linear_echo()
    burned = burn(picture, "KIM MINJUN", (150, 150), 255, size)
    cleaned, mask = parts(result := clean(ArrayImage(burned[None]), silent))
    changed = cleaned != burned
    assert changed[np.abs(burned.astype(int) - picture) > 60].mean() > 0.95
    assert not (changed & ~dilated(burned != picture, 9)).any()  # tissue beside the strokes is as it was
    assert mask[changed].all()
    assert "in_doubt" not in {note.name for note in result.notes}
    assert legible(burned, 2)
    assert not legible(cleaned, 2)
    assert not any(legible(np.where(shown, 255, 0).astype(np.uint8), 2) for shown in (mask, ~mask))


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("words", "turns"), [("27 Apr 1984", 1), ("82460173", 3)])
def test_an_upright_line_over_tissue_goes_whole(words: str, turns: int) -> None:
    level = burn(np.rot90(linear_echo(), turns).copy(), words, (100, 150), 230, 20)
    cleaned = parts(clean(ArrayImage(np.rot90(level, -turns).copy()[None]), silent))[0]
    place = level_box((90, 145, 260, 178), 1.0)
    assert shared_reader().read(level, place).letters >= 8
    assert shared_reader().read(np.rot90(cleaned, turns).copy(), place).letters < 3


@pytest.mark.usefixtures("less_enlarged")
def test_a_box_of_a_person_is_black_in_every_frame_and_the_rest_is_as_without_it() -> None:
    burned = np.stack([burn(frame, size=16) for frame in cine(2, 3, TINY)])
    for frames in (burned[:1], burned):
        drawn = clean(ArrayImage(frames, removed_by_hand=((100, 80, 160, 120),)), silent)
        cleaned, mask = np.asarray(drawn.image.frames), np.asarray(drawn.mask.frames) > 0
        assert drawn.image.verified
        assert "by_hand" in {note.name for note in drawn.notes}
        assert not cleaned[:, 80:120, 100:160].any()
        assert mask[:, 80:120, 100:160].all()
        assert np.array_equal(cleaned[~mask], frames[~mask])
    _, plain = parts(clean(ArrayImage(burned[:1]), silent))
    assert (mask[0] | ~plain).all(), "what is found without a person goes as well"


@pytest.mark.usefixtures("less_enlarged")
def test_boxes_over_half_of_the_picture_are_refused_and_clipped_to_it() -> None:
    picture = echo(3, SMALL)
    beyond, most = (
        ArrayImage(picture[None], removed_by_hand=(box,)).header
        for box in ((300, 200, 999, 999), (0, 0, 320, 144))
    )
    mask, marks = find_by_hand(beyond, picture)
    assert marks[0].box == (300, 200, 320, 240)
    assert int(mask.sum()) == 20 * 40
    with pytest.raises(CleaningFailed, match="cover 60% of the picture"):
        find_by_hand(most, picture)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("frames", [np.stack([burn(f) for f in cine(count, size=TINY)]) for count in (1, 5)])
def test_source_and_segmentation_give_the_hash_again(frames: np.ndarray) -> None:
    result = clean(ArrayImage(frames), silent, policy=CleaningPolicy.RESEARCH)
    outside = np.where(np.asarray(result.mask.frames) > 0, 0, frames).astype(np.uint8)
    assert result.image.outside_sha256 == hashlib.sha256(outside.tobytes()).hexdigest()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_byte_order_does_not_matter(dtype: str) -> None:
    samples = np.arange(16, dtype=np.uint16).reshape(4, 4)
    assert outside_bytes(samples.astype(dtype), np.zeros((4, 4), np.bool_)) == samples.astype("<u2").data


@pytest.mark.usefixtures("less_enlarged")
def test_a_marked_image_gives_a_cleaned_one_its_mask_and_a_finding_per_mark() -> None:
    image, pipeline = ArrayImage(burn(echo(size=SMALL))[None]), create("ultrasound")
    assert pipeline.accepts([image]) == Accept(("1.2.3",))
    result = pipeline.run([image], silent, {})
    assert [picture.kind for picture in result.images] == [ImageKind.CLEANED, ImageKind.MASK]
    assert result.images[0].verified
    assert result.models == pipeline.models()
    assert {(one.decision, one.frame, bool(one.regions)) for one in result.findings} == {
        (Decision.PRESENT, None, True)
    }
    alone = pipeline.run([image], silent, {"clean": False})
    assert alone.images == ()
    assert alone.findings


@pytest.mark.usefixtures("less_enlarged")
def test_one_image_that_cannot_be_cleaned_does_not_hold_up_the_others() -> None:
    page = np.full((160, 240), 255, np.uint8)
    for line in range(0, 160, 20):
        page = burn(page, "PATIENT REPORT " * 2, (0, line), 0, 17)
    good, bad = ArrayImage(echo(3, (160, 240))[None], uid="1.2.3"), ArrayImage(page[None], uid="1.2.4")
    result = create("ultrasound").run([good, bad], silent, {})
    assert {picture.source_uid for picture in result.images} == {"1.2.3"}
    assert [note.source_uid for note in result.quality if note.name == "cleaning_failed"] == ["1.2.4"]
    assert [(one.decision, one.label) for one in result.findings if one.source_uid == "1.2.3"] == [
        (Decision.ABSENT, "burned-in text")
    ]


@pytest.mark.usefixtures("less_enlarged")
def test_every_mark_is_explained_without_its_words(tmp_path: Path) -> None:
    """What goes, what stays, and what only looks like text, each with the rule's reason."""
    picture = burn(burn(echo(size=SMALL), "KIM MINJUN", (8, 8), 255, 14), "MI 0.9", (8, 220), 255, 12)
    Image.fromarray(picture).save(tmp_path / "us.png")
    given = ["run", str(tmp_path / "us.png"), "--modality", "US", "--out", str(tmp_path), "--explain"]
    done = CliRunner().invoke(app, [*given, "--json"])
    (record,) = map(json.loads, done.stdout.splitlines())
    assert any(" goes as identity: not all of it is known to be harmless" in mark for mark in record["marks"])
    assert "KIM" not in done.output
    assert "identity" in CliRunner().invoke(app, given).output
    refused = CliRunner().invoke(app, [*given, "--pipeline", "chest_xray"])
    assert refused.exit_code == 2
    assert "no marks to explain" in refused.output


@pytest.mark.usefixtures("less_enlarged")
def test_other_modalities_are_refused_unless_asked_for() -> None:
    pipeline, image = create("ultrasound"), ArrayImage(echo()[None], modality="CT")
    assert pipeline.accepts([image]) == Refuse("modality CT is not ultrasound")
    assert isinstance(pipeline.accepts([image], {"any_modality": True}), Accept)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("name", ["ultrasound", "fetal_head", "ovarian"])
def test_models_are_named_without_loading_them(name: str, tmp_path: Path) -> None:
    """``check`` and a node's main process only name them."""
    assert create(name, device_rules=tmp_path).models()
    assert (None, tmp_path) not in tools._LOADED


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("name", ["ultrasound", "fetal_head", "ovarian", "chest_xray"])
def test_what_is_installed_later_is_not_named_as_what_runs(name: str, tmp_path: Path) -> None:
    pipeline = create(name, models_dir=tmp_path)
    pipeline.warm_up()
    run = pipeline.models()
    for model, card in ((model, registry.find(model.id).path) for model in run):
        text = card.read_text("utf-8").replace(f'version = "{model.version}"', 'version = "99.0"', 1)
        (tmp_path / card.name).write_text(text, "utf-8")
    assert registry.find(run[0].id, tmp_path).version == "99.0"
    assert pipeline.models() == run


@pytest.mark.usefixtures("less_enlarged")
def test_a_misspelt_policy_is_a_fault_and_not_the_mild_one() -> None:
    pipeline = create("ultrasound")
    assert pipeline.card.options.faults({"policy": "reserach"}) == {"policy": "must be clinical or research"}
    assert pipeline.card.options.faults({"policy": "research"}) == {} == pipeline.card.options.faults({})


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, words)])


@pytest.mark.usefixtures("less_enlarged")
def test_the_command_prints_one_record_per_input_writes_pictures_and_ends_with_65_for_an_unreadable_one(
    tmp_path: Path,
) -> None:
    files = [
        tmp_path / name for name in ("still.dcm", "plain.png", "ct.dcm", "cine.dcm", "letter.txt", "none")
    ]
    write_dicom(files[0], burn(echo(size=SMALL))[None])
    Image.fromarray(echo(3, SMALL)).save(files[1])
    write_dicom(files[2], echo(size=SMALL)[None], Modality="CT")
    write_dicom(files[3], np.stack(cine(2, size=(160, 240))))
    files[4].write_text("hello")
    result = run(*files, "--modality", "US", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 65, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["accepted"] for record in records] == [True, True, False, True, False, False]
    assert records[2]["reason"] == "no pipeline for modality CT"
    assert {"decode", "model", "total"} <= set(records[0]["seconds"])
    [finding, *_] = records[0]["findings"]
    assert (finding["regions"][0]["type"], finding["code"]["scheme"]) == ("box", "99AINODE")
    images, moving = ({one["kind"]: one for one in records[number]["images"]} for number in (0, 3))
    assert set(images) == {"cleaned", "mask", "annotated"}
    assert np.asarray(Image.open(images["cleaned"]["path"])).shape == SMALL
    assert moving["cleaned"]["frames"] == len(list(Path(moving["cleaned"]["path"]).glob("*.png"))) == 2
    paths = " ".join(path.name for path in (tmp_path / "out").rglob("*"))
    assert [name for name in ("Secret", "KIM") if name in result.output + paths] == []


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    "arguments", [["--pipeline", "none"], ["--option", "speed=1"], ["--option", "clean=="]]
)
def test_wrong_usage_is_exit_2(tmp_path: Path, arguments: list[str]) -> None:
    assert run(write_dicom(tmp_path / "still.dcm", echo(3, SMALL)[None]), *arguments).exit_code == 2


@pytest.mark.usefixtures("less_enlarged")
def test_the_command_prints_a_table_for_people(tmp_path: Path) -> None:
    result = run(write_dicom(tmp_path / "still.dcm", burn(echo(size=SMALL))[None]), "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "Burned-in text" in result.output
    assert "Not for diagnostic use" in result.output


@pytest.mark.usefixtures("less_enlarged")
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ai_pipeline import cli\n"
        "sys.argv = ['ai-pipeline', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'onnxruntime', 'rapidocr', 'pydicom'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


RULE = """
source = "measured in room 3"
[[rule]]
name = "ours"
match = { manufacturer = "*Maker*", model = "Scan ?", rows = 240 }
rectangles = [{ left = 0, top = 0, right = 1.0, bottom = 20 }]
"""


def folder_with(folder: Path, text: str) -> Path:
    (folder / "site.toml").write_text(text, encoding="utf-8")
    return folder


def header(path: Path, **attributes: object) -> ImageHeader:
    given = {"Manufacturer": "The MAKER Inc.", "ManufacturerModelName": "scan  7"} | attributes
    return open_dicom(write_dicom(path / "image.dcm", echo(1, SMALL)[None], **given)).header


def bar(height: int) -> np.ndarray:
    """An echo picture under a grey bar with something written in it."""
    picture = echo(1, SMALL)
    picture[:height] = 60
    picture[5:12, 10:90:2] = 250
    return picture


def matched(header: ImageHeader, folder: Path | None = None) -> list[str]:
    return [rule.name for rule in matching_rules(header, folder)]


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("device", "condition", "holds"),
    [
        ({}, "rows = 240", True),  # the device in any spelling of capitals and spaces
        ({"Manufacturer": "Other"}, "rows = 240", False),
        ({"ManufacturerModelName": "Scan 77"}, "rows = 240", False),
        ({"Manufacturer": ""}, "rows = 240", False),
        ({}, "rows = 241", False),
        ({}, "columns = 320", True),
        ({}, "columns = 100", False),
        ({}, 'modality = "US"', True),
        ({}, 'modality = "CT"', False),
        ({}, 'software = "V6*"', True),
        ({}, 'software = "6*"', False),
        ({}, 'sop_class = "1.2"', False),
        ({}, 'sop_class = "1.2.840.10008.5.1.4.1.1.3.1"', True),
    ],
)
def test_a_rule_is_for_its_device_and_no_other_and_every_condition_must_hold(
    tmp_path: Path, device: dict[str, str], condition: str, holds: bool
) -> None:
    rules = folder_with(tmp_path, RULE.replace("rows = 240", condition))
    assert (
        matched(header(tmp_path, SoftwareVersions=["boot 1", "V6.10"], **device), rules) == ["ours"] * holds
    )


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("rectangles", "box"),
    [
        # 181.2 rows: a pixel that is touched belongs to it
        ("{ left = 10, top = 0.5, right = 1.0, bottom = 0.755 }", (10, 120, 320, 182)),
        (
            "{ left = 300, top = 230, right = 999, bottom = 999 }, "
            "{ left = 400, top = 0, right = 500, bottom = 9 }",
            (300, 230, 320, 240),
        ),
    ],
    ids=["whole numbers are pixels, others shares", "cut to the picture, left out beside it"],
)
def test_rectangles_are_places_in_the_picture(
    tmp_path: Path, rectangles: str, box: tuple[int, int, int, int]
) -> None:
    text = RULE.replace("{ left = 0, top = 0, right = 1.0, bottom = 20 }", rectangles)
    [(_, found)] = device_boxes(header(tmp_path), (240, 320, 3), folder_with(tmp_path, text))
    assert found == box


@pytest.mark.usefixtures("less_enlarged")
def test_a_rectangle_goes_whole_if_something_is_written_in_it_in_whatever_colour(tmp_path: Path) -> None:
    given, rules = header(tmp_path), folder_with(tmp_path, RULE)
    mask, marks = find_device_banner(given, bar(20), rules)
    assert mask[:20].all()
    assert not mask[20:].any()
    assert [(mark.box, mark.meaning) for mark in marks] == [((0, 0, 320, 20), Meaning.IDENTITY)]
    empty, red = np.full((240, 320), 60, np.uint8), np.full((240, 320, 3), (200, 0, 0), np.uint8)
    mask, marks = find_device_banner(given, empty, rules)
    assert (mask.any(), marks) == (False, ())
    red[5:12, 10:90:2] = (0, 0, 200)  # of one brightness
    assert find_device_banner(given, red, rules)[0][:20].all()


@pytest.mark.usefixtures("less_enlarged")
def test_only_the_meanings_that_are_asked_for_are_told(tmp_path: Path) -> None:
    scale = RULE.replace('name = "ours"', 'name = "mi"\nmeaning = "acoustic"').replace(
        "left = 0", "left = 200"
    )
    name = RULE.replace("right = 1.0", "right = 200")
    folder_with(tmp_path, f"{name}[[rule]]{scale.partition('[[rule]]')[2]}")
    picture, given = bar(20), header(tmp_path)
    picture[5:12, 210:300:2] = 250
    mask, marks = find_device_banner(given, picture, tmp_path, {Meaning.IDENTITY})
    assert (mask[:20, :200].all(), mask[:, 200:].any(), len(marks)) == (True, False, 1)
    assert len(find_device_banner(given, picture, tmp_path)[1]) == 2


@pytest.mark.usefixtures("less_enlarged")
def test_rules_that_would_leave_nothing_fail(tmp_path: Path) -> None:
    rules = folder_with(tmp_path, RULE.replace("bottom = 20", "bottom = 0.9"))
    with pytest.raises(CleaningFailed, match=r"cover 90% of the picture: ours"):
        find_device_banner(header(tmp_path), bar(20), rules)


@pytest.mark.usefixtures("less_enlarged")
def test_the_note_names_the_rules(tmp_path: Path) -> None:
    note = device_note(header(tmp_path), folder_with(tmp_path, RULE), "1.2.3")
    assert note is not None
    assert note.source_uid == "1.2.3"
    assert note.text == "device rules for this image: ours"
    assert device_note(header(tmp_path, Manufacturer="Other"), tmp_path) is None


@pytest.mark.usefixtures("less_enlarged")
def test_a_rule_of_the_site_replaces_the_shipped_one_and_can_switch_it_off(tmp_path: Path) -> None:
    epiq = {"Manufacturer": "Philips Medical Systems", "ManufacturerModelName": "EPIQ 5G"}
    name = open_dicom(write_dicom(tmp_path / "epiq.dcm", np.zeros((1, 768, 1024), np.uint8), **epiq)).header
    assert [rule.name for rule, _ in device_boxes(name, (768, 1024))] == ["philips-epiq-768x1024"]
    off = RULE.replace("ours", "philips-epiq-768x1024").partition("rectangles")[0] + "rectangles = []\n"
    assert device_boxes(name, (768, 1024), folder_with(tmp_path, off)) == ()


@pytest.mark.usefixtures("less_enlarged")
def test_the_environment_names_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = header(tmp_path)
    assert matched(given) == []
    monkeypatch.setenv(DEVICE_RULES, str(folder_with(tmp_path, RULE)))
    assert matched(given) == ["ours"]


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("wrong", "right", "key", "remedy"),
    [
        ("right = 1.0", "right = 1.5", "rule[0].rectangles[0].right (rule ours)", "a share from 0.0 to 1.0"),
        ("right = 1.0", "right = -5", "rule[0].rectangles[0].right (rule ours)", "must be pixels"),
        ("right = 1.0", 'right = "all"', "rule[0].rectangles[0].right (rule ours)", "must be a number"),
        ("right = 1.0", "rigth = 1.0", "rule[0].rectangles[0].rigth (rule ours)", "unknown key"),
        ("bottom = 20", "bottom = 0", "rule[0].rectangles[0] (rule ours)", "bottom must be greater than top"),
        ("rows = 240", 'rows = "240"', "rule[0].match.rows (rule ours)", "integer"),
        ("rows = 240", "row = 240", "rule[0].match.row (rule ours)", "unknown key"),
        ('model = "Scan ?"', 'model = " "', "rule[0].match.model (rule ours)", "leave the key out"),
        ('manufacturer = "*Maker*", model = "Scan ?", ', "", "rule[0].match (rule ours)", "names no device"),
        ('name = "ours"', 'name = "Room 3!"', "rule[0].name (rule Room 3!)", "pattern"),
        ('name = "ours"', 'name = "ours"\nmeaning = "secret"', "rule[0].meaning (rule ours)", "identity"),
        ('source = "measured in room 3"', "", "source", "is missing"),
        ("[[rule]]", "[[rule]", "", "is not valid TOML"),
        ("rectangles = [", "corners = [", "rule[0].rectangles (rule ours)", "is missing"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_remedy(
    tmp_path: Path, wrong: str, right: str, key: str, remedy: str
) -> None:
    assert wrong in RULE
    folder_with(tmp_path, RULE.replace(wrong, right))
    with pytest.raises(DeviceRuleError) as told:
        read_rules(tmp_path)
    faults = [(fault.file, fault.key) for fault in told.value.faults if remedy in fault.remedy]
    assert (tmp_path / "site.toml", key) in faults, str(told.value)


@pytest.mark.usefixtures("less_enlarged")
def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE.replace("rows = 240", "rows = 0"))
    (tmp_path / "other.toml").write_text("", encoding="utf-8")
    with pytest.raises(DeviceRuleError) as told:
        read_rules(tmp_path)
    assert {fault.file.name for fault in told.value.faults} == {"site.toml", "other.toml"}


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_used_twice_is_a_mistake(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE + RULE.partition('room 3"')[2])
    with pytest.raises(DeviceRuleError, match="ours is there twice"):
        read_rules(tmp_path)
    folder_with(tmp_path, RULE)
    (tmp_path / "more.toml").write_text(RULE, encoding="utf-8")
    with pytest.raises(DeviceRuleError, match="ours: in another file of this folder too"):
        read_rules(tmp_path)


@pytest.mark.usefixtures("less_enlarged")
def test_shipped_rules_say_where_they_come_from_and_under_which_licence() -> None:
    files = [tomllib.loads(path.read_text(encoding="utf-8")) for path in SHIPPED.glob("*.toml")]
    assert files
    assert all(file["source"] and file["licence"] for file in files)


@pytest.mark.usefixtures("less_enlarged")
def test_shipped_rules_name_a_bar_at_the_top_of_a_usual_picture() -> None:
    for rule in read_rules(None):
        rows, columns = rule.match.rows or 768, rule.match.columns or 1024
        boxes = [box for rectangle in rule.rectangles if (box := rectangle.box(rows, columns))]
        assert boxes
        assert all(top == 0 and bottom <= 0.15 * rows for _, top, _, bottom in boxes), rule.name


@pytest.mark.usefixtures("less_enlarged")
def test_the_example_of_the_guide_is_a_file_of_rules(tmp_path: Path) -> None:
    folder_with(tmp_path, pasted("docs/operate/cleaning.md", "toml", "# device-rules/"))
    added = {rule.name for rule in read_rules(tmp_path)} - {rule.name for rule in read_rules(None)}
    assert added == {"room3-scanner", "room3-scanner-acoustic"}


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "rule"),
    [
        ("deid-data__GREYSCALE_IMAGE.dcm", "philips-epiq-768x1024"),
        ("pydicom-data__OBXXXX1A_rle.dcm", "philips-cx50-800"),
        ("go-dicom__I_000031.dcm", "toshiba-xario-600x800"),
        ("pydicom-data__gdcm-US-ALOKA-16.dcm", "aloka-ssd-4000-480x640"),
    ],
)
def test_a_measured_bar_ends_where_the_rule_says(data: Path, file: str, rule: str) -> None:
    image = open_dicom(data / "dicom" / "files" / file)
    picture = image.display()
    boxes = [box for one, box in device_boxes(image.header, picture.shape) if one.name == rule]
    [bottom] = {box[3] for box in boxes}
    grey = picture if picture.ndim == 2 else picture.max(axis=2)
    assert np.median(grey[bottom - 2]) > 30 > np.median(grey[bottom + 1])
    mask, marks = find_device_banner(image.header, picture, meanings={Meaning.IDENTITY})
    assert len(marks) == len(boxes)
    assert mask[:bottom, :500].all()


@pytest.mark.usefixtures("less_enlarged")
def test_a_coloured_surrounding_goes_whole() -> None:
    """Blacked out letter by letter its text would stay legible."""
    picture = bar(240)
    picture[60:200, 80:260] = echo(1, SMALL)[60:200, 80:260]
    image = ArrayImage(picture[None], ultrasound_regions=(UltrasoundRegion((80, 60, 260, 200)),))
    mask, marks = find_banner(image.header, picture)
    assert marks
    assert not mask[60:200, 80:260].any()
    mask[60:200, 80:260] = True
    assert mask.all()


@pytest.mark.usefixtures("less_enlarged")
def test_the_conditions_of_an_image_are_those_of_a_rule_that_fits(tmp_path: Path) -> None:
    given = header(tmp_path, Manufacturer="Maker [EU]", SoftwareVersions=["V6"])
    match = ", ".join(f"{key} = {json.dumps(value)}" for key, value in conditions_of(given).items())
    text = f'name = "printed"\nmatch = {{ {match} }}\n'
    text += "rectangles = [{ left = 0, top = 0, right = 9, bottom = 9 }]\n"
    assert matched(given, folder_with(tmp_path, f'source = "x"\n[[rule]]\n{text}')) == ["printed"]
