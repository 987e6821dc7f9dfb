"""The ultrasound pipeline and the command line around it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from ai_pipeline.burnin import tools
from ai_pipeline.cli import app
from ai_pipeline.contract import Accept, Decision, ImageKind, Refuse
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import open_image
from ai_pipeline.models import registry
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, silent, stacked, write_dicom


def test_a_marked_image_gives_a_cleaned_one_its_mask_and_a_finding_per_mark() -> None:
    image = ArrayImage(burn(echo())[None])
    pipeline = create("ultrasound")
    assert pipeline.accepts([image]) == Accept(("1.2.3",))
    result = pipeline.run([image], silent, {})
    assert [picture.kind for picture in result.images] == [ImageKind.CLEANED, ImageKind.MASK]
    assert result.images[0].verified
    assert {finding.decision for finding in result.findings} == {Decision.PRESENT}
    assert all(finding.frame is None and finding.regions for finding in result.findings)
    assert result.models == pipeline.models()


def test_nothing_found_is_said() -> None:
    result = create("ultrasound").run([ArrayImage(echo(3)[None])], silent, {})
    assert [(f.decision, f.label) for f in result.findings] == [(Decision.ABSENT, "burned-in text")]


def test_without_clean_only_the_findings_come_back() -> None:
    result = create("ultrasound").run([ArrayImage(burn(echo())[None])], silent, {"clean": False})
    assert result.images == ()
    assert result.findings


def test_one_image_that_cannot_be_cleaned_does_not_hold_up_the_others() -> None:
    page = np.full((360, 480), 255, np.uint8)
    for line in range(0, 360, 20):
        page = burn(page, "PATIENT REPORT " * 4, (0, line), 0, 17)
    good, bad = ArrayImage(echo(3)[None], uid="1.2.3"), ArrayImage(page[None], uid="1.2.4")
    pipeline = create("ultrasound")
    result = pipeline.run([good, bad], silent, {})
    assert {picture.source_uid for picture in result.images} == {"1.2.3"}
    assert [note.source_uid for note in result.quality if note.name == "cleaning_failed"] == ["1.2.4"]
    with pytest.raises(CleaningFailed):
        pipeline.run([bad], silent, {})


def test_a_cine_says_in_which_frame() -> None:
    frames = [burn(frame, "HOSPITAL 12:34", (8, 6), 255, 14) for frame in cine(6)]
    result = create("ultrasound").run([ArrayImage(stacked(frames))], silent, {})
    assert {finding.frame for finding in result.findings} == {1}


def test_a_written_length_that_its_calipers_confirm_is_handed_back_when_asked_for(tmp_path: Path) -> None:
    picture = burn(np.repeat(echo()[..., None], 3, axis=2), "KIM MINJUN", (10, 8), (255, 255, 255), 18)
    for x, y in ((163, 144), (283, 174)):  # 124 pixels of 0.02 cm apart
        picture = burn(picture, "+", (x, y), (255, 230, 0), 22)
    picture = burn(picture, "1 D 2.47 cm", (10, 320), (255, 230, 0), 18)
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMaxX1 = 0, 479
    region.RegionLocationMinY0, region.RegionLocationMaxY1 = 30, 359
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.02
    image = open_image(write_dicom(tmp_path / "us.dcm", picture[None], SequenceOfUltrasoundRegions=[region]))
    pipeline = create("ultrasound")
    (length,) = pipeline.run([image], silent, {"measurements": True}).measurements
    assert (length.value, length.unit.value) == (2.47, "cm")
    assert length.lines[0][0] == pytest.approx((169.5, 159), abs=2)
    assert length.lines[0][1] == pytest.approx((289.5, 189), abs=2)
    assert pipeline.run([image], silent, {}).measurements == ()


def test_other_modalities_are_refused_unless_asked_for() -> None:
    pipeline = create("ultrasound")
    image = ArrayImage(echo()[None], modality="CT")
    assert pipeline.accepts([image]) == Refuse("modality CT is not ultrasound")
    assert isinstance(pipeline.accepts([image], {"any_modality": True}), Accept)


def test_every_model_that_runs_has_a_card_and_its_weights() -> None:
    for model in create("ultrasound").models():
        registry.verify(registry.find(model.id))


@pytest.mark.parametrize("name", ["ultrasound", "fetal_head", "ovarian"])
def test_models_are_named_without_loading_them(name: str, tmp_path: Path) -> None:
    """``check`` and a node's main process only name them."""
    assert create(name, device_rules=tmp_path).models()
    assert (None, tmp_path) not in tools._LOADED


@pytest.mark.parametrize("name", ["ultrasound", "fetal_head", "ovarian", "chest_xray"])
def test_what_is_installed_later_is_not_named_as_what_runs(name: str, tmp_path: Path) -> None:
    pipeline = create(name, models_dir=tmp_path)
    pipeline.warm_up()
    run = pipeline.models()
    for model in run:
        card = registry.find(model.id).path
        text = card.read_text("utf-8").replace(f'version = "{model.version}"', 'version = "99.0"', 1)
        (tmp_path / card.name).write_text(text, "utf-8")
    assert registry.find(run[0].id, tmp_path).version == "99.0"
    assert pipeline.models() == run


def test_a_misspelt_policy_is_a_fault_and_not_the_mild_one() -> None:
    pipeline = create("ultrasound")
    assert pipeline.card.options.faults({"policy": "reserach"}) == {"policy": "must be clinical or research"}
    assert pipeline.card.options.faults({"policy": "research"}) == {} == pipeline.card.options.faults({})


@pytest.fixture
def run(tmp_path: Path) -> CliRunner:
    return CliRunner()


def test_the_command_prints_one_record_per_input_and_writes_pictures(run: CliRunner, tmp_path: Path) -> None:
    still = write_dicom(tmp_path / "still.dcm", burn(echo())[None])
    Image.fromarray(echo(3)).save(tmp_path / "plain.png")
    ct = write_dicom(tmp_path / "ct.dcm", echo()[None], Modality="CT")
    files = [str(still), str(tmp_path / "plain.png"), str(ct)]
    result = run.invoke(app, ["run", *files, "--modality", "US", "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["accepted"] for record in records] == [True, True, False]
    assert records[2]["reason"] == "no pipeline for modality CT"
    first = records[0]
    assert {"decode", "model", "total"} <= set(first["seconds"])
    assert first["findings"][0]["regions"][0]["type"] == "box"
    assert first["findings"][0]["code"]["scheme"] == "99AINODE"
    kinds = {image["kind"]: Path(image["path"]) for image in first["images"]}
    assert set(kinds) == {"cleaned", "mask", "annotated"}
    cleaned = np.asarray(Image.open(kinds["cleaned"]))
    assert cleaned.shape == (360, 480)
    assert "Secret" not in result.output and "KIM" not in result.output


def test_an_unreadable_input_is_exit_65_and_the_others_are_done(run: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    good = write_dicom(tmp_path / "still.dcm", echo(3)[None])
    files = [str(tmp_path / "letter.txt"), str(tmp_path / "none.dcm"), str(good)]
    result = run.invoke(app, ["run", *files, "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 65
    assert [json.loads(line)["accepted"] for line in result.stdout.splitlines()] == [False, False, True]


@pytest.mark.parametrize(
    "arguments", [["--pipeline", "none"], ["--option", "speed=1"], ["--option", "clean=="]]
)
def test_wrong_usage_is_exit_2(run: CliRunner, tmp_path: Path, arguments: list[str]) -> None:
    file = write_dicom(tmp_path / "still.dcm", echo(3)[None])
    assert run.invoke(app, ["run", str(file), *arguments]).exit_code == 2


def test_the_command_prints_a_table_for_people(run: CliRunner, tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "still.dcm", burn(echo())[None])
    result = run.invoke(app, ["run", str(file), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "Burned-in text" in result.output
    assert "Not for diagnostic use" in result.output


def test_a_cine_is_written_frame_by_frame(run: CliRunner, tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "cine.dcm", stacked(cine(3)))
    result = run.invoke(app, ["run", str(file), "--out", str(tmp_path / "out"), "--json"])
    image = next(entry for entry in json.loads(result.stdout)["images"] if entry["kind"] == "cleaned")
    assert image["frames"] == 3
    assert len(list(Path(image["path"]).glob("*.png"))) == 3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ai_pipeline import cli\n"
        "sys.argv = ['ai-pipeline', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'cv2', 'onnxruntime', 'rapidocr', 'pydicom'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout
