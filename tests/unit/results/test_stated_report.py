"""Reports read back."""

from pathlib import Path

import pytest

from ai_pipeline.contract import (
    Decision,
    PipelineResult,
    QualityNote,
)
from dicom_node.results import stated_report
from dicom_node.results.build import build
from tests.result_images import (
    CARDIOMEGALY,
    EFFUSION,
    NODULE,
    film,
    finding,
)
from tests.unit.results.report_lab import (
    BOX,
    ONLY_REPORT,
    measured,
)


@pytest.mark.parametrize("beside", [False, True], ids=["findings alone", "beside measurements"])
def test_findings_are_read_back_with_numbers_and_model(tmp_path: Path, beside: bool) -> None:
    one, path = film(tmp_path), tmp_path / "sr.dcm"
    found = (
        finding(CARDIOMEGALY, 0.83, one.image.uid, BOX),
        finding(NODULE, 0.4, one.image.uid, decision=Decision.INDETERMINATE),
        finding(EFFUSION, 0.07, one.image.uid, decision=Decision.ABSENT),
    )
    note = QualityNote("ratio", "not measured: of a test.", one.image.uid)
    given = PipelineResult(found, quality=(note,), measurements=measured(one.image.uid)[:beside])
    [made] = build(ONLY_REPORT, [one], given)
    path.write_bytes(made.data or b"")
    numbers = lambda row: sorted(value.split()[0] for value in row["numbers"].values())
    rows = [
        (row["finding"], row["decision"], numbers(row), bool(row["region"]), row["model"])
        for row in stated_report.findings(path)
    ]
    assert rows == [
        ("Cardiomegaly", "present", ["41.0", "83.0"], True, "chest-lite0 1"),
        ("Nodule of lung", "indeterminate", ["40.0", "41.0"], False, "chest-lite0 1"),
        ("Pleural effusion", "absent", ["7.0"], False, "chest-lite0 1"),
    ]
    assert "Suspected: cardiomegaly." in stated_report.read_report(path).conclusion
    assert "ratio: not measured: of a test." in stated_report.read_report(path).remarks
    assert [row["number"] for row in stated_report.measurements(path)] == ["0.543 {ratio}"] * beside
    drawn = {(row["finding"], row["number"]) for row in stated_report.places(path)}
    ratios = {("Cardiothoracic ratio", "0.543 {ratio}")} if beside else set()
    assert drawn == {("Cardiomegaly", "83.0 % (cut-off 41.0 %)"), *ratios}
