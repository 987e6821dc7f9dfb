"""Rules of devices: which picture they are for, and which rectangles of it go."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from ai_pipeline.burnin.decide.banner import find_banner, find_device_banner
from ai_pipeline.burnin.devices.rules import (
    DEVICE_RULES,
    MOST_RULES,
    SHIPPED,
    conditions_of,
    device_boxes,
    device_note,
    matching_rules,
    read_file,
    read_rules,
)
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.contract import ImageHeader, UltrasoundRegion
from ai_pipeline.errors import CleaningFailed, DeviceRuleError
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.burnin.cleaning_lab import IDENTITY, SMALL, header
from tests.unit.ai_pipeline.pasted import pasted
from tests.unit.ai_pipeline.phantoms import ArrayImage, echo, write_dicom

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


def bar(height: int) -> np.ndarray:
    """An echo picture under a grey bar with something written in it."""
    picture = echo(1, SMALL)
    picture[:height] = 60
    picture[5:12, 10:90:2] = 250
    return picture


def matched(header: ImageHeader, folder: Path | None = None) -> list[str]:
    return [rule.name for rule in matching_rules(header, folder)]


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
def test_rectangles_are_places_in_the_picture(tmp_path: Path, rectangles: str, box: Box) -> None:
    text = RULE.replace("{ left = 0, top = 0, right = 1.0, bottom = 20 }", rectangles)
    [(_, found)] = device_boxes(header(tmp_path), (240, 320, 3), folder_with(tmp_path, text))
    assert found == box


def test_a_rectangle_goes_whole_if_something_is_written_in_it_in_whatever_colour(tmp_path: Path) -> None:
    given, rules = header(tmp_path), folder_with(tmp_path, RULE)
    mask, marks = find_device_banner(given, bar(20), rules)
    assert mask[:20].all()
    assert not mask[20:].any()
    assert [(mark.box, mark.meaning) for mark in marks] == [((0, 0, 320, 20), IDENTITY)]
    empty, red = np.full((240, 320), 60, np.uint8), np.full((240, 320, 3), (200, 0, 0), np.uint8)
    mask, marks = find_device_banner(given, empty, rules)
    assert (mask.any(), marks) == (False, ())
    red[5:12, 10:90:2] = (0, 0, 200)  # of one brightness
    assert find_device_banner(given, red, rules)[0][:20].all()


def test_only_the_meanings_that_are_asked_for_are_told(tmp_path: Path) -> None:
    scale = RULE.replace('name = "ours"', 'name = "mi"\nmeaning = "acoustic"').replace(
        "left = 0", "left = 200"
    )
    name = RULE.replace("right = 1.0", "right = 200")
    folder_with(tmp_path, f"{name}[[rule]]{scale.partition('[[rule]]')[2]}")
    picture, given = bar(20), header(tmp_path)
    picture[5:12, 210:300:2] = 250
    mask, marks = find_device_banner(given, picture, tmp_path, {IDENTITY})
    assert (mask[:20, :200].all(), mask[:, 200:].any(), len(marks)) == (True, False, 1)
    assert len(find_device_banner(given, picture, tmp_path)[1]) == 2


def test_rules_that_would_leave_nothing_fail(tmp_path: Path) -> None:
    rules = folder_with(tmp_path, RULE.replace("bottom = 20", "bottom = 0.9"))
    with pytest.raises(CleaningFailed, match=r"cover 90% of the picture: ours"):
        find_device_banner(header(tmp_path), bar(20), rules)


def test_the_note_names_the_rules(tmp_path: Path) -> None:
    note = device_note(header(tmp_path), folder_with(tmp_path, RULE), "1.2.3")
    assert note is not None
    assert note.source_uid == "1.2.3"
    assert note.text == "device rules for this image: ours"
    assert device_note(header(tmp_path, Manufacturer="Other"), tmp_path) is None


def test_a_rule_of_the_site_replaces_the_shipped_one_and_can_switch_it_off(tmp_path: Path) -> None:
    epiq = {"Manufacturer": "Philips Medical Systems", "ManufacturerModelName": "EPIQ 5G"}
    name = open_dicom(write_dicom(tmp_path / "epiq.dcm", np.zeros((1, 768, 1024), np.uint8), **epiq)).header
    assert [rule.name for rule, _ in device_boxes(name, (768, 1024))] == ["philips-epiq-768x1024"]
    off = RULE.replace("ours", "philips-epiq-768x1024").partition("rectangles")[0] + "rectangles = []\n"
    assert device_boxes(name, (768, 1024), folder_with(tmp_path, off)) == ()


def test_the_environment_names_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = header(tmp_path)
    assert matched(given) == []
    monkeypatch.setenv(DEVICE_RULES, str(folder_with(tmp_path, RULE)))
    assert matched(given) == ["ours"]


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


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE.replace("rows = 240", "rows = 0"))
    (tmp_path / "other.toml").write_text("", encoding="utf-8")
    with pytest.raises(DeviceRuleError) as told:
        read_rules(tmp_path)
    assert {fault.file.name for fault in told.value.faults} == {"site.toml", "other.toml"}


def test_a_name_used_twice_is_a_mistake(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE + RULE.partition('room 3"')[2])
    with pytest.raises(DeviceRuleError, match="ours is there twice"):
        read_rules(tmp_path)
    folder_with(tmp_path, RULE)
    (tmp_path / "more.toml").write_text(RULE, encoding="utf-8")
    with pytest.raises(DeviceRuleError, match="ours: in another file of this folder too"):
        read_rules(tmp_path)


def test_a_file_has_a_largest_number_of_rules(tmp_path: Path) -> None:
    match = 'rectangles = []\nmatch = { model = "a" }\n'
    rules = "".join(f'[[rule]]\nname = "r{number}"\n{match}' for number in range(MOST_RULES))
    file = tmp_path / "many.toml"
    file.write_text(f'source = "test"\n{rules}', encoding="utf-8")
    assert len(read_file(file)) == MOST_RULES
    file.write_text(f'source = "test"\n{rules}[[rule]]\nname = "more"\n{match}', encoding="utf-8")
    with pytest.raises(DeviceRuleError, match="at most 5000 items"):
        read_file(file)


def test_shipped_rules_say_where_they_come_from_and_under_which_licence() -> None:
    files = [tomllib.loads(path.read_text(encoding="utf-8")) for path in SHIPPED.glob("*.toml")]
    assert files
    assert all(file["source"] and file["licence"] for file in files)


def test_shipped_rules_name_a_bar_at_the_top_of_a_usual_picture() -> None:
    for rule in read_rules(None):
        rows, columns = rule.match.rows or 768, rule.match.columns or 1024
        boxes = [box for rectangle in rule.rectangles if (box := rectangle.box(rows, columns))]
        assert boxes
        assert all(top == 0 and bottom <= 0.15 * rows for _, top, _, bottom in boxes), rule.name


def test_the_example_of_the_guide_is_a_file_of_rules(tmp_path: Path) -> None:
    folder_with(tmp_path, pasted("docs/operate/cleaning.md", "toml", "# device-rules/"))
    added = {rule.name for rule in read_rules(tmp_path)} - {rule.name for rule in read_rules(None)}
    assert added == {"room3-scanner", "room3-scanner-acoustic"}


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
    mask, marks = find_device_banner(image.header, picture, meanings={IDENTITY})
    assert len(marks) == len(boxes)
    assert mask[:bottom, :500].all()


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


def test_the_conditions_of_an_image_are_those_of_a_rule_that_fits(tmp_path: Path) -> None:
    given = header(tmp_path, Manufacturer="Maker [EU]", SoftwareVersions=["V6"])
    match = ", ".join(f"{key} = {json.dumps(value)}" for key, value in conditions_of(given).items())
    text = f'name = "printed"\nmatch = {{ {match} }}\n'
    text += "rectangles = [{ left = 0, top = 0, right = 9, bottom = 9 }]\n"
    assert matched(given, folder_with(tmp_path, f'source = "x"\n[[rule]]\n{text}')) == ["printed"]
