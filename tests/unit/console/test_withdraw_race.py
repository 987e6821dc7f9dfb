"""Withdrawing and accepting while another process works, on the database that lets both write."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.model.kinds import ReaderVerdict, RejectionReason
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.scu import Confirmation, Outgoing, SendReport
from dicom_node.services import assessments, results
from dicom_node.services.assessments import FindingAssessed
from dicom_node.services.audit import Person
from dicom_node.store.tables import Delivery, Study
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import work


class NoDestination:
    """Nothing may be sent to it."""

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        raise AssertionError(f"{len(objects)} withdrawn results were sent")

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        raise AssertionError(f"{len(objects)} withdrawn results were asked for")

    def close(self) -> None:
        pass


@pytest.mark.debian("postgresql")
def test_a_sender_that_comes_in_between_gets_nothing(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Inbox(tmp_path / "var", illustrated(), postgres_url)
    node.opened("one")
    node.receive(ultrasound("one"), association="one")
    node.released("one")
    node.settle()
    work(node)  # type: ignore[arg-type]
    worker = DeliveryWorker(
        node.database,
        node.settings,
        open_destination=lambda _peer, _settings: NoDestination(),  # type: ignore[arg-type, return-value]
    )
    original = results._chosen

    def chosen(*arguments: Any) -> Any:
        found = original(*arguments)
        worker.run_once()
        return found

    monkeypatch.setattr(results, "_chosen", chosen)
    with node.database.read() as session:
        uid = session.get_one(Study, 1).study_instance_uid or ""
        assert set(session.scalars(select(Delivery.state))) == {DeliveryState.PENDING}
    results.withdraw(node.settings, uid, None, reason=RejectionReason.SAFETY, because="of another")
    with node.database.read() as session:
        assert set(session.scalars(select(Delivery.state))) == {DeliveryState.DISCARDED}
    node.close()


@pytest.mark.debian("postgresql")
def test_a_finding_is_not_rejected_while_its_results_are_accepted(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = illustrated()
    settings["rules"][0]["assess_first"] = True
    node = Inbox(tmp_path / "var", settings, postgres_url)
    node.receive(ultrasound("one"))
    node.settle()
    work(node)  # type: ignore[arg-type]
    with node.database.read() as session:
        uid = session.get_one(Study, 1).study_instance_uid or ""
        about = assessments.findings_of_study(session, node.settings, uid)[0]
    which = {key: about[key] for key in ("finding", "tracking_uid", "model")}
    given = FindingAssessed(**which, verdict=ReaderVerdict.REJECTED, because="a rib")
    other = threading.Thread(target=assessments.assess, args=(node.settings, 1, given, Person("eva")))
    original, waited = assessments._contested, []

    def contested(*arguments: Any) -> Any:
        found = original(*arguments)
        other.start()
        other.join(0.5)
        waited.append(other.is_alive())
        return found

    monkeypatch.setattr(assessments, "_contested", contested)
    assessments.accept_results(node.settings, uid, Person("anna"))
    other.join(20)
    assert waited == [True] and not other.is_alive()
    node.close()
