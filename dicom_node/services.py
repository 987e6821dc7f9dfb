"""What a person may do to a node: the functions that the command line and the console share.

Each takes the settings, opens the database for one short unit of work and raises a ``NodeError`` that
says what to do. What is heavy to import (networking, models) is imported by the function that needs it: a
list must be quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from dicom_node.errors import DatabaseNotReady, ModelRefused
from dicom_node.settings import Settings
from dicom_node.store import migrate
from dicom_node.store.database import Database
from dicom_node.store.views import find_study

if TYPE_CHECKING:
    from ai_pipeline.registry import Card


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The node's database, which must exist and have this version's schema."""
    _refuse_missing_file(settings)
    database = Database(settings.database_url)
    try:
        migrate.check(database)
        yield database
    finally:
        database.dispose()


@contextmanager
def reading(settings: Settings) -> Iterator[Session]:
    """A short reading scope on the node's database."""
    with open_database(settings) as database, database.read() as session:
        yield session


@contextmanager
def writing(settings: Settings) -> Iterator[Session]:
    """A short writing scope on the node's database."""
    with open_database(settings) as database, database.write() as session:
        yield session


def upgrade_database(settings: Settings) -> str:
    """Bring the schema to this program's version, and return that version."""
    database = Database(settings.database_url)
    try:
        migrate.upgrade(database)
        return migrate.current(database) or ""
    finally:
        database.dispose()


def release_study(settings: Settings, study_instance_uid: str) -> None:
    """Let a study out of quarantine: the versions received first count, its rules are applied to them.

    Raises NotFound, or NotAllowedNow when it is not in quarantine.
    """
    from dicom_node import jobs

    with writing(settings) as session:
        jobs.release_study(session, find_study(session, study_instance_uid).id)


def retry_job(settings: Settings, job_id: int) -> None:
    """Queue a job that failed, was held, cancelled or did not apply. Raises NotFound, NotAllowedNow."""
    from dicom_node import jobs

    with writing(settings) as session:
        jobs.retry(session, job_id)


def cancel_job(settings: Settings, job_id: int) -> None:
    """Cancel a job; a running one stops at its next step. Raises NotFound, NotAllowedNow."""
    from dicom_node import jobs

    with writing(settings) as session:
        jobs.cancel(session, job_id)


def retry_deliveries(
    settings: Settings, deliveries: Sequence[int] | None = None, *, destination: str = ""
) -> int:
    """Send again what was given up: these, or all dead ones (to one destination). Returns how many.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node import outbox

    with writing(settings) as session:
        if deliveries is None:
            return outbox.retry_all(session, destination or None)
        for delivery_id in deliveries:
            outbox.retry(session, delivery_id)
    return len(deliveries)


def test_peers(settings: Settings, names: Sequence[str]) -> list[dict[str, Any]]:
    """Try what delivery to these peers needs; by default to all that may receive. Raises UnknownPeer."""
    from dicom_node.scu import open_destination

    chosen = [settings.peer(name) for name in names] or [p for p in settings.peers if "receive" in p.may]
    return [
        {"peer": peer.name, "check": check.name, "ok": check.ok, "text": check.text}
        for peer in chosen
        for check in open_destination(peer, settings).test()
    ]


def models(settings: Settings) -> list[dict[str, Any]]:
    """The model cards. Raises ModelRefused when one cannot be read."""
    return [
        {
            "id": card.id,
            "version": card.version,
            "task": card.task,
            "architecture": card.architecture,
            "licence": card.licence,
            "intended_use": card.intended_use,
            "limits": list(card.limits),
            "calibrated": card.calibrated,
            "labels": [label.name for label in card.labels if label.supported],
            "weights": [{"role": w.role, "file": w.path.name, "sha256": w.sha256} for w in card.weights],
            "card_sha256": card.sha256,
        }
        for card in _cards(settings)
    ]


def verify_models(settings: Settings) -> list[dict[str, Any]]:
    """Whether the weights of each model have the SHA-256 of its card. Raises ModelRefused."""
    from ai_pipeline import registry

    rows = []
    for card in _cards(settings):
        try:
            registry.verify(card)
            text, ok = "weights are those of the card", True
        except registry.CardError as error:
            text, ok = str(error), False
        rows.append({"id": card.id, "version": card.version, "ok": ok, "text": text})
    return rows


def _cards(settings: Settings) -> Sequence[Card]:
    from ai_pipeline import registry

    try:
        return registry.cards(settings.workers.models_dir)
    except registry.CardError as error:
        raise ModelRefused(str(error)) from None


def _refuse_missing_file(settings: Settings) -> None:
    """SQLite would make an empty file where there is none; a list must not."""
    prefix = "sqlite:///"
    if (
        settings.database_url.startswith(prefix)
        and not Path(settings.database_url.removeprefix(prefix)).exists()
    ):
        raise DatabaseNotReady(
            f"there is no database in {settings.node.data_dir} yet: start `dicom-node serve`, "
            "or run `dicom-node db upgrade`"
        )
