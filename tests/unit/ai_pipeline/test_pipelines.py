"""The command line of pipelines, programs of others, fetal heads and ovaries."""

import hashlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from typer.testing import CliRunner

from ai_pipeline.burnin.card import UltrasoundOptions
from ai_pipeline.chest import intended_use as chest
from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.cli import app, main
from ai_pipeline.cli.run import _inputs
from ai_pipeline.contract import (
    BURNED_IN,
    Accept,
    Code,
    Decision,
    Finding,
    ImageHeader,
    ImageKind,
    Measurement,
    ModelRef,
    PipelineResult,
    QualityNote,
    Refuse,
    Scores,
    UltrasoundRegion,
)
from ai_pipeline.errors import CardError, CleaningFailed, PixelError, ProgramFailed, ProgramStopped
from ai_pipeline.fetal_head import biometry, pipeline
from ai_pipeline.fetal_head import intended_use as fetal_head
from ai_pipeline.fetal_head.intended_use import fetus_of_each, names_in, refused_by_header, tells_of_several
from ai_pipeline.images.coordinates import Affine
from ai_pipeline.images.decode import DicomImage, open_dicom, open_image
from ai_pipeline.images.header import StatedAttributes
from ai_pipeline.models import registry
from ai_pipeline.models.registry import Label
from ai_pipeline.networks import heads
from ai_pipeline.networks.heads import HeadLimits, HeadModel
from ai_pipeline.ovarian import card as ovarian_card
from ai_pipeline.ovarian import pipeline as ovaries
from ai_pipeline.ovarian.pipeline import NORMAL, NOT_LIKE, decisions, dice, of_mask, probabilities
from ai_pipeline.pipelines import create, option_faults
from ai_pipeline.programs import container, process
from ai_pipeline.programs.pipeline import findings_in
from ai_pipeline.summary import MOST, certainty, short_result, without_research
from ai_pipeline.terms import shown_term, shown_uid_name
from ai_training.sets.files import rows
from dicom_node.base.dicom.uids import TRANSFER_SYNTAXES
from tests.modality import ultrasound
from tests.unit.ai_pipeline.phantoms import ArrayImage, echo, image_header, silent, write_dicom
from tests.unit.ai_training.small_models import parsed
from tests.unit.heads import HEAD, drawn_head
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


def pasted(document: str, language: str, first: str) -> str:
    """The block of that language that begins with these words."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.S)
    return next(str(block) for block in blocks if str(block).startswith(first))


def test_help_and_version_are_where_people_look() -> None:
    assert [CliRunner().invoke(app, words).exit_code for words in (["-h"], ["run", "-h"])] == [0, 0]
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
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
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


MODEL = ModelRef("classes", "1", "a" * 64, "b" * 64, calibrated=True)
CLASS = Finding(
    "Cyst", Code("CYST", "99TEST", "Cyst"), 0.7, 0.6, Decision.PRESENT, "1.2.3", MODEL, exclusive=True
)
UNLIKELY = replace(CLASS, label="Teratoma", probability=0.1, decision=Decision.ABSENT)
HIDDEN = replace(CLASS, label="Hidden", probability=0.2, decision=Decision.INDETERMINATE, research_only=True)


def test_the_others_do_not_add_up_to_what_is_hidden() -> None:
    shown = without_research(PipelineResult((CLASS, UNLIKELY, HIDDEN))).findings
    assert [(one.label, one.probability, one.threshold) for one in shown] == [
        ("Cyst", 0.7, 0.6),
        ("Teratoma", None, None),
    ]


@pytest.mark.parametrize(
    "beside",
    [
        replace(UNLIKELY, exclusive=False),  # its number says nothing of the others
        replace(UNLIKELY, source_uid="1.2.4"),
        replace(UNLIKELY, model=replace(MODEL, id="another")),
    ],
)
def test_numbers_that_tell_nothing_stay(beside: Finding) -> None:
    assert without_research(PipelineResult((beside, HIDDEN))).findings == (beside,)


def finding(name: str, decision: Decision = Decision.PRESENT, **changed: Any) -> Finding:
    return replace(Finding(name, Code("1", "99TEST", name), 0.5, 0.4, decision, "1.2", MODEL), **changed)


def ratio(statement: str = "") -> Measurement:
    code, unit = Code("2", "99TEST", "Ratio"), Code("{ratio}", "UCUM", "ratio")
    line = ((0.0, 0.0), (1.0, 1.0))
    return Measurement("1.2", "Ratio", code, 0.561, unit, (line,), MODEL, statement=statement)


def test_a_radiologist_reads_size_suspicion_and_what_was_not_assessed() -> None:
    lines = short_result(
        [
            finding("Pleural effusion", side="L", certainty="low certainty"),
            finding("Atelectasis", certainty="low certainty"),
            finding("Cardiomegaly", Decision.INDETERMINATE),
            finding("Hernia", Decision.ABSENT),
        ],
        [ratio("Heart enlarged, cardiothoracic ratio 0.56")],
        [QualityNote("not assessed", "…", names=("pneumothorax", "lung nodule"))],
    )
    assert lines == (
        "AI: Heart enlarged, cardiothoracic ratio 0.56.",
        "Suspected, low certainty: left pleural effusion, atelectasis. No call on cardiomegaly. "
        "Not found: hernia.",
        "Not assessed: all else.",
    )


def test_without_a_call_it_says_what_was_looked_for_and_where_the_model_is_unsure_only_why() -> None:
    open_ = [finding(name, Decision.INDETERMINATE) for name in ("Pleural effusion", "Atelectasis")]
    white = QualityNote("unsure", "The lung is white.", "1.2", on_faces=True)
    absent = [finding("Atelectasis", Decision.ABSENT)]
    assert short_result(open_, [], []) == ("AI: No call on pleural effusion or atelectasis.",)
    assert short_result(absent, [], []) == ("AI: Not found: atelectasis.",)
    assert short_result([*open_, finding("Effusion"), *absent], [], [white]) == (
        "AI: The lung is white.",
        "Suspected: effusion.",
    )


def test_of_classes_that_exclude_each_other_one_is_suggested_or_none() -> None:
    likely = finding("Teratoma", exclusive=True)
    other = finding("Normal ovary", Decision.INDETERMINATE, exclusive=True)
    assert short_result([likely, other], [], []) == ("AI: Suggested class: teratoma.",)
    assert short_result([other], [], []) == ("AI: No class suggested.",)


def test_burned_in_annotation_and_research_say_nothing_of_the_patient() -> None:
    burned, hidden = finding("Burned-in text", code=BURNED_IN), finding("Cancer", research_only=True)
    assert short_result([burned], [], []) == (
        "AI: burned-in annotation found; nothing else was looked for here.",
    )
    assert "ancer" not in str(short_result([burned, hidden], [], []))


@pytest.mark.parametrize(
    ("right", "words"), [(0.2, "low"), (0.49, "low"), (0.5, "moderate"), (0.89, "moderate"), (0.9, "high")]
)
def test_certainty_is_defined_by_the_share_of_calls_that_are_right(right: float, words: str) -> None:
    assert certainty(right) == f"{words} certainty"


@given(
    st.lists(
        st.tuples(
            st.text("abcdef ", min_size=1, max_size=60), st.sampled_from(Decision), st.sampled_from("LR")
        ),
        max_size=14,
    ),
    st.lists(st.text("abc", min_size=1, max_size=40), max_size=14),
)
def test_lines_are_few_and_short_and_every_name_is_there_or_counted(
    given_: list[tuple[str, Decision, str]], skipped: list[str]
) -> None:
    findings = [finding(name, decision, side=side) for name, decision, side in given_]
    notes = [QualityNote("not assessed", "…", "1.2", names=tuple(skipped))]
    lines = short_result(findings, [ratio("Heart enlarged, cardiothoracic ratio 0.56")], notes)
    assert len(lines) <= 3
    assert all(len(line) <= MOST for line in lines)
    assert ("Suspected: " in "".join(lines)) is any(decision is Decision.PRESENT for _, decision, _ in given_)
    assert ("Not assessed: " in "".join(lines)) is bool(skipped)


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


FINDING = {
    "label": "Bright image",
    "code": {"value": "BRIGHT", "scheme": "99OURS", "meaning": "Bright image"},
    "decision": "present",
    "probability": 0.9,
    "threshold": 0.5,
    "regions": [{"type": "box", "points": [[10, 10], [40, 30]]}],
}
PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
files = sorted(source.iterdir())

def finding(**other):
    return {**GIVEN, **other}

def write(*findings, **other):
    (target / "findings.json").write_text(json.dumps({"findings": findings, **other}))
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where folders for programs are made; none is left, whatever happened."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def image(tmp_path: Path) -> DicomImage:
    return open_dicom(write_dicom(tmp_path / "image.dcm", echo()[None]))


Run = Callable[..., PipelineResult]


@pytest.fixture
def run(tmp_path: Path, image: DicomImage) -> Run:
    """Runs a program of these lines on one image."""

    def run(code: str, report: Any = lambda _share, _what: None, **options: object) -> PipelineResult:
        script = tmp_path / "program.py"
        script.write_text(f"GIVEN = {dict(FINDING, source_uid=image.uid)!r}\n{PROGRAM}\n{code}")
        command = [sys.executable, str(script), "{input}", "{output}"]
        chosen = {"command": command, "model": "bright", "version": "2", **options}
        return create("command").run([image], report, chosen)

    return run


def alive(mark: str) -> list[str]:
    """Processes with this word on their command line."""
    return subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.usefixtures("scratch")
def test_a_finding_of_a_program_is_one_of_ours(run: Run, image: DicomImage) -> None:
    result = run(
        "from pydicom import dcmread\n"
        "write(finding(source_uid=str(dcmread(files[0], stop_before_pixels=True).SOPInstanceUID)))"
    )
    [finding], [model] = result.findings, result.models
    assert (finding.label, finding.decision, finding.probability) == ("Bright image", Decision.PRESENT, 0.9)
    assert (finding.source_uid, finding.model) == (image.uid, model)
    assert finding.regions[0].bounds == (10, 10, 40, 30)
    assert (model.id, model.version, model.calibrated, result.quality) == ("bright", "2", False, ())


@pytest.mark.usefixtures("scratch")
def test_another_program_or_another_option_is_another_model(run: Run) -> None:
    asked = (("write()", 60.0), ("write()", 60.0), ("write() ", 60.0), ("write()", 61.0))
    models = [run(code, seconds=seconds).models[0] for code, seconds in asked]
    assert models[0] == models[1]
    assert len({(one.sha256, one.card_sha256) for one in models}) == 3


@pytest.mark.usefixtures("scratch")
def test_a_program_gets_copies_and_no_secret(run: Run, image: DicomImage, monkeypatch: Any) -> None:
    before = image.path.read_bytes()
    monkeypatch.setenv("PACS_PASSWORD", "secret")
    run(
        "assert [file.name for file in files] == ['1.dcm']\n"
        "assert not {'PACS_PASSWORD', 'PYTHONPATH'} & os.environ.keys()\n"
        "assert os.environ['MERCURE_IN_DIR'] == os.environ['HOLOSCAN_INPUT_PATH'] == str(source)\n"
        "assert os.environ['MERCURE_OUT_DIR'] == os.environ['MONAI_OUTPUTPATH'] == str(target)\n"
        "os.chmod(files[0], 0o600); write(finding()); files[0].write_bytes(b'')"
    )
    assert image.path.read_bytes() == before


@pytest.mark.usefixtures("scratch")
def test_a_program_has_no_network(run: Run) -> None:
    code = "import socket\ntry: socket.create_connection(('127.0.0.1', {port}), 2)\nexcept OSError: write()"
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert run(code.format(port=server.getsockname()[1])).models, "it wrote its answer"


@pytest.mark.usefixtures("scratch")
def test_a_program_sees_its_own_processes_and_no_others(run: Run) -> None:
    """Where the kernel lets a namespace have a ``/proc`` of its own: else its numbers would be of others."""
    code = (
        "line = Path(f'/proc/{os.getpid()}/cmdline').read_bytes()\n"
        f"assert os.fsencode(sys.argv[0]) in line and not Path('/proc/{os.getpid()}').exists()\nwrite()"
    )
    assert run(code).models, "it wrote its answer"


@pytest.mark.usefixtures("scratch")
def test_what_else_a_program_writes_is_not_taken(run: Run) -> None:
    result = run(
        "write(finding())\n(target / 'a' / 'b').mkdir(parents=True)\n"
        "(target / 'a' / 'b' / 'sr.dcm').write_bytes(files[0].read_bytes())\n"
        "(target / 'loop').symlink_to(target)\n(target / 'secrets').symlink_to('/etc')\n"
    )
    assert (len(result.findings), result.images, result.quality) == (1, (), ())


def box(*points: list[float]) -> dict[str, Any]:
    return {"regions": [{"type": "box", "points": list(points)}]}


BAD = {
    "nothing": ("pass", "left no findings.json"),
    "no JSON": ("(target / 'findings.json').write_text('Doe^John')", "findings.json: is no JSON"),
    "very large": ("(target / 'findings.json').write_text(' ' * 2**21 + '{}')", "is larger than 1024 KiB"),
    "a link": ("(target / 'findings.json').symlink_to('/etc/hostname')", "left no findings.json"),
    "a hard link": ("write(); os.link(target / 'findings.json', target / 'x')", "is no file"),
    "a folder": ("(target / 'findings.json').mkdir()", "is no file"),
    "a pipe": ("os.mkfifo(target / 'findings.json')", "is no file"),
    "of another image": ("write(finding(source_uid='1.2.3'))", "names no image that the program got"),
    "a failure": ("sys.exit('Doe^John')", "the program ended with 1"),
}


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("case", BAD)
def test_an_answer_that_is_none_is_refused_without_repeating_it(run: Run, case: str) -> None:
    code, told = BAD[case]
    with pytest.raises(ProgramFailed) as failure:
        run(code)
    assert told in str(failure.value)
    assert "Doe" not in str(failure.value)
    assert len(str(failure.value)) < 200


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "in another frame": ({"frame": 2}, "findings.0: frame is beyond the image's 1"),
    "an unknown key": ({"Doe^John": 1}, "findings.0: Extra inputs are not permitted"),
    "a label on two lines": ({"label": "a\nDoe^John"}, "findings.0.label: String should match"),
    "a label that turns": ({"label": "a\u202eb"}, "findings.0.label: String should match"),
    "a long label": ({"label": "a" * 49}, "findings.0.label: String should have at most 48"),
    "a code of ours": (
        {"code": {"value": "BURNED_IN", "scheme": "99AINODE", "meaning": "x"}},
        "the node's own",
    ),
    "a code of two values": (
        {"code": {"value": "A\\B", "scheme": "SCT", "meaning": "x"}},
        "code.value: String",
    ),
    "more than certain": ({"probability": 1.01}, "findings.0.probability: Input should be less"),
    "not a number": ({"probability": float("nan")}, "findings.json"),
    "a text as number": ({"probability": "1"}, "findings.0.probability: Input should"),
    "far away": (box([0, 0], [1e300, 5]), "reaches out of its"),
    "at infinity": (box([0, 0], [float("inf"), 5]), "findings"),
    "without area": (box([5, 5], [5, 9]), "has no area"),
    "a corner alone": (box([5, 5]), "too few points"),
    "many points": ({"regions": [{"type": "polygon", "points": [[5, 5]] * 501}]}, "at most 500 items"),
}


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("case", WRONG)
def test_a_finding_with_this_fault_is_refused_without_repeating_it(image: DicomImage, case: str) -> None:
    change, told = WRONG[case]
    refused(json.dumps({"findings": [{"source_uid": image.uid, **FINDING, **change}]}), image, told)


@pytest.mark.usefixtures("scratch")
def test_too_many_findings_and_very_deep_ones_are_refused(image: DicomImage) -> None:
    many = [{"source_uid": image.uid, **FINDING}] * 201
    refused(json.dumps({"findings": many}), image, "findings: List should have at most 200 items")
    refused("[" * 10**5, image, "findings.json: is no JSON")


def refused(answer: str, image: DicomImage, told: str) -> None:
    with pytest.raises(ProgramFailed) as failure:
        findings_in(answer.encode(), [image], ModelRef("bright", "2", "a" * 64, "b" * 64))
    said = str(failure.value)
    assert told in said
    assert "Doe" not in said
    assert len(said) < 200


@pytest.mark.usefixtures("scratch")
def test_a_program_that_takes_too_long_is_ended_with_all_it_started(run: Run) -> None:
    """Also what left its process group and its session."""
    mark = f"outlives-{os.getpid()}-{time.monotonic_ns()}"
    sleeper, began = f"[sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']", time.monotonic()
    with pytest.raises(ProgramStopped, match="took longer than its 2 s"):
        run(
            f"subprocess.Popen({sleeper})\nsubprocess.Popen({sleeper}, start_new_session=True)\n"
            f"if not os.fork():\n    os.setsid()\n    if not os.fork(): os.execv(sys.executable, {sleeper})\n"
            "    os._exit(0)\nwrite(); time.sleep(300)",
            seconds=2.0,
        )
    assert time.monotonic() - began < 30
    assert alive(mark) == []


FILLS = "b = bytearray(os.urandom({mib} * 2**20)); write(); time.sleep(60)"


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("code", [FILLS.format(mib=300), f"os.fork(); os.fork(); {FILLS.format(mib=80)}"])
def test_a_program_has_no_more_memory_than_it_may(run: Run, code: str) -> None:
    with pytest.raises(ProgramFailed):
        run(code, memory_mib=256)


@pytest.mark.usefixtures("scratch")
def test_a_program_that_writes_without_end_is_ended(run: Run) -> None:
    with pytest.raises(ProgramStopped, match="wrote more than it may"):
        run(
            "for name in 'ab': os.truncate(os.open(target / name, 65), 3 * 2**30)\ntime.sleep(60)",
            seconds=60.0,
        )


@pytest.mark.usefixtures("scratch")
def test_a_program_ends_when_the_job_is_cancelled(run: Run) -> None:
    def report(share: float, _what: str) -> None:
        if share > 0:
            raise InterruptedError

    mark = f"cancelled-{os.getpid()}-{time.monotonic_ns()}"
    sleeper = f"[sys.executable, '-c', 'import time; time.sleep(300)', '{mark}']"
    with pytest.raises(InterruptedError):
        run(f"os.execv(sys.executable, {sleeper})", report)
    assert alive(mark) == []


def test_a_program_ends_with_a_worker_that_is_killed_and_its_folder_goes_later(
    tmp_path: Path, image: DicomImage, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"orphan-{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, "-c", "import time; time.sleep(300)", mark]
    options = {"command": command, "model": "m", "version": "1"}
    code = (
        f"import tempfile; tempfile.tempdir = {str(scratch)!r}\n"
        "from ai_pipeline.pipelines import create; from ai_pipeline.images.decode import open_dicom\n"
        f"create('command').run([open_dicom({str(image.path)!r})], lambda *_: None, {options!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as worker:
        wait_until(
            lambda: len(alive(mark)) > 1, 60, "the program"
        )  # the worker's own line bears the word too
        worker.send_signal(signal.SIGKILL)
    wait_until(lambda: alive(mark) == [], 60, "the program's end")
    create("command").warm_up()
    assert len(list(scratch.iterdir())) == 1, "somebody may be about to use it"
    monkeypatch.setattr(process, "_YOUNG_SECONDS", 0.0)
    create("command").warm_up()


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    ("options", "faults"),
    [
        ({}, {"model", "version", "command"}),
        ({"command": ["/no/such/program"]}, {"command"}),
        ({"command": ["./program"]}, {"command"}),
        ({"command": ["sh", 1]}, {"command"}),
        ({"command": ["sh"], "version": "../1"}, {"version"}),
        ({"command": ["sh"], "seconds": 0.0, "memory_mib": 1}, {"seconds", "memory_mib"}),
        ({"command": ["sh"]}, set()),
    ],
)
def test_what_is_wrong_with_the_options_of_a_command_is_said(
    options: dict[str, Any], faults: set[str]
) -> None:
    given = {"model": "m", "version": "1", **options} if options else {}
    assert option_faults(create("command"), given).keys() == faults


@pytest.mark.usefixtures("scratch")
def test_where_the_network_cannot_be_taken_away_the_rule_must_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_pipeline.programs.pipeline.can_leave_network", lambda: False)
    options: dict[str, object] = {"command": ["sh"], "model": "m", "version": "1"}
    for network, faults in ((False, {"network"}), (True, set[str]())):
        assert option_faults(create("command"), {**options, "network": network}).keys() == faults


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("image", ["", "-v", "--privileged", "a b", "a;b", "a$b"])
def test_the_name_of_an_image_is_never_an_option(image: str) -> None:
    assert "image" in option_faults(create("container"), {"model": "m", "version": "1", "image": image})


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("engine", container.ENGINES)
def test_a_container_gets_no_network_no_rights_and_nothing_to_write_but_its_folder(engine: str) -> None:
    line = container.command_line(
        engine,
        "sha256:" + "0" * 64,
        ["--fast"],
        name="n",
        folders=(Path("/i"), Path("/o")),
        environment={"MERCURE_IN_DIR": "/input"},
        memory_mib=512,
    )
    assert (line[:3], line[-2:]) == ([engine, "run", "--rm"], ["sha256:" + "0" * 64, "--fast"])
    assert {
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pull=never",
        "--memory=512m",
        "--memory-swap=512m",
        "--log-driver=none",
        "--env=MERCURE_IN_DIR=/input",
        "--mount=type=bind,source=/i,target=/input,readonly",
        "--mount=type=bind,source=/o,target=/output",
        f"--user={os.getuid()}:{os.getgid()}",
    } <= set(line)
    assert not {"--privileged", "-v", "--volume"} & set(line)


@pytest.mark.usefixtures("scratch")
def test_a_container_runs(image: DicomImage) -> None:
    engine = container.engine()
    needed = ["info"], ["image", "inspect", "busybox"]
    if not engine or any(
        subprocess.run([engine, *one], capture_output=True, check=False).returncode for one in needed
    ):
        pytest.skip("needs podman or docker that can run containers, and the image busybox")
    answer = json.dumps({"findings": [{"source_uid": image.uid, **FINDING}]})
    script = f"test -r /input/1.dcm && ! touch /input/x && echo '{answer}' > /output/findings.json"
    options = {"image": "busybox", "command": ["sh", "-c", script], "model": "test", "version": "1"}
    assert len(create("container").run([image], lambda *_: None, options).findings) == 1


HEADER = ImageHeader("US", "", 345, 512, 1, "MONOCHROME2", 8)


@pytest.fixture
def fetal(monkeypatch: pytest.MonkeyPatch) -> pipeline.FetalHead:
    """The pipeline with an engine that knows drawn heads."""
    made = pipeline.FetalHead()
    monkeypatch.setattr(made, "_loaded", model())
    return made


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"modality": "CT"}, "not US"),
        ({"frames": 12}, "still picture"),
        ({"body_part": "BREAST"}, "not that of a pregnancy"),
        ({"age_years": 0.1}, "not the mother"),
        ({"attributes": {"PatientSex": "M"}}, "not the mother"),
        ({"rows": 100}, "fewer than"),
        (
            {
                "ultrasound_regions": (
                    UltrasoundRegion((0, 0, 250, 345), None, 1, 1),
                    UltrasoundRegion((260, 0, 512, 345), None, 1, 1),
                )
            },
            "side by side",
        ),
        *(
            ({"body_part": part, "age_years": 31.0}, "")  # is looked at
            for part in ("", "HEAD", "FETUS", "ABDOMEN", "PELVIS")
        ),
    ],
)
def test_the_header_refuses_what_is_no_still_of_a_pregnancy(changed: dict[str, Any], reason: str) -> None:
    said = refused_by_header(replace(HEADER, **changed))
    assert reason in said
    assert bool(reason) is bool(said)


@pytest.mark.parametrize(
    ("said", "unit", "factor"),
    [
        ({"attributes": {"PixelSpacing": "0.2\\0.2"}}, "mm", 0.2),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 512, 345), (0.2, 0.2), 1, 1),)}, "mm", 0.2),
        ({}, "{pixels}", 1.0),
        # Beside the head.
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 60, 60), (0.2, 0.2), 1, 1),)}, "{pixels}", 1.0),
    ],
)
def test_lengths_are_millimetres_only_where_the_image_says_how_large_its_pixels_are(
    fetal: pipeline.FetalHead, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], unit: str, factor: float
) -> None:
    # cleaning takes seconds, and is of no matter here
    monkeypatch.setattr(pipeline, "clean", Mock(side_effect=CleaningFailed("too much text")))
    measured = fetal.run([ArrayImage(drawn_head()[0][None], **said)], silent, {}).measurements
    assert [(one.name, one.quantity.value, one.unit.value) for one in measured] == [
        ("Head circumference", "11984-2", unit),
        ("BPD (outer-outer)", "11820-8", unit),
        ("Occipitofrontal diameter", "11851-3", unit),
    ]
    wanted = [HEAD.circumference * factor, HEAD.short * factor, HEAD.long * factor]
    assert [one.value for one in measured] == pytest.approx(wanted, rel=0.03)
    assert (measured[0].closed, len(measured[0].lines[0])) == (True, 72)
    assert math.dist(*measured[2].lines[0]) * factor == pytest.approx(measured[2].value, rel=0.01)


def test_pixels_that_are_not_square_are_measured_in_millimetres() -> None:
    flat, points = biometry.in_millimetres(HEAD, (0.1, 0.2)), np.array(HEAD.polygon(720)) * [0.2, 0.1]
    around = np.linalg.norm(np.diff(np.vstack([points, points[:1]]), axis=0), axis=1).sum()
    assert flat.circumference == pytest.approx(around, rel=1e-3)


@pytest.mark.parametrize("spacing", ["0.01\\0.01", "2\\2", str(0.39 / HEAD.circumference * 1000)])
def test_a_head_of_an_impossible_size_is_refused(fetal: pipeline.FetalHead, spacing: str) -> None:
    spacing = spacing if "\\" in spacing else f"{spacing}\\{spacing}"
    verdict = fetal.accepts([ArrayImage(drawn_head()[0][None], attributes={"PixelSpacing": spacing})])
    assert isinstance(verdict, Refuse)
    assert "is implausible: heads of 40 to 380 mm" in verdict.reason


def test_pictures_without_a_head_are_refused_and_counted(fetal: pipeline.FetalHead) -> None:
    with_head = ArrayImage(drawn_head()[0][None])
    without = ArrayImage(np.full((1, 345, 512), 60, np.uint8), uid="1.2.4")
    verdict = fetal.accepts([with_head, without])
    assert isinstance(verdict, Accept)
    assert verdict.source_uids == ("1.2.3",)
    assert [(refused.source_uid, refused.by.value) for refused in verdict.refused] == [("1.2.4", "pixels")]
    assert isinstance(fetal.accepts([without]), Refuse)


def test_the_result_has_the_head_as_a_mask_and_is_drawn_on_cleaned_pixels(fetal: pipeline.FetalHead) -> None:
    picture, mask = drawn_head()
    result = fetal.run([ArrayImage(picture[None])], silent, {})
    kinds = {image.kind.value: image for image in result.images}
    assert (set(kinds), result.drawn_on) == ({"organs", "cleaned", "mask"}, "cleaned")
    assert kinds["organs"].organs[0].value == "69536005"
    assert ((kinds["organs"].frames[0] > 0) == mask).mean() > 0.98
    assert result.models[0] == fetal._model().ref, "what runs is named"
    assert {"fetal head", "not assessed"} <= {note.name for note in result.quality}


@pytest.mark.data
def test_a_real_head_on_the_command_line_and_what_is_none(data: Path, tmp_path: Path) -> None:
    heads = rows(data / "us_fetal_head" / "manifest.csv", "val")
    row = next(row for row in heads if float(row["head_circumference_mm"]) > 150)
    given = ["--pipeline", "fetal_head", "--modality", "US", "--body-part", "HEAD", "--json"]
    given += ["--pixel-mm", row["pixel_mm_at_512"], "--out", str(tmp_path)]
    files = (data / "us_fetal_head" / row["file"], next((data / "us_breast" / "images").glob("*.png")))
    done = CliRunner().invoke(app, ["run", *map(str, files), *given])
    assert done.exit_code == 0, done.output
    head, breast = (json.loads(line) for line in done.stdout.splitlines())
    around = next(one for one in head["measurements"] if one["name"] == "Head circumference")
    assert around["value"] == pytest.approx(float(row["head_circumference_mm"]), abs=8)
    assert (around["unit"], len(around["points"])) == ("mm", 72)
    assert {"annotated", "organs"} <= {image["kind"] for image in head["images"]}
    assert (breast["accepted"], breast["measurements"]) == (False, [])
    assert "no fetal head" in breast["reason"]


HERE = Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize("turn", [0.0, 0.3, 1.2, 2.0, 3.0])
@pytest.mark.parametrize("short", [120.0, 170.0, 215.0])
def test_the_ellipse_of_a_mask_is_the_one_it_was_drawn_by(turn: float, short: float) -> None:
    drawn = replace(HEAD, turn=turn, short=short)
    found = heads.ellipse_of(drawn.mask(345, 512), HERE)
    assert found is not None
    assert abs(math.sin(found.turn - turn)) < 0.05
    assert (found.x, found.y) == pytest.approx((drawn.x, drawn.y), abs=0.2)
    assert (found.long, found.short) == pytest.approx((drawn.long, drawn.short), abs=0.6)
    assert found.circumference == pytest.approx(drawn.circumference, rel=0.003)


def test_a_head_that_leaves_the_picture_is_continued_and_not_cut_off() -> None:
    drawn = replace(HEAD, y=70.0)
    found = heads.ellipse_of(drawn.mask(345, 512), HERE)
    assert found is not None
    assert min(y for _, y in drawn.polygon()) < -5
    assert found.circumference == pytest.approx(drawn.circumference, rel=0.01)


def test_the_ellipse_lies_in_the_coordinates_of_the_source() -> None:
    found = heads.ellipse_of(HEAD.mask(345, 512), Affine(2.0, 0.0, 10.0, 0.0, 2.0, -4.0))
    assert found is not None
    assert found.circumference == pytest.approx(2 * HEAD.circumference, rel=0.003)
    assert (found.x, found.y) == pytest.approx((2 * HEAD.x + 10, 2 * HEAD.y - 4), abs=0.4)


@pytest.mark.parametrize("mask", [np.zeros((50, 50), bool), np.eye(50, dtype=bool), np.ones((50, 50), bool)])
def test_what_has_no_outline_has_no_ellipse(mask: np.ndarray) -> None:
    found = heads.ellipse_of(mask, HERE)

    assert found is None or found.short < 3


def test_the_circumference_of_a_circle_is_that_of_a_circle_and_the_polygon_lies_on_it() -> None:
    circle = heads.Ellipse(50.0, 50.0, 80.0, 80.0, 0.0)
    assert circle.circumference == pytest.approx(math.pi * 80)
    assert all(math.hypot(x - 50, y - 50) == pytest.approx(40) for x, y in circle.polygon())
    assert math.dist(*HEAD.long_axis()) == pytest.approx(HEAD.long)
    assert math.dist(*HEAD.short_axis()) == pytest.approx(HEAD.short)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("TWIN A", {"A"}),
        ("twin b HC", {"B"}),
        ("FETUSA", {"A"}),
        ("Fetus: 2", {"2"}),
        ("BABY B", {"B"}),
        ("FETUS A/2", {"A"}),
        ("FETUS 1/1", set()),
        ("Fetus 1 of 1", set()),
        ("FETUS", set()),
        ("FETUSES", set()),
        ("BABY BOY", set()),
        ("FETAL HEAD", set()),
        ("TWINS", set()),
        ("HC 24 cm", set()),
    ],
)
def test_a_picture_names_its_fetus(text: str, names: set[str]) -> None:
    assert names_in([text]) == names


@pytest.mark.parametrize(
    ("text", "several"),
    [
        *((text, True) for text in ("TWINS", "Twin pregnancy", "TWINA", "OB multiple gestation")),
        *((text, True) for text in ("Triplets", "MCDA", "Zwillinge")),
        *((text, False) for text in ("FETUS 1", "GE TWINKLE", "OB 2nd trimester", "single gestation", "")),
    ],
)
def test_words_tell_of_several(text: str, several: bool) -> None:
    assert tells_of_several([text]) is several


def test_one_picture_that_names_a_fetus_says_of_all_that_there_are_several() -> None:
    found = fetus_of_each({"1": ["TWIN A"], "2": ["HC 24.1 cm"], "3": ["TWIN A TWIN B"]}, [HEADER])
    assert found["1"] == ("A", "")
    assert "does not say which" in found["2"][1]
    assert "more than one fetus" in found["3"][1]


Study = Callable[..., PipelineResult]


@pytest.fixture
def study(fetal: pipeline.FetalHead, monkeypatch: pytest.MonkeyPatch) -> Study:
    """What is measured in pictures of drawn heads, in each of which a text is read."""

    def run(*texts: str, picture: np.ndarray | None = None, **attributes: str) -> PipelineResult:
        drawn = (drawn_head()[0] if picture is None else picture)[None]
        said = {f"1.2.{number}": text for number, text in enumerate(texts, start=1)}
        read = {uid: pipeline._CleanedImage((), (), (text,)) for uid, text in said.items()}
        monkeypatch.setattr(fetal, "_cleaned", lambda image, _report: read[image.uid])
        return fetal.run([ArrayImage(drawn, attributes=attributes, uid=uid) for uid in said], silent, {})

    return run


def measured(result: PipelineResult) -> dict[str, str]:
    """Which fetus was measured, by image."""
    return {one.source_uid: one.fetus for one in result.measurements}


def reasons(result: PipelineResult) -> list[str]:
    notes = [note.text for note in result.quality if note.name == pipeline.NOTE]
    return [text for text in notes if "not measured" in text]


def test_twins_are_measured_where_the_picture_says_which_also_if_only_the_header_tells_of_twins(
    study: Study,
) -> None:
    result, unsaid = study("TWIN A", "TWIN B", ""), study("", StudyDescription="OB Twin follow-up")
    assert (measured(result), measured(unsaid)) == ({"1.2.1": "A", "1.2.2": "B"}, {})
    assert (
        reasons(result)
        == reasons(unsaid)
        == ["Head not measured: there is more than one fetus, and the picture does not say which this is."]
    )
    assert measured(study("TWIN B", StudyDescription="OB Twin follow-up")) == {"1.2.1": "B"}


def test_two_heads_in_one_picture_are_not_measured(study: Study, fetal: pipeline.FetalHead) -> None:
    left, right = (drawn_head(head=heads.Ellipse(x, 170.0, 150.0, 120.0, 0.0))[0] for x in (130.0, 380.0))
    fetal._loaded = model(of_columns_apart, spread=1.0)
    result = study("TWIN A", picture=np.maximum(left, right))
    assert measured(result) == {}
    assert reasons(result) == ["Head not measured: the picture shows more than one head."]


def of_columns_apart(values: np.ndarray) -> dict[str, np.ndarray]:
    """An engine that outlines an ellipse in each half of the picture."""
    count, _, rows, columns = values.shape
    half = heads.Ellipse(columns / 4, rows / 2, 75.0, 60.0, 0.0).mask(rows, columns // 2)
    twice = np.tile(np.concatenate([half, half], axis=1).astype(np.float32), (count, 1, 1))
    return {"head": twice, "present": np.ones(count, np.float32)}


LIMITS = HeadLimits(present=0.5, shape=0.95, spread=0.05, roundness=(0.5, 1.0), outside=0.1, inset=0.0)
REF = ModelRef("head", "1", "a" * 64, "b" * 64)


def by_brightness(values: np.ndarray) -> Mapping[str, np.ndarray]:
    """An engine that knows a drawn head by its dark brain and bright skull, wherever it is."""
    skull = values[:, 0] * 128 + 127 > 150
    ends = np.maximum.accumulate(skull, axis=2) & np.maximum.accumulate(skull[:, :, ::-1], axis=2)[:, :, ::-1]
    return {"head": ends.astype(np.float32), "present": skull.any((1, 2)).astype(np.float32)}


def model(engine=by_brightness, **limits: object) -> HeadModel:  # type: ignore[no-untyped-def]
    return HeadModel(engine, replace(LIMITS, **limits), REF)  # type: ignore[arg-type]


def test_a_drawn_head_is_outlined_where_it_lies() -> None:
    found = model().outline(drawn_head()[0])
    assert (found.fault, found.shape > 0.97, found.spread < 0.03) == ("", True, True)
    assert found.measured is not None
    assert found.measured.circumference == pytest.approx(HEAD.circumference, rel=0.02)
    assert (found.measured.x, found.measured.y) == pytest.approx((HEAD.x, HEAD.y), abs=3)


def test_the_measured_ellipse_runs_inside_the_outlined_one() -> None:
    found = model(inset=0.5).outline(drawn_head()[0])
    assert found.area is not None
    assert found.measured is not None
    assert found.area.long - found.measured.long == pytest.approx(2 * 0.5 * 2, rel=0.01)  # reduced to a half


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"present": 1.1}, "no fetal head"),
        ({"shape": 0.9999}, "not the ellipse"),
        ({"roundness": (0.95, 1.0)}, "not the ellipse"),
        ({"spread": 0.0}, "changes with small changes"),
        ({"outside": -0.1}, "outside the picture"),
    ],
)
def test_each_limit_refuses_with_its_reason(limits: dict[str, object], reason: str) -> None:
    assert reason in model(**limits).outline(drawn_head()[0]).fault


def test_an_answer_that_a_mirror_changes_is_refused() -> None:
    def sees_left(values: np.ndarray) -> Mapping[str, np.ndarray]:
        found = by_brightness(values)
        found["head"][1] *= np.linspace(1, 0, found["head"].shape[2]) > 0.55
        return found

    assert model(sees_left, shape=0.0).outline(drawn_head()[0]).fault != ""


def test_a_head_that_is_cut_in_half_is_refused() -> None:
    picture, _ = drawn_head(head=replace(HEAD, y=10.0))
    found = model(shape=0.0, spread=9.0, roundness=(0.0, 1.0)).outline(picture)
    assert found.fault == "too much of the head lies outside the picture"


PELVIS = image_header(body_part="PELVIS")


@pytest.fixture(scope="module")
def ovarian() -> ovaries.Ovarian:
    return ovaries.Ovarian()


@pytest.fixture(scope="module")
def frame(data: Path) -> Path:
    """A frame of the manifest's test split with a large cyst, without yellow marks."""
    return data / "us_ovarian" / "images" / "otu_0001.jpg"


@pytest.fixture(scope="module")
def found(ovarian: ovaries.Ovarian, frame: Path) -> PipelineResult:
    return ovarian.run([open_image(frame, "US", AS_PELVIS)], silent, {})


AS_PELVIS = StatedAttributes(body_part="PELVIS")


@pytest.mark.parametrize("highest", [256, 1], ids=["noise", "black"])
def test_what_looks_like_no_frame_is_refused_by_its_pixels(ovarian: ovaries.Ovarian, highest: int) -> None:
    grey = np.random.default_rng(0).integers(0, highest, (480, 640, 1), np.uint8)
    answer = ovarian.accepts([ArrayImage(grey.repeat(3, axis=2)[None], like=PELVIS)])
    assert isinstance(answer, Refuse)
    assert answer.reason == NOT_LIKE
    assert [one.by.value for one in answer.refused] == ["pixels"]


def test_an_image_that_cannot_be_cleaned_gets_no_result(
    ovarian: ovaries.Ovarian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovaries, "clean", Mock(side_effect=CleaningFailed("text may be left")))
    with pytest.raises(CleaningFailed):
        ovarian.run([ArrayImage(np.zeros((1, 200, 200, 3), np.uint8), like=PELVIS)], silent, {})


@pytest.mark.data
def test_a_frame_is_cleaned_classified_and_outlined(
    ovarian: ovaries.Ovarian, frame: Path, found: PipelineResult
) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    assert isinstance(ovarian.accepts([image]), Accept)
    assert found.drawn_on == "cleaned"
    kinds = {picture.kind: picture for picture in found.images}
    assert ImageKind.MASK in kinds
    assert kinds[ImageKind.CLEANED].verified
    assert len(found.findings) == 8
    assert sum(one.probability or 0.0 for one in found.findings) == pytest.approx(1.0, abs=1e-3)
    assert sum(one.decision is Decision.PRESENT for one in found.findings) <= 1
    bounds = [region.bounds for one in found.findings for region in one.regions]
    assert len(bounds) == (ImageKind.ORGANS in kinds)
    assert all(0 <= x < right <= image.header.columns for x, _, right, _ in bounds)
    assert "not assessed" in {note.name for note in found.quality}


@pytest.mark.data
def test_nothing_is_called_or_outlined_where_the_lesion_was_blacked_out(
    ovarian: ovaries.Ovarian, frame: Path
) -> None:
    image = open_image(frame, "US", AS_PELVIS)
    rows, columns = image.header.rows, image.header.columns
    box = (columns // 4, rows // 4, columns * 3 // 4, rows * 3 // 4)
    hidden = ArrayImage(image.display()[None], like=image.header, removed_by_hand=(box,))
    result = ovarian.run([hidden], silent, {"heatmaps": True})
    assert {one.decision for one in result.findings} <= {Decision.INDETERMINATE}
    assert not any(one.regions or one.evidence for one in result.findings)
    assert not any(one.kind is ImageKind.ORGANS for one in result.images)
    told = next(note for note in result.quality if note.name == "unsure")
    assert told.on_faces
    assert "blacked out" in told.text or "does not look like" in told.text


@pytest.mark.data
def test_what_a_site_gets_does_not_tell_the_malignant_class_unless_a_rule_asks_for_it(
    ovarian: ovaries.Ovarian, frame: Path, found: PipelineResult
) -> None:
    shown = without_research(found).findings
    assert {one.label for one in found.findings} - {one.label for one in shown} == {
        "High-grade_Serous_Cystadenoma"
    }
    assert all((one.probability is None) == (one.decision is not Decision.PRESENT) for one in shown)
    asked = ovarian.run([open_image(frame, "US", AS_PELVIS)], silent, {"malignancy": True, "outlines": False})
    assert not any(one.research_only for one in asked.findings)
    assert not any(one.kind is ImageKind.ORGANS for one in asked.images)


@pytest.mark.data
def test_fetal_heads_are_not_classified_also_where_they_look_like_a_cyst(
    ovarian: ovaries.Ovarian, data: Path
) -> None:
    heads = data / "us_fetal_head"
    like_a_cyst, reasons = [next(heads.rglob(name)) for name in ("019_HC.jpg", "019_2HC.jpg")], []
    for file in (*sorted((heads / "images").glob("*.jpg"))[:8], *like_a_cyst):
        answer = ovarian.accepts([open_image(file, "US", AS_PELVIS)])
        assert isinstance(answer, Refuse), file.name
        reasons.append(answer.reason)
    assert all("fetal head" in reason for reason in reasons[-2:])


LABELS = tuple(
    Label(name, Code(name, "99TEST", name), "test", None, name != "Malignant", 0.6, 0.05, 1.5, intercept)
    for name, intercept in (("Cyst", 0.0), ("Teratoma", 0.5), ("Malignant", -1.0), (NORMAL, 0.0))
)
PRESENT, ABSENT, UNCLEAR = Decision.PRESENT, Decision.ABSENT, Decision.INDETERMINATE


@pytest.mark.parametrize(
    ("found", "hidden", "wanted"),
    [
        ((0.88, 0.08, 0.02, 0.02), True, (PRESENT, UNCLEAR, UNCLEAR, ABSENT)),
        ((0.48, 0.46, 0.04, 0.02), True, (UNCLEAR, UNCLEAR, UNCLEAR, ABSENT)),
        ((0.10, 0.02, 0.86, 0.02), True, (UNCLEAR, UNCLEAR, UNCLEAR, UNCLEAR)),  # hidden: nothing is said
        ((0.10, 0.02, 0.86, 0.02), False, (UNCLEAR, ABSENT, PRESENT, ABSENT)),
        ((0.90, 0.08, 0.01, 0.01), False, (PRESENT, UNCLEAR, UNCLEAR, ABSENT)),  # no cancer is excluded
        ((0.02, 0.06, 0.02, 0.90), True, (ABSENT, UNCLEAR, UNCLEAR, UNCLEAR)),  # no ovary is called normal
    ],
)
def test_one_class_is_present_or_none(
    found: tuple[float, ...], hidden: bool, wanted: tuple[Decision, ...]
) -> None:
    assert decisions(np.array(found, np.float32), LABELS, hidden=hidden) == wanted


def test_probabilities_are_the_scaled_softmax() -> None:
    found = probabilities(np.array([[2.0, 1.0, -3.0], [800.0, -800.0, 0.0]], np.float32), LABELS[:3])
    odds = np.exp(np.array([3.0, 2.0, -5.5]))
    assert np.allclose(found[0], odds / odds.sum(), atol=1e-6)
    assert np.allclose(found.sum(1), 1.0)
    assert np.isfinite(found).all()


def test_the_outline_follows_the_mask() -> None:
    mask, drawn = np.zeros((2, 120, 160), np.uint8)
    cv2.ellipse(mask, (80, 60), (40, 25), 20.0, 0, 360, 1, -1)
    region = of_mask(mask > 0).region
    assert region is not None
    assert len(region.points) < 60
    cv2.fillPoly(drawn, [np.floor(np.array(region.points)).astype(np.int32)], 1)
    assert dice(drawn > 0, mask > 0) > 0.97


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        (np.zeros((64, 64), np.bool_), "no lesion"),
        (np.ones((64, 64), np.bool_), "too small or too large"),
        (np.indices((64, 64)).sum(0) % 32 < 4, "falls apart"),
        (np.abs(np.indices((64, 64)) - 32).min(0) < 4, "ragged"),
    ],
)
def test_what_cannot_be_a_lesion_has_no_outline(mask: np.ndarray, fault: str) -> None:
    found = of_mask(np.asarray(mask))
    assert (found.region, found.mask, fault in found.fault) == (None, None, True)


@pytest.mark.parametrize(("inside", "simple"), [(10, True), (60, False)])
def test_a_cyst_is_simple_only_where_it_is_black_inside(inside: int, simple: bool) -> None:
    across, down = np.indices((200, 200)) - 100
    lesion = np.asarray((across**2 + down**2) < 60**2)
    assert ovaries.is_anechoic(np.where(lesion, np.uint8(inside), np.uint8(90)), lesion) is simple


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "CT"}, "modality CT is not ultrasound"),
        ({"frames": 40}, "40 frames"),
        ({"body_part": "BREAST"}, "Body Part Examined is BREAST"),
        ({"body_part": ""}, "nothing says that this is a pelvis"),
        ({"body_part": "ABDOMEN", "attributes": {"StudyDescription": "Liver"}}, "another organ"),
        ({"body_part": "ABDOMEN", "attributes": {"StudyDescription": "Upper"}}, "neither pelvis nor ovary"),
        ({"rows": 90}, "fewer than 128"),
        ({"attributes": {"PatientSex": "M"}}, "male"),
        ({"attributes": {"PatientSex": "male"}}, "male"),
        ({"age_years": 3.0}, "younger than 12"),
        ({"attributes": {"StudyDescription": "Fetal biometry"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "US OB TRANSVAGINAL"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "OB/GYN early preg"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "Échographie obstétrique"}}, "pregnancy"),
        ({"attributes": {"SeriesDescription": "1. Trimester"}}, "pregnancy"),
        ({"attributes": {"PregnancyStatus": "3"}}, "pregnancy"),
        ({"attributes": {"StudyDescription": "US BREAST LEFT"}}, "another organ"),
        ({"attributes": {"StudyDescription": "KIDNEY, RENAL PELVIS"}}, "another organ"),
        ({"attributes": {"AnatomicRegionSequence": "76752008 SCT Breast"}}, "Anatomic Region is neither"),
        ({"body_part": "UTERUS"}, "nothing says that this is a pelvis"),
        ({"body_part": "ABDOMENPELVIS"}, "nothing says that this is a pelvis"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 3, 3),)}, "a Doppler spectrum"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 1, 3),)}, "a Doppler spectrum"),
        ({"ultrasound_regions": (UltrasoundRegion((0, 0, 9, 9), None, 2, 1),)}, "an M-mode trace"),
    ],
)
def test_the_header_alone_refuses_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in str(ovarian_card.refused_by_header(replace(PELVIS, **change)))


@pytest.mark.parametrize(
    "attributes",
    [
        {"AnatomicRegionSequence": "15497006 SCT Ovary"},
        {"StudyDescription": "OB/GYN, US pelvis"},
        {"ProtocolName": "Transvaginal"},
    ],
)
@pytest.mark.parametrize("body_part", ["", "ABDOMEN"])
def test_region_or_procedure_may_say_that_it_is_a_pelvis(body_part: str, attributes: dict[str, str]) -> None:
    assert ovarian_card.refused_by_header(replace(PELVIS, body_part=body_part, attributes=attributes)) is None


def test_a_rule_may_say_it_but_not_that_a_pregnancy_is_none() -> None:
    unknown = replace(PELVIS, body_part="")
    assert ovarian_card.refused_by_header(unknown, rule_says_pelvis=True) is None
    fetus = replace(unknown, attributes={"SeriesDescription": "obstetric"})
    assert "pregnancy" in str(ovarian_card.refused_by_header(fetus, rule_says_pelvis=True))
