"""Drift is read from the counts, and told once a day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ai_pipeline.models.reference import Verdict
from ai_pipeline.models.registry import load
from dicom_node.events import SCORES_DRIFTED
from dicom_node.model.kinds import Counted
from dicom_node.monitoring import counts
from dicom_node.monitoring.counts import CountedModel
from dicom_node.monitoring.drift import Drift, drift, report_drift, wilson, window
from tests.inbox_lab import Inbox
from tests.unit.monitoring.scoring_lab import scoring, write_card

EVEN = [30] * 10
SHIFTED = [0, 0, 0, 0, 10, 20, 40, 60, 80, 90]
NOW = datetime.now(UTC)  # events bear the time at which they are made


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    write_card(tmp_path / "models")
    node = Inbox(tmp_path / "var", scoring(tmp_path / "models"))
    yield node
    node.close()


def count(
    node: Inbox,
    shown: Sequence[int],
    hidden: Sequence[int] = EVEN,
    *,
    sender: str = "MODALITY",
    days: int = 0,
) -> None:
    """As if images of these bins had been analysed so many days ago."""
    assert node.settings.workers.models_dir is not None
    ref = load(node.settings.workers.models_dir / "scoring.toml").ref
    model, day = CountedModel(ref.id, ref.version, ref.card_sha256), NOW.date() - timedelta(days=days)
    binned = {"Shown": shown, "Hidden": hidden}
    with node.database.write() as session:
        counts.add_images(
            session,
            model,
            day,
            {(sender, Counted.ANALYSED): sum(shown), (sender, Counted.REFUSED_PIXELS): 10},
        )
        scores = {(sender, label, n): images for label, row in binned.items() for n, images in enumerate(row)}
        counts.add_scores(session, model, day, scores)


def found(node: Inbox) -> list[Drift]:
    with node.database.read() as session:
        return drift(session, node.settings.workers.models_dir, window(node.settings, NOW))


def told(node: Inbox) -> list[dict[str, object]]:
    return [dict(row.fields) for row in node.events() if row.number == SCORES_DRIFTED.number]


def test_days_are_added_up_and_senders_kept_apart(node: Inbox) -> None:
    count(node, EVEN)
    count(node, EVEN, days=1)
    count(node, SHIFTED, sender="")
    count(node, SHIFTED, days=31)
    other, modality = found(node)
    assert (other.calling_ae, other.verdict) == ("", Verdict.DRIFTED)
    assert (modality.calling_ae, modality.verdict) == ("MODALITY", Verdict.STABLE)
    assert modality.images == {Counted.ANALYSED: 600, Counted.REFUSED_PIXELS: 20}
    assert [(label.label, label.images) for label in modality.labels] == [("Shown", 600), ("Hidden", 600)]
    assert modality.refusal_rate == pytest.approx((20 / 620, 0.0210, 0.0493), abs=1e-4)


def test_a_card_that_is_not_installed_any_more_is_still_shown(node: Inbox) -> None:
    count(node, SHIFTED)
    assert node.settings.workers.models_dir is not None
    write_card(node.settings.workers.models_dir, version="2")
    [old] = found(node)
    assert (old.reference, old.note) == (None, "this card is not installed any more")
    assert old.verdict is Verdict.DRIFTED
    assert report_drift(node.database, node.settings, NOW) == 0


def test_drift_is_told_once_a_day_for_each_sender(node: Inbox) -> None:
    count(node, SHIFTED)
    count(node, SHIFTED, sender="")
    count(node, EVEN, sender="PACS")
    assert report_drift(node.database, node.settings, NOW) == 2
    assert report_drift(node.database, node.settings, NOW) == 0
    first, second = told(node)
    assert {first["calling"], second["calling"]} == {"MODALITY", ""}
    assert (first["labels"], first["images"], first["model"]) == ("Shown", 300, "scoring")
    assert report_drift(node.database, node.settings, NOW + timedelta(days=1)) == 2


def test_few_images_or_a_machine_that_stands_still_are_not_told_of(node: Inbox) -> None:
    count(node, [0] * 9 + [199])
    count(node, SHIFTED, sender="PACS", days=2)
    assert {item.verdict for item in found(node)} == {Verdict.DRIFTED}
    assert report_drift(node.database, node.settings, NOW) == 0


@pytest.mark.parametrize(
    ("part", "whole", "interval"),
    [(0, 10, (0.0, 0.2775)), (10, 100, (0.0552, 0.1744)), (5, 10, (0.2366, 0.7634)), (10, 10, (0.7225, 1.0))],
)
def test_a_share_has_its_wilson_interval(part: int, whole: int, interval: tuple[float, float]) -> None:
    share = wilson(part, whole)
    assert share is not None
    assert share == pytest.approx((part / whole, *interval), abs=1e-4)
    assert wilson(0, 0) is None
