"""Device rules: which images they are for, which pixels they name, and how their mistakes are told."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from ai_pipeline.burnin.decide.banner import find_banner, find_device_banner
from ai_pipeline.burnin.devices.known import device_boxes, device_note, matching_rules
from ai_pipeline.burnin.devices.rules import DEVICE_RULES, SHIPPED, read_rules
from ai_pipeline.cli import app
from ai_pipeline.contract import ImageHeader, Meaning
from ai_pipeline.errors import CleaningFailed, DeviceRuleError
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.phantoms import echo, write_dicom

SIZE = (240, 320)
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
    return open_dicom(write_dicom(path / "image.dcm", echo(1, SIZE)[None], **given)).header


def bar(height: int) -> np.ndarray:
    """An echo picture under a grey bar with something written in it."""
    picture = echo(1, SIZE).copy()
    picture[:height] = 60
    picture[5:12, 10:90:2] = 250
    return picture


def matched(header: ImageHeader, folder: Path) -> list[str]:
    return [rule.name for rule in matching_rules(header, folder)]


def test_a_rule_is_for_its_device_in_any_spelling_of_capitals_and_spaces(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE)
    assert matched(header(tmp_path), tmp_path) == ["ours"]


@pytest.mark.parametrize(
    "other", [{"Manufacturer": "Other"}, {"ManufacturerModelName": "Scan 77"}, {"Manufacturer": ""}]
)
def test_a_rule_is_not_for_another_device(tmp_path: Path, other: dict[str, str]) -> None:
    folder_with(tmp_path, RULE)
    assert matched(header(tmp_path, **other), tmp_path) == []


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("rows = 240", True),
        ("rows = 241", False),
        ("columns = 320", True),
        ("columns = 100", False),
        ('modality = "US"', True),
        ('modality = "CT"', False),
        ('software = "V6*"', True),
        ('software = "6*"', False),
        ('sop_class = "1.2"', False),
        ('sop_class = "1.2.840.10008.5.1.4.1.1.3.1"', True),
    ],
)
def test_every_condition_of_a_rule_must_hold(tmp_path: Path, condition: str, holds: bool) -> None:
    folder_with(tmp_path, RULE.replace("rows = 240", condition))
    given = header(tmp_path, SoftwareVersions=["boot 1", "V6.10"])
    assert matched(given, tmp_path) == (["ours"] if holds else [])


def test_whole_numbers_are_pixels_and_those_with_a_point_shares(tmp_path: Path) -> None:
    rectangle = "{ left = 10, top = 0.5, right = 1.0, bottom = 0.755 }"
    text = RULE.replace("{ left = 0, top = 0, right = 1.0, bottom = 20 }", rectangle)
    [found] = device_boxes(header(tmp_path), (240, 320), folder_with(tmp_path, text))
    assert found.box == (10, 120, 320, 182)  # 181.2 rows: a pixel that is touched belongs to it


def test_rectangles_are_cut_to_the_picture_and_those_outside_it_left_out(tmp_path: Path) -> None:
    corner = "{ left = 300, top = 230, right = 999, bottom = 999 }"
    outside = "{ left = 400, top = 0, right = 500, bottom = 9 }"
    text = RULE.replace("{ left = 0, top = 0, right = 1.0, bottom = 20 }", f"{corner}, {outside}")
    [found] = device_boxes(header(tmp_path), (240, 320, 3), folder_with(tmp_path, text))
    assert found.box == (300, 230, 320, 240)


def test_a_rectangle_with_writing_goes_whole(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE)
    mask, marks = find_device_banner(header(tmp_path), bar(20), tmp_path)
    assert mask[:20].all()
    assert not mask[20:].any()
    assert [(mark.box, mark.meaning) for mark in marks] == [((0, 0, 320, 20), Meaning.IDENTITY)]


def test_a_rectangle_of_one_colour_holds_nothing(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE)
    empty = bar(20)
    empty[:20] = 60
    mask, marks = find_device_banner(header(tmp_path), empty, tmp_path)
    assert (mask.any(), marks) == (False, ())


def test_colours_of_one_brightness_are_seen(tmp_path: Path) -> None:
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[..., 0] = 200
    picture[5:12, 10:90:2] = (0, 0, 200)
    assert find_device_banner(header(tmp_path), picture, folder_with(tmp_path, RULE))[0][:20].all()


def test_only_the_meanings_that_are_asked_for_are_told(tmp_path: Path) -> None:
    scale = RULE.replace('name = "ours"', 'name = "mi"\nmeaning = "acoustic"').partition("[[rule]]")[2]
    scale = scale.replace("left = 0", "left = 200")
    name = RULE.replace("right = 1.0", "right = 200")
    folder_with(tmp_path, f"{name}[[rule]]{scale}")
    picture = bar(20)
    picture[5:12, 210:300:2] = 250
    mask, marks = find_device_banner(header(tmp_path), picture, tmp_path, {Meaning.IDENTITY})
    assert (mask[:20, :200].all(), mask[:, 200:].any(), len(marks)) == (True, False, 1)
    assert len(find_device_banner(header(tmp_path), picture, tmp_path)[1]) == 2


def test_rules_that_would_leave_nothing_fail(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE.replace("bottom = 20", "bottom = 0.9"))
    with pytest.raises(CleaningFailed, match=r"cover 90% of the picture: ours"):
        find_device_banner(header(tmp_path), bar(20), tmp_path)


def test_the_note_names_the_rules(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE)
    note = device_note(header(tmp_path), tmp_path, "1.2.3")
    assert note is not None
    assert (note.text, note.source_uid) == ("device rules for this image: ours", "1.2.3")
    assert device_note(header(tmp_path, Manufacturer="Other"), tmp_path) is None


def test_a_rule_of_the_site_replaces_the_shipped_one_and_can_switch_it_off(tmp_path: Path) -> None:
    epiq = {"Manufacturer": "Philips Medical Systems", "ManufacturerModelName": "EPIQ 5G"}
    given = {**epiq, "Rows": 768, "Columns": 1024}
    image = write_dicom(tmp_path / "epiq.dcm", np.zeros((1, 768, 1024), np.uint8), **given)
    name = open_dicom(image).header
    assert [found.rule for found in device_boxes(name, (768, 1024))] == ["philips-epiq-768x1024"]
    off = RULE.replace("ours", "philips-epiq-768x1024").partition("rectangles")[0] + "rectangles = []\n"
    assert device_boxes(name, (768, 1024), folder_with(tmp_path, off)) == ()


def test_the_environment_names_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = header(tmp_path)
    assert matching_rules(given) == ()
    monkeypatch.setenv(DEVICE_RULES, str(folder_with(tmp_path, RULE)))
    assert [rule.name for rule in matching_rules(given)] == ["ours"]


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
    faults = told.value.faults
    assert {fault.file for fault in faults} == {tmp_path / "site.toml"}
    assert any(fault.key == key and remedy in fault.remedy for fault in faults), str(told.value)


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


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DeviceRuleError, match="does not exist"):
        read_rules(tmp_path / "none")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.name)
def test_shipped_rules_say_where_they_come_from_and_under_which_licence(path: Path) -> None:
    file = tomllib.loads(path.read_text(encoding="utf-8"))
    assert file["source"]
    assert file["licence"]


def test_shipped_rules_name_a_bar_at_the_top_of_a_usual_picture() -> None:
    for rule in read_rules(None):
        rows, columns = rule.match.rows or 768, rule.match.columns or 1024
        boxes = [box for rectangle in rule.rectangles if (box := rectangle.box(rows, columns))]
        assert boxes
        assert all(top == 0 and bottom <= 0.15 * rows for _, top, _, bottom in boxes), rule.name


def test_the_example_of_the_guide_is_a_file_of_rules(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[4] / "docs" / "operate" / "cleaning.md").read_text(encoding="utf-8")
    example = guide.partition("```toml\n# device-rules/")[2].partition("\n")[2].partition("```")[0]
    added = {rule.name for rule in read_rules(folder_with(tmp_path, example))} - {
        r.name for r in read_rules(None)
    }
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
    boxes = [found.box for found in device_boxes(image.header, picture.shape) if found.rule == rule]
    [bottom] = {box[3] for box in boxes}
    grey = picture if picture.ndim == 2 else picture.max(axis=2)
    assert np.median(grey[bottom - 2]) > 30 > np.median(grey[bottom + 1])
    mask, marks = find_device_banner(image.header, picture, meanings={Meaning.IDENTITY})
    assert len(marks) == len(boxes)
    assert mask[:bottom, :500].all()


def test_a_coloured_surrounding_goes_whole(tmp_path: Path) -> None:
    """Blacked out letter by letter its text would stay legible."""
    picture = np.full((240, 320), 70, np.uint8)
    picture[60:200, 80:260] = echo(1, SIZE)[60:200, 80:260]
    picture[5:12, 10:90:2] = 250
    edges = zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), (80, 60, 259, 199), strict=True)
    region = Dataset()
    for name, value in edges:
        setattr(region, f"RegionLocation{name}", value)
    path = write_dicom(tmp_path / "us.dcm", picture[None], SequenceOfUltrasoundRegions=[region])
    mask, marks = find_banner(open_dicom(path).header, picture)
    assert marks
    assert not mask[60:200, 80:260].any()
    mask[60:200, 80:260] = True
    assert mask.all()


def test_the_command_says_which_rules_are_for_a_file(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE)
    header(tmp_path)
    done = CliRunner().invoke(
        app, ["devices", "try", str(tmp_path / "image.dcm"), "--device-rules", str(tmp_path), "--json"]
    )
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["rules"] == ["ours"]
    assert told["rectangles"] == [
        {"rule": "ours", "meaning": "identity", "left": 0, "top": 0, "right": 320, "bottom": 20}
    ]
    assert "Secret" not in done.output


def test_what_the_command_prints_is_a_condition_that_fits(tmp_path: Path) -> None:
    header(tmp_path, Manufacturer="Maker [EU]", SoftwareVersions=["V6"])
    done = CliRunner().invoke(app, ["devices", "try", str(tmp_path / "image.dcm")])
    line = done.stdout.splitlines()[0]
    rule = f'name = "printed"\n{line}\nrectangles = [{{ left = 0, top = 0, right = 9, bottom = 9 }}]\n'
    folder_with(tmp_path, f'source = "x"\n[[rule]]\n{rule}')
    assert matched(header(tmp_path, Manufacturer="Maker [EU]", SoftwareVersions=["V6"]), tmp_path) == [
        "printed"
    ]


def test_the_preview_outlines_the_rectangles_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder_with(tmp_path, RULE)
    header(tmp_path)
    preview = tmp_path / "preview.png"
    image, rules = str(tmp_path / "image.dcm"), str(tmp_path)
    command = ["devices", "try", image, "--device-rules", rules, "--preview", str(preview)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    picture = np.asarray(Image.open(preview))
    outlined = (picture == (255, 96, 0)).all(axis=2)
    assert outlined[[0, 19], :].all()
    assert not outlined[3:17, 3:-3].any()
    assert not outlined[20:].any()
    assert preview.stat().st_mode & 0o077 == 0


def test_the_help_says_that_the_preview_is_patient_data() -> None:
    done = CliRunner().invoke(app, ["devices", "try", "--help"], env={"COLUMNS": "200"})
    assert "treat it as patient data" in " ".join(done.stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["none.dcm"], 65, "no such file"),
        (["image.dcm", "--frame", "2", "--preview", "p.png"], 65, "there is no frame 2"),
        (["image.dcm", "--device-rules", "none"], 78, "does not exist"),
    ],
)
def test_the_command_fails_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    header(tmp_path)
    done = CliRunner().invoke(app, ["devices", "try", *arguments])
    assert (done.exit_code, said in done.stderr) == (status, True), done.stderr
    assert not Path("p.png").exists()
