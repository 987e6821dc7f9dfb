"""The report that examples/read_sr.ipynb reads: findings made up for the drawn chest beside it.

``python -m tests.example_lab`` writes it again, after BUILDER_VERSION was raised.
"""

from pathlib import Path
from typing import Final

from ai_pipeline.chest import ratio
from ai_pipeline.contract import Decision, Measurement, PipelineResult
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.build import build
from tests import ROOT
from tests.result_images import CALIBRATED, CARDIOMEGALY, NODULE, context, finding, source

FOLDER: Final = ROOT / "examples" / "read_sr"
FILM: Final = FOLDER / "film.dcm"
REPORT: Final = FOLDER / "report.dcm"


def report(path: Path = FILM) -> bytes:
    """What the present builders make of the film."""
    image = source(path)
    uid = image.image.uid
    lines = (((107.0, 170.0), (175.0, 170.0)), ((47.0, 190.0), (212.0, 190.0)))
    measured = Measurement(
        uid, "Cardiothoracic ratio", ratio.CARDIOTHORACIC_RATIO, 0.41, ratio.RATIO_UNIT, lines,
        CALIBRATED, ratio.THORAX,
    )  # fmt: skip
    made = PipelineResult(
        findings=(
            finding(NODULE, 0.83, uid, (60.0, 120.0, 80.0, 140.0)),
            finding(CARDIOMEGALY, 0.05, uid, decision=Decision.ABSENT),
        ),
        measurements=(measured,),
        models=(CALIBRATED,),
    )
    [built] = build(context(kinds=[ResultKind.SR]), [image], made)
    return built.data


if __name__ == "__main__":
    REPORT.write_bytes(report())
