"""Peers, rules and models: what is configured, what became of it, and what a person may try."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from ai_pipeline.chest import trial
from ai_pipeline.models.registry import SHIPPED
from dicom_console.views.metrics import gauges
from dicom_node.events import ASSOCIATION_REJECTED
from dicom_node.model.lifecycle import RequestedState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered, models, rules
from dicom_node.store import requested
from dicom_node.store.tables import RequestedCommitment
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import small_xray

GOOD = """
[[rules]]
name = "all"
when = { modality = "*" }
pipeline = "ultrasound"
send_to = ["pacs"]
max_study_age_days = 0
"""


def test_peers_are_listed_with_what_they_did_last_and_no_secret(console: ConsoleLab, inbox: Inbox) -> None:
    secret = {"username": "someone", "password": "hidden-word", "url": "https://pacs.example/orthanc"}
    peers = [one.model_copy(update=secret if one.name == "pacs" else {}) for one in console.settings.peers]
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    inbox.opened("one")
    inbox.receive(ultrasound("one"), association="one")
    inbox.released("one")
    inbox.tell(ASSOCIATION_REJECTED, "two", calling="STRANGER", meaning="calling AE title not recognized")
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    browser.get("/peers")
    assert re.search(r"modality</a>.*?released", browser.text, re.DOTALL)
    assert "pacs.example" not in browser.text, "results go by DIMSE: its host and port are the address"
    assert "/peers/why?caller=STRANGER" in browser.text
    pages = [browser.text]
    for page in ("/peers/modality", "/peers/pacs", "/peers/why?caller=STRANGER"):
        assert browser.get(page) == 200, page
        pages.append(browser.text)
    assert "ae_title = &#34;STRANGER&#34;" in pages[-1]
    assert "Test the connection" not in pages[1]
    assert "hidden-word" not in "".join(pages)
    assert "someone" not in "".join(pages)
    assert browser.get("/peers/nobody") == 404
    assert browser.get("/peers/why?caller=NEVER") == 200
    assert "did not call in this time" in browser.text


def test_the_page_of_a_peer_lists_the_commitments_that_wait_for_a_report(
    console: ConsoleLab, inbox: Inbox
) -> None:
    asking = {"host": "127.0.0.1", "port": 104, "commit_after": "delivered"}
    known = console.settings.peers
    peers = [one.model_copy(update=asking if one.name == "modality" else {}) for one in known]
    browser = console.browser(UserRole.VIEWER)
    browser.get("/peers/modality")
    assert "Storage commitment" not in browser.text
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    browser.get("/peers/modality")
    assert "It has a report on all that it asked for." in browser.text
    with inbox.database.write() as session:
        for uid in ("2.25.1", "2.25.2"):
            requested.keep(session, "modality", "MODALITY", uid, ["1.2 1.3", "1.4 1.3"], utc_now())
        done, waits = session.scalars(select(RequestedCommitment).order_by(RequestedCommitment.id))
        done.state, waits.reason = RequestedState.REPORTED, "cannot connect"
    browser.get("/peers/modality")
    assert "…2.25.2" in browser.text and "2.25.1" not in browser.text
    assert '<td data-label="objects">2</td>' in browser.text and "cannot connect" in browser.text
    with inbox.database.read() as session:
        counted = {one.labels: one.value for one in gauges(session, console.settings) if "commit" in one.name}
    assert counted == {(("state", "waiting"),): 1, (("state", "decided"),): 0}


def test_a_peer_is_tested_and_the_audit_says_so(console: ConsoleLab) -> None:
    dead = console.settings.peers[-1].model_copy(update={"port": 9})
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers[:-1], dead)}))
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/peers/pacs/test") == 200
    assert 'class="state failed"' in browser.text
    [fields] = console.audited("peer_tested")
    assert fields["peers"] == ["pacs"]
    assert fields["failed"]


def test_rules_say_what_they_make_of_recent_studies(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"), small_xray("two"))
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    assert browser.get("/rules") == 200
    assert "no rule applies; closest is ultrasound" in browser.text
    assert "Try changed rules" not in browser.text
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/rules/try", rules=GOOD) == 200
    assert "2 of 2 studies would be taken by other rules" in browser.text
    assert browser.post("/rules/try", rules=rules.as_toml(console.settings)) == 200
    assert "0 of 2 studies" in browser.text
    assert [job.rule for job in inbox.jobs()] == ["ultrasound"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[rules]\n", "this is no TOML"),
        ("[node]\nae_title = 'X'\n", "write only rules"),
        (GOOD.replace("send_to", "sent_to"), "rule 1, sent_to"),
        (GOOD.replace('"pacs"', '"modality"'), "rule 1, send_to: peers that may receive: pacs"),
        (GOOD.replace('"ultrasound"', '"ultrasund"'), "did you mean ultrasound?"),
        (GOOD.replace('"*"', "3"), "rule 1, when, modality"),
        ("#" * (entered.LONGEST + 1), "too long"),
        ("rules = 7", "rules"),
        ("rules = " + "[" * 5000, "no TOML"),
    ],
)
def test_a_mistake_in_tried_rules_is_told_and_the_text_kept(console: ConsoleLab, text: str, why: str) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/rules/try", rules=text) == 400
    assert why.replace('"', "&#34;") in browser.text or why in browser.text
    assert text.strip()[:8].replace("'", "&#39;") in browser.text


def test_models_say_what_they_are(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    assert browser.get("/models") == 200
    pages = re.findall(r'href="(/models/[^"]+)"', browser.text)
    assert len(pages) >= 5
    for page in pages:
        assert browser.get(page) == 200, page
        assert "SHA-256" in browser.text
    browser.get("/models/chest-efficientnet-lite0/2.4")
    assert "0.883 [0.8, 0.955]" in browser.text
    assert browser.get("/models/chest-efficientnet-lite0/0") == 404


def _refuse(*_of: object, **_fields: object) -> None:
    raise RuntimeError("the audit takes nothing")


def model_in(console: ConsoleLab, slot: str) -> str:
    """The model that runs in a slot, "" for none."""
    return {one.slot: one.model for one in models.in_use(console.settings)}[slot]


def test_a_model_of_the_sites_own_is_put_into_use_and_back(console: ConsoleLab, tmp_path: Path) -> None:
    admin = console.browser(UserRole.ADMIN)
    place = "/models/chest-efficientnet-lite0/9.9"
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 409
    assert "workers.models_dir" in admin.text
    own = tmp_path / "models" / "chest-efficientnet-lite0" / "9.9"
    own.mkdir(parents=True)
    [card] = [path for path in SHIPPED.glob("*.toml") if path.stem == "chest-efficientnet-lite0"]
    text = card.read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert version
    (own / "card.toml").write_text(text.replace(version[0], 'version = "9.9"', 1), encoding="utf-8")
    for part in SHIPPED.parent.joinpath("weights").glob("chest-efficientnet-lite0*"):
        shutil.copy(part, own)
    console.change("workers", models_dir=tmp_path / "models")
    assert admin.get(place) == 200
    assert "Let chest_xray use it" in admin.text
    assert admin.post(f"{place}/activate", pipeline="nothing") == 404
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 303, admin.text
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9"
    admin.follow()
    assert "Roll back" in admin.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "note", _refuse)
        patch.setattr(trial, "try_out", lambda *_: None)
        for address in (f"{place}/activate", "/models/chest_xray/rollback"):
            assert admin.post(address, pipeline="chest_xray_shadow") == 500
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9"
    assert model_in(console, "chest_xray_shadow") == "", "changed without a record"
    assert admin.post("/models/chest_xray/rollback") == 303
    assert model_in(console, "chest_xray") == f"chest-efficientnet-lite0@{version[1]}"
    assert admin.post("/models/chest_xray/rollback") == 409
    assert len(console.audited("model_activated")) == len(console.audited("model_rollback")) == 1
    assert admin.post(f"{place}/activate", pipeline="chest_xray_shadow") == 303, admin.text
    admin.follow()
    assert "chest-efficientnet-lite0@9.9 runs in the shadow of chest_xray" in admin.text
    assert "No images were compared yet" in admin.text
    assert admin.post("/models/chest_xray_shadow/rollback") == 303
    assert model_in(console, "chest_xray_shadow") == ""
