"""Sample configuration files: one with the keys needed to start, and files with all keys.

``config/*.toml`` are the files with all keys, written from the settings (tested). Every key has its
default and its sentence; a key without a default, or with the default "not set", is in a comment.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path

from pydantic import BaseModel
from pydantic._internal._docs_extraction import extract_docstrings_from_cls
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dicom_node.base.config.loading import sections
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.rule import Conditions, RuleSettings
from dicom_node.base.config.settings import Settings

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # TOML 1.0, keys without quotation marks

# What stands in the sample where there is no default.
_EXAMPLES: Mapping[str, Mapping[str, object]] = {
    "LogSettings": {
        "file": "log/node.log",
    },
    "TlsSettings": {
        "certificate": "tls/node.pem",
        "private_key": "tls/node.key",
        "trusted": "tls/modalities-ca.pem",
    },
    "WorkerSettings": {
        "models_dir": "models",
        "device_rules_dir": "device-rules",
        "pipelines": ["ultrasound"],
    },
    "ConsoleSettings": {
        "url": "https://ai-node.example.org",
        "metrics_token": "${METRICS_TOKEN}",
        "metrics_port": 9112,
    },
    "PeerSettings": {
        "quiet_seconds": 30,
        "query_ae_title": "PACS_QR",
        "query_host": "pacs-qr.example.org",
        "query_port": 104,
        "commitment_ae_title": "PACS_SC",
        "commitment_host": "pacs-sc.example.org",
        "commitment_port": 104,
        "port": 104,
        "host": "pacs.example.org",
        "name": "pacs",
        "ae_title": "PACS",
        "may": ["send", "receive"],
        "results": ["sr", "gsps", "sc", "summary", "cleaned"],
        "url": "http://pacs.example.org:8042",
        "username": "${PACS_USER}",
        "password": "${file:/run/secrets/pacs}",
        "assume_charset": "ISO_IR 100",
        "pseudonym_domain": "registry",
        "retain": ["modified_dates", "patient_characteristics"],
    },
    "RuleSettings": {
        "no_call": ["sr"],
        "name": "ultrasound",
        "pipeline": "ultrasound",
        "send_to": ["pacs"],
        "secondary_captures_from": ["console"],
        "forward": ["pacs"],
        "priors": "pacs",
        "options": {"policy": "research"},
    },
    "Conditions": {
        "modality": ["CR", "DX"],
        "body_part": ["CHEST", "THORAX*"],
        "view": ["PA", "AP"],
        "calling_ae": "XRAY*",
        "called_ae": "AINODE",
        "station": "ROOM1",
        "study_description": "*chest*",
        "series_description": "*ap*",
    },
}

FIRST_RULES: Mapping[str, tuple[object, str]] = {
    "ultrasound": ("US", "ultrasound"),
    "chest": (["CR", "DX"], "chest_xray"),
}
"""Rules of a new node, by name: modality and pipeline."""
_MODALITY = """\
[[peers]]
name = "us1"
ae_title = "US1"
host = "us1.example.org"
may = ["send"]
"""
_CHEST_RULE = """\
[[rules]]
name = "chest"
when = { modality = ["CR", "DX"] }
pipeline = "chest_xray"
send_to = ["pacs"]
secondary_captures_from = ["console"]
"""
_OVARIAN_RULE = """\
# [[rules]]
# name = "ovary"
# when = { modality = "US", body_part = ["PELVIS", "OVARY"] }
# pipeline = "ovarian"
# send_to = ["pacs"]
"""
# Keys that these set in the samples though they have a default; a peer's url is not of dimse.
_SET = {
    "PeerSettings": {"host", "port", "may", "results"},
    "RuleSettings": {"secondary_captures_from"},
    "NotificationSettings": {"on", "url"},
}


START = f"""\
# What a node needs; every other key has a default: dicom-node config sample node (peers, rules)

[node]
ae_title = "AINODE"           # enter it at the modality and at the PACS
data_dir = "./var"            # received images, database, results; for a service the whole path

[listener]
host = "0.0.0.0"              # 127.0.0.1: this machine only
port = 11112

[[peers]]                     # where results go
name = "pacs"
ae_title = "PACS"
host = "192.0.2.10"
port = 104
may = ["send", "receive"]     # and "query": `fetches missing pacs` says which studies never came
results = ["sr", "gsps", "sc", "summary", "cleaned"]

[[peers]]                     # an ultrasound machine
name = "us1"
ae_title = "US1"
host = "192.0.2.21"
may = ["send"]

[[rules]]
name = "ultrasound"
when = {{ modality = "US" }}
pipeline = "ultrasound"
send_to = ["pacs"]
secondary_captures_from = ["console"]  # pictures that a person uploads at the console

{_CHEST_RULE}"""
"""The lines that are needed."""


def node_toml() -> str:
    """Return the sample configuration file of the node: all sections except peers, rules and notifications,
    as TOML.
    """
    lines = [
        *_comment(
            "The node itself: every key with its default. A key that you leave out has its default. "
            'In texts "${NAME}" and "${NAME:-default}" are taken from the environment, "${file:PATH}" from a '
            "file. Relative paths count from the folder in which the node is started."
        ),
        *_comment("Peers and rules: peers.toml and rules.toml, or further down in this file."),
        "",
    ]
    for name, section in sections(Settings).items():
        if name not in ("peers", "rules", "notifications"):
            lines += [*_section(name, section), ""]
    return _lines(*lines)


def peers_toml() -> str:
    """Return the sample configuration file of peers as TOML: a PACS with every key, and a modality with only
    the keys it needs.
    """
    return _lines(
        *_comment("Modalities that send, a PACS that receives; one [[peers]] for each."),
        "",
        "[[peers]]",
        *_keys(PeerSettings),
        "",
        *_comment("A modality that only sends needs no more than this."),
        _MODALITY,
    )


def rules_toml() -> str:
    """Return the sample configuration file of rules as TOML: ultrasound with every key, chest X-ray with only
    the keys it needs, and a third rule as a comment.
    """
    when = [
        f"#   {name} = {toml_value(_EXAMPLES['Conditions'][name])}".ljust(44) + f"  {_described(field)}"
        for name, field in documented_fields(Conditions).items()
    ]
    return _lines(
        *_comment(
            "Which pipeline for which study, and where the results go. Every rule that matches an image "
            "of a study makes one job."
        ),
        "",
        "[[rules]]",
        *_keys(RuleSettings),
        *_comment("Conditions that `when` knows; all that are given must hold for one image:"),
        *when,
        "",
        *_comment("A rule needs no more than this."),
        _CHEST_RULE,
        *_comment("For research: classes and outlines of ovarian cysts (docs/operate/rules.md)."),
        _OVARIAN_RULE,
    )


def notifications_toml() -> str:
    """Return the sample configuration file of notifications as TOML: one notification with every key."""
    return _lines(
        *_comment(
            "Who gets which notification: one [[notifications]] for each. E-mail needs [mail] in the "
            "configuration of the node. Try one: dicom-node notifications test NAME."
        ),
        "",
        "[[notifications]]",
        *_keys(sections(Settings)["notifications"]),
    )


def _lines(*lines: str) -> str:
    """Join lines to the text of a file, without blank lines at its end."""
    return "\n".join(lines).rstrip() + "\n"


FILES = {
    "node": node_toml,
    "peers": peers_toml,
    "rules": rules_toml,
    "notifications": notifications_toml,
}


def toml_value(value: object) -> str:
    """Write a value in TOML syntax."""
    if isinstance(value, Mapping):
        items = {k if _BARE_KEY.fullmatch(k) else toml_value(k): toml_value(v) for k, v in value.items()}
        return f"{{ {', '.join(f'{key} = {item}' for key, item in items.items())} }}" if items else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Path):
        value = str(value) if value.is_absolute() else f"./{value}"
    elif isinstance(value, Enum):
        value = value.value
    return json.dumps(value, ensure_ascii=False)  # texts, numbers and truth values as JSON has them


def _section(path: str, model: type[BaseModel], *, commented: bool = False) -> Iterator[str]:
    """Yield the TOML lines of the section that the settings class ``model`` describes, and of its
    sub-sections, with all their keys.

    ``path``: the section's dotted name. ``commented``: write every key as a comment.
    """
    # "``[node]``: who we are." without the name, which stands below it.
    sentence = (model.__doc__ or "").strip().splitlines()[0].split(": ", 1)[-1]
    yield from _comment(sentence[0].upper() + sentence[1:])
    yield f"# [{path}]" if commented else f"[{path}]"
    inner: list[str] = []
    for name, field in documented_fields(model).items():
        if sub := sections(model).get(name):
            inner += ["", *_section(f"{path}.{name}", sub, commented=field.default is None)]
            continue
        yield from _key(model, name, field, commented=commented)
    yield from inner


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """Yield the TOML lines of all keys of one peer, rule or notification."""
    for name, field in documented_fields(model).items():
        if name == "when":
            yield from _comment(_described(field, "Which images: a table of conditions, see below."))
            yield 'when = { modality = "US" }'
        else:
            yield from _key(model, name, field)


def _key(model: type[BaseModel], name: str, field: FieldInfo, *, commented: bool = False) -> Iterator[str]:
    """Yield the TOML lines of one key: its description as a comment, then its default or an example.

    ``commented``: write the key itself as a comment too.
    """
    yield from _comment(_described(field))
    example = _EXAMPLES.get(model.__name__, {}).get(name) or next(iter(field.examples or ()), None)
    default = field.get_default(call_default_factory=True, validated_data={})
    unset = default is None or default is PydanticUndefined
    if default is PydanticUndefined or name in _SET.get(model.__name__, ()):
        yield f"{'# ' if commented else ''}{name} = {toml_value(example)}"
    elif unset or commented or (example is not None and default in ("", (), {})):
        yield f"# {name} = {toml_value(example if example is not None else default)}"
    else:
        yield f"{name} = {toml_value(default)}"


def _described(field: FieldInfo, otherwise: str = "") -> str:
    """Return the description of a field on one line; ``otherwise`` if it has none."""
    return " ".join((field.description or otherwise).split())


def _comment(text: str) -> list[str]:
    """Wrap a text into lines of a TOML comment."""
    return [f"# {line}" for line in textwrap.wrap(text, 100, break_long_words=False)]


@cache
def documented_fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return the fields of a settings section by name, with each field's docstring as its description.

    The docstrings are parsed only when this function is called. Parsing at import, as pydantic would, took
    .12 of the .43 s of processor time that the import needed.
    """
    texts: dict[str, str] = {}
    for one in reversed(model.__mro__):
        texts |= extract_docstrings_from_cls(one, use_inspect=True)
    for name, field in model.model_fields.items():
        field.description = field.description or texts.get(name)
    return model.model_fields
