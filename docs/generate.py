"""Writes what documentation can be written by the program itself.

``python docs/generate.py`` renews ``docs/reference/licences.md`` and the marked parts of the pages in
``MARKED`` and of ``docs/conformance.md``; ``--check`` only says what is out of date (``tests/test_docs.py``
runs it).
"""

import ast
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import grimp
from networkx import DiGraph, transitive_reduction
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from ai_pipeline import pipelines
from ai_pipeline.contract import PipelineCard
from ai_pipeline.pipelines import PIPELINES
from dicom_connectors.notifications.gather import EVENTS as OCCASIONS
from dicom_connectors.notifications.settings import NotificationSettings
from dicom_connectors.oidc.settings import OidcSettings
from dicom_console.app import FACES
from dicom_console.views.metrics import STATES, Durations
from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import Conditions, ResultSettings, RuleSettings
from dicom_node.base.config.sample import documented_fields, toml_value
from dicom_node.base.config.settings import Settings, TlsSettings
from dicom_node.base.errors import ExitCode, NodeError
from dicom_node.base.events import EventType
from dicom_node.base.lifecycle import LIFE_CYCLES, READ_FROM_WORK, STUDY
from dicom_node.serve.cli import INTERRUPTED, app

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PACKAGES = ("dicom_node", "dicom_connectors", "dicom_console", "ai_pipeline", "ai_training")
BASE = "base"
"""Folders of dicom_node that every room may use."""
_EXIT_MEANINGS: Mapping[int, str] = {
    ExitCode.OK: "done; for `serve`: stopped in order",
    ExitCode.FAILED: "done in part, or the state of the thing does not allow it",
    ExitCode.USAGE: "wrong use: unknown verb or option, missing argument",
    ExitCode.DATA: "a file is not what it should be (no DICOM, weights not of the card), or is there already",
    ExitCode.NOT_FOUND: "no such peer, study, job, delivery",
    ExitCode.UNAVAILABLE: "peer or database does not answer, port or data folder is in use, no node runs",
    ExitCode.SOFTWARE: "a defect of the node, a damaged database, or what it cannot cure by itself",
    ExitCode.CONFIG: "the configuration has mistakes, or the database is not of this version",
    INTERRUPTED: "Ctrl-C",
}


def main(arguments: Sequence[str]) -> int:
    """Renew the files, or with ``--check`` compare them."""
    stale = {path: text for path, text in documents().items() if _text(path) != text}
    for path, text in stale.items():
        if "--check" in arguments:
            print(f"{path.name} is out of date: python docs/generate.py")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


def documents() -> dict[Path, str]:
    """Each generated document as it should be."""
    from licences import licences  # beside this file
    from statement import PARTS

    marked = {**MARKED, "conformance.md": PARTS}
    return {
        **{DOCS / name: with_parts(_text(DOCS / name), parts) for name, parts in marked.items()},
        DOCS / "reference" / "licences.md": licences(),
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def with_parts(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """The text with what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` written anew."""
    for name, write in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the text has no part {name}")
        text = pattern.sub(rf"\1{write().replace(chr(92), chr(92) * 2)}\2", text)
    return text


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def settings_part() -> str:
    """Every key with type, default and sentence, section by section."""
    parts = []
    sections: list[tuple[str, type[BaseModel]]] = []
    below = {"listener": ("[listener.tls]", TlsSettings), "console": ("[console.oidc]", OidcSettings)}
    for name, field in Settings.model_fields.items():
        if name not in ("peers", "rules", "notifications") and isinstance(field.annotation, type):
            sections += [(f"[{name}]", field.annotation), *([below[name]] if name in below else [])]
    sections += [
        ("[[peers]]", PeerSettings),
        ("[[rules]]", RuleSettings),
        ("when of a rule", Conditions),
        ("then of a rule", ResultSettings),
        ("[[notifications]]", NotificationSettings),
    ]
    for title, model in sections:
        rows = [setting_row(name, field) for name, field in documented_fields(model).items()]
        parts.append(f"## `{title}`\n\n{table(('key', 'default', 'what it does'), rows)}")
    return "\n".join(parts)


def setting_row(name: str, field: FieldInfo) -> tuple[str, str, str]:
    """Key, default and sentence of a setting."""
    default = field.get_default(call_default_factory=True, validated_data={})
    text = " ".join((field.description or "").split())
    if default is PydanticUndefined:
        return f"`{name}`", "required", text
    unset = default is None or isinstance(default, BaseModel)
    return f"`{name}`", "not set" if unset else f"`{toml_value(default)}`", text


def events_part() -> str:
    """Every event, and the words of ``on`` in a notification that mean it."""
    words = {event: f"`{word}`" for word, kinds in OCCASIONS.items() for event in kinds}
    rows = [
        (event.number, logging.getLevelName(event.level).lower(), words.get(event, ""), event.text)
        for event in events.all_types()
    ]
    return table(("number", "level", "notified by", "what happened"), rows)


def packages_part() -> str:
    """Who imports whom (Mermaid), without what every room may use or what follows from other arrows.

    Raises NetworkXError where the arrows do not go one way.
    """
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    inside = graph.find_children("dicom_node")
    rooms = {package: package for package in PACKAGES[1:]}
    rooms |= {module: name for module in inside if (name := module.partition(".")[2]) != BASE}
    for module in (*inside, *rooms):
        graph.squash_module(module)
    rooms["dicom_node.__main__"] = "serve"
    arrows = DiGraph(
        (room, rooms[to])
        for module, room in rooms.items()
        for to in graph.find_modules_directly_imported_by(module) & rooms.keys()
        if rooms[to] != room
    )
    lines = ["flowchart LR", "    subgraph dicom_node"]
    lines += [f"        {room}" for room in sorted({*arrows} - {*PACKAGES})] + ["    end"]
    lines += [f"    {room} --> {to}" for room, to in sorted(transitive_reduction(arrows).edges)]
    return "```mermaid\n" + "\n".join(lines) + "\n```\n"


def rest_part() -> str:
    """Every address for programs, in the order of the console's own routes."""
    rows = [
        (
            f"`{method} {route.path}`",
            f"`{route.endpoint.needs}`",
            (route.endpoint.__doc__ or "").strip().partition("\n\n")[0].replace("``", "`"),
        )
        for faces in FACES
        for route in faces.programs.routes
        for method in sorted(route.methods)
    ]
    return table(("request", "role", "what it does"), rows)


def metrics_part() -> str:
    """Every number of ``/metrics``: gauges from the calls that make them, histograms from their registry."""
    views = [ROOT / "dicom_console" / "views" / "metrics.py", *ROOT.glob("dicom_connectors/*/connector.py")]
    gauges = [(f"`dicom_node_{name}`", "state", about) for name, (about, *_) in STATES.items()]
    for node in chain.from_iterable(ast.walk(ast.parse(_text(path))) for path in views):
        match node:
            case ast.Call(ast.Name("Gauge"), [ast.Constant(name), ast.Constant(about), _, *labels]):
                gauges.append((f"`dicom_node_{name}`", ", ".join(_label_names(labels)), about))
    histograms = [
        (
            f"`{family.name}`",
            "peer, rule, modality" if "turnaround" in family.name else "rule, modality",
            f"{family.documentation} (histogram)",
        )
        for family in Durations().registry.collect()
    ]
    return table(("metric", "labels", "what it is"), sorted(gauges) + histograms)


def _label_names(labels: Sequence[ast.expr]) -> Iterator[str]:
    """Yield the names in the expression of a gauge's labels: pairs ("name", value), or ("a", "b", ...), of
    whose words the pairs are made.
    """
    for node in chain.from_iterable(map(ast.walk, labels)):
        match node:
            case ast.Tuple([ast.Constant(first), *others]):
                yield first
                yield from (one.value for one in others if isinstance(one, ast.Constant))


def exit_codes_part() -> str:
    """Every exit status, with the errors that end with it."""
    names = [(kind.exit_code, f"`{kind.__name__}`") for kind in _kinds(NodeError)]
    rows = [
        (int(code), meaning, ", ".join(sorted(name for of, name in names if of == code)))
        for code, meaning in _EXIT_MEANINGS.items()
    ]
    return table(("status", "meaning", "errors of the program"), rows)


def _kinds(kind: type[NodeError]) -> Iterator[type[NodeError]]:
    for child in kind.__subclasses__():
        if child.__module__ == "dicom_node.base.errors":
            yield child
            yield from _kinds(child)


def verbs_part() -> str:
    """Every verb with its options and an example, as ``--help`` tells them."""
    return "\n".join(_verb(path, command) for path, command in _walk("dicom-node", get_command(app)))


def _walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every verb below ``path``, as it is typed, with its command."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from _walk(f"{path} {name}", command.get_command(None, name))


def _verb(path: str, command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.name in ("help", "config"):
            continue
        name = parameter.metavar if parameter.param_type_name == "argument" else ", ".join(parameter.opts)
        rows.append((f"`{name}`", (parameter.help or "").strip()))
    text = " ".join((command.help or "").split())
    options = table(("", ""), rows) + "\n" if rows else ""
    return f"## `{path}`\n\n{text}\n\n{options}{(command.epilog or '').strip()}\n"


def states_part() -> str:
    """The life cycles, each as a picture and as a table."""
    parts = []
    for title, cycle in LIFE_CYCLES.items():
        states: dict[tuple[EventType, str], list[str]] = {}
        for (state, event), to in cycle.items():
            states.setdefault((event, to), []).append(f"`{state}`")
        rows = [
            (", ".join(sorted(before)), f"{event.number} {event.text}", f"`{to}`")
            for (event, to), before in states.items()
        ]
        moves = table(("state", "event", "becomes"), rows)
        parts.append(f"## {title[0].upper()}{title[1:]}\n\n{_life_cycle(cycle)}\n{moves}")
    return "\n".join(parts)


def _life_cycle(cycle: Mapping[tuple[Any, EventType], Any]) -> str:
    """A table of ``base/lifecycle.py`` as a picture (Mermaid); an arrow bears the number of its event."""
    arrows: dict[tuple[str, str], dict[str, None]] = {}
    for (state, event), to in cycle.items():
        before = "at_work" if cycle is STUDY and state in READ_FROM_WORK else str(state)
        arrows.setdefault((before, str(to)), {})[str(event.number)] = None
    lines = [f"    {before} --> {to} : {', '.join(numbers)}" for (before, to), numbers in arrows.items()]
    if cycle is STUDY:
        lines += [f"    {state} --> at_work : 2015" for state in ("complete", "at_work")]
        lines.append(f"    at_work : {', '.join(sorted(READ_FROM_WORK))}")
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n"


def pipelines_part() -> str:
    """What the cards of our pipelines say, with a table of the options of each."""
    packages = ("ai_pipeline.", "dicom_connectors.")
    ours = [card for card in pipelines.cards() if PIPELINES[card.name].value.startswith(packages)]
    return "\n".join(_pipeline(card) for card in ours)


def _pipeline(card: PipelineCard) -> str:
    rows = [
        (f"`{one.key}`", "required" if one.required else f"{one.default} {one.unit}".strip(), one.manual)
        for one in card.options.listed()
    ]
    options = table(("option", "default", "what it does"), rows) if rows else "It has no options.\n"
    options = options.replace("](models.md)", "](../models.md)")
    return f"## Options of `{card.name}`\n\n{card.about} {card.intended_use}\n\n{options}"


def example_part(name: str, language: str) -> str:
    """A file of ``examples/pipeline`` as a block of code."""
    return f"```{language}\n{_text(ROOT / 'examples' / 'pipeline' / name)}```\n"


MARKED: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "pipelines.md": {
        "pyproject.toml": partial(example_part, "pyproject.toml", "toml"),
        "our_pipeline.py": partial(example_part, "our_pipeline.py", "python"),
    },
    "reference/code.md": {"packages": packages_part},
    "reference/commands.md": {"verbs": verbs_part},
    "reference/events.md": {"events": events_part},
    "reference/exit-statuses.md": {"exit codes": exit_codes_part},
    "reference/metrics.md": {"metrics": metrics_part},
    "reference/pipelines.md": {"pipelines": pipelines_part},
    "reference/rest.md": {"rest": rest_part},
    "reference/settings.md": {"settings": settings_part},
    "reference/states.md": {"states": states_part},
}
"""Pages with parts between marks, and what writes each part."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
