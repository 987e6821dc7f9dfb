"""Pipelines of packages that are broken: what is wrong is said, and nobody else is hurt."""

import os
import re
import subprocess
from pathlib import Path

from tests.forked import run_forked

PACKAGES = """
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
    return run_forked(module, *words, env={**os.environ, "PYTHONPATH": str(beside)})


def configuration(folder: Path, *pipelines: str) -> Path:
    """A rule for each pipeline."""
    file = folder / "node.toml"
    names = ("theirs", *(f"more{number}" for number in range(1, len(pipelines))))
    rules = [RULE.format(name=name, pipeline=one) for name, one in zip(names, pipelines, strict=True)]
    file.write_text(PACKAGES.format(folder=folder, port=11112) + "".join(rules), encoding="utf-8")
    return file


def test_check_says_of_each_broken_package_what_is_wrong_with_it(tmp_path: Path) -> None:
    for number, (where, code, _) in enumerate(BROKEN.values()):
        beside = installed(tmp_path / "site", where, code, name=f"theirs{number}")
    file = configuration(tmp_path, *(f"theirs{number}" for number in range(len(BROKEN))))
    done = run("dicom_node", "check", "--config", file, beside=beside)
    assert done.returncode == 78
    for number, (case, (_, _, told)) in enumerate(BROKEN.items()):
        lines = [line for line in done.stderr.splitlines() if re.search(rf"pipeline theirs{number}\b", line)]
        assert [told.replace("theirs", f"theirs{number}") in line for line in lines] == [True], case
    assert "Traceback" not in done.stderr
    assert "Secret" not in done.stderr


def test_a_broken_package_hurts_nobody_who_does_not_ask_for_it(tmp_path: Path) -> None:
    beside = installed(tmp_path / "site", "theirs:P", "raise SystemExit(3)")
    done = run("ai_pipeline", "--help", beside=beside)
    assert (done.returncode, done.stderr) == (0, "")
    checked = run("dicom_node", "check", "--config", configuration(tmp_path, "ultrasound"), beside=beside)
    assert "theirs:P" not in checked.stdout + checked.stderr
    asked = run("ai_pipeline", "run", "none.dcm", "--pipeline", "theirs", beside=beside)
    assert "Traceback" not in asked.stderr
