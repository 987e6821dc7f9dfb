"""The container image, as far as it can be read without a tool that builds it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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
    assert steps[0] == ("FROM", "python:3.11-slim")


def test_what_it_copies_is_there_and_what_it_installs_has_a_hash() -> None:
    for _, rest in (step for step in instructions() if step[0] == "COPY"):
        *sources, _ = shlex.split(rest)
        assert [name for name in sources if not (ROOT / name).exists()] == []
    [installs] = [rest for word, rest in instructions() if word == "RUN" and "pip install" in rest]
    third_parties, ours = re.findall(r"pip install ([^&]*)", installs)
    assert "--require-hashes --requirement /source/release.lock" in third_parties
    assert "--no-deps --no-build-isolation --no-index /source" in ours
