"""Import direction, read from the sources: each room knows only its right-hand neighbour's front door."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from ai_pipeline.pipelines import PIPELINES
from tests.import_graph import MODULES, PACKAGES, ROOT, Import, imports, imports_of
from tests.import_rules import EAGER, LAZY, MAY_IMPORT, ONLY_IN, OPEN, OUTSIDE

# Distributions whose folder is their package: the pyproject.toml inside it lists what setuptools cannot find.
LISTED = ("dicom_console", "ai_training")


def room_of(module: str) -> str:
    names = [name for name in (*MAY_IMPORT, *OUTSIDE) if module == name or module.startswith(f"{name}.")]
    return max(names, key=len, default="")


def forbidden(found: Import) -> str:
    """Why this import is not allowed, "" when it is."""
    library = found.target.partition(".")[0]
    for name, places in ONLY_IN.items():
        if _under(found.target, (name,)) and not _under(found.module, places):
            return f"{found}: {name} belongs in {', '.join(places)}"
    if library in LAZY and not found.lazy and not _under(found.module, EAGER):
        return f"{found}: {library} is imported inside the function that needs it"
    return _forbidden_of_ours(found) if library in PACKAGES else ""


def _forbidden_of_ours(found: Import) -> str:
    room = room_of(found.module)
    if not room:
        return f"{found.module} belongs to no room of this test"
    if room in OUTSIDE or _under(found.target, (room,)):
        return ""
    for allowed in MAY_IMPORT[room]:
        whole = allowed.removesuffix(".*") if allowed.endswith(".*") else allowed if allowed in OPEN else None
        if found.target == allowed or (whole and _under(found.target, (whole,))):
            return ""
    return f"{found}: {room} may import {', '.join(MAY_IMPORT[room]) or 'nothing of ours'}"


def _under(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_a_room_imports_only_what_it_may_know() -> None:
    assert [why for module in MODULES for found in imports_of(module) if (why := forbidden(found))] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dicom_node.scp.storage_service", "from dicom_node.store.tables import Study"),
        ("dicom_node.scp.storage_service", "import sqlalchemy"),
        ("dicom_node.scp.storage_service", "def f():\n    import torch"),
        ("dicom_node.scp.storage_service", "from dicom_node.studies.scan import Indexer"),
        ("dicom_node.studies.scan", "from dicom_node.scp.policy import Policy"),
        ("dicom_node.studies.scan", "from dicom_node.results import build"),
        ("dicom_node.results.sr.report", "from dicom_node.outbox import DeliveryWorker"),
        ("dicom_node.outbox.delivery_worker", "from dicom_node.scu.dimse import DimseDestination"),
        ("dicom_node.outbox.delivery_worker", "import orthanc_rest_client"),
        ("dicom_node.scu.dimse", "from dicom_node.store.database import Database"),
        ("dicom_node.jobs.worker.run", "from dicom_node.results.sr.report import build_report"),
        ("dicom_node.store.tables", "from dicom_node.inbox.spool import Spool"),
        ("ai_pipeline.images.decode", "from dicom_node.config.settings import Settings"),
        ("ai_pipeline.models.engine", "import torch"),
        ("dicom_node.cli.records.studies", "import sqlalchemy"),
        ("dicom_node.attic", "import dicom_node.config.settings"),
    ],
)
def test_a_wrong_import_would_be_found(module: str, source: str) -> None:
    assert any(forbidden(found) for found in imports(module, source))


def test_nothing_imports_the_console() -> None:
    """It is a package of its own, which a node may be without."""
    console = ("dicom_console",)
    lines = [line for module in MODULES if not _under(module, console) for line in imports_of(module)]
    assert [str(line) for line in lines if _under(line.target, console)] == []


def test_the_node_and_its_console_name_no_pipeline() -> None:
    """But the sample configuration and the demonstration: all else takes them from their cards.

    A word of English (ultrasound, ovarian) is a name only where a string is nothing else, or quotes it.
    """
    pipelines = [point for name, point in PIPELINES.items() if name not in ("command", "container")]
    words = [f"{point.name}|{point.attr}" for point in pipelines if "_" in point.name]
    quoted = [rf"[\"'`]{point.name}[\"'`]" for point in pipelines]
    folders = {point.module.rpartition(".")[0] for point in pipelines} - {"ai_pipeline.burnin"}
    entrances = [rf"{folder}\b".replace(".", r"\.") for folder in sorted(folders)]
    named = re.compile("|".join([*words, *quoted, *entrances, "despeckle", r"burnin\.(pipeline|card)"]))
    files = [path for package in ("dicom_node", "dicom_console") for path in (ROOT / package).rglob("*.*")]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.suffix in (".py", ".html", ".js", ".css", ".toml")
        and not {"demo"} & set(path.parts)
        and path.relative_to(ROOT) != Path("dicom_node/config/sample.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if named.search(line)
    ]
    assert found == []


def test_the_listener_starts_without_database_models_and_pixels() -> None:
    heavy = {"torch", "onnxruntime", "cv2", "sqlalchemy", "alembic", "highdicom", "ai_pipeline", "pydantic"}
    program = (
        "import sys, dicom_node.scp.__main__\n"
        f"print(*sorted({heavy!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize("verb", ["--help", "studies list --help", "serve --help"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    heavy = {"torch", "onnxruntime", "cv2", "sqlalchemy", "highdicom", "pynetdicom", "pydicom", "numpy"}
    program = (
        "import sys\nfrom dicom_node.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', *sorted({heavy!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    command = [sys.executable, "-c", program, *verb.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("folder", LISTED)
def test_every_package_is_listed_in_its_pyproject(folder: str) -> None:
    """Those of the node are found by setuptools; what each wheel carries: tests/unit/test_wheels.py."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    ours = {name for name in packages if _under(name, (folder,))}
    assert ours == set(project["tool"]["setuptools"]["packages"])


def circles(edges: Mapping[str, set[str]]) -> list[str]:
    """One line for each arrow that closes a circle."""
    try:
        list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def arrows() -> dict[str, dict[str, set[str]]]:
    """Per folder: which of its files and folders import which others of the same folder."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module in MODULES:
        for line in imports_of(module):
            names, targets = module.split("."), line.target.split(".")
            same = next(
                (n for n, pair in enumerate(zip(names, targets, strict=False)) if len(set(pair)) > 1), None
            )
            if line.target in MODULES and same is not None:
                found[".".join(names[:same])][names[same]].add(targets[same])
    return found


def test_files_and_folders_of_a_folder_form_no_circle() -> None:
    assert {folder: found for folder, edges in arrows().items() if (found := circles(edges))} == {}


def folder_of(module: str) -> str:
    """A file counts as one with its folder, but at the root of a package as a folder of its own."""
    is_folder = MODULES[module].name == "__init__.py" or module.count(".") == 1
    return module if is_folder else module.rpartition(".")[0]


def test_folders_form_no_circle() -> None:
    """What folders import lies beside them in a folder of its own, never above them."""
    edges: dict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        for line in imports_of(module):
            if line.target in MODULES and folder_of(line.target) != folder_of(module):
                edges[folder_of(module)].add(folder_of(line.target))
    assert circles(edges) == []


def test_a_circle_would_be_found() -> None:
    assert circles({"store": {"model"}, "model": {"results"}, "results": {"store"}})
    assert not circles({"store": {"model"}, "results": {"store", "model"}})
    assert folder_of("ai_pipeline.burnin.still") == folder_of("ai_pipeline.burnin") == "ai_pipeline.burnin"
    assert folder_of("dicom_node.errors") == "dicom_node.errors"


def test_a_class_name_stands_for_one_thing() -> None:
    named = defaultdict(set)
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                named[node.name.lstrip("_")].add(module)
    assert {name: where for name, where in named.items() if len(where) > 1} == {}


def test_migrations_stand_in_one_line() -> None:
    versions = ROOT / "dicom_node" / "store" / "migrations" / "versions"
    numbers = sorted(path.name.partition("_")[0] for path in versions.glob("*.py"))
    assert numbers == [f"{number:04d}" for number in range(1, len(numbers) + 1)]
