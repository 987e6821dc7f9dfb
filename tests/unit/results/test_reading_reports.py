"""A report of ours is read back as it was written, in whichever way it holds its findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_pipeline.chest import ratio
from ai_pipeline.contract import Decision, Measurement, PipelineResult
from dicom_node import results
from dicom_node.model.kinds import ResultKind
from dicom_node.results.sr.reading import conclusion, findings, measurements, places
from tests.result_images import (
    CALIBRATED,
    CARDIOMEGALY,
    CR,
    EFFUSION,
    NODULE,
    context,
    finding,
    grey_image,
    source,
    write_image,
)

HEART = ((30.0, 60.0), (50.0, 60.0))


@pytest.mark.parametrize("measured", [False, True], ids=["findings alone", "beside measurements"])
def test_findings_are_read_back_with_numbers_and_model(tmp_path: Path, measured: bool) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))
    uid = one.image.uid
    found = (
        finding(CARDIOMEGALY, 0.83, uid, (50.5, 60.25, 150.0, 170.0)),
        finding(NODULE, 0.4, uid, decision=Decision.INDETERMINATE),
        finding(EFFUSION, 0.07, uid, decision=Decision.ABSENT),
    )
    number = Measurement(
        uid,
        "Cardiothoracic ratio",
        ratio.CARDIOTHORACIC_RATIO,
        0.543,
        ratio.RATIO_UNIT,
        (HEART, HEART),
        CALIBRATED,
        ratio.THORAX,
    )
    given = PipelineResult(findings=found, measurements=(number,) if measured else ())
    [report] = [item for item in results.build(context(kinds=[ResultKind.SR]), [one], given) if item.data]
    path = tmp_path / "sr.dcm"
    path.write_bytes(report.data or b"")

    rows = findings(path)
    assert [(row["finding"], row["decision"]) for row in rows] == [
        ("Cardiomegaly", "present"),
        ("Nodule of lung", "indeterminate"),
        ("Pleural effusion", "absent"),
    ]
    assert [sorted(value.split()[0] for value in row["numbers"].values()) for row in rows] == [
        ["41.0", "83.0"],
        ["40.0", "41.0"],
        ["7.0"],
    ]
    assert [bool(row["region"]) for row in rows] == [True, False, False]
    assert {row["model"] for row in rows} == {"chest-lite0 1"}
    assert "Suspected: cardiomegaly." in conclusion(path)
    assert [row["number"] for row in measurements(path)] == (["0.543 {ratio}"] if measured else [])
    drawn = {(row["finding"], row["number"]) for row in places(path)}
    ratios = {("Cardiothoracic ratio", "0.543 {ratio}")} if measured else set()
    assert drawn == {("Cardiomegaly", "83.0 % (cut-off 41.0 %)"), *ratios}
