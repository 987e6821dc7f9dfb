"""Pixel scripts of other programs read as device rules: what is taken, what is named, and what is hostile."""

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ai_pipeline.burnin.devices.importing import MAX_BYTES, PREFIX, Imported, import_rules
from ai_pipeline.burnin.devices.rules import DeviceRule, Rectangle, read_file, read_rules
from ai_pipeline.burnin.planning import RemovalTask, plan_removal
from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.cli import app
from ai_pipeline.contract import Meaning
from ai_pipeline.errors import DeviceRuleError
from tests.unit.ai_pipeline.burnin.cleaning_lab import CLINICAL, SMALL
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo

SCRIPT = """Places of our own: comments are free.

 Room 3 -
  { Manufacturer.containsIgnoreCase("Maker") *   // who made it
    [0008,1090].startsWith("Scan 7") * Rows.equals("600") * Modality.equals("US") }
  (0,0,800,40) ( 10, 50, 20, 10 )
"""
RECIPE = """FORMAT dicom

%filter graylist

LABEL Room 3 # (us)
  contains Modality US
  + contains Manufacturer Maker|Mäker
  + equals Rows 600
  ctpcoordinates 0,0,800,40
  + contains ManufacturerModelName Scan 7+
  coordinates 10,50,30, 60
"""
DEVICE = 'Manufacturer.contains("Maker") * ManufacturerModelName.contains("Scan")'
LABEL = "%filter g\nLABEL x\n contains Manufacturer Maker\n + contains ManufacturerModelName Scan\n"


def imported(folder: Path, text: str, name: str = "room.script") -> Imported:
    (folder / name).write_text(text, encoding="utf-8")
    return import_rules(folder / name)


def conditions(rule: DeviceRule) -> dict[str, object]:
    return rule.match.model_dump(exclude_none=True)


def corners(rectangle: Rectangle) -> tuple[float, ...]:
    return rectangle.left, rectangle.top, rectangle.right, rectangle.bottom


def reasons(found: Imported) -> list[str]:
    return [str(part) for part in found.left]


def test_a_signature_of_ctp_is_a_device_rule(tmp_path: Path) -> None:
    found = imported(tmp_path, SCRIPT)
    [rule] = found.rules
    assert found.left == ()
    assert conditions(rule) == {"manufacturer": "*maker*", "model": "scan 7*", "rows": 600, "modality": "US"}
    assert [corners(box) for box in rule.rectangles] == [(0, 0, 800, 40), (10, 50, 30, 60)]
    assert (rule.name, rule.comment) == ("imported-room-1", "line 4: Room 3")
    assert rule.meaning is Meaning.IDENTITY
    assert rule.texts == (), "no text stays because of it"


def test_a_label_of_deid_is_a_device_rule_for_each_alternative(tmp_path: Path) -> None:
    found = imported(tmp_path, RECIPE, "deid.dicom")
    assert found.left == ()
    assert found.taken == 1
    assert [rule.match.manufacturer for rule in found.rules] == ["*maker*", "*mäker*"]
    assert {rule.match.model for rule in found.rules} == {"*scan 7*"}
    assert {rule.match.rows for rule in found.rules} == {600}
    assert [corners(box) for box in found.rules[1].rectangles] == [(0, 0, 800, 40), (10, 50, 30, 60)]
    assert [rule.name for rule in found.rules] == ["imported-deid-1.1", "imported-deid-1.2"]


@pytest.mark.parametrize(
    ("signature", "wanted"),
    [
        ('Manufacturer.equals("Maker") * Columns.equals("800")', [{"manufacturer": "maker", "columns": 800}]),
        ('ManufacturerModelName.endsWithIgnoreCase(" B*C")', [{"model": "*b[*]c"}]),
        (f'{DEVICE} * SoftwareVersions.startsWith("6.1")', [{"software": "6.1*"}]),
        (f'{DEVICE} * SOPClassUID.equals("1.2.3")', [{"sop_class": "1.2.3"}]),
        (f'{DEVICE} * Manufacturer.contains("The Maker")', [{"manufacturer": "*the maker*"}]),
        (
            f'{DEVICE} * (Rows.equals("600") + Rows.equals("768")) * Modality.contains("us")',
            [{"rows": 600, "modality": "US"}, {"rows": 768, "modality": "US"}],
        ),
        (
            f'Rows.equals("9") * ManufacturerModelName.equals("A1") + {DEVICE}',
            [{"rows": 9, "model": "a1"}, {"model": "*scan*"}],
        ),
    ],
    ids=["equal", "end", "start", "class", "the longer text", "or in parentheses", "and before or"],
)
def test_conditions_of_ctp_are_those_of_device_rules(
    tmp_path: Path, signature: str, wanted: list[dict[str, object]]
) -> None:
    found = imported(tmp_path, f"{{ {signature} }} (0,0,9,9)")
    for expected, rule in zip(wanted, found.rules, strict=True):
        assert {key: conditions(rule)[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ('Manufacturer.contains("Maker")', "neither model nor size"),
        ('Manufacturer.contains("Maker") * Modality.equals("US")', "neither model nor size"),
        ('Rows.equals("600") * Columns.equals("800")', "neither manufacturer nor model"),
        ('ManufacturerModelName.contains("")', "it would fit too much"),
        ('ManufacturerModelName.contains("*?")', "it would fit too much"),
        (f'{DEVICE} * ImageType.contains("SECONDARY")', "no condition on ImageType"),
        (f'{DEVICE} * [6000,0022].contains("x")', "no condition on OverlayDescription"),
        (f'{DEVICE} * !Modality.equals("CT")', "a negation"),
        (f'{DEVICE} * Rows.isLessThan("600")', "compares by isLessThan"),
        ('ManufacturerModelName.matches("(a+)+$")', "compares by matches"),
        (f'{DEVICE} * Rows.contains("600")', "rows can only equal a number"),
        (f'{DEVICE} * Rows.equals("99999")', "rows can only equal a number from 1 to 65535"),
        (f'{DEVICE} * Rows.equals("{"9" * 5000}")', "rows can only equal a number"),
        (f'{DEVICE} * Modality.contains("PET/CT")', "modality can only be one word"),
        (f'{DEVICE} * ManufacturerModelName.equals("Scat")', "two conditions on model"),
        (f'{DEVICE} * ManufacturerModelName.equals("Scan\\\\7")', "control characters"),
        (f'{DEVICE} * ManufacturerModelName.equals("Scan\x1b[31m")', "control characters"),
        (f"{DEVICE} * true", "cannot be read from 'true"),
        (f"({DEVICE}", "a parenthesis is not closed"),
        (f'{DEVICE} Rows.equals("600")', "cannot be read from"),
        ("", "cannot be read from '' on"),
    ],
)
def test_what_no_device_rule_can_say_is_named_and_never_left_out(
    tmp_path: Path, signature: str, reason: str
) -> None:
    found = imported(tmp_path, f"{SCRIPT}\nOther\n{{ {signature} }} (0,0,9,9)")
    assert len(found.rules) == 1, "the good one"
    assert len(found.left) == 1
    assert (found.left[0].line, found.left[0].part) == (9, "Other")
    assert reason in found.left[0].why
    assert reasons(found)[0].isprintable()


@pytest.mark.parametrize(
    ("regions", "boxes", "reason"),
    [
        ("", 0, "has no rectangle"),
        ("(0,0,9,9) (1,2,3)", 1, "line 2: (1,2,3): no four whole numbers"),
        ("(0,0,9,9)\n\n(-9,0,9,9)", 1, "line 4: (-9,0,9,9): no four whole numbers"),
        ("(0,0,9,9) (1e9,0,9,9)", 1, "no four whole numbers"),
        (f"(0,0,9,9) ({'9' * 400},0,9,9)", 1, "no four whole numbers"),
        ("(0,0,9,9) (5,5,0,9)", 1, "without area"),
        ("(0,0,9,9) (65535,0,9,9)", 1, "without area"),
        ("(0,0,9,9) (0,0,9", 1, "the parenthesis is not closed"),
        ("(0,0,1,1)" * 51, 0, "more than 50 rectangles"),
    ],
)
def test_a_rectangle_that_cannot_be_taken_is_named_and_the_others_are_removed(
    tmp_path: Path, regions: str, boxes: int, reason: str
) -> None:
    found = imported(tmp_path, f"one\n{{ {DEVICE} }} {regions}")
    assert sum(len(rule.rectangles) for rule in found.rules) == boxes
    assert len(found.left) == 1
    assert reason in reasons(found)[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LABEL, "line 2: x: has no rectangle"),
        (LABEL.replace("%filter g", "%filter whitelist") + "coordinates 0,0,9,9", "calls images clean"),
        (LABEL + "keepcoordinates 0,0,9,9", "line 5: keepcoordinates 0,0,9,9: keeps a place"),
        (LABEL + "coordinates all", "line 5: coordinates all: takes the whole picture"),
        (LABEL + "coordinates from:SequenceOfUltrasoundRegions", "no four whole numbers"),
        (LABEL + "coordinates 9,9,5,12", "without area"),
        ("%filter g\nLABEL x\ncoordinates 0,0,9,9", "has no condition"),
        (LABEL + "+ present Rows\nctpcoordinates 0,0,9,9", "compares by present"),
        (LABEL + "+ notcontains Modality CT\nctpcoordinates 0,0,9,9", "compares by notcontains"),
        (
            LABEL + "+ contains Manufacturer (M+)+$\nctpcoordinates 0,0,9,9",
            "a pattern of regular expressions",
        ),
        (LABEL + "|| contains ImageType SAVE\nctpcoordinates 0,0,9,9", "no condition on ImageType"),
        (
            LABEL + "+ contains Manufacturer " + "M" * 1000 + "\nctpcoordinates 0,0,9,9",
            "more than 1000 characters",
        ),
        ("%filter g\ncontains Rows 9", "line 2: contains Rows 9: is before the first LABEL"),
        ("%filter g\n%header\nREMOVE PatientID\nREMOVE StudyDate", "line 2: %header: changes the header"),
    ],
)
def test_what_no_device_rule_can_say_of_a_recipe_is_named(tmp_path: Path, text: str, reason: str) -> None:
    found = imported(tmp_path, text)
    assert found.rules == ()
    assert len(found.left) == 1
    assert reason in reasons(found)[0]


def test_a_rule_that_would_leave_nothing_of_a_picture_is_not_taken(tmp_path: Path) -> None:
    size = f'{DEVICE} * Rows.equals("100") * Columns.equals("100")'
    found = imported(tmp_path, f"{{ {size} }} (0,0,100,40)\n{{ {size} }} (0,0,100,30) (0,60,100,30)")
    assert [rule.comment for rule in found.rules] == ["line 1"]
    assert "takes more than 50% of the picture" in reasons(found)[0]


@pytest.mark.parametrize(
    "content",
    [
        b"{" * MAX_BYTES,
        b"{}" * (MAX_BYTES // 2),
        b"{" + b"(" * (MAX_BYTES - 2) + b"}",
        b"{ " + b"(" * 5000 + DEVICE.encode() + b")" * 5000 + b" } (0,0,9,9)",
        f"{{ {DEVICE} }}".encode() + b"(" * (MAX_BYTES - 200),
        f"{{ {DEVICE} }}".encode() + b"(0,0,9,9)" * (MAX_BYTES // 10),
        f"{{ {' * '.join([DEVICE] * 9000)} }} (0,0,9,9)".encode(),
        ("{ " + " * ".join(['(Rows.equals("1") + Rows.equals("2"))'] * 100) + " } (0,0,9,9)").encode(),
        b"{ a" + b" " * (MAX_BYTES - 9) + b"}",
        b"{ " + b"// /" * (MAX_BYTES // 5) + b"}",
        b'{ Manufacturer.contains("' + b"a" * (MAX_BYTES - 99) + b'") } (0,0,9,9)',
        b"%filter g\n" + b"LABEL x\n" * (MAX_BYTES // 9),
        b"%filter g\nLABEL x\n" + b"+ " * (MAX_BYTES // 3),
        b"%filter g\nLABEL x\ncontains Rows " + b"1|" * (MAX_BYTES // 3),
        b"%filter g\nLABEL x\n" + b"coordinates 1\n" * (MAX_BYTES // 15),
        b"%filter g\nLABEL x\ncontains Rows 1\n" + b"|| equals Rows 1\n" * 5000 + b"coordinates 0,0,9,9",
        b"%filter \x01\xff\nLABEL \x1b[2J\ncontains Rows \xfe\n" * 99,
        b"%filter \x00\nLABEL x\ncontains Rows 1\n",
    ],
    ids=range(18),
)
def test_a_hostile_script_ends_at_once_without_a_rule(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hostile").write_bytes(content)
    begin = time.process_time()
    try:
        found = import_rules(tmp_path / "hostile")
    except DeviceRuleError as error:
        assert re.search("more than 2000 signatures|is no text", str(error))
    else:
        assert found.rules == ()
        assert all(line.isprintable() and len(line) < 400 for line in reasons(found))
        assert found.left
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("kind", ["100 MB", "a pipe", "a folder", "nothing", "text"])
def test_what_is_no_script_is_refused_unread(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    match kind:
        case "100 MB":
            file.touch()
            os.truncate(file, 100_000_000)
        case "a pipe":
            os.mkfifo(file)
        case "a folder":
            file.mkdir()
        case "text":
            file.write_text("a list of places\n")
    with pytest.raises(DeviceRuleError, match=r"larger than|is no file|is neither"):
        import_rules(file)


def test_no_shipped_rule_has_a_name_that_an_imported_one_could_replace() -> None:
    assert [rule.name for rule in read_rules(None) if rule.name.startswith(PREFIX)] == []


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["rules", "import", *map(str, words)])


def test_the_command_writes_a_file_that_is_read_beside_the_shipped_rules(tmp_path: Path) -> None:
    script, folder = tmp_path / "room \x07three.script", tmp_path / "rules"
    folder.mkdir()
    script.write_text(SCRIPT + SCRIPT.replace("Room 3", 'A "room" \\ \x7f Ä'), encoding="utf-8")
    done = run(script, "--out", folder / "ours.toml")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "signatures taken: 2; device rules: 2; parts not taken: 0" in done.stderr
    added = {rule.name: rule for rule in read_rules(folder) if rule.name.startswith(PREFIX)}
    assert tuple(added.values()) == import_rules(script).rules
    assert {rule.name for rule in read_rules(None)} < {rule.name for rule in read_rules(folder)}
    assert [path.name for path in folder.iterdir()] == ["ours.toml"]


def test_the_command_makes_the_folder_of_device_rules(tmp_path: Path) -> None:
    (tmp_path / "a.script").write_text(SCRIPT)
    assert run(tmp_path / "a.script", "--out", tmp_path / "device-rules" / "ctp.toml").exit_code == 0
    assert read_file(tmp_path / "device-rules" / "ctp.toml") == import_rules(tmp_path / "a.script").rules


def test_a_picture_is_refused_in_one_line_without_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.script").write_bytes(b"\x89PNG\r\n\0\0{ x ) (\n" * 50)
    done = run(tmp_path / "a.script")
    assert done.exit_code == 65
    assert done.stderr.rstrip().endswith("is no text: no pixel script")
    assert "PNG" not in done.stderr


def test_the_command_names_what_it_does_not_take_and_writes_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.script").write_text(f"{SCRIPT}\nCT\n{{ {DEVICE} }}")
    done = run(tmp_path / "a.script")
    assert done.exit_code == 65
    assert done.stdout.count("[[rule]]") == 1
    assert "not taken: line 9: CT: has no rectangle" in done.stderr


def test_the_command_overwrites_no_file_and_writes_none_without_a_rule(tmp_path: Path) -> None:
    (tmp_path / "a.script").write_text(SCRIPT)
    (tmp_path / "there.toml").write_text("ours")
    done = run(tmp_path / "a.script", "--out", tmp_path / "there.toml")
    assert done.exit_code == 65
    assert "is there already" in done.stderr
    assert (tmp_path / "there.toml").read_text() == "ours"
    (tmp_path / "a.script").write_text("{ } (0,0,9,9)")
    assert run(tmp_path / "a.script", "--out", tmp_path / "new.toml").exit_code == 65
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.script", "there.toml"]


def test_the_command_writes_through_no_link_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.script").write_text(SCRIPT)
    (tmp_path / "another's").write_text("theirs")
    (tmp_path / f".new.toml.{os.getpid()}.part").symlink_to(tmp_path / "another's")
    (tmp_path / "link.toml").symlink_to(tmp_path / "another's")
    assert run(tmp_path / "a.script", "--out", tmp_path / "new.toml").exit_code == 0
    assert run(tmp_path / "a.script", "--out", tmp_path / "link.toml").exit_code == 65
    assert (tmp_path / "another's").read_text() == "theirs"
    assert read_file(tmp_path / "new.toml") == import_rules(tmp_path / "a.script").rules


def test_a_script_of_more_rules_than_a_file_may_have_is_refused(tmp_path: Path) -> None:
    sizes = " + ".join(f'Rows.equals("{rows}")' for rows in range(1, 11))
    (tmp_path / "a.script").write_text(f"{{ {DEVICE} * ({sizes}) }} (0,0,9,9)\n" * 600)
    with pytest.raises(DeviceRuleError, match="would be more than 5000 device rules"):
        import_rules(tmp_path / "a.script")


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("place", ["0,0,60,40", "0,0,320,12", "100,0,30,60", "40,180,200,20"])
def test_an_imported_rule_never_makes_cleaning_remove_less(tmp_path: Path, place: str) -> None:
    """Its rectangle cuts a name in two, lies beside it, above it, or over what stays."""
    picture = burn(echo(1, SMALL), "KIM MINJUN 12.03.1967", (10, 8), 255, 16)
    picture = burn(picture, "MI 0.9", (200, 40), 255, 16)
    given = ArrayImage(picture[None], attributes={"Manufacturer": "Maker", "ManufacturerModelName": "Scan 7"})
    found = imported(tmp_path, f"{{ {DEVICE} }} ({place})")
    (tmp_path / "rules.toml").write_text(found.toml)
    removed = []
    for folder in (None, tmp_path):
        task = RemovalTask(replace(shared_tools(), device_rules=folder), CLINICAL)
        plan = plan_removal(picture, given.header, task, graphics=True)
        removed.append(plan.mask | plan.banner)
    without, with_rule = removed
    assert without.any()
    assert not (without & ~with_rule).any()
    left, top, width, height = map(int, place.split(","))
    if np.ptp(picture[top : top + height, left : left + width]):
        assert with_rule[top : top + height, left : left + width].all()
