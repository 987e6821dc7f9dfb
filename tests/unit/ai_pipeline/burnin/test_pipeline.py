"""The pipeline ``ultrasound`` and its commands."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ai_pipeline.burnin import tools
from ai_pipeline.burnin.frames import outside_bytes
from ai_pipeline.cli import app
from ai_pipeline.contract import Accept, Decision, ImageKind, Refuse
from ai_pipeline.models import registry
from ai_pipeline.pipelines import create
from tests.unit.ai_pipeline.burnin.cleaning_lab import SMALL, run
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, silent, write_dicom

pytestmark = pytest.mark.usefixtures("less_enlarged")


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_byte_order_does_not_matter(dtype: str) -> None:
    samples = np.arange(16, dtype=np.uint16).reshape(4, 4)
    assert outside_bytes(samples.astype(dtype), np.zeros((4, 4), np.bool_)) == samples.astype("<u2").data


def test_a_marked_image_gives_a_cleaned_one_its_mask_and_a_finding_per_mark() -> None:
    image, pipeline = ArrayImage(burn(echo(size=SMALL))[None]), create("ultrasound")
    assert pipeline.accepts([image]) == Accept(("1.2.3",))
    result = pipeline.run([image], silent, {})
    assert [picture.kind for picture in result.images] == [ImageKind.CLEANED, ImageKind.MASK]
    assert result.images[0].verified
    assert result.models == pipeline.models()
    assert {(one.decision, one.frame, bool(one.regions)) for one in result.findings} == {
        (Decision.PRESENT, None, True)
    }
    alone = pipeline.run([image], silent, {"clean": False})
    assert alone.images == ()
    assert alone.findings


def test_one_image_that_cannot_be_cleaned_does_not_hold_up_the_others() -> None:
    page = np.full((160, 240), 255, np.uint8)
    for line in range(0, 160, 20):
        page = burn(page, "PATIENT REPORT " * 2, (0, line), 0, 17)
    good, bad = ArrayImage(echo(3, (160, 240))[None], uid="1.2.3"), ArrayImage(page[None], uid="1.2.4")
    result = create("ultrasound").run([good, bad], silent, {})
    assert {picture.source_uid for picture in result.images} == {"1.2.3"}
    assert [note.source_uid for note in result.quality if note.name == "cleaning_failed"] == ["1.2.4"]
    assert [(one.decision, one.label) for one in result.findings if one.source_uid == "1.2.3"] == [
        (Decision.ABSENT, "burned-in text")
    ]


def test_every_mark_is_explained_without_its_words(tmp_path: Path) -> None:
    """What goes, what stays, and what only looks like text, each with the rule's reason."""
    picture = burn(burn(echo(size=SMALL), "KIM MINJUN", (8, 8), 255, 14), "MI 0.9", (8, 220), 255, 12)
    Image.fromarray(picture).save(tmp_path / "us.png")
    given = ["run", str(tmp_path / "us.png"), "--modality", "US", "--out", str(tmp_path), "--explain"]
    done = CliRunner().invoke(app, [*given, "--json"])
    (record,) = map(json.loads, done.stdout.splitlines())
    assert any(" goes as identity: not all of it is known to be harmless" in mark for mark in record["marks"])
    assert "KIM" not in done.output
    assert "identity" in CliRunner().invoke(app, given).output
    refused = CliRunner().invoke(app, [*given, "--pipeline", "chest_xray"])
    assert refused.exit_code == 2
    assert "no marks to explain" in refused.output


def test_other_modalities_are_refused_unless_asked_for() -> None:
    pipeline, image = create("ultrasound"), ArrayImage(echo()[None], modality="CT")
    assert pipeline.accepts([image]) == Refuse("modality CT is not ultrasound")
    assert isinstance(pipeline.accepts([image], {"any_modality": True}), Accept)


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
    for model, card in ((model, registry.find(model.id).path) for model in run):
        text = card.read_text("utf-8").replace(f'version = "{model.version}"', 'version = "99.0"', 1)
        (tmp_path / card.name).write_text(text, "utf-8")
    assert registry.find(run[0].id, tmp_path).version == "99.0"
    assert pipeline.models() == run


def test_a_misspelt_policy_is_a_fault_and_not_the_mild_one() -> None:
    pipeline = create("ultrasound")
    assert pipeline.card.options.faults({"policy": "reserach"}) == {"policy": "must be clinical or research"}
    assert pipeline.card.options.faults({"policy": "research"}) == {} == pipeline.card.options.faults({})


def test_the_command_prints_one_record_per_input_writes_pictures_and_ends_with_65_for_an_unreadable_one(
    tmp_path: Path,
) -> None:
    files = [
        tmp_path / name for name in ("still.dcm", "plain.png", "ct.dcm", "cine.dcm", "letter.txt", "none")
    ]
    write_dicom(files[0], burn(echo(size=SMALL))[None])
    Image.fromarray(echo(3, SMALL)).save(files[1])
    write_dicom(files[2], echo(size=SMALL)[None], Modality="CT")
    write_dicom(files[3], np.stack(cine(2, size=(160, 240))))
    files[4].write_text("hello")
    result = run(*files, "--modality", "US", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 65, result.output
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["accepted"] for record in records] == [True, True, False, True, False, False]
    assert records[2]["reason"] == "no pipeline for modality CT"
    assert {"decode", "model", "total"} <= set(records[0]["seconds"])
    [finding, *_] = records[0]["findings"]
    assert (finding["regions"][0]["type"], finding["code"]["scheme"]) == ("box", "99AINODE")
    images, moving = ({one["kind"]: one for one in records[number]["images"]} for number in (0, 3))
    assert set(images) == {"cleaned", "mask", "annotated"}
    assert np.asarray(Image.open(images["cleaned"]["path"])).shape == SMALL
    assert moving["cleaned"]["frames"] == len(list(Path(moving["cleaned"]["path"]).glob("*.png"))) == 2
    paths = " ".join(path.name for path in (tmp_path / "out").rglob("*"))
    assert [name for name in ("Secret", "KIM") if name in result.output + paths] == []


@pytest.mark.parametrize(
    "arguments", [["--pipeline", "none"], ["--option", "speed=1"], ["--option", "clean=="]]
)
def test_wrong_usage_is_exit_2(tmp_path: Path, arguments: list[str]) -> None:
    assert run(write_dicom(tmp_path / "still.dcm", echo(3, SMALL)[None]), *arguments).exit_code == 2


def test_the_command_prints_a_table_for_people(tmp_path: Path) -> None:
    result = run(write_dicom(tmp_path / "still.dcm", burn(echo(size=SMALL))[None]), "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "Burned-in text" in result.output
    assert "Not for diagnostic use" in result.output


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
