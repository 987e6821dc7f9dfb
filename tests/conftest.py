"""Fixtures and options that every room's tests share; what skips without Debian's programs."""

import contextlib
import ctypes
import gc
import logging
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests import network_answers, schema_once

if TYPE_CHECKING:
    from tests.postgres_lab import Postgres

# The same examples in every run: what a change breaks is found by its tests, not by the next one's.
# Without limits of time: a slow machine is no fault.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")

# Debian package -> a program or file by which it is recognised.
PACKAGES = {
    "orthanc": "Orthanc",
    "bubblewrap": "bwrap",
    "chromium-headless-shell": "chromium-headless-shell",
    "dcmtk": "storescu",
    "systemd": "systemd-analyze",
    "dicom3tools": "dciodvfy",
    "default-jre-headless": "java",
    "postgresql": "pg_ctlcluster",
    "tesseract-ocr": "tesseract",
    "orthanc-dicomweb": "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
    "orthanc-python": "/usr/share/orthanc/plugins/libOrthancPython.so",
    "poppler-utils": "pdftotext",
    "qpdf": "qpdf",
    "pixelmed-apps": "/usr/share/java/pixelmed.jar",
}
# Each takes half a minute and more (`--durations=30` in .ci/run).
LONGEST = frozenset(
    (
        "test_associations",
        "test_floods",
        "test_names",
        "test_pixels",
        "test_cleaning",
        "test_cleaning_hard",
        "test_delivery",
        "test_failover",
        "test_formats",
        "test_kill",
        "test_listener",
        "test_lost_decisions",
        "test_node",
        "test_ovarian_training",
        "test_viewer",
        "test_walk",
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--data DIR``: the fetched image sets, ../shared/data beside the checkout by default."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.addoption("--data", type=Path, default=default, help="folder with the public image sets")
    parser.addoption(
        "--hostile-rounds",
        type=int,
        default=20,
        help="mutated messages or objects of each test in tests/hostile",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports and collected tests stay: looking for garbage among them took a fifth of the time."""
    gc.disable()
    outcome = yield
    gc.freeze()
    gc.enable()
    return outcome


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, then tests that wait for processes: no worker ends alone on one of them."""
    items.sort(key=lambda item: (item.path.stem not in LONGEST, "unit" in item.path.parts))


@pytest.fixture(scope="module", autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """Drop what a file of tests loaded: networks with their arenas, pictures. In all that were some 3 GB."""
    yield
    for module, name in (
        ("ai_pipeline.models.engine", "_loaded"),
        ("ai_pipeline.burnin.find.text", "shared_reader"),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], name).cache_clear()
    if (tools := sys.modules.get("ai_pipeline.burnin.tools")) is not None:
        tools._LOADED.clear()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="module", autouse=True)
def _the_log_keeps_its_level() -> Iterator[None]:
    """A listener in the process of its tests sets the level that its policy names, for the next ones too."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def _networks_answer_once() -> Iterator[None]:
    """Only where tests of this process ask networks: their libraries take a second to load."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.modules.keys() & {"ai_pipeline.models.engine", "ai_pipeline.burnin.find.text"}:
            network_answers.remember(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def _tables_are_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of the first database that the migrations filled: most of the time of tests of the store."""
    with pytest.MonkeyPatch.context() as patch:
        schema_once.remember(patch, tmp_path_factory.mktemp("schema"))
        yield


def pytest_sessionstart() -> None:
    """Load a first network without the option that makes numbers below 1e-38 zero: the first network of a
    process decides this for its thread (``ai_pipeline/models/engine.py``), and hypothesis needs the numbers.
    """
    with contextlib.suppress(ImportError):
        import onnxruntime

        weights = Path(__file__).parents[1] / "ai_pipeline" / "weights" / "ultrasound-line-reader.onnx"
        onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what this machine cannot run."""
    for mark in item.iter_markers("debian"):
        for package in mark.args:
            if not _is_installed(package):
                # CI installs them all: there a missing one is a failure, not a skip.
                (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs the Debian package {package}")
    if item.get_closest_marker("data") and not item.config.getoption("--data").is_dir():
        pytest.skip("needs the public image sets: --data DIR")


def _is_installed(package: str) -> bool:
    sign = PACKAGES[package]
    if sign.startswith("/"):
        return Path(sign).exists()
    return shutil.which(sign, path="/usr/sbin:/usr/bin:/bin:/usr/local/bin") is not None


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest) -> Path:
    """The folder with the public image sets; the test is marked ``data``."""
    folder: Path = request.config.getoption("--data")
    return folder


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How many mutations a hostile test tries: few here, many by ``make hostile``."""
    number: int = request.config.getoption("--hostile-rounds")
    return number


@pytest.fixture(scope="session")
def postgres() -> Iterator["Postgres"]:
    """A PostgreSQL server; the test is marked ``debian("postgresql")``."""
    from tests.postgres_lab import start_postgres

    with start_postgres() as server:
        yield server


@pytest.fixture
def pacs() -> Iterator[object]:
    """A PACS on a real socket that takes everything."""
    from tests.pacs_lab import Pacs, run_pacs

    with run_pacs(Pacs()) as running:
        yield running


@pytest.fixture
def postgres_url(postgres: "Postgres") -> str:
    """SQLAlchemy URL of an empty database; the test is marked ``debian("postgresql")``."""
    return postgres.new_database()
