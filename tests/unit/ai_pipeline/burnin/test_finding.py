"""What is found without reading: the image area, faint letters, curves, lines, bars, flow, marks."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.writing import blocks
from ai_pipeline.burnin.find import networks
from ai_pipeline.burnin.find.annotation import AnnotationKind, Mark, Mask, Picture, dilated
from ai_pipeline.burnin.find.area import faint_writing, find_area, strokes
from ai_pipeline.burnin.find.drawings import find_bars, lines_between
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.burnin.find.traces import colour_bars, find_flow, find_strips, find_traces
from ai_pipeline.burnin.planning import RIM
from ai_pipeline.burnin.tools import shared_tools, with_background
from ai_pipeline.contract import UltrasoundRegion
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, flow, linear_echo, parts, silent


PICTURES = {"convex": echo(), "linear": linear_echo()}


# Width of the rim of the phantoms (pixels); what filling leaves there, at most (grey levels).
RIM_ROWS, MOST_IN_RIM = round(RIM * 360), 16


BACKGROUNDS = {"black": (0, 0, 0), "grey": (12, 12, 12), "blue": (18, 24, 48)}


def shown(picture: Picture) -> Mask:
    """Where a phantom shows tissue."""
    return np.asarray(picture > 0, np.bool_)


def on(background: tuple[int, int, int], picture: Picture) -> Picture:
    return np.where(shown(picture)[..., None], picture[..., None], np.array(background)).astype(np.uint8)


def nothing(picture: Picture) -> Mask:
    return np.zeros(picture.shape[:2], np.bool_)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_area_is_where_tissue_is(form: str, background: str) -> None:
    picture, truth = on(BACKGROUNDS[background], PICTURES[form]), shown(PICTURES[form])
    area = find_area(picture, nothing(picture))
    assert (area & truth).sum() >= 0.97 * truth.sum() and not (area & ~dilated(truth, 7)).any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("form", "place"),
    [("convex", (60, 150)), ("linear", (20, 335))],
)
def test_outside_the_area_the_colour_is_the_background_exactly(form: str, place: tuple[int, int]) -> None:
    background = BACKGROUNDS["blue"]
    burned = burn(on(background, PICTURES[form]), "KIM MINJUN", place, WHITE, 18)
    after, mask = parts(clean(ArrayImage(burned[None], photometric="RGB"), silent))
    rim, outside = (~dilated(shown(PICTURES[form]), side) for side in (7, 7 + 2 * RIM_ROWS))
    assert mask.any() and np.array_equal(after[~mask], burned[~mask])
    assert (after[outside] == background).all()  # no structure at all, the name's included
    assert (np.abs(after[rim].astype(int) - background) <= MOST_IN_RIM).all()


@pytest.mark.usefixtures("less_enlarged")
def test_text_across_the_border_leaves_the_border_where_it_was() -> None:
    burned = burn(linear_echo(), "KIM MINJUN", (60, 150), 255, 18)
    after, mask = parts(clean(ArrayImage(burned[None]), silent))
    left = 480 // 5
    assert mask[:, : left - 3].any() and mask[:, left + 3 :].any()
    assert not after[:, : left - 3 - RIM_ROWS].any() and after[:, : left - 3].max() <= MOST_IN_RIM
    assert (after[:, left + 3 :][mask[:, left + 3 :]] > 0).mean() > 0.95


@pytest.mark.usefixtures("less_enlarged")
def test_a_full_bladder_is_of_the_area_and_a_panel_is_not() -> None:
    picture = linear_echo()
    picture[150:220, 200:280] = 0
    picture[:40] = 60
    area = find_area(picture, nothing(picture))
    assert area[150:220, 200:280].all() and not area[:40].any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_picture_without_background_is_all_area() -> None:
    tissue = linear_echo(1, (720, 960))[200:600, 240:720]
    assert find_area(tissue, nothing(tissue)).all()


@pytest.mark.usefixtures("less_enlarged")
def test_where_no_area_is_found_nothing_is_made_up() -> None:
    dark = burn(np.zeros((200, 300), np.uint8), "KIM MINJUN", (60, 80), 255, 18)
    assert not find_area(dark, strokes(dark)).any()
    assert not clean(ArrayImage(dark[None]), silent).image.frames.any()


@pytest.mark.usefixtures("less_enlarged")
def test_tissue_shows_between_the_strokes_of_letters() -> None:
    burned = burn(linear_echo(), "KIM MINJUN", (110, 150), 255, 18)
    assert find_area(burned, strokes(burned))[150:170, 110:200].all()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("region", "bounds"), [((90, 70, 390, 330), True), ((0, 0, 200, 200), False)])
def test_regions_bound_the_area_where_they_hold_the_tissue(
    region: tuple[int, int, int, int], bounds: bool
) -> None:
    picture = linear_echo()
    picture[0:60, 0:60] = linear_echo(2, (720, 960))[300:360, 450:510]  # a thumbnail
    free = find_area(picture, nothing(picture))
    area = find_area(picture, nothing(picture), (UltrasoundRegion(region),))
    assert free[20:40, 20:40].all() and area[20:40, 20:40].any() != bounds and area[150, 240]


@pytest.mark.usefixtures("less_enlarged")
def test_the_background_beside_a_hole_is_a_panels_or_the_pictures() -> None:
    source = np.zeros((100, 200), np.uint16)
    source[:50], source[60:, 100:] = 900, np.arange(4000).reshape(40, 100)
    source[80:, :50] = 2
    mask = np.zeros(source.shape, np.bool_)
    mask[20:30, 20:60] = mask[75:85, 140:160] = mask[95:, :40] = True
    source[mask] = 4095
    filled = with_background(source, mask, ~mask, 0.0)
    assert (filled[20:30, 20:60] == 900).all()
    assert (filled[75:85, 140:160] == 900).all() and np.array_equal(filled[~mask], source[~mask])
    assert len(np.unique(filled[95:, :40])) == 1
    assert (with_background(source, mask, np.zeros_like(mask), 7.0)[mask] == 7).all()


LINES = (("Name: KIM MINJUN", (8, 4), 18), ("ID 48271935", (374, 4), 14), ("1957-08-23", (8, 30), 12))


def inked(shape: tuple[int, ...]) -> Picture:
    """How much of each pixel the letters of the lines take, 0 to 255."""
    ink: Picture = np.zeros(shape[:2], np.uint8)
    for text, place, size in LINES:
        ink = np.maximum(ink, burn(np.zeros_like(ink), text, place, 255, size))
    return ink


def written(form: str, background: tuple[int, ...], contrast: tuple[int, ...]) -> tuple[Picture, Mask]:
    """A picture on a coloured background with lines of so much contrast in each channel; where tissue is."""
    tissue = PICTURES[form]
    ground = np.where((tissue > 0)[..., None], tissue[..., None], np.array(background)).astype(np.float64)
    shares = inked(tissue.shape)[..., None] / 255
    return np.clip(np.rint(ground + shares * np.array(contrast)), 0, 255).astype(np.uint8), tissue > 0


def compressed(picture: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def found(picture: Picture, shown: Mask) -> Mask:
    writing, strong = faint_writing(picture, shown, np.zeros_like(shown))
    return blocks(writing) & ~strong


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize(
    ("background", "level"),
    [
        *((ground, level) for ground in BACKGROUNDS for level in (1, 2, 3, 6, 12)),
        ("grey", -1),
        ("blue", -4),
    ],
)
def test_letters_of_any_faint_level_are_found(form: str, background: str, level: int) -> None:
    picture, shown = written(form, BACKGROUNDS[background], (level, level, level))
    mask, letters = found(picture, shown), (picture != BACKGROUNDS[background]).any(axis=2) & ~shown
    assert letters.any() and mask[letters].all() and not (mask & dilated(shown, 5)).any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("contrast", [(0, 0, 6), (5, 0, 0), (4, 4, 0), (-6, 6, 0)])
def test_coloured_letters_are_found_in_any_channel(contrast: tuple[int, ...]) -> None:
    picture, shown = written("convex", BACKGROUNDS["blue"], contrast)
    assert found(picture, shown)[((picture != BACKGROUNDS["blue"]).any(axis=2) & ~shown)].all()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("quality", [75, 92])
@pytest.mark.parametrize("level", [3, 6, 12])
def test_letters_that_were_compressed_are_found(quality: int, level: int) -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (level, level, level))
    assert found(compressed(picture, quality), shown)[(inked(shown.shape) >= 128) & ~shown].mean() >= 0.95


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_letters_that_8_bits_do_not_show_are_found_in_the_stored_levels(dtype: type) -> None:
    tissue = PICTURES["convex"]
    letters = (inked(tissue.shape) >= 128) & (tissue == 0)
    assert found(tissue.astype(dtype) * 128 + letters.astype(dtype) * 3, tissue > 0)[letters].all()


@pytest.mark.usefixtures("less_enlarged")
def test_dim_tissue_beside_the_area_and_noise_are_no_letters() -> None:
    tissue = PICTURES["linear"]
    shown, noise = tissue > 0, np.random.default_rng(4).integers(0, 6, tissue.shape).astype(np.uint8)
    assert not found(tissue, shown).any()
    assert not found(np.where(dilated(shown, 61) & ~shown, noise, tissue), shown).any()
    assert found(np.where(shown, tissue, noise), shown).mean() < 0.02


@pytest.mark.usefixtures("less_enlarged")
def test_what_compression_leaves_around_a_known_line_is_no_writing_unless_it_continues_one() -> None:
    tissue = PICTURES["linear"]
    shown, faint = tissue > 0, inked(tissue.shape) // 32
    bright = burn(tissue, "Gn -2", (8, 10), 255, 18)
    assert not faint_writing(compressed(bright, 85), shown, dilated((bright > 0) & ~shown, 5))[0].any()
    continued = np.maximum(burn(tissue, "|", (60, 4), 255, 18), np.where(shown, 0, faint))
    rule = dilated((continued > 100) & ~shown, 3)
    mask, _ = faint_writing(continued, shown, rule)
    assert mask[(faint > 0) & ~shown & ~rule].all() and not (mask & rule).any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_strong_curve_among_faint_letters_stays() -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (4, 4, 4))
    curve = np.zeros(shown.shape, np.bool_)
    curve[13:15, 60:90] = True
    mask = found(np.where(curve[..., None], (0, 200, 0), picture).astype(np.uint8), shown)
    assert mask.any() and not (mask & curve).any()


@pytest.mark.usefixtures("less_enlarged")
def test_many_faint_lines_are_no_tissue_where_the_image_area_is_found() -> None:
    tissue, ink = PICTURES["linear"], np.zeros_like(PICTURES["linear"])
    for place in ((x, y) for y in (2, 22, 336) for x in (4, 240)):
        ink = burn(ink, "Name: KIM MINJUN", place, 255, 18)
    letters = (ink >= 128) & (tissue == 0)
    after, _ = parts(clean(ArrayImage(np.where(letters, 4, tissue).astype(np.uint8)[None]), silent))
    assert not after[letters].any()


@pytest.mark.usefixtures("less_enlarged")
def test_tissue_too_dim_for_its_area_to_be_found_is_not_removed_as_writing() -> None:
    picture = echo() // 16
    assert np.mean(parts(clean(ArrayImage(picture[None]), silent))[0] != picture) < 0.06


@pytest.mark.usefixtures("less_enlarged")
def test_a_still_leaves_nothing_of_faint_lines_but_the_background() -> None:
    picture, tissue = written("linear", BACKGROUNDS["blue"], (4, 4, 4))
    result = clean(ArrayImage(picture[None], photometric="RGB"), silent)
    after, _ = parts(result)
    rim, levels = dilated(tissue, 2 * RIM_ROWS + 3), BACKGROUNDS["blue"]
    assert (after[~rim] == levels).all()
    assert (np.abs(after[~tissue].astype(int) - levels) <= 24).all()  # filled from both sides
    assert (after != picture).any(axis=2)[tissue].mean() < 0.005
    assert any(note.name == "burned_in" and "banner" in note.text for note in result.notes)


@pytest.mark.usefixtures("less_enlarged")
def test_a_cine_leaves_nothing_of_faint_lines() -> None:
    tissue = PICTURES["linear"] > 0
    ink = (inked(tissue.shape) >= 128) * 3
    frames = np.stack([np.where(tissue, linear_echo(seed), ink) for seed in (1, 2)]).astype(np.uint8)
    assert not np.asarray(clean(ArrayImage(frames), silent).image.frames)[:, ~tissue].any()


STRIP = (40, 200, 440, 340)


GREEN, WHITE = (40, 230, 60), (255, 255, 255)


def spectrum(seed: int = 4) -> Picture:
    """A small fan above a strip with the waves of a Doppler spectrum, in RGB."""
    picture, random = np.zeros((360, 480, 3), np.uint8), np.random.default_rng(seed)
    picture[:180, 120:360] = echo(seed, (180, 240))[..., None]
    left, _, right, bottom = STRIP
    for column in range(right - left):
        height = int(20 + 80 * abs(np.sin(column / 40)) ** 3)
        levels = np.clip(random.rayleigh(60, height) + 40, 0, 255).astype(np.uint8)
        picture[bottom - 20 - height : bottom - 20, left + column] = levels[:, None]
    picture[bottom - 20, left:right] = (200, 200, 60)
    return picture


def with_ecg(picture: Picture, colour: tuple[int, int, int] = GREEN, row: int = 340) -> tuple[Picture, Mask]:
    """The picture in RGB with an ECG, and where that is."""
    rgb, x = np.repeat(picture[..., None], 3, axis=2), np.arange(30, 450)
    beat = (x % 90).astype(float)
    y = row - 32 * np.exp(-(((beat - 30) / 2.0) ** 2)) - 5 * np.exp(-(((beat - 55) / 6.0) ** 2))
    cv2.polylines(rgb, [np.stack([x, np.rint(y)], axis=1).astype(np.int32)[:, None]], False, colour, 2)
    return rgb, (rgb != picture[..., None]).any(axis=2)


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_in_a_spectrum_is_blacked_out_and_the_rest_stays() -> None:
    before = spectrum()
    picture = burn(before, "KIM MINJUN", (60, 205), WHITE, 18)
    image = ArrayImage(
        picture[None],
        photometric="RGB",
        ultrasound_regions=(
            UltrasoundRegion((0, 0, 480, 190), spatial_format=1, data_type=1),
            UltrasoundRegion(STRIP, spatial_format=3, data_type=3),
        ),
    )
    after, mask = parts(clean(image, silent))
    assert mask[(picture != before).any(axis=2)].mean() >= 0.97
    inside = (after != picture).any(axis=2) & (np.arange(360) >= STRIP[1])[:, None]
    assert inside.any() and not after[inside].any() and mask[inside].all()
    assert inside.sum() < 0.15 * (STRIP[2] - STRIP[0]) * (STRIP[3] - STRIP[1])


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("colour", "row"), [(GREEN, 340), ((240, 220, 30), 351)])
def test_an_ecg_below_a_sector_is_a_trace_and_tissue_is_none(colour: tuple[int, int, int], row: int) -> None:
    picture, ecg = with_ecg(echo(), colour, row)
    trace = find_traces(picture, find_area(picture, nothing(picture)))
    assert trace[ecg].mean() > 0.95 and not trace[: row - 60].any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_across_an_ecg_cannot_be_read_and_the_ecg_stays() -> None:
    picture, ecg = with_ecg(echo())
    burned = burn(picture, "KIM MINJUN", (30, 322), WHITE, 18)
    after, mask = parts(clean(ArrayImage(burned[None], photometric="RGB"), silent))
    trace = find_traces(burned, find_area(burned, nothing(burned)))
    assert trace[ecg].mean() > 0.95 and np.array_equal(after[trace], burned[trace])
    assert mask[(burned != picture).any(axis=2) & ~trace].all()
    reader = shared_reader()
    assert not any(reader.read(after, box, 2).legible for box in reader.find(after))


@pytest.mark.usefixtures("less_enlarged")
def test_an_ecg_that_grows_in_a_cine_stays() -> None:
    drawn = [with_ecg(frame) for frame in cine(2, size=(360, 480))]
    for index, (full, ecg) in enumerate(drawn):
        ecg[:, 200 + 165 * index :] = False
        full[(full == GREEN).all(axis=2) & ~ecg] = 0
    frames = [burn(full, "KIM MINJUN", (4, 4), WHITE, 18) for full, _ in drawn]
    masks = np.asarray(clean(ArrayImage(np.stack(frames), photometric="RGB"), silent).mask.frames)
    assert masks.any() and not masks[0][drawn[-1][1]].any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("size", [10, 14, 18, 30])
@pytest.mark.parametrize(
    "text", ["KIM MINJUN 12.03.1967 SEOUL NATIONAL", "illimitable williamll mini lullaby"]
)
def test_a_line_of_text_is_no_trace(text: str, size: int) -> None:
    black = np.zeros((360, 480, 3), np.uint8)
    for colour in (GREEN, (255, 255, 255), (255, 230, 0)):
        burned = burn(black, text, (4, 300), colour, size)
        assert not find_traces(burned, np.zeros(black.shape[:2], np.bool_)).any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("spatial_format", "data_type", "is_strip"),
    [
        (1, 1, False),
        (1, 2, False),
        (2, 1, True),
        (3, 3, True),
        (3, 4, True),
        (4, 10, True),
        (5, 13, False),
        (5, 14, False),
        (0, 0, False),
    ],
)
def test_strips_are_told_by_format_and_type(spatial_format: int, data_type: int, is_strip: bool) -> None:
    region = UltrasoundRegion(STRIP, spatial_format=spatial_format, data_type=data_type)
    assert find_strips((region,), (360, 480))[250, 100] == is_strip
    assert not find_strips((region, UltrasoundRegion((0, 0, 900, 90))), (360, 480)).any()


ENDS = [Mark(AnnotationKind.CALIPER, (x - 6, 174, x + 6, 186), 0.9) for x in (160, 320)]


@pytest.mark.usefixtures("less_enlarged")
def test_a_coloured_line_is_found_between_calipers_and_nothing_where_there_is_none() -> None:
    picture = np.repeat(echo()[..., None], 3, axis=2)
    dots = np.zeros(picture.shape[:2], np.bool_)
    dots[180, 168:314:4] = True  # of one pixel, every fourth column, from end to end
    picture[dots] = (255, 230, 0)
    found = lines_between(picture, ENDS)
    assert found[dots].mean() > 0.8 and found.mean() < 0.01
    assert not lines_between(np.repeat(echo()[..., None], 3, axis=2), ENDS).any()
    assert not lines_between(echo(), ENDS).any()
    ticks = [Mark(AnnotationKind.CALIPER, (x - 8, 177, x + 8, 183), 0.9) for x in (160, 320)]
    assert not lines_between(picture, ticks).any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_bar_is_seen_by_its_form_and_letters_on_it_or_on_a_panel_are_not() -> None:
    picture = np.zeros((360, 480, 3), np.uint8)
    picture[40:240, 6:30] = np.linspace(255, 20, 200).astype(np.uint8)[:, None, None]
    picture[40:120, 440:464, 0] = np.linspace(250, 60, 80).astype(np.uint8)[:, None]
    picture[300:330, 100:300] = 180  # a panel of one colour
    cv2.putText(picture, "KIM MINJUN", (105, 322), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2)
    found = find_bars(picture)
    assert found[60:200, 8:28].all() and found[50:110, 444:460].all() and not found[280:].any()
    cv2.putText(picture, "KIM", (6, 140), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    assert not find_bars(picture)[128:142, 8:28].all()


def power() -> tuple[Picture, np.ndarray]:
    """A vessel of power Doppler: yellow inside, orange, red at its rim."""
    picture = np.repeat(echo()[..., None], 3, axis=2)
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    depth = ((x - 240) / 60) ** 2 + ((y - 190) / 14) ** 2
    shade = np.stack([np.full_like(depth, 250), 230 * np.clip(1 - depth, 0, 1), 0 * depth], axis=2)
    return np.where(depth[..., None] < 1, shade, picture).astype(np.uint8), depth < 1


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("made", [flow(echo()), power()], ids=["colour", "power"])
def test_flow_is_found(made: tuple[Picture, np.ndarray]) -> None:
    picture, vessel = made
    assert find_flow(picture)[vessel].mean() > 0.95


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("colour", [(255, 230, 0), (60, 80, 255), (255, 40, 40), WHITE])
def test_text_is_no_flow_whatever_its_colour(colour: tuple[int, int, int]) -> None:
    picture = burn(np.repeat(echo()[..., None], 3, axis=2), "KIM MINJUN 1970", (12, 10), colour, 20)
    assert not find_flow(picture).any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_colour_bar_is_no_flow_in_one_piece_or_in_two_halves() -> None:
    whole = np.repeat(echo()[..., None], 3, axis=2)
    halves = whole.copy()
    whole[40:140, 6:18] = np.linspace((255, 0, 0), (0, 0, 255), 100)[:, None].astype(np.uint8)
    upper = np.linspace((250, 240, 0), (150, 20, 0), 32)[:, None].astype(np.uint8)
    halves[40:72, 6:32], halves[72:76, 6:32], halves[76:108, 6:32] = upper, (20, 0, 0), upper[::-1]
    assert not any(find_flow(picture).any() for picture in (whole, halves, echo()))


@pytest.mark.usefixtures("less_enlarged")
def test_specks_in_flows_colours_are_flow_beside_it_alone() -> None:
    picture, vessel = power()
    last = np.flatnonzero(vessel.any(axis=1)).max()
    near, far = np.s_[last + 6 : last + 11, 240:245], np.s_[20:25, 20:25]
    picture[near] = picture[far] = (220, 90, 0)
    flows = find_flow(picture)
    assert flows[near].all() and not flows[far].any()


@pytest.mark.usefixtures("less_enlarged")
def test_a_colour_bar_is_one_and_a_vessel_or_letters_are_none() -> None:
    picture, vessel = flow(echo())
    picture[40:100, 440:456] = 0
    picture[40:100, 440:456, 0] = np.linspace(70, 255, 60).astype(np.uint8)[:, None]
    bars = colour_bars(burn(picture, "KIM MINJUN", (4, 4), (255, 30, 30), 24))
    assert bars[42:98, 441:455].all() and not bars[vessel].any() and not bars[:40, :200].any()


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("rows", "columns"), [(400, 601), (560, 300)])
def test_tiles_say_what_the_whole_picture_says(
    monkeypatch: pytest.MonkeyPatch, rows: int, columns: int
) -> None:
    picture, finder = echo(7, (rows, columns)), shared_tools().finder
    picture[rows // 3 :: 97, 5:200] = 255  # lines across the tiles' borders
    picture[20:60, columns // 2 :: 31] = 200
    whole = finder.find(picture)
    monkeypatch.setattr(networks, "WHOLE", 0)
    monkeypatch.setattr(networks, "TILE", 384)
    tiled, drawn = finder.find(picture), whole.marked > 0.01  # where nothing is drawn the kinds are equal
    np.testing.assert_allclose(tiled.marked, whole.marked, atol=1e-4)
    assert (whole.marked > 0.5).any() and (tiled.classes[drawn] == whole.classes[drawn]).mean() > 0.9999


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("length", [1, 100, 1280, 1281, 1296, 2304, 2305, 4096, 16384])
def test_tiles_give_each_pixel_once_and_see_what_is_around_it(length: int) -> None:
    given, margin = np.zeros(length, int), networks.MARGIN
    for seen, own in networks._tiles(length):
        assert seen.start % networks.MARK_STEP == 0 and seen.stop - seen.start <= networks.TILE
        assert 0 <= seen.start <= own.start < own.stop <= seen.stop <= length
        assert own.start == 0 or own.start - seen.start >= margin
        assert own.stop == length or seen.stop - own.stop >= margin
        given[own] += 1
    assert (given == 1).all()
