"""Which tests a change concerns: `make check` runs them.

`python -m tests.affected [BASE]` prints the files of tests, one a line, for what differs from the branch BASE
(main) and for what is not committed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.import_graph import MODULES, ROOT, imports, imports_of, modules

ALWAYS = ("tests/test_architecture.py", "tests/test_docs.py")


def changed_files(base: str) -> list[str]:
    """Paths that differ from where this branch left ``base``, or that git does not know yet."""
    fork = _git("merge-base", base, "HEAD") or ["HEAD"]
    return [*_git("diff", "--name-only", fork[0]), *_git("ls-files", "--others", "--exclude-standard")]


def affected_tests(changed: list[str]) -> list[str]:
    """Unit tests of the rooms that changed, tests that import what changed, and tests of its importers.

    ``changed``: paths from the root of the repository. Of tests between processes only what changed itself.
    """
    tests = modules("tests")
    names = {str(path.relative_to(ROOT)): name for name, path in (MODULES | tests).items()}
    edited = {names[path] for path in changed if path in names}
    importers = {module for module in MODULES if edited & {found.target for found in imports_of(module)}}
    touched = edited | importers
    folders = tuple(folder for path in changed if (folder := _folder(path)))
    chosen = {path for path in changed if path in names and Path(path).name.startswith("test_")}
    for name, path in tests.items():
        file = str(path.relative_to(ROOT))
        if not path.name.startswith("test_") or not file.startswith("tests/unit/"):
            continue
        targets = {found.target for found in imports(name, path.read_text(encoding="utf-8"))}
        if touched & targets or file.startswith(folders):
            chosen.add(file)
    return sorted(chosen | set(ALWAYS))


def _folder(changed: str) -> str:
    """The unit tests of the room in which this file lies; "" for a file in no room."""
    match Path(changed).parts:
        case ("dicom_console", *_):
            return "tests/unit/console/"
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
