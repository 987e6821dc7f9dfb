"""Pipelines of other packages: the documented example, and packages that are broken in every way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import wheels
from tests.unit.ai_pipeline.phantoms import echo, write_dicom

CONFIG = """
[node]
data_dir = "{folder}/var"
[listener]
port = {port}
[spool]
minimum_free_mib = 0
[[peers]]
name = "us1"
ae_title = "US1"
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 9
may = ["receive"]
confirm = "none"
"""
RULE = """
[[rules]]
name = "{name}"
when = {{ modality = "US" }}
pipeline = "{pipeline}"
send_to = ["pacs"]
"""
WHOLE = """
from ai_pipeline.contract import PipelineCard
class P:
    card = PipelineCard(name="theirs", version="1")
    def warm_up(self): ...
    def models(self): return ()
    def accepts(self, images, options): ...
    def run(self, images, report, options): ...
"""
BROKEN = {
    "the module is missing": ("nowhere:P", "", "ModuleNotFoundError: No module named 'nowhere'"),
    "it needs what is not installed": ("theirs:P", "import not_installed", "No module named 'not_installed'"),
    "it is not Python": ("theirs:P", "class P(:", "SyntaxError"),
    "it ends the process": ("theirs:P", "raise SystemExit(3)", "SystemExit: 3"),
    "the class is missing": ("theirs:P", "Q = 1", "AttributeError"),
    "it is no class": ("theirs:P", "P = 1", "is no pipeline: it is no class"),
    "it has no run": ("theirs:P", WHOLE.replace("def run", "def go"), "is no pipeline: it has no run()"),
    "it has no card": ("theirs:P", WHOLE.replace("card =", "cart ="), "its card is no PipelineCard"),
    "it takes the name of another": (
        "theirs:P", WHOLE.replace('"theirs"', '"chest_xray"'), "the name on its card must be 'theirs'",
    ),
    "it cannot be made": (
        "theirs:P", f"{WHOLE}    def __init__(self): raise RuntimeError('no licence\\nSecret')",
        "cannot be made: RuntimeError: no licence",
    ),
    "its models cannot be named": (
        "theirs:P", WHOLE.replace("return ()", "raise ValueError('no model')"), "ValueError: no model",
    ),
}  # fmt: skip


def installed(
    folder: Path, where: str, code: str, group: str = "ai_pipeline.pipelines", name: str = "theirs"
) -> Path:
    """A package as pip would leave it, its entry point at ``where``; what is "theirs" in it gets its name."""
    facts = folder / f"{name}-1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\ntheirs = {where}\n".replace("theirs", name))
    (folder / f"{name}.py").write_text(code.replace("theirs", name))
    return folder


def run(module: str, *words: str | Path, beside: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(beside)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def configuration(folder: Path, *pipelines: str) -> Path:
    """A rule for each pipeline."""
    file = folder / "node.toml"
    names = ("theirs", *(f"more{number}" for number in range(1, len(pipelines))))
    rules = [RULE.format(name=name, pipeline=one) for name, one in zip(names, pipelines, strict=True)]
    file.write_text(CONFIG.format(folder=folder, port=11112) + "".join(rules), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package, built and installed."""
    folder = tmp_path_factory.mktemp("example")
    wheels.install(wheels.build(wheels.EXAMPLE, folder / "wheel"), folder / "site")
    return folder / "site"


def test_the_example_of_the_page_runs_without_the_node(site: Path, tmp_path: Path) -> None:
    image = write_dicom(tmp_path / "image.dcm", echo()[None])
    words = ("--pipeline", "bright", "--option", "limit=0", "--json", "--out", tmp_path / "out")
    done = run("ai_pipeline", "run", image, *words, beside=site)
    assert done.returncode == 0, done.stderr
    [finding] = json.loads(done.stdout)["findings"]
    assert (finding["label"], finding["decision"]) == ("Bright image", "present")


def test_check_accepts_a_rule_with_the_example_and_knows_its_options(site: Path, tmp_path: Path) -> None:
    file = configuration(tmp_path, "bright")
    assert "rules.theirs" not in run("dicom_node", "check", "--config", file, beside=site).stderr
    for options, remedy in (
        ("{ limit = true }", "rules.theirs.options.limit = True: must be a number"),
        ("{ limits = 1 }", "rules.theirs.options.limits: bright has no such option; did you mean limit?"),
    ):
        file.write_text(f"{configuration(tmp_path, 'bright').read_text()}options = {options}\n")
        done = run("dicom_node", "check", "--config", file, beside=site)
        assert done.returncode == 78
        assert remedy in done.stderr


def test_check_says_of_each_broken_package_what_is_wrong_with_it(tmp_path: Path) -> None:
    for number, (where, code, _) in enumerate(BROKEN.values()):
        beside = installed(tmp_path / "site", where, code, name=f"theirs{number}")
    file = configuration(tmp_path, *(f"theirs{number}" for number in range(len(BROKEN))))
    done = run("dicom_node", "check", "--config", file, beside=beside)
    assert done.returncode == 78
    for number, (case, (_, _, told)) in enumerate(BROKEN.items()):
        lines = [line for line in done.stderr.splitlines() if re.search(rf"pipeline theirs{number}\b", line)]
        assert [told.replace("theirs", f"theirs{number}") in line for line in lines] == [True], case
    assert "Traceback" not in done.stderr and "Secret" not in done.stderr


def test_a_broken_package_hurts_nobody_who_does_not_ask_for_it(tmp_path: Path) -> None:
    beside = installed(tmp_path / "site", "theirs:P", "raise SystemExit(3)")
    done = run("ai_pipeline", "--help", beside=beside)
    assert (done.returncode, done.stderr) == (0, "")
    checked = run("dicom_node", "check", "--config", configuration(tmp_path, "ultrasound"), beside=beside)
    assert "theirs:P" not in checked.stdout + checked.stderr
    asked = run("ai_pipeline", "run", "none.dcm", "--pipeline", "theirs", beside=beside)
    assert "Traceback" not in asked.stderr


def test_broken_verbs_of_another_package_leave_ours_alone(tmp_path: Path) -> None:
    beside = installed(tmp_path / "site", "theirs:P", "1 / 0", group="ai_pipeline.commands")
    done = run("ai_pipeline", "--help", beside=beside)
    assert done.returncode == 0
    assert "models" in done.stdout
    assert done.stderr == "the verbs of theirs:P cannot be loaded: ZeroDivisionError: division by zero\n"


def test_a_name_that_two_packages_bring_is_refused(tmp_path: Path) -> None:
    beside = installed(tmp_path / "site", "theirs:P", WHOLE)
    entries = beside / "theirs-1.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text().replace("theirs =", "ultrasound ="))
    done = run("dicom_node", "check", "--config", configuration(tmp_path, "ultrasound"), beside=beside)
    assert done.returncode == 78
    assert "is brought by dicom-ai-node and theirs: uninstall one of them" in done.stderr


def test_check_knows_the_options_of_a_command(tmp_path: Path) -> None:
    options = {
        'command = ["sh", "-c", "true"]\nmodel = "m"\nversion = "1"\nseconds = 20': "",
        'command = ["sh"]': "rules.more1.options.model: must be given",
        'command = "sh"': "rules.more2.options.command = 'sh': must be the program and its arguments",
        'command = ["/no/program"]\nmodel = "m"\nversion = "1"': "/no/program is no program on this machine",
    }
    first, *rules = configuration(tmp_path, *["command"] * len(options)).read_text().split("[[rules]]")
    made = [f"[[rules]]{rule}[rules.options]\n{one}\n" for rule, one in zip(rules, options, strict=True)]
    file = tmp_path / "node.toml"
    file.write_text(first + "".join(made))
    done = run("dicom_node", "check", "--config", file, beside=tmp_path)
    assert done.returncode == 78 and "rules.theirs" not in done.stderr
    assert [told for told in options.values() if told not in done.stderr] == []
