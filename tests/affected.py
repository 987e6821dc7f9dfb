"""Which tests a change concerns: `make check` runs them.

`python -m tests.affected [BASE]` prints the files of tests, one a line, for what differs from the branch BASE
(main) and for what is not committed.
"""

import re
import subprocess
import sys
from pathlib import Path

from tests.test_architecture import GRAPH, ROOT

ALWAYS = ("tests/test_architecture.py", "tests/test_docs.py")


def changed_files(base: str) -> list[str]:
    """Paths that differ from where this branch left ``base``, or that git does not know yet."""
    fork = _git("merge-base", base, "HEAD") or ["HEAD"]
    return [*_git("diff", "--name-only", fork[0]), *_git("ls-files", "--others", "--exclude-standard")]


def affected_tests(changed: list[str]) -> list[str]:
    """Unit tests of the rooms that changed, tests that import what changed, and tests of its importers.

    ``changed``: paths from the root of the repository. Of tests between processes only what changed itself.
    """
    edited = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in changed}
    importers = {
        one for name in edited & GRAPH.modules for one in GRAPH.find_modules_that_directly_import(name)
    }
    folders = tuple(filter(None, map(_folder, changed)))
    chosen = {path for path in changed if Path(path).name.startswith("test_") and (ROOT / path).exists()}
    for path in (ROOT / "tests" / "unit").rglob("test_*.py"):
        file, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        if file.startswith(folders) or any(_imports(text, name) for name in edited | importers):
            chosen.add(file)
    return sorted(chosen | set(ALWAYS))


def _imports(text: str, module: str) -> bool:
    package, _, name = map(re.escape, module.rpartition("."))
    ways = rf"(from|import) {package}\.{name}\b|from {package} import (\([^)]*|.*)\b{name}\b"
    return re.search(ways, text) is not None


def _folder(changed: str) -> str:
    """The unit tests of the room in which this file lies; "" for a file in no room."""
    match Path(changed).parts:
        case (("dicom_console" | "dicom_connectors") as package, *_):
            return f"tests/unit/{package}/"
        case ("examples", "studies", *_):
            return "tests/unit/ai_training/test_studies.py"
        case ("examples", *_):
            return "tests/unit/test_examples.py"
        case ("dicom_node", room, _, *_):
            return f"tests/unit/{room}/"
        case (("ai_pipeline" | "ai_training") as package, room, _, *_):
            return f"tests/unit/{package}/{room}/"
    return ""


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.split() if done.returncode == 0 else []


if __name__ == "__main__":
    print("\n".join(affected_tests(changed_files(*sys.argv[1:2] or ["main"]))))
