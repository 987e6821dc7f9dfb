"""A still as large as a screen wall is cleaned in the memory that a worker has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.unit.ai_pipeline.phantoms import echo, write_dicom

MOST_MIB = 1536
ROWS, COLUMNS = 3072, 4096
CLEAN = """
import json, resource, sys
from ai_pipeline.burnin.pipeline import Ultrasound
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_dicom
try:
    result = Ultrasound().run([open_dicom(sys.argv[1])], lambda *_: None, {})
    said = "cleaned" if len(result.images) == 2 else "nothing"
except CleaningFailed as failure:
    said = str(failure)
print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]))
"""


def with_text() -> np.ndarray:
    picture = echo(5, (ROWS // 2, COLUMNS // 2)).repeat(2, 0).repeat(2, 1)
    noise = np.random.default_rng(5).normal(0, 6, picture.shape).astype(np.int16)
    picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    for row in (80, 200, 2900):
        cv2.putText(picture, "DOE JANE 1970-01-02", (60, row), cv2.FONT_HERSHEY_SIMPLEX, 2.5, 255, 4)
    return picture


def noise() -> np.ndarray:
    return np.random.default_rng(35).integers(0, 256, (ROWS, COLUMNS), np.uint8)


@pytest.mark.parametrize(
    ("picture", "said"), [(with_text, "cleaned"), (noise, "100% of the picture would be filled")]
)
def test_a_still_of_12_megapixels_takes_a_gigabyte_and_a_half(
    tmp_path: Path, picture: object, said: str
) -> None:
    assert callable(picture)
    file = write_dicom(tmp_path / "large.dcm", picture()[None])
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, str(file)], capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome, mib = json.loads(done.stdout.splitlines()[-1])
    assert said in outcome
    assert mib <= MOST_MIB
