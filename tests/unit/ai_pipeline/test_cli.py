"""``ai-pipeline`` as a person meets it: help, version, folders, cards, what the documents say to paste."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydicom import dcmread
from typer.testing import CliRunner

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app, main
from ai_pipeline.cli.run import _inputs
from ai_pipeline.errors import CardError, PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.models import registry
from tests.unit.ai_pipeline.phantoms import echo, write_dicom

ROOT = Path(__file__).resolve().parents[3]


def pasted(document: str, language: str, first: str) -> str:
    """The block of that language that begins with these words."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.S)
    return next(str(block) for block in blocks if str(block).startswith(first))


def test_help_and_version_are_where_people_look() -> None:
    assert CliRunner().invoke(app, ["-h"]).exit_code == 0
    assert CliRunner().invoke(app, ["run", "-h"]).exit_code == 0
    assert re.fullmatch(r"ai-pipeline \d+\.\d+.*\n", CliRunner().invoke(app, ["--version"]).output)


def test_a_folder_means_the_dicom_files_below_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study" / "series").mkdir(parents=True)
    image = write_dicom(tmp_path / "study" / "series" / "image", echo()[None])
    (tmp_path / "study" / "readme.txt").write_text("no image")
    (tmp_path / "study" / "DICOMDIR").write_bytes(image.read_bytes())
    assert _inputs([tmp_path, image]) == [image, image]
    assert "2 files skipped: not DICOM" in capsys.readouterr().err


def test_all_mistakes_of_a_card_are_told_at_once(tmp_path: Path) -> None:
    text = pasted("docs/reference/cards.md", "toml", 'id = "mine"')
    text = text.replace('licence = "not for others"\n', "").replace("size = 224", 'size = "big"')
    text = text.replace("absent_below = 0.5", "absent_below = 0.9").replace('sha256 = "0', 'sha256 = "X')
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(CardError) as told:
        registry.load(tmp_path / "mine.toml")
    assert len(str(told.value).splitlines()) == 4
    for part in ("licence is missing", "input.size should be a valid integer", "absent_below", "sha256"):
        assert part in str(told.value)


def test_the_smallest_card_works_as_pasted(tmp_path: Path) -> None:
    head = numpy_helper.from_array(np.ones((1, 1), np.float32), "head")
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 224, 224])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1])
    graph = helper.make_graph(nodes, "mine", [images], [logits], [head])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10),
        tmp_path / "mine.onnx",
    )
    digest = hashlib.sha256((tmp_path / "mine.onnx").read_bytes()).hexdigest()
    (tmp_path / "mine.toml").write_text(
        pasted("docs/reference/cards.md", "toml", 'id = "mine"').replace("0" * 64, digest)
    )
    card = registry.find("mine", tmp_path)
    registry.verify(card)
    assert Classifier(card).analyse(np.full((300, 300), 255, np.uint8)).logits == pytest.approx(
        [1.0], abs=0.01
    )


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


def test_both_packages_say_that_they_are_typed() -> None:
    for package in ("dicom_node", "ai_pipeline"):
        assert (ROOT / package / "py.typed").is_file()
        assert f'{package} = ["py.typed"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.4.102", "MPEG-4"),
        ("1.2.3.4", "unknown (7 characters)"),
    ],
)
def test_a_transfer_syntax_that_is_not_decoded_is_named(tmp_path: Path, syntax: str, name: str) -> None:
    ds = dcmread(write_dicom(tmp_path / "image.dcm", echo()[None]))
    path = tmp_path / "image.dcm"
    data = path.read_bytes()
    old = str(ds.file_meta.TransferSyntaxUID).encode() + b"\0"
    assert data.count(old) == 1
    element = b"\x02\x00\x10\x00UI"
    start = data.index(element)
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    length = int.from_bytes(data[start + 6 : start + 8], "little")
    group = data.index(b"\x02\x00\x00\x00UL") + 8
    size = int.from_bytes(data[group : group + 4], "little") + len(value) - length
    changed = data[: start + 6] + len(value).to_bytes(2, "little") + value + data[start + 8 + length :]
    path.write_bytes(changed[:group] + size.to_bytes(4, "little") + changed[group + 4 :])
    with pytest.raises(PixelError, match=re.escape(f"its transfer syntax {name}")):
        open_dicom(path)
