"""What a person may do to a node: the functions that the command line and the console share.

Each takes the settings, opens the database for one short unit of work and raises a ``NodeError`` that
says what to do. What is heavy to import (networking, models) is imported by the function that needs it: a
list must be quick.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import DatabaseNotReady, ModelRefused, TooManyAtOnce
from dicom_node.model.kinds import AuditAction, Counted
from dicom_node.model.roles import Role
from dicom_node.object_store.files import Files
from dicom_node.services import audit
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.store import migrate
from dicom_node.store.absence import faults
from dicom_node.store.database import Database, sqlite_file
from dicom_node.store.queue import running as running_jobs
from dicom_node.store.views import find_study

if TYPE_CHECKING:
    from ai_pipeline.models.registry import Card
    from dicom_node.inbox.spool import Spool
    from dicom_node.monitoring.drift import Drift

OTHER = "other"
"""What stands for all senders that are no configured peers."""

_tests = threading.Semaphore(2)


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The node's database, which must exist and have this version's schema."""
    _refuse_missing_file(settings)
    with faults.in_words(settings.database_url):
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
    with faults.in_words(settings.database_url):
        database = Database(settings.database_url)
        try:
            migrate.upgrade(database)
            return migrate.current(database) or ""
        finally:
            database.dispose()


def is_worked_on(settings: Settings) -> bool:
    """Whether a node of this machine runs jobs here, or one of another machine is at a job."""
    from dicom_node.processes import running

    if any(Role.at(place).runs_models for place in running(settings.node.data_dir)):
        return True
    with reading(settings) as session:
        return any(job.lease_until and job.lease_until > datetime.now(UTC) for job in running_jobs(session))


def study_versions(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """What is to be chosen before a study can be released; it names patients. Raises NotFound."""
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        return Choice(database, settings).rows(_number_of(database, study_instance_uid))


def release_study(
    settings: Settings,
    study_instance_uid: str,
    take: Sequence[int] = (),
    by: Person = COMMAND_LINE,
    *,
    as_of: str | None = None,
) -> None:
    """Let a study out of quarantine with the options taken, one for each question of ``study_versions``.

    ``as_of``: what these rows said. Raises NotFound, or NotAllowedNow when it is not in quarantine, a choice
    is missing, or something came for the study since.
    """
    from dicom_node.studies.choose import Choice

    with open_database(settings) as database:
        study = _number_of(database, study_instance_uid)

        def note(session: Session) -> None:
            audit.note(session, by, AuditAction.STUDY_RELEASED, study_id=study, taken=sorted(take))

        Choice(database, settings).release(study, take, as_of=as_of, also=note)


def rerun_studies(
    settings: Settings, study_instance_uids: Sequence[str], by: Person = COMMAND_LINE
) -> list[dict[str, Any]]:
    """Apply the rules to these studies again, all or none; a row for each study and rule that takes it.

    Raises NotFound, NotAllowedNow.
    """
    from dicom_node.studies import rerun

    with writing(settings) as session:
        studies = [find_study(session, uid).id for uid in study_instance_uids]
        for study in studies:
            audit.note(session, by, AuditAction.STUDY_RERUN, study_id=study)
        return [row for study in studies for row in rerun.rerun(session, study, settings)]


def replay_rules(settings: Settings, since: datetime, *, dry_run: bool) -> list[dict[str, Any]]:
    """Which studies of that time other rules take now; unless it is a dry run, the rules are applied to them.

    A row for each such study and rule that takes it.
    """
    from dicom_node.studies import rerun

    def note(session: Session, study: int) -> None:
        audit.note(session, COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study, replay=True)

    with open_database(settings) as database:
        if dry_run:
            return rerun.foresee(database, settings, since)
        return rerun.replay(database, settings, since, note)


def compare_spool(settings: Settings) -> str:
    """In what spool and index differ, and what to do; "" when they agree."""
    from dicom_node.studies.comparison import compare

    with open_database(settings) as database:
        return str(compare(database, _spool(settings), Files(settings)))


def reindex_spool(settings: Settings, progress: Callable[[int, int], None]) -> int:
    """Let the node take in again what its database does not know; returns how many objects.

    ``progress`` gets how many of how many were put back. Raises SpoolError.
    """
    from dicom_node.studies.comparison import reindex

    with open_database(settings) as database:
        done = reindex(database, _spool(settings), Files(settings), progress)
        if done:
            with database.write() as session:
                audit.note(session, COMMAND_LINE, AuditAction.SPOOL_REINDEXED, objects=done)
    return done


def _number_of(database: Database, study_instance_uid: str) -> int:
    with database.read() as session:
        return find_study(session, study_instance_uid).id


def _spool(settings: Settings) -> Spool:
    from dicom_node.inbox.spool import Spool

    return Spool(settings.node.data_dir / "spool", minimum_free_bytes=0)


def show_readings(settings: Settings, study_instance_uid: str) -> list[dict[str, Any]]:
    """The readings of a study's burned-in annotation, for holders of the site key: in the audit, event 4010.

    Raises NotFound, ConfigurationError (the key cannot be read), ReadingsSealed (it is another one).
    """
    from dicom_node.jobs.worker import readings

    def note(session: Session, study: int) -> None:
        audit.note(session, COMMAND_LINE, AuditAction.STUDY_SEEN, study_id=study, readings=True)

    with open_database(settings) as database:
        return readings.show(database, settings, study_instance_uid, note)


@contextmanager
def place_for_test() -> Iterator[None]:
    """One of the few places for tests of peers: one that hangs holds its own as long as it may.

    Raises TooManyAtOnce.
    """
    if not _tests.acquire(blocking=False):
        raise TooManyAtOnce("Other tests are under way: try again when they are done.")
    try:
        yield
    finally:
        _tests.release()


def test_peers(settings: Settings, names: Sequence[str], by: Person | None = None) -> list[dict[str, Any]]:
    """Try what delivery to these peers needs; by default to all that may receive.

    ``by``: whom the audit names; the command line needs no database. Raises UnknownPeer, TooManyAtOnce.
    """
    from dicom_node.scu import open_destination

    chosen = [settings.peer(name) for name in names] or [p for p in settings.peers if "receive" in p.may]
    with place_for_test():
        rows = [
            {"peer": peer.name, "check": check.name, "ok": check.ok, "text": check.text}
            for peer in chosen
            for check in open_destination(peer, settings).test()
        ]
    if by is not None:
        with writing(settings) as session:
            failed = sorted({str(row["check"]) for row in rows if not row["ok"]})
            tested = [peer.name for peer in chosen]
            audit.note(session, by, AuditAction.PEER_TESTED, peers=tested, failed=failed)
    return rows


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
    from ai_pipeline.errors import CardError
    from ai_pipeline.models import registry
    from ai_pipeline.models.reference import reference_of

    rows = []
    for card in _cards(settings):
        try:
            registry.verify(card)
            reference_of(card)
            text, ok = "weights are those of the card", True
        except CardError as error:
            text, ok = str(error), False
        rows.append({"id": card.id, "version": card.version, "ok": ok, "text": text})
    return rows


def model_drift(settings: Settings, since: datetime | None = None, peer: str = "") -> list[dict[str, Any]]:
    """How each model's scores and refusals of each sender compare with its card's reference.

    From the day (UTC) of ``since`` on, by default the last ``drift.window_days``. ``peer``: a name or an AE
    title, or "other" for all that are no configured peers. Raises UnknownPeer, ModelRefused.
    """
    from ai_pipeline.errors import CardError
    from dicom_node.monitoring import drift
    from dicom_node.store.transitions import utc_now

    day = drift.window(settings, utc_now()) if since is None else since.astimezone(UTC).date()
    with reading(settings) as session:
        try:
            found = drift.drift(session, settings.workers.models_dir, day)
        except CardError as error:
            raise ModelRefused(str(error)) from None
    rows = [_drift_row(item, day) for item in found]
    if not peer:
        return rows
    title = next((known.ae_title for known in settings.peers if known.name == peer), peer)
    chosen = [row for row in rows if row["calling_ae"] == title]
    if not chosen and title not in {OTHER, *(known.ae_title for known in settings.peers)}:
        settings.peer(peer)
    return chosen


def model_comparison(settings: Settings, since: datetime | None = None) -> list[dict[str, Any]]:
    """How the active chest model and the one in its shadow call each label, from the day (UTC) of ``since``
    on, by
    default the last ``drift.window_days``."""
    from dataclasses import asdict

    from dicom_node.monitoring import drift
    from dicom_node.monitoring.comparisons import compared
    from dicom_node.store.transitions import utc_now

    day = drift.window(settings, utc_now()) if since is None else since.astimezone(UTC).date()
    with reading(settings) as session:
        found = compared(session, day)
    return [
        asdict(item)
        | {
            "since": day.isoformat(),
            "agreement": [round(share, 6) for share in item.agreement],
            "difference": round(item.difference, 6),
        }
        for item in found
    ]


def _drift_row(item: Drift, since: date) -> dict[str, Any]:
    reference = item.reference
    return {
        "model": item.model.id,
        "version": item.model.version,
        "card_sha256": item.model.card_sha256,
        "calling_ae": item.calling_ae or OTHER,
        "since": since.isoformat(),
        "verdict": item.verdict.value,
        "note": item.note,
        **{outcome.value: item.images.get(outcome, 0) for outcome in Counted},
        "refusal_rate": item.refusal_rate and [round(value, 6) for value in item.refusal_rate],
        "reference": reference
        and {"set": reference.set, "images": reference.images, "refused": reference.refused},
        "scores": [
            {
                "label": label.label,
                "images": label.images,
                "psi": None if label.index is None else round(label.index, 3),
                "by_chance": None if label.by_chance is None else round(label.by_chance, 3),
                "verdict": label.verdict.value,
                # Of few images they would come near to telling single scores.
                "bins": None if label.index is None else list(label.counts),
            }
            for label in item.labels
        ],
    }


def _cards(settings: Settings) -> Sequence[Card]:
    from ai_pipeline.errors import CardError
    from ai_pipeline.models import registry

    try:
        return registry.cards(settings.workers.models_dir)
    except CardError as error:
        raise ModelRefused(str(error)) from None


def _refuse_missing_file(settings: Settings) -> None:
    """SQLite would make an empty file where there is none; a list must not."""
    file = sqlite_file(settings.database_url)
    if file is not None and not file.exists():
        raise DatabaseNotReady(
            f"there is no database in {settings.node.data_dir.resolve()} yet: start `dicom-node serve`, "
            "or run `dicom-node db upgrade`"
        )
