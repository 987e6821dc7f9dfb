"""What ``${NAME}`` and ``${file:…}`` stand for is in no message, whichever key it was written under."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from dicom_node import preflight
from dicom_node.config.settings import Settings

SECRET = "hunter two: 'x'\nroot"
PEER = {"name": '"pacs"', "ae_title": '"PACS"', "may": '["receive"]', "host": '"127.0.0.1"', "port": "104"}
RULE = {"name": '"us"', "when": '{ modality = "US" }', "pipeline": '"ultrasound"', "send_to": '["pacs"]'}


def keys() -> typing.Iterator[tuple[str, str]]:
    """Every table and key of the configuration."""
    for table, field in Settings.model_fields.items():
        types = [*typing.get_args(field.annotation), field.annotation]
        (model,) = [one for one in types if isinstance(one, type) and issubclass(one, BaseModel)]
        for key in model.model_fields:
            yield table, key


def written(table: str, key: str) -> str:
    text = ""
    for name, given in (("peers", PEER), ("rules", RULE)):
        lines = {**given, key: '"${SECRET}"'} if name == table else given
        text += f"[[{name}]]\n" + "".join(f"{word} = {value}\n" for word, value in lines.items())
    return text if table in ("peers", "rules") else f'[{table}]\n{key} = "${{SECRET}}"\n{text}'


def test_no_message_shows_what_a_variable_stands_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "node.toml"
    shown = []
    for table, key in keys():
        file.write_text(written(table, key), encoding="utf-8")
        found = preflight.check([file])
        words = [*map(str, found.problems), repr(found.files.problems), *map(str, found.tried)]
        if "hunter" in "\n".join(words):
            shown.append(f"{table}.{key}")
    assert shown == []
