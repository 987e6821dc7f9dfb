"""Laws of the plan of a removal, with drawn findings; then hard pictures, cleaned as a whole."""

import contextlib
import logging
import resource
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from HersheyFonts import HersheyFonts
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames

from ai_pipeline.burnin import frames as cines
from ai_pipeline.burnin import planning
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.decide.writing import NOTHING_READ, Text, level_box
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Box,
    CleaningPolicy,
    InDoubt,
    Mark,
    Mask,
    Picture,
)
from ai_pipeline.burnin.find.annotation import index_of as place
from ai_pipeline.burnin.find.drawings import KINDS, Drawings
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.contract import ImageHeader, ImageKind, Meaning, SourceImage
from ai_pipeline.errors import CleaningFailed, PixelError
from ai_pipeline.images.decode import open_dicom
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
    silent,
    write_dicom,
)
from tests.unit.inbox.objects import changed

ROWS, COLUMNS = 200, 300
CLINICAL, RESEARCH = CleaningPolicy.CLINICAL, CleaningPolicy.RESEARCH
TEXT, CALIPER, LOGO = AnnotationKind.TEXT, AnnotationKind.CALIPER, AnnotationKind.LOGO
NAME_BOX: Box = (20, 20, 120, 60)
SETTING: Box = (200, 20, 260, 40)
CROSS: Box = (150, 120, 160, 130)


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
        reader = SimpleNamespace(read_small=lambda *_: found.small)
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
    assert made.mask[place(NAME_BOX)].all() and not made.kept[place(NAME_BOX)].any()
    assert not made.mask[place(SETTING)].any() and not made.mask[place(CROSS)].any()
    assert made.kept[place(SETTING)].all() and not made.not_tissue[place(NAME_BOX)].any()
    assert made.not_tissue[place(SETTING)].all() and made.not_tissue[place(CROSS)].all()
    assert not made.banner.any()
    assert [(mark.kind, mark.box, mark.meaning, mark.removed, mark.confidence) for mark in made.marks] == [
        (CALIPER, CROSS, Meaning.MEASUREMENT, False, 0.7),
        (TEXT, NAME_BOX, Meaning.IDENTITY, True, 0.9),
        (TEXT, SETTING, Meaning.ACOUSTIC, False, 0.9),
    ]


def test_research_takes_all_of_it(plan: Plan) -> None:
    made = plan(scene(), RESEARCH)
    assert all(made.mask[place(box)].all() for box in (NAME_BOX, SETTING, CROSS))
    assert not made.kept.any() and not made.not_tissue.any()
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
    mask = plan(Found(texts=[text(SETTING, Meaning.IDENTITY)]), CLINICAL).mask
    assert mask[20 - 3 : 40 + 3, 200 - 3 : 260 + 3].all()  # .15 of 20 rows
    assert not mask[15].any() and not mask[45].any() and not mask[:, 195].any() and not mask[:, 265].any()


def test_on_other_pictures_than_ultrasound_only_text_is_taken(plan: Plan) -> None:
    found = scene()
    found.banner = filled((0, 0, COLUMNS, 10))
    made = plan(found, RESEARCH, graphics=False)
    assert not made.banner.any() and not made.mask[place(CROSS)].any() and made.mask[place(NAME_BOX)].all()


def test_a_banner_is_blacked_out_but_for_what_stays(plan: Plan) -> None:
    found = scene()
    found.banner = filled((0, 0, COLUMNS, 62))
    made = plan(found, CLINICAL)
    assert made.banner[place(NAME_BOX)].all() and not made.banner[place(SETTING)].any()
    assert not made.mask[:62].any() and made.kept[place(SETTING)].all()
    # The name lies in the banner, which is told as one mark; the setting is told by itself.
    assert [mark.box for mark in made.marks if mark.kind is TEXT] == [SETTING]
    assert AnnotationKind.BANNER in {mark.kind for mark in made.marks}


def test_where_a_device_writes_names_nothing_stays_whatever_was_read(plan: Plan) -> None:
    found = scene()
    found.device = filled((190, 10, 270, 50))
    made = plan(found, CLINICAL)
    assert made.banner[place(SETTING)].all() and not made.kept.any()


def test_a_banner_mark_that_stays_is_no_identity_that_is_told_removed(plan: Plan) -> None:
    whole: Box = (0, 0, COLUMNS, 6)
    made = plan(Found(texts=[text(whole, Meaning.ACOUSTIC)], banner=filled((0, 0, COLUMNS, 5))), CLINICAL)
    assert not made.banner.any() and AnnotationKind.BANNER not in {mark.kind for mark in made.marks}


@pytest.mark.parametrize("policy", CleaningPolicy)
def test_drawn_text_that_nobody_could_read_goes_as_a_block(plan: Plan, policy: CleaningPolicy) -> None:
    # what lies between the letters too
    assert plan(Found(drawn={TEXT: filled(*LETTERS)}), policy).mask[150:162, 20:56].all()


def test_a_speck_is_no_letter_to_a_clinic_and_goes_for_research(plan: Plan) -> None:
    found = Found(drawn={TEXT: filled((50, 150, 54, 154))})
    assert not plan(found, CLINICAL).mask.any() and plan(found, RESEARCH).mask.any()


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
    assert mask[strokes].all() and mask[30, 240] == whole


@pytest.mark.parametrize(
    ("legible", "letters", "stays"),
    [(False, 0, True), (False, 4, True), (False, 6, False), (True, 0, False)],  # .05 of 100 pixels
)
def test_a_pair_of_crosses_is_no_word(plan: Plan, legible: bool, letters: int, stays: bool) -> None:
    around: Box = (145, 115, 165, 135)
    for kind in (TEXT, LOGO):
        drawn = {CALIPER: filled(CROSS), kind: filled((146, 116, 146 + letters, 117))}
        found = Found(texts=[text(around, Meaning.IDENTITY, legible=legible)], drawn=drawn)
        assert (not plan(found, CLINICAL).mask[place(CROSS)].any()) == stays


def test_around_crosses_that_stay_nothing_is_taken_also_at_the_edge_of_the_picture(plan: Plan) -> None:
    around: Box = (145, 115, 165, 135)
    found = Found(texts=[text(around, Meaning.IDENTITY, legible=False)], drawn={CALIPER: filled(CROSS)})
    made = plan(found, CLINICAL)
    assert made.kept[115 - 5 : 135 + 5, 145 - 5 : 165 + 5].all()  # .3 of 20 rows
    assert not made.mask.any() and plan(found, RESEARCH).mask[place(CROSS)].all()
    at_edge = text((-5, -5, 14, 14), Meaning.IDENTITY, legible=False)
    assert not plan(Found(texts=[at_edge], drawn={CALIPER: filled((0, 0, 10, 10))}), CLINICAL).mask.any()


def test_letters_banner_and_device_bar_need_not_be_read(plan: Plan) -> None:
    found = Found(drawn={TEXT: filled(NAME_BOX)}, banner=filled((0, 0, 9, 9)), device=filled(SETTING))
    plan(found, CLINICAL)
    assert (found.known == (found.drawn[TEXT] | found.banner | found.device)).all()


def test_unread_text_where_nothing_is_drawn_is_identity_and_goes(plan: Plan) -> None:
    found = Found(texts=[text(NAME_BOX, Meaning.IDENTITY, legible=False)], drawn={TEXT: filled(SETTING)})
    assert plan(found, CLINICAL).mask[place(NAME_BOX)].all()


def on_tissue() -> Found:
    """A name of which the mark network has drawn three strokes, all of it in the image area."""
    letters = filled(*((left, 22, left + 10, 58) for left in (30, 60, 90)))
    name = text(NAME_BOX, Meaning.IDENTITY, words="KIM")
    return Found(texts=[name], drawn={TEXT: letters}, area=filled((0, 0, 150, 100)))


def test_in_the_image_area_only_strokes_of_proven_letters_are_filled(plan: Plan) -> None:
    found = on_tissue()
    made = plan(found, CLINICAL)
    assert np.array_equal(made.mask, found.drawn[TEXT])
    assert made.in_doubt == () and made.ground[place(NAME_BOX)].all()
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
    assert not made.mask.any() and made.marks == ()
    assert made.in_doubt == (text(NAME_BOX, Meaning.IDENTITY).box.box,)
    assert plan(found, CLINICAL, in_doubt=InDoubt.BOX).mask[place(NAME_BOX)].all()
    with pytest.raises(CleaningFailed, match="may hold letters") as failed:
        plan(found, CLINICAL, in_doubt=InDoubt.WITHHOLD)
    assert failed.value.places == made.in_doubt
    assert plan(on_tissue(), CLINICAL, in_doubt=InDoubt.WITHHOLD).mask.any()  # proven letters are in no doubt
    assert plan(found, RESEARCH).mask[place(NAME_BOX)].all() and plan(found, RESEARCH).in_doubt == ()


LETTERS: tuple[Box, ...] = tuple((left, 150, left + 4, 162) for left in range(20, 60, 8))


def test_a_line_that_the_mark_network_alone_has_drawn_is_read(plan: Plan) -> None:
    name, setting, one_letter = (
        plan(Found(drawn={TEXT: filled(*LETTERS)}, small=Line(words, confidence, legible=True)), CLINICAL)
        for words, confidence in (("KIM M", 0.9), ("Gn -2", 0.97), ("K", 0.97))
    )
    assert name.readings[0].text == "KIM M" and one_letter.readings == ()
    assert not setting.mask.any() and setting.kept[filled(*LETTERS)].all()


def test_a_curve_is_never_filled(plan: Plan) -> None:
    curve = filled((0, 39, COLUMNS, 42), (COLUMNS - 9, 39, COLUMNS, 190))
    for policy in CleaningPolicy:
        mask = plan(replace(scene(), traces=curve), policy).mask
        assert not (mask & curve).any() and mask[place(NAME_BOX)].any()
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
    second = Found(texts=[text(SETTING, Meaning.IDENTITY, words="LEE")])
    planned = Mock(side_effect=[plan(scene(), CLINICAL), plan(second, CLINICAL)])
    monkeypatch.setattr(planning, "plan_removal", planned)
    made = plan(scene(), CLINICAL, views=2)
    # what is drawn is seen in the first view
    assert [call.kwargs["graphics"] for call in planned.mock_calls] == [True, False]
    assert made.mask[place(NAME_BOX)].all() and made.mask[place(SETTING)].all()
    assert not made.kept.any() and not (made.not_tissue & made.mask).any()
    assert made.not_tissue[place(CROSS)].all()
    assert [mark.box for mark in made.marks] == [CROSS, NAME_BOX, SETTING, SETTING]
    assert [reading.text for reading in made.readings] == ["KIM", "MI 0.9", "", "LEE"]


def test_views_may_take_too_much_together(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = ((0, 0, 150, 120), (150, 0, COLUMNS, 120))
    plans = [plan(Found(texts=[text(half, Meaning.IDENTITY)]), CLINICAL) for half in halves]
    monkeypatch.setattr(planning, "plan_removal", Mock(side_effect=plans))
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
    cut = [((0, 0, 20, 20), 1.0), ((280, 190, COLUMNS, ROWS), 0.9)]
    assert [(mark.kind, mark.box, mark.confidence) for mark in marks] == [(TEXT, *one) for one in cut]


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
        chain = (refusal, refusal.__cause__, refusal.__context__)
        assert told(repr(chain).upper()) == [], "no error names anybody"
        return None
    frames, mask = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    source = np.stack([image.stored(index) for index in range(image.header.frames)])
    assert result.image.verified and np.array_equal(frames[~mask], source[~mask])
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
    assert not result.mask.frames.any() and not any(mark.removed for mark in result.marks)


@pytest.mark.parametrize("kind", ["colour flow", "16 bit"])
def test_research_takes_hardly_anything_from_a_clean_picture(kind: str) -> None:
    result = cleaned_or_nothing(CLEAN_PICTURES[kind](), CleaningPolicy.RESEARCH)
    assert result is not None and (result.mask.frames > 0).mean() <= 0.002


def test_noise_is_left_alone_or_refused() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1, 240, 320), np.uint8)
    result = cleaned_or_nothing(ArrayImage(noise))
    assert result is None or (result.mask.frames > 0).mean() < 0.02


@pytest.mark.parametrize("policy", [CleaningPolicy.CLINICAL, CleaningPolicy.RESEARCH])
def test_flow_and_spectrum_are_not_eaten_and_an_axis_label_is_whole_or_gone(policy: CleaningPolicy) -> None:
    made, flows, labels = spectrum()
    image = ArrayImage(burn(made, NAME, (8, 4), WHITE, 16)[None], photometric="RGB")
    result = cleaned_or_nothing(image, policy)
    assert result is not None
    mask = result.mask.frames[0] > 0
    assert mask[flows].mean() <= 0.02 and mask[300:, 30:420].mean() <= 0.02
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
    assert result is not None and covered(before, burned, result) >= 0.95
    assert reader.secrets(shown(image, result)) == [] and (result.mask.frames > 0).mean() < 0.2


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
    image = ArrayImage(samples[None], photometric="RGB" if len(shape) == 3 else "MONOCHROME2")
    result = cleaned_or_nothing(image)
    assert result is None or not result.mask.frames.any()


WINDOWS: dict[str, dict[str, Any]] = {
    "no width": {"WindowCenter": 128, "WindowWidth": 0},
    "not a number": {"WindowCenter": float("nan"), "WindowWidth": float("nan")},
    "far away": {"WindowCenter": 1e9, "WindowWidth": 1},
    "brighter than the name": {"WindowCenter": 3000, "WindowWidth": 100},
    "no slope": {"RescaleSlope": 0, "RescaleIntercept": 0},
}


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.filterwarnings("ignore:Value .* is not valid")
def test_no_window_hides_a_name_that_another_window_shows(window: str, tmp_path: Path, quick: Reader) -> None:
    burned = burn(echo(size=LITTLE), NAME, (10, 8), 200, 18)
    attributes = {"BitsStored": 12, "HighBit": 11, **WINDOWS[window]}
    path = write_dicom(tmp_path / "window.dcm", burned.astype(np.uint16)[None], **attributes)
    with contextlib.suppress(PixelError):
        result = cleaned_or_nothing(open_dicom(path))
        assert result is None or quick.secrets(np.asarray(result.image.frames[0]).astype(np.uint8)) == []


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


LONG, WARM = 24, 8  # frames; the first are a window


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("shown_in", "colour"), [(3, True), (5, False)])
def test_a_name_in_one_frame_goes_whichever_it_is(
    shown_in: int, colour: bool, quick: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cines, "WINDOW", 4)
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
    ],
    ids=["moves", "fades in", "takes turns with others"],
)
def test_a_name_that_moves_or_fades_in_or_takes_turns_goes_from_every_frame(
    written: Callable[[Picture, int], Picture], quick: Reader
) -> None:
    frames = [written(frame, number) for number, frame in enumerate(cine(4, size=LITTLE))]
    assert left_over(ArrayImage(np.stack(frames)), (1, 2, 3), quick) == []


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


@pytest.mark.usefixtures("less_enlarged")
def test_a_long_cine_takes_no_more_memory_than_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What frames and arrays take; the pages of the temporary file can be given back, and are not counted."""
    monkeypatch.setattr(cines, "WINDOW", WARM)
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
    whole = LONG * base[0].nbytes
    assert peaks[2] - peaks[1] < 0.4 * whole, f"of {whole}"


@pytest.mark.usefixtures("less_enlarged")
def test_nothing_that_the_pipeline_says_repeats_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    files = [write(ENCODINGS[name], tmp_path) for name in ("still-jpeg-rgb", "cine-grey")]
    result = create("ultrasound").run([open_dicom(file) for file in files], silent, {})
    assert len(result.images) == 4 and told("".join(one.text for one in result.readings)) != []
    said = [repr(result), caplog.text, *capfd.readouterr()]
    assert [secret for secret in SECRETS for text in said if secret in text] == []
