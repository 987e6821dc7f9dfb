"""The film and the report that examples/read_sr.ipynb reads: a drawn chest, and findings made up for it.

``python -m tests.example_lab`` writes them again, after BUILDER_VERSION was raised.
"""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from ai_pipeline.chest import ratio
from ai_pipeline.contract import Decision, Measurement, PipelineResult
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.build import build
from tests.drawn_chest import chest_phantom, chest_radiograph
from tests.result_images import CALIBRATED, CARDIOMEGALY, NODULE, context, finding, source

FOLDER: Final = Path(__file__).resolve().parents[1] / "examples" / "read_sr"
FILM: Final = FOLDER / "film.dcm"
REPORT: Final = FOLDER / "report.dcm"
_SIDE = 256  # pixels
_SPOT = (70.0, 130.0)  # of the nodule, in pixels


def film() -> Path:
    """Draw the film anew, with a round shadow in the right lung."""
    grey = np.asarray(Image.fromarray(chest_phantom()).resize((_SIDE, _SIDE)), np.float32)
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] + 0.5
    spot = 70 * np.exp(-(((x - _SPOT[0]) ** 2 + (y - _SPOT[1]) ** 2) / 30))
    pixels = (grey + spot).clip(0, 255).astype(np.uint8)
    drawn = chest_radiograph(
        pixels, view="PA", sex="F", age_years=60, description="drawn chest", exposed="20250102101500"
    )
    drawn.save_as(FILM, enforce_file_format=True)
    return FILM


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
    film()
    REPORT.write_bytes(report())
