"""The container image, as far as it can be read without a tool that builds it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from dicom_node.cli import app

ROOT = Path(__file__).resolve().parents[2]


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    whole = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in whole.splitlines() if line)]


def test_the_node_runs_as_a_user_who_is_not_root() -> None:
    steps = instructions()
    [user] = [rest for word, rest in steps if word == "USER"]
    assert user.split(":")[0].isdigit(), "a number: Kubernetes' runAsNonRoot cannot judge names"
    assert int(user.split(":")[0]) > 0
    after = [word for word, _ in steps[[word for word, _ in steps].index("USER") :]]
    assert "RUN" not in after, "nothing is installed by the user of the node"


def test_what_it_copies_is_there_and_what_it_installs_has_a_hash() -> None:
    for _, rest in (step for step in instructions() if step[0] == "COPY" and "--from" not in step[1]):
        *sources, _ = shlex.split(rest)
        assert [name for name in sources if not (ROOT / name).exists()] == []
    installs = " && ".join(rest for word, rest in instructions() if word == "RUN")
    third_parties, ours = re.findall(r"pip install ([^&]*)", installs)
    assert "--require-hashes --requirement /source/release.lock" in third_parties
    assert "--no-deps --no-build-isolation --no-index /source" in ours


def test_the_health_check_and_the_command_are_verbs_of_the_program() -> None:
    words = dict(instructions())
    checked = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
    for verb in (checked[1:], json.loads(words["CMD"])):
        assert CliRunner().invoke(app, [*verb, "--help"]).exit_code == 0
