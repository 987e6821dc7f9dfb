"""Peers with transport = "hl7": what they may have, and fields that a site fills, found by ``check``."""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dicom_node import preflight
from dicom_node.config.hl7_fields import FIELDS, checked_hl7_fields
from dicom_node.config.sample import toml_value
from dicom_node.config.settings import PeerSettings
from dicom_node.model.kinds import ResultKind
from tests.unit.config.test_settings import SITE, write

KNOWN = {"name": "ris", "ae_title": "RIS", "host": "h", "port": 2575, "may": ["receive"], "transport": "hl7"}


def peer(**more: Any) -> PeerSettings:
    return PeerSettings.model_validate({**KNOWN, **more})


def test_an_hl7_peer_gets_reports_and_is_not_asked() -> None:
    assert peer().results == (ResultKind.SR,) and peer().confirm == "none" and not peer().may_be_asked


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"deidentify": True}, "names the patient"),
        ({"deidentify": True, "results": ["cleaned", "sr"]}, "names the patient"),
        ({"results": ["sr", "sc"]}, 'set results = \\["sr"\\]'),
        ({"confirm": "query"}, "leave out confirm"),
        ({"may": ["receive", "query"]}, 'may = \\["receive"\\] alone'),
        ({"may": ["send", "receive"]}, 'may = \\["receive"\\] alone'),
        ({"port": None}, "port is missing"),
        ({"charset": "source"}, "UTF-8 always"),
        ({"assessments": True}, "sent as SR only"),
        ({"withdraw": "delete"}, "nor HL7 v2 has a request to delete"),
        ({"transport": "dimse", "hl7_fields": {"MSH-6": "RIS"}}, 'for peers with transport = "hl7"'),
    ],
)
def test_what_an_hl7_peer_cannot_have(given: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy):
        peer(**given)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("OBR5", "R", 'write a field as "OBR-5"'),
        ("obr-5", "R", 'write a field as "OBR-5"'),
        ("OBR-0", "R", 'write a field as "OBR-5"'),
        ("ORB-5", "R", "did you mean OR"),
        ("OBX-5", "R", "no such segment here"),
        ("OBR-51", "R", "OBR has the fields 1 to 50"),
        ("MSH-10", "1", "the node fills this field itself"),
        ("OBR-25", "P", "the node fills this field itself"),
        ("OBR-3", "{accesion}", "{accesion} is unknown"),
        ("OBR-3", "a\rOBX|1", "one line"),
        ("OBR-3", "x" * 201, "at most 200 characters"),
    ],
)
def test_a_field_that_cannot_be_is_named(key: str, value: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        checked_hl7_fields({key: value})


def test_check_names_the_line_of_a_wrong_field(tmp_path: Path) -> None:
    site = SITE.replace("./var", str(tmp_path / "var"))
    text = '[[peers]]\nname = "ris"\nae_title = "RIS"\nhost = "h"\nport = 2575\nmay = ["receive"]\n'
    path = write(
        tmp_path / "node.toml", f'{site}\n{text}transport = "hl7"\nhl7_fields = {{ "OBR-77" = "R" }}\n'
    )
    [problem] = preflight.check([path]).problems
    assert "peers.ris.hl7_fields" in str(problem) and "OBR has the fields 1 to 50" in str(problem)
    assert "node.toml:" in str(problem)


def test_check_says_which_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"peers": [KNOWN], "node": {"data_dir": str(tmp_path)}}
    problems = [problem for problem in preflight.check_data(data).problems if "hl7" in str(problem)]
    assert bool(problems) is (find_spec("hl7apy") is None)
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    [missing] = [problem for problem in preflight.check_data(data).problems if "hl7" in str(problem)]
    assert "pip install 'dicom-ai-node[hl7]'" in str(missing)


def test_the_fields_are_those_of_2_5_1() -> None:
    hl7apy = pytest.importorskip("hl7apy", reason="needs the extra hl7")
    counted = {name: len(hl7apy.load_reference(name, "Segment", "2.5.1")[1]) for name in FIELDS}
    assert counted == dict(FIELDS)


def test_keys_with_a_dot_come_back_from_toml() -> None:
    fields = {"PID-3.5": "MR", "OBR-3": "{accession}"}
    assert tomllib.loads(f"hl7_fields = {toml_value(fields)}")["hl7_fields"] == fields
