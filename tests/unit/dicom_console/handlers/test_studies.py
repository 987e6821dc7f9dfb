"""The overview and the page of a study: what came, what became of it, and what a person does about it."""

import logging
import re

import pytest
from sqlalchemy import select

from dicom_console.views import listing
from dicom_node.base import events
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.events import ASSOCIATION_ABORTED, DELIVERY_CONFIRMED, DELIVERY_SENT
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind, StudyState, UserRole
from dicom_node.base.store import deliveries
from dicom_node.base.store.tables import Delivery, Job, Result, SiteProcess, Study
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.base.store.views import list_events
from dicom_node.people import outbox
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_job, an_association
from tests.unit.receive.objects import changed


def a_dead_delivery(console: ConsoleLab) -> None:
    """The first job's picture, given up."""
    job = console.rows(Job)[0]
    console.delivery(job, DeliveryState.DEAD, ResultKind.SC)
    console.put(Job, job.id, state=JobState.SUCCEEDED)
    console.put(Study, job.study_id, state=StudyState.FAILED)


def figures(page: str) -> dict[str, int]:
    """The numbers of the overview, by what they count."""
    found = re.findall(r"<strong>(\d+)</strong><span>([^<]+)", page)
    return {label: int(number) for number, label in found}


NO_PROCESS = {
    "listeners run: no image is received": 0,
    "workers run: no study is analysed": 0,
    "processes deliver: no result is sent": 0,
}


def test_a_node_on_which_nothing_runs_is_red_with_the_sentence_of_the_outbox(
    console: ConsoleLab, inbox: Inbox
) -> None:
    inbox.settle(ultrasound("one"))
    console.delivery(console.rows(Job)[0], DeliveryState.PENDING)
    text = console.at("/", UserRole.VIEWER).text
    bad = re.findall(r'class="figure bad".*?<span>([^<]+)', text, re.DOTALL)
    assert bad == [*NO_PROCESS, "deliveries are due"]
    assert text.index("no image is received") < text.index("studies being received")
    outbox_page = console.at("/outbox", UserRole.VIEWER).text
    for page in (text, outbox_page):
        assert deliveries.STALLED in page
    assert "due since" in outbox_page
    place = {"machine": "m", "place": "all", "pid": 1, "version": "1"}
    for name in ("main", "listener", "worker-1"):
        console.add(SiteProcess(**place, name=name, since=utc_now(), seen_at=utc_now(), lost=False))
    console.put(Delivery, next_at=utc_now())
    assert 'class="figure bad"' not in console.at("/", UserRole.VIEWER).text


def test_the_overview_counts_what_needs_a_person(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"))
    a_dead_delivery(console)
    browser = console.at("/", UserRole.VIEWER)
    assert figures(browser.text) == NO_PROCESS | {
        "studies being received": 0,
        "jobs running": 0,
        "jobs waiting": 0,
        "jobs held": 0,
        "deliveries on their way": 0,
        "deliveries given up": 1,
        "studies in quarantine": 0,
        "studies failed": 1,
    }
    for address in set(re.findall(r'class="figure[^>]*href="([^"]+)"', browser.text)):
        assert browser.get(address) == 200, address


def test_the_page_of_a_study_shows_what_came_and_became_of_it(console: ConsoleLab, inbox: Inbox) -> None:
    header = {"PatientName": "Müller^Änne", "PatientID": "<i>P", "SpecificCharacterSet": "ISO_IR 100"}
    inbox.settle(changed(ultrasound("one"), **header))
    a_dead_delivery(console)
    browser = console.browser(UserRole.VIEWER)
    for _ in range(2):
        text = browser.page("/studies/1")
    assert "<i>P" not in text + browser.page("/studies"), "markup in a header is text"
    for shown in (
        "Müller, Änne",
        "&lt;i&gt;P",
        "MODALITY",
        "object indexed",
        "/studies/images/1/1?longest=320",
    ):
        assert shown in text, shown
    assert 'class="state dead"' in text
    assert "Run the alerts again" not in text
    assert len(console.audited("study_seen")) == 1  # within minutes


FIRST, SECOND = "1.2.840.1.6185059.5457", "1.2.840.2.6185059.5457"


@pytest.fixture
def two_studies(console: ConsoleLab, inbox: Inbox) -> ConsoleLab:
    """Two studies of one association, whose UIDs have the same dozen figures at their ends."""
    for name, uid in (("one", FIRST), ("two", SECOND)):
        inbox.receive(changed(ultrasound(name), StudyInstanceUID=uid), association="a")
    inbox.settle()
    return console


def test_what_happened_to_a_study_has_nothing_of_another_one(two_studies: ConsoleLab) -> None:
    now = utc_now()  # the listener stopped, and the association's own end is told after that
    two_studies.add(an_association("a", now, closed_at=now))
    two_studies.write(record, events.OBJECT_CONFLICT, 2, association="a", instance="1.2")
    two_studies.write(record, events.ASSOCIATION_ABORTED, None, association="a")
    shown = two_studies.read(list_events, study_instance_uid=FIRST)
    assert events.ASSOCIATION_ABORTED.number in {row["number"] for row in shown}
    assert {row["study_instance_uid"] for row in shown} == {FIRST, None}


def test_only_a_job_of_the_newest_revision_can_be_run(two_studies: ConsoleLab) -> None:
    two_studies.put(Study, 1, revision=2)
    two_studies.put(Job, 1, state=JobState.CANCELLED, reason="replaced by revision 2 of the study")
    new = a_job(two_studies.get(Study, 1), JobState.FAILED, study_revision=2)
    two_studies.add(new)
    browser = two_studies.browser(UserRole.OPERATOR)
    for path in ("/jobs", "/studies/1"):
        browser.get(path)
        assert [f"/jobs/{number}/retry" in browser.text for number in (1, new.id)] == [False, True], path


def test_each_viewer_is_a_link_with_the_numbers_of_the_study(console: ConsoleLab, inbox: Inbox) -> None:
    image = changed(ultrasound("one"), AccessionNumber="A 1&x")
    inbox.settle(image)
    viewers = {
        "OHIF": "https://ohif.example.org/viewer?StudyInstanceUIDs={study}",
        "Weasis": "weasis://$dicom:rs --request accession={accession}",
    }
    console.change("console", open_in=viewers)
    shown = console.at("/studies/1", UserRole.VIEWER).text
    assert f'href="https://ohif.example.org/viewer?StudyInstanceUIDs={image.StudyInstanceUID}"' in shown
    assert "accession=A%201%26x" in shown
    assert "Open in Weasis" in shown
    assert 'rel="noopener noreferrer"' in shown


def test_the_timeline_goes_from_the_association_to_the_confirmation(node: Inbox) -> None:
    for place, delivery in enumerate(node.rows(Delivery)):
        for kind in (DELIVERY_SENT, DELIVERY_CONFIRMED):
            node.write(record, kind, 1, destination=delivery.destination, delivery=place)
    steps = node.read(listing.show, node.settings, 1)["timeline"]
    results = len(node.rows(Result))
    assert [(step["text"].partition(":")[0], step["times"]) for step in steps] == [
        ("association accepted", 1),
        ("association released", 1),
        ("study is being received", 1),
        ("object indexed", 2),
        ("study is complete", 1),
        ("job queued", 1),
        ("job started", 1),
        ("job succeeded", 1),
        ("result object built", results),
        ("burned-in annotation cleaned", 1),
        ("object sent", len(node.rows(Delivery))),
        ("object confirmed in the destination", len(node.rows(Delivery))),
    ]
    assert steps[0]["seconds"] is None
    assert all(step["seconds"] >= 0 for step in steps[1:])


def test_the_page_of_a_release_compares_the_registration_with_the_images(
    console: ConsoleLab, inbox: Inbox
) -> None:
    operator = console.browser(UserRole.OPERATOR)
    operator.post("/patients/register", PatientID="P-7", PatientName="Müller, Änne", PatientSex="F")
    inbox.settle(changed(ultrasound("one"), PatientID="P-7", PatientName="Meier^Anne", PatientSex="F"))
    page = operator.page("/studies/1/versions")
    assert "its images say another name than the patient who is registered under this ID" in page
    assert re.findall(r"<td>([^<]*)</td>", page) == ["Patient Name", "Müller^Änne", "Meier^Anne"]
    assert operator.post("/studies/1/release") == 303
    assert inbox.get(Study, 1).state is StudyState.RECEIVING


def test_a_study_that_broke_off_and_is_of_nobody_is_marked_in_the_list_and_on_its_page(
    console: ConsoleLab, inbox: Inbox
) -> None:
    inbox.opened("a1")
    good, faulty = (changed(ultrasound("one", number=n), PatientID="", PatientName="") for n in (1, 2))
    inbox.receive(good, changed(faulty, Rows=0), association="a1")
    inbox.tell(ASSOCIATION_ABORTED, "a1", objects=2, reason="connection lost")
    inbox.settle()
    viewer = console.browser(UserRole.VIEWER)
    for page in (viewer.page("/studies"), viewer.page("/studies/1")):
        assert "the association broke off: the study may be incomplete" in page
        assert "no Patient ID" in page
        assert "1 of 2" in page


def test_a_person_chooses_between_two_versions_of_an_image(console: ConsoleLab, inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(image)
    inbox.settle(changed(image, PixelData=bytes(255 - value for value in image.PixelData)), calling="QUICK")
    browser = console.at("/studies/1", UserRole.OPERATOR)
    assert 'href="/studies/1/versions"' in browser.text
    assert re.findall(r"<dd>(MODALITY|QUICK)</dd>", browser.page("/studies/1/versions")) == [
        "MODALITY",
        "QUICK",
    ]
    seen = browser.field("as_of")
    pictures = re.findall(r'src="(/studies/received/[^"]+)"', browser.text)
    shown = [(browser.get(address), browser.content)[1] for address in pictures]
    assert len(set(shown)) == len(shown) == 2
    assert browser.post("/studies/1/release") == 409
    assert "choose first" in browser.text
    assert browser.post("/studies/1/release", take1="2") == 409  # nobody says what was looked at
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 303
    assert inbox.study_of(image).state is StudyState.RECEIVING
    assert inbox.file_of(image).PixelData != image.PixelData
    assert console.audited("study_released") == [{"taken": [2]}]
    assert browser.post("/studies/1/release", take1="2", as_of=seen) == 409


@pytest.fixture
def study(console: ConsoleLab, inbox: Inbox) -> int:
    """A study with a picture and a report; their deliveries to the PACS were given up."""
    inbox.settle(ultrasound("one"))
    for kind in (ResultKind.SC, ResultKind.SR):
        console.delivery(inbox.jobs()[0], DeliveryState.DEAD, kind)
    console.put(Job, 1, state=JobState.SUCCEEDED)
    console.put(Study, 1, state=StudyState.FAILED)
    return 1


def test_what_is_discarded_says_why_on_the_page_and_nowhere_else(
    console: ConsoleLab, study: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = console.browser(UserRole.OPERATOR)
    words = "Nowak was sent by mail"
    assert browser.post("/outbox/1/discard", because=words, state="dead") == 303
    assert browser.headers["location"] == "/outbox?state=dead"
    assert (console.column(Delivery.state), console.get(Study, 1).state) == (
        [DeliveryState.DISCARDED, DeliveryState.DEAD],
        StudyState.FAILED,
    )
    assert browser.post("/outbox/2/discard", because="x") == 409
    assert "say why" in browser.text
    assert browser.post("/outbox/discard-dead", because=words, destination="pacs") == 303
    browser.follow()
    assert browser.text.count(words) == 2
    assert console.get(Study, 1).state is StudyState.CANCELLED
    assert console.audited("discarded") == [{"all_dead": 1, "destination": "pacs"}, {"deliveries": [1]}]
    assert "Nowak" not in caplog.text
    assert "Nowak" not in console.get(Study, 1).reason


@pytest.mark.parametrize("state", [DeliveryState.SENDING, DeliveryState.UNCONFIRMED, DeliveryState.CONFIRMED])
def test_what_may_have_arrived_cannot_be_discarded(
    console: ConsoleLab, study: int, state: DeliveryState
) -> None:
    console.put(Delivery, 1, state=state)
    with pytest.raises(NotAllowedNow, match="discard only waiting or given-up ones"):
        outbox.discard_deliveries(console.settings, [1], because="for no reason")
    assert console.get(Delivery, 1).state is state


def with_peers(console: ConsoleLab, *peers: dict[str, object]) -> None:
    """The console of a node that knows these peers, too."""
    more = [console.settings.peers[-1].model_copy(update=peer) for peer in peers]
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, *more)}))


def test_results_go_to_a_further_peer_as_far_as_it_takes_them(console: ConsoleLab, study: int) -> None:
    with_peers(console, {"name": "teaching", "results": (ResultKind.SC,)})
    browser = console.at("/studies/1", UserRole.OPERATOR)
    assert "<option>teaching</option>" in browser.text
    assert "<option>pacs</option>" not in browser.text
    assert browser.post("/studies/1/send", peer="teaching") == 303
    sent = select(Result.kind).join(Delivery).where(Delivery.destination == "teaching")
    assert console.scalars(sent.where(Delivery.state == DeliveryState.PENDING)) == [ResultKind.SC]
    assert console.get(Study, 1).state is StudyState.DELIVERING
    assert console.audited("sent_to_peer") == [{"peer": "teaching", "objects": 1}]
    assert browser.post("/studies/1/send", peer="teaching") == 409
    assert "already" in browser.text


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        ({"name": "other", "results": (ResultKind.GSPS,)}, "no results that other takes"),
        ({"name": "other", "deidentify": True, "results": (ResultKind.SC,)}, "no results that other takes"),
        ({"name": "other", "charset": "source"}, "no results that other takes"),
        ({"name": "other", "may": ("send",)}, "gets no results"),
    ],
)
def test_a_peer_gets_nothing_that_is_not_meant_for_it(
    console: ConsoleLab, study: int, peer: dict[str, object], why: str
) -> None:
    with_peers(console, peer)
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/studies/1/send", peer="other") == 409
    assert why in browser.text
    assert browser.post("/studies/1/send", peer="nobody") == 404
