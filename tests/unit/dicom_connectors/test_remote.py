"""Which peers and rules may have to do with a vendor's AI server."""

from pathlib import Path

import pytest

from dicom_node.people import preflight
from tests.pacs_lab import Pacs
from tests.service_lab import service_site
from tests.vendor_lab import Vendor, remote_rule, vendor_peer, vendor_site


def problems(folder: Path, config: str) -> str:
    """What ``check`` says of this configuration; "" for nothing."""
    file = folder / "node.toml"
    file.write_text(f'[node]\ndata_dir = "{folder}"\n{config}', encoding="utf-8")
    found = preflight.check([file]).problems
    return "\n".join(str(one) for one in found if one.key.startswith(("rules", "peers")))


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (("", ""), ""),
        (('may = ["send", "receive"]\n\n', 'may = ["send"]\n'), 'give it may = ["send", "receive"]'),
        (('may = ["send", "receive"]\n\n', 'may = ["send", "receive", "query"]\n'), 'take "query" out'),
        (('peer = "vendor"', 'peer = "vendro"'), "no such peer"),
        (('peer = "vendor", model', "model"), "must be given"),
        (("deadline = 0.5", "deadline = 0"), "deadline"),
        (("deadline = 0.5", 'second = "nobody"'), "no such peer"),
        (("deadline = 0.5", 'second = "vendor"'), "an answer could belong to either"),
        (("deadline = 0.5", 'second = "pacs"'), "it gets studies from that rule alone"),
        (("deadline = 0.5", 'answers = "fetch"'), "answers"),
        (('send_to = ["pacs"]', 'send_to = ["pacs", "vendor"]'), "is the AI server of rule ai-vendor"),
        (
            ('send_to = ["pacs"]', 'send_to = ["pacs"]\nforward = ["vendor"]'),
            "is the AI server of rule ai-vendor",
        ),
    ],
)
def test_what_would_send_to_the_wrong_one_is_refused(
    tmp_path: Path, change: tuple[str, str], remedy: str
) -> None:
    config = vendor_site(Pacs(), Vendor())
    assert change[0] in config
    found = problems(tmp_path, config.replace(*change))
    assert remedy in found
    assert bool(found) is bool(remedy)


def test_a_second_server_gets_studies_from_its_rule_alone(tmp_path: Path) -> None:
    rival = Vendor(ae_title="RIVAL")
    rules = remote_rule(options='second = "rival"')
    config = vendor_site(Pacs(), Vendor(), rival, rules=rules)
    assert problems(tmp_path, config) == ""
    found = problems(tmp_path, config.replace('send_to = ["pacs"]', 'send_to = ["pacs", "rival"]'))
    assert "is the AI server of rule ai-vendor" in found


def test_two_rules_for_one_server_are_refused(tmp_path: Path) -> None:
    second = remote_rule(modality="MR").replace('"ai-vendor"', '"other"')
    found = problems(tmp_path, vendor_site(Pacs(), Vendor(), rules=remote_rule() + second))
    assert "an answer could belong to either" in found


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (("", ""), ""),
        (('"returned"', '"sent"'), "set console.enabled"),
        (('may = ["receive"]', 'may = ["send", "receive"]'), 'give it may = ["receive"]'),
        (('transport = "dicomweb"', 'transport = "orthanc"'), 'transport = "dimse" or "dicomweb"'),
        (('may = ["receive"]', 'may = ["receive"]\nauthorities = "none.pem"'), "is no file"),
    ],
)
def test_a_service_by_http_gets_studies_and_sends_nothing_by_dicom(
    tmp_path: Path, change: tuple[str, str], remedy: str
) -> None:
    config = service_site(Pacs(), "http://127.0.0.1:1/dicom-web")
    assert change[0] in config
    found = problems(tmp_path, config.replace(*change))
    assert remedy in found
    assert bool(found) is bool(remedy)


def test_a_server_without_identity_or_that_returns_by_dicom_is_refused(tmp_path: Path) -> None:
    pacs, vendor = Pacs(), Vendor()
    returned = vendor_site(pacs, vendor, rules=remote_rule(options='answers = "returned"'))
    assert "returned by HTTP only" in problems(tmp_path, returned)
    base = vendor_site(pacs, vendor).replace(vendor_peer(vendor), "")
    nameless = vendor_peer(vendor, more='results = ["cleaned"]\ndeidentify = true')
    assert "leave out deidentify" in problems(tmp_path, base + nameless)
