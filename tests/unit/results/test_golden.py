"""Results are byte for byte what the reviewed dumps say."""

import difflib

import pytest

from dicom_node.results.uids import BUILDER_VERSION
from tests import golden_lab

WRITE = "run `python -m tests.golden_lab` and review the difference"


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return golden_lab.dumps()


def fault(name: str, golden: str, now: str) -> str:
    """What to do where a dump is not what the builders make now; empty where it is."""
    if golden == now:
        return ""
    if not golden.startswith(f"{golden_lab.first_line()}\n"):
        return f"{name} is of another builder version than {BUILDER_VERSION}: {WRITE}"
    changed = "\n".join(difflib.unified_diff(golden.splitlines(), now.splitlines(), "golden", "now", n=1))
    return f"{name} changed: raise BUILDER_VERSION (results/uids.py), then {WRITE}\n{changed}"


def test_results_are_what_the_golden_dumps_say(now: dict[str, str]) -> None:
    golden = {path.name: path.read_text(encoding="utf-8") for path in golden_lab.FOLDER.glob("*.txt")}
    assert golden.keys() == now.keys(), WRITE
    faults = [fault(name, golden[name], now[name]) for name in sorted(now)]
    assert not any(faults), "\n".join(filter(None, faults))
