"""Screens of devices: counted by workers, confirmed by an admin, taken from others, forgotten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy.exc import OperationalError

from ai_pipeline.burnin.devices.rules import SHIPPED, read_rules, screen_of
from ai_pipeline.burnin.screens.learning import MOST_DEVICES
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound
from dicom_node.base.sitekey import path_of
from dicom_node.base.store.tables import LearntScreen
from dicom_node.base.store.transitions import utc_now
from dicom_node.jobs.worker.analysis import ImageAnalysis
from dicom_node.jobs.worker.screens import ScreenLearner
from dicom_node.people import screens
from dicom_node.people.audit import Person
from tests.console_lab import audited
from tests.inbox_lab import Inbox
from tests.unit.ai_pipeline.burnin.screens_lab import block, name_of, place, reading
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.jobs.test_worker import Says, still

BY = Person("admin")
DEVICE = {"Manufacturer": "Acme", "ManufacturerModelName": "Scan 7", "SoftwareVersions": "1.2"}

RULE = """
source = "x"
[[rule]]
name = "a"
match = { model = "x", rows = 9, columns = 9 }
rectangles = []
"""


@pytest.fixture
def node(open_inbox: Callable[..., Inbox]) -> Inbox:
    return open_inbox()


def folder_of(node: Inbox) -> Path:
    return node.settings.node.data_dir / DEVICE_RULES_FOLDER


def learn(node: Inbox, patients: int = 30, learner: ScreenLearner | None = None, **attributes: Any) -> None:
    """Let a worker clean an image of each of so many patients."""
    learner = learner or ScreenLearner(node.database, node.settings)
    file = node.folder / "image.dcm"
    for number in range(patients):
        about = {
            "PatientName": f"{name_of(number)}^Mia",
            "PatientID": f"98{number:05}",
            "PatientSex": "F",
            "PatientBirthDate": "19700203",
        }
        image = open_dicom(write_dicom(file, echo()[None], **about | DEVICE | attributes))
        texts = block(f"qFLM {number}", f"Zrk {number + 2}%", "MSCSKEL", f"Map {number % 5}")
        read = [reading(*text) for text in [*texts, (name_of(number), 20, 5), (f"98{number:05}", 300, 5)]]
        learner.learn(image, read)


def shown(node: Inbox, number: int = 1) -> dict[str, str]:
    """The texts of a screen with what is proposed."""
    row = node.read(screens.show_screen, node.settings, number)
    return {place["text"]: place["choice"] for place in row["texts"] if place["text"]}


def test_a_screen_is_counted_shown_and_confirmed_as_a_device_rule(node: Inbox) -> None:
    learn(node)
    [row] = node.read(screens.list_screens, node.settings)
    told = ("manufacturer", "model", "software", "size", "confirmed")
    assert [row[key] for key in told] == ["Acme", "Scan 7", "1.2", "480 × 360", False]
    assert 20 <= row["patients"] <= 30
    assert shown(node) == {"qFLM#": "ask", "Zrk#%": "ask", "Map#": "stays", "MSCSKEL": "ask"}
    assert screens.confirm_screen(node.settings, 1, ["qFLM#", "Zrk#%", "Map#"], BY) == 3
    [row] = node.read(screens.list_screens, node.settings)
    assert row["confirmed"] is True
    image = open_dicom(node.folder / "image.dcm")
    known = screen_of(image.header, folder_of(node))
    assert known.has(place("qFLM 5", 20, 200), "qFLM 5", 0.9)
    assert not known.has(place("MSCSKEL", 20, 248), "MSCSKEL", 0.9)
    [fields] = audited(node.database, "rule_saved")
    assert fields == {"name": row["name"], "of": "screen", "texts": 3}


def test_a_person_says_which_texts_stay_and_may_say_otherwise_later(node: Inbox) -> None:
    learn(node)
    assert screens.confirm_screen(node.settings, 1, ["MSCSKEL", "Map#"], BY) == 2
    row = node.read(screens.show_screen, node.settings, 1)
    assert {one["text"] for one in row["texts"] if one["confirmed"]} == {"MSCSKEL", "Map#"}
    assert screens.confirm_screen(node.settings, 1, ["qFLM#"], BY) == 1
    assert "MSCSKEL" not in screens.export_screen(node.settings, 1)
    with pytest.raises(FaultyInput, match="not offered"):
        screens.confirm_screen(node.settings, 1, [name_of(3)], BY)


def test_of_few_patients_nothing_is_shown_or_confirmed(node: Inbox) -> None:
    learn(node, 12)
    assert shown(node) == {}
    with pytest.raises(FaultyInput, match="once 20 patients had it"):
        screens.confirm_screen(node.settings, 1, by=BY)
    with pytest.raises(NotAllowedNow, match="not confirmed"):
        screens.export_screen(node.settings, 1)


def test_neither_a_patient_nor_a_rare_text_stands_in_the_database(node: Inbox) -> None:
    learn(node, 12)
    stored = b"".join(file.read_bytes() for file in node.folder.glob("node.db*"))
    words = [name_of(number).encode() for number in range(12)] + [b"9800003", b"MSCSKEL", b"qFLM"]
    assert [word for word in words if word in stored] == []


def test_another_site_can_take_an_exported_rule(node: Inbox, open_inbox: Callable[..., Inbox]) -> None:
    learn(node)
    screens.confirm_screen(node.settings, 1, by=BY)
    file = node.folder / "theirs.toml"
    file.write_text(screens.export_screen(node.settings, 1), encoding="utf-8")
    name = node.rows(LearntScreen)[0].name
    (folder_of(node) / f"{name}.toml").unlink()
    assert screens.import_screens(node.settings, file, BY) == 1
    assert name in {rule.name for rule in read_rules(folder_of(node))}
    assert screens.import_screens(node.settings, file, BY) == 1, "in place of the former one"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("aloka-ssd-4000-480x640", 'model = "x", rows = 9, columns = 9'),
        ("screen-x-0123abcd", 'manufacturer = "*", rows = 9, columns = 9'),
    ],
    ids=["a shipped rule", "a pattern"],
)
def test_a_rule_that_is_not_of_one_screen_is_not_taken(node: Inbox, name: str, match: str) -> None:
    text = '{ left = 1, top = 1, right = 9, bottom = 9, text = "Map#" }'
    rule = f'source = "x"\n[[rule]]\nname = "{name}"\nmatch = {{ {match} }}\nrectangles = []\n'
    file = node.folder / "theirs.toml"
    file.write_text(f"{rule}texts = [{text}]\n", encoding="utf-8")
    with pytest.raises(FaultyInput, match="no file of screens"):
        screens.import_screens(node.settings, file, BY)
    assert not folder_of(node).exists()


def test_a_file_of_the_site_with_rectangles_is_not_replaced(node: Inbox) -> None:
    learn(node)
    screens.confirm_screen(node.settings, 1, by=BY)
    [file] = folder_of(node).glob("screen-*.toml")
    drawn = file.read_text(encoding="utf-8").replace(
        "rectangles = []", "rectangles = [{ left = 0, top = 0, right = 9, bottom = 9 }]"
    )
    file.write_text(drawn, encoding="utf-8")
    with pytest.raises(NotAllowedNow, match="has other device rules"):
        screens.confirm_screen(node.settings, 1, by=BY)
    assert file.read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source = 3", "source"),
        (
            'source = "x"\n[[rule]]\nname = "a"\nmatch = { model = "x" }\nrectangles = []',
            "no file of screens",
        ),
        (
            RULE + 'texts = [{ left = 1, top = 1, right = 9, bottom = 9, text = "Dr. Huber" }]',
            "may name a person",
        ),
        ("#" * (1 << 20) + "\n", "no file of screens"),
    ],
    ids=["mistake", "no texts", "a name", "large"],
)
def test_a_file_with_a_mistake_is_not_taken(node: Inbox, text: str, says: str) -> None:
    file = node.folder / "theirs.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(FaultyInput, match=says):
        screens.import_screens(node.settings, file, BY)
    assert not folder_of(node).exists()
    with pytest.raises(FaultyInput, match="cannot be read"):
        screens.import_screens(node.settings, node.folder / "none.toml", BY)


def test_a_forgotten_screen_loses_its_rule_and_is_learnt_anew(node: Inbox) -> None:
    learn(node)
    screens.confirm_screen(node.settings, 1, by=BY)
    screens.forget_screen(node.settings, 1, BY)
    assert node.rows(LearntScreen) == []
    assert list(folder_of(node).glob("*.toml")) == []
    assert len(audited(node.database, "rule_removed")) == 1
    learn(node, 1)
    [row] = node.rows(LearntScreen)
    assert row.patients == 1
    with pytest.raises(NotFound):
        screens.forget_screen(node.settings, 99, BY)


def test_a_rule_of_the_same_name_in_another_file_is_not_doubled(node: Inbox) -> None:
    learn(node)
    screens.confirm_screen(node.settings, 1, by=BY)
    name = node.rows(LearntScreen)[0].name
    (folder_of(node) / f"{name}.toml").rename(folder_of(node) / "room3.toml")
    with pytest.raises(NotAllowedNow, match="another file"):
        screens.confirm_screen(node.settings, 1, by=BY)
    assert len(read_rules(folder_of(node))) > len(list(SHIPPED.glob("*.toml")))


def test_with_the_setting_off_nothing_is_counted(node: Inbox) -> None:
    workers = node.settings.workers.model_copy(update={"learn_screens": False})
    off = node.settings.model_copy(update={"workers": workers})
    learn(node, 2, ScreenLearner(node.database, off))
    assert node.rows(LearntScreen) == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientID": "", "PatientName": ""},
        {"PatientID": "UNKNOWN", "PatientName": "UNKNOWN", "PatientBirthDate": ""},
        {"Modality": "DX"},
        {"Manufacturer": "", "ManufacturerModelName": ""},
        {"ManufacturerModelName": name_of(0)},
    ],
    ids=["nobody", "anybody", "no ultrasound", "no device", "named after a patient"],
)
def test_an_image_of_nobody_or_of_no_device_is_not_counted(node: Inbox, attributes: dict[str, Any]) -> None:
    learn(node, 1, **attributes)
    assert node.rows(LearntScreen) == []


def test_devices_are_limited(node: Inbox) -> None:
    node.add(
        *(
            LearntScreen(name=f"screen-{number}", device={}, patients=0, counted=b"", changed_at=utc_now())
            for number in range(MOST_DEVICES)
        )
    )
    learn(node, 1)
    assert len(node.rows(LearntScreen)) == MOST_DEVICES


@pytest.mark.parametrize("fault", ["database", "site key"])
def test_what_fails_is_no_fault_of_the_image(
    node: Inbox, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    if fault == "database":
        database = Mock(read=Mock(side_effect=OperationalError("SELECT", {}, Exception(name_of(0)))))
        learn(node, 1, ScreenLearner(database, node.settings))
    else:
        path = path_of(node.settings.node.data_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no key")
        learn(node, 1)
    assert "the screen of a device is not learnt" in caplog.text
    assert name_of(0) not in caplog.text
    assert node.rows(LearntScreen) == []


def test_damaged_counts_are_counted_anew(node: Inbox) -> None:
    learn(node, 3)
    with node.database.write() as session:
        row = session.get_one(LearntScreen, 1)
        row.counted = b"damaged"
    learn(node, 2)
    assert node.rows(LearntScreen)[0].patients == 2


def test_an_image_that_is_cleaned_again_counts_once(node: Inbox) -> None:
    learn(node, 3)
    before = node.rows(LearntScreen)[0]
    learn(node, 3)
    again = node.rows(LearntScreen)[0]
    assert (again.counted, again.changed_at) == (before.counted, before.changed_at)


def test_a_worker_counts_what_its_pipeline_read(tmp_path: Path) -> None:
    learner, source = Mock(), still(tmp_path)
    ImageAnalysis(Mock(), learner).run(Says(), [source], {}, lambda _share, _what: None)
    [(image, read)] = [call.args for call in learner.learn.call_args_list]
    assert image is source.image
    assert [one.text for one in read] == ["KIM"]
