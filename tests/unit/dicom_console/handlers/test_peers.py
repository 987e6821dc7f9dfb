"""Peers: listed and shown, with what they did last."""

import re

from dicom_console.views import metrics
from dicom_node.base import events
from dicom_node.base.lifecycle import RequestedState, UserRole
from dicom_node.base.store import requested
from dicom_node.base.store.tables import RequestedCommitment
from dicom_node.base.store.transitions import utc_now
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound


def test_peers_are_listed_with_what_they_did_last_and_no_secret(console: ConsoleLab, inbox: Inbox) -> None:
    secret = {"username": "someone", "password": "hidden-word", "url": "https://pacs.example/orthanc"}
    peers = [one.model_copy(update=secret if one.name == "pacs" else {}) for one in console.settings.peers]
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    inbox.opened("one")
    inbox.receive(ultrasound("one"), association="one")
    inbox.released("one")
    inbox.tell(
        events.ASSOCIATION_REJECTED, "two", calling="STRANGER", meaning="calling AE title not recognized"
    )
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    below = ("", "/modality", "/pacs", "/why?caller=STRANGER")
    listed, modality, pacs, stranger = (browser.page(f"/peers{path}") for path in below)
    assert re.search(r"modality</a>.*?released", listed, re.DOTALL)
    assert "pacs.example" not in listed, "results go by DIMSE: its host and port are the address"
    assert "/peers/why?caller=STRANGER" in listed
    assert "ae_title = &#34;STRANGER&#34;" in stranger
    assert "Test the connection" not in modality
    assert not any(word in listed + modality + pacs + stranger for word in ("hidden-word", "someone"))
    assert browser.get("/peers/nobody") == 404
    assert "did not call in this time" in browser.page("/peers/why?caller=NEVER")


def test_the_page_of_a_peer_lists_the_commitments_that_wait_for_a_report(
    console: ConsoleLab, inbox: Inbox
) -> None:
    asking = {"host": "127.0.0.1", "port": 104, "commit_after": "delivered"}
    known = console.settings.peers
    peers = [one.model_copy(update=asking if one.name == "modality" else {}) for one in known]
    browser = console.browser(UserRole.VIEWER)
    assert "Storage commitment" not in browser.page("/peers/modality")
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    assert "It has a report on all that it asked for." in browser.page("/peers/modality")
    for uid in ("2.25.1", "2.25.2"):
        inbox.write(requested.keep_request, "modality", "MODALITY", uid, ["1.2 1.3", "1.4 1.3"], utc_now())
    inbox.put(RequestedCommitment, reason="cannot connect")
    inbox.put(RequestedCommitment, 1, state=RequestedState.REPORTED)
    assert "…2.25.2" in browser.page("/peers/modality")
    assert "2.25.1" not in browser.text
    assert '<td data-label="objects">2</td>' in browser.text
    assert "cannot connect" in browser.text
    counted = {
        one.labels: one.value for one in inbox.read(metrics.gauges, console.settings) if "commit" in one.name
    }
    assert counted == {(("state", "waiting"),): 1, (("state", "decided"),): 0}
