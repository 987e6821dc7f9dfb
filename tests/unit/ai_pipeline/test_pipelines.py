"""The command line of pipelines, programs of others, fetal heads and ovaries."""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from typer.testing import CliRunner

from ai_pipeline.burnin.card import UltrasoundOptions
from ai_pipeline.chest import intended_use as chest
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app, main
from ai_pipeline.cli.run import dicom_files
from ai_pipeline.contract import ImageHeader, PipelineResult, QualityNote, Scores
from ai_pipeline.errors import CardError, PixelError
from ai_pipeline.fetal_head import intended_use as fetal_head
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models import registry
from ai_pipeline.ovarian import card as ovarian_card
from ai_pipeline.terms import shown_term, shown_uid_name
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES
from tests.modality import ultrasound
from tests.unit.ai_pipeline.pasted import pasted
from tests.unit.ai_pipeline.phantoms import MODEL, echo, image_header, write_dicom
from tests.unit.ai_training.small_models import parsed
from tests.unit.receive.objects import changed


def test_help_and_version_are_where_people_look() -> None:
    assert [CliRunner().invoke(app, words).exit_code for words in (["-h"], ["run", "-h"])] == [0, 0]
    assert re.fullmatch(r"ai-pipeline \d+\.\d+.*\n", CliRunner().invoke(app, ["--version"]).output)


def test_a_folder_means_the_dicom_files_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study" / "series").mkdir(parents=True)
    image = write_dicom(tmp_path / "study" / "series" / "image", echo()[None])
    (tmp_path / "study" / "readme.txt").write_text("no image")
    (tmp_path / "study" / "DICOMDIR").write_bytes(image.read_bytes())
    assert dicom_files([tmp_path, image]) == [image, image]
    assert "2 files skipped: not DICOM" in capsys.readouterr().err


def test_all_mistakes_of_a_card_are_told_at_once(tmp_path: Path) -> None:
    text = pasted("docs/reference/cards.md", "toml", 'id = "mine"')
    for right, wrong in (
        ('licence = "not for others"\n', ""),
        ("size = 224", 'size = "big"'),
        ("absent_below = 0.5", "absent_below = 0.9"),
        ('sha256 = "0', 'sha256 = "X'),
    ):
        text = text.replace(right, wrong)
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(CardError) as told:
        registry.load(tmp_path / "mine.toml")
    parts = ("licence is missing", "input.size should be a valid integer", "absent_below", "sha256")
    assert [part for part in parts if part not in str(told.value)] == []
    assert len(str(told.value).splitlines()) == 4


def test_the_smallest_card_works_as_pasted(tmp_path: Path) -> None:
    model = parsed("""
        mine (float[n, 1, 224, 224] images) => (float[n, 1] logits) <float[1, 1] head = {1}> {
            pooled = GlobalAveragePool (images)
            flat = Flatten (pooled)
            logits = Gemm (flat, head)
        }
    """)
    (tmp_path / "mine.onnx").write_bytes(data := model.SerializeToString())
    text = pasted("docs/reference/cards.md", "toml", 'id = "mine"')
    (tmp_path / "mine.toml").write_text(text.replace("0" * 64, hashlib.sha256(data).hexdigest()))
    registry.verify(card := registry.find("mine", tmp_path))
    [logit] = Classifier(card).analyse(np.full((300, 300), 255, np.uint8)).logits
    assert logit == pytest.approx(1.0, abs=0.01)


def test_the_three_lines_of_python_work_as_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dicom(tmp_path / "image.dcm", echo()[None], Modality="DX")
    monkeypatch.chdir(tmp_path)
    exec(pasted("docs/pipelines.md", "python", "from ai_pipeline import pipelines"), {})
    assert "Finding(label=" in capsys.readouterr().out


def test_what_the_program_writes_is_for_its_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_dicom(tmp_path / "image.dcm", echo()[None], Modality="US")
    words = ["run", str(image), "--pipeline", "ultrasound", "--out", str(tmp_path / "out" / "new")]
    monkeypatch.setattr(sys, "argv", ["ai-pipeline", *words])
    own = os.umask(0o022)
    try:
        with pytest.raises(SystemExit):
            main()
        (tmp_path / "later").touch()
    finally:
        os.umask(own)
    written = [tmp_path / "later", *(tmp_path / "out").rglob("*")]
    assert len(written) > 3
    assert [path for path in written if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2"),
        ("1.2.840.10008.1.2.8.1", "Deflated Image Frame Compression"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4"),
        ("1.2.3.4", "unknown (7 characters)"),
    ],
)
def test_a_transfer_syntax_that_is_not_decoded_is_named(tmp_path: Path, syntax: str, name: str) -> None:
    path = write_dicom(tmp_path / "image.dcm", echo()[None])
    meta, data = dcmread(path).file_meta, path.read_bytes()
    meta.TransferSyntaxUID = UID(syntax)
    with path.open("wb") as file:
        file.write(data[:132])
        write_file_meta_info(file, meta)
        file.write(data[data.index(b"\x08\x00\x16\x00UI") :])
    with pytest.raises(PixelError, match=re.escape(f"its transfer syntax {name}")):
        open_dicom(path)


def test_a_job_with_a_former_option_does_not_fail_for_it() -> None:
    """The job was made by an earlier version; `check` refuses the option in a rule."""
    assert UltrasoundOptions.of({"despeckle": True}) == UltrasoundOptions()


@pytest.mark.parametrize(
    ("keyword", "value", "shown"),
    [
        ("Modality", "MG", "MG"),
        ("Modality", "ZQXCANARY", "unknown (9 characters)"),
        ("Modality", "us", "unknown (2 characters)"),
        ("Modality", "", "unknown"),
        ("Modality", "US\\SMITH", "US\\unknown (5 characters)"),
        ("BodyPartExamined", "KNEE", "KNEE"),
        ("BodyPartExamined", "SMITH JANE", "unknown (10 characters)"),
        ("ViewPosition", "LL", "LL"),
        ("ViewPosition", "JANE", "unknown (4 characters)"),
        ("PhotometricInterpretation", "PALETTE COLOR", "PALETTE COLOR"),
    ],
)
def test_terms_of_the_standard_are_shown_and_of_others_the_length(
    keyword: str, value: str, shown: str
) -> None:
    assert shown_term(keyword, value) == shown


def test_messages_name_a_transfer_syntax_as_the_conformance_statement_does() -> None:
    shown = {syntax.uid: shown_uid_name(syntax.uid) for syntax in TRANSFER_SYNTAXES}
    names = {syntax.uid: syntax.name.removesuffix(" (Retired)") for syntax in TRANSFER_SYNTAXES}
    assert shown == {uid: f"{name} ({uid})" for uid, name in names.items()}


@pytest.mark.parametrize(
    "refused_by_header",
    [chest.refused_by_header, fetal_head.refused_by_header, ovarian_card.refused_by_header],
)
@pytest.mark.parametrize("attribute", ["modality", "body_part", "view_position"])
def test_no_pipeline_repeats_a_code_string_that_may_be_a_name(
    refused_by_header: Callable[[ImageHeader], str | None], attribute: str
) -> None:
    modality = "DX" if "chest" in refused_by_header.__module__ else "US"
    header = image_header(**{"modality": modality, attribute: "ZQXCANARY"})
    assert "ZQXCANARY" not in (refused_by_header(header) or "")


def test_a_photometric_interpretation_is_not_repeated_by_the_decoder(tmp_path: Path) -> None:
    """One that looks like the decoder's own words."""
    dataset = changed(ultrasound("two"), PhotometricInterpretation="JPEGCANARY")
    dataset.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    with pytest.raises(PixelError) as failed:
        open_dicom(tmp_path / "one.dcm").stored()
    assert "CANARY" not in str(failed.value)


def test_results_of_single_images_become_one_with_every_field() -> None:
    notes, scores = (
        (QualityNote("of all", "t"), QualityNote("of one", "t", "1.2")),
        (Scores("1.2", MODEL, {"A": 0.5}),),
    )
    one = PipelineResult(quality=notes[:1], models=(MODEL,), timings={"model": 1.0}, scores=scores)
    two = PipelineResult(quality=notes, models=(MODEL,), timings={"model": 0.5}, drawn_on="cleaned")
    joined = PipelineResult.joined([one, two])
    assert (joined.quality, joined.models, joined.timings) == (notes, (MODEL,), {"model": 1.5})
    assert (joined.scores, joined.drawn_on) == (scores, "cleaned")
