"""The study's figures and pictures are written by the command, and by nobody else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("HersheyFonts")

from ai_pipeline.burnin.fill.inpainters import Classical
from ai_training.ultrasound.card_figures import inpaint_figures
from ai_training.ultrasound.inpaint import report as inpaintreport
from ai_training.ultrasound.inpaint import scores as inpaintscores
from ai_training.ultrasound.inpaint.report import Gallery, densest, with_parts, write_study

STUDY = Path(__file__).resolve().parents[4] / "docs" / "studies" / "inpainting.md"


def test_the_densest_square_holds_the_marks_and_lies_in_the_picture() -> None:
    mask = np.zeros((100, 150), np.bool_)
    mask[60:70, 90:140] = True
    rows, columns = densest(mask, 50)

    assert (rows.stop - rows.start, columns.stop - columns.start) == (50, 50)
    assert mask[rows, columns].sum() == 500
    assert densest(mask, 200) == (slice(0, 100), slice(0, 150))


def test_only_what_stands_between_its_marks_is_written_anew() -> None:
    text = "by hand\n<!-- a -->\nold\n<!-- /a -->\nby hand too\n"

    assert with_parts(text, {"a": "new"}) == "by hand\n<!-- a -->\nnew\n<!-- /a -->\nby hand too\n"
    with pytest.raises(ValueError, match="no part b"):
        with_parts(text, {"b": "new"})


def test_every_picture_of_the_study_is_there_and_small() -> None:
    names = re.findall(r"\]\(\.\./pictures/([^)]+)\)", STUDY.read_text(encoding="utf-8"))
    assert names
    for name in names:
        assert (STUDY.parents[1] / "pictures" / name).stat().st_size <= inpaintreport.MOST_BYTES, name


@pytest.mark.data
def test_the_study_is_written_from_a_measurement(data: Path, tmp_path: Path) -> None:
    def planned(picture: np.ndarray) -> np.ndarray | None:
        if picture.shape[1] % 2:
            return None
        mask = np.zeros(picture.shape[:2], np.bool_)
        mask[:20] = True
        return mask

    ways = [Classical("telea"), Classical("navier-stokes")]
    result = inpaintscores.evaluate_inpaint(data, ways, planned, pictures=6, split="val")
    page = tmp_path / "studies" / "inpainting.md"
    page.parent.mkdir()
    page.write_text(STUDY.read_text(encoding="utf-8"), encoding="utf-8")
    write_study(page, result, Gallery(data, ways, planned, "val"))
    text = page.read_text(encoding="utf-8")

    masked = {row["mask"]: row["pictures"] for row in result["rows"]}
    assert masked["detected"] + result["refused"] == masked["given"]
    assert "Validation frames: not the final figures" in text
    assert "| telea |" in text
    assert "| OCI-GAN | 3.09 |" in text
    assert "CC BY 4.0" in text
    for name in re.findall(r"\]\(\.\./pictures/([^)]+)\)", text):
        assert (tmp_path / "pictures" / name).stat().st_size <= inpaintreport.MOST_BYTES, name
    figures = inpaint_figures(result)["ultrasound-inpaint-telea"]["val"]
    assert figures["given"]["inside"]["psnr"]
