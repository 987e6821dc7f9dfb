"""What tests cost: ``--costs FILE`` writes the seconds of each as CSV and prints the sums by folder.

``python -m tests.costs FILE`` puts the sums of such a file into ``tests/README.md``.

Processor seconds are those of pytest's own process and of its children that have ended. What outlives a test
is charged to the one in which it ends; what ends as nobody's child (workers of a killed node) to none.
"""

import csv
import re
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

DEAREST = 30
README = Path(__file__).with_name("README.md")
_TABLE = re.compile(r"(<!-- costs -->\n).*?(<!-- /costs -->)", re.DOTALL)
_BEFORE = "(starting and collecting)"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--costs FILE``."""
    parser.addoption("--costs", type=Path, help="a CSV file: what each test cost in seconds")


def pytest_configure(config: pytest.Config) -> None:
    """Measure where the tests run, and add up in the process that reports."""
    if config.getoption("--costs"):
        config.pluginmanager.register(_Costs(), "costs")


def processor_seconds() -> float:
    """Of this process and its ended children, since it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class _Costs:
    def __init__(self) -> None:
        self._last = (0.0, 0.0)
        self._seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        spent = processor_seconds()
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["before"] = spent
        else:
            self._seconds[_BEFORE][0] += spent

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A process of xdist ended."""
        self._seconds[_BEFORE][0] += getattr(node, "workeroutput", {}).get("before", 0.0)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        self._last = (processor_seconds(), time.monotonic())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """After each of setup, call and teardown; xdist carries what is added to the report."""
        report = yield
        now = (processor_seconds(), time.monotonic())
        report.costs = tuple(round(after - before, 4) for after, before in zip(now, self._last, strict=True))
        self._last = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for kind, seconds in enumerate(getattr(report, "costs", ())):
            self._seconds[report.nodeid][kind] += seconds

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        if hasattr(config, "workeroutput"):
            return
        dearest = sorted(self._seconds.items(), key=lambda item: item[1], reverse=True)
        file: Path = config.getoption("--costs")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="", encoding="utf-8") as out:
            rows = csv.writer(out)
            rows.writerow(("test", "processor_seconds", "wall_seconds"))
            rows.writerows((name, f"{cpu:.2f}", f"{wall:.2f}") for name, (cpu, wall) in dearest)
        terminalreporter.section("processor seconds")
        terminalreporter.write("\n".join(by_folder({name: cpu for name, (cpu, _) in dearest})) + "\n")
        terminalreporter.section(f"the {DEAREST} dearest: processor, wall seconds")
        for name, (cpu, wall) in dearest[:DEAREST]:
            terminalreporter.write_line(f"{cpu:7.1f} {wall:7.1f}  {name}")


def by_folder(seconds: dict[str, float]) -> list[str]:
    """Rows of a Markdown table: folder, tests, processor seconds; the dearest first, then the sum."""
    spent: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for name, cpu in seconds.items():
        folder = "/".join(name.partition("::")[0].split("/")[1:-1][:3]) if "::" in name else name
        spent[folder or "tests"] += cpu
        tests[folder or "tests"] += "::" in name
    rows = [*spent.most_common(), ("all", spent.total())]
    tests["all"] = tests.total()
    return [
        "| folder | tests | processor seconds |",
        "|---|---|---|",
        *(f"| {folder} | {tests[folder]} | {cpu:.0f} |" for folder, cpu in rows),
    ]


def main(file: Path) -> None:
    """Write the table of a measured run between its marks in ``README.md``."""
    with file.open(newline="", encoding="utf-8") as rows:
        seconds = {row["test"]: float(row["processor_seconds"]) for row in csv.DictReader(rows)}
    text, table = README.read_text("utf-8"), "\n".join(by_folder(seconds))
    README.write_text(_TABLE.sub(rf"\g<1>{table}\n\g<2>", text), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
