"""Profiles of screens: device rules by which known texts stay, and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.meaning import Allowed
from ai_pipeline.burnin.devices.forms import form_of
from ai_pipeline.burnin.devices.profile import MOST_TEXTS, NOT_KNOWN, Screen, ScreenText, is_at
from ai_pipeline.burnin.devices.rules import read_file, read_rules, screen_of
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.burnin.screens import learning
from ai_pipeline.burnin.screens.learning import MOST_DEVICES, Learnt, subject_of
from ai_pipeline.burnin.screens.offers import Choice
from ai_pipeline.burnin.screens.rule_file import Device, file_text, screen_rule
from ai_pipeline.cli import app
from ai_pipeline.contract import Reading
from ai_pipeline.errors import DeviceRuleError
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.burnin.screens_lab import block, learnt, name_of, place, reading
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, image_header, silent, write_dicom

DEVICE = {"Manufacturer": "Acme", "ManufacturerModelName": "Scan [7]", "SoftwareVersions": "1.2"}
HEADER = image_header(rows=360, columns=480, attributes=DEVICE)
KNOWN = Screen([ScreenText(left=20, top=100, right=80, bottom=116, text="qFLM#")])


def texts_of(number: int) -> list[tuple[str, int, int]]:
    return block(f"qFLM {number}", f"Zrk {number + 2}%", "MSCSKEL", f"Map {number % 5}")


@pytest.mark.parametrize(
    ("box", "holds"),
    [
        ((20, 100, 80, 116), True),
        ((20, 100, 95, 116), True),
        ((5, 100, 80, 116), True),
        ((10, 100, 90, 116), True),
        ((25, 105, 85, 121), True),
        ((40, 100, 130, 116), False),
        ((20, 120, 80, 136), False),
        ((20, 90, 80, 126), False),
        ((20, 104, 80, 111), False),
    ],
    ids=["same", "longer", "right end", "middle", "near", "elsewhere", "below", "high", "low"],
)
def test_a_place_is_known_by_its_row_its_height_and_one_of_its_ends_or_its_middle(
    box: Box, holds: bool
) -> None:
    assert is_at(box, (20, 100, 80, 116)) is holds


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("qFLM 5", True),
        ("QFLM12.5", True),
        ("qFLM", False),
        ("qFLM 1967", False),
        ("KIM 5", False),
        ("qFLM 5 KIM", False),
        ("qFLM 4711815", False),
        ("45", False),
        ("", False),
        ("#" * 500, False),
    ],
)
def test_a_field_stays_in_its_form_alone(text: str, stays: bool) -> None:
    assert KNOWN.has((20, 100, 80, 116), text, 0.9) is stays


def test_a_known_text_elsewhere_or_hardly_read_is_not_known() -> None:
    assert not KNOWN.has((200, 100, 260, 116), "qFLM 5", 0.9)
    assert not KNOWN.has((20, 100, 80, 116), "qFLM 5", 0.59)
    assert not KNOWN.has((20, 100, 80, 116), "qFLM 5", float("nan"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": "12.03.1967"},
        {"text": "Dr. Huber"},
        {"text": "F"},
        {"text": ""},
        {"text": "x" * 61},
        {"right": 20},
        {"left": -1},
        {"top": 1.5},
        {"bottom": 200_000},
        {"colour": "red"},
    ],
)
def test_a_file_cannot_say_that_a_person_or_a_place_beyond_stays(wrong: dict[str, Any]) -> None:
    good = {"left": 20, "top": 100, "right": 80, "bottom": 116, "text": "qFLM#"}
    assert ScreenText.model_validate(good).box == (20, 100, 80, 116)
    with pytest.raises(ValidationError):
        ScreenText.model_validate(good | wrong)


def rule_text(chosen: Sequence[str] = (), header: Any = HEADER) -> str:
    device = Device.of(header)
    assert device is not None
    offers = learnt(texts_of).offers()
    proposed = {offer.text for offer in offers if offer.choice is Choice.STAYS}
    return file_text("learnt here", [screen_rule(device, offers, chosen or proposed)])


def test_the_file_is_a_device_rule_for_this_device_and_says_what_stays(tmp_path: Path) -> None:
    (tmp_path / "screen.toml").write_text(rule_text(), encoding="utf-8")
    [rule] = read_file(tmp_path / "screen.toml")
    assert rule.match.fits(HEADER)
    assert not rule.match.fits(image_header(rows=361, columns=480, attributes=DEVICE))
    assert not rule.match.fits(
        image_header(rows=360, columns=480, attributes=DEVICE | {"SoftwareVersions": "2"})
    )
    assert [text.text for text in rule.texts] == ["Map#"]
    screen = screen_of(HEADER, tmp_path)
    assert screen.has(place("Map 3", 20, 272), "Map 3", 0.9)
    assert not screen.has(place("MSCSKEL", 20, 248), "MSCSKEL", 0.9)


def test_what_is_asked_about_stays_where_a_person_says_so() -> None:
    assert "MSCSKEL" in rule_text(["MSCSKEL", "qFLM#"])
    assert "Zrk" not in rule_text(["MSCSKEL", "qFLM#"])
    with pytest.raises(ValueError, match="no text"):
        rule_text(["another"])


def test_texts_need_the_size_of_the_picture_and_are_limited(tmp_path: Path) -> None:
    text = '{ left = 1, top = 1, right = 9, bottom = 9, text = "qFLM" }'
    for match, texts in (
        ('{ model = "x" }', text),
        ('{ model = "x", rows = 9, columns = 9 }', ", ".join([text] * (MOST_TEXTS + 1))),
    ):
        (tmp_path / "a.toml").write_text(
            f'source = "x"\n[[rule]]\nname = "a"\nmatch = {match}\nrectangles = []\ntexts = [{texts}]\n'
        )
        with pytest.raises(DeviceRuleError):
            read_rules(tmp_path)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"SoftwareVersions": "1"}, DEVICE | {"ManufacturerModelName": "x" * 65}, {"Manufacturer": "a\x07b"}],
    ids=["none", "no maker", "long", "control characters"],
)
def test_an_image_without_a_usable_device_has_none(attributes: dict[str, str]) -> None:
    assert Device.of(image_header(attributes=attributes)) is None


def test_a_device_has_one_name_wherever_it_is_learnt() -> None:
    first, other = Device.of(HEADER), Device.of(image_header(rows=360, columns=640, attributes=DEVICE))
    assert first is not None
    assert other is not None
    assert first.rule_name == Device(tuple(reversed(first.conditions))).rule_name != other.rule_name


def dicom(path: Path, number: int, **attributes: Any) -> Path:
    known = {"PatientName": f"{name_of(number)}^Mia", "PatientID": f"98{number:05}"} | DEVICE
    return write_dicom(path, echo()[None], **known | attributes)


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"Modality": "DX"}, "no ultrasound"),
        ({"Manufacturer": "", "ManufacturerModelName": ""}, "the header names no device"),
        ({"PatientID": "", "PatientName": ""}, "the header names no patient"),
        ({"ManufacturerModelName": "Kim"}, "the header names a person as the device"),
        ({"SoftwareVersions": "v4711815"}, "the header names a person as the device"),
    ],
)
def test_an_image_that_nothing_can_be_learnt_from_says_why(
    tmp_path: Path, attributes: dict[str, Any], why: str
) -> None:
    known = {"PatientName": "Kim^Min", "PatientID": "4711815"}
    assert subject_of(open_dicom(dicom(tmp_path / "a.dcm", 1, **known | attributes))) == why


def test_a_station_that_is_called_like_its_scanner_hides_no_device(tmp_path: Path) -> None:
    assert not isinstance(subject_of(open_dicom(dicom(tmp_path / "a.dcm", 1, StationName="SCAN7"))), str)


def read_by_number(images: dict[str, int]) -> Any:
    """Readings as the screen of a patient has them, by the image's UID."""

    def read(image: Any, _tools: object) -> list[Reading]:
        return [reading(*one) for one in texts_of(images[image.uid])]

    return read


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an image of each of 30 patients, and what is no image."""
    images = {}
    for number in range(30):
        images[open_dicom(dicom(tmp_path / f"{number}.dcm", number)).uid] = number
    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.setattr(learning, "readings_of", read_by_number(images))
    return tmp_path


def test_a_folder_is_learnt_by_command(folder: Path) -> None:
    out = folder / "screen.toml"
    result = CliRunner().invoke(app, ["learn-screen", str(folder), "--out", str(out), "--keep", "MSCSKEL"])
    assert result.exit_code == 0, result.output
    [rule] = read_file(out)
    assert {text.text for text in rule.texts} == {"Map#", "MSCSKEL"}
    assert [name_of(number) for number in range(30) if name_of(number) in out.read_text()] == []
    again = CliRunner().invoke(app, ["learn-screen", str(folder), "--out", str(out)])
    assert again.exit_code == 65
    assert "File exists" in again.output


def test_a_folder_of_few_patients_gives_no_file(folder: Path) -> None:
    for number in range(15):
        (folder / f"{number}.dcm").unlink()
    out = folder / "screen.toml"
    result = CliRunner().invoke(app, ["learn-screen", str(folder), "--out", str(out)])
    assert (result.exit_code, out.exists()) == (65, False)
    assert "no text was seen for 20 patients" in result.output


def test_devices_are_limited_and_what_cannot_be_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "MOST_DEVICES", 2)
    monkeypatch.setattr(learning, "readings_of", lambda *_: ())
    assert MOST_DEVICES == 200
    found = Learnt()
    for number in range(4):
        found.add(dicom(tmp_path / "a.dcm", number, SoftwareVersions=f"{number}"), None)  # type: ignore[arg-type]
    (tmp_path / "b.dcm").write_bytes(b"x")
    found.add(tmp_path / "b.dcm", None)  # type: ignore[arg-type]
    assert len(found.screens) == 2
    assert sorted(found.skipped.values()) == [1, 2]


def test_in_a_picture_what_is_known_of_the_screen_stays_and_a_name_at_its_place_goes() -> None:
    picture = burn(burn(echo(), "Rnd 5", (380, 20), 255, 18), "SMITH 45", (10, 8), 255, 18)
    image = ArrayImage(picture[None])

    def read_by(screen: Screen) -> dict[str, Reading]:
        allowed = Allowed.from_options([], "remove", image.header, screen)
        return {one.text: one for one in clean(image, silent, allowed=allowed).readings}

    before = read_by(NOT_KNOWN)
    assert {text: one.removed for text, one in before.items()} == {"Rnd 5": True, "SMITH 45": True}
    known = Screen([at(before["Rnd 5"], "Rnd#"), at(before["SMITH 45"], "Kontrast#")])
    assert {text: one.removed for text, one in read_by(known).items()} == {"Rnd 5": False, "SMITH 45": True}


def test_a_block_of_unknown_labels_and_bare_numbers_stays_where_it_is_known() -> None:
    """Such a row counts as a name and an age, and would take what is known with it."""
    picture = echo(1, (360, 640))
    for row, words in enumerate((("Kontur", "86"), ("Persis", "52"), ("Glaett", "26"))):
        for text, left in zip(words, (470, 570), strict=True):
            picture = burn(picture, text, (left, 20 + 44 * row), 255, 18)
    image = ArrayImage(picture[None])

    def read_by(screen: Screen) -> dict[str, Reading]:
        allowed = Allowed.from_options([], "remove", image.header, screen)
        return {one.text: one for one in clean(image, silent, allowed=allowed).readings}

    before = read_by(NOT_KNOWN)
    assert {text: one.removed for text, one in before.items()} == dict.fromkeys(
        ("Kontur", "86", "Persis", "52", "Glaett", "26"), True
    )
    known = Screen([at(one, form_of(text)) for text, one in before.items()])
    assert [text for text, one in read_by(known).items() if one.removed] == []


def at(one: Reading, text: str) -> ScreenText:
    left, top, right, bottom = map(int, one.bounds)
    return ScreenText(left=left, top=top, right=right, bottom=bottom, text=text)
