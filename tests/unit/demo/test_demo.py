"""The parts of the demonstration."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread, examples
from werkzeug.wrappers import Response

from dicom_node.base.config.settings import Settings
from dicom_node.deliver.scu.dimse import send_files
from dicom_node.people import demo
from tests.hostile.web import answering


def test_every_study_of_the_demonstration_has_one_patient(tmp_path: Path) -> None:
    studies = demo.by_study(demo.shipped(tmp_path))
    assert [modality for modality, _ in studies.values()] == ["US", "US", "US"]
    for uid, (_, files) in studies.items():
        headers = [dcmread(path, stop_before_pixels=True) for path in files]
        assert {str(header.StudyInstanceUID) for header in headers} == {uid}
        assert len({str(header.get("PatientID", "")) for header in headers}) == 1


def test_own_files_are_sent_by_study_and_the_rest_is_passed_over(tmp_path: Path) -> None:
    for name in ("rgb_color", "jpeg2k", "ybr_color"):
        shutil.copy(examples.get_path(name), tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    studies = demo.by_study(tmp_path.iterdir())
    assert sorted(len(files) for _, files in studies.values()) == [1, 2]


def test_a_modality_keeps_each_file_as_it_is(tmp_path: Path) -> None:
    files = [Path(examples.get_path(name)) for name in ("rgb_color", "ybr_color")]
    notes = tmp_path / "notes.txt"
    notes.write_text("no DICOM", encoding="utf-8")
    pacs = demo.EmbeddedPacs(tmp_path / "pacs")
    try:
        peer = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
        settings = Settings.model_validate({"peers": [peer]})
        sent = list(send_files(settings.peers[0], settings, [*files, notes]))
    finally:
        pacs.stop()
    told = {one.path: (report.code, report.text) for one, report in sent}
    assert told[notes] == ("", "no DICOM file (Part 10)")
    for path in files:
        assert told[path][0] == "0000"
        held = (one.read_bytes()[-10000:] for one in (tmp_path / "pacs" / "objects").iterdir())
        assert path.read_bytes()[-10000:] in held, "data set, bit for bit"


FILM = b"stands for the film, whose sha256 the test names"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a web server on this machine that has the film, and ``other`` bytes beside it."""
    monkeypatch.setattr(demo, "get_cached_filehash", lambda _: hashlib.sha256(FILM).hexdigest())
    held = {"/film": Response(FILM), "/other": Response(FILM + b"!")}
    with answering(lambda request: held.get(request.path) or Response(status=404)) as (url, _):
        yield url


def test_a_public_film_is_fetched_once(store: str, tmp_path: Path) -> None:
    target = tmp_path / "input" / "film.dcm"
    assert demo.public_film(target, f"{store}/film") == target
    assert target.read_bytes() == FILM
    assert demo.public_film(target, f"{store}/gone") == target, "it lies there already"


def test_other_bytes_and_no_answer_leave_nothing(store: str, tmp_path: Path) -> None:
    for url in (f"{store}/other", f"{store}/gone", "http://127.0.0.1:9/film"):
        assert demo.public_film(tmp_path / "film.dcm", url) is None
    assert not (tmp_path / "film.dcm").exists()
