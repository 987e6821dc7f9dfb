"""The parts of the demonstration."""

import shutil
from pathlib import Path

import numpy as np
from pydicom import dcmread, examples

from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.config.settings import Settings
from dicom_node.deliver.scu.storage import send_files
from dicom_node.people import demo
from tests.drawn_chest import drawn_film
from tests.forked import run_forked
from tests.peers import a_receiver


def test_the_film_is_a_drawing_that_says_so_and_the_one_that_our_program_draws() -> None:
    film, drawn = dcmread(demo.DRAWN_FILM), drawn_film()
    assert (film.PatientName, film.SeriesDescription) == ("Drawn^Chest", "DRAWN, NO PATIENT")
    assert np.abs(film.pixel_array.astype(int) - drawn.pixel_array).max() <= 2, "python -m tests.drawn_chest"
    findings = ChestXray().run([open_dicom(demo.DRAWN_FILM)], lambda *_: None, {})
    assert findings.measurements[0].statement == "Heart enlarged, cardiothoracic ratio 0.57"


def test_own_files_are_sent_by_study_and_the_rest_is_passed_over(tmp_path: Path) -> None:
    for name in ("rgb_color", "jpeg2k", "ybr_color"):
        shutil.copy(examples.get_path(name), tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    assert sorted(len(files) for _, files in demo.by_study(tmp_path.iterdir()).values()) == [1, 2]


def test_a_modality_keeps_each_file_as_it_is(tmp_path: Path) -> None:
    pacs = demo.EmbeddedPacs(tmp_path)
    try:
        settings = Settings.model_validate({"peers": [a_receiver("pacs", pacs.port)]})
        [(_, report)] = send_files(settings.peers[0], settings, [demo.DRAWN_FILM])
    finally:
        pacs.stop()
    assert report.code == "0000"
    [stored] = (tmp_path / "objects").iterdir()
    assert stored.read_bytes()[-10000:] == demo.DRAWN_FILM.read_bytes()[-10000:], "data set, bit for bit"


def test_a_folder_that_cannot_be_written_is_named() -> None:
    """Root too makes none in /proc."""
    assert "cannot write to /proc/x: No such" in run_forked("dicom_node", "demo", "--out", "/proc/x").stderr
