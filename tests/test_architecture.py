"""Import direction, read from the sources: each room knows only its right-hand neighbour's front door."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

from ai_pipeline.pipelines import PIPELINES
from tests import ROOT

PACKAGES = ("dicom_node", "dicom_connectors", "dicom_console", "ai_pipeline", "ai_training")
GRAPH = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
OURS = sorted(name for name in GRAPH.modules if name.partition(".")[0] in PACKAGES)
IMPORTS = [(name, target) for name in OURS for target in GRAPH.find_modules_directly_imported_by(name)]
RULES = tomllib.loads((ROOT / "tests" / "import_rules.toml").read_text(encoding="utf-8"))
_OF_PIPELINES = {point.module.rpartition(".")[0]: ["@pipeline"] for point in PIPELINES.values()}
MAY_IMPORT = {
    room: [name for one in names for name in (RULES["groups"][one[1:]] if one.startswith("@") else [one])]
    for room, names in (_OF_PIPELINES | RULES["may_import"]).items()
}


def forbidden(module: str, target: str) -> str:
    """Why this import is not allowed, "" when it is."""
    places = RULES["only_in"].get(target, [module])
    if not _under(module, *places):
        return f"{module} imports {target}, which belongs in {', '.join(places)}"
    if target.partition(".")[0] not in PACKAGES:
        return ""
    room = max(
        (name for name in (*MAY_IMPORT, *RULES["outside"]) if _under(module, name)), key=len, default=""
    )
    if not room:
        return f"{module} belongs to no room of import_rules.toml"
    if room in RULES["outside"] or _under(target, room):
        return ""
    for allowed in MAY_IMPORT[room]:
        whole = allowed.endswith(".*") or allowed in RULES["open"]
        if target == allowed or (whole and _under(target, allowed.removesuffix(".*"))):
            return ""
    return f"{module} imports {target}: {room} may import {', '.join(MAY_IMPORT[room]) or 'nothing of ours'}"


def _under(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_a_room_imports_only_what_it_may_know() -> None:
    assert [why for module, target in IMPORTS if (why := forbidden(module, target))] == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("dicom_node.receive.listener", "dicom_node.base.store.tables"),
        ("dicom_node.receive.listener", "sqlalchemy"),
        ("dicom_node.receive.listener", "torch"),
        ("dicom_node.receive.listener", "dicom_node.studies.indexing"),
        ("dicom_node.studies.indexing", "dicom_node.results"),
        ("dicom_node.results.sr", "dicom_node.deliver.outbox"),
        ("dicom_node.deliver.delivery_worker", "orthanc_rest_client"),
        ("dicom_node.deliver.scu.storage", "dicom_node.base.store.database"),
        ("dicom_node.jobs.queue", "dicom_node.results.sr"),
        ("dicom_node.base.store.tables", "dicom_node.receive.spool"),
        ("ai_pipeline.images.decode", "dicom_node.base.config.settings"),
        ("dicom_node.serve.cli", "sqlalchemy"),
        ("dicom_node.attic", "dicom_node.base.config.settings"),
    ],
)
def test_a_wrong_import_would_be_found(module: str, target: str) -> None:
    assert forbidden(module, target)


@pytest.mark.parametrize("package", ["dicom_console", "dicom_connectors"])
def test_nothing_imports_the_console_or_a_connector(package: str) -> None:
    """A node may be without them: it finds them by their entry points."""
    assert [
        (module, target)
        for module, target in IMPORTS
        if _under(target, package) and not _under(module, package)
    ] == []


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
        and path.relative_to(ROOT) != Path("dicom_node/people/demo.py")
        and path.relative_to(ROOT) != Path("dicom_node/base/config/sample.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if named.search(line)
    ]
    assert found == []


PROCESSES_OF_STRANGERS = {
    "dicom_node.receive.listener": {"ai_pipeline"},
    "dicom_node.receive.inspection": set(),
}


@pytest.mark.parametrize("module", PROCESSES_OF_STRANGERS)
def test_processes_that_read_from_strangers_start_with_little(module: str) -> None:
    """Neither database nor models nor settings, and the listener without anything that reads pixels."""
    heavy = {"torch", "onnxruntime", "cv2", "sqlalchemy", "alembic", "highdicom", "pydantic"}
    heavy |= PROCESSES_OF_STRANGERS[module]
    program = (
        f"import sys, {module}\n"
        f"print(*sorted({heavy!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout.split() == []


@pytest.mark.parametrize("verb", ["--help", "studies list --help", "serve --help"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    heavy = {"torch", "onnxruntime", "cv2", "sqlalchemy", "highdicom", "pynetdicom", "pydicom", "numpy"}
    program = (
        "import sys\nfrom dicom_node.serve.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('LOADED', *sorted({heavy!r} & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    command = [sys.executable, "-c", program, *verb.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    declares = {"sqlalchemy"} if verb.startswith("studies") else set()  # with the query of the list
    assert {*done.stdout.splitlines()[-1].split()} <= {"LOADED", *declares}


@pytest.mark.parametrize("folder", ["dicom_console", "ai_training", "ai_pipeline"])
def test_every_package_is_listed_in_its_pyproject(folder: str) -> None:
    """Of distributions whose folder is their package: setuptools finds those of the node by itself."""
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))
    found = {path.parent.relative_to(ROOT) for path in (ROOT / folder).rglob("__init__.py")}
    assert {".".join(path.parts) for path in found} == set(project["tool"]["setuptools"]["packages"])


def test_every_module_that_the_rules_name_is_there() -> None:
    """A rule of a module that has moved forbids and allows nothing."""
    named = {*MAY_IMPORT, *RULES["outside"], *RULES["open"]}
    named |= {name for names in [*MAY_IMPORT.values(), *RULES["only_in"].values()] for name in names}
    places = {name: ROOT / name.removesuffix(".*").replace(".", "/") for name in named}
    assert [
        name for name, place in places.items() if not place.with_suffix(".py").exists() and not place.is_dir()
    ] == []


def test_rooms_folders_and_files_form_no_circle() -> None:
    """At each level: rooms of the node, with the base below them; folders of a room; files of a folder."""
    assert {name: circle for name in OURS if (circle := GRAPH.nominate_cycle_breakers(name))} == {}
