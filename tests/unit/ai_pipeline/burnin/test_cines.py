"""What cleaning leaves of pictures of many frames."""

import hashlib
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames

from ai_pipeline.burnin import frames as cines
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.find.annotation import AnnotationKind, Picture, mask_of
from ai_pipeline.burnin.planning import RemovalPlan
from ai_pipeline.burnin.tools import Tools
from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create
from tests.ultrasound_lab import BORN, ENCODINGS, NAME, NUMBER, Reader, write
from tests.unit.ai_pipeline.burnin.cleaning_lab import (
    LITTLE,
    LONG,
    RESEARCH,
    TINY,
    WARM,
    WHITE,
    cleaned_or_nothing,
    legible,
)
from tests.unit.ai_pipeline.phantoms import (
    ArrayImage,
    burn,
    cine,
    cleaned,
    echo,
    flow,
    linear_echo,
    parts,
    silent,
    write_dicom,
)
from tests.unit.receive.objects import changed

pytestmark = pytest.mark.usefixtures("less_enlarged")


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize(("shown_in", "colour"), [(3, True), (5, False)])
def test_a_name_in_one_frame_goes_whichever_it_is(shown_in: int, colour: bool, quick: Reader) -> None:
    frames = [flow(frame)[0] if colour else frame for frame in cine(6, size=LITTLE)]
    frames[shown_in] = burn(frames[shown_in], NAME, (30, 70), WHITE if colour else 255, 16)
    image = ArrayImage(np.stack(frames))
    assert frames_with_secrets(image.frames, [shown_in], quick) == [shown_in]
    assert left_over(image, [shown_in], quick) == []


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


@pytest.mark.usefixtures("short_windows")
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


@pytest.mark.usefixtures("short_windows")
def test_standing_marks_and_a_name_in_one_frame_are_removed_and_nothing_else() -> None:
    frames = [burn(frame, "HOSPITAL 12:34", (8, 6), 255, 14) for frame in cine(5, size=TINY)]
    frames[1] = burn(frames[1], "KIM MINJUN", (8, 130), 255, 16)
    image = ArrayImage(np.stack(frames))
    result = clean(image, silent, policy=RESEARCH)
    after, mask = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    assert [legible(after[index]) for index in (1, 4)] == [[], []]
    assert np.array_equal(after[~mask], image.frames[~mask])
    texts = [mark for mark in result.marks if mark.kind is AnnotationKind.TEXT]
    assert {(mark.frame, mark.box[1] > 110) for mark in texts} == {(1, False), (1, True)}


def test_a_cine_without_marks_is_unchanged() -> None:
    image = ArrayImage(np.stack(cine(3, size=TINY)))
    result = clean(image, silent, policy=RESEARCH)
    assert np.array_equal(result.image.frames, image.frames)
    assert isinstance(result.image.frames, np.memmap)


def test_a_cancelled_cine_stops() -> None:
    with pytest.raises(InterruptedError):
        clean(ArrayImage(np.stack(cine(2, size=TINY))), Mock(side_effect=InterruptedError), policy=RESEARCH)


@pytest.mark.usefixtures("short_windows")
def test_a_setting_that_stays_in_a_cine_stays_only_while_it_says_the_same() -> None:
    frames = [burn(frame, "MI 0.9", (8, 6), 255, 18) for frame in cine(6, size=TINY)]
    frames[4] = burn(cine(6, size=TINY)[4], "KIM MINJUN", (8, 6), 255, 18)
    after = clean(ArrayImage(np.stack(frames)), silent).image.frames
    assert "KIM" not in " ".join(legible(np.asarray(after[4])))
    assert "MI" in " ".join(legible(np.asarray(after[2])))


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("later", ["MI 0.9", "MI 1.2"], ids=["the same", "another number"])
def test_a_setting_of_the_first_frame_stays_whole_though_other_frames_plans_doubt_it(
    later: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.stack([burn(f, later if n > 3 else "MI 0.9", (8, 6), 255, 18) for n, f in enumerate(cine(6))])
    planned, calls = cines.plan_views, count()

    def doubting(*args: Any, **how: Any) -> RemovalPlan:
        plan = planned(*args, **how)
        more = mask_of([(8, 6, 40, 30)] * (next(calls) > 0), plan.mask.shape)
        return replace(plan, mask=plan.mask | more, kept=plan.kept & ~more)

    monkeypatch.setattr(cines, "plan_views", doubting)
    after = np.asarray(clean(ArrayImage(frames), silent).image.frames)
    assert next(calls) > 1
    letters = frames[:, 6:30, 8:80] > 200
    assert letters.any()
    assert np.array_equal(after[:, 6:30, 8:80][letters], frames[:, 6:30, 8:80][letters])


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


def test_a_box_of_a_person_is_black_in_every_frame_and_the_rest_is_as_without_it() -> None:
    burned = np.stack([burn(frame, size=16) for frame in cine(2, 3, TINY)])
    for frames in (burned[:1], burned):
        drawn = clean(ArrayImage(frames, removed_by_hand=((100, 80, 160, 120),)), silent)
        after, mask = np.asarray(drawn.image.frames), np.asarray(drawn.mask.frames) > 0
        assert drawn.image.verified
        assert "by_hand" in {note.name for note in drawn.notes}
        assert not after[:, 80:120, 100:160].any()
        assert mask[:, 80:120, 100:160].all()
        assert np.array_equal(after[~mask], frames[~mask])
    _, plain = cleaned(burned[0])
    assert (mask[0] | ~plain).all(), "what is found without a person goes as well"


@pytest.mark.usefixtures("short_windows")
@pytest.mark.parametrize("frames", [np.stack([burn(f) for f in cine(count, size=TINY)]) for count in (1, 5)])
def test_source_and_segmentation_give_the_hash_again(frames: np.ndarray) -> None:
    result = clean(ArrayImage(frames), silent, policy=RESEARCH)
    outside = np.where(np.asarray(result.mask.frames) > 0, 0, frames).astype(np.uint8)
    assert result.image.outside_sha256 == hashlib.sha256(outside.tobytes()).hexdigest()
