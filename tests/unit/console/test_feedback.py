"""How readers assess findings."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import update

from ai_pipeline.models import registry
from ai_pipeline.models.registry import Card
from dicom_node import cli
from dicom_node.errors import ExitCode
from dicom_node.model.roles import UserRole
from dicom_node.monitoring.drift import wilson
from dicom_node.services import assessments
from dicom_node.store.accounts import Feedback
from tests.console_lab import Browser, ConsoleLab, config_file
from tests.inbox_lab import Inbox
from tests.modality import ultrasound


@pytest.fixture
def console(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> ConsoleLab:
    """Of a node with a study of two findings, whose model also knows another."""
    chest = registry.find("chest-efficientnet-lite0")
    known = registry.find

    def find(name: str, models_dir: Path | None = None) -> Card:
        return chest if name == "obedient@1" else known(name, models_dir)

    monkeypatch.setattr(registry, "find", find)
    return ConsoleLab(node.settings, node.database)


def forms(browser: Browser) -> list[dict[str, str]]:
    """The fields of the forms about findings on the page of the study."""
    browser.get("/studies/1")
    found = re.findall(r'action="/studies/1/feedback">(.*?)</form>', browser.text, re.DOTALL)
    names = r'name="(finding|tracking_uid|model)" value="([^"]*)"'
    return [
        {
            **dict(re.findall(names, form)),
            "verdict": verdict,
            **({"because": "a rib"} if "because" in form else {}),
        }
        for form in found
        for verdict in re.findall(r'name="verdict" value="(\w+)"', form)
    ]


def test_a_reader_judges_each_finding_and_may_think_again(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.READER)
    right, modified, wrong, other, *_ = forms(browser)
    verdicts = [one["verdict"] for one in (right, modified, wrong)]
    assert (right["finding"], verdicts) == ("Mark", ["accepted", "modified", "rejected"])
    assert right["tracking_uid"] == wrong["tracking_uid"] != other["tracking_uid"]
    for given in (right, other, wrong):
        assert browser.post("/studies/1/feedback", **given) == 303
    browser.get("/studies/1")
    assert re.findall(r'class="state \w+">(\w+)</span> <small>(reader[^<]*)<', browser.text) == [
        ("rejected", "reader: a rib"),
        ("accepted", "reader"),
    ]
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/studies/1/feedback", **right) == 303
    with console.database.read() as session:
        [row] = assessments.counts_by_finding(session, "obedient", "1")
    assert (row["present_accepted"], row["present_rejected"]) == (2, 1)
    noted = console.audited("feedback_given")
    assert len(noted) == 4
    assert noted[0] == {"verdict": "accepted", "model": "obedient 1"}


def test_a_viewer_sees_verdicts_and_gives_none(console: ConsoleLab) -> None:
    [given, *_] = forms(console.browser(UserRole.READER))
    browser = console.browser(UserRole.VIEWER)
    assert browser.post("/studies/1/feedback", **given) == 403
    assert forms(browser) == []


def test_what_the_report_left_out_is_said_to_be_missing(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.READER)
    assert browser.post("/studies/1/feedback", verdict="missing", finding="Cardiomegaly | obedient 1") == 303
    browser.get("/studies/1")
    assert re.search(r"missing</span> Cardiomegaly", browser.text)
    with console.database.read() as session:
        assert [row["missed"] for row in assessments.counts_by_finding(session, "obedient", "1")] == [1]


@pytest.mark.parametrize("stuffed", ['=HYPERLINK("http://x")', "Nowak Anna", "1.2.3", "x" * 200])
def test_a_reader_says_once_that_a_finding_is_missing(console: ConsoleLab, stuffed: str) -> None:
    browser = console.browser(UserRole.READER)
    said = {"verdict": "missing", "finding": "Cardiomegaly | obedient 1"}
    for given in ({"tracking_uid": stuffed}, {}):
        assert browser.post("/studies/1/feedback", **said, **given) == 303
    with console.database.read() as session:
        [row] = assessments.all_assessments(session)
    assert row["tracking_uid"] == ""


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(begin: str) -> None:
    text = assessments.as_csv([dict.fromkeys(assessments.COLUMNS, "x") | {"finding": f"{begin}1+1"}])
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert (row["finding"], row["model"]) == (f"'{begin}1+1", "x")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"verdict": "perhaps"}, 400),
        ({"verdict": "rejected", "finding": "Mark", "model": "obedient 1"}, 409),
        ({"verdict": "accepted", "finding": "Mark", "model": "obedient 2"}, 404),
        ({"verdict": "accepted", "finding": "<script>", "model": "obedient 1"}, 404),
        ({"verdict": "missing", "finding": "Nowak^Anna | obedient 1"}, 404),
        ({"verdict": "missing", "finding": "Mark | obedient 1"}, 404),
    ],
)
def test_only_what_the_report_or_the_model_knows_is_kept(
    console: ConsoleLab, fields: dict[str, str], status: int
) -> None:
    browser = console.browser(UserRole.READER)
    assert browser.post("/studies/1/feedback", **fields) == status
    with console.database.read() as session:
        assert assessments.all_assessments(session) == []


def test_the_model_counts_it_and_gives_it_as_csv(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.READER)
    for given in forms(browser)[:1]:
        browser.post("/studies/1/feedback", **given)
    assert browser.get("/models/obedient/1/feedback.csv") == 200
    assert browser.headers["content-type"].startswith("text/csv")
    [row] = csv.DictReader(io.StringIO(browser.text))
    assert set(row) == set(assessments.COLUMNS)
    assert (row["finding"], row["decision"], row["verdict"], row["version"]) == (
        "Mark",
        "present",
        "accepted",
        "1",
    )
    assert console.browser(UserRole.VIEWER).get("/models/obedient/1/feedback.csv") == 403


def test_the_interval_of_a_share_holds_for_few() -> None:
    assert wilson(0, 0) is None
    few = wilson(1, 1)
    assert few is not None
    assert few == pytest.approx([1.0, 0.2065, 1.0], abs=0.001)
    assert wilson(8, 10) == pytest.approx([0.8, 0.490, 0.943], abs=0.001)


def test_the_command_line_assesses_as_the_page_does(
    console: ConsoleLab, node: Inbox, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(node.settings)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["studies", *words, "--config", str(file)])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    uid = str(ultrasound("one").StudyInstanceUID)
    status, text = run("findings", uid, "--json")
    shown = json.loads(text)
    assert status == ExitCode.OK and [row["finding"] for row in shown] == ["Mark", "Mark"]
    chosen = ("--tracking-uid", shown[1]["tracking_uid"])
    status, text = run("assess", uid, "Mark", "--verdict", "accepted")
    assert status and "name the tracking UID" in text
    status, text = run("assess", uid, "Mark", *chosen, "--verdict", "rejected")
    assert status and "say why" in text
    assert (
        run("assess", uid, "Mark", *chosen, "--verdict", "rejected", "--because", "a rib")[0] == ExitCode.OK
    )
    assert run("assess", uid, "Cardiomegaly", "--verdict", "missing")[0] == ExitCode.OK
    assert run("assess", uid, "Nodule of nobody", "--verdict", "missing")[0]
    assert [
        [(one["actor"], one["verdict"], one["because"]) for one in row["verdicts"]]
        for row in json.loads(run("findings", uid, "--json")[1])
    ] == [[], [("command line", "rejected", "a rib")]]
    browser = console.browser(UserRole.VIEWER)
    browser.get("/studies/1")
    assert "command line: a rib" in browser.text and re.search(r"missing</span> Cardiomegaly", browser.text)


def test_verdicts_are_counted_by_age_sex_and_station(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.READER)
    right, *_, other = forms(browser)[:6]
    for given in (right, other):
        assert browser.post("/studies/1/feedback", **given) == 303
    with console.database.read() as session:
        rows = assessments.counts_by_group(session, "obedient", "1")
        [kept, _] = assessments.all_assessments(session)
    assert (kept["sex"], kept["station"]) == ("F", "TEST")
    assert [(row["by"], row["group"], row["there"], row["rejected"]) for row in rows] == [
        ("age", kept["age_group"], 1, 1),
        ("sex", "F", 1, 1),
        ("station", "TEST", 1, 1),
    ]
    assert rows[0]["ppv"] == wilson(1, 2)
    card = registry.find("chest-efficientnet-lite0")
    with console.database.write() as session:
        session.execute(update(Feedback).values(model=card.id, version=card.version))
    assert browser.get(f"/models/{card.id}/{card.version}") == 200
    assert "By age, sex and station" in browser.text and ">TEST<" in browser.text


@pytest.mark.parametrize(
    ("says", "group"),
    [
        ({"PatientBirthDate": "20081122", "StudyDate": "20261121"}, "0-17"),
        ({"PatientBirthDate": "20081122", "StudyDate": "20261122"}, "18-39"),
        ({"PatientBirthDate": "19400101", "StudyDate": "20260101"}, "80 and over"),
        ({"PatientBirthDate": "20270101", "StudyDate": "20260101"}, ""),
        ({"PatientAge": "064Y"}, "40-64"),
        ({"PatientAge": "018M"}, "0-17"),
        ({}, ""),
    ],
)
def test_the_age_group_is_that_of_the_day_of_the_study(says: dict[str, str], group: str) -> None:
    header = Dataset()
    for keyword, value in says.items():
        setattr(header, keyword, value)
    assert assessments._age_group(header) == group
