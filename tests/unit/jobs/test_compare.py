"""Compared with before: with whose results, with which, and what line and report say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydicom
import pytest
from highdicom.sr import MeasurementReport, srread
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.contract import (
    Accept,
    Code,
    Decision,
    Finding,
    Measurement,
    ModelRef,
    PipelineCard,
    PipelineResult,
    Progress,
    QualityNote,
    SourceImage,
)
from dicom_console.views import patients
from dicom_node.config.settings import Settings
from dicom_node.dicom.dates import date_of
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import Pseudonyms, build_deidentified
from dicom_node.results.common.previous import COMPARED
from dicom_node.results.sr import reading
from dicom_node.sitekey import SiteKey
from dicom_node.store.tables import Instance, Result, Study
from tests.inbox_lab import Inbox
from tests.result_images import CR, EFFUSION, context, grey_image, source, write_image
from tests.unit.jobs.worker_lab import configuration, work
from tests.validators import dciodvfy_errors

RATIO = Code("CARDIOTHORACIC", "99TEST", "Cardiothoracic ratio")
HEAD = Code("11984-2", "LN", "Head Circumference")
UNIT, MM = Code("{ratio}", "UCUM", "ratio"), Code("mm", "UCUM", "mm")


class Measuring:
    """Reads what it is to measure and to suspect from the Series Description: ``0.51 effusion``."""

    card = PipelineCard(name="measuring", version="1")
    version = "1"

    def __init__(self, *, models_dir: Path | None = None) -> None:
        pass

    def warm_up(self) -> None:
        pass

    def models(self) -> tuple[ModelRef, ...]:
        return (ModelRef("measuring", self.version, "0" * 64, "1" * 64),)

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept:
        return Accept(tuple(image.uid for image in images))

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        [model] = self.models()
        numbers, findings = [], []
        for image in images:
            words = image.header.attributes["SeriesDescription"].split()
            value, fetus = float(words[0]), "1" if "fetus" in words else ""
            quantity, unit, error = (HEAD, MM, 8.0) if fetus else (RATIO, UNIT, 0.05)
            lines = (((10.0, 10.0), (60.0, 10.0)),)
            numbers.append(
                Measurement(
                    image.uid,
                    quantity.meaning,
                    quantity,
                    value,
                    unit,
                    lines,
                    model,
                    fetus=fetus,
                    statement="A number",
                    error=error,
                )
            )
            suspected = "effusion" in words
            decision = Decision.PRESENT if suspected else Decision.ABSENT
            findings.append(
                Finding("Effusion", EFFUSION, 0.7 if suspected else 0.1, 0.5, decision, image.uid, model)
            )
        return PipelineResult(tuple(findings), measurements=tuple(numbers), models=self.models())


def settings(folder: Path, **rule: Any) -> Settings:
    made = configuration()
    del made["rules"][0]["options"]
    made["rules"][0] |= {"pipeline": "measuring", "compare": True} | rule
    made["peers"][1]["results"] = ["sr", "sc", "summary", "gsps"]
    return Settings.model_validate({**made, "node": {"data_dir": folder}})


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    entry = EntryPoint("measuring", "tests.unit.jobs.test_compare:Measuring", pipelines.GROUP)
    monkeypatch.setitem(pipelines.PIPELINES, "measuring", entry)
    node = Inbox(tmp_path / "var", configuration())
    node.settings = settings(node.folder)
    node.reopen()
    yield node
    node.close()


def take(node: Inbox, day: str, words: str, **given: Any) -> Path:
    """Receive and analyse one film of a study of that day; the file of its report."""
    name = f"{day}{words}{given.get('name', '')}"
    about = {"StudyDate": day, "SeriesDescription": words, "PatientID": "P1"} | given
    about.pop("name", None)
    file = write_image(node.folder.parent / f"{derived_uid(name)[-20:]}.dcm", CR, grey_image(), **about)
    image = pydicom.dcmread(file)
    node.receive(image)
    node.settle()
    work(node)
    [path] = [node.settings.node.data_dir / row.path for row in reports(node, str(image.StudyInstanceUID))]
    return path


def reports(node: Inbox, study: str) -> list[Result]:
    with node.database.read() as session:
        chosen = select(Result).join(Study).where(Study.study_instance_uid == study)
        rows = list(session.scalars(chosen.where(Result.kind == ResultKind.SR).order_by(Result.id)))
        session.expunge_all()
        return rows


def compared(report: Path) -> list[str]:
    return [line for line in reading.short_result(report) if line.startswith("Before, ")]


def test_a_larger_ratio_and_a_new_finding_stand_in_one_line(node: Inbox) -> None:
    take(node, "20240302", "0.51")
    [line] = compared(take(node, "20250102", "0.57 effusion"))
    assert line == (
        "Before, 2024-03-02: cardiothoracic ratio was 0.51 (+0.06, method ±0.05). "
        "Newly suspected: pleural effusion."
    )


def test_a_difference_within_the_error_is_no_change(node: Inbox) -> None:
    take(node, "20240302", "0.51")
    [line] = compared(take(node, "20250102", "0.56"))
    assert line == "Before, 2024-03-02: cardiothoracic ratio was 0.51, no change (±0.05)."


def test_what_is_no_longer_suspected_is_said(node: Inbox) -> None:
    take(node, "20240302", "0.51 effusion")
    [line] = compared(take(node, "20250102", "0.51"))
    assert line.endswith("No longer suspected: pleural effusion.")


def test_the_newest_earlier_study_counts_and_later_ones_never(node: Inbox) -> None:
    take(node, "20260101", "0.70")
    take(node, "20230302", "0.40")
    take(node, "20240302", "0.51")
    [line] = compared(take(node, "20250102", "0.51"))
    assert line.startswith("Before, 2024-03-02")


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "P2"},
        {"IssuerOfPatientID": "ANOTHER"},
        {"IssuerOfPatientID": ""},
        {"PatientBirthDate": "19800101"},
        {"PatientName": "Somebody^Else"},
        {"ViewPosition": "AP"},
        {"ViewPosition": ""},
        {"BodyPartExamined": "SHOULDER"},
        {"StudyDate": "20250102"},
        {"StudyDate": ""},
    ],
    ids=str,
)
def test_nothing_else_is_compared_with(node: Inbox, other: dict[str, str]) -> None:
    take(node, "20240302", "0.51", **other)
    assert compared(take(node, "20250102", "0.60 effusion", name="now")) == []


@pytest.mark.parametrize("both", [{"PatientID": ""}, {"ViewPosition": ""}, {"StudyDate": ""}], ids=str)
def test_what_neither_says_is_not_the_same(node: Inbox, both: dict[str, str]) -> None:
    take(node, "20240302", "0.51", **both)
    assert compared(take(node, "20250102", "0.60", **both)) == []


def test_another_model_version_is_said_and_not_compared(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    take(node, "20240302", "0.51")
    monkeypatch.setattr(Measuring, "version", "2")
    [line] = compared(take(node, "20250102", "0.60 effusion"))
    assert "cardiothoracic ratio by another model version, not compared" in line
    assert "+" not in line
    assert "Newly suspected" not in line


def test_a_fetus_grows_and_is_not_compared_with_its_sister(node: Inbox) -> None:
    take(node, "20240302", "300 fetus")
    take(node, "20241001", "180 fetus")
    [line] = compared(take(node, "20241201", "260 fetus"))
    assert line == "Before, 2024-10-01: head circumference was 180 mm."
    assert "head" not in " ".join(compared(take(node, "20241220", "100 fetus")))


def test_without_the_rule_or_a_prior_nothing_changes(node: Inbox) -> None:
    first = pydicom.dcmread(take(node, "20240302", "0.51")).SOPInstanceUID
    node.settings = settings(node.folder, compare=False)
    node.reopen()
    alone = take(node, "20250102", "0.60")
    assert compared(alone) == []
    assert "PertinentOtherEvidenceSequence" not in pydicom.dcmread(alone)
    assert first != pydicom.dcmread(alone).SOPInstanceUID


def test_a_prior_that_comes_later_rewrites_nothing(node: Inbox) -> None:
    now = take(node, "20250102", "0.60")
    before = now.read_bytes()
    study = str(pydicom.dcmread(now).StudyInstanceUID)
    take(node, "20240302", "0.51")
    assert [row.sop_instance_uid for row in reports(node, study)] == [pydicom.dcmread(now).SOPInstanceUID]
    assert now.read_bytes() == before


def test_a_report_that_waits_for_a_person_is_not_compared_with(node: Inbox) -> None:
    node.settings = settings(node.folder, assess_first=True)
    node.reopen()
    take(node, "20240302", "0.51")
    assert compared(take(node, "20250102", "0.60")) == []


def test_the_report_quotes_the_earlier_one_and_is_valid(node: Inbox) -> None:
    earlier = take(node, "20240302", "0.51")
    report = take(node, "20250102", "0.60 effusion")
    assert dciodvfy_errors(report) == []
    document, quoted = srread(report), pydicom.dcmread(earlier)
    assert isinstance(document.content, MeasurementReport)
    others = {uid for _, _, uid, _ in document.get_evidence()} - {
        uid for _, _, uid, _ in document.get_evidence(current_procedure_only=True)
    }
    image = str(
        quoted.CurrentRequestedProcedureEvidenceSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
    )
    assert others == {str(quoted.SOPInstanceUID), image}
    text = str(document)
    assert "Time Point" in text
    assert "2024-03-02" in text
    _, numbers = reading.stated(earlier)
    assert numbers[0].tracking_uid in text
    # Today's numbers alone are read back as this report's own.
    assert [row["number"] for row in reading.measurements(report)] == ["0.6 {ratio}"]


def test_a_hostile_header_gives_no_comparison(node: Inbox) -> None:
    take(node, "20240302", "0.51")
    with node.database.write() as session:
        for row in session.scalars(select(Study)):
            row.study_date = "2024'); "[:8]
        for one in session.scalars(select(Instance)):
            one.attributes = {**one.attributes, "ViewPosition": "PA\\AP" * 1000}
    assert compared(take(node, "20250102", "0.60")) == []
    for text in ("20240230", "2024", "99999999", "２０２４０１０１", "2024 1 1"):
        assert date_of(text) is None


def test_no_comparison_can_enter_a_deidentified_result(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "one.dcm", CR, grey_image()))
    note = QualityNote(COMPARED, "Before, 2024-03-02", one.image.uid, on_faces=True)
    with pytest.raises(ResultRefused, match="earlier study"):
        build_deidentified(
            context(), [one], PipelineResult(quality=(note,)), Pseudonyms.of(SiteKey(b"1" * 32), "domain")
        )


def test_the_page_of_a_patient_plots_a_number_and_not_that_of_two_persons(node: Inbox) -> None:
    take(node, "20240302", "0.51")
    take(node, "20250102", "0.57")
    with node.database.read() as session:
        [plot] = patients.show(session, node.settings, 1)["trends"]
    assert [point["value"] for point in plot["points"]] == ["0.51", "0.57"]
    take(node, "20250302", "0.58", PatientName="Somebody^Else", PatientBirthDate="19500101")
    with node.database.read() as session:
        assert patients.show(session, node.settings, 1)["trends"] == []
