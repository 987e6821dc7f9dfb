"""The ultrasound pipeline, its device rules, and the command line around them."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ai_pipeline.burnin import tools
from ai_pipeline.burnin.decide.banner import find_banner, find_device_banner
from ai_pipeline.burnin.devices.rules import (
    DEVICE_RULES,
    SHIPPED,
    conditions_of,
    device_boxes,
    device_note,
    matching_rules,
    read_rules,
)
from ai_pipeline.cli import app
from ai_pipeline.contract import (
    Accept,
    Decision,
    ImageHeader,
    ImageKind,
    Meaning,
    Refuse,
    UltrasoundRegion,
)
from ai_pipeline.errors import CleaningFailed, DeviceRuleError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models import registry
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, silent, write_dicom
from tests.unit.ai_pipeline.test_cli import pasted





@pytest.mark.usefixtures("less_enlarged")
def test_a_marked_image_gives_a_cleaned_one_its_mask_and_a_finding_per_mark() -> None:
    image, pipeline = ArrayImage(burn(echo(size=SMALL))[None]), create("ultrasound")
    assert pipeline.accepts([image]) == Accept(("1.2.3",))
    result = pipeline.run([image], silent, {})
    assert [picture.kind for picture in result.images] == [ImageKind.CLEANED, ImageKind.MASK]
    assert result.images[0].verified and result.models == pipeline.models()
    assert {(one.decision, one.frame, bool(one.regions)) for one in result.findings} == {
        (Decision.PRESENT, None, True)
    }
    alone = pipeline.run([image], silent, {"clean": False})
    assert alone.images == () and alone.findings


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
    assert "KIM" not in done.output and "identity" in CliRunner().invoke(app, given).output
    refused = CliRunner().invoke(app, [*given, "--pipeline", "chest_xray"])
    assert refused.exit_code == 2 and "no marks to explain" in refused.output


@pytest.mark.usefixtures("less_enlarged")
def test_other_modalities_are_refused_unless_asked_for() -> None:
    pipeline, image = create("ultrasound"), ArrayImage(echo()[None], modality="CT")
    assert pipeline.accepts([image]) == Refuse("modality CT is not ultrasound")
    assert isinstance(pipeline.accepts([image], {"any_modality": True}), Accept)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("name", ["ultrasound", "fetal_head", "ovarian"])
def test_models_are_named_without_loading_them(name: str, tmp_path: Path) -> None:
    """``check`` and a node's main process only name them."""
    assert create(name, device_rules=tmp_path).models() and (None, tmp_path) not in tools._LOADED


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("name", ["ultrasound", "fetal_head", "ovarian", "chest_xray"])
def test_what_is_installed_later_is_not_named_as_what_runs(name: str, tmp_path: Path) -> None:
    pipeline = create(name, models_dir=tmp_path)
    pipeline.warm_up()
    run = pipeline.models()
    for model, card in ((model, registry.find(model.id).path) for model in run):
        text = card.read_text("utf-8").replace(f'version = "{model.version}"', 'version = "99.0"', 1)
        (tmp_path / card.name).write_text(text, "utf-8")
    assert registry.find(run[0].id, tmp_path).version == "99.0" and pipeline.models() == run


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
    assert "Burned-in text" in result.output and "Not for diagnostic use" in result.output


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
    given = header(tmp_path, SoftwareVersions=["boot 1", "V6.10"], **device)
    assert matched(given, rules) == ["ours"] * holds


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
    assert mask[:20].all() and not mask[20:].any()
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
    assert note is not None and note.source_uid == "1.2.3"
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
    assert files and all(file["source"] and file["licence"] for file in files)


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
    found = device_boxes(image.header, picture.shape)
    boxes = [box for one, box in found if one.name == rule]
    [bottom] = {box[3] for box in boxes}
    grey = picture if picture.ndim == 2 else picture.max(axis=2)
    assert np.median(grey[bottom - 2]) > 30 > np.median(grey[bottom + 1])
    mask, marks = find_device_banner(image.header, picture, meanings={Meaning.IDENTITY})
    assert len(marks) == len(boxes) and mask[:bottom, :500].all()


@pytest.mark.usefixtures("less_enlarged")
def test_a_coloured_surrounding_goes_whole() -> None:
    """Blacked out letter by letter its text would stay legible."""
    picture = bar(240)
    picture[60:200, 80:260] = echo(1, SMALL)[60:200, 80:260]
    image = ArrayImage(picture[None], ultrasound_regions=(UltrasoundRegion((80, 60, 260, 200)),))
    mask, marks = find_banner(image.header, picture)
    assert marks and not mask[60:200, 80:260].any()
    mask[60:200, 80:260] = True
    assert mask.all()


@pytest.mark.usefixtures("less_enlarged")
def test_the_conditions_of_an_image_are_those_of_a_rule_that_fits(tmp_path: Path) -> None:
    given = header(tmp_path, Manufacturer="Maker [EU]", SoftwareVersions=["V6"])
    match = ", ".join(f"{key} = {json.dumps(value)}" for key, value in conditions_of(given).items())
    text = f'name = "printed"\nmatch = {{ {match} }}\n'
    text += "rectangles = [{ left = 0, top = 0, right = 9, bottom = 9 }]\n"
    assert matched(given, folder_with(tmp_path, f'source = "x"\n[[rule]]\n{text}')) == ["printed"]
